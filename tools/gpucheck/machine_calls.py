"""Launches that the model of the machine predicts: those measured, and those that replace them.

Of kernels as they were measured, instructions come from the counters (issue slots used, times the
time, times the slots); of the kernels by patches from their machine code, loop by loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cuda_compile.loops import Loop

from gpucheck.machine import H200, SCHEDULERS, Work

DEGREES = 17  # of the benchmark's warps
# csrc/cuda/warp_patch.cuh: a tile, its threads' pixels, a block's warps, floats of a channel.
TILE_X, TILE_Y, PIXELS, WARPS, FLOATS = 32, 16, 4, 4, 2048
# Of a task: the map or its plan, the patches of its tiles, and the sums.
PREPARED = 300.0
# Rounds of a bank for a tap at 17 degrees (benchmarks/micro/shared_banks.py), and for a candidate,
# of which four of nine are read.
TAP_ROUNDS, CANDIDATE_ROUNDS = 2.1, 1.4
# Lines that one load of 8 x 4 lanes meets at 17 degrees: 6.2 rows of the source, some in two.
TAP_LINES = 7.0


@dataclass(frozen=True)
class Measured:
    """A kernel that Nsight Compute has seen (benchmarks/results/gpu/nvidia-h200-counters.md)."""

    call: str
    kernel: str
    us: float
    issued: float  # of the slots
    blocks: int
    threads: int
    registers: int
    shared: int
    moved: float
    lines: float = 0.0
    rounds: float = 0.0

    @property
    def work(self) -> Work:
        slots = self.us * H200.clock_ghz * 1e3 * SCHEDULERS * H200.chip.multiprocessors
        return Work(
            self.kernel,
            self.blocks,
            self.threads,
            self.registers,
            self.shared,
            self.issued * slots,
            self.moved,
            self.lines,
            self.rounds,
        )


def _megabytes(*elements: float) -> float:
    return 4e0 * sum(elements)


_BIG, _DEEP = 8 * 3 * 1024**2, 8 * 64 * 128**2  # elements of the two warps
_DENSE, _SMALL = 8 * 256 * 64**2, 32 * 256 * 16**2
_FACTORS = 4096 * 100 * 101 / 2


def _taps(elements: int, loads: float) -> float:
    return elements / 32 * loads * TAP_LINES


MEASURED = (
    Measured("dense_similarity 8x256x64x64", "dense_similarity_tile<float, 4, 4>", 58.8, 0.29, 512,
             256, 80, 140 * 1024, _megabytes(3 * _DENSE)),
    Measured("dense_similarity 8x64x128x128", "dense_similarity_tile<float, 4, 4>", 36.0, 0.60,
             1024, 256, 80, 70 * 1024, _megabytes(3 * _DEEP)),
    Measured("dense_similarity 8x256x64x64 bfloat16", "dense_similarity_tile<BFloat16, 4, 4>",
             42.2, 0.44, 256, 256, 80, 140 * 1024, _megabytes(3 * _DENSE) / 2),
    Measured("dense_similarity 32x256x16x16", "dense_similarity_tile<float, 4, 4>", 35.8, 0.27, 64,
             256, 80, 168 * 1024, _megabytes(3 * _SMALL)),
    Measured("warp_affine 8x3x1024x1024", "warp_planes", 117.4, 0.62, 8192, 256, 56, 104,
             _megabytes(2 * _BIG), _taps(_BIG, 4)),
    Measured("its gradient of x", "gather_planes", 250.1, 0.71, 8192, 256, 72, 32992,
             _megabytes(2 * _BIG), _taps(_BIG, 4)),
    Measured("its gradient of theta", "theta_planes", 136.8, 0.76, 8192, 256, 60, 488,
             _megabytes(2 * _BIG), _taps(_BIG, 4)),
    Measured("warp_affine 8x64x128x128", "warp_planes", 38.2, 0.36, 2048, 256, 56, 104,
             _megabytes(2 * _DEEP), _taps(_DEEP, 4)),
    Measured("its gradient of x", "gather_planes", 53.5, 0.58, 2048, 256, 72, 32992,
             _megabytes(2 * _DEEP), _taps(_DEEP, 4)),
    Measured("its gradient of theta", "theta_planes", 36.7, 0.49, 2048, 256, 60, 488,
             _megabytes(2 * _DEEP), _taps(_DEEP, 4)),
    Measured("pairwise_distance 32x3x224x224", "pair_tiles<float, 3>", 55.3, 0.62, 392, 128, 151,
             49408, _megabytes(2 * 32 * 3 * 224**2)),
    Measured("mahalanobis 1x100x64x64", "mahalanobis_forward<float, 1>", 38.8, 0.53, 1024, 128, 80,
             43 * 1024, _megabytes(_FACTORS)),
    # A vector of four deviations for each image and four entries of the factor.
    Measured("mahalanobis 8x100x64x64", "mahalanobis_forward<float, 8>", 68.4, 0.46, 1024, 128, 91,
             52 * 1024, _megabytes(_FACTORS), rounds=_FACTORS * 8 / 32 * 1.5),
    Measured("mahalanobis 1x100x64x64, bfloat16 factors", "mahalanobis_forward<BFloat16, 1>", 33.9,
             0.58, 1024, 128, 80, 23 * 1024, _megabytes(_FACTORS) / 2),
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A warp of equal sizes, at :data:`DEGREES`."""

    images: int
    channels: int
    side: int
    bytes_each: int = 4

    @property
    def elements(self) -> int:
        return self.images * self.channels * self.side**2

    @property
    def block(self) -> int:
        """Channels at once."""
        return 3 if self.channels == 3 else 4

    def tiles(self) -> tuple[int, int, int]:
        """Tiles of all images, of a task, and channels of a task: warp_tiles.cuh, tile_pixels."""
        tiles = self.images * math.ceil(self.side / TILE_X) * math.ceil(self.side / TILE_Y)
        wanted, run, chunk = 12 * H200.chip.multiprocessors, 4, self.channels
        while run > 1 and tiles // run < wanted:
            run //= 2
        while chunk > 4 and tiles * math.ceil(self.channels / chunk) < wanted:
            chunk = math.ceil(math.ceil(chunk / 2) / 4) * 4
        return tiles, run, chunk


