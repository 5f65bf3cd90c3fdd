"""Plans within a budget: sizes, choices, and the same model whatever was chosen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from fastalign import FYD
from fastalign.errors import ConfigError
from fastalign.models.fitting import course
from fastalign.models.memory import MB, parse_bytes, plan_fitting, plan_scoring
from fastalign.models.memory import plan as plan_module
from fastalign.models.pieces import feature_bands, split_rows
from fastalign.ops import affine, warp_affine

PLAIN = {"image_size": (64, 96), "align": "none", "channels": 12, "sigma": 1.0}


def photographs(count: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    """Stripes and a bar, moved by up to ``shift`` of the size, with noise."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.full((1, 3, 64, 96), 0.3)
    part[:, 1, ::8] = 0.5
    part[:, :, 20:30, 14:70] = 0.8
    part[:, 0, 24:50, 60:70] = 0.6
    shifts = 2 * shift * (2 * torch.rand(count, 2, generator=generator) - 1)
    moved = warp_affine(
        part.repeat(count, 1, 1, 1),
        affine.from_parameters(shifts, "translation"),
        padding_mode="border",
    )
    return (moved + 0.05 * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4_000_000_000),
        ("1.5 gb", 1_500_000_000),
        ("900MB", 900_000_000),
        ("2GiB", 2 << 30),
        ("512M", 512_000_000),
        ("123", 123),
    ],
)
def test_sizes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-4GB", "4XB", "0GB", "4 i", "GB", "1e3MB"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ConfigError, match="give a size such as 4GB"):
        parse_bytes(text)


@pytest.mark.parametrize(("rows", "bands"), [(1, 1), (7, 3), (64, 64), (100, 6)])
def test_bands_are_all_rows_once(rows, bands):
    parts = split_rows(rows, bands)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    sizes = {part.stop - part.start for part in parts}
    assert len(parts) == bands and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("align", "validation"), [("none", 0), ("none", 21), ("ica", 5), ("ica", 21)]
)
def test_bands_and_pieces_give_the_same_model(validation, align, monkeypatch):
    """For thresholds from images in turn (5), from validation images (21), and without any."""
    options = {**PLAIN, "align": align, "family": "translation", "skip": False}
    train = photographs(9, shift=0.05)
    held_out = photographs(validation, seed=1, shift=0.05) if validation else None
    whole = FYD(**options).fit(train, held_out)

    def in_bands(*arguments):
        plan = plan_fitting(*arguments)
        small = whole.features.backbone.image_bytes(64, 96) / 3
        return replace(plan, bands=3, turn_bands=2, images=3, group=5, pass_bytes=small)

    monkeypatch.setattr(course, "plan_fitting", in_bands)
    banded = FYD(**options).fit(train, held_out)
    for name in ("mean", "count"):
        a, b = getattr(whole.density.gaussians, name), getattr(banded.density.gaussians, name)
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        banded.image_threshold, whole.image_threshold, rtol=2e-3, atol=0, equal_nan=True
    )
    torch.testing.assert_close(
        banded.density.calibration, whole.density.calibration, rtol=1e-3, atol=1e-3
    )
    test = photographs(3, seed=2, shift=0.05)
    (scores, maps), (expected, wanted) = banded(test), whole(test)
    torch.testing.assert_close(scores, expected, rtol=2e-3, atol=0)
    most = float(wanted.nan_to_num(0).max())
    torch.testing.assert_close(maps, wanted, rtol=0, atol=2e-3 * most, equal_nan=True)


