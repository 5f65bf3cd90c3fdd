"""One case on one backend against the reference in float64: what every backend is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.ops import reference
from op_support.backends import Backend
from op_support.cases import Case, Inputs, as_tuple, exact, narrowed
from op_support.tolerance import (
    ULPS,
    assert_accurate,
    assert_gradient_aggregate,
    assert_rare,
    edge_band,
    float64_yardstick,
)


def discontinuity(case: Case, arguments: tuple[object, ...]) -> Tensor | None:
    """Where two answers to warp_affine are right: nearest at a pixel edge."""
    if case.op != "warp_affine" or "nearest" not in case.options:
        return None
    x, theta, size, mode, _, align_corners = arguments
    band = edge_band(theta, x.shape[2:], size, align_corners, mode)
    assert_rare(band)
    return band.unsqueeze(1)


def clear_of_edges(case: Case, arguments: tuple[object, ...]) -> bool:
    """Whether no gradient of warp_affine hangs on the rounding of a position."""
    if case.op != "warp_affine_backward":
        return True
    grad, x, theta, mode, _, align_corners, *_ = arguments
    return not edge_band(theta, x.shape[2:], grad.shape[2:], align_corners, mode).any()


def assert_as_accurate_as_plain_pytorch(case: Case, inputs: Inputs, backend: Backend) -> None:
    """Assert that errors against float64 are those of plain PyTorch in the inputs' dtype."""
    arguments = case.make(inputs)
    assert clear_of_edges(case, arguments)
    ignore = discontinuity(case, arguments)
    kernel = reference.kernel(case.op)
    found = as_tuple(backend.run(case.op, *arguments))
    wanted = as_tuple(kernel(*exact(arguments)))
    yardstick, ulps = as_tuple(kernel(*arguments)), ULPS
    if inputs.dtype == torch.float64:
        ulps = case.ulps
        rounded = narrowed(arguments)
        narrow, narrow_exact = as_tuple(kernel(*rounded)), as_tuple(kernel(*exact(rounded)))
        yardstick = tuple(map(float64_yardstick, wanted, narrow, narrow_exact))
    for index, (out, best, same) in enumerate(zip(found, wanted, yardstick, strict=True)):
        assert out.dtype == same.dtype
        name = f"{case}, {inputs.layout}, result {index}"
        assert_accurate(out, best, same, ulps=ulps, ignore=ignore, name=name)
        if out.numel() > 0 and "backward" in case.op:
            eps = torch.finfo(out.dtype).eps
            assert_gradient_aggregate(out, best, same, relative=eps, name=name)
