"""What a fit does with its images and options: sources, density, thresholds, training, resuming."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from fastalign import FYD, FYDConfig
from fastalign.data import ImageDataset, collect, open_category
from fastalign.errors import (
    ArtifactError,
    CollapseWarning,
    ConfigError,
    InputError,
    RunawayWarpWarning,
)
from fastalign.models.fitting.priors import Priors
from fastalign.models.fitting.samples import Samples
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.thresholds import Others
from fastalign.models.fitting.training import Trainer
from fastalign.models.fitting.words import describe_density
from fastalign.models.rooms import warp
from fastalign.nn import CovariancePrior
from fastalign.ops import affine, warp_affine

SIZE = 32
# More channels than images, and no more: their matrices are most of the time of so small a fit.
PLAIN: dict[str, Any] = {"image_size": SIZE, "align": "none", "sigma": 1.0, "channels": 40}
DRAWN = {**PLAIN, "channels": 8, "reduction": "draw", "strides": (4, 8, 16), "prior": 0.0}
FINE = {**PLAIN, "strides": (4, 8, 16)}
TRAINED = {**PLAIN, "epochs": 3, "batch_size": 4}


def photographs(count: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    """Two bars on grey with noise, each shifted at random by up to ``shift`` of the size."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.full((1, 3, 64, 64), 0.3)
    part[:, :, 22:30, 14:50] = 0.8
    part[:, 0, 22:54, 18:26] = 0.6
    shifts = 2 * shift * (2 * torch.rand(count, 2, generator=generator) - 1)
    theta = affine.from_parameters(shifts, "translation")
    moved = warp_affine(part.repeat(count, 1, 1, 1), theta, size=(SIZE, SIZE))
    noise = 0.03 * torch.randn(moved.shape, generator=generator)
    return (moved + noise).clamp(0, 1)


def state_of(model: FYD) -> dict[str, Tensor]:
    return {name: value.nan_to_num(-1) for name, value in model.state_dict().items()}


def assert_same(one: FYD, other: FYD) -> None:
    """Bit for bit."""
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def trainer_of(model: FYD, source: ImageSource, seed: int) -> Trainer:
    return Trainer(model.config, model.pose, model.features, source, None, seed)


@pytest.fixture(scope="module")
def moved() -> FYD:
    """Aligned by translations of up to a quarter of the image, so that its rim was seen less."""
    options = {**FINE, "align": "ica", "family": "translation", "skip": False}
    return FYD(**{**options, "sigma": 0}, min_share=0.6).fit(photographs(20, 0.25))


# Sources -------------------------------------------------------------------------------------


def test_a_tensor_a_list_and_a_dataset_of_the_same_images_give_the_same_model(tiny_category):
    dataset = ImageDataset(open_category(tiny_category).train, (32, 40))
    images = collect(dataset)
    options = {**TRAINED, "image_size": (32, 40), "align": "fa", "epochs": 1}
    models = [FYD(**options).fit(source) for source in (images, list(images), dataset)]
    assert_same(models[0], models[1])
    assert_same(models[0], models[2])
    assert models[2].extra_metadata()["images"] == {"train": 6, "validation": 0}


def test_float64_and_half_images_are_taken():
    images = photographs(5).half()
    first, second = (FYD(**PLAIN).fit(x) for x in (images, images.double()))
    assert_same(first, second)
    assert torch.equal(first(images)[1], first(images.float())[1])


