"""What each kernel may take and what its machine code must hold, of all ops together."""

from __future__ import annotations

import re

from cuda_compile import stems
from cuda_compile.kinds import WIDE, Budget
from cuda_compile.machine_code import Code

BUDGETS = {
    # shared by the two losses, and the losses' gradients times what came for the loss
    "finish_loss": Budget(40, fused=False),
    "order_groups": Budget(40, fused=False),
    "scale_in_place": Budget(40, wide_loads=WIDE, wide_stores=WIDE, fused=False),
}
for _, stem in stems.each():
    BUDGETS |= stem.BUDGETS


def _claims(code: Code, which: str) -> bool:
    pattern = getattr(BUDGETS[code.kernel.family], which)
    return bool(pattern) and re.search(pattern, code.kernel.name) is not None


# What is wrong with a kernel, by rule.
RULES = {
    "nothing is spilled": lambda code: code.kernel.spilled > 0,
    "registers stay in the budget": (
        lambda code: code.kernel.registers > BUDGETS[code.kernel.family].registers
    ),
    "shared memory is dynamic": lambda code: code.kernel.shared > 0,
    # Neither spilled registers nor arrays that are indexed at run time.
    "no kernel touches local memory": lambda code: code.kernel.stack > 0 or code.counts.local > 0,
    "16 bytes are loaded at once where that is claimed": (
        lambda code: _claims(code, "wide_loads") and code.counts.wide_loads == 0
    ),
    "16 bytes are stored at once where that is claimed": (
        lambda code: _claims(code, "wide_stores") and code.counts.wide_stores == 0
    ),
    "products and sums are fused": (
        lambda code: BUDGETS[code.kernel.family].fused and code.counts.fused == 0
    ),
    # Sums whose order depends on time would differ from run to run.
    "no float is added atomically": lambda code: code.counts.float_atomics > 0,
}
