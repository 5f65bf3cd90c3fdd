"""Figures of how a photograph was taken, on photographs of which they are known."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastalign.drift.normal import Normal
from fastalign.models.conditions import (
    LIGHT,
    POSE,
    conditions_at,
    conditions_of,
    normal_conditions,
    pose_of,
)
from fastalign.models.conditions import normal_of as normal_statistics
from fastalign.models.detail import Detail
from fastalign.models.view import NormalView
from fastalign.ops import affine

NAMES = (*LIGHT, *POSE)


def figures(images, valid=None, theta=None, aspect=1.0):
    theta = affine.identity(len(images)) if theta is None else theta
    valid = torch.ones(len(images), 8, 8, dtype=torch.bool) if valid is None else valid
    return [
        dict(zip(NAMES, row, strict=True))
        for row in conditions_of(images, valid, theta, aspect).tolist()
    ]


def scene(number=1):
    noise = torch.rand(number, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return (
        F.interpolate(0.25 + 0.5 * noise, (64, 64), mode="bicubic").clamp(0, 1).repeat(1, 3, 1, 1)
    )


def test_light_and_sharpness_follow_the_image_and_each_other_not():
    image = scene()
    tint = torch.tensor([1.2, 1.0, 0.8])[:, None, None]
    soft = F.avg_pool2d(F.pad(image, [2, 2, 2, 2], mode="replicate"), 5, 1)
    usual, dark, red, blurred = figures(torch.cat([image, 0.5 * image, image * tint, soft]))
    assert usual["brightness"] == pytest.approx(float(image.mean()), rel=1e-4)
    assert dark["brightness"] == pytest.approx(usual["brightness"] / 2, rel=1e-4)
    assert dark["sharpness"] == pytest.approx(usual["sharpness"], rel=0.02)
    assert dark["warmth"] == pytest.approx(usual["warmth"], abs=0.01)
    assert red["warmth"] - usual["warmth"] == pytest.approx(math.log(1.5), abs=0.01)
    assert blurred["sharpness"] < 0.8 * usual["sharpness"]


def test_what_the_photograph_does_not_cover_does_not_count():
    image = scene()
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[:, :, 4:] = False
    spoiled = image.clone()
    spoiled[..., 33:] = 1.0
    (inside,) = figures(image, valid)
    (other,) = figures(spoiled, valid)
    assert {name: other[name] for name in ("brightness", "warmth")} == {
        name: inside[name] for name in ("brightness", "warmth")
    }
    (nothing,) = figures(image, torch.zeros(1, 8, 8, dtype=torch.bool))
    assert all(math.isfinite(value) for value in nothing.values())


@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_the_pose_is_where_the_part_lies_in_the_photograph(aspect):
    # A part that lies a tenth of the width further right, 5 % of the height lower, is turned by 20
    # degrees clockwise and larger by a quarter: theta says where its pixels are read.
    theta = affine.from_parameters(
        torch.tensor([[math.radians(20), math.log(1.25), 0.2, 0.1]]), "similarity", aspect
    )
    image = torch.zeros(1, 1, 200, 200)
    image[..., 100:, 98:102] = 1  # the lower half of an upright bar
    turned = affine.invert(theta)
    seen = F.grid_sample(image, F.affine_grid(turned, [1, 1, 200, 200], align_corners=False))
    rows, columns = (seen[0, 0] > 0.5).nonzero(as_tuple=True)
    below = rows > 180
    # The lower end of a bar that is turned clockwise lies to the left.
    assert columns[below].double().mean() < 100 + 20
    (found,) = figures(scene(), theta=theta, aspect=aspect)
    assert (found["x"], found["y"]) == pytest.approx((0.1, 0.05), abs=1e-6)
    assert found["rotation"] == pytest.approx(20, abs=1e-4)
    assert found["scale"] == pytest.approx(math.log(1.25), abs=1e-6)


def test_a_camera_that_moves_is_seen_without_alignment():
    base = scene()
    base = F.interpolate(base[..., 8:56, 8:56], (128, 128), mode="bicubic").clamp(0, 1)
    noise = torch.Generator().manual_seed(1)
    normal = (base + 0.02 * torch.randn(12, 3, 128, 128, generator=noise)).clamp(0, 1)
    edges = NormalView.edges(normal).double()
    number = torch.full_like(edges[0], 12)
    view = NormalView.of_sums(number, edges.sum(0), edges.square().sum(0), 1.0)
    view = NormalView.from_record(json.loads(json.dumps(view.record())))
    # The part 6 pixels further right and 9 higher: the camera has moved to the left and down.
    moved = torch.roll(base, (-9, 6), (2, 3))
    found = pose_of(
        view.find(view.edges(torch.cat([base, moved, torch.rand(1, 3, 128, 128)]))), 1.0
    )
    assert found[0].tolist() == pytest.approx([0, 0, 0, 0], abs=0.01)
    assert found[1, :2].tolist() == pytest.approx([6 / 128, -9 / 128], abs=0.008)
    assert found[2].isnan().all()
    images = torch.cat([base, moved])
    theta, one = affine.identity(2), torch.ones(2)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    both = Detail(
        one, images[:, 0], theta, valid, images, one, one, one, one, one, one, one[:, None]
    )
    assert conditions_at(both, 1, 1.0, view)["x"] == pytest.approx(6 / 128, abs=0.008)
    assert conditions_at(both, 1, 1.0)["x"] == 0


def detail(score):
    images = scene(2)
    one = torch.ones(2)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    theta = affine.identity(2)
    maps = torch.zeros(2, 64, 64)
    return Detail(
        score, maps, theta, valid, images, one, one, one, one, one, 0.9 * one, score[:, None]
    )


def test_one_that_cannot_be_judged_says_that_alone():
    found = detail(torch.tensor([3.0, math.nan]))
    assert conditions_at(found, 1, 1.0) == {"unjudged": 1.0}
    first = conditions_at(found, 0, 1.0)
    assert set(first) == {*NAMES, "coverage", "score", "unjudged"}
    assert (first["score"], first["coverage"], first["unjudged"]) == (3.0, 0.9, 0.0)


def test_a_record_keeps_what_normal_images_were_like_and_scores_stand_beside():
    rows = torch.from_numpy(np.random.default_rng(0).normal(1, 0.1, (30, len(NAMES))))
    kept = normal_conditions(rows, [0.9] * 30, (50, 100))
    assert set(kept) == {*NAMES, "coverage"}
    assert kept["x"]["tolerance"] == 0.005 and kept["y"]["tolerance"] == 0.01
    assert kept["brightness"]["tolerance"] == pytest.approx(0.02, rel=0.1)
    assert "origin" in kept["rotation"]
    # What is not known is not watched, as the pose of parts whose edges agree with nothing.
    rows[:, len(LIGHT) :] = torch.nan
    assert set(normal_conditions(rows, None, (50, 100))) == set(LIGHT)
    assert normal_conditions(rows[:9], None, (50, 100)) is None
    assert normal_statistics(None, {"scores": list(range(30))}) == {}
    scores = [float(score) for score in range(30)]
    normal = normal_statistics(kept, {"of": "30 images", "scores": scores})
    assert normal["score"].values == scores and normal["x"] == Normal.from_record(kept["x"])
    assert "score" not in normal_statistics(kept, {"scores": scores[:9]})
