"""Charts as inline SVG: text and lines take their colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from fastalign.words import count

_WIDTH, _HEIGHT = 440, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 42
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A line through ``(x, y)`` points with a CSS class and an optional filled area below it."""

    x: _Floats
    y: _Floats
    name: str = "line"
    filled: bool = True


def histogram(good: Sequence[float], anomalous: Sequence[float], threshold: float | None) -> str:
    """Image scores of both classes, each as shares of its class, and the threshold as a line.

    Scores are shown as multiples of a threshold that is positive, else as they are. A second line,
    not to be seen at first, is for a threshold that is tried: it carries the scores at the ends of
    the axis, and where these are.
    """
    x_label, mark = "image score", "" if threshold is None else f"threshold {threshold:.4g}"
    unit = 1.0
    if threshold is not None and threshold > 0:
        unit = threshold
        good, anomalous = ([score / threshold for score in some] for some in (good, anomalous))
        x_label, mark, threshold = "image score ÷ threshold", "threshold", 1.0
    scores = np.asarray([*good, *anomalous], dtype=np.float64)
    scores = scores[np.isfinite(scores)]
    if scores.size == 0:
        return ""
    low, high = float(scores.min()), float(scores.max())
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    pad = 0.02 * (high - low) or max(abs(high), 1.0) * 0.05
    low, high = low - pad, high + pad
    bins = int(np.clip(math.sqrt(scores.size) * 2, 24, 48))
    edges = np.linspace(low, high, bins + 1)
    # Shares of each class: a handful of good images stays visible beside many anomalous ones.
    shares = [np.histogram(values, edges)[0] / max(1, len(values)) for values in (good, anomalous)]
    top = max(float(share.max()) for share in shares) * 1.08
    x, y = _axis(low, high, _LEFT, _WIDTH - _RIGHT), _axis(0, top, _HEIGHT - _BOTTOM, _TOP)
    ticks = _ticks(low, high), _ticks(0, top)
    body = [_frame(x, y, *ticks, x_label, "share of the class")]
    for name, share in zip(("good", "anomaly"), shares, strict=True):
        if share.sum() == 0:
            continue
        points = [f"M{x(edges[0]):.1f} {y(0):.1f}"]
        for i, value in enumerate(share.tolist()):
            points.append(f"V{y(value):.1f}H{x(edges[i + 1]):.1f}")
        path = "".join(points) + f"V{y(0):.1f}Z"
        body.append(f'<path class="area {name}" d="{path}"/>')
    if threshold is not None:
        at = x(threshold)
        left_half = at < (_LEFT + _WIDTH - _RIGHT) / 2
        anchor, shift = ("start", 5) if left_half else ("end", -5)
        body.append(
            _line("threshold", at, _TOP, at, _HEIGHT - _BOTTOM)
            + _text("mark", at + shift, _TOP + 11, anchor, mark)
        )
    # The script moves it to the threshold that is tried.
    ends = f'data-low="{low * unit!r}" data-high="{high * unit!r}"'
    places = f'data-left="{_LEFT}" data-right="{_WIDTH - _RIGHT}"'
    tried = _line("tried", _LEFT, _TOP, _LEFT, _HEIGHT - _BOTTOM)
    body.append(f'<g class="trial" {ends} {places} visibility="hidden">{tried}</g>')
    label = f"Histogram of {count(scores.size, 'image score')}"
    return _svg("".join(body), label)


def rate_curve(
    curves: Sequence[Curve], x_label: str, y_label: str, *, x_limit: float = 1.0, note: str = ""
) -> str:
    """Curves over a rate on ``0..x_limit``, both axes fractions (ROC, PRO)."""
    x = _axis(0, x_limit, _LEFT, _WIDTH - _RIGHT)
    y = _axis(0, 1, _HEIGHT - _BOTTOM, _TOP)
    body = [_frame(x, y, _ticks(0, x_limit), _ticks(0, 1), x_label, y_label)]
    if x_limit == 1.0:
        body.append(_line("chance", x(0), y(0), x(1), y(1)))
    for curve in curves:
        xs, ys = thin(curve.x, curve.y, x_limit)
        points = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in zip(xs, ys, strict=True))
        if curve.filled:
            area = f"M{x(xs[0]):.1f} {y(0):.1f}L{points}L{x(xs[-1]):.1f} {y(0):.1f}Z"
            body.append(f'<path class="under {curve.name}" d="{area}"/>')
        body.append(f'<path class="curve {curve.name}" d="M{points}"/>')
    if note:
        body.append(_text("note", _WIDTH - _RIGHT - 10, _HEIGHT - _BOTTOM - 12, "end", note))
    return _svg("".join(body), f"{y_label} over {x_label}")


def before_after(before: Sequence[float], after: Sequence[float], kinds: Sequence[str]) -> str:
    """Alignment residuals of every image, before (x) against after (y); below the diagonal is
    better. ``kinds``: see :func:`scatter`."""
    return scatter(
        list(zip(before, after, kinds, strict=True)),
        "residual before alignment",
        "residual after",
        f"Alignment residual of {count(len(before), 'image')}, before and after",
    )


