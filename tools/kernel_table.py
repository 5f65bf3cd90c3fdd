"""Writes docs/kernels.md: registers, shared memory, occupancy and bytes of every CUDA kernel.

Needs nvcc and cuobjdump (of the toolkit, or of the wheels triton or nvidia-cuda-cuobjdump) and no
GPU. ``--check`` writes nothing and fails where the committed page differs.
"""

from __future__ import annotations

import argparse
import difflib
import sys

from cuda_compile.page import PAGE, page
from cuda_compile.toolchain import ToolError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    try:
        text = page()
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not options.check:
        PAGE.write_text(text)
        return 0
    known = PAGE.read_text() if PAGE.exists() else ""
    changes = difflib.unified_diff(
        known.splitlines(), text.splitlines(), "committed", "computed", lineterm=""
    )
    lines = list(changes)
    print("\n".join(lines[:60]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
