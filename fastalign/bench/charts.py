"""Bar and line charts of a run as inline SVG, in the style of the report page's charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_ROW = 22
# Of the wide chart of ratios and of the narrow ones that stand side by side: whole, label, value.
_WIDE, _NARROW = (1140, 450, 130), (460, 170, 80)


def ratio_bars(bars: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars of ratios on a logarithmic axis around 1; right of it we are faster.

    ``bars``: label, ratio, and the text behind the bar.
    """
    if not bars:
        return ""
    most = max(1.0, *(abs(math.log(ratio)) for _, ratio, _ in bars))
    whole, left, value = _WIDE
    right = whole - value
    lowest = min(0.0, *(math.log(ratio) for _, ratio, _ in bars))
    span = max(most if any(r > 1 for _, r, _ in bars) else 0.0, 0.1) - lowest
    zero = left + (right - left) * (-lowest) / span
    height = _ROW * len(bars) + 8
    parts = []
    for number, (label, ratio, text) in enumerate(bars):
        y = 4 + number * _ROW
        end = zero + (right - left) * math.log(ratio) / span
        start, width = min(zero, end), max(abs(end - zero), 1.0)
        name = "good" if ratio >= 1 else "anomaly"
        parts.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="bar {name}" x="{start:.1f}" y="{y + 3}" width="{width:.1f}" '
            f'height="{_ROW - 7}"/>'
            f'<text class="mark" x="{max(end, zero) + 6:.1f}" y="{y + 15}">{escape(text)}</text>'
        )
    parts.append(f'<line class="axis" x1="{zero:.1f}" y1="0" x2="{zero:.1f}" y2="{height}"/>')
    return _svg("".join(parts), whole, height, "Time of each contestant over ours")


def value_bars(bars: Sequence[tuple[str, float, str]], label: str) -> str:
    """Horizontal bars from 0; names that begin with fastalign are drawn in our colour."""
    if not bars:
        return ""
    most = max(value for _, value, _ in bars) or 1.0
    whole, left, room = _NARROW
    width = whole - left - room
    parts = []
    for number, (name, value, text) in enumerate(bars):
        y, end = 4 + number * _ROW, max(width * value / most, 1.0)
        kind = "good" if name.startswith("fastalign") else "other"
        parts.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar {kind}" x="{left}" y="{y + 3}" width="{end:.1f}" '
            f'height="{_ROW - 7}"/>'
            f'<text class="mark" x="{left + end + 6:.1f}" y="{y + 15}">{escape(text)}</text>'
        )
    return _svg("".join(parts), whole, _ROW * len(bars) + 8, label)


def _svg(body: str, width: int, height: int, label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )
