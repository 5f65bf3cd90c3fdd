"""Variants as libraries for this GPU, and their launchers as the ops' kernels.

nvcc compiles every source of a variant once: objects lie in ``build/arena``, named by what they
were made of, so a constant compiles what it touches and nothing else.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import torch
from cuda_compile.toolchain import nvcc
from records.inputs import included
from torch import Tensor

from gpucheck import inplace
from gpucheck.variants import Variant, VariantError, altered, sources

for folder in ("cuda_on_cpu", "ops"):
    sys.path.append(str(inplace.ROOT / "tests" / folder))

from cuda_on_cpu_support.builder import launchers  # noqa: E402
from cuda_on_cpu_support.kernels import KernelError, Kernels, plan_of  # noqa: E402
from cuda_on_cpu_support.structs import forced_plan  # noqa: E402

BUILD = inplace.ROOT / "build" / "arena"
# Those of setup.py that change device code.
FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC")

_HEAD = '#include "launchers.h"\nusing namespace fastalign::cuda;\n'
_ENTRY = """
extern "C" const char* launch_{name}(const {args}* args, void* stream) {{
  return {name}(*args, static_cast<Stream>(stream));
}}
extern "C" int64_t size_{name}() {{ return sizeof({args}); }}
"""
_SCRATCH = """
extern "C" int64_t scratch_{name}(const {args}* args) {{ return {name}_scratch(*args); }}
"""
# By what is being made: several variants ask for the objects that they share at once.
_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


def entries(op: str, csrc: Path) -> str:
    """C++ that gives an op's launchers names of C."""
    text = (csrc / "cuda" / "launchers.h").read_text(encoding="utf-8")
    parts = [_HEAD]
    for name, args in launchers(csrc).items():
        if name == op or name.startswith(f"{op}_"):
            parts.append(_ENTRY.format(name=name, args=args))
            if f"{name}_scratch(" in text:
                parts.append(_SCRATCH.format(name=name, args=args))
    return "".join(parts)


def _run(command: list[str], until: float) -> None:
    left = until - time.monotonic()
    if left <= 0:
        raise VariantError("not compiled: the time was over")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        raise VariantError("not compiled: the time was over") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise VariantError("\n".join(lines[:3]) or done.stderr[-400:])


def _make(parts: list[bytes], suffix: str, command: list[str], until: float) -> Path:
    """What ``command`` makes, unless it is there already."""
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
    path = BUILD / f"{digest}{suffix}"
    with _locks[path]:
        if not path.exists():
            BUILD.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(suffix=suffix, dir=BUILD)
            os.close(handle)
            try:
                _run([*command, "-o", draft], until)
                Path(draft).replace(path)
            finally:
                Path(draft).unlink(missing_ok=True)
    return path


def library(variant: Variant, architecture: str, until: float) -> Path:
    """Compile a variant for one architecture (``sm_90``); the path of its shared library.

    Raises:
        VariantError: it does not compile, or not in time (``until``, by ``time.monotonic``).
    """
    compiler = str(nvcc())
    command = [compiler, *FLAGS, f"-arch={architecture}"]
    with tempfile.TemporaryDirectory() as temporary:
        tree = altered(variant, Path(temporary))
        entry = Path(temporary) / "entry.cu"
        entry.write_text(entries(variant.op, tree), encoding="utf-8")

        def compiled(source: Path) -> Path:
            read = [source, *sorted(included([tree / "cuda" / "launchers.h", source]))]
            parts = [" ".join(command).encode(), *(path.read_bytes() for path in read)]
            compile_it = [*command, f"-I{tree / 'cuda'}", "-c", str(source)]
            return _make(parts, ".o", compile_it, until)

        with ThreadPoolExecutor() as workers:
            objects = list(workers.map(compiled, [*sources(variant.op, tree), entry]))
    names = [str(path) for path in objects]
    return _make([name.encode() for name in names], ".so", [*command, "-shared", *names], until)


class OnDevice(Kernels):
    """The ops of one variant on the GPU, on torch's current stream and in torch's memory."""

    def __init__(self, variant: Variant, path: Path) -> None:
        super().__init__({variant.op: SimpleNamespace(handle=ctypes.CDLL(os.fspath(path)))})
        force(self, variant)

    def _inputs(self, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors

    def _result(self, tensor: Tensor) -> Tensor:
        return tensor

    def _launch(self, name: str, args: ctypes.Structure) -> None:
        handle = self.library(name).handle
        numbers = forced_plan(plan_of(name, args), self.forced.get(plan_of(name, args), {}))
        if any(numbers):
            args.forced = ctypes.addressof(numbers)
        scratch = getattr(handle, f"scratch_{name}", None)
        if scratch is not None:
            scratch.restype = ctypes.c_int64
            memory = torch.empty(scratch(ctypes.byref(args)), dtype=torch.uint8, device="cuda")
            args.scratch = memory.data_ptr()
        launch = getattr(handle, f"launch_{name}")
        launch.restype = ctypes.c_char_p
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        error = launch(ctypes.byref(args), stream)
        if error is not None:
            raise KernelError(error.decode())


def force(kernels: Kernels, variant: Variant) -> None:
    """Let kernels cut their work as a variant says."""
    for kernel, field, value in variant.plan:
        kernels.forced.setdefault(kernel, {})[field] = value


def on_device(
    variants: list[Variant], until: float, note: Callable[[str], None]
) -> dict[Variant, Kernels | str]:
    """All variants compiled side by side, or why one is not there."""
    major, minor = torch.cuda.get_device_capability()

    def one(variant: Variant) -> Kernels | str:
        began = time.monotonic()
        try:
            path = library(variant, f"sm_{major}{minor}", until)
            found: Kernels | str = OnDevice(variant, path)
        except (VariantError, OSError) as error:
            found = str(error)
        words = f": {found}" if isinstance(found, str) else ""
        note(f"{variant.op}: {variant.name}: {time.monotonic() - began:.0f} s{words}")
        return found

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        # Those of one build first, so that plans wait for it instead of compiling it as well.
        built = dict.fromkeys(v for v in variants if not v.plan)
        found = dict(zip(built, workers.map(one, built), strict=True))
        rest = [variant for variant in variants if variant not in found]
        return found | dict(zip(rest, workers.map(one, rest), strict=True))
