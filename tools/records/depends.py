"""What the checks share: the ops, what a run of one depends on, and releases of tools."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

from records.inputs import REPOSITORY, imported, included
from records.store import Unavailable

TOOLS, TESTS = REPOSITORY / "tools" / "cuda_compile", REPOSITORY / "tests"
ON_CPU = TESTS / "cuda_on_cpu"
SUPPORT = ON_CPU / "cuda_on_cpu_support"
_SOURCES = REPOSITORY / "csrc" / "cuda"

for _folder in ("cuda_on_cpu", "ops", "native", "triton"):
    if (_path := str(TESTS / _folder)) not in sys.path:
        sys.path.insert(0, _path)


def stems() -> list[str]:
    from fastalign.ops.schema import STEMS

    return list(STEMS)


def release(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        raise Unavailable(f"the package {package} is not installed")
    return importlib.metadata.version(package)


def host_compiler() -> str:
    from cuda_on_cpu_support.builder import compiler

    if compiler() is None:
        raise Unavailable("no C++ compiler; set CXX")
    said = subprocess.run([str(compiler()), "-dumpfullversion"], capture_output=True, text=True)
    return f"{Path(str(compiler())).name} {said.stdout.strip()}"


def kernels_of(stem: str) -> set[Path]:
    """The CUDA sources of an op with all that they include."""
    return included(_SOURCES.glob(f"{stem}*.cu"))


def on_cpu(stem: str, *modules: Path) -> set[Path]:
    """What a run of an op's launchers on the CPU depends on."""
    harness = [path for path in (ON_CPU / "harness").iterdir() if path.is_file()]
    cases = [TESTS / "ops" / "op_support" / f"{stem}.py"]
    code = imported([*modules, *(path for path in cases if path.exists())])
    return {*kernels_of(stem), *harness, *code}
