"""The native sums and whiteners of a Gaussian per location against torch in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from op_support.cases import DTYPES, short
from torch import Tensor

from fastalign.nn import DenseGaussian
from fastalign.nn.moments import Moments, PackedTriangle, runs_native
from fastalign.ops import native

CPU = torch.device("cpu")
# Whole vectors, parts of vectors, less than a block of rows; several tiles of pixels and one.
SHAPES = [(6, 21, 7, 37), (17, 33, 4, 5), (1, 100, 3, 3), (3, 2, 1, 1), (2, 1, 5, 4)]
EPS = torch.finfo(torch.float32).eps

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "images last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@pytest.fixture(autouse=True)
def levels(library, keep_level) -> Iterator[list[str]]:
    yield [name for name, supported in library.cpu_isa_levels().items() if supported]


def definition(features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts ``[n]``, means ``[n,C]``, packed sums of outer products ``[n,P]`` and the same sums of
    magnitudes, in float64."""
    values = features.double().flatten(2).permute(2, 0, 1)
    kept = valid.flatten(1).T.unsqueeze(-1)
    values = torch.where(kept, values, 0)
    count = kept.sum(1)
    mean = values.sum(1) / count.clamp_min(1)
    deviations = torch.where(kept, values - mean.unsqueeze(1), 0)
    triangle = PackedTriangle(features.shape[1], CPU)
    outer = triangle.pack(deviations.mT @ deviations)
    return count.squeeze(1), mean, outer, triangle.pack(deviations.abs().mT @ deviations.abs())


def accumulate(features: Tensor, valid: Tensor | None, sizes: list[int]) -> Moments:
    _, channels, height, width = features.shape
    sums = Moments(height * width, channels, CPU)
    assert runs_native("add_moments_", features)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        sums.add(features[part], None if valid is None else valid[part])
        start += size
    return sums


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
def test_sums_are_those_of_the_definition(shape, layout, dtype, levels, library):
    features = (torch.randn(shape) + 3).to(dtype)
    valid = torch.rand(shape[0], *shape[2:]) > 0.3
    given = LAYOUTS[layout](features.masked_fill(~valid.unsqueeze(1), torch.nan))
    count, mean, outer, magnitude = definition(features, valid)
    largest = magnitude.amax(1, keepdim=True)
    first = shape[0] // 2
    for level in levels:
        library.set_cpu_isa(level)
        sums = accumulate(given, valid, [first, shape[0] - first])
        assert torch.equal(sums.count, count)
        torch.testing.assert_close(sums.mean, mean, rtol=1e-13, atol=1e-13)
        # Each of up to B + 1 products is rounded three times and its sum once per term. By halves,
        # deviations and the way between the means are at most twice the whole's largest one.
        apart = (sums.outer.double() - outer).abs()
        assert (apart <= (shape[0] + 4) * EPS * (magnitude + 4 * largest)).all(), level


def test_no_mask_counts_every_image(levels, library):
    features = torch.randn(5, 6, 3, 4)
    for level in levels:
        library.set_cpu_isa(level)
        a = accumulate(features, None, [2, 3])
        b = accumulate(features, torch.ones(5, 3, 4, dtype=torch.bool), [2, 3])
        assert torch.equal(a.outer, b.outer) and torch.equal(a.mean, b.mean)
        assert (a.count == 5).all()


def covariances(channels: int, locations: int) -> tuple[Tensor, Tensor]:
    """Packed sums ``[n,P]`` float32 of 3 C vectors of very different sizes, and 1 / (count - 1)."""
    scales = torch.logspace(-2, 2, channels)
    rows = torch.randn(locations, 3 * channels, channels) * scales
    rows += rows.roll(1, 2) * 0.5
    outer = PackedTriangle(channels, CPU).pack(rows.mT @ rows)
    return outer, torch.full((locations,), 1 / (3 * channels - 1), dtype=torch.float64)


