"""Options that are numbers: their bounds are checked before a command begins, and by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import typer

from fastalign.errors import ConfigError
from fastalign.numeric import LARGEST_WHOLE, bounds, real_number, whole_number

_WORTH_SAYING = 1000


def flag(name: str, text: str, panel: str | None = None) -> Any:
    """An option that is given or not; help shows it without a value."""
    return typer.Option(name, help=text, metavar="", rich_help_panel=panel)


@dataclass(frozen=True)
class Number:
    """Reads the value of an option.

    Attributes:
        flag: the option's name.
        is_whole: only whole numbers.
        least, most: the bounds, both included.
        open_ended: ``most`` itself is not allowed.
    """

    flag: str
    is_whole: bool
    least: float
    most: float
    open_ended: bool = False

    def __call__(self, value: Any) -> float | int:
        """The number; a usage error that names the option where it is none."""
        try:
            if self.is_whole:
                return whole_number(self.flag, value, int(self.least), int(self.most), text=True)
            return real_number(
                self.flag, value, self.least, self.most, open_ended=self.open_ended, text=True
            )
        except ConfigError as error:
            raise typer.BadParameter(str(error), param_hint=self.flag) from error

    @property
    def __name__(self) -> str:
        """What typer shows as the kind of the value."""
        return "number"


def whole(
    flag: str,
    text: str,
    least: int = 0,
    most: int = LARGEST_WHOLE,
    *,
    default: str | bool = True,
    panel: str | None = None,
) -> Any:
    """An option that is a whole number.

    Args:
        flag: its name.
        text: its help; bounds are added.
        least, most: its bounds, both included.
        default: words for a default that stands elsewhere.
        panel: heading under which help lists it.
    """
    parser = Number(flag, True, least, most)
    return _option(parser, text, "N", default, panel)


def real(
    flag: str,
    text: str,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    open_ended: bool = False,
    default: str | bool = True,
    panel: str | None = None,
) -> Any:
    """An option that is a finite number; arguments as for :func:`whole`, ``open_ended`` where
    ``most`` itself is not allowed."""
    parser = Number(flag, False, least, most, open_ended)
    return _option(parser, text, "X", default, panel)


def _option(
    parser: Number,
    text: str,
    metavar: str,
    default: str | bool,
    panel: str | None,
) -> Any:
    # Upper bounds that nobody comes near are left to the error.
    most = parser.most if parser.most <= _WORTH_SAYING else math.inf
    says_nothing = parser.least in (0, -math.inf) and math.isinf(most)
    limits = "" if says_nothing else bounds(parser.least, most, parser.open_ended)
    return typer.Option(
        parser.flag,
        help=f"{text} {limits[:1].upper()}{limits[1:]}." if limits else text,
        metavar=metavar,
        parser=parser,
        show_default=default,
        rich_help_panel=panel,
    )
