"""The files that a finding depends on, found by following includes and imports, and their digests.

A digest is the same on every machine: it knows neither paths nor line endings, and of C++ no
comments.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Where modules lie that are imported by a name of their own, and those of a package.
_ROOTS = (
    "tools",
    *(f"tests/{folder}" for folder in ("cuda_compile", "cuda_on_cpu", "native", "ops", "triton")),
)
_PACKAGES = {"fastalign.kernels": "kernels"}
_C = {".c", ".cpp", ".cu", ".cuh", ".h"}
_COMMENT_OR_STRING = re.compile(
    r'(?P<kept>"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|//[^\n]*|/\*.*?\*/', re.S
)


def without_comments(text: str) -> str:
    """C++ as a compiler reads it, but for white space within lines."""
    text = _COMMENT_OR_STRING.sub(lambda found: found["kept"] or " ", text)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def digest(path: Path) -> str:
    """Of a file's content, 16 hexadecimal digits."""
    data = path.read_bytes().replace(b"\r\n", b"\n")
    if path.suffix in _C:
        data = without_comments(data.decode("utf-8")).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def included(sources: Iterable[Path]) -> set[Path]:
    """C++ sources and everything of the repository that they include."""
    found: set[Path] = set()
    left = [Path(source).resolve() for source in sources]
    while left:
        path = left.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        names = re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(encoding="utf-8"), re.M)
        left += [(path.parent / name).resolve() for name in names]
    return found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of(module: str, root: Path) -> Iterator[Path]:
    """The file of a module, and of the packages that it lies in."""
    places = []
    for package, folder in _PACKAGES.items():
        if module == package or module.startswith(f"{package}."):
            places.append((root / folder, module[len(package) :].strip(".").split(".")))
    if not places and module.partition(".")[0] != "fastalign":
        places = [(root / folder, module.split(".")) for folder in _ROOTS]
    for folder, parts in places:
        here = folder
        for part in filter(None, parts):
            yield here / "__init__.py"
            here = here / part
        yield here / "__init__.py"
        yield here.with_suffix(".py")


def imported(modules: Iterable[Path], root: Path = REPOSITORY) -> set[Path]:
    """Python files and everything that they import of the tools, the tests and the Triton kernels.

    The rest of the library is not followed: its own tests watch over what it does. What a Triton
    kernel itself imports of it is an input, since launches depend on it.
    """
    found: set[Path] = set()
    left = [Path(module).resolve() for module in modules]
    while left:
        path = left.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        if path.is_relative_to(root / "fastalign"):
            continue
        for module in _imports(path):
            left += _files_of(module, root)
            if path.is_relative_to(root / "kernels"):
                left.append((root / Path(*module.split("."))).with_suffix(".py"))
    return found


@cache
def _known(path: Path, changed: int, size: int) -> str:
    return digest(path)


def digests(paths: Iterable[Path], root: Path = REPOSITORY) -> dict[str, str]:
    """By path below the repository."""
    found = {}
    for path in paths:
        stat = path.stat()
        name = path.resolve().relative_to(root).as_posix()
        found[name] = _known(path, stat.st_mtime_ns, stat.st_size)
    return dict(sorted(found.items()))
