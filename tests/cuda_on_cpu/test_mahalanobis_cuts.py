"""The ways in which a launch of mahalanobis is cut: stages, passes, parts and tiles of images."""

from __future__ import annotations

import pytest
import torch
from cuda_on_cpu_support.builder import Device
from cuda_on_cpu_support.checks import check_case
from cuda_on_cpu_support.kernels import KernelError
from op_support.cases import Case, Inputs

SMALL, LARGE = Device(3, 99 * 1024), Device(132, 227 * 1024)

CUTS = {
    # [B,C,H,W], the factors' dtype, the device
    "a factor in several stages": ((2, 140, 1, 3), torch.float32, SMALL),
    "one stage, no second": ((1, 180, 1, 2), torch.float32, SMALL),
    "two passes over the rows": ((1, 250, 1, 2), torch.float32, SMALL),
    "stages of single rows": ((1, 1100, 1, 1), torch.bfloat16, Device(1, 48 * 1024)),
    "several tiles of images": ((70, 140, 1, 1), torch.bfloat16, SMALL),
    "tiles of images, sums in place": ((70, 140, 1, 1), torch.float32, SMALL),
    "rows shared by blocks": ((5, 200, 1, 3), torch.float32, LARGE),
    "eight locations a block": ((9, 33, 7, 9), torch.float16, Device(1, 227 * 1024)),
    "no channels": ((2, 0, 3, 2), torch.float32, SMALL),
}
# The same of the low-rank form, with the rows of V.
LOW_RANK_CUTS = {
    "all rows at once": ((5, 140, 1, 3), 9, torch.float32, LARGE),
    "rows at once for one image": ((1, 300, 1, 2), 30, torch.float32, SMALL),
    "some rows after the other": ((6, 700, 1, 2), 30, torch.float32, SMALL),
    "four rows at a time": ((5, 700, 1, 1), 11, torch.bfloat16, Device(1, 64 * 1024)),
    "single rows, single images": ((3, 1100, 1, 1), 3, torch.float32, Device(1, 24 * 1024)),
    "tiles of images, sums apart": ((9, 40, 1, 2), 5, torch.float16, SMALL),
    "images shared by blocks": ((23, 40, 1, 2), 5, torch.float32, LARGE),
    "no channels": ((2, 0, 3, 2), 2, torch.float32, SMALL),
    "no rows": ((5, 40, 1, 2), 0, torch.float32, SMALL),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_every_cut(cut, squared, backend, kernels, poisoned):
    shape, stored, device = CUTS[cut]
    if kernels.library("mahalanobis") is None:
        pytest.skip("there is no CUDA kernel of mahalanobis yet")
    kernels.library("mahalanobis").device(device)

    def tensors(i: Inputs) -> tuple[torch.Tensor, ...]:
        # Factors of the size that makes distances near sqrt(C), as those of a fit.
        scale = max(shape[1], 1) ** -0.5
        return i.features(), i.mean(), (i.whitener(torch.float32) * scale).to(stored)

    _check(cut, shape, tensors, squared, backend)


@pytest.mark.parametrize("cut", LOW_RANK_CUTS)
def test_every_cut_of_the_low_rank_form(cut, backend, kernels, poisoned):
    shape, rank, stored, device = LOW_RANK_CUTS[cut]
    if kernels.library("mahalanobis") is None:
        pytest.skip("there is no CUDA kernel of mahalanobis yet")
    kernels.library("mahalanobis").device(device)

    def tensors(i: Inputs) -> tuple[torch.Tensor, ...]:
        return i.features(), i.mean(), i.low_rank(rank, stored)

    _check(cut, shape, tensors, False, backend)


def _check(cut: str, shape: tuple[int, ...], tensors, squared: bool, backend) -> None:
    for layout in ("contiguous", "channels_last"):
        inputs = Inputs(torch.float32, layout=layout, shape=shape)
        check_case(
            Case("mahalanobis", cut, lambda i: (*tensors(i), None, None, squared)), backend, inputs
        )
        check_case(
            Case(
                "mahalanobis_backward",
                cut,
                lambda i: (i.location_gradient(), *tensors(i), squared, True, True, True),
            ),
            backend,
            inputs,
        )


@pytest.mark.parametrize("form", ["packed", "low rank"])
def test_too_many_channels_are_refused_with_the_reason(form, backend, kernels):
    if kernels.library("mahalanobis") is None:
        pytest.skip("there is no CUDA kernel of mahalanobis yet")
    kernels.library("mahalanobis").device(Device(1, 8 * 1024))
    i = Inputs(torch.float32, shape=(1, 1000, 1, 1))
    whitener = i.whitener() if form == "packed" else i.low_rank(2)
    with pytest.raises(KernelError, match="so many channels"):
        backend.run("mahalanobis", i.features(), i.mean(), whitener, None, None, False)
