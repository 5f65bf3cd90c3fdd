"""The other ways into anomalib: by name, its command line, its benchmark, its exports."""

from __future__ import annotations

import csv
import logging
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

pytest.importorskip("anomalib", reason="anomalib is not installed: pip install '.[anomalib]'")

import anomalib.models

from fastalign import FYD
from fastalign.data import load_image
from fastalign.integrations.anomalib import Fyd, register
from fastalign.integrations.anomalib.pre_processor import ResizePreProcessor, antialiased

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PACKAGE = "fastalign.integrations.anomalib"
NAMES = [
    "fyd",
    {"class_path": "Fyd"},
    {"class_path": "anomalib.models.Fyd"},
    {"class_path": f"{PACKAGE}.Fyd"},
]


@pytest.fixture
def unregistered(monkeypatch):
    """anomalib as it is before ``register()``; put back afterwards."""
    allowed = set(anomalib.models.ALLOWED_MODULES) - {PACKAGE}
    monkeypatch.setattr(anomalib.models, "ALLOWED_MODULES", allowed)
    monkeypatch.setattr(anomalib.models, "Fyd", None, raising=False)
    monkeypatch.delattr(anomalib.models, "Fyd")


@pytest.mark.parametrize("name", NAMES[1:], ids=str)
def test_anomalib_refuses_other_packages_before(unregistered, name):
    with pytest.raises(anomalib.models.UnknownModelError):
        anomalib.models.get_model(name)


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_get_model_finds_it_afterwards(unregistered, name):
    before = set(anomalib.models.ALLOWED_MODULES)
    assert register() is Fyd
    assert register() is Fyd
    assert anomalib.models.ALLOWED_MODULES - before == {PACKAGE}
    model = anomalib.models.get_model(name, channels=7)
    assert isinstance(model, Fyd) and model.config.channels == 7
    assert "fyd" in anomalib.models.list_models()


def _flags(prefix, arguments):
    return [
        f"--{prefix}.{name}={list(value) if isinstance(value, tuple) else value}"
        for name, value in arguments.items()
    ]


