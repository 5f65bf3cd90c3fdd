"""Registration: the bank and the refinement against plain loops, poses against those put in."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from fastalign.export import plain_ops
from fastalign.nn import FeatureBackbone
from fastalign.nn.registration import (
    Choice,
    GaussNewtonRefiner,
    Search,
    TemplateAligner,
    TemplateBank,
    choose_family,
    edge_strength,
    search_poses,
    unexplained_share,
)
from fastalign.nn.registration.aligner import edge_size, search_size
from fastalign.nn.registration.bank import hann
from fastalign.nn.registration.encoder import LocalEncoder, resize
from fastalign.nn.registration.search import _bank, angles_within, recentre
from fastalign.ops import affine, warp_affine
from fastalign.ops.reference.refine_pose import steepest

FULL = math.pi


def drawing(height: int, width: int, aspect: float = 1.0) -> Tensor:
    """A part without symmetry on grey, [1,3,height,width]; ``aspect`` is that of the photograph."""
    y, x = torch.meshgrid(
        (2 * torch.arange(height) + 1) / height - 1,
        ((2 * torch.arange(width) + 1) / width - 1) * aspect,
        indexing="ij",
    )

    def inside(distance: Tensor) -> Tensor:
        return torch.sigmoid(60 * distance)

    image = torch.full((3, height, width), 0.35)
    for shape, colour in (
        (inside(0.55 - x.abs()) * inside(0.18 - y.abs()), (0.8, 0.75, 0.7)),
        (inside(0.12 - (x + 0.4).abs()) * inside(0.4 - (y + 0.2).abs()), (0.75, 0.7, 0.65)),
        (inside(0.1 - torch.hypot(x - 0.35, y + 0.02)), (0.1, 0.1, 0.15)),
        (inside(0.13 - torch.hypot(x - 0.2, y - 0.3)), (0.9, 0.4, 0.2)),
    ):
        image += shape * (torch.tensor(colour)[:, None, None] - image)
    return image[None]


def poses(count: int, angle: float, shift: float, aspect: float = 1.0) -> Tensor:
    """Random turns up to ``angle`` and shifts up to ``shift`` of half the size, [count,2,3]."""
    parameters = (2 * torch.rand(count, 3) - 1) * torch.tensor([angle, shift, shift])
    return affine.from_parameters(parameters, "rotation_translation", aspect)


def photographs(theta: Tensor, height: int, width: int, aspect: float = 1.0) -> Tensor:
    part = drawing(height, width, aspect).expand(len(theta), -1, -1, -1).contiguous()
    images = warp_affine(part, theta, padding_mode="border")
    return (images + 0.01 * torch.randn_like(images)).clamp(0, 1)


def encoder() -> LocalEncoder:
    backbone = FeatureBackbone(layers=["blocks.2"], weights="embedded")
    return LocalEncoder(backbone.eval().fuse())


def disagreement(
    theta: Tensor, found: Tensor, size: tuple[int, int], aspect: float = 1.0
) -> tuple[float, float]:
    """How far images drawn at ``theta`` and aligned by ``found`` still differ from the first one:
    the largest angle in degrees and the largest shift in pixels."""
    whole = affine.compose(theta, found)
    relative = affine.compose(affine.invert(whole[:1]), whole)
    pixels = relative[..., 2] * torch.tensor([size[1], size[0]]) / 2
    angle = affine.magnitude(relative, aspect)["rotation"].abs().max()
    return float(angle), float(pixels.norm(dim=1).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_halving_is_the_pooling_of_torch_to_the_last_bit(dtype):
    images = torch.rand(2, 3, 14, 22).to(dtype)
    halved = resize(images, (7, 11))
    assert torch.equal(halved, torch.nn.functional.avg_pool2d(images, 2))
    images.requires_grad_()
    assert torch.autograd.grad(resize(images, (7, 11)).sum(), images)[0].eq(0.25).all()
    with plain_ops():
        assert torch.equal(resize(images, (7, 11)), halved)


# The bank ------------------------------------------------------------------------------------


def correlation_by_loops(descriptors: Tensor, templates: Tensor, max_shift: float) -> Tensor:
    """What the bank's Fourier transforms stand for: [R,2a+1,2b+1] of one image [K,h,w]."""
    height, width = descriptors.shape[-2:]
    window = hann(height, width)
    rows, columns = int(max_shift * height), int(max_shift * width)
    result = torch.zeros(len(templates), 2 * rows + 1, 2 * columns + 1)
    overlap = torch.zeros(2 * rows + 1, 2 * columns + 1)
    image, faded = descriptors * window, templates * window
    for down in range(-rows, rows + 1):
        for right in range(-columns, columns + 1):
            for y in range(max(0, -down), min(height, height - down)):
                for x in range(max(0, -right), min(width, width - right)):
                    at = (down + rows, right + columns)
                    overlap[at] += window[y, x] * window[y + down, x + right]
                    value = faded[:, :, y, x] @ image[:, y + down, x + right]
                    result[:, at[0], at[1]] += value
    return result / (overlap + 0.1 * window.square().sum())


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (7, 3)])
@pytest.mark.parametrize("turns", [1, 3])
def test_the_correlation_is_a_plain_loop_over_shifts(size, turns):
    templates, descriptors = torch.randn(turns, 4, *size), torch.randn(2, 4, *size)
    bank = TemplateBank(torch.arange(turns) * 0.1, templates, max_shift=0.4)
    given = bank.correlate(descriptors)
    for image, correlation in zip(descriptors, given, strict=True):
        expected = correlation_by_loops(image, templates, 0.4)
        torch.testing.assert_close(correlation, expected, rtol=1e-4, atol=1e-4)


