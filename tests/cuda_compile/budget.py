"""What each kernel may take and what its machine code must hold: the one table of both.

Registers are those of the hungriest instantiation on any architecture, rounded up to the next 8,
which is how they are given out: more than that is a change that somebody should decide on.
"""

from __future__ import annotations

from dataclasses import dataclass

# Vectors of 16 bytes: 4 x float or 8 x 16 bits, as the template arguments say.
_WIDE = r"<float, 4\b|<(Half|BFloat16), 8\b"


@dataclass(frozen=True)
class Budget:
    """Of all instantiations of one kernel; patterns are searched for in the instantiation's name.

    Kernels use dynamic shared memory only, which the launchers bound by what the device offers.
    """

    registers: int
    wide_loads: str | None = None  # instantiations that must load 16 bytes at once
    wide_stores: str | None = None
    fused: bool = True  # must hold fused multiply-adds


BUDGETS = {
    # dense_similarity
    "dense_similarity_tile": Budget(112, wide_loads=_WIDE, wide_stores=_WIDE),
    # shared by the two losses
    "finish_loss": Budget(40, fused=False),
    "order_groups": Budget(40, fused=False),
    # pairwise_distance
    "pair_any": Budget(80),
    "pair_squared": Budget(80),
    "pair_tiles": Budget(160),
    # warp_affine
    "warp_pixels": Budget(64, wide_loads=_WIDE, wide_stores=_WIDE),
    "warp_planes": Budget(64),
    "make_plans": Budget(160),
    "gather_pixels": Budget(96, wide_loads=_WIDE, wide_stores=_WIDE),
    "gather_planes": Budget(80),
    "sweep": Budget(152),
    "theta_pixels": Budget(64, wide_loads=_WIDE),
    "theta_planes": Budget(64),
    "finish_theta": Budget(40),
    # the losses' gradients times what came for the loss
    "scale_in_place": Budget(40, wide_loads=_WIDE, wide_stores=_WIDE, fused=False),
    # mahalanobis
    "mahalanobis_forward": Budget(96, wide_loads="<"),
    "mahalanobis_gradients": Budget(96, wide_loads="<"),
    "mahalanobis_finish": Budget(40),
}
