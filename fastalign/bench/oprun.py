"""The cases one after the other into a document, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastalign.bench import timing
from fastalign.bench.cases import Case
from fastalign.bench.measure import describe, first_line, measure

SECONDS = {"cpu": 2.0, "cuda": 0.15}


def run_cases(
    document: dict[str, Any],
    cases: Sequence[Case],
    order: Sequence[Case],
    backends: Sequence[str],
    seconds: float,
    budget: float,
    done: Callable[[dict[str, Any]], None],
) -> None:
    """Measures cases until the budget is spent; what is left out is said.

    ``done`` is called with each row, once it is in the document; ``order`` is that of the rows.
    """
    began = time.monotonic()
    device = document["device_type"]
    places = {case.name: place for place, case in enumerate(order)}
    document["copy_bytes_per_second"] = timing.copy_bandwidth(device)
    for case in cases:
        if time.monotonic() - began > budget:
            document["left_out"].append(case.name)
            continue
        try:
            row = measure(case, device, backends, seconds)
        except Exception as error:
            row = {**describe(case), "failed": first_line(error)}
        document["rows"].append(row)
        document["rows"].sort(key=lambda row: places[row["case"]])
        done(row)
    # The chip's clocks may have changed meanwhile.
    document["copy_bytes_per_second_after"] = timing.copy_bandwidth(device)