def test_the_aspect_is_that_of_the_photographs_unless_it_is_given(tmp_path):
    folder = tmp_path / "part" / "train" / "good"
    folder.mkdir(parents=True)
    for index, width in enumerate((40, 64, 64)):
        pixels = np.random.default_rng(index).integers(0, 255, (32, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (tmp_path / "part" / "test" / "good").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "part" / "test" / "good" / "0.png")
    dataset = ImageDataset(open_category(tmp_path / "part").train, (SIZE, SIZE))
    model = FYD(**PLAIN).fit(dataset)
    assert model.aspect == 2.0
    model.save(tmp_path / "model.safetensors")
    assert FYD.load(tmp_path / "model.safetensors").aspect == 2.0
    assert FYD(**PLAIN, aspect=1.5).fit(dataset).aspect == 1.5
    wide = FYD(**{**PLAIN, "image_size": (32, 48)}).fit(torch.rand(2, 3, 32, 48))
    assert wide.aspect == 1.5


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_images_that_do_not_fit_are_named_with_their_set(kind, tiny_category):
    good, model = photographs(2), FYD(**PLAIN)
    for bad, message in (
        (torch.zeros(0, 3, SIZE, SIZE), f"no images for {kind}"),
        ([good[0], good[1, :, :16]], rf"{kind} image 1 has shape \[3, 16, 32\], expected \[3, 32"),
        (torch.stack([good[0], good[1] * 255]), f"{kind} image 1 has .*outside 0..1"),
        (good - 0.5, f"{kind} image 0 has .*outside 0..1"),
        (torch.full_like(good, math.nan), f"{kind} image 0 has .*NaN or infinite"),
        ((good * 255).byte(), f"{kind} image 0 has dtype torch.uint8"),
        (
            ImageDataset(open_category(tiny_category).train, (16, 16)),
            rf"{kind} dataset has image size \(16, 16\), expected \(32, 32\)",
        ),
    ):
        sets = (bad, None) if kind == "training" else (good, bad)
        with pytest.raises(InputError, match=message):
            model.fit(*sets)


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (1, 1, SIZE, SIZE), (1, 3, SIZE, 48)])
@pytest.mark.parametrize("method", ["__call__", "align", "predict_detail"])
def test_images_to_score_of_another_shape_are_named(moved, method, shape):
    with pytest.raises(ValueError, match=r"images have shape \[.*expected \[B, 3, 32, 32\]"):
        getattr(moved, method)(torch.zeros(shape))


# Density -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "kept"), [(0, 176), (7, 7), (1000, 176), (1, 1)])
def test_channels_are_drawn_from_all_stages_or_all_kept(channels, kept):
    model = FYD(**{**DRAWN, "channels": channels}).fit(photographs(4))
    assert model.density.channels == kept
    assert len(model.density.selection.unique()) == kept
    assert model.density.selection.max() < 176 == sum(model.features.backbone.channels)
    assert (model.density.selection.diff() > 0).all()
    assert model(photographs(2))[1].isfinite().all()


def test_features_are_the_selected_channels_of_all_stages_at_the_size_of_the_first():
    images = photographs(3)
    model = FYD(**DRAWN).fit(images)
    stages = model.features.backbone(images)
    whole = torch.cat(
        [torch.nn.functional.interpolate(s, (8, 8), mode="bilinear") for s in stages], 1
    )
    kept = model.density.describe(model.features(images).stages)
    torch.testing.assert_close(kept, whole[:, model.density.selection])


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
def test_16_bit_storage_halves_the_whitener_and_keeps_the_scores(storage, tmp_path):
    images, other = photographs(30), photographs(4, 0.1, seed=1)
    exact = FYD(**PLAIN).fit(images)
    model = FYD(**PLAIN, storage=storage).fit(images)
    assert model.density.gaussians.whitener.dtype == getattr(torch, storage)
    torch.testing.assert_close(model(other)[1], exact(other)[1], rtol=0.02, atol=0.05)
    model.save(tmp_path / "m.safetensors")
    again = FYD.load(tmp_path / "m.safetensors")
    assert again.density.gaussians.whitener.dtype == getattr(torch, storage)
    assert torch.equal(again(other)[1], model(other)[1])


def test_shrinkage_reaches_the_density():
    images = photographs(4)
    loose, tight = (FYD(**DRAWN, shrinkage=value).fit(images) for value in (1.0, 0.01))
    other = photographs(2, seed=1)
    assert (loose(other)[0] < 0.5 * tight(other)[0]).all()


def test_the_prior_reaches_the_density_and_the_record():
    """Learned, given, and none, which is PaDiM's estimate."""
    images = photographs(8)
    learned, given, none = (
        FYD(**{**DRAWN, "prior": prior}).fit(images) for prior in (None, 3.0, 0)
    )
    padim = FYD(**DRAWN, shrinkage=0.01).fit(images)
    assert_same(none, padim)
    assert none.record.prior is None
    assert learned.record.prior is not None and given.record.prior is not None
    assert len(learned.record.prior["likelihood"]) == 10
    assert (given.record.prior["strength"], given.record.prior["likelihood"]) == (3.0, [])
    kept = dict(map(tuple, learned.record.prior["likelihood"]))
    assert learned.record.prior["strength"] == min(kept, key=kept.__getitem__)
    assert not torch.equal(given.density.gaussians.whitener, none.density.gaussians.whitener)
    stronger = FYD(**{**DRAWN, "prior": learned.record.prior["strength"]}).fit(images)
    assert torch.equal(stronger.density.gaussians.whitener, learned.density.gaussians.whitener)


