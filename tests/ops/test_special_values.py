"""Values at which a straightforward formula goes wrong: zeros, extremes, NaN and no partner."""

from __future__ import annotations

import warnings

import pytest
import torch
from op_support import stems
from op_support.cases import DTYPES, Inputs, accumulation, as_tuple, short
from op_support.functions import FUNCTIONS, ONE_OF_EACH, require_gradients
from op_support.tolerance import assert_accurate, edge_band
from torch import Tensor

from fastalign import ops

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=short)
either_distance = pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])

# By the words that stand for the form.
WHITENERS = {
    "packed": lambda i, dtype: i.whitener(dtype),
    "low rank": lambda i, dtype: i.low_rank(9, dtype),
}
either_form = pytest.mark.parametrize("form", WHITENERS)

# Enough for a handful of operations, where plain PyTorch is no yardstick since it fails here.
FEW_ULPS = 32


def _with_gradients(out: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """The result, and the gradients of its weighted sum with weights that no symmetry hides."""
    weight = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype, device=out.device)
    return out, *torch.autograd.grad(out, leaves, weight.view(out.shape))


def _exact(*tensors: Tensor) -> list[Tensor]:
    return [value.detach().cpu().double().requires_grad_() for value in tensors]


def _compare(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], ulps: float = FEW_ULPS) -> None:
    for index, (out, best) in enumerate(zip(found, wanted, strict=True)):
        assert_accurate(out, best.detach(), ulps=ulps, name=f"tensor {index}")


def _require(backend, name: str, *tensors: Tensor | None) -> None:
    backend.require(name, *(value for value in tensors if value is not None))


@every_dtype
def test_zero_vectors_have_cosine_and_gradient_zero(dtype, backend):
    inputs = Inputs(dtype, backend.device)
    p, z = inputs.features(), inputs.features()
    p[1, :, 2, 3] = 0
    z[2, :, 0, 0] = 0
    z[:, :, 1, 1] = 0
    _require(backend, "dense_similarity", p, z)
    leaves = p.requires_grad_(), z.requires_grad_()
    found = _with_gradients(ops.dense_similarity(p, z, backend=backend.name), *leaves)
    exact = _exact(p, z)
    _compare(found, _with_gradients(stems.of("dense_similarity").definition(*exact), *exact))
    value, to_p, to_z = found
    assert value[1, 2, 3] == 0 and (value[:, 1, 1] == 0).all()
    assert (to_p[1, :, 2, 3] == 0).all() and (to_p[:, :, 1, 1] == 0).all()
    assert (to_z[2, :, 0, 0] == 0).all() and (to_z[:, :, 1, 1] == 0).all()


@every_dtype
@either_distance
def test_equal_images_have_distance_and_gradient_zero(dtype, squared, backend):
    h = Inputs(dtype, backend.device).features()
    h[4] = h[0]
    h[:, :, 2] = h[:1, :, 2]
    _require(backend, "pairwise_distance", h)
    h.requires_grad_()
    found = _with_gradients(ops.pairwise_distance(h, squared=squared, backend=backend.name), h)
    exact = _exact(h)
    wanted = _with_gradients(
        stems.of("pairwise_distance").definition(*exact, squared=squared), *exact
    )
    _compare(found, wanted)
    assert (found[0][:, 2] == 0).all() and (found[1][:, :, 2] == 0).all()


@every_dtype
@either_distance
@either_form
def test_at_the_mean_distance_and_gradient_are_zero(dtype, squared, form, backend):
    inputs = Inputs(dtype, backend.device)
    x, whitener = inputs.features(), WHITENERS[form](inputs, accumulation(dtype))
    mean = x[0].to(accumulation(dtype))
    _require(backend, "mahalanobis", x, mean, whitener)
    leaves = [value.requires_grad_() for value in (x, mean, whitener)]
    out = ops.mahalanobis(*leaves, squared=squared, backend=backend.name)
    assert (out[0] == 0).all() and (out[1:] > 0).all()
    for gradient in torch.autograd.grad(out[0].sum(), leaves):
        assert (gradient == 0).all()


def _scaled(inputs: Inputs, smallest: float, largest: float) -> Tensor:
    """Features whose images have lengths from ``smallest`` to ``largest``, evenly in the log."""
    values = inputs.features().double()
    factors = torch.logspace(0, 1, len(values), base=largest / smallest, dtype=torch.float64)
    return (values * (factors * smallest).to(values.device)[:, None, None, None]).to(inputs.dtype)


