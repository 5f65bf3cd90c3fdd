"""Race freedom of the kernels, proved on their PTX by ``sentryward`` for recorded launches.

A proof holds for the sizes of one launch and any contents of the tensors ("every path"), or where
branches depend on the contents, for one side of each ("one path"). The prover takes tensors to be
apart from each other, as the launchers do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from cuda_compile import stems
from cuda_compile.launches import Launch, recorded, recorded_scale
from cuda_compile.ptx import compile_ptx, describe, entry, fingerprint, named
from cuda_compile.toolchain import BUILD, REPOSITORY, SOURCES, Named

sys.path[:0] = [str(REPOSITORY / "tests" / "ops")]

SCALE = "scale"  # the losses' backward, which is no op
SECONDS = 60.0  # for one question
_MOST_DECISIONS = 40
_REFUSED = ("potential_race", "not_wellsynced", "invalid_lifecycle")
_DATA_BRANCHES = ("control_predicate_not_static", "loop_control_not_classified")


@dataclass(frozen=True)
class Question:
    """A kernel and a launch of it."""

    kernel: Named
    call: str
    launch: Launch


# Barriers of the PTX that are taken out of a kernel, first and last. The last of
# dense_similarity_tile is one of the loss, which the launch that is asked about does not want.
REMOVED = {
    "dense_similarity_tile": (0,),
    "finish_loss": (0, -1),
    "finish_theta": (0, -1),
    "make_plans": (0, -1),
    "theta_pixels": (0, -1),
}

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


def _first_launches(stem: str) -> dict[str, tuple[str, Launch]]:
    """By kernel, the first launch that the calls of an op reach, and the call in words."""
    found: dict[str, tuple[str, Launch]] = {}
    if stem == SCALE:
        for count, words in ((40, "40 values"), (39, "39 values, not aligned")):
            values = torch.ones(41)[count % 2 :]
            for launch in recorded_scale(values[:count], torch.ones(())):
                found[launch.kernel] = words, launch
        return found
    from cuda_on_cpu_support.checks import ALL_CASES
    from op_support.cases import Inputs

    cases = {str(case): case for case in ALL_CASES}
    for name, shape, layout in stems.of(stem).PROVED:
        case = cases[name]
        arguments = case.make(Inputs(layout=layout, shape=shape))
        words = f"{name}, {' x '.join(map(str, shape))}, {layout}"
        for launch in recorded(case.op, arguments):
            found.setdefault(launch.kernel, (words, launch))
    return found


def questions(stem: str) -> list[Question]:
    """The first launch of every kernel that the calls of an op reach, or those of ``SCALE``.

    Raises:
        ToolError: nvcc is missing, or a source does not compile.
    """
    by_name = {
        kernel.name: kernel
        for source in sorted(SOURCES.glob(f"{stem}*.cu"))
        for kernel in named(compile_ptx(source), source.name)
    }
    launches = _first_launches(stem)
    return [Question(by_name[name], *launches[name]) for name in sorted(launches)]


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
    return compile_ptx(SOURCES / question.kernel.source)


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


def without_barrier(path: Path, symbol: str, nth: int, folder: Path) -> Path:
    """The PTX with one barrier of a kernel taken out, in a file of ``folder``."""
    text = path.read_text()
    body = entry(path, symbol).body
    barrier = list(re.finditer(r"^\s*bar\.sync\s+0;\n", body, re.M))[nth]
    copy = folder / f"{nth}.ptx"
    copy.write_text(text.replace(body, body[: barrier.start()] + body[barrier.end() :]))
    return copy


def without_barriers(question: Question, barriers: Iterable[int]) -> dict[str, str]:
    """What the prover says of the races when one barrier is taken out, by its number."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for nth in barriers:
            path = without_barrier(ptx_of(question), question.kernel.symbol, nth, Path(folder))
            found[str(nth)] = prove(question, path).races
    return found
