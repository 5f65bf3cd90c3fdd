"""Measure a fitted model on a labelled category, one image at a time."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fastalign.data import Depth, Sample, glance, load_image, load_masks, open_category, prepare
from fastalign.data.maskcheck import MaskCheck
from fastalign.data.masks import describe_mask_names
from fastalign.engine.environment import peak_rss_mb
from fastalign.engine.judging import Judging
from fastalign.engine.leakage import find_seen, tell_seen
from fastalign.engine.mistakes import count_mistakes, fewest_mistakes
from fastalign.engine.protocol import describe_alignment, describe_protocol
from fastalign.engine.results import Evaluation, ImageResult, Skipped
from fastalign.engine.runfolder import earlier_evaluation, reserve
from fastalign.engine.scoring import (
    NO_THRESHOLD,
    NOT_JUDGED,
    Thresholds,
    aligned_picture,
    listed,
    map_at,
    stored_depth,
    thresholds,
)
from fastalign.errors import InputError
from fastalign.load import LoadMeter
from fastalign.metrics import Figures, PixelMetrics, image_metrics
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import whole_number
from fastalign.report.gallery import Gallery
from fastalign.words import count, none_of, part_of

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

_Mask = npt.NDArray[np.bool_]
_TIMED_IMAGES = 50
_WARM_UP = 3
_LARGEST_SIDE = 65535


def evaluate_category(
    directory: str | os.PathLike[str],
    model: FYD,
    out: str | os.PathLike[str] | None = None,
    *,
    layout: str = "auto",
    eval_size: str | int = "model",
    gallery_images: int = 120,
    skip_bad: bool = False,
    model_name: str = "",
    depth: Depth | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the test images of a category and compute every figure.

    Images stream: one photograph, its maps and its pictures are in memory at a time.

    Args:
        directory: a category in any layout that :func:`fastalign.data.open_category` reads.
        model: a fitted model; the device it is on is used.
        out: folder for ``results.json``, ``scores.csv`` and ``report.html``; None writes nothing.
        layout: data layout, ``"auto"`` to recognise it.
        eval_size: resolution at which maps meet masks: ``"model"`` (the model's image size),
            ``"native"`` (each image's own) or a side length N for N x N. Maps are resampled
            bilinearly, masks by nearest.
        gallery_images: pictures in the report at most, worst first.
        skip_bad: leave bad files out, with a warning and a count, where the default is an error.
        model_name: name of the model's file, for the protocol.
        depth: of 16-bit files that state none, in place of the model's.
        progress: told about the course.

    Raises:
        ConfigError: an option has no such value, or ``out`` holds predictions.
        InputError: no test images, a file that cannot be read, a mask that is missing or does not
            fit its image, or ``out`` cannot be written.
    """
    size = _evaluation_size(eval_size, model.config.image_size)
    gallery_images = whole_number("gallery", gallery_images)
    category = open_category(directory, layout=layout)
    if not category.test:
        raise InputError(
            f"{directory}: no test images (layout {category.layout}); evaluation needs labelled "
            "images such as test/good and test/<defect>. `fastalign predict` needs no labels."
        )
    progress = progress or NoProgress()
    progress.start("evaluating", len(category.test))
    limits = thresholds(model)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastalign-"))
        if out is not None:
            stack.enter_context(reserve(Path(out)))
            if earlier := earlier_evaluation(Path(out)):
                progress.note(f"{out}: holds {earlier}, which this one replaces in the end")
        gallery = Gallery(Path(scratch), limits.pixel_or_nan)
        run = _Run(model, Path(directory), category.test, size, limits, gallery, skip_bad, depth)
        meter = LoadMeter()
        for sample in category.test:
            run.add(sample)
            progress.advance()
        load = meter.read()
        evaluation = _conclude(run, category.name)
        tell_seen(evaluation, find_seen(model, run.images, run.glances))
        evaluation.warnings[:0] = [*category.notes, *run.masks.notes()]
        evaluation.alignment = describe_alignment(model, run.images)
        evaluation.protocol = {
            "data": os.fspath(directory),
            "category": category.name,
            "layout": category.layout,
            "model_file": model_name,
            **describe_protocol(model, size, evaluation.counts, len(run.times)),
            "load": load.to_json(),
        }
        if out is not None:
            from fastalign.engine.outputs import write_evaluation

            evaluation.files = write_evaluation(
                evaluation, gallery, Path(out), gallery_images, run.photograph
            )
    return evaluation


