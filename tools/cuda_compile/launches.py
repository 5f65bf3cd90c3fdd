"""What the launchers would launch on a chip: kernels, grids and shared memory, for calls of a size
that the project sees, found by running the launchers themselves on the CPU with the launch cut off.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cuda_compile.chips import Chip
from cuda_compile.toolchain import BUILD, REPOSITORY, plain_name

sys.path.insert(0, str(REPOSITORY / "tests" / "cuda_on_cpu"))

from cuda_on_cpu_support import builder  # noqa: E402
from cuda_on_cpu_support.kernels import Kernels  # noqa: E402
from cuda_on_cpu_support.structs import ScaleArgs, dtype_code  # noqa: E402

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


@dataclass(frozen=True)
class Call:
    """A call of an op and the tensors that must cross memory for it."""

    name: str
    op: str
    run: Callable[[Kernels], object]
    must_move: int  # bytes: every input once, every result once


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
def _kernels() -> Kernels:
    return Kernels({op: _library(op) for op in builder.OPS if builder.op_sources(op)}, watched=True)


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
    kernels = _kernels()
    library = kernels.library(op)
    library.device(builder.Device(1, 99 * 1024))
    _recorded(library)
    getattr(kernels, op)(*arguments)
    return _recorded(library)


def recorded_scale(values: Tensor, factor: Tensor) -> list[Launch]:
    """The same of the product that the losses' backward takes."""
    library = _library("scale")
    library.handle.launch_scale.restype = ctypes.c_char_p
    arguments = ScaleArgs(values.data_ptr(), dtype_code(values), values.numel(), factor.data_ptr())
    library.handle.launch_scale(ctypes.byref(arguments))
    return _recorded(library)


def launches(call: Call, chip: Chip) -> list[Launch]:
    """What a call launches on a chip, in order."""
    kernels = _kernels()
    library = kernels.library(call.op)
    library.device(builder.Device(chip.multiprocessors, chip.shared_block))
    _recorded(library)
    call.run(kernels)
    return _recorded(library)


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _maps(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype).contiguous(memory_format=layout)


def _similarity(dtype: torch.dtype, last: bool, words: str) -> Call:
    p, z = _maps(32, 256, 28, 28, dtype=dtype, last=last), _maps(32, 256, 28, 28, dtype=dtype)
    z = z.contiguous(memory_format=torch.channels_last) if last else z
    return Call(
        f"dense_similarity_loss and dp, 32 x 256 x 28 x 28, {words}",
        "dense_similarity",
        lambda k: k.dense_similarity_loss(p, z, None, True, False),
        _bytes(p, z, p),
    )


def _distance(dtype: torch.dtype, words: str) -> Call:
    h = _maps(32, 3, 224, 224, dtype=dtype)
    return Call(
        f"pairwise_distance_loss and dh, 32 x 3 x 224 x 224, {words}",
        "pairwise_distance",
        lambda k: k.pairwise_distance_loss(h, None, None, False, True),
        2 * _bytes(h),
    )


def _warp(shape: tuple[int, ...], dtype: torch.dtype, last: bool, words: str) -> list[Call]:
    x, theta = _maps(*shape, dtype=dtype, last=last), torch.eye(2, 3).repeat(shape[0], 1, 1)
    options = "bilinear", "zeros", False
    size = " x ".join(map(str, shape))
    return [
        Call(
            f"warp_affine, {size}, {words}",
            "warp_affine",
            lambda k: k.warp_affine(x, theta, shape[2:], *options),
            2 * _bytes(x),
        ),
        Call(
            f"warp_affine_backward, x and theta, {size}, {words}",
            "warp_affine",
            lambda k: k.warp_affine_backward(x, x, theta, *options, True, True, True),
            3 * _bytes(x),
        ),
    ]


def _gaussian(shape: tuple[int, ...], stored: torch.dtype, words: str, back: bool = False) -> Call:
    batch, channels, height, width = shape
    x, mean = _maps(*shape), torch.empty(shape[1:])
    factors = torch.empty(height * width, channels * (channels + 1) // 2, dtype=stored)
    grad = torch.empty(batch, height, width)
    size = " x ".join(map(str, shape))
    moved = _bytes(x, mean, factors, grad)
    if back:
        return Call(
            f"mahalanobis_backward, x, {size}, {words}",
            "mahalanobis",
            lambda k: k.mahalanobis_backward(grad, x, mean, factors, False, True, False, False),
            moved + _bytes(x),
        )
    return Call(
        f"mahalanobis, {size}, {words}",
        "mahalanobis",
        lambda k: k.mahalanobis(x, mean, factors, False),
        moved,
    )


def calls() -> list[Call]:
    """One of each op and direction, in the layouts and dtypes that choose other kernels."""
    single, half = torch.float32, torch.bfloat16
    return [
        _similarity(single, False, "float32"),
        _similarity(half, True, "bfloat16, channels_last"),
        _distance(single, "float32"),
        *_warp((32, 3, 224, 224), single, False, "float32"),
        *_warp((32, 64, 56, 56), half, True, "bfloat16, channels_last"),
        _gaussian((1, 100, 64, 64), single, "float32 factors"),
        _gaussian((1, 100, 64, 64), half, "bfloat16 factors"),
        _gaussian((32, 100, 64, 64), single, "float32 factors"),
        _gaussian((1, 1000, 8, 8), single, "float32 factors"),
        _gaussian((1, 100, 64, 64), single, "float32 factors", back=True),
    ]
