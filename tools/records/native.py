"""Of the CPU kernels: races between threads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from records.depends import TESTS, host_compiler
from records.inputs import included
from records.store import Check, Unavailable

OWN = Path(__file__).resolve()  # what it does with findings counts too


def _flags(*names: str) -> Callable[[str], Mapping[str, object]]:
    def facts(unit: str) -> dict[str, object]:
        from native_support import build_settings

        return {f"{name} of setup.py": getattr(build_settings(), name) for name in names}

    return facts


def _race_tools() -> dict[str, str]:
    import races

    try:
        races.launcher()
    except races.CannotRun as reason:
        raise Unavailable(str(reason)) from reason
    return {"compiler": host_compiler()}


def _races(level: str) -> dict[str, str]:
    import races

    with tempfile.TemporaryDirectory() as folder:
        program = races.build(level, Path(folder))
        return {"compared": races.compare(program), "provoked": races.provoke(program)}


def _race_inputs(level: str) -> set[Path]:
    import races

    return {
        *included([*races.sources(), races.DRIVER]),
        TESTS / "native" / "races.py",
        TESTS / "native" / "native_support.py",
        OWN,
    }


RACES = Check(
    "races",
    units=lambda: ["baseline"],
    inputs=_race_inputs,
    find=_races,
    made_with=_race_tools,
    facts=_flags("CXX_FLAGS", "ISA_FLAGS"),
)
