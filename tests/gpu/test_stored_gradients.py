"""Gradients that a loss has stored: scaled on the GPU if need be, handed over if not."""

from __future__ import annotations

import pytest
import torch

from fastalign import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("factor", [1.0, -3.5])
def test_the_gradient_of_a_scaled_loss(dtype, layout, factor):
    p, z = (
        torch.randn(4, 9, 5, 7, device="cuda").to(dtype).to(memory_format=layout) for _ in range(2)
    )
    gradients = []
    for backend in ("reference", "cuda"):
        leaf = p.clone().requires_grad_()
        (factor * ops.dense_similarity_loss(leaf, z, backend=backend)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2e-2, atol=1e-5)
    assert gradients[1].stride() == p.stride()


def test_a_kept_graph_gives_the_same_gradient_twice():
    h = torch.randn(5, 3, 8, 8, device="cuda", requires_grad=True)
    loss = 2 * ops.pairwise_distance_loss(h, backend="cuda")
    (first,) = torch.autograd.grad(loss, h, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, h, retain_graph=True)
    (third,) = torch.autograd.grad(loss, h)
    assert torch.equal(first, kept) and torch.equal(second, kept) and torch.equal(third, kept)
