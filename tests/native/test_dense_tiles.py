"""dense_similarity where the tile of z does not stay in the second-level cache: z is read twice.

Shapes are the smallest that take this way: 15 tiles of 300 channels and 64 float pixels are 1.1 MB.
"""

from __future__ import annotations

import pytest
import torch
from op_support.cases import DTYPES, Inputs, exact, short
from op_support.tolerance import small_term

from fastalign.ops import reference

SHAPE = (12, 300, 16, 17)  # 272 pixels: four whole tiles and a part
GROUPS = torch.tensor([1, 0] + [1] * 9 + [7])  # nine and more together; two have no partner
LEVELS = ("baseline", "avx2", "avx512")


def laid(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "rows apart":  # planes are no runs of neighbours
        wide = x.new_zeros(*x.shape[:3], x.shape[3] + 1)
        wide[..., :-1] = x
        return wide[..., :-1]
    return x


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows apart"])
@pytest.mark.parametrize("values", ["usual", "out of range"])
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
def test_loss_and_gradient(dtype, values, layout, library, keep_level):
    """At every level that this machine has."""
    inputs = Inputs(dtype, shape=SHAPE)
    p, z = inputs.features(), inputs.features()
    if values == "out of range":
        # Squares of these leave the range of the accumulation type, or of what kernels trust.
        z[3] *= 1e-10 if dtype == torch.float16 else 1e-25
        z[5, :, 2] = 0
        p[4] *= 1e20 if dtype != torch.float16 else 1
    p, z = laid(p, layout), laid(z, layout)
    arguments = p, z, GROUPS, True, False
    wanted = reference.kernel("dense_similarity_loss")(*exact(arguments))
    narrow = reference.kernel("dense_similarity_loss")(*arguments)
    wanted_maps = reference.kernel("dense_similarity")(*exact((p, z, GROUPS)))
    there = [level for level in LEVELS if library.cpu_isa_levels().get(level)]
    assert there
    for level in there:
        library.set_cpu_isa(level)
        found = torch.ops.fastalign.dense_similarity_loss(*arguments, backend="cpu")
        again = torch.ops.fastalign.dense_similarity_loss(p, z, GROUPS, True, True, backend="cpu")
        # With a gradient of z both tiles are kept: the same sums from the other way.
        for one, other, right, same in zip(found[:2], again[:2], wanted, narrow, strict=False):
            # Image by image, since their gradients differ by many orders of magnitude.
            for image in range(len(p)) if one.dim() else [...]:
                allowed = 2 * (same[image].double() - right[image]).abs().max()
                allowed += small_term(right[image], one.dtype, ulps=64)
                assert (one[image].double() - right[image]).abs().max() <= allowed, level
                assert (other[image].double() - right[image]).abs().max() <= allowed, level
        maps = torch.ops.fastalign.dense_similarity(p, z, GROUPS, backend="cpu")
        torch.testing.assert_close(maps.double(), wanted_maps, rtol=1e-4, atol=1e-5)
