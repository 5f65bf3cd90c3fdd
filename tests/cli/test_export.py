"""``fastalign export``: what it writes and prints, and how it refuses."""

from __future__ import annotations

import importlib.util

import pytest
import torch


def test_a_file_and_a_line_that_says_what_it_takes(run, fitted, tmp_path):
    out = tmp_path / "new" / "ring.pt2"
    outcome = run("export", fitted, "--to", "torch", "--out", out, "--input", "uint8")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.strip() == (
        f"{out}: takes uint8 images [batch, 3, 32, 32], gives score, map, label, coverage and "
        "residual"
    )
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    score, maps, label, coverage, residual = torch.export.load(out).module()(images)
    assert (score.shape, maps.shape, label.dtype) == ((3,), (3, 32, 32), torch.int64)
    assert coverage.shape == residual.shape == (3,)


@pytest.mark.parametrize(
    ("model", "out", "code", "words"),
    [
        (None, "a.pt2", 2, "end with .onnx"),
        ("nothing.safetensors", "a.onnx", 4, "no such file"),
        (None, "file/a.onnx", 3, "a folder is needed"),
    ],
)
def test_what_is_refused(run, fitted, tmp_path, monkeypatch, model, out, code, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (tmp_path / "file").touch()
    given = fitted if model is None else tmp_path / model
    outcome = run("export", given, "--to", "onnx", "--out", tmp_path / out)
    assert outcome.code == code and words in outcome.err and "Traceback" not in outcome.err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_without_the_extra(run, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = run("export", fitted, "--to", "onnx", "--out", tmp_path / "a.onnx")
    assert outcome.code == 5 and "pip install '.[export]'" in outcome.err
    assert list(tmp_path.iterdir()) == []