# Squares of the first range stay within the dtype they are summed in, those of the second do not.
MAGNITUDES = [
    pytest.param(torch.float16, 1e-5, 1e4, id="float16"),
    pytest.param(torch.bfloat16, 1e-15, 1e15, id="bfloat16"),
    pytest.param(torch.float32, 1e-15, 1e15, id="float32"),
]
EXTREMES = [
    pytest.param(torch.float32, 1e-30, 1e30, id="float32"),
    pytest.param(torch.bfloat16, 1e-30, 1e30, id="bfloat16"),
    pytest.param(torch.float64, 1e-150, 1e150, id="float64"),
]


def _similarity_of_magnitudes(dtype, smallest, largest, backend) -> None:
    inputs = Inputs(dtype, backend.device)
    p, z = _scaled(inputs, smallest, largest), _scaled(inputs, smallest, largest)
    assert p[0].abs().max() < 100 * smallest and p[-1].abs().max() > largest / 100
    _require(backend, "dense_similarity", p, z)
    leaves = p.requires_grad_(), z.requires_grad_()
    value, *gradients = _with_gradients(ops.dense_similarity(p, z, backend=backend.name), *leaves)
    exact = _exact(p, z)
    wanted, *best = _with_gradients(stems.of("dense_similarity").definition(*exact), *exact)
    assert_accurate(value, wanted.detach(), ulps=FEW_ULPS)
    for found, gradient in zip(gradients, best, strict=True):
        for image in range(len(p)):  # each on its own scale, since gradients go with 1 / length
            limit = torch.finfo(dtype).max
            assert_accurate(found[image], gradient[image].clamp(-limit, limit), ulps=FEW_ULPS)


def _distance_of_magnitude(dtype, size, backend) -> None:
    h = _scaled(Inputs(dtype, backend.device), size, size)
    _require(backend, "pairwise_distance", h)
    h.requires_grad_()
    exact = _exact(h)
    found = _with_gradients(ops.pairwise_distance(h, backend=backend.name), h)
    _compare(found, _with_gradients(stems.of("pairwise_distance").definition(*exact), *exact))


def _mahalanobis_of_magnitude(dtype, size, backend, form) -> None:
    inputs = Inputs(dtype, backend.device)
    x, whitener = _scaled(inputs, size, size), WHITENERS[form](inputs, accumulation(dtype))
    mean = torch.zeros_like(inputs.mean())
    _require(backend, "mahalanobis", x, mean, whitener)
    x.requires_grad_()
    exact = _exact(x, mean, whitener)
    found = _with_gradients(ops.mahalanobis(x, mean, whitener, backend=backend.name), x)
    _compare(found, _with_gradients(stems.of("mahalanobis").definition(*exact), exact[0]))


@pytest.mark.parametrize(("dtype", "smallest", "largest"), MAGNITUDES)
def test_short_and_long_vectors(dtype, smallest, largest, backend):
    """float16's own squares would be 0 below 2e-4 and infinite above 256."""
    _similarity_of_magnitudes(dtype, smallest, largest, backend)
    for size in (smallest, largest):
        _distance_of_magnitude(dtype, size, backend)
        for form in WHITENERS:
            _mahalanobis_of_magnitude(dtype, size, backend, form)


@pytest.mark.parametrize(("dtype", "smallest", "largest"), EXTREMES)
def test_the_reference_serves_lengths_whose_square_does_not_exist(
    dtype, smallest, largest, reference_backend
):
    _similarity_of_magnitudes(dtype, smallest, largest, reference_backend)
    for size in (smallest, largest):
        _distance_of_magnitude(dtype, size, reference_backend)
        for form in WHITENERS:
            _mahalanobis_of_magnitude(dtype, size, reference_backend, form)


