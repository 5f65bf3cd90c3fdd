"""The kernels compile for GPUs that are not here, without spills and with the loads they claim.

All of it as recorded, and one launch compiled here and now.
"""

from __future__ import annotations

import os
from dataclasses import astuple, fields

import pytest
from compiling import Resources, launches_of, resources
from cuda_compile import stems, triton_launches
from records import checks
from records.oldest import OLDEST
from records.store import known, made_with

from fastalign.ops.schema import STEMS

# Of the least that a program may have on any of the targets, 64 KB.
SHARED = 65536 + 1024
FIELDS = [field.name for field in fields(Resources)][1:]


def _check(found: list[dict], wide_loads: tuple[str, ...]) -> None:
    assert found and set(wide_loads) <= {launch["kernel"] for launch in found}
    for launch in found:
        assert launch["spilled"] == 0 and launch["shared"] <= SHARED, launch
        if launch["kernel"] in wide_loads and launch["wide_loads"] is not None:
            assert launch["wide_loads"] > 0, launch


@pytest.mark.parametrize("op", STEMS)
def test_every_case_compiles_within_its_means(op):
    recorded = {
        (entry["case"], entry["target"]): [
            dict(zip(FIELDS, row, strict=True)) for row in entry["launches"]
        ]
        for entry in known(checks.TRITON)[op]["compiled"]
    }
    cases = triton_launches.cases(op)
    assert set(recorded) == {(case.name, target) for case, target in cases}
    for case, target in cases:
        _check(recorded[case.name, target], case.wide_loads)


def test_every_case_compiles_with_the_oldest_triton():
    """Found on a GPU: a default value of a kernel's part that newer releases alone understand."""
    recorded = known(checks.OLDEST_TRITON)
    assert set(recorded) == {*STEMS, "arithmetic"}
    assert {entry["triton"] for entry in made_with(checks.OLDEST_TRITON).values()} == {OLDEST}
    for stem in STEMS:
        cases = stems.of(stem).compiled()
        assert [entry["case"] for entry in recorded[stem]] == [case.name for case in cases]
    for entry in (entry for entries in recorded.values() for entry in entries):
        rows = [dict(zip(FIELDS, row, strict=True)) for row in entry["launches"]]
        # It may spill where newer ones do not, and run all the same.
        assert rows and all(row["shared"] <= SHARED for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"),
    reason="under TRITON_INTERPRET kernels are not compiled",
)
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_a_compilation_gives_what_is_recorded(target):
    """Its figures with the same Triton, and with another one what they must keep to."""
    op = next(iter(STEMS))
    case = stems.of(op).compiled()[0]
    found = [resources(case, launch, target) for launch in launches_of(case)]
    rows = [dict(zip(FIELDS, astuple(one)[1:], strict=True)) for one in found]
    _check(rows, case.wide_loads)
    if made_with(checks.TRITON)[op] == checks.TRITON.made_with():
        (recorded,) = (
            entry["launches"]
            for entry in known(checks.TRITON)[op]["compiled"]
            if (entry["case"], entry["target"]) == (case.name, target)
        )
        assert [list(row.values()) for row in rows] == recorded
