"""What pyproject.toml cannot say: where the packages lie, and how the native code is built.

Switches, all environment variables:

FASTALIGN_BUILD_NATIVE  auto (default): build the native library where a C++20 compiler, Python's
                        and torch's headers are found and the compilation succeeds, else install
                        pure Python and say why in one line.
                        1: fail instead, with the compiler's output. 0: leave it out.
                        An editable installation never keeps the library of an earlier build: it
                        is replaced in one step, or removed where this build gives none.
FASTALIGN_BUILD_CUDA    auto (default): build the CUDA kernels (csrc/cuda/*.cu) where nvcc and a GPU
                        are found, for this GPU's architecture, or where TORCH_CUDA_ARCH_LIST asks
                        for some; else say why not in one line. 1: build them, for every
                        architecture unless that variable names some, and fail where that cannot be
                        done. 0: leave them out.
TORCH_CUDA_ARCH_LIST    GPU architectures as torch's own extensions take them, for example
                        "8.0;9.0+PTX"; every architecture is "8.0;9.0;10.0;12.0+PTX".
FASTALIGN_SANITIZE      for example "address,undefined": an instrumented build for the tests.
CXX, NVCC               compiler and CUDA compiler.
MAX_JOBS                parallel compilations (default: by cores and free memory).
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from native_build.cuda import (  # noqa: E402
    cuda_architectures,
    cuda_targets,
    nvcc,
    toolkit,
    without_cuda,
)
from native_build.graph import Graph  # noqa: E402
from native_build.machine import Unavailable, compiler, switch, torch_root  # noqa: E402

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
# One real architecture of each generation, and code that later ones can compile at load.
CUDA_ARCHS = "8.0;9.0;10.0;12.0+PTX"

BUILD_COMMANDS = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}

# What an editable installation puts on Python's path: a folder with a link to the package, and in
# the package one to the kernels. Type checkers and editors follow links and not setuptools' finder.
EDITABLE = ROOT / ".editable"
LINKS = {
    EDITABLE / "fastalign": ROOT / "fastalign",
    ROOT / "fastalign" / "kernels": ROOT / "kernels",
}


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
    own = find_packages(
        include=["fastalign", "fastalign.*"], exclude=["fastalign.kernels", "fastalign.kernels.*"]
    )
    return own + kernels


def link(place: Path, target: Path) -> None:
    """Make ``place`` lead to the folder ``target``.

    Raises:
        OSError: this system or file system does not allow it.
    """
    if place.exists() and place.resolve() == target:
        return
    if place.is_symlink():
        place.unlink()
    place.parent.mkdir(exist_ok=True)
    if sys.platform == "win32":
        # A junction, which needs no rights; it holds the whole path.
        import _winapi

        _winapi.CreateJunction(str(target), str(place))
    else:
        place.symlink_to(os.path.relpath(target, place.parent), target_is_directory=True)


def package_dir() -> dict[str, str]:
    """Where the packages lie. For an editable installation: behind links, where they can be made,
    so that one folder on the path says it all; else setuptools makes a finder."""
    if "editable_wheel" in sys.argv:
        try:
            for place, target in LINKS.items():
                link(place, target)
            return {"": EDITABLE.name}
        except OSError as error:
            print(
                f"fastalign: editors will not find this installation ({error})",
                file=sys.stderr,
                flush=True,
            )
    return {"fastalign.kernels": "kernels"}


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
        # In place the objects stay, so that the next build makes only what has changed; the folder
        # of an editable installation's build is a new one each time.
        build = ROOT / "build" / "native" if in_place() else Path(self.build_temp).resolve()
        sanitize = os.environ.get("FASTALIGN_SANITIZE", "")
        folder = build / (sanitize.replace(",", "-") or "release")
        if self.force:
            shutil.rmtree(folder, ignore_errors=True)
        graph = Graph(folder, ROOT)
        library = self.plan(graph, sanitize)
        self.bring(graph, [library])
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, target)

    def bring(self, graph: Graph, targets: Iterable[Path]) -> None:
        loud = switch("FASTALIGN_BUILD_NATIVE") == "1"
        graph.bring(targets, verbose=self.verbose > 1, loud=loud)

    def plan(self, graph: Graph, sanitize: str) -> Path:
        """All steps up to the library, which it returns; CUDA's kernels are compiled by then, since
        the other steps depend on whether they could be."""
        cxx, torch = compiler(CXX_FLAGS), torch_root(TORCH_TARGET)
        common = [*cxx, *CXX_FLAGS]
        if sanitize:
            common += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g", "-O1"]
        torch_flags = [
            f"-DTORCH_TARGET_VERSION=0x{TORCH_TARGET[0]:02x}{TORCH_TARGET[1]:02x}000000000000",
            f"-isystem{torch / 'include'}",
        ]
        python_flags = [f"-DPy_LIMITED_API={PYTHON_TARGET}", f"-I{sysconfig.get_path('include')}"]
        levels = ISA_FLAGS if platform.machine() in ("x86_64", "AMD64") else {"isa_baseline": []}
        objects = []
        for source in sorted(CSRC.glob("cpu/*.cpp")):
            # Kernels are compiled once for each instruction set, whose name they ask for.
            if "FASTALIGN_ISA" in source.read_text(encoding="utf-8"):
                for name, flags in levels.items():
                    command = [*common, f"-DFASTALIGN_ISA={name}", *flags]
                    objects.append(graph.compile(source, name, command))
            else:
                objects.append(graph.compile(source, "common", common))
        host = sorted(CSRC.glob("host/*.cpp"))
        on_cuda = [source for source in host if source.stem.startswith("cuda_")]
        objects += [
            graph.compile(source, "common", [*common, *torch_flags])
            for source in host
            if source not in on_cuda
        ]
        architectures = cuda_architectures(CUDA_ARCHS)
        cuda: list[Path] = []
        if architectures:
            # What every build needs comes first: it takes less time to find out that it fails.
            self.bring(graph, objects)
            cuda = self.cuda_objects(graph, architectures)
        codes = cuda_targets(architectures) if cuda else []
        targets = " ".join(re.findall(r",code=(\w+)", " ".join(codes)))
        info = f"{shlex.join(cxx)}; levels {', '.join(n.removeprefix('isa_') for n in levels)}; "
        info += f"CUDA {targets or 'no'}" + (f"; sanitizers {sanitize}" if sanitize else "")
        words = [f'-DFASTALIGN_BUILD_INFO="{info}"', f'-DFASTALIGN_CUDA_TARGETS="{targets}"']
        with_cuda = ["-DFASTALIGN_WITH_CUDA"] if cuda else []
        objects += cuda
        for source in on_cuda if cuda else ():
            objects.append(graph.compile(source, "common", [*common, *torch_flags]))
        for name, flags in (
            ("module.cpp", [*python_flags, *words]),
            ("register.cpp", [*torch_flags, *with_cuda]),
            ("direct.cpp", [*python_flags, *torch_flags, *with_cuda]),
        ):
            objects.append(graph.compile(CSRC / name, "common", [*common, *flags]))
        libraries = self.linked(torch, bool(cuda), sanitize)
        return graph.link(graph.folder / LIBRARY.name, [*cxx, "-shared"], objects, libraries)

    def cuda_objects(self, graph: Graph, architectures: str) -> list[Path]:
        """Objects of csrc/cuda/*.cu, compiled; none, with one line, where they cannot be."""
        try:
            tool = nvcc()
            # The sources know neither torch nor Python: no version of theirs matters to nvcc.
            command = [tool, "-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall"]
            command += ["-cudart=static", "--expt-relaxed-constexpr", *cuda_targets(architectures)]
            objects = [
                graph.compile(source, "cuda", command) for source in sorted(CSRC.glob("cuda/*.cu"))
            ]
            self.bring(graph, objects)
            self.cuda_home = toolkit(tool)
            return objects
        except Unavailable as reason:
            without_cuda(str(reason))
            return []

    def linked(self, torch: Path, cuda: bool, sanitize: str) -> list[str]:
        """What is linked in; torch is resolved from the libraries already in the process."""
        libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu"]
        if sys.platform == "darwin":
            libraries += ["-undefined", "dynamic_lookup"]
        else:
            libraries += ["-Wl,--as-needed", "-Wl,-O1", "-lm"]
        if cuda:
            libraries += [f"-L{self.cuda_home / folder}" for folder in ("lib64", "lib")]
            libraries += [f"-L{folder}" for folder in self.cuda_home.glob("targets/*/lib")]
            libraries += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        if sanitize:
            libraries.append(f"-fsanitize={sanitize}")
        return libraries


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
            compiler(CXX_FLAGS)
            torch_root(TORCH_TARGET)
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
    package_dir=package_dir(),
    ext_modules=ext_modules,
    cmdclass=cmdclass,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ext_modules else {},
)
