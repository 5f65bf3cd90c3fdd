"""Words around numbers."""

from __future__ import annotations

_IRREGULAR = {"anomaly": "anomalies"}


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {_IRREGULAR.get(noun, f'{noun}s')}"
