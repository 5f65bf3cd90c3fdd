"""What is said of a drift, in the words of a line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastalign.drift.track import Shift

BEGAN, GREW, ENDED = "began", "grew", "ended"
COLUMNS = (
    "state",
    "statistic",
    "direction",
    "size",
    "unit",
    "since",
    "at",
    "photographs",
    "text",
)


@dataclass(frozen=True)
class Statement:
    """A drift, as it began, grew to twice its size, or ended.

    Attributes:
        state: ``"began"``, ``"grew"`` or ``"ended"``.
        statistic: what drifts, a name of :data:`STATISTICS`.
        direction: where to, such as ``"left"`` or ``"darker"``.
        size: how far, of the last photographs beside those of the fit, or, of one that ended, as it
            was told last; positive in ``direction``.
        unit: of the size.
        since: the first photograph after the change.
        at: the photograph with which it was certain, or over.
        photographs: how many counted from ``since`` to ``at``.
        text: all of it, for people.
    """

    state: str
    statistic: str
    direction: str
    size: float
    unit: str
    since: str
    at: str
    photographs: int
    text: str

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the order of :data:`COLUMNS`."""
        return asdict(self)


@dataclass(frozen=True)
class Statistic:
    """How drift of a statistic is told.

    Attributes:
        about: what it is, for people.
        upward, downward: the directions; None: one that nobody is told of.
        unit: of the size.
        words: with ``{size}`` filled in, by direction.
        measure: the size of a shift in the unit, positive in its direction, from the height and
            width of the photographs in pixels.
    """

    about: str
    upward: str | None
    downward: str | None
    unit: str
    words: dict[str, str]
    measure: Callable[[Shift, tuple[int, int]], float]


def _relative(shift: Shift, size: tuple[int, int]) -> float:
    change = 100 * (shift.value / shift.normal - 1) if shift.normal else 0.0
    return change if shift.upward else -change


def _ratio(shift: Shift, size: tuple[int, int]) -> float:
    """Of logarithms."""
    change = 100 * math.expm1(shift.value - shift.normal)
    return change if shift.upward else -change


def _off(shift: Shift) -> float:
    return shift.value - shift.normal if shift.upward else shift.normal - shift.value


def _pixels(axis: int) -> Callable[[Shift, tuple[int, int]], float]:
    return lambda shift, size: _off(shift) * size[axis]


def _percentile(shift: Shift, size: tuple[int, int]) -> float:
    return 100 * (shift.rank if shift.upward else 1 - shift.rank)


STATISTICS = {
    "brightness": Statistic(
        "the brightness",
        "brighter",
        "darker",
        "%",
        {word: f"the photographs are {word} by {{size}}" for word in ("brighter", "darker")},
        _relative,
    ),
    "sharpness": Statistic(
        "the sharpness",
        "sharper",
        "softer",
        "%",
        {word: f"the photographs are {word} by {{size}}" for word in ("sharper", "softer")},
        _relative,
    ),
    "warmth": Statistic(
        "the colour of the light",
        "redder",
        "bluer",
        "%",
        {
            word: f"the light is {word} by {{size}}, red against blue"
            for word in ("redder", "bluer")
        },
        _ratio,
    ),
    "x": Statistic(
        "the place of the parts from left to right",
        "left",
        "right",
        "px",
        {
            "left": "the camera has moved {size} to the left (or the parts to the right)",
            "right": "the camera has moved {size} to the right (or the parts to the left)",
        },
        _pixels(1),
    ),
    "y": Statistic(
        "the place of the parts from top to bottom",
        "up",
        "down",
        "px",
        {
            "up": "the camera has moved {size} up (or the parts down)",
            "down": "the camera has moved {size} down (or the parts up)",
        },
        _pixels(0),
    ),
    "rotation": Statistic(
        "the angle of the parts",
        "anticlockwise",
        "clockwise",
        "°",
        {
            "anticlockwise": "the camera has turned {size} anticlockwise (or the parts clockwise)",
            "clockwise": "the camera has turned {size} clockwise (or the parts anticlockwise)",
        },
        lambda shift, size: _off(shift),
    ),
    "scale": Statistic(
        "the size of the parts",
        "nearer",
        "farther",
        "%",
        {
            "nearer": "the camera is nearer (or zoomed in): the parts are larger by {size}",
            "farther": "the camera is farther away (or zoomed out): the parts are smaller by "
            "{size}",
        },
        _ratio,
    ),
    "coverage": Statistic(
        "how much of the parts is seen",
        None,
        "less",
        "%",
        {"less": "the photographs show {size} less of the part"},
        lambda shift, size: 100 * _off(shift),
    ),
    "score": Statistic(
        "the scores",
        "higher",
        "lower",
        "%",
        {
            "higher": "scores are higher: half of them lie above {size} of those of the normal "
            "photographs",
            "lower": "scores are lower: half of them lie below {size} of those of the normal "
            "photographs",
        },
        _percentile,
    ),
    "unjudged": Statistic(
        "whether photographs can be judged",
        "more",
        None,
        "%",
        {"more": "{size} of the photographs cannot be judged"},
        lambda shift, size: 100 * shift.mean,
    ),
}


def written(size: float, unit: str) -> str:
    """``3.1 px``, ``12 %``, ``0.4°``."""
    digits = f"{size:.1f}" if abs(size) < 10 else f"{size:.0f}"
    digits = digits.removesuffix(".0")
    return f"{digits}{unit}" if unit == "°" else f"{digits} {unit}"
