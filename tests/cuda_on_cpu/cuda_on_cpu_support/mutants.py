"""Kernels broken on purpose: a checker that catches nothing proves nothing.

A mutant is one substitution in a copy of the kernel sources. It is caught when some case, shape or
schedule gives an error of the harness or a wrong result.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from op_support.cases import Inputs

from cuda_on_cpu_support.backend import BACKEND, DTYPES, serve
from cuda_on_cpu_support.builder import (
    BUILD,
    CSRC,
    IN_ORDER,
    RANDOM,
    REVERSE,
    UNOPTIMISED,
    Device,
    Library,
    library,
    op_sources,
)
from cuda_on_cpu_support.checks import ALL_CASES, check_case
from cuda_on_cpu_support.kernels import Kernels

# Sizes that leave lanes, rows and tiles partly filled, one that vectors fill, and many tiles, which
# a block takes in turn.
SHAPES = ((3, 16, 3, 8), (5, 7, 3, 13), (9, 3, 4, 18), (1, 192, 1, 2), (13, 8, 18, 6))
ONE_PROCESSOR = Device(1, 99 * 1024)
LAYOUTS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Mutant:
    """One substitution.

    Args:
        op: the op whose tests must catch it.
        kind: what goes wrong.
        file: in csrc/cuda.
        old: a regular expression.
        new: what takes its place.
        nth: which of the matches, from 0.
    """

    op: str
    kind: str
    file: str
    old: str
    new: str
    nth: int = 0

    def __str__(self) -> str:
        return f"{self.op}: {self.kind} ({self.file}, {self.nth})"

    def source(self) -> Path:
        """A copy of csrc with the substitution.

        Raises:
            LookupError: the pattern does not occur as often as needed: the kernel has changed.
        """
        text = (CSRC / "cuda" / self.file).read_text()
        found = list(re.finditer(self.old, text))
        if len(found) <= self.nth:
            raise LookupError(f"{self.file} has no match {self.nth} of {self.old!r}")
        match = found[self.nth]
        changed = text[: match.start()] + match.expand(self.new) + text[match.end() :]
        name = hashlib.sha256(f"{self.file}\0{changed}".encode()).hexdigest()[:16]
        copy = BUILD / "mutants" / name / "csrc"
        shutil.rmtree(copy.parent, ignore_errors=True)
        for folder in ("common", "cuda"):
            shutil.copytree(CSRC / folder, copy / folder)
        (copy / "cpu").mkdir()
        shutil.copy(CSRC / "cpu" / "view.h", copy / "cpu")
        (copy / "cuda" / self.file).write_text(changed)
        return copy

    def build(self) -> Kernels:
        copy = self.source()
        try:
            path = library(op_sources(self.op, copy), UNOPTIMISED, copy)
        finally:
            shutil.rmtree(copy.parent)
        return Kernels({self.op: Library(path)})


def caught(op: str, kernels: Kernels) -> str | None:
    """What the checks say of these kernels of ``op``, or None if they find nothing."""
    serve(kernels)
    cases = [case for case in ALL_CASES if case.op.startswith(op)]
    schedules = (IN_ORDER, REVERSE, RANDOM[0], RANDOM[1])
    kernels.library(op).device(ONE_PROCESSOR)
    for step, (shape, layout) in enumerate(itertools.product(SHAPES, LAYOUTS)):
        for turn, case in enumerate(cases):
            kernels.library(op).schedule(schedules[(step + turn) % 4])
            dtype = DTYPES[(turn + step // 2) % 3]
            try:
                with torch.random.fork_rng():
                    check_case(case, BACKEND, Inputs(dtype, "cpu", layout, shape))
            except AssertionError as error:
                return f"{case}, {dtype}, {layout}, {shape}: {error}"
    return None
