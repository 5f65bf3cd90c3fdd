"""Compiles csrc/cuda/*.cu for one architecture each and reads what ptxas and the machine code say.

Every compilation is done once: cubins lie in ``build/cuda_compile``, named by a hash of the source,
of what it includes, of the flags and of the compiler.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from records.inputs import included

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = REPOSITORY / "csrc" / "cuda"
BUILD = REPOSITORY / "build" / "cuda_compile"

# Those that setup.py builds for.
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
# The flags of setup.py that change device code, and ptxas's report.
FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v")


class ToolError(Exception):
    """A compiler or disassembler is missing or failed; the message says why."""


@dataclass(frozen=True)
class Named:
    """One instantiation of a kernel."""

    name: str  # demangled, without arguments: "mahalanobis_forward<float, 4>"
    symbol: str
    source: str

    @property
    def family(self) -> str:
        """The name without template arguments."""
        return self.name.partition("<")[0]


@dataclass(frozen=True)
class Kernel(Named):
    """One instantiation on one architecture."""

    architecture: str
    registers: int
    stack: int  # bytes of local memory a thread
    spilled: int  # bytes of registers stored to it and loaded from it
    shared: int  # bytes of static shared memory


def nvcc() -> str | None:
    """The CUDA compiler, or None."""
    return shutil.which(os.environ.get("NVCC", "nvcc"))


@cache
def compiler_version() -> str:
    """The release of nvcc: "13.0.88"."""
    if nvcc() is None:
        raise ToolError("nvcc was not found; set NVCC")
    said = subprocess.run([nvcc(), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\bV(\d+\.\d+\.\d+)", said)
    return found[1] if found else "unknown"


@cache
def toolkit() -> Path:
    """The folder of the CUDA toolkit; nvcc itself may be a script that calls it."""
    said = subprocess.run([nvcc() or "nvcc", "-dryrun", "x.cu"], capture_output=True, text=True)
    found = re.search(r"_HERE_=(.*)", said.stderr)
    return Path(found[1].strip() if found else Path(nvcc() or "").resolve().parent).parent


def _tool_folders() -> Iterable[Path]:
    """Where cuobjdump may lie: the toolkit, pip's wheels for it, and triton's wheel."""
    if nvcc() is not None:
        yield toolkit() / "bin"
    site = Path(sysconfig.get_path("purelib"))
    yield from site.glob("nvidia/*/bin")
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "backends" / "nvidia" / "bin"


@cache
def disassembler() -> str | None:
    """cuobjdump, which not every toolkit holds, or None."""
    on_path = shutil.which("cuobjdump")
    if on_path is not None:
        return on_path
    for folder in _tool_folders():
        if (folder / "cuobjdump").exists():
            return str(folder / "cuobjdump")
    return None


def sources() -> list[Path]:
    """The launchers' sources."""
    return sorted(SOURCES.glob("*.cu"))


def _cubin(source: Path, architecture: str) -> Path:
    """Compile, unless that was done before; ptxas's report lies beside the cubin as .log."""
    digest = hashlib.sha256(" ".join((*FLAGS, compiler_version())).encode())
    for path in sorted(included([source])):
        digest.update(path.read_bytes())
    target = BUILD / f"{source.stem}.{architecture}.{digest.hexdigest()[:16]}.cubin"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        for old in BUILD.glob(f"{source.stem}.{architecture}.*"):
            old.unlink()
        draft = target.with_suffix(f".{os.getpid()}")
        command = [str(nvcc()), *FLAGS, f"-arch={architecture}", "-cubin", str(source)]
        result = subprocess.run([*command, "-o", str(draft)], capture_output=True, text=True)
        if result.returncode != 0:
            raise ToolError(f"{source.name} for {architecture}:\n{result.stderr[-4000:]}")
        target.with_suffix(".log").write_text(result.stderr)
        draft.replace(target)
    return target


def demangled(symbols: list[str]) -> list[str]:
    """Names as C++ writes them, without return type, this project's namespaces and arguments."""
    if shutil.which("c++filt") is None:
        raise ToolError("c++filt was not found; it comes with binutils")
    said = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True)
    return [plain_name(line) for line in said.stdout.splitlines()]


def plain_name(demangled: str) -> str:
    """``void fastalign::cuda::f<fastalign::Half, 4>(int)`` as ``f<Half, 4>``."""
    name = demangled.removeprefix("void ")
    if name.endswith(")"):
        name = name[: name.rindex("(", 0, name.rindex(")"))]
    return re.sub(r"\bfastalign::(cuda::)?(\(anonymous namespace\)::)?", "", name)


_REPORT = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)


def kernels_of(source: Path, architecture: str) -> list[Kernel]:
    """Every kernel of one source on one architecture, by name."""
    report = _cubin(source, architecture).with_suffix(".log").read_text()
    entries = list(_REPORT.finditer(report))
    names = demangled([entry["symbol"] for entry in entries])
    kernels = []
    for entry, name in zip(entries, names, strict=True):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        kernels.append(
            Kernel(
                name,
                entry["symbol"],
                source.name,
                entry["architecture"],
                int(entry["registers"]),
                int(entry["stack"]),
                int(entry["stores"]) + int(entry["loads"]),
                int(shared[1]) if shared else 0,
            )
        )
    return sorted(kernels, key=lambda kernel: kernel.name)


@cache
def _machine_code(source: str, architecture: str) -> dict[str, list[str]]:
    tool = disassembler()
    if tool is None:
        raise ToolError(
            "cuobjdump was not found: neither in the toolkit nor in the wheels of triton and "
            "nvidia-cuda-cuobjdump"
        )
    cubin = _cubin(SOURCES / source, architecture)
    known = cubin.with_suffix(".json")
    if known.exists():
        return json.loads(known.read_text())
    result = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True)
    if result.returncode != 0:
        raise ToolError(f"cuobjdump: {result.stderr[-1000:]}")
    code: dict[str, list[str]] = {}
    current: list[str] = []
    for line in result.stdout.splitlines():
        if "Function :" in line:
            current = code.setdefault(line.rpartition(":")[2].strip(), [])
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line):
            current.append(found[1])
    known.write_text(json.dumps(code))
    return code


def opcodes(kernel: Kernel) -> list[str]:
    """The instructions of a kernel in order, without operands: ``LDG.E.128``."""
    return _machine_code(kernel.source, kernel.architecture)[kernel.symbol]


def is_wide_load(opcode: str) -> bool:
    """Sixteen bytes from global memory, into registers or straight into shared memory."""
    return re.match(r"LD(G|GSTS)\.(.*\.)?128\b", opcode) is not None


def is_wide_store(opcode: str) -> bool:
    return re.match(r"STG\.(.*\.)?128\b", opcode) is not None


def is_local(opcode: str) -> bool:
    """An access to local memory, where spilled registers and indexed arrays lie."""
    return opcode.split(".")[0] in ("LDL", "STL")