@dataclass(frozen=True)
class Rounds:
    """Instructions of a thread: for a tile, a block of channels, and in it a row of the fill."""

    tile: float
    channels: float
    fill: float
    row: float


def patch_rounds(loops: Sequence[Loop], *, gather: bool, whole: float, held: float) -> Rounds:
    """Of a kernel by patches: the loop between two barriers, and those around it and inside it.

    Args:
        loops: of its machine code.
        gather: the loop that weighs candidates, in place of the one that reads taps.
        whole: part of the loop that blocks of all channels take.
        held: instructions of a tile that only positions held at the border take.

    Raises:
        ValueError: the machine code has no such loop.
    """
    bodies = [loop for loop in loops if sum(op.startswith("BAR") for op in loop.opcodes) == 2]
    bodies = [loop for loop in bodies if any(".SAT" in op for op in loop.opcodes) == gather]
    if len(bodies) != 1:
        raise ValueError(f"{len(bodies)} loops between two barriers, in place of one")
    body = bodies[0]
    tile = [one for one in loops if one.first < body.first and body.last < one.last][-1]
    inside = [one for one in loops if body.first < one.first and one.last < body.last]
    rows = [one for one in inside if one.counts["global load"] and one.depth == body.depth + 2]
    around = [one for one in inside if one.first < rows[-1].first and rows[-1].last < one.last]
    return Rounds(
        len(tile.opcodes) - held,
        len(body.opcodes) * whole,
        len(around[-1].opcodes),
        len(rows[-1].opcodes),
    )


def _patch(margin: float) -> tuple[float, float]:
    """Rows of a tile's box, and fours of its columns, at :data:`DEGREES`."""
    cosine, sine = math.cos(math.radians(DEGREES)), math.sin(math.radians(DEGREES))
    width = (TILE_X - 1) * cosine + (TILE_Y - 1) * sine + margin
    height = (TILE_Y - 1) * cosine + (TILE_X - 1) * sine + margin
    return height, math.ceil((width + 1.5) / 4)


def _task_parts(shape: Shape, rounds: Rounds, margin: float) -> tuple[float, float, float]:
    """Of all tiles: instructions of warps, lines and bank rounds of the fill."""
    tiles, run, chunk = shape.tiles()
    chunks = math.ceil(shape.channels / chunk)
    blocks = math.ceil(chunk / shape.block) * chunks
    height, fours = _patch(margin)
    passes = height * 16 / (32 * WARPS)
    each = chunks * rounds.tile + blocks * (rounds.channels + rounds.fill + passes * rounds.row)
    issued = tiles * WARPS * (each + chunks * PREPARED / run)
    run_bytes = fours * 4 * shape.bytes_each
    lines = tiles * shape.channels * height * (run_bytes / 128 + 0.875)
    return issued, lines, tiles * shape.channels * height * fours * 16 / 128


def _accessed(shape: Shape) -> float:
    """Lines of pairs that are stored, or read beside a patch: four rows of a warp."""
    return shape.elements / 64 * 4


def forward(shape: Shape, loops: Sequence[Loop], registers: int) -> Work:
    """warp_affine by patches."""
    part = shape.block / (2 * shape.block - 1)
    rounds = patch_rounds(loops, gather=False, whole=part, held=144)
    issued, lines, filled = _task_parts(shape, rounds, 2)
    tiles, run, chunk = shape.tiles()
    moved = shape.bytes_each * shape.elements
    return Work(
        "warp_patches",
        math.ceil(tiles / run) * math.ceil(shape.channels / chunk),
        32 * WARPS,
        registers,
        4 * FLOATS * shape.block + 512,
        issued,
        2.0 * moved,
        lines + _accessed(shape),
        filled + shape.elements / 32 * 4 * TAP_ROUNDS,
        3.1 * moved,
    )


def backward(shape: Shape, loops: Sequence[Loop], registers: int) -> Work:
    """Both gradients in one launch: grad is met in the second-level cache the second time."""
    theta = patch_rounds(loops, gather=False, whole=1.0, held=144)
    gather = patch_rounds(loops, gather=True, whole=1.0, held=0)
    tiles, run, chunk = shape.tiles()
    parts = [_task_parts(shape, theta, 2), _task_parts(shape, gather, 3.5)]
    issued, lines, filled = (sum(column) for column in zip(*parts, strict=True))
    moved = shape.bytes_each * shape.elements
    read = 4 * TAP_ROUNDS + 9 * CANDIDATE_ROUNDS
    return Work(
        "backward_patches",
        2 * math.ceil(tiles / run) * math.ceil(shape.channels / chunk),
        32 * WARPS,
        registers,
        4 * FLOATS * shape.block + 2048,
        issued,
        3.0 * moved,
        lines + 2 * _accessed(shape),
        filled + shape.elements / 32 * read,
        6.4 * moved,
    )


def shapes() -> Iterator[tuple[str, Shape]]:
    """The warps of the benchmark."""
    for bytes_each, dtype in ((4, "float32"), (2, "bfloat16")):
        yield f"8x3x1024x1024 {dtype}", Shape(8, 3, 1024, bytes_each)
        yield f"8x64x128x128 {dtype}", Shape(8, 64, 128, bytes_each)
    yield "8x256x32x32 float32", Shape(8, 256, 32)
