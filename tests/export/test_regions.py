"""Regions of interest in exported files: the same verdicts, wherever the part lies."""

from __future__ import annotations

import copy

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from fastalign.data import list_images
from fastalign.export import export_model, plain_ops
from fastalign.export.validation import validate_file
from fastalign.models.maps import AnomalyMaps
from fastalign.ops import affine
from fastalign.roi import RegionsOfInterest

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SIZE, PLACES = (40, 56), (10, 14)


class _Maps(nn.Module):
    """Distances and poses to what an export gives of them."""

    def __init__(self, maps: AnomalyMaps) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, distance, theta):
        valid = self.maps.valid(theta)
        return *self.maps.judged(distance, theta, None), self.maps.coverage(valid, None, distance)


@pytest.fixture(scope="module")
def maps() -> _Maps:
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[5:30, 4:24], labels[8:36, 26:50], labels[20:22] = 1, 2, 0
    return _Maps(AnomalyMaps(SIZE, PLACES).interest(labels, torch.tensor([1.0, 0.3]))).eval()


@pytest.fixture(scope="module")
def given() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.2, -0.1], [0.0, 1.6, 0.0], [3.0, 0.1, 0.1]])
    theta = affine.from_parameters(numbers, "rotation_translation")
    return torch.rand(4, *PLACES, generator=generator), theta


@pytest.fixture(scope="module")
def program(maps, given):
    batch = torch.export.Dim("batch", min=1)
    with plain_ops(), torch.no_grad():
        maps(*given)
        return torch.export.export(
            maps, given, dynamic_shapes=({0: batch}, {0: batch}), strict=False
        )


@pytest.fixture(scope="module")
def onnx_file(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "maps.onnx"
    torch.onnx.export(program, (), opset_version=18, dynamo=True, verbose=False).save(path)
    return path


def _in_torch(program, path):
    return lambda *values: program.module()(*map(torch.from_numpy, values))


def _in_onnxruntime(program, path):
    session = onnxruntime.InferenceSession(path)
    names = [item.name for item in session.get_inputs()]
    return lambda *values: session.run(None, dict(zip(names, values, strict=True)))


def _in_openvino(program, path):
    model = openvino.convert_model(path)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *values: list(compiled(values).values())


@pytest.mark.parametrize("runtime", [_in_torch, _in_onnxruntime, _in_openvino])
def test_regions_are_folded_into_the_graph(maps, given, program, onnx_file, runtime):
    with torch.no_grad():
        wanted = [value.numpy() for value in maps(*given)]
    assert np.isnan(wanted[0]).tolist() == [False, False, True, False]
    run = runtime(program, onnx_file)
    for count in (1, 4):
        found = [np.asarray(value) for value in run(*(value[:count].numpy() for value in given))]
        for one, other in zip(found, wanted, strict=True):
            # A place at the border of a region may be in it here and out of it there.
            assert (np.isnan(one) != np.isnan(other[:count])).mean() < 2e-3
            known = ~np.isnan(one) & ~np.isnan(other[:count])
            np.testing.assert_allclose(one[known], other[:count][known], rtol=1e-4, atol=1e-5)


def test_a_file_of_a_model_with_regions_holds(fitted, demo_data, tmp_path):
    model = copy.deepcopy(fitted(align="none"))
    labels = np.zeros(model.config.image_size, np.uint8)
    labels[10:40, 10:50], labels[40:70, 50:100] = 1, 2
    model.set_roi(RegionsOfInterest(("one", "other"), labels))
    path = tmp_path / "m.pt2"
    export_model(model, path, "torch")
    photographs = [list_images(demo_data / f"test/{kind}")[0] for kind in ("good", "missing_screw")]
    found = validate_file(path, model, photographs)
    assert found.holds, found.problems
    found = validate_file(path, model.set_roi(None), photographs)
    assert any("regions_of_interest" in line for line in found.differing)
