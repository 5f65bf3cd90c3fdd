"""Kernels broken on purpose: a checker that catches nothing proves nothing.

A mutant is one substitution in a copy of the kernel sources. It is caught when some case, shape or
schedule gives an error of the harness or a wrong result.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from op_support.cases import Case, Inputs

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
    Schedule,
    library,
    op_sources,
)
from cuda_on_cpu_support.checks import ALL_CASES, check_case
from cuda_on_cpu_support.kernels import Kernels

# Sizes that leave lanes, rows and tiles partly filled, and one that vectors fill.
_SHAPES = ((3, 16, 3, 8), (5, 7, 3, 13), (9, 3, 4, 18), (1, 192, 1, 2))
_LAYOUTS = ("contiguous", "channels_last")
_MANY_TILES = tuple(((13, 8, 18, 6), layout) for layout in _LAYOUTS)  # which a block takes in turn
# More images than a block of mahalanobis holds at once, of a layout in which it reads x in another
# order than it writes dx; tiles with enough channels for several lanes.
_MORE = {
    "mahalanobis": (*_MANY_TILES, ((5, 520, 2, 4), "sliced_channels_last")),
    "warp_affine": tuple(((13, 16, 18, 6), layout) for layout in _LAYOUTS),
}
# The kernels as they are, in place of a mutant.
UNCHANGED = "unchanged"
ONE_PROCESSOR = Device(1, 99 * 1024)


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

    @property
    def words(self) -> str:
        """What is done where, in one line that no other mutant has."""
        return f"{self.file}, {self.nth}: {self.old} -> {self.new}"

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
        for header in ("kernels.h", "view.h"):
            shutil.copy(CSRC / "cpu" / header, copy / "cpu")
        (copy / "cuda" / self.file).write_text(changed)
        return copy

    def build(self) -> Kernels:
        copy = self.source()
        try:
            path = library(op_sources(self.op, copy), UNOPTIMISED, copy)
        finally:
            shutil.rmtree(copy.parent)
        return Kernels({self.op: Library(path)})


def _checks(op: str) -> Iterator[tuple[Case, Inputs, Schedule]]:
    """What a mutant must not pass: each input with every case of the op, dtypes and schedules in
    turn. Tiles in turn are a matter of the schedule, so that warps meet them in all."""
    schedules = (IN_ORDER, REVERSE, RANDOM[0], RANDOM[1])
    cases = [case for case in ALL_CASES if case.op.startswith(op)]
    inputs = (*itertools.product(_SHAPES, _LAYOUTS), *_MORE.get(op, _MANY_TILES))
    for step, (shape, layout) in enumerate(inputs):
        tiles = op == "warp_affine" and (shape, layout) in _MORE[op]
        for turn, case in enumerate(cases):
            if tiles and "same size" not in case.options:
                continue
            dtype = DTYPES[(turn + step // 2) % 3]
            for schedule in schedules if tiles else (schedules[(step + turn) % 4],):
                yield case, Inputs(dtype, "cpu", layout, shape), schedule


def caught(op: str, kernels: Kernels) -> str | None:
    """Where the checks find something in these kernels of ``op``, or None if nowhere."""
    serve(kernels)
    kernels.library(op).device(ONE_PROCESSOR)
    for case, inputs, schedule in _checks(op):
        kernels.library(op).schedule(schedule)
        try:
            with torch.random.fork_rng():
                check_case(case, BACKEND, inputs)
        except AssertionError as error:
            where = f"{case}, {inputs.dtype}, {inputs.layout}, {inputs.shape}, {schedule}"
            return f"{where}: {type(error).__name__}"
    return None
