"""The course of a fit as anomalib's own long steps show theirs: a bar on standard error."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)


class MetricsLogger(Protocol):
    """What Lightning's loggers have."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take in figures by name."""


class BarProgress:
    """One bar for each stage; figures of training go to Lightning's loggers and to ``logging``.

    Implements :class:`fastalign.models.progress.Progress`.
    """

    def __init__(self, visible: bool, loggers: list[MetricsLogger]) -> None:
        self._visible = visible
        self._loggers = loggers
        self._bar: Any = None

    def start(self, stage: str, total: int) -> None:
        """A stage begins."""
        self.close()
        self._bar = tqdm(desc=f"Fyd: {stage}", total=total, disable=not self._visible)

    def advance(self, n: int = 1) -> None:
        """Steps are done."""
        if self._bar is not None:
            self._bar.update(n)

    def log(self, values: dict[str, Any]) -> None:
        """Figures of an epoch, ``epoch`` among them."""
        logger.info(", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        figures = {name: value for name, value in values.items() if name != "epoch"}
        for target in self._loggers:
            target.log_metrics(figures, int(values["epoch"]))

    def note(self, text: str) -> None:
        """A line worth knowing."""
        logger.info(text)

    def close(self) -> None:
        """The last stage has ended."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
