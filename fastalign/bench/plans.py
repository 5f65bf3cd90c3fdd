"""Contestants that run under a forced launch plan, beside the kernel's own choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastalign.bench.cases import Case
from fastalign.bench.modes import FORWARD, Results, Work
from fastalign.errors import ConfigError
from fastalign.ops import forced_plan
from fastalign.ops.plans import Plan, describe, sweep

# Changes what is forced before and after each call as the others do, to nothing.
CHOSEN = "as chosen"


def read(texts: Sequence[str], cases: Sequence[Case], backends: Sequence[str]) -> list[Plan]:
    """All plans of ``--plan``, each once.

    Raises:
        ConfigError: a text that is no plan, or a plan of which no case is.
    """
    found = list(dict.fromkeys(plan for text in texts for plan in sweep(text, "--plan")))
    for plan in found:
        if not any(_own(plan, case, backend) for case in cases for backend in backends):
            raise ConfigError(
                f"--plan {describe(plan)}: no measured case runs such a kernel; measured are "
                f"{', '.join(sorted({case.op for case in cases}))} on {', '.join(backends)}."
            )
    return found


def contestants(
    case: Case, backends: Sequence[str], plans: Sequence[Plan], prefix: str
) -> tuple[dict[str, Work], dict[str, str]]:
    """The works of a case under its plans, and the plan of each in words; nothing without plans."""
    works: dict[str, Work] = {}
    words: dict[str, str] = {}
    for backend in backends:
        own = list(dict.fromkeys(_own(plan, case, backend) for plan in plans))
        for plan in [(), *filter(None, own)] if any(own) else ():
            name = f"{prefix}/{backend}, {_short(plan) or CHOSEN}"
            works[name] = _under(plan, case.ours(backend))
            words[name] = describe(plan)
    return works, words


def _own(plan: Plan, case: Case, backend: str) -> Plan:
    """What of a plan is about a case."""
    kernels = [f"{case.op}.{backend}"]
    if case.work != FORWARD:
        kernels.append(f"{case.op}_backward.{backend}")
    return tuple(entry for entry in plan if entry[0] in kernels)


def _short(plan: Plan) -> str:
    return ", ".join(
        f"{'backward ' if '_backward.' in kernel else ''}{field}={value}"
        for kernel, field, value in plan
    )


def _under(plan: Plan, work: Work) -> Work:
    def forced(*inputs: Tensor) -> Results:
        with forced_plan(plan):
            return work(*inputs)

    return forced


def table(rows: Sequence[dict[str, Any]], key: str) -> list[str]:
    """For each case its plans, the fastest first, beside the kernel's own choice.

    Args:
        rows: of a run.
        key: of the time that counts, ``ms`` or ``graph_ms``.
    """
    lines = ["| case | plan | ms | of the time as chosen |", "|---|---|---|---|"]
    for row in rows:
        planned = {name: one for name, one in row["contestants"].items() if "plan" in one}
        # Falls back to the call where a graph could not be captured.
        times = {name: one.get(key) or one.get("ms") for name, one in planned.items()}
        for name in sorted(planned, key=lambda name: times[name] or float("inf")):
            label = name.partition("/")[2]
            chosen = times.get(f"{name.partition(',')[0]}, {CHOSEN}")
            if times[name] is None:
                lines.append(f"| {row['case']} | {label} | - | {planned[name].get('failed')} |")
                continue
            share = f"{times[name] / chosen:.2f}x" if chosen else "-"
            lines.append(f"| {row['case']} | {label} | {times[name]:.3g} | {share} |")
    return lines if len(lines) > 2 else []