def test_a_scored_image_is_the_same_in_pieces():
    model = FYD(**PLAIN).fit(photographs(8))
    images = photographs(2, seed=3)
    expected = model(images)[1]
    model.features.limit_memory(model.features.backbone.image_bytes(64, 96) / 5)
    torch.testing.assert_close(model(images)[1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("align", ["none", "all"])
def test_a_scored_image_is_the_same_in_bands_of_rows(align):
    options = {**PLAIN, "align": align, "family": "translation", "epochs": 1, "skip": False}
    model = FYD(**options, strides=(4, 8)).fit(photographs(8, shift=0.05))
    images = photographs(3, seed=3, shift=0.05)
    expected = model(images)[1]
    bands = feature_bands(model.density.size, 12, at_once=4 * 12 * 24 * 3)
    model.density.bands = split_rows(model.density.size[0], bands)
    assert len(model.density.bands) > 4
    torch.testing.assert_close(model(images)[1], expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_smaller_budget_means_smaller_steps_and_in_the_end_an_error():
    model = FYD(image_size=512, align="none")
    free = plan_fitting(model.rooms, 30, 0, 30)
    assert free.bands == free.turn_bands == 1
    seen = []
    for budget in range(free.total + MB, 0, -50 * MB):
        try:
            plan = plan_fitting(model.rooms, 30, 0, 30, budget)
        except ConfigError as error:
            needed = str(error)
            break
        assert plan.total <= budget
        assert str(round(plan.total / MB)) in plan.describe()
        seen.append((plan.turn_bands + plan.bands, -plan.pass_bytes, -plan.images))
    assert seen == sorted(seen) and len(set(seen)) > 3
    assert "a smaller rank" in needed and f"memory budget {budget / MB:.0f} MB" in needed
    assert "Gaussians" in needed


def test_a_network_that_cannot_be_cut_is_run_whole_where_the_budget_holds_it(tmp_path, monkeypatch):
    """Squeeze-and-excitation looks at the whole image, whose pass takes more than one is given."""
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "weights.pth")
    options = {"weights": str(tmp_path / "weights.pth"), "align": "none", "channels": 4}
    monkeypatch.setattr(plan_module, "PASS_BYTES", MB)
    model = FYD(backbone="test_efficientnet", image_size=512, **options)
    whole = plan_scoring(model.rooms, 100_000 * MB, images=2)
    assert math.isinf(whole.pass_bytes) and "pieces" not in whole.describe()
    assert whole.parts["images and maps"] > model.features.backbone.image_bytes(512, 512)
    assert math.isinf(plan_fitting(model.rooms, 4, 0, 4, 100_000 * MB).pass_bytes)
    with pytest.raises(ConfigError, match=r"needs at least .*since this one is not run in pieces"):
        plan_scoring(model.rooms, 50 * MB)
    small = FYD(backbone="test_efficientnet", image_size=64, **options)
    assert math.isfinite(plan_scoring(small.rooms, 100_000 * MB).pass_bytes)


def test_scoring_plans_count_what_is_loaded_once():
    model = FYD(**PLAIN).fit(photographs(4))
    one, eight = plan_scoring(model.rooms), plan_scoring(model.rooms, images=8)
    assert one.parts["process"] == pytest.approx(eight.parts["process"], rel=0.05)
    assert eight.parts["images and maps"] == 8 * one.parts["images and maps"]
    tight = model.limit_memory(one.total + 10 * MB, images=8)
    assert tight.images < 8
    with pytest.raises(ConfigError, match="scoring needs at least"):
        model.limit_memory(50 * MB)


RUN = """
import json, sys
import torch
torch.set_num_threads(2)
from fastalign import FYD
from fastalign.data import ImageDataset, open_category
from fastalign.engine.environment import peak_rss_mb
from fastalign.models.fitting import course

folder, out, budget, options = *sys.argv[1:3], json.loads(sys.argv[3]), json.loads(sys.argv[4])
plans = []

def keep(*arguments, real=course.plan_fitting):
    plans.append(real(*arguments))
    return plans[-1]

course.plan_fitting = keep
model = FYD(**options)
if budget is not None:
    budget += int(1e6 * peak_rss_mb()[0])
train = ImageDataset(open_category(folder).train, model.config.image_size)
model.fit(train, memory_budget=budget)
peak = 1e6 * peak_rss_mb()[0]
model.save(out)
found = {"peak": peak, "estimate": plans[0].total, "bands": plans[0].bands, "budget": budget}
print(json.dumps(found))
"""


SCORE = """
import json, sys
import torch
torch.set_num_threads(2)
from fastalign import FYD
from fastalign.engine.environment import peak_rss_mb

model = FYD.load(sys.argv[1])
budget = json.loads(sys.argv[2])
if budget is not None:
    budget += int(1e6 * peak_rss_mb()[0])
plan = model.limit_memory(budget, images=16)
with torch.inference_mode():
    model(torch.rand(plan.images, 3, *model.config.image_size))
peak = 1e6 * peak_rss_mb()[0]
found = {"peak": peak, "estimate": plan.total, "images": plan.images, "budget": budget}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs in a folder, so that a process has no more of them in memory than it reads."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "good").mkdir()
    for index, image in enumerate(photographs(9, shift=0.05)):
        pixels = image.mul(255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((512, 512)).save(root / "good" / f"{index}.png")
    return root


# Budgets are what a process may take beside what it has taken when the model is there.
FITS = {
    "free": (None, {"image_size": 512, "align": "none"}),
    "budget": (290 * MB, {"image_size": 512, "align": "none", "storage": "bfloat16"}),
    "trained": (None, {"image_size": 192, "epochs": 1, "skip": False, "family": "translation"}),
}


@pytest.fixture(scope="module")
def told(forks, tmp_path_factory):
    """``told(program, *arguments)``: what a program that is a process of its own says."""
    python = forks("timm", "fastalign.data", "fastalign.engine.environment", "fastalign.models.fyd")
    place = tmp_path_factory.mktemp("programs") / "program.py"

    def run(program, *arguments):
        place.write_text(program)
        done = python.run(place, *arguments)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def fitted(folder, told, tmp_path_factory):
    """``fitted(name)``: what the process of one of ``FITS`` says, and its model."""
    models = tmp_path_factory.mktemp("models")

    @cache
    def fit(name):
        path = models / f"{name}.safetensors"
        return told(RUN, folder, path, *map(json.dumps, FITS[name])), path

    return fit


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_the_estimate_is_near_the_peak(fitted, name):
    """Within a quarter, and within the budget, as a process of its own sees it."""
    found, _ = fitted(name)
    assert abs(found["estimate"] - found["peak"]) <= 0.25 * found["peak"], found
    if found["budget"] is not None:
        assert found["bands"] > 1 and found["peak"] <= found["budget"]


@pytest.mark.slow
def test_the_estimate_of_a_score_is_near_the_peak(fitted, told):
    """Of a model that is in memory when the plan is made, and was there once while it was read."""
    path = fitted("budget")[1]
    found = {}
    for name, budget in (("free", None), ("tight", 230 * MB)):
        found[name] = told(SCORE, path, json.dumps(budget))
        assert abs(found[name]["estimate"] - found[name]["peak"]) <= 0.25 * found[name]["peak"]
    assert found["tight"]["images"] < found["free"]["images"] == 16
    assert found["tight"]["peak"] <= found["tight"]["budget"], found
