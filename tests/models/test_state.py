"""What the caller has set of torch changes no score, or is refused in words."""

from __future__ import annotations

import contextlib
import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastalign import FYD
from fastalign.data import load_image, prepare
from fastalign.errors import InputError
from fastalign.export import Scorer, export_model
from fastalign.models.features import FeatureExtractor
from fastalign.models.images import in_range
from fastalign.models.rooms import warp
from fastalign.nn import DenseGaussian
from fastalign.nn.smoothing import gaussian_matrix, smooth
from fastalign.regions import find_regions
from fastalign.verdict import judge

KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"
SIZE = (32, 48)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "another device by default": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
}


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    """With an aligner, FCA, FA, calibration and places without support."""
    return FYD.load(KEPT)


@pytest.fixture(scope="module")
def expected(model, images):
    return model.predict_detail(images), model(images), model.align(images)


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


@pytest.mark.parametrize("state", STATES)
def test_scores_are_the_same_in_every_state(model, images, expected, state):
    with STATES[state]():
        detail, scored, theta = model.predict_detail(images), model(images), model.align(images)
    same(detail, expected[0])
    same(scored, expected[1])
    same([theta], [expected[2]])


def through_the_rooms(model, images):
    theta = model.pose(images)
    stages, theta = model.features(warp(images, theta), theta)
    distance, support = model.density(stages)
    return model.maps(distance, theta, support)


@pytest.mark.parametrize("state", STATES)
def test_the_rooms_alone_are_the_same_in_every_state(model, images, expected, state):
    with STATES[state]():
        found = through_the_rooms(model, images)
    same(found, expected[1])
    rooms = copy.deepcopy(model)
    for room in (rooms.pose, rooms.features, rooms.density, rooms.maps):
        room.half()
    same(through_the_rooms(rooms, images), expected[1])
    same(through_the_rooms(rooms, images[:0]), [found[:0] for found in expected[1]])


@pytest.mark.parametrize("state", STATES)
def test_a_model_that_is_loaded_in_a_state_is_the_same(images, expected, state):
    with STATES[state]():
        model = FYD.load(KEPT)
    same(model(images), expected[1])
    # Tensors of inference mode could not be scored against with gradients.
    moving = images.clone().requires_grad_()
    model(moving)[0].sum().backward()
    assert moving.grad is not None and moving.grad.isfinite().all()


def test_a_model_that_is_made_and_fitted_in_any_state_is_the_same(images):
    options = {"image_size": SIZE, "align": "fa", "layers": (1,), "channels": 4, "epochs": 1}
    wanted = FYD(**options).fit(images, images[:1].flip(-1))
    with contextlib.ExitStack() as stack:
        for state in ("autocast", "float64 by default", "another device by default"):
            stack.enter_context(STATES[state]())
        stack.enter_context(torch.inference_mode())
        found = FYD(**options).fit(images, images[:1].flip(-1))
    same(found.state_dict().values(), wanted.state_dict().values())


def test_a_file_is_exported_in_the_same_state_whatever_the_callers_is(model, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def look(scorer):
        cast = torch.is_autocast_enabled("cpu") or torch.is_inference_mode_enabled()
        raise Seen(torch.get_default_dtype(), torch.get_default_device().type, cast)

    monkeypatch.setattr(Scorer, "trace", look)
    with contextlib.ExitStack() as stack:
        for state in ("autocast", "float64 by default", "another device by default"):
            stack.enter_context(STATES[state]())
        stack.enter_context(torch.inference_mode())
        with pytest.raises(Seen) as seen:
            export_model(model, tmp_path / "m.pt2", "torch")
    assert seen.value.args == (torch.float32, "cpu", False)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: model.bfloat16(),
        lambda model: model.double(),
        lambda model: model.to(torch.float16),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.train(),
        lambda model: torch.nn.ModuleList([model]).half()[0],
    ],
)
def test_a_model_keeps_its_numbers(model, images, expected, change):
    same(change(copy.deepcopy(model))(images), expected[1])


@pytest.mark.parametrize(
    "given",
    [
        lambda images: images.to(memory_format=torch.channels_last),
        lambda images: images.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
        lambda images: images.repeat(1, 1, 2, 2)[..., : SIZE[0], : SIZE[1]],
        lambda images: images.double(),
    ],
)
def test_images_in_any_order_and_precision_score_the_same(model, images, expected, given):
    same(model(given(images)), expected[1])


def test_images_with_gradients_score_the_same(model, images, expected):
    score, maps = model(images.clone().requires_grad_())
    torch.testing.assert_close(score.detach(), expected[1][0], rtol=1e-4, atol=0)
    wanted = expected[1][1]
    torch.testing.assert_close(maps.detach(), wanted, rtol=1e-4, atol=1e-3, equal_nan=True)


def test_no_images_are_no_scores(model, images, expected):
    none = images[:0]
    same(model(none), [found[:0] for found in expected[1]])
    same(model.predict_detail(none), [found[:0] for found in expected[0]])
    same([model.align(none)], [expected[2][:0]])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (lambda images: (255 * images).byte(), "dtype torch.uint8.*images.float.. / 255"),
        (lambda images: (255 * images).long(), "dtype torch.int64"),
        (lambda images: 255 * images, r"image 0 .*values from \S+ to 25\d.*, expected 0..1"),
        (lambda images: torch.cat([images[:2], 255 * images[2:]]), "image 2 of the batch"),
        (lambda images: (images - 0.45) / 0.22, "normalised"),
        (lambda images: 2 * images - 1, "values from -"),
        (lambda images: images.numpy(), "type ndarray.*model.predict takes"),
        (lambda images: images.to("meta"), "on meta, the model is on cpu; .*images.to"),
        (lambda images: images[..., :-1], r"shape \[3, 3, 32, 47\]"),
    ],
)
@pytest.mark.parametrize("entry", ["__call__", "predict_detail", "align"])
def test_images_that_would_score_wrongly_are_refused(model, images, given, named, entry):
    with pytest.raises((InputError, ValueError), match=named):
        getattr(model, entry)(given(images))


