from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastalign.data.maskcheck import MaskCheck


def mask(top, bottom, left, right):
    values = np.zeros((20, 30), bool)
    values[top:bottom, left:right] = True
    return values


def notes(*masks):
    check = MaskCheck()
    for index, values in enumerate(masks):
        check.add(Path(f"{index}_mask.png"), values)
    return check.notes()


SMALL = mask(3, 9, 4, 12)


def test_ordinary_masks_are_not_spoken_of():
    assert notes(SMALL, mask(0, 20, 0, 14), mask(1, 19, 1, 29), mask(0, 20, 0, 3)) == []


def test_an_empty_one_among_others():
    (note,) = notes(SMALL, mask(0, 0, 0, 0), SMALL)
    assert note.startswith("1 of 3 masks") and "empty" in note and "1_mask.png" in note


@pytest.mark.parametrize("odd", [~SMALL, mask(0, 20, 0, 30), ~mask(5, 20, 14, 17)])
def test_an_inverted_one_among_others(odd):
    (note,) = notes(SMALL, SMALL, odd)
    assert note.startswith("1 of 3 masks") and "2_mask.png" in note and "invert it" in note


def test_all_inverted():
    (note,) = notes(~SMALL, ~SMALL)
    assert note.startswith("2 of 2 masks") and "0_mask.png (92 %)" in note
