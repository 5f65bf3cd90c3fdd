"""What pyproject.toml cannot say: where the packages lie, and how the native code is built.

Switches, all environment variables:

FASTALIGN_BUILD_NATIVE  auto (default): build the native library where a C++20 compiler, Python's
                        and torch's headers are found and the compilation succeeds, else install
                        pure Python and say why in one line.
                        1: fail instead, with the compiler's output. 0: leave it out.
                        An editable installation never keeps the library of an earlier build: it
                        is replaced in one step, or removed where this build gives none.
FASTALIGN_BUILD_CUDA    the same for the CUDA sources (csrc/cuda/*.cu), which need nvcc.
TORCH_CUDA_ARCH_LIST    GPU architectures as torch's own extensions take them, for example
                        "8.0;9.0+PTX"; default "8.0;9.0;10.0;12.0+PTX".
FASTALIGN_SANITIZE      for example "address,undefined": an instrumented build for the tests.
CXX, NVCC               compiler and CUDA compiler.
MAX_JOBS                parallel compilations (default: by cores and free memory).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
LIBRARY = ROOT / "fastalign" / "_C.abi3.so"  # of an editable installation

# Lowest torch and Python whose ABI the library uses; it runs on these and everything later.
TORCH_TARGET = (2, 11)
PYTHON_TARGET = "0x030A0000"

# -O3 without -ffast-math: the kernels' results are IEEE apart from fused multiply-adds. Vectors
# wider than the level's registers are passed between inlined functions only: no ABI to warn about.
CXX_FLAGS = (
    "-std=c++20 -O3 -DNDEBUG -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -fno-math-errno "
    "-fno-trapping-math -ffp-contract=fast -Wall -Wextra -Wno-unknown-pragmas -Wno-psabi"
).split()
# GCC 12's AVX-512 header reads an undefined register on purpose and warns about itself.
ISA_FLAGS = {
    "isa_baseline": [],
    "isa_avx2": "-mavx2 -mfma -mf16c -mbmi -mbmi2".split(),
    "isa_avx512": (
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mbmi -mbmi2 "
        "-mprefer-vector-width=512 -Wno-maybe-uninitialized -Wno-uninitialized"
    ).split(),
}
# Kernel sources, compiled once for each instruction set; everything else is compiled once.
PER_ISA = {
    "dense_similarity",
    "mahalanobis",
    "moments",
    "pairwise_distance",
    "warp_affine",
    "warp_affine_backward",
    "whitener",
}

# One real architecture of each generation, and code that later ones can compile at load.
CUDA_ARCHS = "8.0;9.0;10.0;12.0+PTX"

BUILD_COMMANDS = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}


class Unavailable(Exception):
    """The native code cannot be built here; the message is the one line that says why."""


def give_up(reason: Unavailable) -> None:
    """Go on without native code, unless it was asked for."""
    if switch("FASTALIGN_BUILD_NATIVE") == "1":
        raise SystemExit(f"error: native kernels: {reason}") from reason
    print(f"fastalign: installing without native kernels: {reason}", file=sys.stderr, flush=True)


def in_place() -> bool:
    """Whether this command builds into the source folder, as an editable installation does."""
    given = set(sys.argv)
    if "build_ext" in given and given & {"-i", "--inplace"}:
        return True
    return not given.isdisjoint({"develop", "editable_wheel"})


def remove_stale(library: Path) -> None:
    """Remove what an earlier build left, so that nobody runs old code without knowing."""
    if library.exists():
        library.unlink()
        print(f"fastalign: removed {library.name} of an earlier build", file=sys.stderr, flush=True)


def packages() -> list[str]:
    """Every installed package; ``fastalign.kernels`` lies in the folder ``kernels``."""
    kernels = ["fastalign.kernels"] + [
        f"fastalign.kernels.{name}" for name in find_packages("kernels")
    ]
    return find_packages(include=["fastalign", "fastalign.*"]) + kernels


def switch(name: str) -> str:
    """Value of a build switch: auto, 0 or 1."""
    value = os.environ.get(name, "auto").lower() or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"error: {name}={value!r}; use auto, 0 or 1")
    return value


def jobs() -> int:
    """Parallel compilations: MAX_JOBS, else one per core while each has 1.5 GB of free memory."""
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        free = 4 << 30
    return max(1, min(cores or 1, free // (3 << 29)))


def torch_root() -> Path:
    """Folder of the installed torch, found without importing it."""
    spec = importlib.util.find_spec("torch")
    root = Path(spec.origin).parent if spec and spec.origin else None
    header = "include/torch/csrc/stable/library.h"
    if root is None or not (root / header).exists():
        version = ".".join(map(str, TORCH_TARGET))
        raise Unavailable(f"torch >= {version} with its headers is missing")
    return root


def compiler() -> list[str]:
    """A C++ compiler that accepts the flags, as a command line."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        command = shlex.split(name)
        if shutil.which(command[0]) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text("#include <Python.h>\n#include <atomic>\nint main() { return 0; }\n")
            probe = [*command, *CXX_FLAGS, f"-I{sysconfig.get_path('include')}", "-c", source.name]
            result = subprocess.run(probe, cwd=folder, capture_output=True, text=True)
        if result.returncode == 0:
            return command
        said = first_error(result.stderr)
        raise Unavailable(f"'{name}' cannot compile C++20 against Python's headers{said}")
    raise Unavailable(f"no C++ compiler ({named or 'c++, g++ or clang++'}) was found")


