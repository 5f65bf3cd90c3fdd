"""The one check of numbers that users give: finite, within bounds, named in the error."""

from __future__ import annotations

import math
import operator
import re
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
        raise ConfigError(_sentence(name, value, "a whole number", least, most, because, other))
    return number


def real_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    open_ended: bool = False,
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
    within = least <= number < most if open_ended else least <= number <= most
    if not (math.isfinite(number) and within):
        kind = "a number" if bounds(least, most) else "a finite number"
        raise ConfigError(_sentence(name, value, kind, least, most, because, other, open_ended))
    return number


def seed_number(value: Any, name: str = "seed") -> int:
    """``value`` as a seed, 0 to 2^63 - 1.

    Raises:
        ConfigError: it is none.
    """
    return whole_number(name, value, 0, LARGEST_SEED)


def bounds(least: float, most: float, open_ended: bool = False) -> str:
    """Bounds in words; empty without any."""
    if math.isinf(least) and math.isinf(most):
        return ""
    if math.isinf(most):
        return f"at least {_shown(least)}"
    if math.isinf(least):
        return f"at most {_shown(most)}"
    return f"from {_shown(least)} {'up to, but not,' if open_ended else 'to'} {_shown(most)}"


def _sentence(
    name: str,
    value: Any,
    kind: str,
    least: float,
    most: float,
    because: str,
    other: str,
    open_ended: bool = False,
) -> str:
    given = _given(value)
    # The bound of all counters is worth a word only to those who exceed it.
    if most in (LARGEST_WHOLE, LARGEST_SIZE) and len(given) < len(str(LARGEST_WHOLE)):
        most = math.inf
    limits = bounds(least, most, open_ended)
    words = f"{name} {given}: give {kind}{' ' if limits else ''}{limits}"
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
