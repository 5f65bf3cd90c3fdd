import base64
import io

import numpy as np
import pytest
from PIL import Image

from fastalign.errors import InputError
from fastalign.report.photographs import enlarge


@pytest.fixture(scope="module")
def photo():
    """Smooth light with fine grain, ``[300, 400, 3]``."""
    rng = np.random.default_rng(0)
    light = np.linspace(40, 200, 400)[None, :, None] + np.zeros((300, 1, 3))
    return (light + rng.normal(0, 8, (300, 400, 1))).clip(0, 255).astype(np.uint8)


def size_of(enlarged):
    data = base64.b64decode(enlarged.uri.partition(",")[2])
    return Image.open(io.BytesIO(data)).size


def test_a_photograph_keeps_its_own_size_where_the_bytes_suffice(photo):
    (one,) = enlarge([7], {7: photo}.__getitem__, 10**6)
    assert size_of(one) == (one.width, one.height) == (one.own_width, one.own_height) == (400, 300)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(one.uri.partition(",")[2]))))
    assert np.abs(shown.astype(int) - photo).mean() < 6


def test_all_of_them_keep_within_the_bytes_and_their_shape(photo):
    budget = 60_000
    shown = list(enlarge(range(6), lambda index: photo, budget))
    assert sum(len(one.uri) for one in shown) <= budget
    for one in shown:
        assert size_of(one) == (one.width, one.height)
        assert one.width < 400 and one.width / one.height == pytest.approx(4 / 3, rel=0.05)
        assert (one.own_width, one.own_height) == (400, 300)


def test_what_a_simple_one_spares_goes_to_the_next(photo):
    plain = np.zeros_like(photo)
    _, after_plain = enlarge([0, 1], lambda index: photo if index else plain, 40_000)
    first, _ = enlarge([0, 1], lambda index: photo, 40_000)
    assert after_plain.width > first.width


def test_one_that_is_gone_is_left_out_and_so_is_one_without_bytes(photo):
    def read(index):
        if index == 0:
            raise InputError("gone")
        return photo

    gone, there = enlarge([0, 1], read, 10**6)
    assert gone is None and there.width == 400
    assert list(enlarge([1], read, 40)) == [None]