def test_the_command_line_takes_the_dotted_path(
    photographs, options, folder_arguments, tmp_path, monkeypatch
):
    from anomalib.cli import AnomalibCLI

    monkeypatch.chdir(tmp_path)
    options = options | {"layers": ["blocks.1", "blocks.2"], "align": "ica"}
    cli = AnomalibCLI(
        [
            "fit",
            f"--model={PACKAGE}.Fyd",
            *_flags("model", options),
            "--data=anomalib.data.Folder",
            *_flags("data", folder_arguments(photographs)),
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
    )
    fyd = cli.model.model.fyd
    assert fyd.config.layers == ("blocks.1", "blocks.2")
    assert fyd.config.image_size == options["image_size"]
    # Of the files; the data module has made the images square.
    assert fyd.aspect == pytest.approx(304 / 400)


def test_the_examples_of_the_page_run(photographs, repository, tmp_path, monkeypatch):
    page = (repository / "docs" / "anomalib.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photographs, "part")
    for folder in ("test", "ground_truth"):
        Path("part", folder, "missing_screw").rename(Path("part", folder, "broken"))
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/anomalib.md", "exec"), names)
    fyd = FYD.load("part.safetensors")
    assert fyd.aspect == pytest.approx(304 / 400)
    assert not fyd.image_threshold.isnan()


def test_the_benchmark_pipeline_runs_it(
    category, options, folder_arguments, tmp_path, fitted, unregistered, monkeypatch
):
    def arguments(values):
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    config = {
        "accelerator": "cpu",
        "benchmark": {
            "seed": 3,
            "model": {"class_path": f"{PACKAGE}.Fyd", "init_args": arguments(options)},
            "data": {"class_path": "Folder", "init_args": folder_arguments(category)},
        },
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anomalib", "benchmark", "--config", "benchmark.yaml"])
    monkeypatch.delitem(sys.modules, f"{PACKAGE}.__main__", raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        # As ``python -m`` runs it, without the seconds that a process takes to import anomalib.
        runpy.run_module(PACKAGE, run_name="__main__")
    finally:
        # It redirects all logging into files.
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
    results = list(tmp_path.glob("runs/benchmark/*/results.csv"))
    assert len(results) == 1
    with results[0].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    # The seed of the pipeline moves nothing: the same model as from the engine.
    metrics = fitted[0].test(fitted[1], verbose=False, dataloaders=_test_loader(fitted))[0]
    assert float(rows[0]["image_AUROC"]) == pytest.approx(metrics["image_AUROC"], abs=1e-6)
    assert float(rows[0]["pixel_AUROC"]) == pytest.approx(metrics["pixel_AUROC"], abs=1e-6)


def _test_loader(fitted):
    return fitted[0].trainer.datamodule.test_dataloader()


# Resizing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (17, 31), (304, 400), (65, 40)], ids=str)
def test_resizing_by_matrices_is_torchs(size):
    images = torch.rand(2, 3, *size)
    expected = F.interpolate(images, (64, 48), mode="bilinear", antialias=True)
    # A value is a mean of values in 0..1, over at most some hundreds of them.
    torch.testing.assert_close(antialiased(images, (64, 48)), expected, atol=1e-5, rtol=0)


def test_outside_the_trainer_images_are_resized_as_inside(photographs):
    path = next((photographs / "test" / "good").iterdir())
    image = torch.from_numpy(load_image(path)).permute(2, 0, 1)[None] / 255
    pre_processor = ResizePreProcessor((64, 64))
    torch.testing.assert_close(pre_processor(image), pre_processor.transform(image))
    # anomalib's own differs by much more than rounding: the test can fail.
    plain = super(ResizePreProcessor, pre_processor).forward(image)
    assert (plain - pre_processor.transform(image)).abs().max() > 0.05


# Exports -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo_batch(photographs):
    """Three photographs as anomalib reads them, ``[3,3,400,304]``."""
    paths = sorted((photographs / "test").glob("*/*"))[::6]
    pixels = [torch.from_numpy(load_image(path)).permute(2, 0, 1) for path in paths]
    return torch.stack(pixels) / 255


def test_torch_export_gives_the_same(fitted, photo_batch, tmp_path, monkeypatch):
    from anomalib.deploy import TorchInferencer

    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    engine, model = fitted
    path = engine.export(model, "torch", export_root=tmp_path)
    result = TorchInferencer(path, device="cpu").predict(photo_batch)
    with torch.no_grad():
        expected = model.eval()(photo_batch)
    assert torch.equal(result.pred_score, expected.pred_score)
    found, wanted = result.anomaly_map, expected.anomaly_map.squeeze(1)
    assert torch.equal(found.nan_to_num(-1), wanted.nan_to_num(-1))


def _require(*names):
    for name in names:
        pytest.importorskip(name, reason=f"{name} is missing: pip install '.[export]'")


def _assert_same(outputs, expected, tolerance=1e-4):
    assert set(outputs) == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    for name in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(
            outputs[name], getattr(expected, name).numpy(), rtol=tolerance, atol=tolerance
        )
    assert (outputs["pred_label"] == expected.pred_label.numpy()).all()


@pytest.fixture(scope="module")
def onnx_export(fitted, tmp_path_factory):
    """``(model, file)``: what the engine writes, and the model that is in it."""
    _require("onnx", "onnxscript")
    engine, model = fitted
    with pytest.MonkeyPatch.context() as patch:
        # The search for poses, most of a graph, is in the files of tests/export.
        patch.setattr(model.model.fyd.pose, "aligner", None)
        yield model, engine.export(model, "onnx", export_root=tmp_path_factory.mktemp("onnx"))


def test_onnx_runs_without_fastalign_on_any_size(onnx_export, photo_batch):
    _require("onnxruntime")
    import onnx
    import onnxruntime

    model, path = onnx_export
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    for images in (photo_batch, photo_batch[:1], photo_batch[..., 20:300]):
        with torch.no_grad():
            expected = model.eval()(images)
        _assert_same(
            dict(zip(names, session.run(None, {"input": images.numpy()}), strict=True)), expected
        )


def test_openvino_gives_the_same(fitted, onnx_export, photo_batch, tmp_path, monkeypatch):
    _require("openvino")
    import openvino

    model, onnx_file = onnx_export
    # The second ONNX file would equal the first, at many seconds more.
    monkeypatch.setattr(Fyd, "to_onnx", lambda *arguments, **options: onnx_file)
    path = fitted[0].export(model, "openvino", export_root=tmp_path)
    # On some CPUs OpenVINO computes in bfloat16 unless told otherwise.
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(photo_batch.numpy())
    with torch.no_grad():
        expected = model.eval()(photo_batch)
    _assert_same({key.any_name: results[key] for key in results}, expected)
