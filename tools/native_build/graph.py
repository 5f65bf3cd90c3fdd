"""The compilations as a graph that ninja brings up to date: an object is made again when its
command, its source or a header that it included has changed, and at no other time."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from native_build.machine import Unavailable, first_error, jobs

_RULES = """\
ninja_required_version = 1.5
builddir = {folder}
rule compile
  command = $call -MD -MF $out.d -o $out
  description = $shown
  depfile = $out.d
  deps = gcc
rule link
  command = $call $in -o $out $last
  description = $shown
"""


@dataclass(frozen=True)
class Step:
    """One call of a compiler or linker.

    Attributes:
        target: what it makes.
        command: the call without ``-o``, and for a linker without its inputs.
        inputs: what it reads.
        shown: in words.
        rule: ``compile`` or ``link``.
        last: what a linker's call ends with.
    """

    target: Path
    command: Sequence[str]
    inputs: Sequence[Path]
    shown: str
    rule: str = "compile"
    last: Sequence[str] = ()


class Graph:
    """Steps whose products lie below ``folder``."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self._root = root
        self._steps: dict[Path, Step] = {}

    @property
    def file(self) -> Path:
        return self.folder / "build.ninja"

    def compile(self, source: Path, variant: str, command: Sequence[str]) -> Path:
        """The object of ``source`` in one variant, such as an instruction set."""
        target = self.folder / variant / f"{source.stem}.o"
        name = source.relative_to(self._root).as_posix()
        shown = name if variant in ("common", "cuda") else f"{name} ({variant})"
        self._add(Step(target, [*command, "-c", str(source)], [source], shown))
        return target

    def link(
        self,
        target: Path,
        command: Sequence[str],
        objects: Sequence[Path],
        libraries: Sequence[str],
    ) -> Path:
        """The library of objects, and of ``libraries`` in the linker's words."""
        shown = f"linking {target.name}"
        self._add(Step(target, command, objects, shown, "link", libraries))
        return target

    def _add(self, step: Step) -> None:
        self._steps[step.target] = step

    def write(self) -> None:
        """The graph as ninja's file."""
        lines = [_RULES.format(folder=_path(self.folder))]
        for step in self._steps.values():
            inputs = " ".join(map(_path, step.inputs))
            lines += [
                f"build {_path(step.target)}: {step.rule} {inputs}",
                f"  call = {_value(shlex.join(step.command))}",
                f"  shown = {_value(step.shown)}",
                f"  last = {_value(shlex.join(step.last))}",
            ]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def bring(self, targets: Iterable[Path], verbose: bool = False, loud: bool = False) -> None:
        """Bring targets up to date, a line for each step.

        Args:
            targets: of the steps.
            verbose: the whole commands.
            loud: what the compiler says is shown where it fails too.

        Raises:
            Unavailable: a step failed, or there is no ninja.
        """
        self.write()
        call = [*_ninja(), "-C", str(self.folder), "-f", self.file.name, f"-j{jobs()}"]
        call += ["-v"] * verbose + [str(target) for target in targets]
        said: list[str] = []
        with subprocess.Popen(
            call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("["):
                    print(line.rstrip(), flush=True)
                elif not line.startswith("ninja: "):
                    said.append(line)
        if process.returncode == 0 or loud:
            sys.stderr.write("".join(said))
        if process.returncode != 0:
            raise Unavailable(self._why(said))

    def _why(self, said: list[str]) -> str:
        """The first failed step, in one line."""
        for number, line in enumerate(said):
            if line.startswith("FAILED: "):
                step = next((s for t, s in self._steps.items() if str(t) in line), None)
                # The next line is the command itself.
                error = first_error("".join(said[number + 2 :]))
                if step is None:
                    return f"the build failed{error}"
                if step.rule == "link":
                    return f"{step.shown} failed{error}"
                return f"{step.shown.partition(' ')[0]} failed to compile{error}"
        return f"ninja failed{first_error(''.join(said))}"


def _ninja() -> list[str]:
    """ninja of the package of that name, else the system's."""
    if importlib.util.find_spec("ninja") is not None:
        return [sys.executable, "-m", "ninja"]
    found = shutil.which("ninja")
    if found is None:
        raise Unavailable("ninja was not found (pip install ninja)")
    return [found]


def _path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _value(text: str) -> str:
    return text.replace("$", "$$")