def test_poses_of_several_images_are_those_of_each_alone_to_the_bit():
    torch.manual_seed(0)
    bank = TemplateBank(torch.arange(12) * math.pi / 6, torch.randn(12, 8, 16, 16))
    images = torch.randn(8, 8, 16, 16)
    for together, alone in zip(
        bank(images), zip(*map(bank, images.split(1)), strict=True), strict=True
    ):
        assert torch.equal(together, torch.cat(alone))


def test_the_window_fades_to_0_just_outside_the_map():
    window = hann(4, 6)
    rows, columns = (
        torch.tensor([math.sin(math.pi * (i + 0.5) / n) for i in range(n)]).square() for n in (4, 6)
    )
    torch.testing.assert_close(window, torch.outer(rows, columns))


def blob(height: int, width: int, row: float, column: float) -> Tensor:
    """Descriptors [1,2,h,w]: a blob, and a second one at its right."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    first = torch.exp(-((y - row).square() + (x - column).square()) / 4)
    second = torch.exp(-((y - row).square() + (x - column - 3).square()) / 4)
    return torch.stack([first, second])[None]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -3), (-4, 1), (1.5, 0.25)])
def test_a_shifted_image_is_found(down, right):
    bank = TemplateBank(torch.zeros(1), blob(20, 24, 9, 10), max_shift=0.3)
    theta, _ = bank(blob(20, 24, 9 + down, 10 + right))
    assert theta.shape == (1, 1, 2, 3)
    expected = torch.tensor([[1, 0, 2 * right / 24], [0, 1, 2 * down / 20]])
    # Half a pixel: the two windows pull towards the middle.
    torch.testing.assert_close(theta[0, 0], expected, atol=0.5 * 2 / 20, rtol=0)


def turned_bank(limit: float) -> tuple[TemplateBank, Tensor, Tensor]:
    """A bank of one random picture turned by each angle; the picture; the angles."""
    angles = angles_within(limit)
    picture = drawing(32, 32)
    turns = affine.from_parameters(angles[:, None], "rotation")
    templates = warp_affine(picture.expand(len(angles), -1, -1, -1).contiguous(), turns)
    middle = templates.mean((0, 2, 3), keepdim=True)
    return TemplateBank(angles, templates - middle, max_shift=0.2), picture - middle, angles


@pytest.mark.parametrize("limit", [math.radians(30), FULL])
@pytest.mark.parametrize("degrees", [0.0, 10.0, -22.5, 28.0])
def test_a_turned_image_is_found(limit, degrees):
    bank, picture, _ = turned_bank(limit)
    turn = affine.from_parameters(torch.tensor([[math.radians(degrees)]]), "rotation")
    theta, _ = bank(warp_affine(picture, turn, padding_mode="border"))
    # The warp that aligns the image undoes its turn.
    found = float(affine.magnitude(theta[0, 0])["rotation"])
    assert found == pytest.approx(-degrees, abs=2)
    assert theta[0, 0, :, 2].abs().max() < 0.06


def test_a_full_circle_has_no_end():
    bank, picture, angles = turned_bank(FULL)
    assert bank.full_circle and not turned_bank(2.0)[0].full_circle
    assert len(angles) == 48 and bank.step == pytest.approx(math.radians(7.5))
    for degrees in (179.0, -179.0, 176.25):
        turn = affine.from_parameters(torch.tensor([[math.radians(degrees)]]), "rotation")
        theta, _ = bank(warp_affine(picture, turn, padding_mode="border"))
        off = affine.magnitude(affine.compose(turn[0], theta[0, 0]))["rotation"]
        assert abs(float(off)) < 2


def test_candidates_are_the_largest_local_maxima_over_the_angles():
    bank = turned_bank(math.radians(60))[0]
    best = torch.full((1, len(bank.angles)), 0.0)
    best[0, [0, 4, 5, 9, 16]] = torch.tensor([0.3, 0.8, 0.9, 0.5, 0.4])
    # 4 is higher than all but 5, and lies on its slope.
    assert bank._peaks(best, 4).tolist()[0] == [5, 9, 16, 0]
    around = turned_bank(FULL)[0]
    best = torch.zeros(1, 48)
    best[0, [0, 20, 47]] = torch.tensor([0.5, 0.3, 0.9])
    # The first angle follows the last.
    assert around._peaks(best, 2).tolist()[0] == [47, 20]
    # No more candidates than angles.
    assert turned_bank(0)[0](torch.randn(2, 3, 32, 32), 5)[0].shape == (2, 1, 2, 3)


def test_the_aspect_makes_turns_true_ones():
    angles = angles_within(FULL)
    bank = TemplateBank(angles, torch.randn(48, 2, 8, 8), aspect=2.0, max_shift=0.1)
    for theta in bank(torch.randn(1, 2, 8, 8), 3)[0][0]:
        to_true = torch.diag(torch.tensor([2.0, 1.0]))
        rotation = to_true @ theta[:, :2] @ torch.linalg.inv(to_true)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("degrees", "count"), [(0, 1), (5, 3), (7.5, 3), (8, 5), (30, 9), (177, 48), (180, 48)]
)
def test_the_angles_of_a_bank(degrees, count):
    angles = angles_within(math.radians(degrees))
    assert len(angles) == count
    steps = angles.diff()
    torch.testing.assert_close(steps, torch.full_like(steps, math.radians(7.5)))
    assert (angles == 0).sum() == 1


# Gauss-Newton --------------------------------------------------------------------------------

# A warp of each family that is well within what the refinement can follow.
SMALL = {
    "translation": (0.05, -0.04),
    "rotation": (0.06,),
    "scale": (0.05, -0.04),
    "shear": (0.05, -0.03),
    "rotation_scale": (0.05, 0.04),
    "rotation_translation": (0.06, 0.04, -0.05),
    "scale_translation": (0.04, -0.03, 0.05, 0.03),
    "similarity": (0.05, 0.03, -0.04, 0.04),
    "affine": (0.03, -0.03, 0.04, -0.03, 0.04, -0.04),
}


def refiner(family: str, size: tuple[int, int] = (64, 64), **options) -> GaussNewtonRefiner:
    template = edge_strength(drawing(*size, options.get("aspect", 1.0)), size)[0, 0]
    return GaussNewtonRefiner(template, torch.ones(size), family, **options)


def off_in_pixels(given: Tensor, expected: Tensor, size: tuple[int, int]) -> float:
    """The largest distance between where two maps send the corners and edges of the image."""
    ends = torch.tensor([-1.0, 0.0, 1.0])
    points = torch.cartesian_prod(ends, ends, torch.ones(1)).T
    half = torch.tensor([size[1], size[0]])[:, None] / 2
    return float((((given - expected) @ points) * half).norm(dim=-2).max())


@pytest.mark.parametrize("size", [(64, 64), (48, 80)], ids=["square", "wide"])
@pytest.mark.parametrize("family", sorted(affine.FAMILIES))
def test_known_warps_of_each_family_are_recovered_to_a_fraction_of_a_pixel(family, size):
    aspect = size[1] / size[0]
    by_hand = affine.from_parameters(torch.tensor([SMALL[family]]), family, aspect)
    image = warp_affine(drawing(*size, aspect), affine.invert(by_hand), padding_mode="border")
    start = affine.identity(1)
    assert off_in_pixels(start, by_hand, size) > 0.9
    refine = refiner(family, size, aspect=aspect, iterations=12)
    theta, correlation = refine(edge_strength(image, size), start)
    assert off_in_pixels(theta, by_hand, size) < 0.4
    assert correlation.item() > 0.99


def test_a_start_far_from_the_identity_is_refined_as_well():
    size = (64, 64)
    truth = affine.from_parameters(torch.tensor([[2.5, 0.2, -0.1]]), "rotation_translation")
    image = warp_affine(drawing(*size), affine.invert(truth), padding_mode="border")
    start = affine.from_parameters(torch.tensor([[2.44, 0.16, -0.06]]), "rotation_translation")
    theta, _ = refiner("rotation_translation")(edge_strength(image, size), start)
    assert off_in_pixels(start, truth, size) > 2
    assert off_in_pixels(theta, truth, size) < 0.5


@pytest.mark.parametrize("family", ["translation", "rotation_translation", "affine"])
def test_it_is_never_worse_than_the_start(family):
    refine = refiner(family)
    edges = edge_strength(torch.rand(24, 3, 64, 64), (64, 64))
    edges[:8] = edge_strength(drawing(64, 64), (64, 64))
    start = poses(24, FULL, 0.8)
    before = refine.correlation(edges, start)
    theta, after = refine(edges, start)
    assert (after >= before).all() and (after > before).any()
    torch.testing.assert_close(refine.correlation(edges, theta), after)


def test_steps_that_overshoot_on_noise_are_not_kept():
    template = torch.rand(16, 16)
    edges, start = torch.rand(40, 1, 16, 16), poses(40, 0.3, 0.2)
    theta, best = start, torch.full((40,), -1.0)
    overshot = False
    for iterations in range(7):
        refine = GaussNewtonRefiner(template, torch.ones(16, 16), "affine", iterations=iterations)
        further, after = refine(edges, start)
        assert (after >= best).all() and (after > best).any()
        kept = after == best
        assert torch.equal(further[kept], theta[kept])
        overshot |= bool(kept.any())
        theta, best = further, after
    assert overshot


@pytest.mark.parametrize("aspect", [1.0, 1.6])
@pytest.mark.parametrize("family", sorted(affine.FAMILIES))
def test_the_derivatives_of_the_template_are_those_of_its_warps(family, aspect):
    y, x = torch.linspace(0, 2, 48)[:, None], torch.linspace(0, 3, 60)
    template = (torch.sin(3 * x + y) + torch.cos(2 * x * y)).float()
    given = steepest(template, affine.generators(family, aspect))
    for index in range(given.shape[-1]):
        step = torch.zeros(1, given.shape[-1])
        step[0, index] = 0.01
        there, back = (
            warp_affine(template[None, None], affine.from_parameters(sign * step, family, aspect))
            for sign in (1, -1)
        )
        expected = (there - back)[0, 0] / 0.02
        # Away from the border, where a warp reads from outside.
        inner = (slice(4, -4), slice(4, -4))
        error = (given[..., index] - expected)[inner].abs().max()
        assert error < 0.05 * expected[inner].abs().max()


def test_no_iterations_return_the_start():
    edges = edge_strength(torch.rand(2, 3, 64, 64), (64, 64))
    start = poses(2, 0.1, 0.1)
    refine = refiner("affine", iterations=0)
    theta, correlation = refine(edges, start)
    assert torch.equal(theta, start)
    torch.testing.assert_close(correlation, refine.correlation(edges, start))


def pearson(a: Tensor, b: Tensor, weight: Tensor) -> float:
    a, b, weight = (x.flatten().double() for x in (a, b, weight))
    weight = weight / weight.sum()
    a, b = a - (weight * a).sum(), b - (weight * b).sum()
    return float((weight * a * b).sum() / ((weight * a * a).sum() * (weight * b * b).sum()).sqrt())


def test_the_correlation_is_pearsons_weighted_and_without_what_lies_outside():
    template, weight = torch.rand(16, 20), torch.rand(16, 20)
    refine = GaussNewtonRefiner(template, weight, "affine")
    edges, theta = torch.rand(3, 1, 16, 20), poses(3, 0.5, 0.5)
    warped = warp_affine(edges, theta, padding_mode="border")
    seen = affine.valid_mask(theta, (16, 20), margin=1.0)
    assert not seen.all() and seen.any((1, 2)).all()
    given = refine.correlation(edges, theta)
    for index in range(3):
        expected = pearson(warped[index, 0], template, weight * seen[index])
        assert given[index].item() == pytest.approx(expected, abs=1e-4)


def test_brightness_and_contrast_of_the_edges_do_not_matter():
    refine = refiner("translation")
    edges = edge_strength(photographs(poses(3, 0, 0.1), 64, 64), (64, 64))
    plain, plain_correlation = refine(edges, affine.identity(3))
    theta, correlation = refine(3 * edges + 2, affine.identity(3))
    torch.testing.assert_close(theta, plain, atol=1e-3, rtol=0)
    torch.testing.assert_close(correlation, plain_correlation, atol=1e-4, rtol=0)


def test_what_the_template_gives_no_weight_does_not_matter():
    size = (64, 64)
    template = edge_strength(drawing(*size), size)[0, 0]
    weight = torch.ones(size)
    weight[:, 48:] = 0
    refine = GaussNewtonRefiner(template, weight, "rotation_translation")
    edges = edge_strength(photographs(affine.identity(1), *size), size)
    dirty = edges.clone()
    dirty[..., 50:] = 20 * torch.rand(64, 14)
    clean, clean_correlation = refine(edges, affine.identity(1))
    theta, correlation = refine(dirty, affine.identity(1))
    assert off_in_pixels(theta, clean, size) < 0.05
    assert correlation.item() == pytest.approx(clean_correlation.item(), abs=1e-3)


def test_places_outside_the_image_do_not_pull():
    """A part cut off by the border of the photograph; what is filled in there must not count."""
    size = (64, 64)
    truth = affine.from_parameters(torch.tensor([[0.0, -0.45, 0.0]]), "rotation_translation")
    image = warp_affine(drawing(*size), affine.invert(truth), padding_mode="border")
    start = affine.from_parameters(torch.tensor([[0.02, -0.40, 0.04]]), "rotation_translation")
    theta, correlation = refiner("rotation_translation")(edge_strength(image, size), start)
    assert off_in_pixels(theta, truth, size) < 0.5 and correlation.item() > 0.98


def test_a_pose_that_shows_little_of_the_template_is_no_pose():
    refine = refiner("translation")
    edges = edge_strength(drawing(64, 64), (64, 64)).repeat(4, 1, 1, 1)
    shifts = torch.tensor([[0.0, 0.0], [1.7, 0.0], [9.0, 9.0], [math.nan, 0.0]])
    correlation = refine.correlation(edges, affine.from_parameters(shifts, "translation"))
    assert correlation[0] > 0.99 and correlation[1:].tolist() == [-1, -1, -1]


def test_images_without_edges_make_no_nan():
    edges = edge_strength(torch.full((2, 3, 64, 64), 0.5), (64, 64))
    theta, correlation = refiner("similarity")(edges, poses(2, 0.1, 0.1))
    assert theta.isfinite().all() and correlation.isfinite().all()


def test_edge_strength_forgets_brightness_and_contrast():
    images = drawing(64, 64)
    strength = edge_strength(images, (32, 32))
    assert strength.shape == (1, 1, 32, 32) and (strength >= 0).all()
    torch.testing.assert_close(edge_strength(images + 0.2, (32, 32)), strength, atol=1e-3, rtol=0)
    paler = edge_strength(0.6 * images, (32, 32))
    # Up to the noise floor, which holds faint edges down.
    assert pearson(paler, strength, torch.ones(32, 32)) > 0.99
    flat = edge_strength(torch.full((1, 3, 32, 32), 0.7), (32, 32))
    assert flat.max() < 1e-3


# The encoder ---------------------------------------------------------------------------------


def test_descriptors_are_of_length_1_and_decorrelated():
    encode = encoder()
    features = encode.features(photographs(poses(6, 0.5, 0.3), 64, 64))
    valid = torch.rand(6, 8, 8) > 0.2
    encode.fit(features, valid)
    described = encode.project(features)
    assert described.shape == (6, 24, 8, 8)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(6, 8, 8))
    # Before they are scaled to length 1: mean 0 and equal variances where valid.
    vectors = features.permute(0, 2, 3, 1)[valid].double()
    projected = (vectors - encode.mean) @ encode.basis.double()
    assert projected.mean(0).abs().max() < 1e-3
    covariance = projected.T @ projected / len(projected)
    torch.testing.assert_close(covariance, torch.eye(24).double(), atol=0.02, rtol=0)


def test_features_where_it_is_not_valid_do_not_count():
    encode, other = encoder(), encoder()
    features, valid = torch.randn(4, 40, 6, 6), torch.rand(4, 6, 6) > 0.4
    encode.fit(features, valid)
    other.fit(torch.where(valid[:, None], features, 1e4), valid)
    assert torch.equal(encode.basis, other.basis) and torch.equal(encode.mean, other.mean)


@pytest.mark.parametrize(
    ("given", "size"), [((64, 64), (32, 32)), ((50, 70), (32, 48)), ((20, 20), (32, 32))]
)
def test_resizing_keeps_means_and_shapes(given, size):
    ramp = torch.linspace(0, 1, given[1]).expand(1, 3, *given).contiguous()
    small = resize(ramp, size)
    assert small.shape == (1, 3, *size) and small.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert resize(ramp, given) is ramp


@pytest.mark.parametrize(
    ("image", "size"),
    [
        ((256, 256), (128, 128)),
        ((64, 64), (128, 128)),
        ((512, 1024), (96, 192)),
        ((32, 512), (32, 512)),
        ((1000, 700), (160, 96)),
    ],
)
def test_the_size_of_the_search(image, size):
    assert search_size(image) == size


# Searching -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "aspect", "angle", "shift", "degrees", "pixels"),
    [
        ((128, 128), 1.0, FULL, 0.15, 1.0, 1.0),
        ((128, 128), 1.0, 0.4, 0.25, 1.0, 1.0),
        # Photographs of 4 : 3 resized to a square, and a wide one that was not distorted.
        ((96, 96), 4 / 3, FULL, 0.1, 1.5, 1.0),
        ((64, 128), 2.0, FULL, 0.1, 1.5, 1.0),
    ],
    ids=["full turns", "small turns", "4:3 as a square", "wide"],
)
def test_parts_turned_and_shifted_at_random_are_aligned(
    size, aspect, angle, shift, degrees, pixels
):
    theta = poses(7, angle, shift, aspect)
    images = photographs(theta, *size, aspect)
    found = search_poses(
        images, encoder(), "rotation_translation", aspect=aspect, max_angle=max(angle, 0.5)
    )
    before = disagreement(theta, affine.identity(7), size, aspect)
    after = disagreement(theta, found.theta, size, aspect)
    assert before[0] > 10 and before[1] > 4
    assert after[0] < degrees and after[1] < pixels
    assert found.correlation.min() > 0.9
    # New images are answered as well, at another size.
    fresh = poses(4, angle, shift, aspect)
    large = photographs(fresh, 2 * size[0], 2 * size[1], aspect)
    answer = found.aligner(large)
    both = torch.cat([theta, fresh]), torch.cat([found.theta, answer.theta])
    after = disagreement(*both, size, aspect)
    assert after[0] < degrees and after[1] < pixels


@pytest.fixture(scope="module")
def shifted() -> tuple[Tensor, Tensor, Search]:
    """Poses, images and the search over translations."""
    torch.manual_seed(1)
    theta = poses(8, 0, 0.3)
    images = photographs(theta, 64, 64)
    return theta, images, search_poses(images, encoder(), "translation")


def test_shifted_parts_are_aligned_by_translations_alone(shifted):
    theta, _, found = shifted
    assert torch.equal(found.theta[..., :2], torch.eye(2).expand(8, 2, 2))
    assert disagreement(theta, found.theta, (64, 64))[1] < 0.5
    assert len(found.aligner.bank.angles) == 1


def test_templates_are_means_where_images_are_in_sight(shifted):
    """Of vectors of length 1, and so as long at a border that few images cover as elsewhere."""
    _, _, found = shifted
    lengths = torch.linalg.vector_norm(found.aligner.bank.templates, dim=1)
    assert lengths.max() <= 1 + 1e-5 and lengths.median() > 0.5


def test_the_frame_is_that_of_the_mean_pose(shifted):
    theta, _, found = shifted
    assert found.theta[..., 2].mean(0).abs().max() < 0.03
    assert theta[0, :, 2].abs().max() > 0.1


def test_the_answer_about_one_image_does_not_depend_on_its_batch(shifted):
    _, images, found = shifted
    together = found.aligner(images)
    # To rounding, which is 1/600 of a pixel.
    for index, image in enumerate(images):
        alone = found.aligner(image[None])
        torch.testing.assert_close(alone.theta[0], together.theta[index], atol=5e-5, rtol=0)
        torch.testing.assert_close(
            alone.correlation[0], together.correlation[index], atol=1e-5, rtol=0
        )
    flipped = found.aligner(images.flip(0))
    torch.testing.assert_close(flipped.theta.flip(0), together.theta, atol=5e-5, rtol=0)


def test_residuals_fall_by_alignment(shifted):
    _, images, found = shifted
    pose = found.aligner(images)
    edges = edge_strength(images, edge_size(found.aligner.size))
    refiner = found.aligner.refiner
    before = 1 - refiner.correlation(edges, affine.identity(len(images)))
    after = 1 - refiner.correlation(edges, pose.theta)
    assert (after <= before + 1e-6).all() and after.mean() < 0.3 * before.mean()
    torch.testing.assert_close(after, 1 - pose.correlation)


def test_what_is_derived_follows_what_is_loaded():
    """A bank and a refiner that hold other templates answer as those whose state they take over."""
    generator = torch.Generator().manual_seed(0)
    banks = [
        TemplateBank(angles_within(0.5), torch.randn(9, 4, 8, 8, generator=generator))
        for _ in range(2)
    ]
    descriptors = torch.randn(2, 4, 8, 8, generator=generator)
    banks[0].load_state_dict(banks[1].state_dict())
    assert torch.equal(banks[0].correlate(descriptors), banks[1].correlate(descriptors))
    refiners = [
        GaussNewtonRefiner(
            torch.rand(16, 16, generator=generator), torch.ones(16, 16), "similarity"
        )
        for _ in range(2)
    ]
    edges = torch.rand(2, 1, 16, 16, generator=generator)
    refiners[0].load_state_dict(refiners[1].state_dict())
    theta = [refiner(edges, affine.identity(2))[0] for refiner in refiners]
    assert torch.equal(*theta)
    # What is derived is not stored, and moves along.
    assert set(refiners[0].state_dict()) == {"template", "weight"}
    assert refiners[0].to("meta")._generators.is_meta and banks[0].to("meta")._spectra.is_meta


def test_an_aligner_comes_back_from_its_state_bit_for_bit(shifted):
    _, images, found = shifted
    state, tensors = found.aligner.state(), found.aligner.state_dict()
    again = TemplateAligner.from_state(encoder(), state, tensors)
    assert again.state() == state
    first, second = found.aligner(images), again(images)
    assert torch.equal(first.theta, second.theta)
    assert torch.equal(first.correlation, second.correlation)


def test_the_same_search_gives_the_same_poses_bit_for_bit(shifted):
    _, images, found = shifted
    assert torch.equal(search_poses(images, encoder(), "translation").theta, found.theta)


def test_autocast_changes_no_pose(shifted):
    _, images, found = shifted
    plain = found.aligner(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(found.aligner(images).theta, plain.theta)


def test_one_image_is_its_own_template():
    found = search_poses(photographs(affine.identity(1), 64, 64), encoder(), "translation")
    torch.testing.assert_close(found.theta, affine.identity(1), atol=0.02, rtol=0)
    assert found.correlation.item() > 0.99


def test_templates_are_the_aligned_images_turned_before_they_are_encoded():
    theta, angles = poses(3, 1.0, 0.4), angles_within(math.radians(15))
    images, encode = photographs(theta, 64, 64), encoder()
    bank = _bank(images, affine.invert(theta), encode, angles, 1.0, 0.2)
    assert bank.templates.shape == (5, 24, 8, 8)
    for angle, template in zip(angles, bank.templates, strict=True):
        turn = affine.from_parameters(angle.view(1, 1), "rotation")
        expected = encode(warp_affine(drawing(64, 64), turn, padding_mode="border"))[0]
        agreement = torch.cosine_similarity(template, expected, dim=0)[2:6, 2:6]
        assert agreement.mean() > 0.8


def test_images_without_structure_get_finite_poses():
    found = search_poses(torch.full((4, 3, 64, 64), 0.5), encoder(), "translation")
    assert found.theta.isfinite().all() and found.correlation.isfinite().all()


@pytest.mark.parametrize("aspect", [1.0, 1.7])
def test_recentring_moves_all_poses_alike_and_their_mean_to_the_identity(aspect):
    theta = poses(9, 0.5, 0.4, aspect)
    shift = affine.from_parameters(torch.tensor([[0.7, 0.2, -0.1]]), "rotation_translation", aspect)
    given = affine.compose(theta, shift)
    moved = recentre(given, "rotation_translation", aspect)
    # Every pose was moved by the same map on the side of the aligned frame.
    step = affine.compose(affine.invert(given), moved)
    torch.testing.assert_close(step, step[:1].expand(9, 2, 3), atol=1e-5, rtol=0)
    turns = affine.magnitude(moved, aspect)["rotation"].deg2rad()
    assert torch.atan2(turns.sin().mean(), turns.cos().mean()).abs() < 1e-3
    # The middle of the frame is where, over all images, it is nearest to the middle of the image.
    nearest = torch.linalg.lstsq(moved[..., :2].flatten(0, 1), -moved[..., 2:].flatten(0, 1))
    assert nearest.solution.abs().max() < 1e-5


def test_poses_all_around_the_circle_have_no_mean_turn():
    angles = torch.arange(8) * math.pi / 4
    theta = affine.from_parameters(angles[:, None], "rotation")
    torch.testing.assert_close(recentre(theta, "rotation_translation", 1.0), theta)


# The choice ----------------------------------------------------------------------------------


def test_the_unexplained_share_is_its_definition():
    number, size = 9, (40, 40)
    stages = [torch.randn(number, 3, 4, 5), torch.randn(number, 6, 2, 2)]
    theta = poses(number, 0.2, 0.9)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0)).tolist()
    shares = []
    for features in stages:
        valid = affine.valid_mask(theta, size, features.shape[-2:])
        centred = features.double() - features.double().mean((0, 2, 3), keepdim=True)
        unit = centred / centred.norm(dim=1, keepdim=True)
        residual = baseline = 0.0
        for fold in range(4):
            held_out = order[fold::4]
            others = [image for image in range(number) if image not in held_out]
            places = []
            for row in range(features.shape[2]):
                for column in range(features.shape[3]):
                    seen = [i for i in others if valid[i, row, column]]
                    if len(seen) >= 0.5 * len(others):
                        places.append((row, column, seen))
            every = torch.stack([unit[i, :, r, c] for r, c, seen in places for i in seen]).mean(0)
            for row, column, seen in places:
                local = torch.stack([unit[i, :, row, column] for i in seen]).mean(0)
                for image in held_out:
                    if valid[image, row, column]:
                        vector = unit[image, :, row, column]
                        residual += float((vector - local).square().sum())
                        baseline += float((vector - every).square().sum())
        shares.append(residual / baseline)
    assert unexplained_share(stages, theta, size) == pytest.approx(sum(shares) / 2, rel=1e-5)


def test_the_unexplained_share_of_equal_images_is_0_and_of_noise_1():
    image = torch.randn(1, 8, 6, 6)
    equal = [image.expand(8, -1, -1, -1)]
    assert unexplained_share(equal, affine.identity(8), (24, 24)) == pytest.approx(0, abs=1e-6)
    noise = [torch.randn(40, 8, 6, 6)]
    assert unexplained_share(noise, affine.identity(40), (24, 24)) == pytest.approx(1, abs=0.05)
    nowhere = affine.from_parameters(torch.full((8, 2), 9.0), "translation")
    assert unexplained_share(equal, nowhere, (24, 24)) == 1.0


def choose(images: Tensor, **options) -> Choice:
    network = FeatureBackbone(weights="embedded").eval().fuse()
    with torch.no_grad():
        return choose_family(images, encoder, network, **options)


@pytest.mark.parametrize(
    ("shares", "chosen"),
    [
        # Aligning has to explain a tenth more than leaving images as they are,
        ((0.50, 0.46, 0.46, 0.46), "none"),
        ((0.50, 0.46, 0.44, 0.44), "rotation_translation"),
        ((0.50, 0.44, 0.44, 0.44), "translation"),
        # and more freedom a twentieth more than less of it.
        ((0.50, 0.44, 0.41, 0.41), "rotation_translation"),
        ((0.50, 0.44, 0.43, 0.41), "rotation_translation, full turns"),
        # Each is beside the best so far, whose freedom may be much less.
        ((0.50, 0.44, 0.42, 0.40), "rotation_translation, full turns"),
    ],
)
def test_what_more_freedom_has_to_explain(monkeypatch, shares, chosen):
    names = ["none", "translation", "rotation_translation", "rotation_translation, full turns"]
    left = iter(shares)
    searched = iter(names[1:])
    module = sys.modules[choose_family.__module__]
    monkeypatch.setattr(module, "unexplained_share", lambda *_: next(left))
    monkeypatch.setattr(module, "_stages", lambda *_: [])
    monkeypatch.setattr(module, "_summary", lambda found: found)
    found = type("Found", (str,), {"theta": affine.identity(4)})
    monkeypatch.setattr(module, "search_poses", lambda *_, **__: found(next(searched)))
    choice = choose_family(torch.zeros(4, 3, 8, 8), encoder, lambda _: [])
    kept = "none" if choice.search is None else str(choice.search)
    assert kept == chosen and dict(zip(names, shares, strict=True)) == choice.shares


@pytest.mark.slow
def test_parts_that_lie_still_are_left_alone():
    choice = choose(photographs(affine.identity(8), 64, 64))
    assert choice.search is None and choice.summary == "no alignment"
    assert list(choice.shares) == [
        "none",
        "translation",
        "rotation_translation",
        "rotation_translation, full turns",
    ]
    assert "has to lower it by 10 %" in choice.reason and "none" in choice.reason


@pytest.mark.slow
def test_shifted_parts_are_aligned_by_translation():
    choice = choose(photographs(poses(8, 0, 0.3), 64, 64))
    assert choice.search.aligner.refiner.family == "translation"
    assert choice.summary == "aligned by translation"
    assert choice.shares["translation"] < 0.9 * choice.shares["none"]


@pytest.mark.slow
def test_slightly_turned_parts_are_aligned_by_small_rotations():
    choice = choose(photographs(poses(8, 0.35, 0.2), 64, 64))
    limit = math.degrees(float(choice.search.aligner.bank.angles.max()))
    assert choice.summary == f"aligned by rotation_translation within {limit:.0f} degrees"
    assert choice.search.aligner.bank.angles.abs().max() < math.radians(60)


@pytest.mark.slow
def test_turns_beyond_the_angles_searched_at_first_widen_the_search():
    theta = poses(10, math.radians(70), 0.1)
    images = photographs(theta, 64, 64)
    with torch.no_grad():
        found = search_poses(images, encoder(), "rotation_translation", max_angle=math.radians(30))
    assert math.radians(60) < float(found.aligner.bank.angles.max())
    angle, _ = disagreement(theta, found.theta, (64, 64))
    assert angle < 3


@pytest.mark.slow
@pytest.mark.slow
def test_parts_turned_all_around_are_aligned_by_full_turns():
    theta = poses(10, FULL, 0.15)
    choice = choose(photographs(theta, 64, 64))
    assert choice.summary == "aligned by rotation_translation, full turns"
    assert choice.search.aligner.bank.full_circle
    angle, pixels = disagreement(theta, choice.search.theta, (64, 64))
    assert angle < 2 and pixels < 1


@pytest.mark.slow
@pytest.mark.slow
def test_noise_is_left_alone():
    choice = choose(torch.rand(8, 3, 64, 64))
    assert choice.search is None


def test_too_few_images_are_not_judged():
    images = photographs(poses(3, 0, 0.2), 64, 64)
    choice = choose(images)
    assert choice.search is None and "3 images are too few" in choice.reason
    assert choice.shares == {}
    kept = choose(images, may_skip=False, family="translation")
    assert kept.search is not None and math.isnan(kept.shares["none"])


def test_a_family_asked_for_is_the_only_one_tried():
    steps: list[int] = []
    choice = choose(
        photographs(affine.identity(6), 64, 64),
        family="translation",
        may_skip=False,
        report=lambda: steps.append(1),
    )
    assert choice.search is not None and list(choice.shares) == ["none", "translation"]
    assert len(steps) == 1
