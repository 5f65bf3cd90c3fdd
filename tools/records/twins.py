"""Of the Triton kernels: what they take on GPUs that are not here, and the interpreter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from records.depends import TESTS, TOOLS, release, stems
from records.inputs import REPOSITORY, imported
from records.store import Check

OWN = Path(__file__).resolve()  # what it does with findings counts too


def _triton(stem: str) -> dict[str, object]:
    from cuda_compile import triton_launches

    def rows(found: Iterable[Any]) -> list[list[object]]:
        return [list(astuple(resources)[1:]) for resources in found]

    return {
        "compiled": [
            {"case": name, "target": target, "launches": rows(found)}
            for name, target, found in triton_launches.compiled_cases(stem)
        ],
        "shown": [
            {"call": name, "launches": rows(found)}
            for name, found in triton_launches.shown_calls(stem)
        ],
    }


TRITON = Check(
    "triton",
    units=stems,
    inputs=lambda stem: (
        imported(
            [
                REPOSITORY / "kernels" / f"{stem}.py",
                TOOLS / "triton_launches.py",
                TOOLS / "stems" / f"{stem}.py",
            ]
        )
        | {OWN}
    ),
    find=_triton,
    made_with=lambda: {"triton": release("triton")},
)


def _interpreted(file: str) -> dict[str, int]:
    import interpreting

    return {"passed": interpreting.run(file)}


def _interpreted_inputs(file: str) -> set[Path]:
    """Ops are called by name: all of their kernels and what the tests know of them."""
    folder = TESTS / "triton"
    own = [folder / "interpreted" / file, folder / "interpreting.py"]
    kernels = sorted((REPOSITORY / "kernels").glob("*.py"))
    cases = [TESTS / "ops" / "op_support" / f"{stem}.py" for stem in stems()]
    return imported([*own, *kernels, *cases]) | {OWN}


INTERPRETED = Check(
    "interpreted",
    units=lambda: sorted(p.name for p in (TESTS / "triton" / "interpreted").glob("test_*.py")),
    inputs=_interpreted_inputs,
    find=_interpreted,
    made_with=lambda: {"triton": release("triton")},
)