def first_error(said: str) -> str:
    """The first line of a compiler's or linker's output that names an error, in brackets."""
    lines = [line.strip() for line in said.splitlines() if "error" in line.lower()]
    return f" ({lines[0][:200]})" if lines else ""


def cuda_targets() -> list[str]:
    """nvcc's flags for the architectures of TORCH_CUDA_ARCH_LIST."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST") or CUDA_ARCHS
    flags = []
    for item in re.split(r"[;,\s]+", named.strip()):
        found = re.fullmatch(r"(\d+)\.?(\d[af]?)(\+PTX)?", item)
        if found is None:
            raise SystemExit(
                f"error: TORCH_CUDA_ARCH_LIST={named!r}: {item!r} is no architecture; write for "
                'example "8.0;9.0+PTX"'
            )
        number, ptx = found[1] + found[2], found[3]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def toolkit(nvcc: str) -> Path:
    """The folder of the CUDA toolkit that ``nvcc`` belongs to; nvcc itself may be a script."""
    said = subprocess.run([nvcc, "-dryrun", "x.o"], capture_output=True, text=True).stderr
    found = re.search(r"_HERE_=(.*)", said)
    return Path(found[1].strip() if found else Path(nvcc).resolve().parent).parent


@dataclass
class Step:
    """One compilation."""

    source: Path
    target: Path
    command: list[str] = field(default_factory=list)

    @property
    def record(self) -> Path:
        """Holds the command line that the target was made with."""
        return self.target.with_suffix(".command")

    def stale(self, newest_header: float) -> bool:
        newest = max(newest_header, self.source.stat().st_mtime)
        if not self.target.exists() or self.target.stat().st_mtime < newest:
            return True
        return not self.record.exists() or self.record.read_text() != shlex.join(self.command)

    def run(self, verbose: bool) -> None:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if verbose:
            print(shlex.join(self.command), flush=True)
        command = [*self.command, "-o", str(self.target)]
        result = subprocess.run(command, capture_output=True, text=True)
        said = result.stdout + result.stderr
        if result.returncode == 0 or switch("FASTALIGN_BUILD_NATIVE") == "1":
            sys.stderr.write(said)
        if result.returncode != 0:
            self.target.unlink(missing_ok=True)
            raise Unavailable(
                f"{self.source.relative_to(ROOT)} failed to compile{first_error(said)}"
            )
        self.record.write_text(shlex.join(self.command))


class BuildNative(build_ext):
    """Compiles csrc/ once per instruction set and links fastalign/_C.abi3.so."""

    def run(self) -> None:
        built = False
        into_source = bool(self.inplace)  # setuptools clears it while it builds
        try:
            super().run()
            built = bool(self.extensions)
        finally:
            if into_source and not built:
                remove_stale(LIBRARY)

    def copy_extensions_to_source(self) -> None:
        """Replaces the library in one step: a process that has the old one mapped keeps it."""
        for ext in self.extensions:
            path = Path(self.get_ext_filename(self.get_ext_fullname(ext.name)))
            new = LIBRARY.with_suffix(".new")
            shutil.copy2(Path(self.build_lib, path), new)
            os.replace(new, LIBRARY)

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Unavailable as reason:
            for ext in self.extensions:
                # The wheel takes everything that lies in the build folder.
                remove_stale(Path(self.get_ext_fullpath(ext.name)))
            give_up(reason)
            # From here on the project is pure Python, also for the name of the wheel.
            self.extensions = []
            self.distribution.ext_modules = []
            if "bdist_wheel" in self.distribution.command_obj:
                self.distribution.get_command_obj("bdist_wheel").root_is_pure = True

    def build_extension(self, ext: Extension) -> None:
        cxx, torch = compiler(), torch_root()
        self.link(cxx, torch, self.compile(cxx, torch), Path(self.get_ext_fullpath(ext.name)))

    def compile(self, cxx: list[str], torch: Path) -> list[Path]:
        """Brings all objects up to date and returns them."""
        sanitize = os.environ.get("FASTALIGN_SANITIZE", "")
        build = Path(self.build_temp).resolve() / (sanitize.replace(",", "-") or "release")
        torch_flags = [
            f"-DTORCH_TARGET_VERSION=0x{TORCH_TARGET[0]:02x}{TORCH_TARGET[1]:02x}000000000000",
            f"-isystem{torch / 'include'}",
        ]
        python_flags = [f"-DPy_LIMITED_API={PYTHON_TARGET}", f"-I{sysconfig.get_path('include')}"]
        common = [*CXX_FLAGS]
        if sanitize:
            common += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g", "-O1"]
        levels = ISA_FLAGS if platform.machine() in ("x86_64", "AMD64") else {"isa_baseline": []}

        def steps(folder: Path, pattern: str, variants: dict[str, list[str]]) -> list[Step]:
            return [
                Step(
                    source,
                    build / name / f"{source.stem}.o",
                    [*cxx, *common, *flags, "-c", str(source)],
                )
                for source in sorted(folder.glob(pattern))
                for name, flags in variants.items()
            ]

        per_level = {name: [f"-DFASTALIGN_ISA={name}", *fl] for name, fl in levels.items()}
        host = steps(CSRC / "host", "*.cpp", {"common": torch_flags})
        on_cuda = [step for step in host if step.source.stem.startswith("cuda_")]
        first = [step for step in host if step not in on_cuda]
        for step in steps(CSRC / "cpu", "*.cpp", {"common": []}):
            if step.source.stem in PER_ISA:
                first += steps(CSRC / "cpu", step.source.name, per_level)
            else:
                first.append(step)
        objects = self.run_steps(first)

        # Last, what depends on whether the CUDA kernels could be compiled.
        cuda = self.cuda_objects(build)
        targets = " ".join(re.findall(r",code=(\w+)", shlex.join(cuda_targets()))) if cuda else ""
        info = f"{shlex.join(cxx)}; levels {', '.join(n.removeprefix('isa_') for n in levels)}; "
        info += f"CUDA {targets or 'no'}" + (f"; sanitizers {sanitize}" if sanitize else "")
        words = [f'-DFASTALIGN_BUILD_INFO="{info}"', f'-DFASTALIGN_CUDA_TARGETS="{targets}"']
        with_cuda = ["-DFASTALIGN_WITH_CUDA"] if cuda else []
        last = on_cuda if cuda else []
        last += steps(CSRC, "module.cpp", {"common": [*python_flags, *words]})
        last += steps(CSRC, "register.cpp", {"common": [*torch_flags, *with_cuda]})
        return objects + cuda + self.run_steps(last)

    def run_steps(self, steps: list[Step]) -> list[Path]:
        """Compiles what is out of date, several at a time, and returns the objects."""
        headers = [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")]
        newest = max(header.stat().st_mtime for header in headers)
        stale = [step for step in steps if self.force or step.stale(newest)]
        with ThreadPoolExecutor(jobs()) as pool:
            for _ in pool.map(lambda step: step.run(self.verbose > 1), stale):
                pass
        return [step.target for step in steps]

    def cuda_objects(self, build: Path) -> list[Path]:
        """Objects of csrc/cuda/*.cu; none, with one line, where they cannot be compiled."""
        wanted = switch("FASTALIGN_BUILD_CUDA")
        if wanted == "0":
            return []
        try:
            return self.run_steps(self.cuda_steps(build))
        except Unavailable as reason:
            if wanted == "1":
                raise SystemExit(f"error: CUDA kernels: {reason}") from reason
            print(f"fastalign: building without CUDA kernels: {reason}", file=sys.stderr)
            return []

    def cuda_steps(self, build: Path) -> list[Step]:
        """Compilations of csrc/cuda/*.cu."""
        sources = sorted(CSRC.glob("cuda/*.cu"))
        if not sources or sys.platform != "linux":
            return []
        nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
        if nvcc is None:
            raise Unavailable("nvcc was not found")
        # The sources know neither torch nor Python, so that no version of theirs matters to nvcc.
        flags = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall"]
        flags += ["-cudart=static", "--expt-relaxed-constexpr", *cuda_targets()]
        steps = []
        for source in sources:
            target = build / "cuda" / f"{source.stem}.o"
            command = [nvcc, *flags, "-c", str(source)]
            steps.append(Step(source, target, command))
        self.cuda_home = toolkit(nvcc)
        return steps

    def link(self, cxx: list[str], torch: Path, objects: list[Path], target: Path) -> None:
        """Links the library; torch is resolved from the libraries already in the process."""
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [*cxx, "-shared", *map(str, objects), "-o", str(target)]
        command += [f"-L{torch / 'lib'}", "-ltorch_cpu"]
        if sys.platform == "darwin":
            command += ["-undefined", "dynamic_lookup"]
        else:
            command += ["-Wl,--as-needed", "-Wl,-O1", "-lm"]
        if any(item.parent.name == "cuda" for item in objects):
            command += [f"-L{self.cuda_home / folder}" for folder in ("lib64", "lib")]
            command += [f"-L{folder}" for folder in self.cuda_home.glob("targets/*/lib")]
            command += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        sanitize = os.environ.get("FASTALIGN_SANITIZE", "")
        if sanitize:
            command.append(f"-fsanitize={sanitize}")
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise Unavailable(f"linking {target.name} failed{first_error(result.stderr)}")


