"""Importing this makes ``fastalign`` and ``fastalign.kernels`` those of the checkout.

The folder ``kernels`` becomes ``fastalign.kernels`` only by an installation; a check must not need
one. ``python -m gpucheck.inplace SCRIPT|-m MODULE ARGUMENTS`` runs something else this way.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_NAME = "fastalign.kernels"


class _Kernels:
    """Finds the one package that does not lie where its name says."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _NAME:
            return None
        folder = ROOT / "kernels"
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


if not any(type(finder).__name__ == "_Kernels" for finder in sys.meta_path):
    sys.meta_path.insert(0, _Kernels())
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def main() -> None:
    target, *arguments = sys.argv[1:]
    if target == "-m":
        target, *arguments = arguments
        sys.argv = [target, *arguments]
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    sys.argv = [target, *arguments]
    sys.path.insert(0, str(Path(target).resolve().parent))
    runpy.run_path(target, run_name="__main__")


if __name__ == "__main__":
    main()
