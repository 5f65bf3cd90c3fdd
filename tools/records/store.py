"""Records on disk: one JSON file a check, with what was found of each of its units and the digests
of what that depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from records.inputs import REPOSITORY, digests

FOLDER = REPOSITORY / "tests" / "records"
COMMAND = "make records"


class StaleRecord(AssertionError):
    """A record is missing, damaged or of other sources; the message says which and what to do."""


class Unavailable(Exception):
    """A check cannot be run here; the message says what is missing."""


@dataclass(frozen=True)
class Check:
    """Something that is looked at in units, each for itself.

    Attributes:
        name: of the record's file.
        units: their names.
        inputs: files that the findings of a unit depend on, the checking code among them.
        find: does the work; gives what JSON can hold.
        made_with: releases of the tools that are used; raises :class:`Unavailable` without them.
        facts: what else the findings depend on, by name.
        root: what paths are told below.
    """

    name: str
    units: Callable[[], Iterable[str]]
    inputs: Callable[[str], Iterable[Path]]
    find: Callable[[str], Any]
    made_with: Callable[[], Mapping[str, str]]
    facts: Callable[[str], Mapping[str, object]] = lambda unit: {}
    root: Path = REPOSITORY

    def file(self, folder: Path = FOLDER) -> Path:
        return folder / f"{self.name}.json"

    def depends(self, unit: str) -> dict[str, str]:
        """Digests of files by path and of facts by name."""
        known = digests(self.inputs(unit), self.root)
        known |= {name: _digest(value) for name, value in sorted(self.facts(unit).items())}
        return known


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _seal(entry: Mapping[str, Any]) -> str:
    """Of an entry as it was written: what is merged or edited by hand is noticed."""
    return _digest({key: value for key, value in entry.items() if key != "seal"})


def read(check: Check, folder: Path = FOLDER) -> dict[str, Any]:
    """Every unit's entry.

    Raises:
        StaleRecord: there is no such file, or it is none.
    """
    path = check.file(folder)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StaleRecord(f"there is no record {path.name}: run `{COMMAND}`") from None
    except ValueError as error:
        raise StaleRecord(f"{path.name} is damaged ({error}): run `{COMMAND}`") from None


def changes(check: Check, unit: str, entries: Mapping[str, Any]) -> list[str]:
    """Why the entry of a unit is not of the present sources; empty where it is."""
    entry = entries.get(unit)
    if entry is None:
        return [f"{unit} is not in it"]
    if entry.get("seal") != _seal(entry):
        return [f"what it says of {unit} was not written by the tool"]
    now, then = check.depends(unit), entry["depends"]
    found = [
        f"{name} has changed" if name in then else f"{name} has come to be used"
        for name in now
        if now[name] != then.get(name)
    ]
    return found + [f"{name} is not used any more" for name in then if name not in now]


def findings(check: Check, folder: Path = FOLDER) -> dict[str, Any]:
    """What the record holds of every unit.

    Raises:
        StaleRecord: it is not of the present sources.
    """
    entries, units = read(check, folder), list(check.units())
    stale = {unit: why for unit in units if (why := changes(check, unit, entries))}
    left = sorted(set(entries) - set(units))
    if stale or left:
        lines = [f"{unit}: {', '.join(why[:3])}" for unit, why in stale.items()]
        lines += [f"{unit}: there is no such thing" for unit in left]
        raise StaleRecord(
            f"{check.file(folder).name} is not of these sources, run `{COMMAND}`:\n"
            + "\n".join(lines[:20])
        )
    return {unit: entries[unit]["findings"] for unit in units}


@cache
def known(check: Check) -> dict[str, Any]:
    """:func:`findings`, looked at once in a process."""
    return findings(check)


def made_with(check: Check, folder: Path = FOLDER) -> dict[str, dict[str, str]]:
    """The releases behind each unit."""
    return {unit: entry["made_with"] for unit, entry in read(check, folder).items()}


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with one line for each innermost thing, so that changes are read line by line."""
    if isinstance(value, dict) and any(isinstance(v, (dict, list)) for v in value.values()):
        inner = ",\n".join(
            f"{' ' * (depth + 1)}{json.dumps(key)}: {_lines(v, depth + 1)}"
            for key, v in value.items()
        )
        return f"{{\n{inner}\n{' ' * depth}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        inner = ",\n".join(f"{' ' * (depth + 1)}{_lines(v, depth + 1)}" for v in value)
        return f"[\n{inner}\n{' ' * depth}]"
    return json.dumps(value)


def write(check: Check, entries: Mapping[str, Any], folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draft = check.file(folder).with_suffix(".draft")
    draft.write_text(_lines(dict(sorted(entries.items()))) + "\n", encoding="utf-8", newline="\n")
    draft.replace(check.file(folder))


def make(
    check: Check,
    every: bool = False,
    folder: Path = FOLDER,
    say: Callable[[str], object] = lambda text: None,
) -> list[str]:
    """Bring a record up to date; each unit is written when it is done.

    Args:
        check: whose.
        every: check what is up to date too.
        folder: of the records.
        say: is told what is done.

    Returns:
        The units that were checked.

    Raises:
        Unavailable: a tool is missing.
    """
    try:
        entries = read(check, folder)
    except StaleRecord:
        entries = {}
    units = list(check.units())
    wanted = [unit for unit in units if every or changes(check, unit, entries)]
    tools = dict(check.made_with()) if wanted else {}
    kept = {unit: entry for unit, entry in entries.items() if unit in units}
    for unit in wanted:
        say(f"{check.name}: {unit}")
        # Before: what changes meanwhile is not in it.
        depends = check.depends(unit)
        entry = {"depends": depends, "made_with": tools, "findings": check.find(unit)}
        kept[unit] = {**entry, "seal": _seal(json.loads(json.dumps(entry)))}
        write(check, kept, folder)
    if kept != entries:
        write(check, kept, folder)
    return wanted
