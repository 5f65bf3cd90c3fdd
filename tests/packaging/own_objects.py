"""A C++ compiler for builds of copies of the checkout: what the checkout's own build has compiled
with the same call from the same files is taken from there, and the rest is compiled quickly.

As a program in a compiler's place: ``own_objects.py TABLE COMPILER ARGUMENT...``.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path


def _call(arguments: list[str], root: str) -> list[str] | None:
    """What a compilation says before it names its products, wherever the sources lie."""
    if "-MD" not in arguments:
        return None
    return [word.replace(f"{root}/csrc/", "csrc/") for word in arguments[: arguments.index("-MD")]]


def known(root: Path, build: Path, compiler: str) -> list[dict]:
    """What ``compiler`` has made of the sources of ``root`` in ninja's folder ``build``: objects,
    their calls and the files that they were made from; nothing unless all is up to date."""

    def ninja(*arguments: str) -> str:
        command = [sys.executable, "-m", "ninja", *arguments]
        return subprocess.run(command, cwd=build, capture_output=True, text=True).stdout

    if not (build / "build.ninja").is_file() or "no work to do" not in ninja("-n"):
        return []
    read: dict[str, list[Path]] = {}
    name = ""
    for line in ninja("-t", "deps").splitlines():
        if line.startswith(" "):
            read[name].append(Path(line.strip()))
        elif line:
            name = line.partition(": #deps")[0]
            read[name] = []
    found = []
    for step in json.loads(ninja("-t", "compdb", "compile")):
        words, own = shlex.split(step["command"]), shlex.split(compiler)
        if words[: len(own)] == own and step["output"] in read:
            files = [path for path in read[step["output"]] if path.is_relative_to(root / "csrc")]
            found.append(
                {
                    "object": str(build / step["output"]),
                    "call": _call(words[len(own) :], str(root)),
                    "files": {str(path.relative_to(root)): str(path) for path in files},
                }
            )
    return found


def install(folder: Path, root: Path, build: Path, compiler: str) -> Path:
    """The compiler as a script in ``folder``."""
    table, script = folder / "objects.json", folder / "c++"
    table.write_text(json.dumps(known(root, build, compiler)))
    words = [sys.executable, "-IS", __file__, str(table), compiler]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    return script


def _made_of(step: dict, root: Path) -> bool:
    """Whether the files of ``root`` are those that the object was made of."""
    return all(
        (root / name).is_file() and (root / name).read_bytes() == Path(other).read_bytes()
        for name, other in step["files"].items()
    )


def main(table: str, compiler: str, *arguments: str) -> None:
    words = list(arguments)
    root = next((word.partition("/csrc/")[0] for word in words if "/csrc/" in word), "")
    call = _call(words, root)
    for step in json.loads(Path(table).read_text()) if call else ():
        if step["call"] == call and _made_of(step, Path(root)):
            shutil.copyfile(step["object"], words[words.index("-o") + 1])
            files = (str(Path(root, name)).replace(" ", "\\ ") for name in step["files"])
            Path(words[words.index("-MF") + 1]).write_text(f"object: {' '.join(files)}\n")
            return
    own = shlex.split(compiler)
    os.execvp(own[0], [*own, *words, "-O0"])


if __name__ == "__main__":
    main(*sys.argv[1:])
