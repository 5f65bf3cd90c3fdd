"""How long work tells what it is doing."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """Receives the course of a run; every method returns at once and raises nothing."""

    def start(self, stage: str, total: int) -> None:
        """A stage of ``total`` steps begins; the stage before it has ended."""

    def advance(self, n: int = 1) -> None:
        """``n`` more steps of the current stage are done."""

    def log(self, values: dict[str, Any]) -> None:
        """Figures of interest, such as losses, by name."""

    def note(self, text: str) -> None:
        """One line worth knowing."""


def tell_detail(progress: Progress, text: str) -> None:
    """One line for those who ask for details, such as how memory is planned: for the method
    ``detail(text)`` of a progress that has it."""
    take = getattr(progress, "detail", None)
    if take is not None:
        take(text)


class NoProgress:
    """Says nothing."""

    def start(self, stage: str, total: int) -> None:
        """Ignored."""

    def advance(self, n: int = 1) -> None:
        """Ignored."""

    def log(self, values: dict[str, Any]) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""
