"""Singular and plural around numbers in messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastalign
from fastalign.words import agree, count, none_of, part_of, printable

# A number that may be 1 before a plural: what these functions are for.
_UNCOUNTED = re.compile(
    r"\{(?:len\([^{}]*\)|number|total|timed|\w+\.seen)\} (?:\w+ )?(images|files)\b"
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (count(1, "image"), "1 image"),
        (count(0, "test image"), "0 test images"),
        (count(2, "anomaly"), "2 anomalies"),
        (count(1, "entry", "name"), "1 entry names"),
        (count(2, "entry", "name"), "2 entries name"),
        (count(1, "image", "have no label"), "1 image has no label"),
        (part_of(1, 3, "mask", "cover"), "1 of 3 masks covers"),
        (part_of(2, 3, "image", "are"), "2 of 3 images are"),
        (part_of(1, 1, "image"), "1 of 1 image"),
        (agree(1, "were empty"), "was empty"),
        (none_of(1, "image", "could be read"), "the only image could not be read"),
        (none_of(3, "image", "could be read"), "none of the 3 images could be read"),
    ],
)
def test_words_agree_with_their_number(found, expected):
    assert found == expected


def test_no_message_counts_images_or_files_in_the_plural_alone():
    folder = Path(fastalign.__file__).parent
    found = [
        f"{path.relative_to(folder)}: {match[0]}"
        for path in sorted(folder.rglob("*.py"))
        for match in _UNCOUNTED.finditer(path.read_text(encoding="utf-8"))
        if "bench" not in path.parts and f"the {match[0]}" not in path.read_text(encoding="utf-8")
    ]
    assert not found


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Teil 7 ü.jpg", "Teil 7 ü.jpg"),
        ("two\nlines\r\t.jpg", "two\\nlines\\r\\t.jpg"),
        ("\x1b[2J\x9b\u202egpj.\udcff", "\\x1b[2J\\x9b\\u202egpj.\\udcff"),
    ],
)
def test_what_does_not_print_is_escaped(name, shown):
    assert printable(name) == shown
