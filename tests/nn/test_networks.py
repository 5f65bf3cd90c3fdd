"""timm beside a torchvision whose compiled library does not fit torch."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from fastalign.nn import networks

# What such a torchvision does when it is imported, and a timm that needs no more of it.
TORCHVISION = """
import torch

@torch.library.register_fake("torchvision::nms")
def shape(dets, scores, iou_threshold):
    return scores

@torch.library.register_fake(
    "torchvision::other"
)
def other_shape(dets, scores, iou_threshold):
    return scores

class transforms: pass
"""
CHECK = """
from fastalign.nn.networks import load_timm
for turn in range(2):
    assert load_timm().transforms.__module__ == "torchvision"
"""


@pytest.mark.slow
def test_timm_is_imported_without_torchvisions_library(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(TORCHVISION)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("from torchvision import transforms\n")
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{CHECK}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("looked_for", [True, False])
def test_other_errors_are_what_they_are_and_garbage_is_looked_for_as_before(
    monkeypatch, looked_for
):
    def fail(name: str) -> None:
        assert not gc.isenabled()
        raise RuntimeError("something else")

    monkeypatch.setattr(networks.importlib, "import_module", fail)
    before = gc.isenabled()
    try:
        (gc.enable if looked_for else gc.disable)()
        with pytest.raises(RuntimeError, match="something else"):
            networks.load_timm()
        assert gc.isenabled() is looked_for
    finally:
        (gc.enable if before else gc.disable)()
