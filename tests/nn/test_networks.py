"""timm beside a torchvision whose compiled library does not fit torch."""

from __future__ import annotations

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


def test_other_errors_are_what_they_are(monkeypatch):
    def fail(name: str) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(networks.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        networks.load_timm()
