"""A copy of the project in which mutants are tried, one after the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutation.coverage_map import CoverageMap
from mutation.python_source import Mutant

# A mutant that makes its tests so much slower goes round in circles.
_SLOWEST = 6
_START = 60


class Workshop:
    """Copies what git tracks, and the native library, to a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastalign-mutants-"))
        self.copy = self.folder / "project"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            source = root / name
            if source.is_file() and not source.is_symlink():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, self.copy / name)
        for library in (root / "fastalign").glob("*.so"):
            shutil.copy2(library, self.copy / "fastalign")
        # The package finds its Triton kernels there; an installation puts them there too.
        (self.copy / "fastalign" / "kernels").symlink_to("../kernels")
        # The tests look at what git tracks.
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=self.copy, check=True)
        self.environment = os.environ | {
            "PYTHONPATH": str(self.copy),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def source(self, file: str) -> str:
        return (self.copy / file).read_text(encoding="utf-8")

    def build(self) -> bool:
        """Compiles the native library; false where the compiler refuses a mutant."""
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        environment = self.environment | {
            "FASTALIGN_BUILD_NATIVE": "1",
            "FASTALIGN_BUILD_CUDA": "0",
        }
        done = subprocess.run(command, cwd=self.copy, env=environment, capture_output=True)
        return done.returncode == 0

    def run(self, tests: list[str], seconds: float, stop_at_first: bool) -> tuple[str, list[str]]:
        """The outcome, ``passed``, ``failed`` or ``time``, and the tests that failed."""
        names = self.folder / "tests.txt"
        names.write_text("\n".join(tests))
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=no", "-rfE"]
        command += ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider"]
        command += ["-x"] * stop_at_first + [f"@{names}"]
        try:
            done = subprocess.run(
                command,
                cwd=self.copy,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=_START + _SLOWEST * seconds,
            )
        except subprocess.TimeoutExpired:
            return "time", []
        failed = [
            line.split(" ", 1)[1].split(" - ")[0]
            for line in done.stdout.splitlines()
            if line.startswith(("FAILED ", "ERROR "))
        ]
        return ("passed" if done.returncode == 0 else "failed"), failed

    def attempt(
        self, mutant: Mutant, tests: list[str], coverage: CoverageMap, stop_at_first: bool
    ) -> tuple[str, list[str]]:
        """As :meth:`run`, with the mutant in place; ``refused`` where it does not compile."""
        path = self.copy / mutant.file
        original = path.read_text(encoding="utf-8")
        native = mutant.file.startswith("csrc/")
        path.write_text(mutant.apply(original), encoding="utf-8")
        try:
            if native and not self.build():
                return "refused", []
            seconds = sum(coverage.seconds.get(test, 1.0) for test in tests)
            return self.run(tests, seconds, stop_at_first)
        finally:
            path.write_text(original, encoding="utf-8")
            if native and not self.build():
                raise RuntimeError("the unchanged sources do not compile")
