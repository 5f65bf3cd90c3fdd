"""What a metric returns."""

from __future__ import annotations


class Figures(dict[str, float | None]):
    """Figures by name. One that is not defined for the data is None, and ``reasons`` says why.

    A plain dict otherwise; no figure is ever NaN, so that it can be written as JSON.
    """

    def __init__(
        self, values: dict[str, float | None], reasons: dict[str, str] | None = None
    ) -> None:
        super().__init__(values)
        self.reasons: dict[str, str] = reasons or {}

    @classmethod
    def undefined(cls, names: tuple[str, ...], reason: str) -> Figures:
        """All of ``names`` as None, for one reason."""
        return cls(dict.fromkeys(names), dict.fromkeys(names, reason))
