"""How pairwise_distance is cut into programs: a fixed list and one rule."""

from __future__ import annotations

from typing import NamedTuple

import triton

from fastalign.kernels.common import Workload
from fastalign.ops.triton_plans import forced, refuse

# Measured of the plans that these lead to, on one H200 (benchmarks/results/gpu/
# nvidia-h200-counters.md): loss and gradient of 32x3x224x224 float32 take 55.1 us. No number was
# timed alone: they are estimates, from the counts beside them. The way to time them:
#   python benchmarks/ops.py --device cuda --backends triton --only pairwise
#       --plan "pairwise_distance.triton: locations, images, warps"

# Channels up to which several images are held at once.
COLOURS = 4
# A program holds 8 images of each of 128 locations: 8 numbers a lane for each colour, in 4 warps.
_IMAGES = 8
_LOCATIONS = 128
_FEWEST_LOCATIONS = 32
# Elements of an image that a program of longer vectors holds; 32 in each lane.
_TILE = 2048
_PER_WARP = 1024
_SECTOR = 32


class Plan(NamedTuple):
    """Sizes of a launch of pairwise_distance."""

    block_c: int
    block_a: int  # images of a program
    block_x: int
    blocks: int  # of locations
    chunks: int  # of images
    warps: int

    @property
    def programs(self) -> int:
        return self.blocks * self.chunks


def plan(work: Workload) -> Plan:
    """The sizes for one launch: smaller blocks where the usual ones leave processors idle.

    Raises:
        BackendError: a plan that is forced does not serve.
    """
    choice = forced("pairwise_distance")
    images, channels, locations, itemsize, channels_inside, processors = work
    whole = triton.next_power_of_2(locations)
    if channels <= COLOURS:
        block_a = choice.get("images", min(_IMAGES, triton.next_power_of_2(images)))
        chunks = triton.cdiv(images, block_a)
        block_x = _LOCATIONS
        while block_x > _FEWEST_LOCATIONS and (
            triton.cdiv(locations, block_x) * chunks < 4 * processors
        ):
            block_x //= 2
        block_x = choice.get("locations", block_x)
        warps = choice.get("warps", max(1, block_a * block_x // 256))
        blocks = triton.cdiv(locations, block_x)
        return Plan(1, block_a, block_x, blocks, chunks, warps)
    block_c = min(_TILE, triton.next_power_of_2(channels))
    block_x = _TILE // block_c
    if not channels_inside:
        block_x = max(block_x, _SECTOR // itemsize)
    block_x = choice.get("locations", min(block_x, whole))
    warps = choice.get("warps", min(16, max(1, block_c * block_x // _PER_WARP)))
    if choice.get("images", 1) > 1:
        refuse("pairwise_distance", "images", f"{channels} channels take one image a program")
    return Plan(block_c, 1, block_x, triton.cdiv(locations, block_x), images, warps)
