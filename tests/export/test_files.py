"""Exported files give the library's scores, maps and labels, and say what they are."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch
from export_options import OPTIONS
from torch import Tensor

from fastalign.export import Scorer, export_model
from fastalign.export.scorer import OUTPUTS
from fastalign.export.validation import validate_file
from fastalign.verdict import judge_each

# One model with every part, of one stage, and one of two stages without any, so that each format is
# written twice; all options if the environment asks for them, some minutes more.
FULL = {"align": "all", "family": "similarity", "storage": "bfloat16", "layers": (1,)}
BARE = {"align": "none", "storage": "float16", "thresholds": False}
# Poses make the graph five times as long and torch compile it for minutes.
AOT_ALIGN = "none"
CASES = {"full": (FULL, "float32"), "bare": (BARE, "uint8")}
# Each step of a refinement is written out, in the same kinds of nodes: one of them has them all.
# test_plain_model.py holds more steps against the library's.
STEPS = 1
if os.environ.get("FASTALIGN_TEST_EXPORTS") == "all":
    CASES |= {name: (options, "float32") for name, options in OPTIONS.items()}
    AOT_ALIGN = "ica"


def _library(model, images: Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        score, maps, coverage, residual = model.measure(images)
    label = judge_each(score, model.image_threshold).long()
    return [value.numpy() for value in (score, maps, label, coverage, residual)]


def _check(run, model, images: Tensor, dtype: str) -> None:
    """``run`` gives what the library gives, for other batches than the one it was traced with."""
    for count in (1, len(images)):
        given = images[:count]
        if dtype == "uint8":
            given = (given * 255).round().byte()
        wanted = _library(model, images[:count])
        found = [np.asarray(value) for value in run(given.numpy())]
        kinds = [np.float32, np.float32, np.int64, np.float32, np.float32]
        assert [value.dtype for value in found] == kinds
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4)
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-4 * np.nanmax(wanted[1]))
        np.testing.assert_array_equal(found[2], wanted[2])
        np.testing.assert_allclose(found[3], wanted[3], rtol=1e-3)
        np.testing.assert_allclose(found[4], wanted[4], rtol=1e-3, atol=1e-4)
    if dtype == "float32":
        _check_what_cannot_be_judged(run, images.numpy())


def _check_what_cannot_be_judged(run, images: np.ndarray) -> None:
    """One pixel that is no number takes the verdict from its image, and nothing from the others."""
    good = [np.array(value) for value in run(images)]
    broken = images.copy()
    broken[1, 0, 3, 4], broken[3, 2, -1, -1] = np.nan, -np.inf
    after = [np.array(value) for value in run(broken)]
    score, maps, label, coverage, _ = after
    assert all(np.isnan(value[[1, 3]]).all() for value in (score, maps, coverage))
    assert label[[1, 3]].tolist() == [-1, -1]
    for before, found in zip(good, after, strict=True):
        np.testing.assert_array_equal(found[[0, 2]], before[[0, 2]])


def _check_validation(path, model, photographs, kind: str) -> None:
    found = validate_file(path, model, photographs)
    assert found.holds, found.problems
    assert (found.kind, found.photographs) == (kind, len(photographs))
    assert all(item.largest < 1e-4 for item in found.differences)


def _check_contract(text: str, model, dtype: str) -> None:
    contract = json.loads(text)
    limit = float(model.image_threshold)
    assert contract["input"]["dtype"] == dtype
    assert contract["input"]["shape"] == ["batch", 3, *model.config.image_size]
    assert contract["image_threshold"] == (None if math.isnan(limit) else limit)
    assert contract["input"]["depth"] == (model.depth and model.depth.record())
    assert tuple(contract["outputs"]) == OUTPUTS


@pytest.fixture(scope="module", params=list(CASES))
def case(request, fitted):
    """A model and the input of its file; a copy, since others test the whole refinement."""
    options, dtype = CASES[request.param]
    model = copy.deepcopy(fitted(**options))
    if model.pose.aligner is not None:
        model.pose.aligner.refiner.iterations = STEPS
    return model, dtype


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """All formats begin with the same graph, which takes longest to make."""
    programs, trace = {}, Scorer.trace

    def trace_once(scorer):
        key = scorer.model, scorer.input_dtype
        if key not in programs:
            programs[key] = trace(scorer)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "trace", trace_once)
        yield


@pytest.fixture(scope="module")
def files(demo_data):
    """A good photograph and a defective one."""
    kinds = ("good", "missing_screw")
    return [min((demo_data / "test" / kind).iterdir()) for kind in kinds]


@pytest.fixture(scope="module")
def scored_before(case, batch):
    """What the library gave before the model was traced."""
    return _library(case[0], batch)


@pytest.fixture(scope="module")
def onnx_file(case, scored_before, tmp_path_factory):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra export)")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export_model(case[0], path, "onnx", input_dtype=case[1]) == [path]
    return path


def test_onnx_in_onnxruntime(case, onnx_file, batch, files):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed (extra export)"
    )
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    names = list(OUTPUTS)
    _check(lambda images: session.run(names, {"images": images}), case[0], batch, case[1])
    _check_contract(session.get_modelmeta().custom_metadata_map["fastalign"], *case)
    _check_validation(onnx_file, case[0], files, "onnx")


def test_onnx_in_opencv(case, onnx_file, batch):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    if not hasattr(cv2.dnn, "ENGINE_NEW"):
        pytest.skip(f"OpenCV {cv2.__version__} is not OpenCV 5")
    if case[1] == "uint8":
        pytest.skip("OpenCV's dnn takes float32 images")
    net = cv2.dnn.readNetFromONNX(onnx_file, cv2.dnn.ENGINE_NEW)

    def run(images):
        net.setInput(images, "images")
        return net.forward(list(OUTPUTS))

    _check(run, case[0], batch, case[1])


def test_onnx_in_the_reference_of_the_standard(case, onnx_file, batch):
    from onnx.reference import ReferenceEvaluator

    if case[0].pose.aligner is not None:
        pytest.skip("GridSample of onnx's reference is a loop in Python and takes minutes")
    run = ReferenceEvaluator(str(onnx_file)).run
    _check(lambda images: run(None, {"images": images}), case[0], batch, case[1])


def test_onnx_is_what_the_page_says(onnx_file, repository):
    import onnx

    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 18)}
    page = (repository / "docs" / "export.md").read_text(encoding="utf-8")
    listed = re.search(r"^Operators .*?: (.*?)\n\n", page, re.MULTILINE | re.DOTALL)[1]
    assert {node.op_type for node in model.graph.node} <= set(re.findall(r"\w+", listed))
    # What the storage of the density keeps in 16 bits is made float32 at once.
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    kinds = {value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.data_type for tensor in graph.initializer}
    double = [onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128]
    assert not kinds & set(double)
    sizes = [size for value in values for size in value.type.tensor_type.shape.dim]
    # Of several images together: poses that were tried, and a map with its evidence.
    times = {size.dim_param.replace("batch", "") for size in sizes if size.dim_param}
    assert times <= {"", "2*", "3*"}
    values = [*graph.input, *graph.output]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in values] == ["batch"] * 6


def test_openvino(case, onnx_file, batch, tmp_path, monkeypatch, files):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed (extra export)")
    from fastalign.export import writers

    # The second ONNX file would equal the first, at some seconds more.
    monkeypatch.setattr(
        writers, "write_onnx", lambda _, path: path.write_bytes(onnx_file.read_bytes())
    )
    path = tmp_path / "model.xml"
    assert export_model(case[0], path, "openvino", input_dtype=case[1]) == [
        path,
        tmp_path / "model.bin",
    ]
    model = openvino.Core().read_model(path)
    # Else OpenVINO computes in bfloat16 where the processor can.
    text = model.get_rt_info(["fastalign"]).astype(str)
    given = ("CPU", json.loads(text)["openvino"])
    compiled = openvino.compile_model(model, *given)

    def run(images):
        results = compiled(images)
        return [results[name] for name in OUTPUTS]

    _check(run, case[0], batch, case[1])
    _check_contract(text, *case)
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) == "f32"
    marks = [
        {mark.split("_")[0] for mark in op.get_rt_info()}
        & {"precise", "DisablePrecisionConversion"}
        for op in model.get_ordered_ops()
        if op.get_type_name() not in ("Constant", "Parameter", "Result")
    ]
    assert len(marks) > 50 and all(marks)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    # The validation compiles the same in the same way, in seconds.
    compile_model = openvino.compile_model
    monkeypatch.setattr(
        openvino,
        "compile_model",
        lambda other, *how: compiled if how == given else compile_model(other, *how),
    )
    _check_validation(path, case[0], files, "openvino")


def test_torch_export(case, scored_before, batch, tmp_path, files, monkeypatch):
    path = tmp_path / "model.pt2"
    export_model(case[0], path, "torch", input_dtype=case[1])
    extra = {"fastalign": ""}
    program = torch.export.load(path, extra_files=extra)
    assert not [n for n in program.graph.nodes if str(n.target).startswith("fastalign")]
    module = program.module()
    _check(
        lambda images: [value.detach() for value in module(torch.from_numpy(images))],
        case[0],
        batch,
        case[1],
    )
    _check_contract(extra["fastalign"], *case)

    def load(file, extra_files):
        assert file == path
        extra_files.update(extra)
        return program

    # The validation reads the same file, in seconds.
    monkeypatch.setattr(torch.export, "load", load)
    _check_validation(path, case[0], files, "torch")


@pytest.mark.slow
def test_aotinductor(fitted, batch, tmp_path, files):
    compiler = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    # Optimising what runs for a moment takes minutes.
    unoptimised = tmp_path / "unoptimised"
    unoptimised.write_text(f'#!/bin/sh\nexec "{compiler}" "$@" -O0\n')
    unoptimised.chmod(0o755)
    model = fitted(align=AOT_ALIGN, layers=(1,))
    path = tmp_path / "model.pt2"
    # No headers are prepared for later compilations: there are none. By the configuration's own
    # patch, since after monkeypatch these options would be gone.
    options = {"cpp.cxx": (str(unoptimised),), "aot_inductor.precompile_headers": False}
    with torch._inductor.config.patch(options):
        export_model(model, path, "aotinductor")
    package = torch._inductor.aoti_load_package(str(path))
    _check(lambda images: package(torch.from_numpy(images)), model, batch, "float32")
    _check_contract(package.get_metadata()["fastalign"], model, "float32")
    _check_validation(path, model, files, "aotinductor")


def test_tracing_leaves_the_model_as_it_was(case, scored_before, batch):
    """Nothing that was made while tracing may be kept for later calls."""
    Scorer(*case).trace()
    for old, new in zip(scored_before, _library(case[0], batch), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_examples_of_the_page_run(
    case, onnx_file, repository, demo_data, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
    if case[1] != "float32":
        pytest.skip("the page shows a file that takes float32")
    page = (repository / "docs" / "export.md").read_text(encoding="utf-8")
    photograph = next((demo_data / "test" / "good").iterdir())
    (tmp_path / "photo.jpg").write_bytes(photograph.read_bytes())
    (tmp_path / "screw.onnx").write_bytes(onnx_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/export.md", "exec"), {})
