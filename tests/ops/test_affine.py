"""Algebra of affine maps: what compose, invert, the families and the diagnostics promise."""

from __future__ import annotations

import math

import pytest
import torch
from op_support.tolerance import source_positions

from fastalign import ops
from fastalign.errors import ConfigError
from fastalign.ops import affine

FAMILIES = list(affine.FAMILIES)
every_family = pytest.mark.parametrize("family", FAMILIES)


def _maps(*batch: int, size: float = 0.3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Maps in general position, none near a singular one."""
    return affine.from_parameters(torch.randn(*batch, 6, dtype=dtype) * size, "affine")


def _matrix(theta: torch.Tensor) -> torch.Tensor:
    """The maps as 3x3 matrices."""
    last = theta.new_tensor([0.0, 0.0, 1.0]).expand(*theta.shape[:-2], 1, 3)
    return torch.cat([theta, last], -2)


def _picture(height: int, width: int) -> torch.Tensor:
    """A smooth picture, so that two interpolations differ little from one: ``[1,1,H,W]``."""
    y, x = torch.meshgrid(
        torch.linspace(-3, 3, height, dtype=torch.float64),
        torch.linspace(-3, 3, width, dtype=torch.float64),
        indexing="ij",
    )
    return torch.exp(-(x - 0.7).square() - (y + 0.4).square() / 2)[None, None]


def test_identity():
    theta = affine.identity(3, dtype=torch.float64)
    assert theta.shape == (3, 2, 3) and theta.dtype == torch.float64 and theta.is_contiguous()
    assert affine.identity(0).shape == (0, 2, 3) and affine.identity(1).dtype == torch.float32
    assert affine.identity(1, device="meta").device.type == "meta"
    assert torch.equal(_matrix(theta), torch.eye(3, dtype=torch.float64).expand(3, 3, 3))


def test_composition_is_the_product_of_matrices():
    first, second = _maps(5), _maps(5)
    both = affine.compose(first, second)
    torch.testing.assert_close(_matrix(both), _matrix(first) @ _matrix(second))


def test_composition_broadcasts():
    first, second = _maps(4, 1), _maps(3)
    both = affine.compose(first, second)
    assert both.shape == (4, 3, 2, 3)
    torch.testing.assert_close(both[2, 1], affine.compose(first[2, 0], second[1]))


def test_composition_is_associative_with_a_neutral_element():
    a, b, c = _maps(4), _maps(4), _maps(4)
    left = affine.compose(affine.compose(a, b), c)
    torch.testing.assert_close(left, affine.compose(a, affine.compose(b, c)))
    one = affine.identity(4, dtype=torch.float64)
    assert torch.equal(affine.compose(a, one), a) and torch.equal(affine.compose(one, a), a)


def test_one_warp_by_the_composition_is_two_warps():
    picture = _picture(96, 128)
    first = affine.from_parameters(torch.tensor([[0.5]]).double(), "rotation", aspect=128 / 96)
    second = affine.from_parameters(torch.tensor([[0.4, 0.0]]).double(), "scale")
    twice = ops.warp_affine(ops.warp_affine(picture, first), second)
    once = ops.warp_affine(picture, affine.compose(first, second))
    other_order = ops.warp_affine(picture, affine.compose(second, first))
    assert (twice - once).abs().max() < 0.01
    assert (twice - other_order).abs().max() > 0.05, "the order matters in this example"


def test_the_inverse_undoes_a_map():
    theta = _maps(2, 3)
    one = affine.identity(1, dtype=torch.float64)
    for both in (
        affine.compose(theta, affine.invert(theta)),
        affine.compose(affine.invert(theta), theta),
    ):
        torch.testing.assert_close(both, one.expand_as(both))
    torch.testing.assert_close(_matrix(affine.invert(theta)), torch.linalg.inv(_matrix(theta)))


def test_the_inverse_of_a_composition():
    a, b = _maps(4), _maps(4)
    both = affine.invert(affine.compose(a, b))
    torch.testing.assert_close(both, affine.compose(affine.invert(b), affine.invert(a)))


def test_a_warp_is_undone_by_the_inverse_map():
    picture = _picture(96, 128)
    theta = _maps(1, size=0.1)
    back = ops.warp_affine(ops.warp_affine(picture, theta), affine.invert(theta))
    inside = affine.valid_mask(affine.invert(theta), picture.shape[2:], margin=1.0)
    assert inside.float().mean() > 0.5
    assert (back - picture)[inside.unsqueeze(1)].abs().max() < 0.01


def test_maps_without_an_inverse():
    theta = _maps(3)
    theta[1, :, :2] = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert not affine.invert(theta)[1].isfinite().any()
    assert affine.invert(theta)[[0, 2]].isfinite().all(), "the others are as they should be"
    with pytest.raises(ConfigError, match="maps without an inverse .*bound the scale"):
        affine.invert(theta, check=True)
    with pytest.raises(ConfigError):
        affine.invert(torch.full((1, 2, 3), float("nan")), check=True)
    good = _maps(3)
    assert torch.equal(affine.invert(good, check=True), affine.invert(good))


def test_determinant():
    theta = _maps(5)
    torch.testing.assert_close(affine.determinant(theta), torch.linalg.det(theta[..., :2]))
    assert affine.determinant(torch.tensor([[-1.0, 0, 0], [0, 1, 0]])) == -1


@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_survive_a_change_of_resolution(align_corners):
    """Normalised coordinates: the same theta does the same to the picture at twice the size."""
    theta = _maps(1, size=0.1)
    small, large = _picture(48, 64), _picture(97, 129)
    warped = ops.warp_affine(small, theta, align_corners=align_corners)
    same = ops.warp_affine(large, theta, (48, 64), align_corners=align_corners)
    assert (warped - same).abs().max() < 0.05


@every_family
def test_gradients_of_the_algebra(family):
    parameters = (
        torch.randn(2, affine.number_of_parameters(family)).double() * 0.3
    ).requires_grad_()

    def algebra(parameters):
        theta = affine.from_parameters(parameters, family, aspect=1.5)
        return affine.compose(affine.invert(theta), theta * 1.1), affine.determinant(theta)

    assert torch.autograd.gradcheck(algebra, parameters)


@every_family
def test_zero_parameters_are_the_identity(family):
    number = affine.number_of_parameters(family)
    assert number == len(affine.FAMILIES[family])
    theta = affine.from_parameters(torch.zeros(4, number), family, aspect=1.7)
    assert torch.equal(theta, affine.identity(4))
    assert affine.from_parameters(torch.zeros(2, 5, number), family).shape == (2, 5, 2, 3)


def _expected(family: str, aspect: float, **given: float) -> torch.Tensor:
    """The matrix in true units, by its definition, then in normalised coordinates."""
    angle, log = given.get("angle", 0.0), given.get("log_scale", 0.0)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    ).double()
    scale = torch.diag(
        torch.tensor([given.get("log_scale_x", log), given.get("log_scale_y", log)]).double().exp()
    )
    shear = torch.eye(2).double() + torch.tensor(
        [[0, given.get("shear_x", 0.0)], [given.get("shear_y", 0.0), 0]]
    )
    free = torch.eye(2).double() + torch.tensor(
        [[given.get("xx", 0.0), given.get("xy", 0.0)], [given.get("yx", 0.0), given.get("yy", 0.0)]]
    )
    to_true = torch.diag(torch.tensor([aspect, 1.0]).double())
    linear = torch.linalg.inv(to_true) @ (turn @ scale @ shear @ free) @ to_true
    shift = torch.tensor([[given.get("shift_x", 0.0)], [given.get("shift_y", 0.0)]]).double()
    return torch.cat([linear, shift], 1)


@every_family
@pytest.mark.parametrize("aspect", [1.0, 1.6, 0.5])
def test_families_are_what_they_say(family, aspect):
    names = affine.FAMILIES[family]
    values = [0.11 * (n + 1) * (-1) ** n for n in range(len(names))]
    theta = affine.from_parameters(torch.tensor([values]).double(), family, aspect)
    expected = _expected(family, aspect, **dict(zip(names, values, strict=True)))
    torch.testing.assert_close(theta[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", ["rotation", "rotation_translation", "similarity"])
def test_rotations_keep_true_lengths(family):
    """On an image twice as wide as high a circle stays a circle."""
    aspect = 2.0
    parameters = torch.zeros(1, affine.number_of_parameters(family)).double()
    parameters[0, 0] = 0.7
    linear = affine.from_parameters(parameters, family, aspect)[0, :, :2]
    to_true = torch.diag(torch.tensor([aspect, 1.0]).double())
    turn = to_true @ linear @ torch.linalg.inv(to_true)
    torch.testing.assert_close(turn @ turn.T, torch.eye(2).double())


def test_parameters_of_16_bits_are_taken_up():
    for low in (torch.float16, torch.bfloat16):
        assert (
            affine.from_parameters(torch.zeros(1, 1, dtype=low), "rotation").dtype == torch.float32
        )
    assert affine.from_parameters(torch.zeros(1, 1).double(), "rotation").dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (
            lambda: affine.from_parameters(torch.zeros(1, 3), "rotation_scale"),
            ValueError,
            "parameters has shape [1, 3], expected [..., 2] for family 'rotation_scale': angle, ",
        ),
        (
            lambda: affine.from_parameters(torch.tensor(0.0), "rotation"),
            ValueError,
            "parameters has shape [], expected [..., 1]",
        ),
        (
            lambda: affine.number_of_parameters("perspective"),
            ValueError,
            "family is 'perspective', expected one of translation, rotation,",
        ),
        (
            lambda: affine.from_parameters(torch.zeros(1, 1), "rotation", aspect=0.0),
            ValueError,
            "aspect is 0.0, expected width / height, above 0",
        ),
        (
            lambda: affine.compose(torch.zeros(1, 3, 3), torch.zeros(1, 2, 3)),
            ValueError,
            "first has shape [1, 3, 3], expected [..., 2, 3]",
        ),
        (
            lambda: affine.compose(torch.zeros(1, 2, 3), torch.zeros(2)),
            ValueError,
            "second has shape [2], expected [..., 2, 3]",
        ),
        (
            lambda: affine.invert(torch.zeros(1, 2, 3).half()),
            TypeError,
            "theta has dtype torch.float16, expected float32 or float64",
        ),
        (
            lambda: affine.valid_mask(torch.zeros(1, 3, 2), (4, 4)),
            ValueError,
            "theta has shape [1, 3, 2], expected [..., 2, 3]",
        ),
        (
            lambda: affine.magnitude(torch.zeros(1, 3, 2)),
            ValueError,
            "theta has shape [1, 3, 2], expected [..., 2, 3]",
        ),
    ],
)
def test_wrong_arguments(call, error, parts):
    with pytest.raises(error) as caught:
        call()
    assert parts in str(caught.value)


def test_the_algebra_keeps_its_precision_under_autocast():
    theta = _maps(3, dtype=torch.float32)
    plain = affine.compose(theta, affine.invert(theta))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = affine.compose(theta, affine.invert(theta))
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0, -1.0])
def test_valid_mask_says_where_samples_lie(align_corners, margin):
    theta = _maps(6, size=0.6)
    input_size, output_size = (7, 11), (9, 5)
    found = affine.valid_mask(theta, input_size, output_size, align_corners, margin)
    row, column = source_positions(theta, input_size, output_size, align_corners)
    expected = torch.ones(6, *output_size, dtype=torch.bool)
    for position, count in ((row, input_size[0]), (column, input_size[1])):
        expected &= (position >= -0.5 + margin) & (position <= count - 0.5 - margin)
    assert found.dtype == torch.bool and torch.equal(found, expected)
    assert 0.05 < found.float().mean() < 0.95, "the example shows both answers"


@pytest.mark.parametrize("align_corners", [False, True])
def test_valid_mask_finds_what_padding_touches(align_corners):
    """With a margin of half a pixel, a valid pixel has no weight on the padding."""
    x = torch.ones(6, 1, 8, 9, dtype=torch.float64)
    theta = _maps(6, size=0.5)
    out = ops.warp_affine(x, theta, align_corners=align_corners)[:, 0]
    mask = affine.valid_mask(theta, (8, 9), None, align_corners, margin=0.5)
    torch.testing.assert_close(out[mask], torch.ones_like(out[mask]))
    assert (out[~mask] < 1).all() and 0 < mask.float().mean() < 1


def test_valid_mask_of_special_maps():
    identity = affine.identity(2)
    for corners in (False, True):
        assert affine.valid_mask(identity, (4, 5), None, corners).all(), "the edge is inside"
        assert affine.valid_mask(identity, (1, 1), None, corners).all()
    assert affine.valid_mask(identity, (4, 4), margin=0.5).all(), "and so is the margin's"
    middle = affine.from_parameters(torch.tensor([[-0.5, 0.0]]), "translation")
    assert affine.valid_mask(middle, (4, 4), (1, 1), align_corners=True).all(), "one pixel is at 0"
    spoiled = identity.clone()
    spoiled[1] = float("nan")
    assert affine.valid_mask(spoiled, (4, 5)).flatten(1).all(1).tolist() == [True, False]
    assert affine.valid_mask(affine.identity(0), (4, 5)).shape == (0, 4, 5)


def test_magnitude_reads_what_was_put_in():
    parameters = torch.tensor([[math.radians(-25.0), math.log(1.3), 0.3, -0.4]]).double()
    for aspect in (1.0, 1.8):
        theta = affine.from_parameters(parameters, "similarity", aspect)
        found = {name: value.item() for name, value in affine.magnitude(theta, aspect).items()}
        assert found == pytest.approx({"shift": 0.25, "rotation": -25.0, "scale": 1.3})


def test_magnitude_of_the_identity_and_of_a_mirror():
    found = affine.magnitude(affine.identity(2))
    assert all(value.shape == (2,) for value in found.values())
    assert found["shift"].eq(0).all() and found["rotation"].eq(0).all()
    assert found["scale"].eq(1).all()
    mirror = torch.tensor([[-2.0, 0, 0], [0, 2, 0]])
    assert affine.magnitude(mirror)["scale"] == 2


def test_the_algebra_waits_for_no_device():
    """On the meta device there are no values to wait for: any look at one would raise."""
    theta = torch.zeros(3, 2, 3, device="meta")
    for result in (
        affine.compose(theta, theta),
        affine.invert(theta),
        affine.determinant(theta),
        affine.valid_mask(theta, (4, 5)),
        affine.from_parameters(torch.zeros(3, 4, device="meta"), "similarity"),
        *affine.magnitude(theta).values(),
    ):
        assert result.device.type == "meta" and result.shape[0] == 3
