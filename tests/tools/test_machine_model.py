"""The model of the machine: what was measured, and what it reads of machine code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import machine_model
import pytest
from cuda_compile.loops import loops_in
from gpucheck.machine import H100, H200, predict
from gpucheck.machine_calls import MEASURED, patch_rounds

PAGE = Path(__file__).parents[2] / "benchmarks" / "results" / "gpu" / "predicted.md"

SASS = """
        Function : f
        /*0000*/                   S2R R0, SR_TID.X ;   /* 0x0 */
        /*0010*/                   IADD3 R1, R0, 0x1, RZ ;
        /*0020*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0030*/                   LDC R2, c[0x0][0x28] ;
        /*0040*/                   LDGSTS.E.BYPASS.128 [R3], desc[UR4][R4.64], P0 ;
        /*0050*/              @!P0 BRA 0x40 ;
        /*0060*/              @!P1 BRA 0x30 ;
        /*0070*/                   FADD.SAT R5, -|R6|, 1 ;
        /*0080*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0090*/               @P2 BRA 0x20 ;
        /*00a0*/               @P3 BRA 0x10 ;
        /*00b0*/                   EXIT ;
        /*00c0*/                   BRA 0xc0;
"""


def test_most_of_what_was_measured_is_predicted_and_the_page_says_so():
    rows, within = machine_model.measured()
    page = PAGE.read_text(encoding="utf-8")
    assert within >= 0.8 * len(MEASURED)
    assert rows in page and f"{within} of {len(MEASURED)} within" in page


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row.call}, {row.kernel}")
def test_less_to_do_takes_less_time(row):
    work = row.work
    whole = predict(work)
    for part in ("instructions", "moved", "lines", "rounds"):
        if getattr(work, part):
            assert predict(replace(work, **{part: getattr(work, part) / 2})).total < whole.total
    assert predict(work, H100).memory >= predict(work, H200).memory


def test_loops_are_those_between_a_branch_and_its_target():
    (loops,) = loops_in(SASS).values()
    assert [(loop.first, loop.last, loop.depth) for loop in loops] == [
        (0x10, 0xA0, 0),
        (0x20, 0x90, 1),
        (0x30, 0x60, 2),
        (0x40, 0x50, 3),
    ]
    assert [len(loop.opcodes) for loop in loops] == [2, 4, 2, 2]
    assert loops[3].counts == {"global load": 1, "control": 1}


def test_the_loop_between_two_barriers_is_found_or_missed():
    (loops,) = loops_in(SASS).values()
    with pytest.raises(ValueError, match="0 loops between two barriers"):
        patch_rounds(loops, gather=False, whole=1.0, held=0)
    found = patch_rounds(loops, gather=True, whole=0.5, held=1)
    assert (found.tile, found.channels, found.fill, found.row) == (1, 2, 2, 2)
