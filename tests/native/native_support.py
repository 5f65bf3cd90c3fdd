"""What setup.py builds with, for tests that compile the native sources themselves."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parents[2]
CSRC = REPOSITORY / "csrc"

_NAMES = {"TORCH_TARGET", "CXX_FLAGS", "ISA_FLAGS"}


def build_settings() -> SimpleNamespace:
    """The constants of setup.py, read without running it."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text())
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in _NAMES
    ]
    values: dict[str, object] = {}
    exec(compile(ast.Module(found, []), "setup.py", "exec"), {"__builtins__": {}}, values)
    assert set(values) == _NAMES
    return SimpleNamespace(**values)


def kernel_sources() -> list[Path]:
    """The sources that are compiled once for each instruction set."""
    sources = sorted((CSRC / "cpu").glob("*.cpp"))
    return [path for path in sources if "FASTALIGN_ISA" in path.read_text(encoding="utf-8")]
