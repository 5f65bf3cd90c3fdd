"""Shapes and devices at which the launchers choose other kernels, and all schedules."""

from __future__ import annotations

import itertools

import pytest
import torch
from cuda_on_cpu_support.backend import DTYPES
from cuda_on_cpu_support.builder import CSRC, OPS, SCHEDULES, Device, op_sources
from cuda_on_cpu_support.checks import ALL_CASES, check_case, instantiations
from op_support import stems
from op_support.cases import HALVES, Case, Inputs, as_tuple
from op_support.tolerance import assert_accurate, edge_band
from test_special_values import MAPS

from fastalign import ops

# Rows and channels that whole vectors fill and that they do not, few and many images and channels.
SHAPES = {
    "whole vectors": (3, 32, 4, 16),
    "ragged rows": (5, 12, 3, 37),
    "colours": (4, 3, 9, 24),
    "grey": (6, 1, 5, 13),
    "many images": (37, 8, 2, 3),
    "many channels": (2, 136, 3, 2),
    "one image": (1, 192, 1, 2),
    "tall images": (13, 8, 18, 6),
}
CROWD = (520, 8, 1, 2)  # of images: what a block keeps of each does not fit the least device

# Its multiprocessors decide how finely work is cut; no chip that runs these kernels has less shared
# memory for a block than the second one.
DEVICES = {
    "usual": None,
    "little": Device(1, 64 * 1024),
    "large": Device(132, 227 * 1024),
}
LAYOUTS = ("contiguous", "channels_last", "sliced_channels_last")


def _some(case: Case, shape: str) -> list[tuple[torch.dtype, str, str]]:
    """Dtype, layout and device: three of all combinations, so that each value occurs, and over the
    cases and shapes each combination."""
    turn = ALL_CASES.index(case) + 5 * list(SHAPES).index(shape)
    return [
        (
            DTYPES[(step + turn) % 3],
            LAYOUTS[(step + turn // 3) % 3],
            list(DEVICES)[(step + turn // 9) % 3],
        )
        for step in range(3)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_other_shapes_and_devices(case, shape, backend, kernels, poisoned):
    library = kernels.library(case.op)
    for dtype, layout, device in _some(case, shape):
        library.device(DEVICES[device])
        check_case(case, backend, Inputs(dtype, "cpu", layout, SHAPES[shape]))


@pytest.mark.parametrize(
    "case", [c for c in ALL_CASES if not c.op.startswith(("warp", "refine", "anomaly"))], ids=str
)
def test_more_images_than_a_block_can_keep(case, backend, kernels, poisoned):
    kernels.library(case.op).device(DEVICES["little"])
    turn = ALL_CASES.index(case)
    inputs = Inputs(DTYPES[turn % 3], "cpu", LAYOUTS[turn // 3 % 3], CROWD)
    check_case(case, backend, inputs, ulps=16)  # of sums over as many images


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_every_schedule_gives_the_same_bits(case, backend, kernels):
    """A missing barrier, a race within a block or a sum in the order of arrival would show."""
    library = kernels.library(case.op)
    library.device(Device(1, 99 * 1024))  # blocks take as many tiles in turn as they ever do
    turn = ALL_CASES.index(case)
    shapes = [(3, 16, 3, 16), (6, 7, 5, 9)] if turn % 4 < 2 else [(6, 7, 5, 9), (3, 16, 3, 16)]
    if "same size" in case.options:
        shapes = [SHAPES["tall images"]] * 2
    for (dtype, layout), shape in zip(
        ((torch.float32, "contiguous"), (HALVES[turn % 2], "channels_last")), shapes, strict=True
    ):
        arguments = case.make(Inputs(dtype, "cpu", layout, shape))
        results = []
        for schedule in SCHEDULES:
            library.schedule(schedule)
            results.append(as_tuple(backend.run(case.op, *arguments)))
        for schedule, found in zip(SCHEDULES[1:], results[1:], strict=True):
            for first, other in zip(results[0], found, strict=True):
                assert torch.equal(first, other), f"{schedule} differs for {dtype}, {layout}"


@pytest.mark.parametrize("family", ["rotation", "affine"])
def test_edges_that_no_block_can_keep(family, backend, kernels, poisoned):
    kernels.library("refine_pose").device(Device(1, 6 * 1024))
    case = next(c for c in ALL_CASES if str(c).startswith(f"refine_pose({family}"))
    for dtype, layout in zip((torch.float32, *HALVES), LAYOUTS, strict=True):
        check_case(case, backend, Inputs(dtype, "cpu", layout, SHAPES["colours"]))


def test_maps_of_which_no_block_can_keep_a_row(backend, kernels, poisoned):
    kernels.library("anomaly_map").device(Device(1, 1024))
    case = next(c for c in ALL_CASES if str(c) == "anomaly_map(mask)")
    check_case(case, backend, Inputs(torch.float32, "cpu", "contiguous", SHAPES["colours"]))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("rows", MAPS.values(), ids=MAPS)
def test_maps_without_a_good_inverse(rows, padding, layout, backend):
    size, shape = (7, 5), (2, 16, 6, 8)
    x = Inputs(torch.float32, "cpu", layout, shape).features()
    backend.require("warp_affine", x)
    for mode, corners in itertools.product(("bilinear", "nearest"), (False, True)):
        theta = torch.tensor([rows, rows])
        assert not edge_band(theta, shape[2:], size, corners, mode).any()
        leaves = x.clone(memory_format=torch.preserve_format).requires_grad_(), theta
        leaves[1].requires_grad_()
        options = mode, padding, corners
        out = ops.warp_affine(*leaves, size, *options, backend=backend.name)
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        wanted = stems.of("warp_affine").definition(*exact, size, *options)
        weight = torch.linspace(0.5, 1.5, out.numel()).view(out.shape)
        found = out, *torch.autograd.grad(out, leaves, weight)
        best = wanted, *torch.autograd.grad(wanted, exact, weight.double())
        plain = reference_gradients(leaves, size, options, weight)
        for name, got, right, same in zip(("out", "x", "theta"), found, best, plain, strict=True):
            assert_accurate(got, right.detach(), same, ulps=64, name=f"{mode} {corners} {name}")


def reference_gradients(leaves, size, options, weight):
    """Result and gradients of the reference in the dtype of the leaves."""
    out = ops.warp_affine(*leaves, size, *options, backend="reference")
    return out, *torch.autograd.grad(out, leaves, weight)


@pytest.mark.parametrize("op", OPS)
def test_every_kernel_was_launched_and_none_added_floats_by_atomics(op, kernels, launches):
    """All instantiations that the library holds, by the tests of this folder that ran before."""
    library = kernels.library(op)
    if library is None:
        pytest.skip(f"there is no CUDA kernel of {op} yet")
    compiled = instantiations(library.path, CSRC)
    assert compiled, f"no kernel found in {[source.name for source in op_sources(op)]}"
    names, counts = launches(op)
    if not counts["launches"] > 100:
        pytest.skip("the tests that launch kernels did not run")
    assert counts["float_atomics"] == 0
    assert not (left := sorted(compiled - names)), "never launched: " + ", ".join(left)
