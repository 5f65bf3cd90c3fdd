"""A model of the machine: how long a kernel takes, by what it issues, moves and waits for.

Made to choose between designs where no GPU is at hand, and held against what was measured
(``python tools/machine_model.py``). Four of its numbers were fitted, to the counters of one H200.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cuda_compile.chips import CHIPS, Chip, occupancy

# Of the issue slots, what kernels with warps enough use: 71 to 76 % measured where instructions are
# the limit, with the last wave, the first loads and memory to be waited for beside. Fitted.
MOST_ISSUED = 0.85
# Cycles from one instruction of a warp to the next that need not wait for memory; fewer warps than
# this many for a scheduler leave slots empty. Fitted.
CYCLES_PER_ISSUE = 3.6
# Lines of the first-level cache that a load of a warp meets, one each cycle. Fitted: with it the
# warps by single taps come out, 36 to 40 % of whose issue slots were used while none of the caches
# was full.
LINES_PER_CYCLE = 1.0
# Limits meet: the square root of the sum of squares. A block alone on its multiprocessor overlaps
# nothing: the sum. Fitted.
NORM = 2.0
# A launch inside a graph, and its first loads: one node takes 1.0 us, an empty sweep 2.8.
LAUNCH_US = 2.0
SCHEDULERS = 4
BANK_ROUNDS_PER_CYCLE = 1.0  # 128 bytes


@dataclass(frozen=True)
class Machine:
    """A chip and its clocks."""

    chip: Chip
    clock_ghz: float
    copy_gbs: float  # read and written, of a large copy
    l2_gbs: float


# The chip's data sheet has the multiprocessors; the highest clock and the bandwidth of a copy are
# those that nvidia-h200.json recorded. L2: 64 bytes a multiprocessor and cycle, half of it met in
# published probes of an H100 (5.5 to 7 TB/s).
_H100 = next(chip for chip in CHIPS if chip.name == "H100")
H200 = Machine(_H100, 1.98, 4250.0, 6000.0)
# 3.35 TB/s by the data sheet, of which copies reach nine tenths.
H100 = Machine(_H100, 1.98, 3000.0, 5500.0)


@dataclass(frozen=True)
class Work:
    """One launch."""

    kernel: str
    blocks: int
    threads: int
    registers: int
    shared: int  # bytes of a block
    instructions: float  # of warps
    moved: float  # bytes of device memory
    lines: float = 0.0  # that loads of warps meet in the first-level cache
    rounds: float = 0.0  # of shared memory
    second_level: float = 0.0  # bytes from the second-level cache


@dataclass(frozen=True)
class Prediction:
    """Microseconds, by what would be the limit alone."""

    waves: float
    issue: float
    memory: float
    lines: float
    shared: float
    total: float

    @property
    def limit(self) -> str:
        names = ("issue", "memory", "lines", "shared")
        return max(names, key=lambda name: getattr(self, name))


def predict(work: Work, machine: Machine = H200) -> Prediction:
    """How long one launch takes."""
    chip = machine.chip
    fit = occupancy(chip, work.threads, work.registers, work.shared)
    waves = work.blocks / (fit.blocks * chip.multiprocessors)
    # A grid that does not fill its last wave, or the chip, leaves multiprocessors idle.
    resident = min(1.0, work.blocks / chip.multiprocessors) if waves < 1 else 1.0
    filled = resident if waves < 1 else waves / math.ceil(waves)
    warps = work.threads / 32 * max(1.0, min(fit.blocks, work.blocks / chip.multiprocessors))
    used = min(MOST_ISSUED, warps / SCHEDULERS / CYCLES_PER_ISSUE)
    cycles_per_us = machine.clock_ghz * 1e3 * chip.multiprocessors * filled
    issue = work.instructions / SCHEDULERS / cycles_per_us / used
    memory = max(work.moved / machine.copy_gbs, work.second_level / machine.l2_gbs) / 1e3 / filled
    lines = work.lines / LINES_PER_CYCLE / cycles_per_us
    shared = work.rounds / BANK_ROUNDS_PER_CYCLE / cycles_per_us
    power = 1.0 if fit.blocks == 1 else NORM
    limits = (issue, memory, lines, shared)
    total = sum(limit**power for limit in limits) ** (1 / power) + LAUNCH_US
    return Prediction(waves, issue, memory, lines, shared, total)
