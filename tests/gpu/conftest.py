"""What the tests on a GPU share lies in gpu_support."""

from __future__ import annotations

import sys
from pathlib import Path

# With importmode=importlib, pytest adds no folder to the import path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
