"""Whether an exported file says what its model says, photograph by photograph."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fastalign.errors import ConfigError
from fastalign.export.comparison import Compared, Difference
from fastalign.export.runners import Arrays, open_exported
from fastalign.export.scorer import OUTPUTS, Scorer
from fastalign.prepare import photograph
from fastalign.verdict import Verdict

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

TOLERANCE = 1e-3
_BATCH = 4
_SYNTHETIC = 4
_TIMED = 10
# What both say of themselves and has to be the same.
_SAME = (
    "input.shape",
    "input.depth",
    "image_threshold",
    "pixel_threshold",
    "regions_of_interest",
    "evidence",
    "config",
)


@dataclass
class Validation:
    """What was found of a file.

    Attributes:
        file, kind, runtime: what was run, in what.
        photographs: how many were compared; ``synthetic``: they were made up.
        scored: how many of them have a score.
        differing: what the file says of itself and the model otherwise, in words.
        differences: of each output.
        verdicts_changed: photographs with another verdict, with both.
        not_finite: whether an image with NaN is unsure in the file; None where it cannot be given.
        file_ms, model_ms: medians for one image.
        tolerance: the largest difference that is allowed.
    """

    file: str
    kind: str
    runtime: str
    photographs: int
    synthetic: bool
    scored: int
    differing: list[str]
    differences: list[Difference]
    verdicts_changed: list[str]
    not_finite: bool | None
    file_ms: float
    model_ms: float
    tolerance: float
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the file may stand for the model."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite difference is None."""
        document = {"holds": self.holds, **asdict(self)}
        for item in document["differences"]:
            item["largest"] = item["largest"] if math.isfinite(item["largest"]) else None
        return document


def validate_file(
    path: str | os.PathLike[str],
    model: FYD,
    photographs: Sequence[str | os.PathLike[str]] = (),
    *,
    tolerance: float = TOLERANCE,
) -> Validation:
    """Compare an exported file with the model that it was made of.

    Args:
        path: a file of ``fastalign export``.
        model: the model, on the CPU.
        photographs: files to compare on; without any on images that are made up, which says little
            of verdicts.
        tolerance: the largest difference that is allowed (:class:`Difference`).

    Raises:
        ArtifactError: the file is missing, damaged or foreign.
        BackendError: its runtime is not installed.
        ConfigError: the file takes images of another size than the model.
        InputError: a photograph cannot be read.
    """
    opened = open_exported(Path(path))
    scorer = Scorer(model, opened.contract["input"]["dtype"]).eval()
    contract = scorer.contract()
    if list(opened.contract["input"]["shape"]) != list(contract["input"]["shape"]):
        raise ConfigError(
            f"{path}: takes images {opened.contract['input']['shape']}, the model "
            f"{contract['input']['shape']}: it was made of another model."
        )

    def library(images: npt.NDArray[Any]) -> Arrays:
        with torch.inference_mode():
            found = scorer(torch.from_numpy(images))
        return dict(zip(OUTPUTS, (value.numpy() for value in found), strict=True))

    compared = Compared(opened.run, library)
    names: list[str] = []
    images: list[npt.NDArray[Any]] = []
    for name, image in _images(photographs, contract):
        compared.add([name], image)
        names, images = [*names, name][-_BATCH:], [*images, image][-_BATCH:]
    # Several at once are another way through some runtimes.
    if len(images) > 1:
        compared.add(names, np.concatenate(images), again=True)
    file_ms, model_ms = _times(images[-1], opened.run, library)
    found = Validation(
        file=os.fspath(path),
        kind=opened.kind,
        runtime=opened.runtime,
        photographs=compared.count,
        synthetic=not photographs,
        scored=compared.scored,
        differing=_differing(opened.contract, contract),
        differences=list(compared.largest.values()),
        verdicts_changed=compared.changed,
        not_finite=_not_finite(images[-1], opened.run),
        file_ms=file_ms,
        model_ms=model_ms,
        tolerance=tolerance,
    )
    found.problems = _problems(found)
    return found


def _images(
    photographs: Sequence[str | os.PathLike[str]], contract: dict[str, Any]
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for path in photographs:
        yield os.fspath(path), photograph(path, contract)
    if photographs:
        return
    height, width = contract["input"]["shape"][2:]
    generator = np.random.default_rng(0)
    for index in range(_SYNTHETIC):
        # Coarse patches, as large as half the image down to a sixteenth of it.
        cells = 2 << index
        coarse = generator.integers(0, 256, (min(cells, height), min(cells, width), 3), np.uint8)
        yield f"made up, {index + 1}", photograph(coarse, contract)


def _differing(found: Any, wanted: Any) -> list[str]:
    lines = []
    for name in _SAME:
        values = []
        for value in (found, wanted):
            for key in name.split("."):
                value = value.get(key)
            # As JSON has it: lists for tuples.
            values.append(_plain(value))
        if values[0] != values[1]:
            lines.append(
                f"{name}: {_short(values[0])} in the file, {_short(values[1])} in the model"
            )
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _not_finite(image: npt.NDArray[Any], run: Callable[..., Arrays]) -> bool | None:
    if image.dtype != np.float32:
        return None
    broken = image.copy()
    broken[0, 0, 0, 0] = np.nan
    found = run(broken)
    return int(found["label"][0]) == Verdict.UNSURE and bool(np.isnan(found["score"][0]))


def _times(image: npt.NDArray[Any], *works: Callable[..., Arrays]) -> tuple[float, float]:
    """Median milliseconds of each for one image, in turns."""
    spent: list[list[float]] = [[] for _ in works]
    for _ in range(_TIMED):
        for times, work in zip(spent, works, strict=True):
            began = time.perf_counter()
            work(image)
            times.append(1000 * (time.perf_counter() - began))
    return median(spent[0]), median(spent[1])


def _problems(found: Validation) -> list[str]:
    lines = [f"says of itself what the model does not: {line}" for line in found.differing]
    for item in found.differences:
        if item.largest > found.tolerance:
            at = item.place
            place = "" if at is None else f" at row {at[0]}, column {at[1]}"
            by = (
                f"{item.largest:.2g}"
                if math.isfinite(item.largest)
                else "a number here and none there"
            )
            lines.append(f"{item.output} differs by {by}, {item.photograph}{place}")
    lines += [f"another verdict: {line}" for line in found.verdicts_changed]
    if found.not_finite is False:
        lines.append("an image with NaN is not unsure")
    return lines
