"""A model whose network OpenVINO computes: scores, copies, fits and files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from fastalign import FYD
from fastalign.cli.predict import predict
from fastalign.errors import BackendError
from fastalign.integrations.ray import worker
from fastalign.integrations.ray.job import Job, Options
from fastalign.models import fitting
from fastalign.nn import runtime

KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"
needs_openvino = pytest.mark.skipif(
    runtime.missing_openvino() is not None, reason=f"{runtime.missing_openvino()}"
)


@pytest.fixture(scope="module")
def model() -> FYD:
    return FYD.load(KEPT, runtime="openvino")


@needs_openvino
def test_scores_of_images_and_of_what_is_none(model):
    images = torch.rand(3, 3, *model.config.image_size)
    images[1, 0, 0, 0] = torch.nan
    with torch.inference_mode():
        found = model.predict_detail(images)
        wanted = copy.deepcopy(model).set_runtime("torch").predict_detail(images)
        copied = copy.deepcopy(model)(images)[0]
    assert (model.runtime, model.runtime_reason) == ("openvino", "")
    assert found.score.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found.score, wanted.score, rtol=1e-3, atol=0, equal_nan=True)
    torch.testing.assert_close(found.theta, wanted.theta, equal_nan=True)
    torch.testing.assert_close(copied, found.score, rtol=0, atol=0, equal_nan=True)
    # The encoder of the search for poses is a network as well.
    assert {part.asked_runtime for part in model._backbones()} == {"openvino"}


@needs_openvino
def test_gradients_are_torchs(model):
    images = torch.rand(1, 3, *model.config.image_size, requires_grad=True)
    model(images)[1].nansum().backward()
    assert float(images.grad.abs().max()) > 0


@needs_openvino
def test_files_and_fits_have_nothing_of_it(model, monkeypatch, tmp_path):
    seen = []

    def fit(rooms, *_, **__):
        seen.append(rooms.features.runtime.runtime)
        raise KeyboardInterrupt

    model.save(tmp_path / "one")
    model = copy.deepcopy(model).set_runtime("torch")
    model.save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    monkeypatch.setattr(fitting, "fit", fit)
    model.set_runtime("openvino")
    with pytest.raises(KeyboardInterrupt):
        model.fit(torch.rand(2, 3, *model.config.image_size))
    assert seen == ["torch"] and model.runtime == "openvino"


@needs_openvino
def test_a_model_says_why_it_is_torch(model):
    model = copy.deepcopy(model)
    model.compile()
    assert (model.runtime, model.runtime_reason) == ("torch", "compile() was called")
    assert FYD.load(KEPT).runtime_reason == "FASTALIGN_RUNTIME=torch"


@needs_openvino
def test_a_worker_of_ray_has_it(monkeypatch):
    monkeypatch.setattr(worker, "digest", lambda _: "same")
    options = Options((), "tiff", None, 1, 16, runtime="openvino")
    job = Job(Path("out"), KEPT, "same", "", 1, options, None)
    assert worker._load(job, "cpu").runtime == "openvino"


def test_a_command_that_asks_for_it_in_vain_names_the_remedy(monkeypatch, tmp_path, capsys):
    import typer

    monkeypatch.setattr(runtime, "missing_openvino", lambda: "OpenVINO is not installed")
    with pytest.raises(BackendError, match=r"install it with: pip install '\.\[openvino\]'"):
        FYD.load(KEPT, runtime="openvino")
    with pytest.raises(typer.Exit) as ended:
        predict([str(KEPT.parent)], str(KEPT), out=str(tmp_path / "out"), runtime="openvino")
    assert ended.value.exit_code == BackendError.exit_code
    assert "OpenVINO is not installed; install it with" in capsys.readouterr().err
