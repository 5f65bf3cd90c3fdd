"""timm, from which backbones come."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

_schemas: list[torch.library.Library] = []


def load_timm() -> Any:
    """timm, also where torchvision's compiled library does not fit the installed torch.

    So it is with a torch without CUDA beside the torchvision that pip takes for it, which is built
    with CUDA: torchvision cannot load its library, and then cannot be imported, since it describes
    an operator that the library would have defined. timm needs the part of torchvision that is
    written in Python; with the operator's schema declared, that part is imported.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [n for n in sys.modules if n.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]
    if not _schemas:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.append(library)  # it takes the schema along when it goes
    return importlib.import_module("timm")
