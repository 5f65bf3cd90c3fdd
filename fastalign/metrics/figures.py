"""What a metric returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Rates = npt.NDArray[np.float64]
Points: TypeAlias = tuple[Rates, Rates]


class Figures(dict[str, float | None]):
    """Figures by name. One that is not defined for the data is None, and ``reasons`` says why.

    A plain dict otherwise; no figure is ever NaN, so that it can be written as JSON. ``curves``
    holds points to draw, x and y ``[N]`` float64 each, by the name of the curve.
    """

    def __init__(
        self,
        values: dict[str, float | None],
        reasons: dict[str, str] | None = None,
        curves: Mapping[str, Points] | None = None,
    ) -> None:
        super().__init__(values)
        self.reasons: dict[str, str] = reasons or {}
        self.curves: dict[str, Points] = dict(curves or {})

    @classmethod
    def undefined(cls, names: tuple[str, ...], reason: str) -> Figures:
        """All of ``names`` as None, for one reason."""
        return cls(dict.fromkeys(names), dict.fromkeys(names, reason))
