"""Race freedom of the kernels, proved on their PTX by ``sentryward`` for recorded launches.

A proof holds for the sizes of one launch and any contents of the tensors ("every path"), or where
branches depend on the contents, for one side of each ("one path"). The prover takes tensors to be
apart from each other, as the launchers do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from cuda_compile import stems
from cuda_compile.launches import Launch, recorded, recorded_scale
from cuda_compile.ptx import compile_ptx, describe, entry, fingerprint
from cuda_compile.toolchain import BUILD, REPOSITORY, Kernel, kernels, sources

sys.path[:0] = [str(REPOSITORY / "tests" / "ops")]

SECONDS = 60.0  # for one question
_MOST_DECISIONS = 40
_REFUSED = ("potential_race", "not_wellsynced", "invalid_lifecycle")
_DATA_BRANCHES = ("control_predicate_not_static", "loop_control_not_classified")


@dataclass(frozen=True)
class Question:
    """A kernel and a launch of it."""

    kernel: Kernel
    call: str
    launch: Launch


# From least to most.
OPEN, ONE_PATH, EVERY_PATH, REFUSED = "open", "one path", "every path", "refused"
_WORTH = (OPEN, ONE_PATH, EVERY_PATH, REFUSED)


@dataclass(frozen=True)
class Verdict:
    """What the prover says of a kernel: for which paths its barriers are met by all threads, and
    for which no two accesses race."""

    barriers: str
    races: str
    reason: str = ""  # where something is open or refused

    def with_(self, other: Verdict) -> Verdict:
        """Both together: a refusal, else the most that either shows."""

        def worth(verdict: Verdict) -> tuple[int, int]:
            return _WORTH.index(verdict.races), _WORTH.index(verdict.barriers)

        better = max(self, other, key=worth)
        barriers = max(self.barriers, other.barriers, key=_WORTH.index)
        return Verdict(barriers, better.races, better.reason)


def prover() -> str | None:
    """The release of sentryward, or None where it is not installed."""
    if importlib.util.find_spec("sentryward") is None:
        return None
    return importlib.metadata.version("sentryward")


@cache
def questions() -> tuple[Question, ...]:
    """The first launch of every kernel that these calls and scale reach."""
    from cuda_on_cpu_support.checks import ALL_CASES
    from op_support.cases import Inputs

    by_name = {kernel.name: kernel for kernel in kernels("sm_100")}
    cases = {str(case): case for case in ALL_CASES}
    found: dict[str, Question] = {}
    proved = [call for _, stem in stems.each() for call in stem.PROVED]
    for name, shape, layout in proved:
        case = cases[name]
        arguments = case.make(Inputs(layout=layout, shape=shape))
        words = f"{name}, {' x '.join(map(str, shape))}, {layout}"
        for launch in recorded(case.op, arguments):
            found.setdefault(launch.kernel, Question(by_name[launch.kernel], words, launch))
    for count, words in ((40, "40 values"), (39, "39 values, not aligned")):
        values = torch.ones(41)[count % 2 :]
        for launch in recorded_scale(values[:count], torch.ones(())):
            found[launch.kernel] = Question(by_name[launch.kernel], words, launch)
    return tuple(found[name] for name in sorted(found))


def _asked(path: Path, description: dict[str, object]) -> dict[str, object]:
    from sentryward import verify

    known = BUILD / "proofs" / f"{fingerprint(path, description, prover() or '')}.json"
    if known.exists():
        return json.loads(known.read_text())
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "input.json"
        given.write_text(json.dumps(description))
        said = verify(path, input=given, timeout_seconds=SECONDS)
    kept = {key: said[key] for key in ("result", "checks", "diagnostics")}
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(kept))
    return kept


def _where(said: dict[str, object]) -> tuple[str, int]:
    """The first diagnosis and its line."""
    for diagnosis in said["diagnostics"]:
        line = diagnosis.get("details", {}).get("location", {}).get("line", 0)
        return diagnosis["code"], line
    return str(said["result"]), 0


def _along_one_path(path: Path, description: dict[str, object]) -> dict[str, object]:
    """Structured branches fall through; loops on contents are left at once."""
    asked = {**description, "assumptions": {"representative_branches": True}}
    decisions: list[dict[str, object]] = []
    while True:
        said = _asked(path, {**asked, "branch_decisions": decisions} if decisions else asked)
        code, line = _where(said)
        if code not in _DATA_BRANCHES or len(decisions) == _MOST_DECISIONS or not line:
            return said
        if any(decision["line"] == line for decision in decisions):
            return said
        decisions.append({"line": line, "taken": True})


_REASONS = {
    "control_predicate_not_static": "a branch depends on what tensors hold",
    "loop_control_not_classified": "a loop depends on what tensors hold",
    "allocation_alias_relation_unknown": "addresses that it cannot tell apart",
    "dynamic_address_overlap_unresolved": "addresses that it cannot tell apart",
    "conflicting_accesses_unordered": "two accesses race",
    "time_budget": f"not finished within {SECONDS:.0f} s",
}


def _verdict(said: dict[str, object], paths: str) -> Verdict:
    code, _ = _where(said)
    reason = _REASONS.get(code, code)
    barriers = paths if said["checks"]["synchronization"] == "passed" else OPEN
    if said["result"] == "race_free":
        return Verdict(barriers, paths)
    if said["result"] in _REFUSED:
        return Verdict(barriers if barriers != OPEN else REFUSED, REFUSED, reason)
    return Verdict(barriers, OPEN, reason)


def ptx_of(question: Question) -> Path:
    """The PTX that holds the kernel."""
    (source,) = (s for s in sources() if s.name == question.kernel.source)
    return compile_ptx(source)


def prove(question: Question, path: Path | None = None) -> Verdict:
    """The most that the prover says of a launch.

    Args:
        question: what to prove.
        path: other PTX than that of the sources.
    """
    path = path or ptx_of(question)
    kernel = entry(path, question.kernel.symbol)
    objects = describe(kernel, question.launch)
    found = _verdict(_asked(path, objects), EVERY_PATH)
    if found.races == OPEN:
        found = found.with_(_verdict(_along_one_path(path, objects), ONE_PATH))
    if found.barriers == OPEN:
        # Where alignment decides, as it does for packed factors.
        numbers = describe(kernel, question.launch, addresses=True)
        found = found.with_(_verdict(_asked(path, numbers), EVERY_PATH))
        if found.barriers == OPEN:
            found = found.with_(_verdict(_along_one_path(path, numbers), ONE_PATH))
    return found


def verdicts() -> Iterable[tuple[Question, Verdict]]:
    """Of every kernel, in order."""
    for question in questions():
        yield question, prove(question)
