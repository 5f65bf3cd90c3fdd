"""Whether the Triton kernels compile with the oldest Triton that the project runs with."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from records.depends import TESTS, TOOLS, stems
from records.inputs import REPOSITORY, imported
from records.oldest_triton import ARITHMETIC
from records.store import Check, Unavailable

# That of torch 2.11, the oldest torch of pyproject.toml.
OLDEST = "3.6.0"
_FOLDER = REPOSITORY / "build" / "oldest" / f"triton-{OLDEST}"
_PROGRAM = Path(__file__).resolve().with_name("oldest_triton.py")


@functools.cache
def _release() -> str:
    """Installed once into a folder of its own, beside the environment's."""
    if not (_FOLDER / "triton").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        command += ["--target", str(_FOLDER), f"triton=={OLDEST}"]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise Unavailable(f"pip cannot install triton {OLDEST}: {ran.stderr.strip()[-300:]}")
    (found,) = importlib.metadata.distributions(name="triton", path=[str(_FOLDER)])
    return str(found.version)


def _compiled(unit: str) -> list[object]:
    _release()
    path = [str(_FOLDER), str(_PROGRAM.parents[1]), str(TESTS / "triton"), str(TESTS / "ops")]
    path.append(os.environ.get("PYTHONPATH", ""))
    ran = subprocess.run(
        [sys.executable, str(_PROGRAM), unit],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
    )
    if ran.returncode:
        raise RuntimeError(f"{unit} does not compile with triton {OLDEST}:\n{ran.stderr[-3000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def _inputs(unit: str) -> set[Path]:
    if unit == ARITHMETIC:
        sources = [REPOSITORY / "tools" / "gpucheck" / "arithmetic_triton.py"]
    else:
        sources = [REPOSITORY / "kernels" / f"{unit}.py", TOOLS / "stems" / f"{unit}.py"]
    return imported([*sources, _PROGRAM]) | {Path(__file__).resolve()}


OLDEST_TRITON = Check(
    "oldest_triton",
    units=lambda: [*stems(), ARITHMETIC],
    inputs=_inputs,
    find=_compiled,
    made_with=lambda: {"triton": _release()},
)
