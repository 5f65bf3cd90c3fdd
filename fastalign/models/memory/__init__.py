"""What a fit or a score needs in memory, and how to stay within a budget."""

from __future__ import annotations

from fastalign.models.memory.plan import GROUP, MemoryPlan, plan_fitting, plan_scoring
from fastalign.models.memory.sizes import parse_bytes, release_unused, resident_bytes
from fastalign.models.pieces import MB

__all__ = [
    "GROUP",
    "MB",
    "MemoryPlan",
    "parse_bytes",
    "plan_fitting",
    "plan_scoring",
    "release_unused",
    "resident_bytes",
]
