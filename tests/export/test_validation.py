"""What `fastalign validate` says of files that give something else than their model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fastalign.errors import ArtifactError, BackendError, ConfigError
from fastalign.export import Scorer, runners, validation
from fastalign.export.runners import Opened, open_exported
from fastalign.export.scorer import OUTPUTS
from fastalign.export.validation import validate_file


@pytest.fixture(scope="module")
def model(fitted):
    return fitted(align="none")


@pytest.fixture
def paths(demo_data):
    """Two good photographs and two defective ones."""
    kinds = ("good", "missing_screw")
    return [path for kind in kinds for path in sorted((demo_data / "test" / kind).iterdir())[:2]]


@pytest.fixture
def validate(model, monkeypatch):
    """Validate a file that runs the model, and changes what it gives or says of itself."""
    scorer = Scorer(model).eval()

    def run(images):
        with torch.inference_mode():
            values = scorer(torch.from_numpy(images))
        return dict(zip(OUTPUTS, (value.numpy().copy() for value in values), strict=True))

    def check(photographs=(), change=lambda found: None, contract=None, **options):
        def changed(images):
            found = run(images)
            change(found)
            return found

        about = json.loads(scorer.contract_text()) | (contract or {})
        opened = Opened("onnx", "a runtime", about, changed)
        monkeypatch.setattr(validation, "open_exported", lambda path: opened)
        return validate_file("a.onnx", model, photographs, **options)

    return check


def test_a_file_that_says_the_same_holds(validate, paths):
    found = validate(paths)
    assert found.holds and not found.synthetic and found.not_finite is True
    assert (found.photographs, found.scored) == (4, 4)
    assert [item.largest for item in found.differences] == [0, 0, 0, 0]
    assert found.file_ms > 0 and found.model_ms > 0
    assert json.loads(json.dumps(found.to_json()))["holds"] is True


def test_without_photographs_images_are_made_up(validate):
    found = validate()
    assert found.holds and found.synthetic and found.photographs == 4


def test_the_largest_difference_and_where_it_is(validate, paths):
    def change(found):
        found["map"][:, 7, 9] += 0.01 * found["map"].max()
        found["score"] *= 1.0005

    found = validate(paths, change)
    differences = {item.output: item for item in found.differences}
    assert differences["map"].place == (7, 9) and "screw_plate" in differences["map"].photograph
    assert 0.009 < differences["map"].largest < 0.03
    assert differences["score"].largest == pytest.approx(0.0005, rel=0.01)
    assert len(found.problems) == 1 and "map differs by 0.0" in found.problems[0]
    assert "row 7, column 9" in found.problems[0]
    assert validate(paths, change, tolerance=0.1).holds


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda found: found["label"].__isub__(1), "another verdict"),
        (
            lambda found: found["score"].fill(np.nan),
            "score differs by a number here and none there",
        ),
        (lambda found: found["map"].__setitem__((slice(None), slice(9)), np.nan), "map differs by"),
        (lambda found: found["coverage"].__isub__(0.01), "coverage differs by 0.01"),
        (lambda found: found["score"].__setitem__(slice(1, None), 0), "091.jpg, with others"),
        (lambda found: found["score"].__setitem__(np.isnan(found["score"]), 0), "with NaN is not"),
    ],
)
def test_what_speaks_against_a_file(validate, paths, change, word):
    found = validate(paths, change)
    assert not found.holds and any(word in line for line in found.problems), found.problems


@pytest.mark.parametrize(
    "contract",
    [
        {"image_threshold": 1.5},
        {"evidence": {"residual": {"limit": 0.5}}},
        {"config": {"sigma": 9.0}},
    ],
)
def test_a_file_of_another_model_is_known_by_what_it_says(validate, paths, contract):
    found = validate(paths[:1], contract=contract)
    (name,) = contract
    assert not found.holds and found.differing[0].startswith(f"{name}: ")


def test_a_file_of_another_size_is_refused(validate, paths, model):
    about = json.loads(Scorer(model).contract_text())["input"] | {"shape": ["batch", 3, 8, 8]}
    with pytest.raises(ConfigError, match="made of another model"):
        validate(paths, contract={"input": about})


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.tflite", b"x", "end with .onnx, .xml, .pt2"),
        ("a.onnx", None, "no such file"),
        ("a.onnx", b"nonsense", "cannot be loaded"),
        ("a.xml", b"<net", "cannot be loaded"),
        ("a.pt2", b"nonsense", "cannot be loaded"),
        ("a.pt2", b"PK\x05\x06" + b"\0" * 18, "cannot be loaded"),
    ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path, name, content, word):
    for package in ("onnxruntime", "openvino"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra export)")
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=word):
        open_exported(path)


def test_a_runtime_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"x")
    monkeypatch.setattr(runners.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="onnxruntime.*pip install"):
        open_exported(tmp_path / "a.onnx")
