"""How many photographs are enough: fits on parts of the training photographs, each measured on the
test images of an evaluation. Nothing is chosen by them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastalign.data import ImageDataset, Sample, fingerprint, open_category
from fastalign.engine.environment import versions
from fastalign.engine.evaluation_run import EvaluationRun
from fastalign.engine.fit_images import keep_apart, open_samples
from fastalign.engine.mistakes import count_mistakes
from fastalign.engine.pipeline import Room
from fastalign.engine.results import ImageResult, finite
from fastalign.engine.scoring import aligned_picture, thresholds
from fastalign.engine.texts import write_texts
from fastalign.errors import ConfigError, DataWarning, InputError
from fastalign.metrics import image_metrics
from fastalign.metrics.learning import CurvePoint, LearningCurve, conclude_curve, plan
from fastalign.models.known import KnownImages
from fastalign.models.progress import NoProgress, Progress
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

CURVE_JSON, CURVE_CSV = "learning_curve.json", "learning_curve.csv"
_COLUMNS = [field.name for field in dataclasses.fields(CurvePoint) if field.name != "scores"]
_LEAST = 6
# Of the first guess of the time: seconds of a fit whatever its size, and how many times that of
# scoring an image by itself each photograph takes.
_START, _PASSES, _PASSES_OF_TEST = 2.0, 15.0, 1.5


class CurveRun:
    """The fits of a learning curve, one after the other; what was fitted is kept in ``out``, so
    that a run that was interrupted goes on from there.

    Args:
        model: fitted; its configuration and seed are those of all fits. On all photographs it is
            the curve's own last point, where it was fitted on them.
        run: the evaluation of it, whose test images are those of the curve, as far as they count.
        folder: a category whose good training photographs are drawn from.
        out: for the files of the curve; None: none are written.
        minutes: a fit that would end later is left out, by the time that others have taken.

    Raises:
        InputError: too few photographs, or one that cannot be read.
    """

    def __init__(
        self,
        model: FYD,
        run: EvaluationRun,
        folder: str | os.PathLike[str],
        out: Path | None,
        *,
        layout: str,
        minutes: float,
    ) -> None:
        self._model, self._run, self._out, self._minutes = model, run, out, minutes
        self._seed = model.record.seed or 0
        category = open_category(folder, layout=layout)
        if len(category.train) < _LEAST:
            raise InputError(
                f"{folder}: {count(len(category.train), 'good training photograph')}; a learning "
                f"curve needs {_LEAST} or more. Give the folder that the model was fitted on."
            )
        self._every = self._open(category.train, cache=True)
        self._own = self._open(category.validation) if category.validation else None
        self._test = [
            (sample, item)
            for sample, item in zip(run.scored, run.images, strict=True)
            if item.counted and item.label in (0, 1)
        ]
        self._labels = [item.label for _, item in self._test]
        self._digests = self._every.digests()
        self.notes: list[str] = []
        self._known = self._is_the_models(folder)
        self._times: dict[int, list[float]] = {}

    def _open(self, samples: Sequence[Sample], cache: bool = False) -> ImageDataset:
        from fastalign.distributed import current

        size, run = self._model.config.image_size, self._run
        return open_samples(current(), samples, size, run.skip_bad, cache, run.depth)

    def _is_the_models(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the model was fitted on these photographs; notes say where it was not."""
        record = self._model.record.known_images
        known = None if record is None else KnownImages.from_record(record)
        if known is None or not known.digests:
            self.notes.append(
                "the model's file does not say which photographs it was fitted on, so that those "
                f"of {folder} were not compared with them"
            )
            return False
        own = self._digests + (self._own.digests() if self._own is not None else [])
        strangers = len(set(own) - set(known.digests))
        if strangers:
            self.notes.append(
                f"{strangers} of the {count(len(own), 'photograph')} of {folder} had no part in "
                "the model's own fit"
            )
        return sorted(own) == sorted(known.digests)

    def go_through(self, progress: Progress) -> LearningCurve:
        """Make all fits that there is time for; returns the curve.

        Raises:
            InputError: a file cannot be written.
        """
        steps = plan(len(self._every), self._seed)
        points = self._kept()
        began = time.monotonic()
        left_out = 0
        missing = [step for step in steps if (step[0], step[1]) not in points]
        sizes = sorted({size for size, *_ in steps})
        progress.start("learning curve", len(missing))
        if missing:
            guess = sum(self._guess(size) for size, *_ in missing)
            progress.note(
                f"learning curve: {count(len(missing), 'fit')} on {', '.join(map(str, sizes))} "
                f"photographs, each scored on {count(len(self._test), 'test image')}: some "
                f"{_minutes(guess)} by the time of one image, at most {self._minutes:g} min"
            )
        for number, (size, draw, positions) in enumerate(missing):
            ends = time.monotonic() - began + self._expected(size)
            if not self._is_own(size) and ends > 60 * self._minutes:
                left_out += 1
                progress.advance()
                continue
            if self._is_own(size):
                point = self._of_the_model(size)
            else:
                point = self._fit(size, draw, positions)
            points[size, draw] = point
            self._write(conclude_curve(list(points.values()), self._labels))
            progress.advance()
            if number == 0:
                rest = sum(self._expected(size) for size, *_ in missing[1:])
                progress.note(f"learning curve: by the first fit about {_minutes(rest)} more")
        if left_out:
            self.notes.append(
                f"{count(left_out, 'fit')} left out, for want of time: give more minutes"
            )
        curve = conclude_curve(
            [points[size, draw] for size, draw, _ in steps if (size, draw) in points],
            self._labels,
            self.notes,
        )
        self._write(curve)
        return curve

    def _is_own(self, size: int) -> bool:
        """Whether the model itself is the fit on so many photographs."""
        return self._known and size == len(self._every)

    def _guess(self, size: int) -> float:
        """Seconds of a fit on so many photographs before any was made, roughly."""
        if self._is_own(size):
            return 0.0
        one = median(self._run.times.model or [0.0]) / 1000
        return _START + one * (_PASSES * size + _PASSES_OF_TEST * len(self._test))

    def _expected(self, size: int) -> float:
        """Seconds of a fit on so many photographs, by the line through those that were made."""
        if not self._times or self._is_own(size):
            return 0.0
        sizes = np.array([number for number, some in self._times.items() for _ in some], float)
        seconds = np.array([value for some in self._times.values() for value in some])
        if len(self._times) == 1:
            # Not more than in proportion.
            return float(seconds.mean() * max(1.0, size / sizes[0]))
        slope, constant = np.polyfit(sizes, seconds, 1)
        return float(max(seconds.min(), constant + slope * size))

    def _of_the_model(self, size: int) -> CurvePoint:
        figures = self._run.pixels.compute() if self._run.has_masks else {}
        items = [item for _, item in self._test]
        return self._point(size, 1, items, figures, thresholds(self._model).image, None)

    def _fit(self, size: int, draw: int, positions: list[int]) -> CurvePoint:
        from fastalign.models.fyd import FYD

        began = time.monotonic()
        run = self._run
        chosen = self._every.subset(positions)
        train, validation = self._apart(chosen)
        try:
            with _quiet():
                model = FYD(self._model.config).to(run.device)
                model.fit(train, validation, seed=self._seed)
            if self._model.roi is not None:
                model.set_roi(self._model.roi, drawn_on=self._drawn_on)
        except (InputError, ConfigError) as error:
            return CurvePoint(size, draw, reason=str(error))
        limits = thresholds(model)
        samples = [sample for sample, _ in self._test]
        measured = EvaluationRun(
            model,
            run.directory,
            samples,
            run.size,
            limits,
            None,
            run.skip_bad,
            run.depth,
            keep_seen=True,
        )
        measured.go_through(Room.of(1, None), NoProgress())
        figures = measured.pixels.compute() if measured.has_masks else {}
        seconds = time.monotonic() - began
        self._times.setdefault(size, []).append(seconds)
        return self._point(size, draw, measured.images, figures, limits.image, seconds)

    @cached_property
    def _drawn_on(self) -> Any:
        """A training photograph as the model aligns it, in whose frame its regions are: ``[h,w,3]``
        uint8."""
        image = self._every[0].image[None].to(self._run.device)
        with torch.inference_mode():
            return aligned_picture(self._model.predict_detail(image), 0)[0]

    def _apart(self, chosen: ImageDataset) -> tuple[ImageDataset, ImageDataset | None]:
        """Training and validation images, by the rule of a fit and the share of the model's own."""
        if self._own is not None:
            return chosen, self._own
        images = self._model.record.images or {}
        held = images.get("validation", 0)
        share = held / max(1, held + images.get("train", 0))
        if not share:
            return chosen, None
        with _quiet():
            rest, held_out = keep_apart(chosen, share, self._seed, NoProgress())
        return chosen.subset(rest), chosen.subset(held_out) if held_out else None

    def _point(
        self,
        size: int,
        draw: int,
        images: Sequence[ImageResult],
        pixels: Any,
        threshold: float | None,
        seconds: float | None,
    ) -> CurvePoint:
        known = [item for item in images if item.scored]
        figures = image_metrics([item.score for item in known], [item.label for item in known])
        made = count_mistakes(images, threshold)
        return CurvePoint(
            size,
            draw,
            figures["image_auroc"],
            pixels.get("aupro_30"),
            threshold,
            *((made.false_alarms, made.good, made.missed, made.anomalous) if made else (0,) * 4),
            unsure=len(images) - len(known),
            seconds=seconds,
            scores=tuple(item.score if item.scored else None for item in images),
        )

    # Files -----------------------------------------------------------------------------------

    @cached_property
    def _settings(self) -> dict[str, Any]:
        files = [path for sample, _ in self._test for path in (sample.path, *sample.mask_paths)]
        return finite(
            {
                "config": dataclasses.asdict(self._model.config),
                "seed": self._seed,
                "images": dict(self._model.record.images or {}),
                "photographs": self._digests,
                "test": fingerprint(files),
                "labels": self._labels,
                "size": self._run.size,
                "version": versions()["fastalign"],
                "model": self._known and thresholds(self._model).image,
            }
        )

    def _kept(self) -> dict[tuple[int, int], CurvePoint]:
        """What an earlier run of the same settings has left."""
        if self._out is None:
            return {}
        try:
            document = json.loads((self._out / CURVE_JSON).read_text(encoding="utf-8"))
            if document["settings"] != json.loads(json.dumps(self._settings)):
                return {}
            points = [
                CurvePoint(**{**one, "scores": tuple(one["scores"])}) for one in document["kept"]
            ]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {(one.photographs, one.draw): one for one in points}

    def _write(self, curve: LearningCurve) -> None:
        if self._out is None:
            return
        document = {
            **finite(curve.to_json()),
            "settings": self._settings,
            "kept": [finite(dataclasses.asdict(one)) for one in curve.points],
        }
        table = io.StringIO(newline="")
        rows = csv.DictWriter(table, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(finite(dataclasses.asdict(one)) for one in curve.points)
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        write_texts(self._out, {CURVE_CSV: table.getvalue(), CURVE_JSON: text})


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def _quiet() -> Iterator[None]:
    """That there are few photographs is what the curve is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        yield
