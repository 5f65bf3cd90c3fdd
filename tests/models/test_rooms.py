"""Each room of the model alone, and all four as the model composes them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign import FYD
from fastalign.errors import ConfigError
from fastalign.models.density import FeatureDensity
from fastalign.models.features import FeatureExtractor
from fastalign.models.maps import AnomalyMaps
from fastalign.models.pieces import split_rows
from fastalign.models.pose import PoseEstimator
from fastalign.models.rooms import warp
from fastalign.ops import affine, warp_affine

SIZE = (32, 48)
KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    """With an aligner, FCA, FA, calibration and places without support."""
    return FYD.load(KEPT)


@pytest.fixture
def features():
    return FeatureExtractor(SIZE, "test_resnet", staged=True)


# Pose ----------------------------------------------------------------------------------------


def test_a_pose_room_without_parts_leaves_images_as_they_are(images):
    pose = PoseEstimator((32, 48))
    assert pose(images) is None
    assert pose.locate(images) == (None, None) and pose.residual(images).isnan().all()


def test_a_pose_room_comes_back_from_its_parts_and_tensors(images, features):
    pose = PoseEstimator((32, 48), "rotation")
    pose.install(aspect=1.5)
    ica = pose.make_ica()
    torch.nn.init.constant_(ica.head.bias, 0.1)
    template = pose.edges(images).mean(0)[0]
    pose.install(ica=ica, template=pose.make_template(template, torch.ones_like(template)))
    again = PoseEstimator((32, 48), "rotation").restore(
        pose.parts(), pose.state_dict(), features.backbone, 1.5
    )
    theta = pose(images)
    assert torch.equal(again(images), theta) and again.aspect == 1.5
    assert affine.magnitude(theta, 1.5)["rotation"].abs().min() > 1
    before, found = again.residual(images), again.locate(images)
    assert torch.equal(before, pose.residual(images)) and torch.equal(found.theta, theta)
    assert torch.equal(found.residual, pose.residual(images, theta))
    assert (before != found.residual).all()
    pose.install()
    assert pose(images) is None and pose.aspect == 1.5


# Features ------------------------------------------------------------------------------------


def test_features_kept_are_those_of_all(images, features):
    adapters = features.make_adapters()
    for adapter in adapters:
        torch.nn.init.normal_(adapter.weight, std=0.1)
    features.install(fca=features.make_fca(1.0), adapters=adapters)
    with torch.no_grad():
        features.fca[0].head.bias.fill_(0.02)
        stages, theta = features(images)
        kept = [torch.tensor([0, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([5])]
        found, again = features.keep(kept)(images)
    assert torch.equal(theta, again) and not torch.equal(theta, affine.identity(3))
    assert [part.shape[1] for part in found] == [2, 0, 1]
    for part, stage, channels in zip(found, stages, kept, strict=True):
        torch.testing.assert_close(part, stage[:, channels])
    assert [part.shape[1] for part in features.keep(None)(images).stages] == list(features.channels)


def test_features_follow_weights_that_are_loaded(images, features):
    features.install(adapters=features.make_adapters())
    features.keep([torch.tensor([1])] * 3)
    state = {name: value.clone() for name, value in features.state_dict().items()}
    state["adapters.0.weight"] += 1
    before = features(images).stages[0]
    features.load_state_dict(state)
    assert not torch.equal(features(images).stages[0], before)


# Density -------------------------------------------------------------------------------------


@pytest.fixture
def density():
    generator = torch.Generator().manual_seed(1)
    room = FeatureDensity((3, 4), (6, 5), channels=4).select(torch.tensor([0, 2, 3, 6]))
    stages = [
        torch.randn(9, 2, 6, 5, generator=generator),
        torch.randn(9, 2, 3, 2, generator=generator),
    ]
    valid = torch.ones(9, 6, 5, dtype=torch.bool)
    valid[:, 0, 0] = False
    room.gaussians.update(room.describe(stages), valid).finalize()
    return room.calibrate(torch.full((6, 5), 0.5)), stages


def test_a_density_measures_scales_and_knows_where_it_may(density):
    room, stages = density
    assert [rows.tolist() for rows in room.wanted] == [[0, 2], [0, 3]]
    distance, support = room(stages)
    plain = room.gaussians(room.describe(stages))
    assert torch.equal(distance, 0.5 * plain) and plain.max() > 1
    assert not support[0, 0] and support.sum() == 29
    room.bands = split_rows(6, 3)
    torch.testing.assert_close(room(stages).distance, distance)


def test_a_coarser_stage_is_upsampled_where_distances_are_taken(monkeypatch):
    """Features that are sums over stages are made where they learn, and else not."""
    torch.manual_seed(1)
    room = FeatureDensity((2, 3, 4), (6, 5), channels=4).project(torch.randn(4, 9))
    stages = [torch.randn(9, 0, 12, 10), torch.randn(9, 4, 6, 5), torch.randn(9, 4, 3, 2)]
    valid = torch.ones(9, 6, 5, dtype=torch.bool)
    valid[:, 0, 0] = False
    room.gaussians.update(room.describe(stages), valid).finalize()
    room.calibrate(torch.rand(6, 5) + 0.5)
    wanted = room.gaussians(room.describe(stages)) * room.calibration
    stages[1].requires_grad_()
    learnt = room(stages).distance
    (gradient,) = torch.autograd.grad(learnt.sum(), stages[1])
    assert torch.equal(learnt, wanted) and gradient[:, :, 1:].abs().min() > 0
    assert not gradient[:, :, 0, 0].any()
    monkeypatch.setattr(room, "describe", None)
    room.bands = split_rows(6, 3)  # of no use where nothing is made
    with torch.no_grad():
        distance, support = room(stages)
    torch.testing.assert_close(distance, wanted, rtol=1e-5, atol=0)
    assert support.sum() == 29 and not distance[:, 0, 0].any()


def test_a_density_comes_back_from_its_tensors(density):
    room, stages = density
    again = FeatureDensity((3, 4), (6, 5), channels=4).restore(room.state_dict())
    assert torch.equal(again(stages).distance, room(stages).distance)
    assert [a.tolist() for a in again.wanted] == [a.tolist() for a in room.wanted]
    with pytest.raises(KeyError, match="missing tensors: selection"):
        state = {k: v for k, v in room.state_dict().items() if k != "selection"}
        FeatureDensity((3, 4), (6, 5), channels=4).restore(state)


def test_a_density_that_is_not_fitted_says_so():
    with pytest.raises(ConfigError, match="not fitted"):
        FeatureDensity((3,), (2, 2))([torch.zeros(1, 3, 2, 2)])


# Maps ----------------------------------------------------------------------------------------


def test_maps_go_back_to_the_images_frame():
    maps = AnomalyMaps((32, 32), (8, 8), sigma=0)
    distance = torch.zeros(1, 8, 8)
    distance[0, 3:5, 1:3] = 1.0
    theta = affine.from_parameters(torch.tensor([[0.5, 0.0]]), "translation")
    (score, straight), (_, moved) = maps(distance), maps(distance, theta)
    assert score == straight.max()
    assert straight[0, 16, :16].argmax() + 8 == moved[0, 16].nan_to_num(0).argmax()
    support = torch.ones(8, 8, dtype=torch.bool)
    support[:, :3] = False
    assert maps(distance, None, support)[0] < 0.1 * score


def same(one, other):
    """Whether both have the same bits, NaN where nothing was compared among them."""
    return torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


# All -----------------------------------------------------------------------------------------


def test_the_model_is_its_rooms_one_after_the_other(model, images):
    theta = model.pose(images)
    stages, theta = model.features(warp(images, theta), theta)
    distance, support = model.density(stages)
    assert theta is not None and support is not None
    found, expected = model.maps(distance, theta, support), model(images)
    assert all(map(same, found, expected))


def test_a_room_moved_to_another_device_and_back_scores_the_same(model, images):
    other = copy.deepcopy(model).to("meta")
    assert other.density.wanted[0].is_meta and other.density.bands == model.density.bands
    copied = copy.deepcopy(model).double().float()
    torch.testing.assert_close(
        copied(images)[1], model(images)[1], rtol=1e-3, atol=1e-3, equal_nan=True
    )


class NoHostDecision(TorchDispatchMode):
    """Numbers of tensors do not come to the host, and no shape depends on them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"}, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bands", [1, 3])
def test_nothing_on_the_way_is_decided_by_what_is_in_an_image(model, images, bands):
    model = copy.deepcopy(model)
    model.density.bands = split_rows(model.density.size[0], bands)
    with torch.no_grad():
        expected = model(images)
        with NoHostDecision():
            found = model(images)
            model.predict_detail(images)
        with pytest.raises(AssertionError, match="_local_scalar_dense"), NoHostDecision():
            float(images.sum())
    assert all(map(same, found, expected))


def test_names_of_the_first_format_are_loaded_into_rooms(model, images):
    from fastalign.storage import layout

    state = layout.in_file(layout.rooms_of(model.state_dict()))
    assert "backbone.normalise" not in state and "density.mean" in state
    other = copy.deepcopy(model)
    other.density.calibration.fill_(0)
    outer = torch.nn.ModuleDict({"fyd": other})
    outer.load_state_dict({f"fyd.{name}": value for name, value in state.items()})
    assert same(other(images)[1], model(images)[1])


def test_a_warp_of_nothing_is_the_image_itself(images):
    assert warp(images, None) is images
    theta = affine.identity(3)
    assert torch.equal(warp(images, theta), warp_affine(images, theta, padding_mode="border"))
