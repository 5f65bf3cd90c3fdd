"""What each kernel may take and what its machine code must hold, of all ops together."""

from __future__ import annotations

from cuda_compile import stems
from cuda_compile.kinds import WIDE, Budget

BUDGETS = {
    # shared by the two losses, and the losses' gradients times what came for the loss
    "finish_loss": Budget(40, fused=False),
    "order_groups": Budget(40, fused=False),
    "scale_in_place": Budget(40, wide_loads=WIDE, wide_stores=WIDE, fused=False),
}
for _, stem in stems.each():
    BUDGETS |= stem.BUDGETS
