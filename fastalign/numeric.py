"""The one check of numbers that users give: finite, within bounds, named in the error."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable
from typing import Any

from fastalign.errors import ConfigError

# What counters of the libraries below us hold.
LARGEST_WHOLE = 2**31 - 1
# What every random generator in use takes.
LARGEST_SEED = 2**63 - 1
# Bytes of anything.
LARGEST_SIZE = 2**63 - 1
# Threads that a process can sensibly be asked for; far more end in errors of the system.
MOST_THREADS = 4096
# Beyond it float32 leaves of all distances nothing but 0, which is good.
LARGEST_SHRINKAGE = 1e6
# In photographs; float32 sums hold more of them than any set has.
LARGEST_PRIOR = 1e6
# Standard deviations in pixels of a smoothing; kernels grow with it.
LARGEST_SIGMA = 1e4
# Width over height of a photograph.
LEAST_ASPECT, LARGEST_ASPECT = 1e-3, 1e3
_SHOWN = 40


def whole_number(
    name: str,
    value: Any,
    least: int = 0,
    most: int = LARGEST_WHOLE,
    *,
    text: bool = False,
    because: str = "",
    other: str = "",
) -> int:
    """``value`` as an int between ``least`` and ``most``, both included.

    Args:
        name: what the error calls it.
        value: an int, or a whole number of another library.
        least: the smallest one allowed.
        most: the largest one allowed.
        text: ``value`` may be the number as text.
        because: why, for the error.
        other: words that are allowed besides, for the error.

    Raises:
        ConfigError: it is none.
    """
    number: int | None = None
    if isinstance(value, str):
        # int() takes digits of all alphabets and underscores, and raises for very long texts.
        if text and re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", value):
            number = int(value)
    elif not isinstance(value, bool):
        try:
            number = operator.index(value)
        except TypeError:
            number = None
    if number is None or not least <= number <= most:
        # The bound of all counters is worth a word only to those who exceed it.
        least_and_most: tuple[float, float] = (least, most)
        if most in (LARGEST_WHOLE, LARGEST_SIZE) and len(_given(value)) < len(str(LARGEST_WHOLE)):
            least_and_most = (least, math.inf)
        limits = bounds(*least_and_most)
        raise ConfigError(_sentence(name, value, "a whole number", limits, because, other))
    return number


def whole_pair(
    name: str, value: Any, least: int = 1, most: int = LARGEST_WHOLE, *, because: str = ""
) -> tuple[int, int]:
    """Two whole numbers, such as a height and a width, as :func:`whole_number` of each.

    Raises:
        ConfigError: it is none.
    """
    sides = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(sides) != 2:
        raise ConfigError(f"{name} {_given(value)}: give two whole numbers: {because}.")
    first, second = (
        whole_number(f"{name} {_given(sides)}: a side", side, least, most, because=because)
        for side in sides
    )
    return first, second


def real_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    open_ended: bool = False,
    above: bool = False,
    text: bool = False,
    because: str = "",
    other: str = "",
) -> float:
    """``value`` as a finite float between ``least`` and ``most``, both included.

    Args:
        name: what the error calls it.
        value: a number.
        least: the smallest one allowed.
        most: the largest one allowed.
        open_ended: ``most`` itself is not allowed.
        above: ``least`` itself is not allowed.
        text: ``value`` may be the number as text.
        because: why, for the error.
        other: words that are allowed besides, for the error.

    Raises:
        ConfigError: it is none.
    """
    number = math.nan
    if not isinstance(value, (bool, bytes)) and (text or not isinstance(value, str)):
        try:
            # float() takes digits of all alphabets and underscores.
            foreign = isinstance(value, str) and (not value.isascii() or "_" in value)
            number = math.nan if foreign else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
    within = least <= number <= most
    within &= not (open_ended and number == most) and not (above and number == least)
    if not (math.isfinite(number) and within):
        kind = "a number" if bounds(least, most) else "a finite number"
        limits = bounds(least, most, open_ended, above)
        raise ConfigError(_sentence(name, value, kind, limits, because, other))
    return number


def seed_number(value: Any, name: str = "seed") -> int:
    """``value`` as a seed, 0 to 2^63 - 1.

    Raises:
        ConfigError: it is none.
    """
    return whole_number(name, value, 0, LARGEST_SEED)


def bounds(least: float, most: float, open_ended: bool = False, above: bool = False) -> str:
    """Bounds in words; empty without any."""
    if math.isinf(least) and math.isinf(most):
        return ""
    if math.isinf(most):
        return f"{'above' if above else 'at least'} {_shown(least)}"
    if math.isinf(least):
        return f"{'below' if open_ended else 'at most'} {_shown(most)}"
    begin = f"above {_shown(least)} and" if above else f"from {_shown(least)}"
    return (
        f"{begin} {'up to, but not,' if open_ended else 'up to' if above else 'to'} {_shown(most)}"
    )


def _sentence(name: str, value: Any, kind: str, limits: str, because: str, other: str) -> str:
    words = f"{name} {_given(value)}: give {kind}{' ' if limits else ''}{limits}"
    if other:
        words += f", or {other}"
    return f"{words}: {because}." if because else f"{words}."


def _given(value: Any) -> str:
    try:
        text = str(value)
    except ValueError:
        # Python refuses to print whole numbers of thousands of digits.
        return "of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