def test_the_prior_is_learned_from_images_that_are_no_copies():
    samples, again = Samples((8, 8)), Samples((8, 8))
    features = torch.randn(6, 4, 8, 8)
    samples.put(*samples.pick(features, None), 0)
    again.put(*again.pick(features.repeat_interleave(3, 0), None), 0)
    one = samples.prior(None, None, range(6))
    other = again.prior(None, None, [position // 3 for position in range(18)])
    assert one is not None and other is not None
    assert torch.equal(one.covariance, other.covariance)
    assert one.to_json() == other.to_json()


def test_an_image_in_turn_is_judged_by_a_prior_of_the_others():
    """Even images are a fold; the priors of its density know the odd ones alone."""
    samples, odd = Samples((8, 8), radius=1), Samples((8, 8), radius=1)
    features = torch.randn(8, 4, 8, 8)
    picked = [samples.pick(one[None], None) for one in features]
    odd.put(*odd.pick(features[1::2], None), 0)
    others = Others(samples, picked, range(8), [position % 2 for position in range(8)], 0)
    assert others.groups == [1, 3, 5, 7]
    floor = 0.1 * torch.eye(4, dtype=torch.float64)
    found = others.priors(FYDConfig(), floor, 5.0)
    expected = odd.prior(5.0, None, range(4), floor), odd.mean_prior("auto", range(4))
    assert torch.equal(found.covariance.covariance, expected[0].covariance)
    assert found.mean is not None and found.mean.strength == expected[1].strength


def test_a_fit_says_what_its_density_is(moved):
    told = moved.record.density
    assert "whitened" in told and "worth 3 photographs (as set)" in told and "its mean" in told
    fixed = describe_density(moved.density.gaussians, moved.config, Priors())
    assert fixed.endswith("(held-out photographs ask for no prior)")
    prior = CovariancePrior.of_samples(torch.randn(6, 4, 3))
    learned = FYDConfig(prior=None)
    told = describe_density(moved.density.gaussians, learned, Priors(prior))
    assert "held-out ones are likeliest so, of 1, 2, 5" in told


def test_places_that_few_images_saw_are_not_scored(moved):
    count = moved.density.gaussians.count
    assert count.max() == 20 and count.min() < 12
    assert torch.equal(moved.density.gaussians.support, count >= 12)
    images = photographs(3, 0.1, seed=1)
    every = FYD(moved.config, min_share=0.0).fit(photographs(20, 0.25))
    assert torch.equal(every.align(images), moved.align(images))
    # Maps come from the aligned frame, whose locations the support speaks of.
    support = (count >= 12).float().expand(3, 1, *count.shape).contiguous()
    reached = warp_affine(support, affine.invert(moved.align(images)), size=(SIZE, SIZE))[:, 0]
    given, wanted = moved(images)[1], every(images)[1]
    unseen = reached == 0
    assert unseen.any((1, 2)).all() and given[unseen].isnan().all()
    assert (wanted[unseen] > 0).any()
    whole = reached > 0.999
    assert whole.any((1, 2)).all() and (given[whole] > 0).all()
    # Nor does it fade towards them: what is left of the evidence is a mean of distances.
    stages = moved.features(warp(images, moved.align(images))).stages
    distance = moved.density(stages).distance
    valid = moved.maps.valid(moved.align(images)) & (count >= 12)
    evidence = warp_affine(
        valid[:, None].float(), affine.invert(moved.align(images)), size=(SIZE, SIZE)
    )[:, 0]
    partly = (evidence > 0.06) & (evidence < 0.4)
    assert partly.any() and (given[partly] >= distance[valid].min() - 1e-4).all()


def test_distances_are_scaled_down_where_fewer_images_were_seen(moved):
    count, factor = moved.density.gaussians.count, moved.density.calibration
    assert (factor[count == count.max()] == 1).all()
    assert factor[count < 8].max() < 1 and factor.min() > 0
    order = count.flatten().argsort()
    assert (factor.flatten()[order].diff() >= -1e-6).all()


def test_without_calibration_distances_stay_as_they_are(moved):
    plain = FYD(moved.config, calibrate=False).fit(photographs(20, 0.25))
    assert (plain.density.calibration == 1).all()
    assert torch.equal(plain.density.gaussians.mean, moved.density.gaussians.mean)
    images = photographs(3, 0.2, seed=2)
    found, wanted = moved(images)[1].nan_to_num(0), plain(images)[1].nan_to_num(0)
    assert (found <= wanted + 1e-4).all()
    assert (moved(images)[1] < 0.99 * plain(images)[1]).any()


def test_without_alignment_every_place_is_seen_and_scored():
    model = FYD(**PLAIN).fit(photographs(6))
    assert (model.density.gaussians.count == 6).all() and (model.density.calibration == 1).all()
    assert (model(photographs(2, seed=1))[1] > 0).all()


def test_the_map_is_the_distance_upsampled_and_smoothed():
    from fastalign.nn import smooth

    model = FYD(**PLAIN).fit(photographs(6))
    images = photographs(2, seed=1)
    distance = model.density(model.features(images).stages).distance
    upsampled = torch.nn.functional.interpolate(distance[:, None], (SIZE, SIZE), mode="bilinear")
    torch.testing.assert_close(model(images)[1], smooth(upsampled[:, 0], 1.0))


# Thresholds ----------------------------------------------------------------------------------


def test_the_threshold_is_a_quantile_of_the_scores_of_validation_images():
    train, validation = photographs(12), photographs(7, seed=1)
    for quantile in (0.5, 0.9, 1.0):
        model = FYD(**PLAIN, refit=False, threshold_quantile=quantile).fit(train, validation)
        expected = model(validation)[0].quantile(quantile)
        torch.testing.assert_close(model.image_threshold, expected)
        assert torch.equal(model.pixel_threshold, model.image_threshold)
    assert (model.density.gaussians.count == 12).all()


def test_a_refit_takes_the_validation_images_into_the_density():
    train, validation = photographs(12), photographs(20, seed=1)
    kept = FYD(**DRAWN, refit=False).fit(train, validation)
    model = FYD(**DRAWN).fit(train, validation)
    assert (model.density.gaussians.count == 32).all()
    everything = FYD(**DRAWN).fit(torch.cat([train, validation]))
    torch.testing.assert_close(model.density.gaussians.mean, everything.density.gaussians.mean)
    fresh = photographs(5, seed=3)
    unit = model.record.score_unit
    assert everything.record.score_unit is None and unit is not None
    found = unit * model(fresh)[0]
    torch.testing.assert_close(found, everything(fresh)[0], rtol=1e-3, atol=1e-3)
    # By as much as distances shrink with more images, the threshold does.
    before = kept.record.score_unit * kept.image_threshold
    assert 0.3 * before < unit * model.image_threshold < before
    assert model.extra_metadata()["images"] == {"train": 12, "validation": 20}
    source = model.extra_metadata()["threshold_source"]
    assert source.startswith("quantile 0.99 ") and source.endswith("of 20 normal validation images")


def test_few_validation_images_take_turns_with_the_others():
    train, validation = photographs(12), photographs(3, seed=1)
    model = FYD(**DRAWN, threshold_quantile=1.0).fit(train, validation)
    assert (model.density.gaussians.count == 15).all()
    images = torch.cat([train, validation])
    scores = torch.empty(15)
    for fold in range(5):
        left_out = torch.arange(15) % 5 == fold
        scores[left_out] = FYD(**DRAWN).fit(images[~left_out])(images[left_out])[0]
    # 12 images each; distances from a density of 15 are smaller.
    limit = model.record.score_unit * model.image_threshold
    assert 0.7 * scores.max() < limit < scores.max()
    source = "quantile 1 of 15 normal images, each scored without itself"
    assert model.extra_metadata()["threshold_source"] == source
    normal = model.extra_metadata()["normal_scores"]
    assert normal["of"] == source.removeprefix("quantile 1 of ") and len(normal["scores"]) == 15
    assert normal["scores"][-1] == pytest.approx(float(model.image_threshold), rel=1e-5)


def test_a_threshold_of_two_validation_images_holds_for_new_ones():
    fresh = photographs(60, 0.05, seed=3)
    for seed in range(3):
        model = FYD(**PLAIN).fit(photographs(20, 0.05, seed=7), photographs(2, 0.05, seed=seed))
        assert (model(fresh)[0] > model.image_threshold).float().mean() <= 0.1


def test_without_validation_images_there_is_no_threshold():
    model = FYD(**PLAIN).fit(photographs(3))
    assert model.image_threshold.isnan() and model.pixel_threshold.isnan()


@pytest.mark.parametrize("validation", [1, 2])
def test_one_training_image_and_few_validation_images(validation):
    model = FYD(**PLAIN).fit(photographs(1), photographs(validation, seed=1))
    assert model.image_threshold.isfinite() and model.image_threshold > 0
    assert (model.density.gaussians.count == 1 + validation).all()


# Training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"align": "fa"}, {"align": "fca", "skip": False}, {"align": "ica", "teacher": False}],
    ids=lambda options: options["align"],
)
def test_a_resumed_fit_is_as_unbroken(options, tmp_path):
    class Stop(Exception):
        pass

    class StopsBeforeTheLastEpoch:
        def start(self, stage: str, total: int) -> None: ...

        def advance(self, n: int = 1) -> None: ...

        def log(self, values: dict[str, Any]) -> None:
            if values["epoch"] == 3:
                raise Stop

        def note(self, text: str) -> None: ...

    options = {**TRAINED, "skip": False, "momentum": 0.9, **options}
    images = photographs(9, 0.05)
    whole = FYD(**options).fit(images, seed=4)
    checkpoint = tmp_path / "fit.ckpt"
    with pytest.raises(Stop):
        FYD(**options).fit(
            images, seed=4, checkpoint=checkpoint, progress=StopsBeforeTheLastEpoch()
        )
    resumed = FYD(**options).fit(images, seed=4, checkpoint=checkpoint, resume=True)
    assert_same(whole, resumed)
    assert resumed.extra_metadata() == whole.extra_metadata()
    assert [row["epoch"] for row in resumed.extra_metadata()["training"]] == [1, 2, 3]


def test_resuming_from_nothing_or_from_another_file_is_an_error(tmp_path):
    model = FYD(**{**TRAINED, "align": "fa"})
    with pytest.raises((ArtifactError, InputError), match=r"no\.ckpt"):
        model.fit(photographs(4), checkpoint=tmp_path / "no.ckpt", resume=True)
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ArtifactError, match=r"text\.ckpt"):
        model.fit(photographs(4), checkpoint=tmp_path / "text.ckpt", resume=True)


