"""How many blocks of a kernel fit a multiprocessor: the occupancy that registers and shared memory
allow, by NVIDIA's rules of allocation (CUDA C++ Programming Guide, technical specifications per
compute capability)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """What a multiprocessor has, and how many there are."""

    name: str
    architecture: str
    multiprocessors: int
    warps: int  # resident on one multiprocessor
    blocks: int
    shared: int  # bytes of a multiprocessor that blocks may share
    shared_block: int  # bytes one block may ask for
    bandwidth: float  # TB/s of device memory, by the data sheet
    registers: int = 65536


CHIPS = (
    Chip("A100", "sm_80", 108, 64, 32, 164 * 1024, 163 * 1024, 2.04),
    Chip("H100", "sm_90", 132, 64, 32, 228 * 1024, 227 * 1024, 3.35),
    Chip("B200", "sm_100", 148, 64, 32, 228 * 1024, 227 * 1024, 8.0),
    Chip("RTX 5090", "sm_120", 170, 48, 24, 100 * 1024, 99 * 1024, 1.79),
)


@dataclass(frozen=True)
class Occupancy:
    """Blocks on a multiprocessor and what limits them."""

    blocks: int
    warps: int
    share: float  # of the warps that the chip could hold
    limit: str  # registers, shared memory, warps or blocks


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def occupancy(chip: Chip, threads: int, registers: int, shared: int) -> Occupancy:
    """Of blocks of ``threads`` threads with ``registers`` each and ``shared`` bytes a block.

    Registers are given to a warp in steps of 256, shared memory to a block in steps of 128 bytes
    and 1 KB more for the system.
    """
    warps = _round_up(threads, 32) // 32
    # Each of the four parts of a multiprocessor holds a quarter of the registers.
    per_part = chip.registers // 4 // _round_up(registers * 32, 256)
    limits = {
        "warps": chip.warps // warps,
        "blocks": chip.blocks,
        "registers": per_part * 4 // warps,
        "shared memory": chip.shared // (_round_up(shared, 128) + 1024),
    }
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps / chip.warps, limit)
