"""FYD inside anomalib: fit, test, predict, checkpoints, and the same scores as outside."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from dataclasses import fields

import imagecodecs
import numpy as np
import pytest
import torch

pytest.importorskip("anomalib", reason="anomalib is not installed: pip install '.[anomalib]'")

from anomalib import LearningType
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize, Resize

from fastalign import FYD, FYDConfig
from fastalign.data import load_image, prepare
from fastalign.engine import fit_category
from fastalign.errors import ConfigError, InputError
from fastalign.integrations.anomalib import Fyd, find_regions
from fastalign.integrations.anomalib.images import NormalImages
from fastalign.integrations.anomalib.post_processor import JudgingPostProcessor
from fastalign.integrations.anomalib.progress import BarProgress

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def dropin(category, options, tmp_path_factory):
    """What ``fastalign fit`` makes of the same folder."""
    out = tmp_path_factory.mktemp("dropin") / "model.safetensors"
    fit_category(category, out, config=FYDConfig(**options))
    return FYD.load(out)


@pytest.fixture(scope="module")
def images(category):
    """The test images by path, ``[16,3,64,64]`` in 0..1."""
    paths = sorted((category / "test").glob("*/*.png"))
    return torch.stack([prepare(load_image(path), (64, 64)) for path in paths])


def by_path(batches):
    """What ``predict`` returned as ``{path: (score, map)}``."""
    return {
        path: (score, anomaly_map)
        for batch in batches
        for path, score, anomaly_map in zip(
            batch.image_path, batch.pred_score, batch.anomaly_map, strict=True
        )
    }


def test_it_scores_as_the_model_of_the_command_line(fitted, dropin, images):
    ours = fitted[1].model(images)
    score, maps = dropin(images)
    assert torch.equal(ours.pred_score, score)
    assert torch.equal(ours.anomaly_map.nan_to_num(-1), maps[:, None].nan_to_num(-1))
    # A second or a missing normalisation, or one image more, would show here.
    inside, outside = fitted[1].model.fyd, dropin
    about = [copy.deepcopy(model.extra_metadata()) for model in (inside, outside)]
    assert about[0]["alignment"]["used"]
    # anomalib reads the files itself: inside, nothing is known of them but their pixels.
    for known in about:
        known.pop("depth", None)
        known.pop("photographs", None)
        known["known_images"].pop("names")
    assert about[0] == about[1]
    assert torch.equal(inside.image_threshold, outside.image_threshold)


def test_predictions_are_those_scores_after_the_post_processor(
    fitted, datamodule, dropin, images, category
):
    engine, model = fitted
    batches = engine.predict(model, datamodule=datamodule)
    predicted = by_path(batches)
    with torch.no_grad():
        score, maps = dropin(images)
    expected = model.post_processor(InferenceBatch(pred_score=score, anomaly_map=maps[:, None]))
    assert len(predicted) == 16
    paths = sorted((category / "test").glob("*/*.png"))
    for index, path in enumerate(paths):
        own_score, own_map = predicted[str(path)]
        # anomalib divides by 255 in another way, one unit in the last place apart.
        torch.testing.assert_close(own_score, expected.pred_score[index], atol=1e-3, rtol=0)
        there = expected.anomaly_map[index, 0]
        torch.testing.assert_close(own_map, there, atol=1e-3, rtol=0, equal_nan=True)
    # Their regions are the places of anomalib's masks, in the file's pixels.
    for batch in batches:
        regions = find_regions(batch, model)
        for index, found in enumerate(regions):
            mask, score_map = batch.pred_mask[index], batch.anomaly_map[index]
            assert sum(r.photograph.area for r in found) == int(mask.sum())
            assert all(r.part is not None and 0 < r.share <= 1 for r in found)
            if found:
                assert found[0].score == float(score_map[mask].max())
        assert [[r.photograph for r in found] for found in find_regions(batch)] == [
            [r.photograph for r in found] for found in regions
        ]


def test_the_metrics_are_those_of_the_scores(fitted, datamodule, dropin, images):
    from sklearn.metrics import roc_auc_score

    engine, model = fitted
    metrics = engine.test(model, datamodule=datamodule, verbose=False)[0]
    assert set(metrics) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    labels = [0] * 8 + [1] * 8
    # The post-processor clamps, and what it clamps to equal scores counts half.
    with torch.no_grad():
        score, maps = dropin(images)
    score = model.post_processor(InferenceBatch(score, anomaly_map=maps[:, None])).pred_score
    assert metrics["image_AUROC"] == pytest.approx(roc_auc_score(labels, score.numpy()), abs=1e-6)


def test_a_checkpoint_is_plain_data_and_gives_the_same_scores(
    fitted, datamodule, images, monkeypatch, make_engine, options
):
    engine, model = fitted
    path = engine.best_model_path
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["channels"] == 16

    def missing(config):
        raise AssertionError("a checkpoint must not need the pretrained weights")

    monkeypatch.setattr("fastalign.models.room_model.default_weights", missing)
    again = Fyd.load_from_checkpoint(path)
    assert torch.equal(again.model(images).pred_score, model.model(images).pred_score)
    assert bool(again._is_fitted)
    # The trainer restores by another route, here over a model that has other parts.
    other = Fyd(**options)
    metrics = make_engine().test(other, datamodule=datamodule, ckpt_path=path, verbose=False)
    assert metrics == engine.test(model, datamodule=datamodule, verbose=False)


def test_a_second_fit_begins_anew(category, fitted, make_engine, options, images, folder_arguments):
    from anomalib.data import Folder

    model = Fyd(**options)
    # Another batch size gives another order of arrival.
    datamodule = Folder(**folder_arguments(category) | {"train_batch_size": 5})
    for _ in range(2):
        make_engine().fit(model, datamodule=datamodule)
    assert model.model.fyd.extra_metadata()["images"] == {"train": 7, "validation": 1}
    assert torch.equal(model.model(images).pred_score, fitted[1].model(images).pred_score)


def test_regions_of_interest_are_all_that_is_judged(datamodule, make_engine, options, tmp_path):
    labels = np.zeros((64, 64), np.uint8)
    labels[8:40, 8:30], labels[8:40, 34:60] = 1, 2
    Image.fromarray(labels).save(tmp_path / "mask.png")
    model = Fyd(**{**options, "align": "none"}, roi=str(tmp_path / "mask.png"))
    engine = make_engine()
    engine.fit(model, datamodule=datamodule)
    again = Fyd.load_from_checkpoint(engine.best_model_path)
    assert again.model.fyd.roi_thresholds == model.model.fyd.roi_thresholds
    found = engine.predict(model, datamodule=datamodule)
    for batch in found:
        maps, masks = batch.anomaly_map.view(-1, 64, 64), batch.pred_mask.view(-1, 64, 64)
        assert torch.equal(maps.isnan(), torch.tensor(labels == 0).expand_as(maps))
        assert batch.pred_score.isfinite().all() and not masks[:, labels == 0].any()
    places = [place for batch in found for image in find_regions(batch, model) for place in image]
    assert places and {place.roi for place in places} <= {"region 1", "region 2"}
    with pytest.raises(InputError, match="cannot be read"):
        Fyd(roi=str(tmp_path / "none.png"))


def test_a_model_without_a_fit_says_so():
    with pytest.raises(ConfigError, match="not fitted"):
        Fyd().model(torch.rand(1, 3, 256, 256))


def test_training_and_evaluation_mode_score_alike(fitted, images):
    model = fitted[1]
    expected = model.eval().model(images).pred_score
    assert torch.equal(model.train().model(images).pred_score, expected)
    model.eval()


def test_every_option_of_the_model_is_an_argument():
    parameters = inspect.signature(Fyd.__init__).parameters
    for field in fields(FYDConfig):
        assert parameters[field.name].default == field.default, field.name
    added = {"self", "seed", "validation_fraction", "roi", "roi_photo", "precision", "runtime"}
    added |= {"pre_processor", "post_processor", "evaluator", "visualizer"}
    assert set(parameters) == added | {field.name for field in fields(FYDConfig)}


def test_what_anomalib_asks_of_a_model():
    assert Fyd in AnomalibModule.__subclasses__()
    model = Fyd(image_size=(96, 128))
    assert model.learning_type is LearningType.ONE_CLASS
    assert model.trainer_arguments["max_epochs"] == 1
    assert model.input_size == (96, 128)
    assert model.configure_optimizers() is None
    transform = Fyd.configure_pre_processor().transform
    assert [type(step) for step in transform.transforms] == [Resize]


@pytest.mark.parametrize("nested", [False, True])
def test_a_pre_processor_that_normalises_is_refused(nested):
    step = Normalize([0.5] * 3, [0.2] * 3)
    transform = Compose([Resize((64, 64)), Compose([step])]) if nested else step
    with pytest.raises(ConfigError, match="normalises by itself"):
        Fyd(pre_processor=PreProcessor(transform))


def test_options_are_checked():
    with pytest.raises(ConfigError, match="align 'some'"):
        Fyd(align="some")
    with pytest.raises(ConfigError, match="validation fraction 1.5"):
        Fyd(validation_fraction=1.5)


class TestImages:
    def test_values_outside_the_range_are_refused(self):
        images = NormalImages()
        with pytest.raises(InputError, match="-2 to 0, expected 0..1.*Normalize"):
            images.add(torch.tensor([-2.0, 0.0]).expand(1, 3, 1, 2), None)

    def test_rounding_beyond_the_range_is_taken_off(self):
        images = NormalImages()
        images.add(torch.full((1, 3, 2, 2), 1 + 1e-6), ["a"])
        assert images.split(0, 0)[0][0].max() == 1

    @pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
    def test_the_split_depends_on_names_and_not_on_arrival(self, order):
        pictures = torch.rand(5, 3, 16, 16).mul(255).round().div(255)
        images = NormalImages()
        for index in order:
            images.add(pictures[index][None], [f"{index}.png"])
        train, validation = images.split(0.2, seed=1)
        assert len(train) == 4 and len(validation) == 1
        found = [
            next(index for index, one in enumerate(pictures) if torch.equal(one, image))
            for image in [*train, *validation]
        ]
        assert found[:4] == sorted(found[:4]) and sorted(found) == [0, 1, 2, 3, 4]
        reference = NormalImages()
        reference.add(pictures, None)
        assert torch.equal(reference.split(0.2, seed=1)[1][0], pictures[found[4]])

    def test_the_aspect_is_that_of_the_files(self, photographs):
        images = NormalImages()
        images.add(torch.rand(1, 3, 4, 4), None)
        assert images.aspect is None
        path = next((photographs / "train" / "good").iterdir())
        images.add(torch.rand(1, 3, 4, 4), [str(path)])
        assert images.aspect == 304 / 400


def test_figures_of_training_reach_the_loggers():
    class Logger:
        def __init__(self):
            self.seen = []

        def log_metrics(self, metrics, step=None):
            self.seen.append((step, dict(metrics)))

    target = Logger()
    progress = BarProgress(False, [target])
    progress.start("training", 2)
    for epoch, value in enumerate((0.5, 0.25), 1):
        progress.log({"epoch": epoch, "loss_fa": value})
        progress.advance()
    progress.close()
    assert target.seen == [(1, {"loss_fa": 0.5}), (2, {"loss_fa": 0.25})]


def test_without_anomalib_the_import_names_the_remedy():
    code = "import sys; sys.modules['anomalib'] = None; import fastalign.integrations.anomalib"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install '.[anomalib]'" in done.stderr


def test_what_could_not_be_judged_is_never_labelled_good():
    """Eagerly, for a batch of the trainer, and in an exported file; anomalib's own says good."""
    judging, plain = JudgingPostProcessor(), PostProcessor()
    for processor in (judging, plain):
        for name in ("image", "pixel"):
            getattr(processor, f"_{name}_threshold").fill_(0.5)
            getattr(processor, f"{name}_min").fill_(0.0)
            getattr(processor, f"{name}_max").fill_(1.0)
    maps = torch.tensor([0.2, 0.8, float("nan")]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    given = InferenceBatch(pred_score=maps.amax((1, 2, 3)), anomaly_map=maps)
    assert plain(given).pred_label.tolist() == [False, True, False]
    found = judging(given)
    assert found.pred_label.tolist() == [False, True, True]
    assert found.pred_mask.flatten(1).all(1).tolist() == [False, True, True]
    assert found.pred_score[2].isnan()
    # A place of a judged image that was not looked at is no defect; its map says so.
    maps = maps.clone()
    maps[0, :, 0, 0] = torch.nan
    partly = judging(InferenceBatch(pred_score=given.pred_score, anomaly_map=maps))
    assert not partly.pred_mask[0].any() and partly.anomaly_map[0, 0, 0, 0].isnan()
    maps = given.anomaly_map
    batch = ImageBatch(image=torch.zeros(3, 3, 2, 2), pred_score=maps.amax((1, 2, 3)))
    batch.anomaly_map = maps[:, 0]
    judging.post_process_batch(batch)
    assert batch.pred_label.flatten().tolist() == [False, True, True]
    exported = torch.export.export(judging, (given,), strict=False).module()
    assert exported(given).pred_label.tolist() == [False, True, True]


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_files_of_more_than_8_bits_are_refused_where_they_were_read_wrongly(tmp_path, step):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    grey, dark = tmp_path / "grey.png", tmp_path / "dark.png"
    Image.fromarray(np.round(ramp * 65535).astype(np.uint16)).save(grey)
    colour = np.repeat(np.round(ramp * 65535).astype(np.uint16)[..., None], 3, axis=2)
    full = tmp_path / "full.png"
    full.write_bytes(imagecodecs.png_encode(colour))
    dark.write_bytes(imagecodecs.png_encode(colour >> 4))
    module, image = Fyd(image_size=(64, 64)), torch.rand(1, 3, 64, 64)
    for path in (grey, dark):
        with pytest.raises(InputError, match=rf"{path.name}: has more than 8 bits"):
            getattr(module, step)(ImageBatch(image=image, image_path=[str(path)]))
    module.training_step(ImageBatch(image=image, image_path=[str(full)]))


def test_an_image_that_is_not_finite_is_refused_with_its_name():
    batch = ImageBatch(image=torch.zeros(2, 3, 4, 4), image_path=["a.png", "b.png"])
    batch.image[1, 0, 0, :3] = float("inf")
    with pytest.raises(InputError, match=r"b\.png: 3 values are NaN or infinite"):
        Fyd().validation_step(batch)
