"""What cannot be exported is refused, with the remedy, and leaves no file behind."""

from __future__ import annotations

import importlib.util

import pytest

from fastalign import FYD
from fastalign.errors import BackendError, ConfigError, InputError
from fastalign.export import FORMATS, Scorer, export_model, exporter, writers


@pytest.fixture
def model(fitted):
    return fitted(align="none")


@pytest.mark.parametrize(
    ("name", "to", "options", "words"),
    [
        ("a.onnx", "tflite", {}, "'tflite': use one of onnx, openvino, torch, aotinductor"),
        ("a.xml", "onnx", {}, r"a\.xml: files of format onnx end with \.onnx"),
        ("a.pt2", "torch", {"input_dtype": "int8"}, "'int8': use one of float32, uint8"),
    ],
)
def test_options(model, tmp_path, name, to, options, words):
    with pytest.raises(ConfigError, match=words):
        export_model(model, tmp_path / name, to, **options)


def test_an_unfitted_model():
    with pytest.raises(ConfigError, match="not fitted"):
        Scorer(FYD(image_size=(32, 32)))


@pytest.mark.parametrize("to", [to for to in FORMATS if writers.FORMATS[to].packages])
def test_a_missing_package(model, tmp_path, monkeypatch, to):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / f"a{writers.FORMATS[to].suffix}"
    with pytest.raises(BackendError, match=r"onnx.*pip install '\.\[export\]'"):
        export_model(model, path, to)


def test_a_missing_compiler(model, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(Scorer, "trace", lambda self: None)
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    with pytest.raises(BackendError, match=r"No working C\+\+ compiler found.*install a C\+\+"):
        export_model(model, tmp_path / "a.pt2", "aotinductor")


def test_where_nothing_can_be_written(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file where a folder is needed"):
        export_model(model, tmp_path / "file" / "a.pt2", "torch")


def test_an_export_that_fails_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "a.pt2"
    path.write_text("old")

    def fail(scorer, draft):
        draft.write_text("half")
        raise RuntimeError("midway")

    torch_format = writers.FORMATS["torch"]._replace(write=fail)
    monkeypatch.setitem(writers.FORMATS, "torch", torch_format)
    with pytest.raises(RuntimeError, match="midway"):
        export_model(model, path, "torch")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.pt2", "old")]


def test_the_file_that_names_the_others_comes_last(model, tmp_path, monkeypatch):
    order = []

    def write(scorer, draft):
        for name in ("a.xml", "a.bin", "z.bin"):
            draft.with_name(name).touch()

    monkeypatch.setitem(
        writers.FORMATS, "openvino", writers.FORMATS["openvino"]._replace(packages=(), write=write)
    )
    monkeypatch.setattr(exporter, "_publish", lambda draft, path: order.append(path.name))
    files = export_model(model, tmp_path / "a.xml", "openvino")
    assert order == ["a.bin", "z.bin", "a.xml"]
    assert [file.name for file in files] == ["a.xml", "a.bin", "z.bin"]
