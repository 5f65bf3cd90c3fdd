"""Variants of CUDA kernels against each other on this GPU; see tools/gpucheck/arena.py."""

from __future__ import annotations

import sys
from pathlib import Path

from gpucheck import inplace

for folder in ("cuda_on_cpu", "ops"):
    sys.path.append(str(inplace.ROOT / "tests" / folder))
sys.path.append(str(Path(__file__).resolve().parent))

from gpucheck.arena import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