@dataclass
class _Run:
    """The state of one evaluation."""

    model: FYD
    directory: Path
    samples: Sequence[Sample]
    size: tuple[int, int] | None
    limits: Thresholds
    gallery: Gallery
    skip_bad: bool
    depth: Depth | None
    images: list[ImageResult] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unmasked: list[Skipped] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    alignment_times: list[float] = field(default_factory=list)
    glances: list[torch.Tensor] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.depth = self.depth or stored_depth(self.model)
        self.masks = MaskCheck()
        self.judging = Judging(self.model, self.limits)
        self.pixels = PixelMetrics(self.size)
        self.device = self.model.image_threshold.device
        anomalous = [sample for sample in self.samples if sample.label == 1]
        self.has_masks = any(sample.mask_paths for sample in anomalous)

    def add(self, sample: Sample) -> None:
        """Score one image and take it into every figure."""
        name = self._name(sample.path)
        try:
            image = load_image(sample.path, depth=self.depth)
        except InputError as error:
            if not self.skip_bad:
                raise
            self.skipped.append(Skipped(name, str(error)))
            return
        try:
            truth = self._truth(sample, image.shape[:2])
        except InputError as error:
            if not self.skip_bad:
                raise
            truth = None
            self.unmasked.append(Skipped(name, str(error)))
        batch = prepare(image, self.model.config.image_size)[None].to(self.device)
        with torch.inference_mode():
            self._time(batch)
            detail = self.model.predict_detail(batch)
        scores = detail.map[0]
        score = float(detail.score[0])
        if not math.isfinite(score):
            problem = f"{sample.path}: could not be judged: {NOT_JUDGED}"
            if not self.skip_bad:
                raise InputError(problem)
            self.skipped.append(Skipped(name, problem))
            return
        self.glances.append(glance(batch).cpu())
        if self.has_masks and truth is not None:
            at_mask = map_at(scores, image.shape[:2]) if self.size is None else scores.float()
            self.pixels.update(at_mask, truth, name)
        aligned, covered = aligned_picture(detail, 0)
        outline = truth if sample.label == 1 and self.has_masks else None
        self.gallery.add(
            len(self.images), image, scores.float().cpu().numpy(), outline, aligned, covered
        )
        self.paths.append(sample.path)
        row = self.judging.row(name, image, detail, 0)
        assert row.alignment is not None
        self.images.append(
            ImageResult(
                path=name,
                defect=sample.defect,
                label=sample.label,
                score=score,
                predicted=self.limits.label(score),
                alignment=row.alignment,
                reason=row.reason,
            )
        )

    def photograph(self, index: int) -> npt.NDArray[np.uint8]:
        """The photograph of image ``index`` of the results once more."""
        return load_image(self.paths[index], depth=self.depth)

    def _truth(self, sample: Sample, size: tuple[int, int]) -> _Mask | None:
        """The mask at the image's own size; empty for a good image, None where unknown."""
        if sample.label == 0:
            return np.zeros(size, dtype=bool)
        if sample.label != 1 or not self.has_masks:
            return None
        if not sample.mask_paths:
            other = next(other for other in self.samples if other.mask_paths)
            raise InputError(
                f"{sample.path}: this anomalous image has no mask although others have one, such "
                f"as {other.mask_paths[0]} of {other.path}; add one named alike "
                f"({sample.path.stem}_mask.png; {describe_mask_names()}), or leave the image out "
                "of the pixel figures with --skip-bad."
            )
        mask = load_masks(sample.mask_paths, size, image_path=sample.path)
        self.masks.add(sample.mask_paths[0], mask)
        return mask

    def _time(self, batch: torch.Tensor) -> None:
        """Time of the model alone for one prepared image on its device, in milliseconds."""
        if len(self.times) >= _TIMED_IMAGES:
            return
        if not self.images:
            for _ in range(_WARM_UP):
                self.model(batch)
        self.times.append(self._clock(lambda: self.model(batch)))
        self.alignment_times.append(self._clock(lambda: self.model.align(batch)))

    def _clock(self, work: Any) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return 1000 * (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def _name(self, path: Path) -> str:
        try:
            return path.relative_to(self.directory).as_posix()
        except ValueError:
            return path.as_posix()


def _conclude(run: _Run, category: str) -> Evaluation:
    images = run.images
    if not images:
        raise InputError(
            f"{run.directory}: {none_of(len(run.samples), 'test image', 'could be read')}; "
            f"the first: {run.skipped[0].reason}"
        )
    labelled = [item for item in images if item.label >= 0]
    scores = np.array([item.score for item in labelled], dtype=np.float64)
    labels = np.array([item.label for item in labelled], dtype=np.int64)
    good, anomalous = int((labels == 0).sum()), int((labels == 1).sum())
    figures = image_metrics(scores, labels, [item.path for item in labelled])
    curves: dict[str, Any] = {}
    if good and anomalous:
        curves["roc"] = roc_curve(scores, labels)
    if anomalous and not run.has_masks:
        pixel_figures = Figures.undefined(run.pixels.names, "no anomalous test image has a mask")
    else:
        pixel_figures = run.pixels.compute()
    curves |= pixel_figures.curves
    metrics = {**figures, **pixel_figures}
    reasons = {**figures.reasons, **pixel_figures.reasons}
    warnings = run.judging.warnings()
    if run.skipped:
        warnings.append(
            f"{part_of(len(run.skipped), len(run.samples), 'test image')} left out as unreadable"
        )
    if run.unmasked:
        warnings.append(
            f"{count(len(run.unmasked), 'test image')} left out of the pixel figures, for want of "
            "a mask that fits"
        )
    if run.limits.image is None:
        warnings.append(NO_THRESHOLD)
    hidden = [item.path for item in images if run.limits.remark(item.alignment.covered)]
    if hidden:
        warnings.append(
            f"{part_of(len(hidden), len(images), 'test image', 'are')} covered by alignment to "
            f"less than {run.limits.covered:.0%}, the least of the normal images; what was left "
            f"out was not judged: {listed(hidden)}"
        )
    for reason in dict.fromkeys(reasons.values()):
        empty = ", ".join(name for name in reasons if reasons[name] == reason)
        warnings.append(f"{reason}, so these figures are left empty: {empty}")
    made, fewest = count_mistakes(images, run.limits.image), fewest_mistakes(images)
    peak, peak_source = peak_rss_mb()
    if peak is None:
        reasons["peak_rss_mb"] = peak_source
    return Evaluation(
        category=category,
        metrics=metrics,
        reasons=reasons,
        ms_per_image=median(run.times),
        alignment_ms_per_image=median(run.alignment_times),
        peak_rss_mb=peak,
        image_threshold=run.limits.image,
        pixel_threshold=run.limits.pixel,
        counts={
            "images": len(images),
            "good": good,
            "anomalous": anomalous,
            "unlabelled": len(images) - len(labelled),
            "left_out": len(run.skipped),
            "left_out_of_pixel_figures": len(run.unmasked),
        },
        alignment={},
        protocol={},
        images=images,
        skipped=run.skipped + run.unmasked,
        warnings=warnings,
        curves=curves,
        mistakes=None if made is None else made.to_json(),
        fewest_mistakes=None if fewest is None else fewest.to_json(),
    )


def roc_curve(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    positive = labels[order] == 1
    last_of_its_score = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive)[last_of_its_score] / positive.sum()
    false = np.cumsum(~positive)[last_of_its_score] / (~positive).sum()
    return np.append(0.0, false), np.append(0.0, true)


def _evaluation_size(eval_size: str | int, model_size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width at which maps meet masks, None for each image's own."""
    if eval_size == "model":
        return (int(model_size[0]), int(model_size[1]))
    if eval_size == "native":
        return None
    side = whole_number(
        "evaluation size", eval_size, 1, _LARGEST_SIDE, text=True, other="model or native"
    )
    return (side, side)
