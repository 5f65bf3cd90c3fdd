"""The cases into a document, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from fastalign.bench import timing
from fastalign.bench.budget import Budget, Clock, in_turn
from fastalign.bench.cases import Case
from fastalign.bench.measure import COMPILED, describe, first_line, measure
from fastalign.ops.plans import Plan

SECONDS = {"cpu": 2.0, "cuda": 0.15}
# Of the first case of an op, which is measured even where the budget is spent.
LEAST_S = 3.0
# A contestant that has cost more than one of so many parts of the budget is not begun again.
PARTS = 8

Row = dict[str, Any]


class Slow:
    """Which contestants no time is left for: one that took too long is not begun again on its op,
    and nowhere once it has cost more than its part of the budget."""

    def __init__(self, part: float) -> None:
        self._part = part
        self._cost: dict[str, float] = {}
        self._found: dict[tuple[str, str], str] = {}

    def add(self, row: Row) -> None:
        for name, entry in row["contestants"].items():
            if "call_s" in entry:
                self._cost[name] = self._cost.get(name, 0.0) + entry["call_s"]
                self._found[row["op"], name] = entry["out_of_time"]

    def on(self, op: str) -> dict[str, str]:
        """Why each is not begun, by contestant."""
        everywhere = {
            name: f"not begun, it took {cost:.2g} s elsewhere"
            for name, cost in self._cost.items()
            if cost > self._part
        }
        here = {name: why for (of, name), why in self._found.items() if of == op}
        return everywhere | here


def run_cases(
    document: Row,
    cases: Sequence[Case],
    order: Sequence[Case],
    backends: Sequence[str],
    seconds: float,
    budget: float,
    done: Callable[[Row], None],
    clock: Clock = time.monotonic,
    *,
    compile_last: bool = False,
    forced: Sequence[Plan] = (),
    alone: bool = False,
) -> None:
    """Measures cases until the budget is spent; what is left out is said.

    The first case of every op comes first, and is measured in any case.

    Args:
        document: gets the rows, the bandwidth of a copy and what was left out.
        cases: to be measured.
        order: of the rows.
        backends: ours.
        seconds: of measuring, per contestant.
        budget: seconds for all; may be infinite.
        done: told each row, once it is in the document.
        clock: seconds.
        compile_last: all cases are measured without what has to be compiled first, and then again,
            whole, while there is time.
        forced, alone: launch plans, and whether ours are measured alone, as :func:`measure` has it.
    """
    device = document["device_type"]
    places = {case.name: place for place, case in enumerate(order)}
    copy = timing.Copy(device)
    document["copy_bytes_per_second"] = copy.bandwidth(0.5)
    planned = in_turn(cases, lambda case: case.op)
    rounds = [{COMPILED: "not begun"}, {}] if compile_last else [{}]
    allowed = Budget(budget, len(rounds) * len(planned), clock)
    slow = Slow(budget / PARTS)
    seen: set[str] = set()
    for number, without in enumerate(rounds):
        for case in planned:
            first = case.op not in seen
            if allowed.left <= 0 and not first:
                allowed.skip()
                if number == 0:
                    document["left_out"].append(case.name)
                continue
            seen.add(case.op)
            share = max(allowed.share, LEAST_S if first else 0.0)
            one = partial(measure, case, device, backends, seconds, copy=copy, budget=share)
            one = partial(one, forced=forced) if forced else one
            one = partial(one, alone=True) if alone else one
            # What a slow contestant takes beyond its share is not taken from the other cases.
            most = share if number < len(rounds) - 1 else float("inf")
            try:
                row = allowed.spend(partial(one, without=without | slow.on(case.op)), most)
            except Exception as error:
                row = {**describe(case), "failed": first_line(error)}
            slow.add(row)
            _put(document, row, places)
            done(row)


def _put(document: Row, row: Row, places: dict[str, int]) -> None:
    """In place of an earlier row of the case; the copy's bandwidth is the median beside all."""
    rows = [one for one in document["rows"] if one["case"] != row["case"]]
    document["rows"] = sorted([*rows, row], key=lambda one: places[one["case"]])
    speeds = (one.get("copy_bytes_per_second") for one in document["rows"])
    beside = [speed for speed in speeds if speed]
    if beside:
        document["copy_bytes_per_second"] = median(beside)
