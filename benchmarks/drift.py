"""How often drift is told without one, and how soon it is told where there is one.

    python benchmarks/drift.py [--lines 300] [--interval 1000]
    python benchmarks/drift.py --data DATA [--category ball_screw] [--image-size 128]

``false_alarms``: photographs between two false alarms of one direction on average, over lines whose
normal photographs were drawn anew, beside what was asked for: of normal, heavy-tailed and skewed
statistics, of few and many normal photographs, and of statistics that keep a part of the last
value (``persistence``), which the normal photographs show in their order or not (``shuffled``: then
it is learned on the line). ``delays``: photographs until a sudden shift by so many standard
deviations is told, at the rate that the commands have, median and ninetieth percentile, and how far
before or after it the change is said to be. ``monitor``: false statements of all statistics
together. Simulated, with fixed seeds; ends with 1 where false alarms come more often than asked
for, which a persistence that has to be learned may.

With ``--data`` a model is fitted to the training photographs of a category, and what is said over
its good test photographs, which it has not seen, in the order of their names: as they are, and
changed from the 16th on. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from fastalign import artifact
from fastalign.drift.monitor import DriftMonitor
from fastalign.drift.normal import Normal
from fastalign.drift.settings import INTERVAL
from fastalign.drift.statement import STATISTICS
from fastalign.drift.track import Track
from fastalign.engine import fit_category
from fastalign.engine.drift import monitor_of
from fastalign.engine.scoring import thresholds
from fastalign.line.scorer import LineScorer
from fastalign.models.config import FYDConfig

Values = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Draw = Callable[[np.random.Generator, int], Values]
# What is asked for of one direction where all statistics are told of.
_DIRECTIONS = 18
# Photographs before a change.
_BEFORE = 15


def persistent(share: float) -> Draw:
    def draw(rng: np.random.Generator, number: int) -> Values:
        noise = rng.standard_normal(number) * math.sqrt(1 - share * share)
        values = np.empty(number)
        values[0] = rng.standard_normal()
        for index in range(1, number):
            values[index] = share * values[index - 1] + noise[index]
        return values

    return draw


DRAWS: dict[str, Draw] = {
    "normal": lambda rng, number: rng.standard_normal(number),
    "student t3": lambda rng, number: rng.standard_t(3, number),
    "lognormal": lambda rng, number: np.exp(rng.standard_normal(number)),
    "persistence 0.5": persistent(0.5),
    "persistence 0.8": persistent(0.8),
}


def track(normal: Values, interval: float) -> Track:
    made = Normal.of(normal.tolist())
    assert made is not None
    return Track(made, interval)


def until_told(one: Track, values: Values, upward: bool = True) -> int | None:
    """The number of the photograph at which a change in one direction is told."""
    for number, value in enumerate(values.tolist(), 1):
        if (upward, True) in one.add(str(number), number, value):
            return number
    return None


def false_alarms(lines: int, interval: int, number: int, name: str, shuffled: bool) -> float:
    """Photographs between false alarms of one direction, over so many lines."""
    rng = np.random.default_rng(number)
    alarms = seen = 0
    length = interval // 2
    for _ in range(lines):
        normal = DRAWS[name](rng, number)
        if shuffled:
            rng.shuffle(normal)
        told = until_told(track(normal, interval), DRAWS[name](rng, length))
        alarms += told is not None
        seen += told or length
    return seen / max(1, alarms)


def delays(lines: int, number: int, shift: float) -> dict[str, Any]:
    """Of a shift that comes after 100 photographs."""
    rng = np.random.default_rng(number)
    found, off, before = [], [], 100
    for _ in range(lines):
        one = track(rng.standard_normal(number), INTERVAL * _DIRECTIONS)
        values = rng.standard_normal(1100)
        values[before:] += shift
        told = until_told(one, values)
        found.append(math.inf if told is None else told - before)
        if told is not None:
            off.append(abs(one.sides[True].since[1] - before - 1))
    middle, most = np.quantile(found, [0.5, 0.9], method="higher").tolist()
    told_share = float(np.isfinite(found).mean())
    return {
        "normal_photographs": number,
        "shift_sd": shift,
        "median": middle if math.isfinite(middle) else None,
        "90%": most if math.isfinite(most) else None,
        "told_within_1000": told_share,
        "change_point_off_by": float(np.median(off)) if off else None,
    }


def monitored(lines: int, interval: int, number: int) -> float:
    """Photographs between false statements of all statistics together."""
    rng = np.random.default_rng(number)
    names = [name for name in STATISTICS if name != "unjudged"]
    began = seen = 0
    for _ in range(lines):
        made = {name: Normal.of(rng.standard_normal(number).tolist()) for name in names}
        monitor = DriftMonitor({k: v for k, v in made.items() if v is not None}, interval)
        for index in range(interval // 2):
            conditions = dict(zip(names, rng.standard_normal(len(names)).tolist(), strict=True))
            seen += 1
            if monitor.add(str(index), {**conditions, "unjudged": 0.0}, (1, 1)):
                began += 1
                break
    return seen / max(1, began)


def changed(image: Pixels, how: str) -> Pixels:
    """A photograph uint8 ``[h,w,3]`` as another camera, or another light, would show it."""
    height, width = image.shape[:2]
    if how == "moved":
        # By 2 % of the width, to the left.
        by = round(0.02 * width)
        return np.pad(image, ((0, 0), (by, 0), (0, 0)), mode="edge")[:, :width]
    if how == "darker":
        return np.rint(0.9 * image).astype(np.uint8)
    if how == "softer":
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(width / 128))
        return np.asarray(blurred)
    return image


def photographs(data: Path, category: str, size: int) -> dict[str, Any]:
    """What is said over the good test photographs of a category."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        fit_category(data / category, file, config=FYDConfig(image_size=(size, size)))
        model = artifact.load(file)
    scorer = LineScorer(model, thresholds(model), conditions=True)
    files = sorted((data / category / "test" / "good").iterdir())
    found: dict[str, Any] = {}
    for how in ("as they are", "moved", "darker", "softer"):
        monitor = monitor_of(model)
        assert monitor is not None
        said = []
        for number, path in enumerate(files):
            image = scorer.read(path)
            row = scorer.judge(path.name, changed(image, how) if number >= _BEFORE else image).row
            said += monitor.add(path.name, row.conditions, image.shape[:2])
        found[how] = [
            {"text": one.text, "state": one.state, "at": one.at, "photographs": one.photographs}
            for one in said
        ]
    normal = monitor.normal["brightness"].number
    return {"category": category, "normal": normal, "photographs": len(files), "said": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--category", default="ball_screw")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--interval", type=int, default=1000)
    options = parser.parse_args()
    if options.data is not None:
        found = photographs(options.data, options.category, options.image_size)
        print(json.dumps(found, indent=2))
        return 0
    rates = [
        {
            "statistic": name + (", shuffled" if shuffled else ""),
            "normal_photographs": number,
            "asked_for": options.interval,
            "between": round(false_alarms(options.lines, options.interval, number, name, shuffled)),
        }
        for name in DRAWS
        for shuffled in ((False, True) if name.startswith("persistence") else (False,))
        for number in (20, 50, 200)
    ]
    found = {
        "false_alarms": rates,
        "monitor": {
            "asked_for": options.interval,
            "between": round(monitored(options.lines // 10, options.interval, 50)),
        },
        "delays": [
            delays(options.lines // 3, number, shift)
            for number in (20, 50, 200)
            for shift in (1.0, 1.5, 2.0, 3.0, 6.0)
        ],
    }
    print(json.dumps(found, indent=2))
    known = [rate for rate in rates if "shuffled" not in rate["statistic"]]
    return int(any(rate["between"] < options.interval for rate in known))


if __name__ == "__main__":
    raise SystemExit(main())