def native() -> tuple[list[Extension], dict[str, type]]:
    """The native library and the build command it needs; nothing where it cannot be built.

    Decided before setup() so that a wheel without the library is tagged as pure Python, and only
    for commands that build: metadata is asked for before torch is there in an isolated build.
    """
    wanted = switch("FASTALIGN_BUILD_NATIVE")
    if wanted == "0":
        if in_place():
            remove_stale(LIBRARY)
        return [], {}
    if BUILD_COMMANDS.intersection(sys.argv):
        try:
            if sys.platform == "win32":
                raise Unavailable("they are not built on Windows")
            compiler()
            torch_root()
        except Unavailable as reason:
            if in_place():
                remove_stale(LIBRARY)
            give_up(reason)
            return [], {}
    sources = sorted(str(p.relative_to(ROOT)) for p in CSRC.rglob("*.c*") if p.suffix != ".cuh")
    headers = sorted(str(path.relative_to(ROOT)) for path in CSRC.rglob("*.*h"))
    extension = Extension("fastalign._C", sources, depends=headers, py_limited_api=True)
    return [extension], {"build_ext": BuildNative}


ext_modules, cmdclass = native()

setup(
    packages=packages(),
    package_dir={"fastalign.kernels": "kernels"},
    ext_modules=ext_modules,
    cmdclass=cmdclass,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ext_modules else {},
)