def test_fine_alignment_changes_the_features_and_leaves_the_backbone_alone():
    images = photographs(8)
    model = FYD(**{**TRAINED, **DRAWN, "align": "fa", "learning_rate": 0.05})
    before = {name: value.clone() for name, value in model.features.backbone.state_dict().items()}
    model.fit(images)
    assert all(torch.equal(before[k], v) for k, v in model.features.backbone.state_dict().items())
    assert all(adapter.weight.any() for adapter in model.features.adapters)
    stages = model.features.backbone(images)
    adapted = torch.cat(
        [
            torch.nn.functional.interpolate(s, (8, 8), mode="bilinear")
            for s in model.features.adapt(stages)
        ],
        1,
    )
    torch.testing.assert_close(
        model.density.describe(model.features(images).stages),
        adapted[:, model.density.selection],
        rtol=1e-3,
        atol=1e-3,
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_the_fine_loss_falls():
    options = {**TRAINED, "align": "fa", "epochs": 12, "learning_rate": 0.05}
    training = FYD(**options).fit(photographs(12, 0.05)).extra_metadata()["training"]
    losses = [row["loss_fa"] for row in training]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("align", ["fa", "fca+fa"])
def test_what_no_epoch_changes_is_worked_out_once(align):
    """Each image is read once, and training is the same but for rounding."""
    images, read = photographs(6), []

    class Source(ImageSource):
        def batches(self, size, indices=None):
            read.extend(indices)
            return super().batches(size, indices)

    found = {}
    for keep in (False, True):
        model = FYD(**{**TRAINED, "align": align, "learning_rate": 0.05})
        torch.manual_seed(0)
        fca = model.features.make_fca(1.0) if "fca" in align else None
        model.features.install(fca=fca, adapters=model.features.make_adapters())
        source = Source(images, model.config.image_size, model.density.device)
        theta = affine.identity(len(images))
        theta[:, 0, 2] = 0.1
        options = model.config, model.pose, model.features, source, theta, 0
        trainer = Trainer(*options, keep=keep)
        read.clear()
        logged = [trainer.epoch(index) for index in range(2)]
        found[keep] = logged, trainer.tensors(), sorted(read)
    assert found[True][2] == list(range(6)) and found[False][2] == sorted([*range(6)] * 2)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-3, atol=1e-4)
    for one, other in zip(*(found[keep][0] for keep in (True, False)), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_a_feature_warp_is_trained_by_the_loss_of_its_own_stage():
    model = FYD(**{**TRAINED, "align": "fca"})
    features = model.features.install(fca=model.features.make_fca(1.0))
    stages, _ = features.train_from(features.begin(photographs(2)))
    for index, stage in enumerate(stages):
        features.zero_grad()
        stage.square().sum().backward(retain_graph=True)
        moved = [any(p.grad is not None for p in layer.parameters()) for layer in features.fca]
        assert moved == [place == index for place in range(len(stages))]


def test_feature_warps_move_the_maps_with_the_features():
    """theta of all stages composed, and the map taken back by it."""
    options = {**TRAINED, **FINE, "align": "fca", "skip": False, "fca_family": "translation"}
    model = FYD(**options).fit(photographs(6))
    with torch.no_grad():
        for layer in model.features.fca:
            layer.head.weight.zero_()
            layer.head.bias.copy_(torch.tensor([0.05, -0.02]))
    detail = model.predict_detail(photographs(2, seed=1))
    bound = 2 * 0.05
    expected = [3 * bound * math.tanh(value / bound) for value in (0.05, -0.02)]
    torch.testing.assert_close(detail.theta[:, :, 2], torch.tensor([expected, expected]))
    torch.testing.assert_close(
        model.align(photographs(2, seed=1)), affine.identity(2), rtol=0, atol=0
    )
    assert not detail.valid.all()


def test_collapse_is_warned_of_where_all_images_are_one():
    """At 16 px the last map is a single place; equal images, which a fit refuses, then have one
    direction."""
    model = FYD(**{**TRAINED, "align": "fa", "image_size": 16, "epochs": 1})
    model.features.install(adapters=model.features.make_adapters())
    images = photographs(1)[:, :, 8:24, 8:24].repeat(6, 1, 1, 1)
    trainer = trainer_of(model, ImageSource(images, (16, 16), torch.device("cpu")), 0)
    with pytest.warns(CollapseWarning, match="epoch 1: the projected features have collapsed"):
        trainer.epoch(0)


def test_a_warp_that_runs_away_is_warned_of():
    options = {**TRAINED, "align": "ica", "teacher": False, "family": "translation"}
    model = FYD(**options, ica_learning_rate=1000)
    with pytest.warns(RunawayWarpWarning, match="warp of ica has run to the bound of its shift"):
        model.fit(photographs(6, 0.2))


def test_each_epoch_has_its_own_order_in_batches_of_nearly_equal_size():
    model = FYD(**{**TRAINED, "align": "fa"})
    source = ImageSource(photographs(9), (SIZE, SIZE), torch.device("cpu"))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = list(trainer_of(model, source, seed).batches(epoch))
        assert [len(images) for images, _ in batches] == [3, 3, 3]
        orders.append(torch.cat([positions for _, positions in batches]).tolist())
        assert sorted(orders[-1]) == list(range(9))
    assert orders[0] != orders[1] and orders[0] != orders[2]
    # Never a single image, which has nothing to be compared with.
    source = ImageSource(photographs(5), (SIZE, SIZE), torch.device("cpu"))
    assert [len(x) for x, _ in trainer_of(model, source, 0).batches(0)] == [3, 2]


def test_heads_are_drawn_by_the_seed():
    """All images in one batch, so that their order is no matter."""
    options = {**TRAINED, "align": "fa", "epochs": 1, "batch_size": 8}
    first, again, other = (FYD(**options).fit(photographs(4), seed=s) for s in (1, 1, 2))
    for a, b, c in zip(
        first.features.adapters, again.features.adapters, other.features.adapters, strict=True
    ):
        assert torch.equal(a.weight, b.weight)
        assert (a.weight - c.weight).norm() > 0.1 * a.weight.norm()


def test_no_epochs_train_nothing():
    model = FYD(**{**TRAINED, "align": "ica+fca+fa", "teacher": False, "epochs": 0})
    model.fit(photographs(4))
    assert model.pose.ica is None and model.features.fca is None
    assert model.extra_metadata()["training"] == []
    plain = FYD(**PLAIN).fit(photographs(4))
    images = photographs(2, seed=1)
    found, expected = model(images)[1], plain(images)[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


# Course --------------------------------------------------------------------------------------


def test_progress_adds_up():
    class Counts:
        def __init__(self) -> None:
            self.stages: list[list[Any]] = []

        def start(self, stage: str, total: int) -> None:
            self.stages.append([stage, total, 0])

        def advance(self, n: int = 1) -> None:
            self.stages[-1][2] += n

        def log(self, values: dict[str, Any]) -> None: ...

        def note(self, text: str) -> None: ...

    counts = Counts()
    options = {**TRAINED, "align": "ica+fa", "family": "translation", "skip": False}
    FYD(**options).fit(photographs(5, 0.1), photographs(3, seed=1), progress=counts)
    assert counts.stages == [
        ["searching poses", 1, 1],
        ["aligning", 5, 5],
        ["training", 3, 3],
        ["whitening", 5, 5],
        ["thresholds", 8, 8],
        ["fitting", 5, 5],
        ["fitting", 3, 3],
    ]


def test_an_earlier_fit_leaves_no_trace():
    options = {**TRAINED, "align": "ica+fca+fa", "teacher": False, "skip": False, "epochs": 1}
    model = FYD(**options).fit(photographs(4, 0.2, seed=8), photographs(2), seed=1)
    model.fit(photographs(5), seed=2)
    fresh = FYD(**options).fit(photographs(5), seed=2)
    assert_same(model, fresh)
    assert model.extra_metadata() == fresh.extra_metadata()
    assert model.image_threshold.isnan()


def test_an_earlier_alignment_is_gone_where_the_next_fit_finds_none():
    model = FYD(**{**PLAIN, "align": "ica", "family": "translation"})
    model.fit(photographs(6, 0.25))
    assert model.pose.aligner is not None
    model.fit(photographs(6))
    assert model.pose.aligner is None and not model.extra_metadata()["alignment"]["used"]


def test_making_and_loading_leave_the_random_numbers_of_the_caller_alone(moved, tmp_path):
    moved.save(tmp_path / "m.safetensors")
    state = torch.get_rng_state()
    FYD(**PLAIN)
    FYD.load(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fitting_without_gradients_trains_and_makes_ordinary_tensors(mode):
    options = {**TRAINED, "align": "ica+fa", "teacher": False, "skip": False, "epochs": 1}
    model = FYD(**options)
    with mode():
        model.fit(photographs(4), photographs(2, seed=1))
    assert_same(model, FYD(**options).fit(photographs(4), photographs(2, seed=1)))
    images = photographs(1, seed=2).requires_grad_()
    model(images)[0].sum().backward()
    assert images.grad.any()


# Networks of other kinds ---------------------------------------------------------------------


def weights_of(name: str, folder: Path) -> str:
    torch.manual_seed(2)
    path = folder / "weights.pth"
    torch.save(timm.create_model(name).state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "align"), [("test_vit3", "fa"), ("test_resnet", "fca+fa"), ("test_mambaout", "fa")]
)
def test_other_networks_fit_and_come_back(name, align, tmp_path):
    options = {**TRAINED, "image_size": 160, "align": align, "epochs": 1}
    model = FYD(**options, backbone=name, weights=weights_of(name, tmp_path))
    images = torch.nn.functional.interpolate(photographs(4), (160, 160))
    maps = model.fit(images)(images)[1]
    assert maps.shape == (4, 160, 160) and maps.isfinite().all()
    model.save(tmp_path / "m.safetensors")
    assert torch.equal(FYD.load(tmp_path / "m.safetensors")(images)[1], maps)


def test_poses_are_found_with_a_network_of_fixed_size(tmp_path):
    options = {**PLAIN, "image_size": 160, "align": "ica", "family": "translation", "skip": False}
    model = FYD(**options, backbone="test_vit3", weights=weights_of("test_vit3", tmp_path))
    images = torch.nn.functional.interpolate(photographs(5, 0.05), (160, 160))
    detail = model.fit(images).predict_detail(images)
    assert (detail.residual_after <= detail.residual_before + 1e-4).all()
    model.save(tmp_path / "m.safetensors")
    assert torch.equal(FYD.load(tmp_path / "m.safetensors")(images)[1], detail.map)


def test_feature_level_alignment_needs_stages(tmp_path):
    with pytest.raises(ConfigError, match="test_vit3 cannot be run stage by stage"):
        FYD(
            image_size=160,
            align="fca",
            backbone="test_vit3",
            weights=weights_of("test_vit3", tmp_path),
        )
