"""What the model benchmarks share: data, pose jitter, one fit with its figures, tables."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from fastalign import FYD, FYDConfig
from fastalign.bench import setting
from fastalign.bench.protocol import (
    FIGURES,
    Images,
    Jitter,
    figures,
    read_category,
    scores_of,
)
from fastalign.engine.environment import describe_device, versions
from fastalign.load import LoadMeter

__all__ = ["FIGURES", "Images", "Jitter", "figures", "read_category"]
RESULTS = Path(__file__).parent / "results"
_BATCH = 16
_METER = LoadMeter()


def fit_and_measure(images: Images, config: FYDConfig, seed: int) -> tuple[FYD, dict[str, Any]]:
    """One fit, the last epoch, and its figures on the test images."""
    model = FYD(config)
    began = time.perf_counter()
    model.fit(images.train, images.validation, seed=seed)
    seconds = time.perf_counter() - began
    with torch.inference_mode():
        maps = torch.cat([model(batch)[1] for batch in images.test.split(_BATCH)])
    row: dict[str, Any] = figures(scores_of(maps).numpy(), maps, images)
    row |= mistakes(scores_of(maps), images.labels, float(model.image_threshold))
    row["fit_s"] = seconds
    row["alignment"] = model.extra_metadata()["alignment"]["summary"]
    return model, row


def mistakes(scores: torch.Tensor, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Shares of good test images above the stored threshold and of anomalies that are not."""
    above, anomalous = scores > threshold, torch.from_numpy(labels == 1)
    return {
        "false_alarms": float(above[~anomalous].float().mean()),
        "missed": float((~above[anomalous]).float().mean()),
    }


def alternate(works: dict[str, Callable[[], object]], rounds: int = 40) -> dict[str, float]:
    """Median milliseconds of each work, taken in turns, after three rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 3):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if round_ >= 3:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: median(values) for name, values in times.items()}


def over_seeds(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Mean of a figure over the rows of several seeds."""
    return mean(row[name] for row in rows)


def spread(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Smallest and largest of a figure over the seeds, as `` (0.570–0.800)``; empty if equal."""
    low, high = (f"{f(row[name] for row in rows):.3f}" for f in (min, max))
    return "" if low == high else f" ({low}–{high})"


def write(name: str, document: dict[str, Any], table: str) -> None:
    """Both forms of a result: ``results/<name>.json`` and ``.md``, with what they were made by."""
    RESULTS.mkdir(exist_ok=True)
    device, load = describe_device(torch.device("cpu")), _METER.read()
    command = re.sub(r"--data[ =](\S+)", "--data DATA", setting.command())
    origin = {"commit": setting.commit(), "command": command, "load": load.to_json()}
    document = {"device": device, "versions": versions(), **origin, **document}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    packages = ", ".join(f"{key} {value}" for key, value in versions().items())
    remark = "; its times were taken under load" if load.busy else ""
    (RESULTS / f"{name}.md").write_text(
        f"{table}\n\nMade by `{origin['command']}` at commit {origin['commit'] or 'unknown'}, "
        f"{load.describe()}{remark}, on {device}; {packages}.\n"
    )
