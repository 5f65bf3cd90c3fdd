"""Words around numbers: singular and plural of what messages count."""

from __future__ import annotations

_IRREGULAR = {"anomaly": "anomalies", "category": "categories", "entry": "entries"}
_VERBS = {"are": "is", "have": "has", "do": "does", "were": "was"}


def count(number: int, noun: str, verb: str = "") -> str:
    """``1 image``, ``2 images``, ``0 images``; with the verb ``are``: ``1 image is``.

    Args:
        number: how many.
        noun: in the singular; of several words the last one is counted.
        verb: in the plural, put behind the noun; words may follow it: ``have no mask``.
    """
    return f"{number} {_counted(number, noun)}{_with_verb(number, verb)}"


def part_of(number: int, total: int, noun: str, verb: str = "") -> str:
    """``1 of 20 images``; with the verb ``are``: ``1 of 20 images is``, ``2 of 20 images are``."""
    return f"{number} of {total} {_counted(total, noun)}{_with_verb(number, verb)}"


def agree(number: int, verb: str) -> str:
    """The verb, given in the plural with words that may follow it, as ``number`` things have it:
    ``are empty`` is ``is empty`` for one."""
    first, *rest = verb.split(" ")
    return " ".join([_VERBS.get(first, f"{first}s") if number == 1 else first, *rest])


def none_of(number: int, noun: str, verb: str) -> str:
    """``none of the 3 images could be read``, ``the only image could not be read``; ``verb`` begins
    with an auxiliary one."""
    if number != 1:
        return f"none of the {number} {_counted(number, noun)} {verb}"
    first, _, rest = verb.partition(" ")
    return f"the only {noun} {first} not {rest}"


def _counted(number: int, noun: str) -> str:
    if number == 1:
        return noun
    *before, last = noun.split(" ")
    return " ".join([*before, _IRREGULAR.get(last, f"{last}s")])


def _with_verb(number: int, verb: str) -> str:
    return f" {agree(number, verb)}" if verb else ""


def printable(text: str) -> str:
    """A text as one line: what does not print, such as line breaks and control characters in a file
    name, as its escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
