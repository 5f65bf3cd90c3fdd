"""timm, from which backbones come."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_schemas: list[torch.library.Library] = []
_MISSING = re.compile(r"operator torchvision::\w+ does not exist")
_DESCRIBED = re.compile(r"""register_fake\(\s*["']torchvision::(\w+)["']""")
# Nobody calls them; what they are described to take and give does not matter.
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def load_timm() -> Any:
    """timm, also where torchvision's compiled library does not fit the installed torch.

    So it is with a torch without CUDA beside the torchvision that pip takes for it, which is built
    with CUDA: torchvision cannot load its library, and then cannot be imported, since it describes
    operators that the library would have defined. timm needs the part of torchvision that is
    written in Python; with those operators declared, that part is imported.
    """
    with _garbage_left():
        return _load_timm()


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Python looks for garbage each time so many objects more are there, and an import makes half a
    million that stay: a quarter of its time."""
    looked_for = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked_for:
            gc.enable()


def _load_timm() -> Any:
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if not _MISSING.search(str(error)):
            raise
    for name in [n for n in sys.modules if n.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]
    if not _schemas:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _described():
            library.define(name + _SCHEMA)
        _schemas.append(library)  # it takes the schemas along when it goes
    return importlib.import_module("timm")


def _described() -> list[str]:
    """Operators that torchvision describes whether its library is there or not."""
    spec = importlib.util.find_spec("torchvision")
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    texts = (
        path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted(Path(folder).glob("*.py"))
    )
    return sorted({name for text in texts for name in _DESCRIBED.findall(text)})
