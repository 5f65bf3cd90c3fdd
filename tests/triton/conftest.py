"""Import path of the Triton tests, and the way to what the op tests share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# With importmode=importlib, pytest adds no folder to the import path.
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ops"), str(HERE.parents[1] / "tools")]

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["*"]
