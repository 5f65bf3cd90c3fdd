"""Large results keep their memory from call to call, and nobody else ever sees it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from copies import with_variable

from fastalign import ops

SHAPE = (2, 8, 256, 256)  # 4 MiB, from where on results are kept


def warped(shift: float = 0.0, like: torch.Tensor | None = None) -> torch.Tensor:
    x = torch.ones(SHAPE) if like is None else like
    theta = torch.tensor([[[1.0, 0.0, shift], [0.0, 1.0, 0.0]]] * len(x))
    return ops.warp_affine(x, theta, padding_mode="border", backend="cpu")


@pytest.fixture(autouse=True)
def nothing_kept():
    ops.release_memory()
    yield
    ops.release_memory()


def test_a_freed_result_is_taken_again():
    first = warped()
    address = first.data_ptr()
    second = warped()
    assert second.data_ptr() != address
    del first
    assert warped().data_ptr() == address


def test_a_result_in_use_is_never_taken():
    kept = [warped(like=torch.full(SHAPE, float(i))) for i in range(4)]
    view = kept.pop()[1:]  # what is left of a result keeps its memory
    ops.release_memory()
    more = [warped(like=torch.full(SHAPE, -1.0)) for _ in range(4)]
    assert all((tensor == i).all() for i, tensor in enumerate(kept))
    assert (view == 3).all() and all((tensor == -1).all() for tensor in more)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_result_has_the_layout_of_any_other(memory_format):
    x = torch.rand(SHAPE).contiguous(memory_format=memory_format)
    out = warped(like=x)
    assert out.stride() == x.stride() and out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out, x)


def test_no_more_is_kept_than_said():
    """The oldest blocks go first, and none larger than all that may be kept."""
    results = [warped() for _ in range(20)]
    addresses = [result.data_ptr() for result in results]
    while results:
        del results[0]
    again = [warped() for _ in range(16)]
    assert {result.data_ptr() for result in again} == set(addresses[4:])


def test_results_of_several_threads():
    def call(number: int) -> bool:
        out = warped(like=torch.full(SHAPE, float(number)))
        return bool((out == number).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(48)))


def test_the_environment_turns_it_off():
    code = """
x, theta = torch.ones(2, 8, 256, 256), ops.affine.identity(2)
print(ops.warp_affine(x, theta, backend="cpu").untyped_storage().resizable())
"""
    said = with_variable("FASTALIGN_KEEP_RESULTS", ("0", "1"), code)
    assert [said[value][1].strip() for value in ("0", "1")] == ["True", "False"], said
