import json
from types import SimpleNamespace

import pytest

from fastalign import artifact
from fastalign.export import Scorer, runners, validation


@pytest.mark.parametrize("broken", [False, True])
def test_a_file_is_held_against_its_model(run, fitted, whole_ring, monkeypatch, broken):
    """The command; files and runtimes have tests of their own."""
    import torch

    scorer = Scorer(artifact.load(fitted)).eval()

    def output(images):
        with torch.inference_mode():
            found = [value.numpy().copy() for value in scorer(torch.from_numpy(images))]
        found[0] *= 1.5 if broken else 1
        return dict(zip(runners.OUTPUTS, found, strict=True))

    about = json.loads(scorer.contract_text())
    opened = SimpleNamespace(kind="onnx", runtime="a runtime 1.0", contract=about, run=output)
    monkeypatch.setattr(validation, "open_exported", lambda path: opened)
    photos = whole_ring / "test"
    told = run("validate", "ring.onnx", "--model", fitted, photos)
    assert told.code == (4 if broken else 0)
    assert "ring.onnx: onnx, run by a runtime 1.0" in told.out
    assert "6 photographs" in told.out and "verdicts changed: 0 of 6" in told.out
    assert ("problem: score differs by 0.5" in told.out) is broken
    plain = run("validate", "ring.onnx", "--model", fitted, photos, "--json")
    assert json.loads(plain.out)["holds"] is not broken and plain.code == told.code


def test_a_file_that_is_none(run, fitted, tmp_path):
    outcome = run("validate", tmp_path / "a.onnx", "--model", fitted)
    assert outcome.code == 4 and "no such file" in outcome.err
