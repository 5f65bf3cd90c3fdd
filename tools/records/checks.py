"""The checks whose findings are kept."""

from __future__ import annotations

from records.cuda import LAUNCHES, MACHINE_CODE, PROOFS
from records.native import RACES
from records.oldest import OLDEST_TRITON
from records.simulated import MUTANTS, SANITIZED, SIMULATED
from records.twins import INTERPRETED, TRITON

CHECKS = (
    MACHINE_CODE,
    LAUNCHES,
    PROOFS,
    TRITON,
    OLDEST_TRITON,
    INTERPRETED,
    SIMULATED,
    MUTANTS,
    SANITIZED,
    RACES,
)