@either_distance
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_distances_between_nearly_equal_images(squared, offset, backend):
    """The squared form must not subtract large numbers to get a small one."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 3, 4, 5, generator=generator) + offset
    h = (base + 1e-2 * torch.randn(5, 3, 4, 5, generator=generator)).to(backend.device)
    _require(backend, "pairwise_distance", h)
    h.requires_grad_()
    exact = _exact(h)
    found = _with_gradients(ops.pairwise_distance(h, squared=squared, backend=backend.name), h)
    wanted = _with_gradients(
        stems.of("pairwise_distance").definition(*exact, squared=squared), *exact
    )
    # Means of values near 1000 round at 6e-5, beside differences of 1e-2.
    _compare(found, wanted, ulps=FEW_ULPS if offset == 0 else 2**16)


@either_distance
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf")])
def test_what_lies_under_the_mask_does_not_matter(squared, rubbish, backend):
    inputs = Inputs(torch.float32, backend.device)
    h, mask, groups = inputs.features(), inputs.mask(), inputs.groups()
    _require(backend, "pairwise_distance", h, mask, groups)
    spoiled = h.masked_fill(~mask.unsqueeze(1), rubbish)
    for labels in (None, groups):
        clean, dirty = (
            _with_gradients(
                ops.pairwise_distance(leaf, mask, labels, squared=squared, backend=backend.name),
                leaf,
            )
            for leaf in (h.clone().requires_grad_(), spoiled.clone().requires_grad_())
        )
        assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
        assert (dirty[0][~mask] == 0).all()
        assert (dirty[1].movedim(1, -1)[~mask] == 0).all()


@either_distance
def test_an_infinite_image_does_not_reach_other_groups(squared, backend):
    inputs = Inputs(torch.float32, backend.device)
    h, groups = inputs.features(), inputs.groups()
    _require(backend, "pairwise_distance", h, None, groups)
    lonely = int((groups == 9).nonzero())
    spoiled = h.clone()
    spoiled[lonely] = float("inf")
    results = []
    for leaf in (h.requires_grad_(), spoiled.requires_grad_()):
        out = ops.pairwise_distance(leaf, None, groups, squared=squared, backend=backend.name)
        others = torch.arange(len(h), device=h.device) != lonely
        results.append((out[others], torch.autograd.grad(out[others].sum(), leaf)[0][others]))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)
def test_nan_is_handed_on_and_stays_where_it_belongs(function, backend):
    """A NaN in one image: seen in the result, and never at a location without one."""
    tensors = list(function.make(Inputs(torch.float32, backend.device, shape=(4, 3, 4, 5))))
    if "pairwise" in function.name:
        tensors[1] = torch.ones_like(tensors[1])  # nothing masked
    if function.name == "warp_affine":
        tensors[1] = ops.affine.identity(4, device=backend.device)
    _require(backend, function.name, *tensors)
    clean = function(*tensors, backend=backend.name)
    tensors[0] = tensors[0].clone()
    tensors[0][0, :, 1, 2] = float("nan")
    dirty = function(*tensors, backend=backend.name)
    assert dirty.isnan().any()
    if function.name in ("dense_similarity", "pairwise_distance", "mahalanobis"):
        away = torch.ones(4, 5, dtype=torch.bool)
        away[1, 2] = False
        assert torch.equal(dirty[:, away], clean[:, away])
        assert dirty[0, 1, 2].isnan()


ALONE = {
    "one image": (1, None),
    "groups of one": (3, torch.tensor([5, 1, -3])),
}


@every_dtype
@pytest.mark.parametrize("alone", ALONE, ids=str)
def test_without_partners_value_and_gradient_are_zero(dtype, alone, backend):
    batch, labels = ALONE[alone]
    inputs = Inputs(dtype, backend.device, shape=(batch, 5, 3, 4))
    p, z = inputs.features().requires_grad_(), inputs.features().requires_grad_()
    groups = None if labels is None else labels.to(backend.device)
    _require(backend, "dense_similarity", p, z, groups)
    _require(backend, "pairwise_distance", p, None, groups)
    results = [
        (ops.dense_similarity(p, z, groups, backend=backend.name), (p, z)),
        (ops.dense_similarity_loss(p, z, groups, backend=backend.name), (p, z)),
    ]
    for squared in (False, True):
        options = {"squared": squared, "backend": backend.name}
        results += [
            (ops.pairwise_distance(p, None, groups, **options), (p,)),
            (ops.pairwise_distance_loss(p, None, groups, **options), (p,)),
        ]
    for out, leaves in results:
        assert (out == 0).all()
        assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), leaves))


@either_distance
def test_nothing_valid_is_no_distance(squared, backend):
    h = Inputs(torch.float32, backend.device).features().requires_grad_()
    mask = torch.zeros(h.shape[0], *h.shape[2:], dtype=torch.bool, device=backend.device)
    mask[0] = True  # one valid image makes no pair
    _require(backend, "pairwise_distance", h, mask)
    out = ops.pairwise_distance(h, mask, squared=squared, backend=backend.name)
    assert (out == 0).all()
    assert (torch.autograd.grad(out.sum(), h)[0] == 0).all()


def test_only_equality_of_labels_counts(backend):
    """Not their order, sign or size."""
    inputs = Inputs(torch.float32, backend.device)
    p, z = inputs.features(), inputs.features()
    first = torch.tensor([0, 1, 0, 2, 0, 1], device=backend.device)
    names = torch.tensor([-(2**62), 2**62, -1], device=backend.device)
    _require(backend, "dense_similarity", p, z, first)
    _require(backend, "pairwise_distance", p, None, first)
    for function, arguments in ((ops.dense_similarity, (p, z)), (ops.pairwise_distance, (p, None))):
        out = function(*arguments, first, backend=backend.name)
        renamed = function(*arguments, names[first], backend=backend.name)
        torch.testing.assert_close(out, renamed)
        together = function(*arguments, torch.full_like(first, 7), backend=backend.name)
        torch.testing.assert_close(together, function(*arguments, None, backend=backend.name))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=short)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=short)
@either_form
def test_whiteners_may_be_stored_in_16_bits(stored, dtype, form, backend):
    """Computed as if the rounded factors had been given in float32."""
    inputs = Inputs(dtype, backend.device)
    x, mean, whitener = inputs.features(), inputs.mean(), WHITENERS[form](inputs, stored)
    _require(backend, "mahalanobis", x, mean, whitener)
    leaves = [value.requires_grad_() for value in (x, mean, whitener)]
    found = _with_gradients(ops.mahalanobis(*leaves, backend=backend.name), *leaves)
    assert [value.dtype for value in found] == [torch.float32, dtype, torch.float32, stored]
    exact = _exact(*leaves)
    _compare(found, _with_gradients(stems.of("mahalanobis").definition(*exact), *exact))


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_expanded_inputs(function, backend):
    """Strides of 0: one image, one map or one mask that stands for a whole batch."""
    tensors = function.make(Inputs(torch.float32, backend.device))
    expanded = [None if t is None else t[:1].expand(t.shape) for t in tensors]
    if "mahalanobis" in function.name:
        expanded[1:] = tensors[1:]
    _require(backend, function.name, *expanded)

    def results(given):
        wanted = require_gradients(function, [None if t is None else t.detach() for t in given])
        leaves = list(given)
        for place, leaf in zip(function.derivable, wanted, strict=True):
            leaves[place] = leaf
        return _with_gradients(function(*leaves, backend=backend.name), *wanted)

    dense = [None if t is None else t.contiguous() for t in expanded]
    for found, wanted in zip(results(expanded), results(dense), strict=True):
        torch.testing.assert_close(found, wanted)


# Rows of theta. The shifts keep all samples away from pixel edges, where derivatives jump.
MAPS = {
    "everything at one point": ((0, 0, 0.0317), (0, 0, 0.0723)),
    "a line": ((0.5113, 0.4937, 0.0317), (0.2519, 0.2483, 0.0723)),
    "strongly smaller": ((9.3127, 1.1371, 0.0317), (-0.7193, 8.1319, 0.0723)),
    "strongly larger": ((0.0131, 0.0023, 0.0317), (0.0011, 0.0173, 0.0723)),
    "mirrored": ((-0.9311, 0.1037, 0.0317), (0.0843, 0.8713, 0.0723)),
    "far outside": ((1.0237, 0.1013, 50.0317), (0.1093, 1.0331, -70.0723)),
}


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("rows", MAPS.values(), ids=MAPS)
def test_maps_without_a_good_inverse(mode, padding, corners, rows, backend):
    size, options = (7, 5), (mode, padding, corners)
    inputs = Inputs(torch.float64, backend.device, shape=(2, 3, 6, 8))
    x = inputs.features()
    theta = torch.tensor([rows, rows], dtype=torch.float64, device=backend.device)
    assert not edge_band(theta, x.shape[2:], size, corners, mode).any()
    _require(backend, "warp_affine", x, theta)
    leaves = x.requires_grad_(), theta.requires_grad_()
    out = ops.warp_affine(x, theta, size, *options, backend=backend.name)
    exact = _exact(x, theta)
    wanted = _with_gradients(stems.of("warp_affine").definition(*exact, size, *options), *exact)
    _compare(_with_gradients(out, *leaves), wanted, ulps=2**12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_map_that_is_not_finite_spoils_its_own_image_only(
    value, padding, mode, deterministic, backend
):
    inputs = Inputs(torch.float32, backend.device)
    x, theta, grad = inputs.features(), inputs.theta(), inputs.features()
    rest = mode, padding, False
    spoiled = theta.clone()
    spoiled[1] = value
    results = [
        (
            backend.run("warp_affine", x, maps, x.shape[2:], *rest),
            *as_tuple(
                backend.run("warp_affine_backward", grad, x, maps, *rest, True, True, deterministic)
            ),
        )
        for maps in (theta, spoiled)
    ]
    others = torch.arange(len(x), device=backend.device) != 1
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean[others], dirty[others])


def test_known_warps(backend):
    """A flip, a quarter turn and a shift by whole pixels, with maps anyone can check."""
    x = Inputs(torch.float32, backend.device, shape=(1, 2, 5, 5)).features()
    _require(backend, "warp_affine", x, x.new_zeros(1, 2, 3))

    def warp(*rows, **options):
        theta = torch.tensor([rows], dtype=torch.float32, device=backend.device)
        return ops.warp_affine(x, theta, backend=backend.name, **options)

    for mode in ("bilinear", "nearest"):
        close = {"rtol": 1e-5, "atol": 1e-5}
        same = warp((1, 0, 0), (0, 1, 0), mode=mode)
        torch.testing.assert_close(same, x, **close)
        flipped = warp((-1, 0, 0), (0, 1, 0), mode=mode)
        torch.testing.assert_close(flipped, x.flip(3), **close)
        turned = warp((0, -1, 0), (1, 0, 0), mode=mode)
        torch.testing.assert_close(turned, x.rot90(1, (2, 3)), **close)
        shifted = warp((1, 0, 2 * 2 / 5), (0, 1, 0), mode=mode)
        torch.testing.assert_close(shifted[..., :3], x[..., 2:], **close)
        assert shifted[..., 3:].abs().max() < 1e-5
        held = warp((1, 0, 2 * 2 / 5), (0, 1, 0), mode=mode, padding_mode="border")
        torch.testing.assert_close(held[..., 3:], x[..., -1:].expand(1, 2, 5, 2), **close)


def test_an_axis_of_one_pixel_is_centred_without_a_warning(backend):
    """With align_corners torch warns of affine_grid, which the caller knows nothing of."""
    x = torch.arange(5.0, device=backend.device).view(1, 1, 5, 1).requires_grad_()
    theta = ops.affine.identity(1, device=backend.device).requires_grad_()
    _require(backend, "warp_affine", x, theta)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = ops.warp_affine(x, theta, (1, 1), align_corners=True, backend=backend.name)
        out.sum().backward()
    assert out.item() == 2 and x.grad.flatten().tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=short)
@pytest.mark.parametrize("theta_dtype", [torch.float32, torch.float64], ids=short)
def test_coordinates_of_wide_images_are_not_computed_in_16_bits(dtype, theta_dtype, backend):
    """Half a pixel of 1024 is below float16's resolution near 1."""
    width = 1024
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 3, width, generator=generator).to(dtype).to(backend.device)
    shift = [[[1.0, 0.0, 1 / width], [0.0, 1.0, 0.0]]]
    theta = torch.tensor(shift, dtype=theta_dtype, device=backend.device)
    _require(backend, "warp_affine", x, theta)
    out = ops.warp_affine(x, theta, backend=backend.name)
    middle = (x[..., :-1].double() + x[..., 1:].double()) / 2
    torch.testing.assert_close(
        out[..., :-1].double(), middle, rtol=0, atol=4 * torch.finfo(dtype).eps
    )


