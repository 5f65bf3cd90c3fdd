"""Launch plans that are forced: every value of every field gives the op's result, or is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from cuda_on_cpu_support.builder import Device
from cuda_on_cpu_support.checks import check_case
from cuda_on_cpu_support.kernels import KernelError
from cuda_on_cpu_support.structs import PLAN_FIELDS
from op_support.cases import CASES, Case, Inputs

Plan = dict[str, str]

KERNELS = {
    kernel: {field: values for (of, b, field), values in PLAN_FIELDS.items() if (of, b) == key}
    for key in dict.fromkeys((kernel, backend) for kernel, backend, _ in PLAN_FIELDS)
    for kernel in key[:1]
    if key[1] == "cuda"
}
# Whole vectors in either layout; enough images, channels and locations for every value to differ.
SHAPES = {
    "dense_similarity": [("contiguous", (4, 8, 4, 32)), ("channels_last", (4, 64, 1, 3))],
    "pairwise_distance": [("contiguous", (20, 3, 3, 9)), ("channels_last", (20, 5, 2, 3))],
    "warp_affine": [("contiguous", (1, 20, 19, 9)), ("channels_last", (1, 64, 19, 3))],
    "warp_affine_backward": [("contiguous", (1, 20, 9, 7)), ("channels_last", (1, 64, 6, 3))],
    "mahalanobis": [("contiguous", (6, 72, 2, 5))],
    "mahalanobis_backward": [("contiguous", (6, 40, 2, 5))],
}
# More than one of these shapes is cut into.
FEW = {("pairwise_distance", "splits", value) for value in ("32", "64")} | {
    ("mahalanobis", "parts", value) for value in ("16", "32")
}


def plans_of(kernel: str) -> Iterator[Plan]:
    """Each value alone, then values of all fields together, each of them at least once."""
    fields = KERNELS[kernel]
    for field, values in fields.items():
        for value in values:
            yield {field: value}
    for turn in range(max(map(len, fields.values()))):
        yield {
            field: values[(turn * (place + 1)) % len(values)]
            for place, (field, values) in enumerate(fields.items())
        }


def case_of(kernel: str) -> Case:
    """The call with the most results."""
    own = [c for c in CASES if c.op in (kernel, f"{kernel}_loss") and "squared" not in c.options]
    return own[-1] if kernel == "dense_similarity" else own[0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_plan_gives_the_result_or_is_refused(kernel, backend, kernels, poisoned):
    served: set[tuple[str, str]] = set()
    library = kernels.library(kernel)
    library.device(Device(4, 99 * 1024))
    try:
        for (layout, shape), plan in itertools.product(SHAPES[kernel], plans_of(kernel)):
            kernels.forced = {kernel: plan}
            try:
                check_case(case_of(kernel), backend, Inputs(torch.float32, "cpu", layout, shape))
            except KernelError as error:
                assert "forced plan" in str(error), plan
            else:
                served |= set(plan.items())
    finally:
        kernels.forced = {}
    every = {(field, v) for field, values in KERNELS[kernel].items() for v in values}
    assert every - served == {(field, v) for of, field, v in FEW if of == kernel}


@pytest.mark.parametrize(
    ("kernel", "plan", "blocks"),
    [
        # 128 locations, four to a lane: as many tiles as lanes share one.
        ("dense_similarity", {"lanes": "1"}, 1),
        ("dense_similarity", {"lanes": "8"}, 8),
        ("dense_similarity", {"lanes": "8", "rows": "plain"}, 8),
        # 27 locations of 20 images in blocks of 32 and in parts of eight images.
        ("pairwise_distance", {"threads": "32", "splits": "1"}, 1),
        ("pairwise_distance", {"threads": "32", "splits": "2"}, 2),
        # Tiles of 16 rows of 19, 20 channels in chunks of 8.
        ("warp_affine", {"run": "1", "chunk": "8"}, 2 * 3),
        ("warp_affine", {"run": "4", "chunk": "64"}, 1),
        ("mahalanobis", {"locations": "2", "parts": "1"}, 5),
        ("mahalanobis", {"locations": "1", "parts": "1", "images": "1"}, 10),
        ("mahalanobis_backward", {"locations": "4"}, 3),
    ],
    ids=str,
)
def test_a_forced_plan_is_what_is_launched(kernel, plan, blocks, backend, kernels):
    """The grid of the kernel itself, without those that finish its sums."""
    case = next(c for c in CASES if c.op == kernel and "squared" not in c.options)
    library = kernels.library(kernel)
    library.device(Device(4, 99 * 1024))
    layout, shape = SHAPES[kernel][0]
    arguments = list(case.make(Inputs(torch.float32, "cpu", layout, shape)))
    if kernel == "warp_affine":
        arguments[2] = shape[2:]
    library.counts()
    kernels.forced = {kernel: plan}
    try:
        backend.run(case.op, *arguments)
    finally:
        kernels.forced = {}
    assert library.counts().blocks == blocks


def test_rows_that_do_not_fit_are_refused(backend, kernels):
    kernels.library("dense_similarity").device(Device(1, 8 * 1024))
    kernels.forced = {"dense_similarity": {"rows": "staged"}}
    i = Inputs(torch.float32, shape=(16, 256, 1, 16))
    try:
        with pytest.raises(KernelError, match="more shared memory than the device gives"):
            backend.run("dense_similarity", i.features(), i.features(), None)
    finally:
        kernels.forced = {}
    backend.run("dense_similarity", i.features(), i.features(), None)