def scatter(
    points: Sequence[tuple[float, float, str]],
    x_label: str,
    y_label: str,
    label: str = "",
    *,
    line: float | None = None,
) -> str:
    """Two values of every image against each other, with the diagonal; nothing where none is
    finite.

    Args:
        points: x, y, and the kind of the image: ``"good"`` is a disc, ``"anomaly"`` a triangle, and
            any other a square, that nothing is said of.
        x_label, y_label: of the axes.
        label: of the whole; empty: both axes'.
        line: drawn at this value of either axis.
    """
    pairs = [one for one in points if math.isfinite(one[0]) and math.isfinite(one[1])]
    if not pairs:
        return ""
    values = [value for a, b, _ in pairs for value in (a, b)]
    values += [] if line is None else [line]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
    low, high = low - pad, high + pad
    x, y = _axis(low, high, _LEFT, _WIDTH - _RIGHT), _axis(low, high, _HEIGHT - _BOTTOM, _TOP)
    ticks = _ticks(low, high)
    body = [
        _frame(x, y, ticks, ticks, x_label, y_label),
        _line("chance", x(low), y(low), x(high), y(high)),
    ]
    if line is not None:
        body.append(_line("threshold", x(line), y(low), x(line), y(high)))
        body.append(_line("threshold", x(low), y(line), x(high), y(line)))
    for a, b, kind in pairs:
        px, py = x(a), y(b)
        if kind == "good":
            body.append(f'<circle class="dot good" cx="{px:.1f}" cy="{py:.1f}" r="3.4"/>')
        elif kind == "anomaly":
            body.append(f'<path class="dot anomaly" d="M{px:.1f} {py - 4:.1f}l4 7h-8Z"/>')
        else:
            body.append(f'<path class="dot other" d="M{px - 3:.1f} {py - 3:.1f}h6v6h-6Z"/>')
    return _svg("".join(body), label or f"{y_label} over {x_label}")


def by_number(points: Sequence[tuple[int, float]], y_label: str) -> str:
    """A figure up to 1 over the number of training photographs: each fit as a point, and a line
    through their means; numbers are told apart by their ratios. Fewer than two numbers: nothing."""
    numbers = sorted({number for number, _ in points})
    if len(numbers) < 2:
        return ""
    low = min(value for _, value in points)
    low -= 0.08 * (1 - low) or 0.01
    across = _axis(math.log(numbers[0] / 1.1), math.log(numbers[-1] * 1.1), _LEFT, _WIDTH - _RIGHT)
    y = _axis(low, 1, _HEIGHT - _BOTTOM, _TOP)

    def x(number: float) -> float:
        return across(math.log(number))

    # Labels of numbers that lie near each other would run together.
    ticks = [
        n for i, n in enumerate(numbers) if i + 1 == len(numbers) or x(numbers[-1]) - x(n) > 24
    ]
    body = [_frame(x, y, ticks, _ticks(low, 1), "training photographs", y_label)]
    means = [np.mean([v for n, v in points if n == number]) for number in numbers]
    path = "L".join(f"{x(n):.1f} {y(float(v)):.1f}" for n, v in zip(numbers, means, strict=True))
    body.append(f'<path class="curve" d="M{path}"/>')
    for number, value in points:
        place = f'cx="{x(number):.1f}" cy="{y(value):.1f}"'
        body.append(f'<circle class="dot good" {place} r="3.4"/>')
    return _svg("".join(body), f"{y_label} by number of training photographs")


def thin(x: _Floats, y: _Floats, x_limit: float, most: int = 400) -> tuple[_Floats, _Floats]:
    """At most about ``most`` points of a curve up to ``x_limit``, ending exactly there.

    Points are taken evenly along the curve's length, so that steep parts keep their shape.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    inside = x <= x_limit
    end = float(np.interp(x_limit, x, y))
    x, y = np.append(x[inside], x_limit), np.append(y[inside], end)
    if x.size <= most:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x) / x_limit, np.diff(y)))])
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], most)))
    keep = np.unique(np.concatenate([[0], keep.clip(0, x.size - 1), [x.size - 1]]))
    return x[keep], y[keep]


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values inside the range: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= 0.999 * raw), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _frame(
    x: Callable[[float], float],
    y: Callable[[float], float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in y_ticks:
        parts.append(_line("grid", _LEFT, y(tick), right, y(tick)))
        parts.append(_text("tick", _LEFT - 6, y(tick) + 4, "end", f"{tick:g}"))
    for tick in x_ticks:
        parts.append(_text("tick", x(tick), bottom + 16, "middle", f"{tick:g}"))
    parts.append(_line("axis", _LEFT, bottom, right, bottom))
    parts.append(_text("label", (_LEFT + right) / 2, _HEIGHT - 6, "middle", x_label))
    parts.append(
        f'<g transform="translate(12 {(_TOP + bottom) / 2}) rotate(-90)">'
        f"{_text('label', 0, 0, 'middle', y_label)}</g>"
    )
    return "".join(parts)


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(name: str, x: float, y: float, anchor: str, text: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{name}" {place}>{escape(text)}</text>'


def _svg(body: str, label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )
