"""How dense_similarity is cut into programs: a fixed list and one rule."""

from __future__ import annotations

from typing import NamedTuple

import triton

from fastalign.kernels.common import Workload
from fastalign.ops.triton_plans import forced, refuse

# Measured of the plans that these lead to, on one H200 (benchmarks/results/gpu/
# nvidia-h200-counters.md): loss and gradient in float32 take 39.2 us for 8x64x128x128, 32.0 for
# 8x128x64x64, 53.2 for 8x256x64x64 and 28.1 for 32x256x16x16. No number was timed alone: they are
# estimates, from the counts beside them. The way to time them:
#   python benchmarks/ops.py --device cuda --backends triton --only "dense_similarity, loss"
#       --plan "dense_similarity.triton: locations, warps" --plan "dense_similarity.triton: stages"

# Elements of a vector that one program can hold, and of all vectors of one image together: 32 KiB
# of float32.
LONGEST = 4096
_TILE = 8192
# Elements of the blocks in which longer vectors are walked through.
_BLOCK = 512
# A warp holds so many elements of a tile: 16 in each lane.
_PER_WARP = 512
# Bytes of a tile up to which two are under way ahead of their use, and not one.
_DEEP = 16384
# Warps that keep a processor busy.
_WARPS = 8
# Images of a program at least: each program reads the partial sums of all others.
_LEAST_CHUNK = 4
# Bytes that one access fetches at least.
_SECTOR = 32


class Plan(NamedTuple):
    """Sizes of a launch of dense_similarity."""

    block_c: int
    block_x: int
    blocks: int  # of locations
    chunk: int  # images of a program
    chunks: int
    warps: int
    stages: int  # loads under way ahead of their use
    whole: bool  # a vector fits into a block

    @property
    def programs(self) -> int:
        return self.blocks * self.chunks


def plan(work: Workload) -> Plan:
    """The sizes for one launch.

    A program takes as many locations as make a tile, fewer while there are not two programs for
    each processor, but never fewer than a memory access fetches; where even that leaves processors
    idle, the images are dealt out as well.

    Raises:
        BackendError: a plan that is forced does not serve.
    """
    choice = forced("dense_similarity")
    images, channels, locations, itemsize, channels_inside, processors = work
    whole = channels <= LONGEST
    block_c = triton.next_power_of_2(channels) if whole else _BLOCK
    least = 1 if channels_inside else _SECTOR // itemsize
    most = 16 if channels_inside else 128
    block_x = max(1, min(most, _TILE // block_c))
    wanted = 2 * processors
    while block_x > least and triton.cdiv(locations, block_x) < wanted:
        block_x //= 2
    block_x = choice.get("locations", min(block_x, triton.next_power_of_2(locations)))
    blocks = triton.cdiv(locations, block_x)
    warps = choice.get("warps", min(16, max(1, block_c * block_x // _PER_WARP)))
    stages = choice.get("stages", 3 if block_c * block_x * itemsize <= _DEEP else 2)
    parts = max(1, _WARPS * processors // (blocks * warps)) if whole else 1
    chunk = min(images, choice.get("images", max(_LEAST_CHUNK, triton.cdiv(images, parts))))
    if not whole and "images" in choice:
        refuse("dense_similarity", "images", f"{channels} channels take all images of a location")
    return Plan(block_c, block_x, blocks, chunk, triton.cdiv(images, chunk), warps, stages, whole)
