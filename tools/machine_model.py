"""Times by the model of the machine, beside those measured; needs nvcc and cuobjdump, no GPU.

python tools/machine_model.py [--out benchmarks/results/gpu/predicted.md]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from cuda_compile.loops import Loop, loops_of  # noqa: E402
from cuda_compile.toolchain import SOURCES, Kernel, kernels_of  # noqa: E402
from gpucheck.machine import H100, H200, Machine, Prediction, Work, predict  # noqa: E402
from gpucheck.machine_calls import MEASURED, Shape, backward, forward, shapes  # noqa: E402

ARCHITECTURE = "sm_90"
# Replays of a graph on the H200 of benchmarks/results/gpu, before patches: forward, and forward
# with backward; the rest of the backward: make_plans, the empty sweep, the end of theta.
BEFORE_US = {
    "8x3x1024x1024 float32": (119.0, 512.0),
    "8x64x128x128 float32": (39.9, 140.0),
    "8x3x1024x1024 bfloat16": (None, 632.0),
    "8x64x128x128 bfloat16": (None, 188.0),
    "8x256x32x32 float32": (14.3, 52.0),
}
REST_US = 11.0
WITHIN = 0.25

_HEAD = """# Times by the model of the machine

Written by `python tools/machine_model.py` of sm_90 machine code, without a GPU: predictions, not
measurements. The model and where its numbers come from: `tools/gpucheck/machine.py`.

## Held against what was measured

One H200, Nsight Compute, caches flushed (nvidia-h200-counters.md). Microseconds; issue, memory,
lines of the first-level cache and shared memory are what each would take alone.

| call | kernel | waves | issue | memory | lines | shared | predicted | measured | off |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""
_WARPS = """
## Warps by patches

Not measured. Instructions are those of warps for 32 elements; "before" is a replay of the kernels
that took taps one by one, on that H200. Forward + backward adds {rest:.0f} us for plans, an empty
sweep and the end of theta's sums, as measured. "Of copy" is of the bytes that must move, as in the
benchmark.

| warp | kernel | instructions | waves | issue | memory | lines | shared | H200 | H100 |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""
_SUMS = """
| warp | work | before | predicted, H200 | of copy |
|---|---|---:|---:|---:|
"""


def _kernel(source: str, shape: Shape) -> tuple[Kernel, list[Loop]]:
    family = "backward_patches" if "backward" in source else "warp_patches"
    dtype = "float" if shape.bytes_each == 4 else "BFloat16"
    name = f"{family}<{dtype}, true, {shape.block}>"
    path = SOURCES / source
    (kernel,) = [one for one in kernels_of(path, ARCHITECTURE) if one.name == name]
    return kernel, loops_of(path, ARCHITECTURE)[kernel.symbol]


def _cells(found: Prediction) -> str:
    parts = (found.issue, found.memory, found.lines, found.shared)
    return f"{found.waves:.2f} | " + " | ".join(f"{part:.1f}" for part in parts)


def measured() -> tuple[str, int]:
    """Rows of the table of what was measured, and how many are within :data:`WITHIN`."""
    lines, within = [], 0
    for row in MEASURED:
        found = predict(row.work)
        off = found.total / row.us - 1
        within += abs(off) <= WITHIN
        mark = "" if abs(off) <= WITHIN else " **missed**"
        lines.append(
            f"| {row.call} | `{row.kernel}` | {_cells(found)} | {found.total:.1f} | {row.us:.1f} | "
            f"{off:+.0%}{mark} |\n"
        )
    return "".join(lines), within


def _patches() -> tuple[str, str]:
    rows, sums = [], []
    for name, shape in shapes():
        totals = []
        for source, make in (
            ("warp_affine.cu", forward),
            ("warp_affine_backward.cu", backward),
        ):
            kernel, loops = _kernel(source, shape)
            work = make(shape, loops, kernel.registers)
            rows.append(_row(name, work, shape))
            totals.append(predict(work, H200).total)
        before = BEFORE_US[name]
        both = sum(totals) + REST_US
        moved = shape.bytes_each * shape.elements / H200.copy_gbs / 1e3
        for words, old, new, times in (
            ("forward", before[0], totals[0], 2),
            ("forward + backward", before[1], both, 5),
        ):
            was = "-" if old is None else f"{old:.1f}"
            sums.append(f"| {name} | {words} | {was} | {new:.1f} | {times * moved / new:.0%} |\n")
    return "".join(rows), "".join(sums)


def _row(name: str, work: Work, shape: Shape) -> str:
    def total(machine: Machine) -> str:
        return f"{predict(work, machine).total:.1f}"

    each = work.instructions / (shape.elements / 32)
    return (
        f"| {name} | `{work.kernel}` | {each:.0f} | {_cells(predict(work))} | {total(H200)} | "
        f"{total(H100)} |\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the page; default: shown only")
    options = parser.parse_args(arguments)
    first, within = measured()
    rows, sums = _patches()
    page = (
        f"{_HEAD}{first}\n{within} of {len(MEASURED)} within {WITHIN:.0%}.\n"
        f"{_WARPS.format(rest=REST_US)}{rows}{_SUMS}{sums}"
    )
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