def test_images_that_no_look_can_wait_for_are_known_by_their_range(images):
    """As on a GPU: what is far outside 0..1 is not judged there."""
    batch = torch.cat([images[:1], 255 * images[:1], images[:1] - 0.5, images[:1] * 1.05])
    assert in_range(batch).tolist() == [True, False, False, True]


def test_what_resampling_adds_and_what_is_no_number_pass(model, images):
    over = images.clone()
    over[0, 0, 0, 0], over[1, 0, 0, 0] = 1.05, -0.05
    assert model(over)[0].isfinite().all()
    over[2, 0, 0, 0] = math.inf
    assert model(over)[0].isfinite().tolist() == [True, True, False]


@pytest.mark.parametrize("state", STATES)
def test_layers_are_the_same_in_every_state(state, images):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 5, 3, 4, generator=generator)
    wanted = DenseGaussian(5, (3, 4)).update(features).finalize()(features)
    torch.manual_seed(0)
    network = FeatureExtractor(SIZE, "test_resnet", staged=True).backbone
    smoothed = smooth(images, 1.5)
    gaussian = DenseGaussian(5, (3, 4))
    with STATES[state]():
        found = gaussian.update(features).finalize()(features)
        again = smooth(images, 1.5)
        torch.manual_seed(0)
        room = FeatureExtractor(SIZE, "test_resnet", staged=True)
    expected = network(images)
    same([found, again], [wanted, smoothed])
    same(room.backbone(images), expected)
    assert gaussian(features[:0]).shape == (0, 3, 4)


def test_a_matrix_that_was_first_made_in_another_state_serves_in_all():
    with default_dtype(torch.float64), torch.device("meta"), torch.inference_mode():
        made = gaussian_matrix(7, 1.7)
    assert made.dtype == torch.float32 and made.device.type == "cpu" and not made.is_inference()


def test_maps_of_whole_numbers_cannot_be_smoothed():
    with pytest.raises(TypeError, match=r"smooth: maps have dtype torch.int64.*maps.float"):
        smooth(torch.ones(4, 4, dtype=torch.int64), 1.0)


def test_a_state_of_other_parts_says_how_it_is_loaded(model, images, expected):
    state, metadata = model.state_dict(), model.extra_metadata()
    with pytest.raises(RuntimeError, match=r"FYD.from_state\(config, state_dict, metadata\)"):
        FYD(image_size=SIZE, align="none", layers=(1,)).load_state_dict(state)
    same(FYD.from_state(model.config, state, metadata)(images), expected[1])


def test_photographs_are_scored_from_paths_and_arrays(model, tiny_category, tmp_path):
    folder = tiny_category / "test" / "good"
    paths = sorted(folder.iterdir())
    wanted = [model(prepare(load_image(path), SIZE)[None]) for path in paths]
    found = model.predict(folder)
    assert [item.name for item in found] == [str(path) for path in paths]
    for item, (score, maps) in zip(found, wanted, strict=True):
        assert item.score == float(score) and item.reason == ""
        assert torch.equal(torch.from_numpy(item.map).nan_to_num(-1), maps[0].nan_to_num(-1))
        assert item.verdict is judge(item.score, model.image_threshold)
    limit = float(model.pixel_threshold)
    for item in found:
        about = {"theta": item.theta, "part_area": model.density.part_area}
        shown = find_regions(item.map, limit, (32, 40), **about)
        assert item.regions == shown
        assert [region.score for region in shown] == [item.score] * (item.score > limit)
    pixels = load_image(paths[0])
    grey = np.ascontiguousarray(pixels[..., 0])
    several = model.predict([pixels, pixels / 255, Image.fromarray(grey), str(paths[1])])
    assert [item.name for item in several] == ["image 0", "image 1", "image 2", str(paths[1])]
    assert [item.score for item in several] == [*[found[0].score] * 3, found[1].score]


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("nowhere.png", "nowhere.png: no such file"),
        ([], "no photographs given"),
        (np.zeros((4, 4), np.int64), "image: an array of int64 with whole numbers"),
        ([np.full((4, 4, 3), 255.0)], "image 0: an array of float64 with values from 255 to 255"),
        (np.zeros((1, 3, 4, 4), np.uint8), r"shape \[1, 3, 4, 4\].*model\(images\)"),
        (np.full((4, 4), np.nan), "not finite"),
    ],
)
def test_what_is_no_photograph_is_named(model, source, named):
    with pytest.raises(InputError, match=named):
        model.predict(source)


@pytest.mark.parametrize("size", [16, None])
def test_a_model_stays_what_it_was_when_its_file_is_overwritten(images, expected, tmp_path, size):
    path = tmp_path / "model.safetensors"
    path.write_bytes(KEPT.read_bytes())
    model = FYD.load(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
        file.truncate(size)
    same(model(images), expected[1])


def test_a_mapped_model_scores_the_same_and_can_be_saved_over(images, expected, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(KEPT.read_bytes())
    model = FYD.load(path, mapped=True)
    same(model(images), expected[1])
    model.save(path)
    same(model(images), expected[1])
