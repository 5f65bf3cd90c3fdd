"""Two models on the same photographs, on the command line."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture(scope="module")
def blind(fitted, run, tmp_path_factory):
    """The fitted model with a threshold that nothing exceeds."""
    path = tmp_path_factory.mktemp("blind") / "blind.safetensors"
    shutil.copy(fitted, path)
    assert run("threshold", path, "1e9").code == 0
    return path


def test_the_exit_code_says_whether_verdicts_differ(run, fitted, blind, whole_ring, tmp_path):
    same = run("compare", fitted, fitted, whole_ring, "--out", tmp_path / "same")
    assert same.code == 0 and "0 of 6 photographs change sides" in same.out
    found = json.loads((tmp_path / "same/compare.json").read_text())
    # Files of one name are told apart by their folders.
    assert found["models"] == {"a": str(fitted), "b": str(fitted)}
    missed = found["by_labels"]["mistakes"]["a"]["missed"]
    out = tmp_path / "out"
    for fail_on, order, code in (
        ("change", (fitted, blind), 7),
        ("mistakes", (fitted, blind), 7),
        ("mistakes", (blind, fitted), 0),
        ("never", (fitted, blind), 0),
    ):
        outcome = run("compare", *order, whole_ring, "--out", out, "--fail-on", fail_on)
        assert outcome.code == code, outcome.err
    assert missed < 3 and f"{3 - missed} right ones are broken" in outcome.out
    assert (out / "compare.html").exists() and (out / "compare.csv").exists()


def test_mistakes_need_labels(run, fitted, whole_ring, tmp_path):
    photos = whole_ring / "test" / "good"
    outcome = run("compare", fitted, fitted, photos, "--out", tmp_path, "--fail-on", "mistakes")
    assert outcome.code == 2 and "has no labels" in outcome.err
    assert (tmp_path / "compare.json").exists()