def test_coordinates_of_a_float64_theta_are_not_computed_in_float32(backend):
    """Neighbouring columns differ by 1, so an error of position shows as large in the result."""
    height, width = 3, 257
    column = torch.arange(width, dtype=torch.float64)
    x = (column % 2).expand(1, 1, height, width).contiguous()
    angle = torch.linspace(0.9, 1.0, 50, dtype=torch.float64)
    theta = torch.zeros(len(angle), 2, 3, dtype=torch.float64)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1] = angle, angle / 1000, 1.0
    maps = theta.to(backend.device)
    values = x.to(backend.device, torch.float32).expand(len(theta), 1, height, width)
    _require(backend, "warp_affine", values, maps)
    found = ops.warp_affine(values, maps, padding_mode="border", backend=backend.name)
    centre = (2 * column + 1) / width - 1
    position = ((angle[:, None] * centre + theta[:, 0, 2:]) * width + width - 1) / 2
    position = position.clamp(0, width - 1)
    exact = 1 - (position % 2 - 1).abs()
    # Weights, products and sums are rounded to float32, each once. CUDA steps in units of 2^-32
    # pixels.
    bound = 4 * 2.0**-24 + (width + height) * 2.0**-33
    assert (found[:, 0].double().cpu() - exact[:, None]).abs().max().item() <= bound


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_nearest_samples_do_not_move_with_theta(value, backend):
    """The gradient is 0, also where the image is not finite."""
    inputs = Inputs(torch.float32, backend.device)
    x, theta = inputs.features(), inputs.theta().requires_grad_()
    x[:, :, 2, 3] = value
    backend.require("warp_affine_backward", x, x, theta)
    ops.warp_affine(x, theta, mode="nearest", backend=backend.name).sum().backward()
    assert torch.equal(theta.grad, torch.zeros_like(theta))