def whiten(outer: Tensor, share: Tensor, kept: Tensor, shrinkage: float, dtype: torch.dtype):
    whitener = torch.full_like(outer, torch.nan, dtype=dtype)
    lost = torch.ones_like(kept)
    native.kernel("whiten_")(whitener, lost, outer, share, kept, shrinkage)
    return whitener, lost


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 21, 32, 100])
@pytest.mark.parametrize("storage", [torch.float32, torch.float16, torch.bfloat16], ids=short)
def test_whiteners_are_inverse_cholesky_factors(channels, storage, levels, library):
    """Any number of channels against blocks of four rows and columns, any number of locations
    against the lanes of a vector."""
    locations = 19
    outer, share = covariances(channels, locations)
    kept = torch.arange(locations) % 5 != 1
    triangle = PackedTriangle(channels, CPU)
    covariance = triangle.symmetric(outer.double() * share[:, None])
    covariance += 0.01 * torch.eye(channels, dtype=torch.float64)
    identity = torch.eye(channels, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    wanted = triangle.pack(torch.linalg.solve_triangular(factor, identity, upper=False))
    wanted *= kept[:, None]
    # The recurrences in float64, at a condition of up to 1e10, and one rounding to the storage.
    largest = wanted.abs().amax(1, keepdim=True)
    smallest = torch.finfo(storage).smallest_normal * torch.finfo(storage).eps
    bound = torch.finfo(storage).eps / 2 * wanted.abs() + 1e-9 * largest + smallest
    for level in levels:
        library.set_cpu_isa(level)
        whitener, lost = whiten(outer, share, kept, 0.01, storage)
        assert not lost.any()
        # float32 lies between float64 and 16 bits: two roundings.
        slack = 1 + torch.finfo(torch.float32).eps / torch.finfo(storage).eps * 2
        assert ((whitener.double() - wanted).abs() <= slack * bound).all(), level


def test_what_is_not_positive_definite_is_reported_and_makes_no_nan(levels, library):
    channels = 6
    triangle = PackedTriangle(channels, CPU)
    rows = torch.randn(12, 5 * channels, channels)
    full = rows.mT @ rows
    share = torch.full((12,), 0.1, dtype=torch.float64)
    full[2, 3], full[2, :, 3] = full[2, 1], full[2, :, 1]  # a channel that repeats another one
    full[5, 4, 4] = -1.0
    full[7] = 0
    full[8] = torch.nan
    outer = triangle.pack(full)
    kept = torch.ones(12, dtype=torch.bool)
    kept[7] = False
    for level in levels:
        library.set_cpu_isa(level)
        whitener, lost = whiten(outer, share, kept, 0.0, torch.float32)
        assert lost.nonzero().flatten().tolist() == [2, 5, 8]
        assert not whitener[7].any()
        sound = torch.tensor([i for i in range(12) if i != 8])
        assert whitener[sound].isfinite().all()


def test_results_do_not_depend_on_the_number_of_threads():
    features = torch.randn(9, 33, 17, 29)
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        gaussian = DenseGaussian(33, (17, 29))
        for part in features.split(4):
            gaussian.update(part)
        gaussian.finalize(keep=True)
        found.append((gaussian._sums.outer, gaussian._sums.mean, gaussian.whitener))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_plain_path_gives_the_same_fit(monkeypatch):
    """What other devices run, and what runs here without native code."""
    features, valid = torch.randn(12, 7, 5, 6), torch.rand(12, 5, 6) > 0.2
    fitted = []
    for backend in ("cpu", "reference"):
        monkeypatch.setenv("FASTALIGN_BACKEND", backend)
        assert runs_native("whiten_", features) == (backend == "cpu")
        fitted.append(DenseGaussian(7, (5, 6)).update(features, valid).finalize())
    torch.testing.assert_close(fitted[0].whitener, fitted[1].whitener, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fitted[0].mean, fitted[1].mean, rtol=1e-6, atol=1e-6)


def test_whiteners_take_the_place_of_the_sums(levels, library):
    outer, share = covariances(21, 19)
    kept = torch.rand(19) > 0.2
    for level in levels:
        library.set_cpu_isa(level)
        apart, lost = whiten(outer, share, kept, 0.01, torch.float32)
        looked = torch.ones_like(kept)
        same = outer.clone()
        kernel = native.kernel("whiten_")
        kernel(outer.new_empty(0), looked, same, share, kept, 0.01)
        assert torch.equal(same, outer) and torch.equal(looked, lost)
        kernel(same, looked, same, share, kept, 0.01)
        assert torch.equal(same, apart)


def test_raw_ops_name_what_does_not_fit():
    outer, share = covariances(3, 4)
    kept = torch.ones(4, dtype=torch.bool)
    for call, message in [
        (lambda: whiten(outer[:, :5], share, kept, 0.0, torch.float32), "contiguous"),
        (
            lambda: whiten(outer[:, :5].contiguous(), share, kept, 0.0, torch.float32),
            "5 entries per location",
        ),
        (lambda: whiten(outer, share[:3], kept, 0.0, torch.float32), "share has shape"),
        (lambda: whiten(outer, share, kept, 0.0, torch.float64), "float32, float16 or bfloat16"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            call()
    sums = Moments(4, 3, CPU)
    with pytest.raises(RuntimeError, match="outer has shape"):
        native.kernel("add_moments_")(
            sums.count, sums.mean, sums.outer[:, :5].contiguous(), torch.rand(2, 3, 2, 2), None
        )
