"""Ahead-of-time compiles: what a launch would compile, for a GPU that is not there.

An op is called with tensors on torch's meta device; each launch is recorded instead of run, with
the specialisation that Triton would choose for its arguments, and compiled for the target asked
for. So what is examined is what runs, and no signature is written down twice.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from cuda_compile import stems
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

_POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
_OPTIONS = ("num_warps", "num_stages")
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class CompileCase:
    """A call, on meta tensors, whose launches are compiled.

    ``wide_loads``: kernels of which the machine code must load 16 bytes at once.
    """

    name: str
    call: Callable[[], object]
    wide_loads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launch:
    """A recorded launch."""

    kernel: JITFunction
    signature: dict[str, Any]  # a type, for a tuple a tuple of types
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list[list[Any]]]
    options: dict[str, int]
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes on one target; None where the target's tools do not say."""

    case: str
    kernel: str
    target: str
    warps: int
    registers: int | None
    spilled: int | None  # bytes of local memory a thread
    shared: int  # bytes a program
    wide_loads: int | None  # 16-byte global loads in the machine code
    programs: int


def maps(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> torch.Tensor:
    """Maps ``[B,C,H,W]`` without memory."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=order)


def locations(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A value for each image and location of maps ``shape``."""
    return torch.empty((shape[0], *shape[2:]), dtype=dtype, device="meta")


def validity(shape: tuple[int, ...]) -> torch.Tensor:
    """A mask that belongs to maps ``shape``."""
    return locations(shape, torch.bool)


def labels(shape: tuple[int, ...]) -> torch.Tensor:
    """Group labels that belong to maps ``shape``."""
    return torch.empty(shape[0], dtype=torch.int64, device="meta")


def _typed(value: Any, special: bool) -> tuple[str, Any, list[list[Any]]]:
    """Triton's type, constant and attributes of one number or tensor."""
    aligned = [["tt.divisibility", 16]]
    if isinstance(value, torch.Tensor):
        return _POINTERS[value.dtype], None, aligned
    if isinstance(value, float):
        return "fp32", None, []
    if value == 1 and special:
        return "constexpr", 1, []
    kind = "i32" if -(2**31) <= value < 2**31 else "i64"
    return kind, None, aligned if special and value % 16 == 0 else []


def _record(kernel: JITFunction, grid: Any, arguments: tuple[Any, ...], named: dict) -> Launch:
    options = {key: named.pop(key) for key in _OPTIONS if key in named}
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
    signature, constants, attributes = {}, {}, {}

    def typed(value: Any, path: tuple[int, ...], special: bool) -> Any:
        if isinstance(value, tuple):
            return tuple(typed(part, (*path, n), special) for n, part in enumerate(value))
        kind, constant, attribute = _typed(value, special)
        if kind == "constexpr":
            constants[path] = constant
        if attribute:
            attributes[path] = attribute
        return kind

    for place, parameter in enumerate(kernel.params):
        value = values.get(parameter.name, parameter.default)
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
        else:
            special = not parameter.do_not_specialize
            signature[parameter.name] = typed(value, (place,), special)
    return Launch(kernel, signature, constants, attributes, options, tuple(grid))


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches within are recorded and not run."""
    launches: list[Launch] = []

    def run(self: JITFunction, *arguments: Any, grid: Any, warmup: bool = False, **named: Any):
        launches.append(_record(self, grid, arguments, named))

    original = JITFunction.run
    JITFunction.run = run
    try:
        yield launches
    finally:
        JITFunction.run = original


def launches_of(case: CompileCase) -> list[Launch]:
    """The launches of a case."""
    with recorded() as launches:
        case.call()
    return launches


def compiled(launch: Launch, target: str) -> Any:
    """Triton's compiled kernel; its ``asm`` holds every stage."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    return triton.compile(source, target=TARGETS[target], options=dict(launch.options))


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run(
        [str(_TOOLS / name), *arguments], check=True, capture_output=True, text=True
    ).stdout


def machine_code(kernel: Any) -> str:
    """SASS of a kernel compiled for an NVIDIA target."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        return _tool("nvdisasm", file.name)


def _nvidia(kernel: Any) -> tuple[int, int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
    found = {key: int(re.search(rf"\b{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL")}
    code = machine_code(kernel)
    wide = len(re.findall(r"\b(?:LDG|LDGSTS)\.E[.\w]*\.128", code))
    return found["REG"], found["STACK"] + found["LOCAL"], wide


def _amd(kernel: Any) -> tuple[int | None, int | None]:
    text = kernel.asm.get("amdgcn", "")
    registers = re.search(r"\.vgpr_count:\s+(\d+)", text)
    spilled = re.search(r"\.private_segment_fixed_size:\s+(\d+)", text)
    return (
        int(registers[1]) if registers else None,
        int(spilled[1]) if spilled else None,
    )


def resources(case: CompileCase, launch: Launch, target: str) -> Resources:
    """Compile a launch and read what it takes."""
    kernel = compiled(launch, target)
    if target.startswith("sm_"):
        registers, spilled, wide = _nvidia(kernel)
    else:
        (registers, spilled), wide = _amd(kernel), None
    programs = 1
    for size in launch.grid:
        programs *= size
    warps = launch.options.get("num_warps", 4)
    return Resources(
        case.name,
        launch.name,
        target,
        warps,
        registers,
        spilled,
        kernel.metadata.shared,
        wide,
        programs,
    )


def all_cases() -> dict[str, list[CompileCase]]:
    """The cases of every op, from its file in tools/cuda_compile/stems."""
    return {stem: module.compiled() for stem, module in stems.each()}


def table(targets: tuple[str, ...] = ("sm_90",)) -> list[Resources]:
    """What every kernel of every case takes on the targets, for tests and for the documentation."""
    return [
        resources(case, launch, target)
        for cases in all_cases().values()
        for case in cases
        for launch in launches_of(case)
        for target in targets
    ]
