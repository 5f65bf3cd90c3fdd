from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastalign.metrics.compact import PackedKeys, to_keys

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 50), elements=finite))
def test_keys_have_the_order_of_the_scores(scores):
    keys = to_keys(scores)
    assert keys.dtype == np.uint32
    for compare in (np.less, np.equal):
        assert np.array_equal(compare.outer(keys, keys), compare.outer(scores, scores))


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.uint32, st.integers(1, 300)))
def test_packing_loses_nothing(keys):
    keys.sort()
    packed = PackedKeys.pack(keys)
    assert np.array_equal(packed.unpack(), keys)
    assert packed.nbytes <= 4 * keys.size


@pytest.mark.parametrize(
    ("step", "size"), [(0, 1), (200, 1), (255, 1), (256, 2), (65535, 2), (65536, 4)]
)
def test_steps_take_as_few_bytes_as_they_can(step, size):
    keys = np.arange(1000, dtype=np.uint32) * np.uint32(step)
    packed = PackedKeys.pack(keys)
    assert packed.nbytes == 999 * size
    assert np.array_equal(packed.unpack(), keys)


def test_a_few_large_steps_are_kept_apart():
    keys = np.concatenate([np.arange(1000), [2**32 - 1], [2**32 - 1]]).astype(np.uint32)
    packed = PackedKeys.pack(keys)
    assert packed.nbytes == 1001 + 8
    assert np.array_equal(packed.unpack(), keys)
