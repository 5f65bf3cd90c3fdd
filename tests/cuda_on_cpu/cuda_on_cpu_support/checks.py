"""One case on the CUDA kernels against the reference, and which kernels a library has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import torch
from op_support.backends import Backend
from op_support.cases import CASES, HALVES, OTHER_SIZE, Case, Inputs, as_tuple, exact, short
from op_support.tolerance import ULPS, assert_accurate, assert_gradient_aggregate, edge_band
from torch import Tensor

from fastalign.ops import reference


def _edges(case: Case, arguments: tuple[object, ...]) -> Tensor | None:
    """Samples of a warp that may fall on either side of a pixel edge, ``[B,h,w]``."""
    if case.op == "warp_affine":
        x, theta, size, mode, _, corners = arguments
        return edge_band(theta, x.shape[2:], size, corners, mode) if mode == "nearest" else None
    if case.op == "warp_affine_backward":
        grad, x, theta, mode, _, corners, *_ = arguments
        return edge_band(theta, x.shape[2:], grad.shape[2:], corners, mode)
    return None


def check_case(case: Case, backend: Backend, inputs: Inputs, ulps: float = ULPS) -> None:
    """Assert that the backend is as accurate as plain PyTorch on these inputs.

    Gradients of a warp are not compared where a sample lies on a pixel edge; all the same the
    kernels run.
    """
    arguments = case.make(inputs)
    found = as_tuple(backend.run(case.op, *arguments))
    band = _edges(case, arguments)
    if case.op == "warp_affine_backward":
        if band.any():
            return
        band = None
    kernel = reference.kernel(case.op)
    wanted = as_tuple(kernel(*exact(arguments)))
    plain = as_tuple(kernel(*arguments))
    ignore = None if band is None else band.unsqueeze(1)
    for index, (out, best, same) in enumerate(zip(found, wanted, plain, strict=True)):
        name = f"{case} result {index}"
        if out.dtype == torch.float64:  # theta's, summed in float32 over float32 values
            out, same = out.float(), best + (same - best) * 2**29
        if out.dim() == 0:
            # A loss may be a small mean of cosines of either sign, which round by their own size.
            slack = 4 * torch.finfo(out.dtype).eps * max(1.0, best.abs().item())
            assert abs(out.item() - best.item()) <= slack, f"{name}: {out} instead of {best}"
            continue
        assert_accurate(out, best, same, ulps=ulps, ignore=ignore, name=name)
        if out.numel() > 0 and "backward" in case.op:
            relative = ulps * torch.finfo(out.dtype).eps
            assert_gradient_aggregate(out, best, same, relative=relative, name=name)


def _last_singular(theta: Tensor) -> Tensor:
    """The maps, of which the last takes every pixel from one place."""
    theta = theta.clone()
    theta[-1] = torch.tensor([[0.0, 0.0, 0.11], [0.0, 0.0, -0.27]])
    return theta


def _extra() -> list[Case]:
    """Choices that tests/ops walks over elsewhere."""
    cases = [
        Case(
            "warp_affine_backward",
            "last map singular",
            lambda i: (
                i.features(),
                i.features(),
                _last_singular(i.theta()),
                *("bilinear", "zeros", False),
                *(True, True, True),
            ),
        ),
        Case(
            "warp_affine_backward",
            "float64 theta",
            lambda i: (
                i.other_size(*OTHER_SIZE),
                i.features(),
                i.theta(torch.float64),
                *("bilinear", "zeros", False),
                *(True, True, True),
            ),
        ),
        Case(
            "warp_affine_backward",
            "same size",
            lambda i: (
                i.features(),
                i.features(),
                i.theta(),
                *("bilinear", "zeros", False),
                *(True, True, True),
            ),
        ),
    ]
    for stored in HALVES:
        cases += [
            Case(
                "mahalanobis",
                f"whitener in {short(stored)}",
                lambda i, stored=stored: (
                    i.features(),
                    i.mean(),
                    i.whitener(stored),
                    None,
                    None,
                    False,
                ),
            ),
            Case(
                "mahalanobis_backward",
                f"whitener in {short(stored)}",
                lambda i, stored=stored: (
                    i.location_gradient(),
                    i.features(),
                    i.mean(),
                    i.whitener(stored),
                    *(False, True, True, True),
                ),
            ),
        ]
    # Of many rows, 520 channels are too many for shared memory to hold them all.
    rows = [(f"low rank in {short(stored)}", 6, stored) for stored in HALVES]
    for words, rank, stored in (*rows, ("many rows", 26, None)):
        cases += [
            Case(
                "mahalanobis",
                words,
                lambda i, r=rank, t=stored: (
                    i.features(),
                    i.mean(),
                    i.low_rank(r, t),
                    None,
                    None,
                    False,
                ),
            ),
            Case(
                "mahalanobis_backward",
                words,
                lambda i, r=rank, t=stored: (
                    i.location_gradient(),
                    i.features(),
                    i.mean(),
                    i.low_rank(r, t),
                    *(False, True, True, True),
                ),
            ),
        ]
    return cases


ALL_CASES = [*CASES, *_extra()]


def kernel_names(csrc: Path) -> set[str]:
    """Names after FASTALIGN_KERNEL in the sources."""
    texts = [path.read_text() for path in sorted((csrc / "cuda").glob("*.cu*"))]
    return {
        name
        for text in texts
        for name in re.findall(r"^FASTALIGN_KERNEL\([^)]*\)\s+(\w+)", text, re.M)
    }


def instantiations(library: Path, csrc: Path) -> set[str]:
    """Every kernel that is compiled into a library, with its template arguments."""
    listed = subprocess.run(
        ["nm", "--demangle", "--defined-only", str(library)], capture_output=True, text=True
    ).stdout
    symbols = [line.split(maxsplit=2)[2] for line in listed.splitlines() if line.count(" ") >= 2]
    names = kernel_names(csrc)
    found = set()
    for symbol in symbols:
        match = re.match(r"(?:void )?fastalign::cuda::(?:\(anonymous namespace\)::)?(\w+)", symbol)
        if match is not None and match[1] in names and symbol.rstrip().endswith(")"):
            found.add(symbol[: symbol.rindex("(")])
    return found
