"""What the launchers would launch on a chip: kernels, grids and shared memory, for calls of a size
that the project sees, found by running the launchers themselves on the CPU with the launch cut off.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from torch import Tensor

from cuda_compile.chips import Chip
from cuda_compile.kinds import Call
from cuda_compile.toolchain import BUILD, REPOSITORY, plain_name

sys.path.insert(0, str(REPOSITORY / "tests" / "cuda_on_cpu"))

from cuda_on_cpu_support import builder  # noqa: E402
from cuda_on_cpu_support.kernels import Kernels  # noqa: E402
from cuda_on_cpu_support.structs import ARGS, dtype_code  # noqa: E402

from fastalign.ops.schema import stem_of  # noqa: E402

# g++ and clang++ name the harness's `run(const Launch&)` so; calls of it arrive in the recorder.
_RUN = "_ZN11cuda_on_cpu3runERKNS_6LaunchE"


@dataclass(frozen=True)
class Launch:
    """One kernel launch."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int  # bytes of dynamic shared memory
    arguments: tuple[bytes, ...] = field(repr=False)

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)

    @property
    def threads(self) -> int:
        return math.prod(self.block)


def _library(op: str) -> builder.Library:
    """An op's launchers, linked so that launches are recorded and not run."""
    files = [
        *builder.op_sources(op),
        *sorted((builder.HERE / "harness").glob("*.cpp")),
        Path(__file__).with_name("record_launches.cpp"),
    ]
    objects = [builder._object(source, builder.CSRC, builder.PLAIN) for source in files]
    name = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    target = BUILD / f"launches_{op}.{name}.so"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        command = [str(builder.compiler()), "-shared", "-Wl,-Bsymbolic", f"-Wl,--wrap={_RUN}"]
        subprocess.run([*command, *map(str, objects), "-ldl", "-o", str(target)], check=True)
    library = builder.Library(target)
    library.handle.recorded_launches.restype = ctypes.c_char_p
    return library


@cache
def _kernels(op: str) -> Kernels:
    stem = stem_of(op)
    return Kernels({stem: _library(stem)}, watched=True)


def _recorded(library: builder.Library) -> list[Launch]:
    """What was launched since the last question."""
    found = []
    for line in library.handle.recorded_launches().decode().splitlines():
        name, grid, block, shared, arguments = line.split("\t")
        x, y, z = map(int, grid.split())
        threads = tuple(map(int, block.split()))
        data = tuple(map(bytes.fromhex, arguments.split()))
        found.append(Launch(plain_name(name), (x, y, z), threads, int(shared), data))
    return found


def recorded(op: str, arguments: tuple[object, ...]) -> list[Launch]:
    """What a call of an op launches on a chip with one multiprocessor, where blocks take as many
    tiles in turn as they ever do."""
    kernels = _kernels(op)
    library = kernels.library(op)
    library.device(builder.Device(1, 99 * 1024))
    _recorded(library)
    getattr(kernels, op)(*arguments)
    return _recorded(library)


def recorded_scale(values: Tensor, factor: Tensor) -> list[Launch]:
    """The same of the product that the losses' backward takes."""
    library = _library("scale")
    library.handle.launch_scale.restype = ctypes.c_char_p
    arguments = ARGS["scale"](
        values.data_ptr(), dtype_code(values), values.numel(), factor.data_ptr()
    )
    library.handle.launch_scale(ctypes.byref(arguments))
    return _recorded(library)


def launches(call: Call, chip: Chip) -> list[Launch]:
    """What a call launches on a chip, in order."""
    kernels = _kernels(call.op)
    library = kernels.library(call.op)
    library.device(builder.Device(chip.multiprocessors, chip.shared_block))
    _recorded(library)
    call.run(kernels)
    return _recorded(library)
