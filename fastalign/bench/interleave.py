"""Turns of two versions of the library: three child processes, one of which measures at a time.

The children run this harness with the ``fastalign`` of another tree below it, so that both versions
are measured by the same code. A child reads one command a line and answers with one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastalign.bench import compare
from fastalign.bench.setting import git, repository
from fastalign.errors import BackendError, ConfigError
from fastalign.load import wait_passively

HERE = Path(__file__).resolve().parent
ROUNDS = 25
_NATIVE = ("csrc", "setup.py", "tools/native_build")
# Only the library is another one: bench is loaded from here over whatever that tree has.
_CHILD = """
import importlib.util, sys
import fastalign
spec = importlib.util.spec_from_file_location(
    "fastalign.bench", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["fastalign.bench"] = fastalign.bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fastalign.bench)
from fastalign.bench import worker
worker.serve(sys.argv[2], int(sys.argv[3]))
"""


class Child:
    """A worker on the ``fastalign`` below ``tree``."""

    def __init__(self, tree: Path, device: str, threads: int) -> None:
        command = [sys.executable, "-c", _CHILD, str(HERE), device, str(threads)]
        paths = [str(tree), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        wait_passively(environment)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=tree
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            BackendError: the process ended.
        """
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise BackendError(f"a process of the comparison ended with code {code}; see above.")
        return dict(json.loads(line))

    def time(self, contestant: str) -> float:
        """Milliseconds of a call of a contestant of the case that was prepared."""
        return float(self.ask(time=contestant)["ms"])

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def tree_of(commit: str, note: Callable[[str], None] = print) -> Iterator[Path]:
    """A temporary checkout of ``commit`` that can be imported, its native library included.

    Raises:
        ConfigError: no such commit, or this installation is no checkout.
        BackendError: it does not build.
    """
    root = repository()
    if root is None:
        raise ConfigError(
            f"--baseline {commit}: this installation is no git checkout; give a FILE."
        )
    try:
        full = git(root, "rev-parse", "--verify", f"{commit}^{{commit}}")
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"--baseline {commit}: neither a file nor a commit here.") from error
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "baseline"
        git(root, "worktree", "add", "--detach", str(tree), full)
        try:
            _native(root, tree, full, note)
            yield tree
        finally:
            git(root, "worktree", "remove", "--force", str(tree))


def _native(root: Path, tree: Path, commit: str, note: Callable[[str], None]) -> None:
    """Our library where its sources are the same, else a build of theirs."""
    changed = git(root, "diff", "--name-only", commit, "--", *_NATIVE)
    if not changed:
        for library in (root / "fastalign").glob("_C*"):
            shutil.copy2(library, tree / "fastalign" / library.name)
        return
    note(f"building the native library of {commit[:12]}, whose sources differ from ours")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        raise BackendError(f"--baseline {commit}: it does not build ({last[0][:200]}).")


def turns(
    children: dict[str, Callable[[str], float]], names: Sequence[str], rounds: int = ROUNDS
) -> dict[str, dict[str, list[float]]]:
    """Times by contestant and child, each round in another order."""
    times: dict[str, dict[str, list[float]]] = {n: {c: [] for c in children} for n in names}
    shuffle = random.Random(0).shuffle
    order = list(children)
    for _ in range(rounds):
        for name in names:
            shuffle(order)
            for child in order:
                times[name][child].append(children[child](name))
    return times


def compare_trees(
    ours: Path,
    baseline: Path,
    cases: Sequence[str],
    device: str,
    threads: int,
    note: Callable[[str], None],
    rounds: int = ROUNDS,
) -> tuple[list[compare.Difference], list[str]]:
    """The differences by case and backend, and what could not be compared and why."""
    trees = {"ours": ours, "baseline": baseline, "control": ours}
    children = {name: Child(tree, device, threads) for name, tree in trees.items()}
    found: list[compare.Difference] = []
    left_out: list[str] = []
    try:
        for case in cases:
            answers = {name: child.ask(prepare=case) for name, child in children.items()}
            names = [n for n in answers["ours"]["ready"] if n in answers["baseline"]["ready"]]
            for who, answer in answers.items():
                left_out += [f"{case}: {who}: {line}" for line in answer["failed"]]
            taken = turns({n: child.time for n, child in children.items()}, names, rounds)
            for name, times in taken.items():
                difference = compare.paired(case, name, **times)
                found.append(difference)
                note(f"{case}, {name}: {difference.ratio:.3f}x, {difference.verdict}")
    finally:
        for child in children.values():
            child.close()
    return found, left_out
