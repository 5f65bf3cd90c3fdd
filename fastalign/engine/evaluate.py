"""Measure a fitted model on a labelled category, one image at a time."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fastalign.data import Depth, open_category
from fastalign.engine.evaluation_figures import conclude
from fastalign.engine.evaluation_run import EvaluationRun
from fastalign.engine.pipeline import Room
from fastalign.engine.protocol import describe_alignment, describe_protocol
from fastalign.engine.regions_file import COCO, REGIONS, RegionsFile
from fastalign.engine.results import Evaluation
from fastalign.engine.runfolder import earlier_evaluation, reserve
from fastalign.engine.scoring import thresholds
from fastalign.engine.timing import time_model
from fastalign.errors import InputError
from fastalign.load import LoadMeter
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import real_number, whole_number
from fastalign.report.gallery import Gallery

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

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
    keep_seen: bool = False,
    model_name: str = "",
    save_regions: bool = False,
    least_area: float = 0.0,
    memory: int | None = None,
    depth: Depth | None = None,
    learning_curve: str | os.PathLike[str] | None = None,
    curve_minutes: float = 30.0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the test images of a category and compute every figure.

    Images stream: threads read them ahead of the model and draw the report's pictures behind it,
    a few at a time. Then the model is timed by itself on the first of them.

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
        keep_seen: let test images that the model was fitted on count in the figures, where the
            default is to leave them out (:class:`fastalign.engine.leakage.SeenImages` says which).
        model_name: name of the model's file, for the protocol.
        save_regions: write ``regions.jsonl`` and ``regions.coco.json`` into ``out`` as well.
        least_area: pixels of a photograph below which a region is left out.
        memory: bytes that photographs under way may take, see
            :func:`fastalign.engine.predict_paths`.
        depth: of 16-bit files that state none, in place of the model's.
        learning_curve: a category whose good training photographs other models are fitted on, 5,
            10, 20 and so on of them with the model's own settings, and measured on the same test
            images (:mod:`fastalign.engine.learning_curve`); written as ``learning_curve.json`` and
            ``learning_curve.csv``, fit by fit. All other results are written before.
        curve_minutes: that these fits may take.
        progress: told about the course.

    Raises:
        ConfigError: an option has no such value, or ``out`` holds predictions.
        InputError: no test images, a file that cannot be read, a mask that is missing or does not
            fit its image, or ``out`` cannot be written.
    """
    size = _evaluation_size(eval_size, model.config.image_size)
    gallery_images = whole_number("gallery", gallery_images)
    least_area = real_number("least area", least_area, 0)
    curve_minutes = real_number("minutes of the learning curve", curve_minutes, 0)
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
        # Beside the pictures until all is done: results of an evaluation appear together.
        regions = None
        if save_regions and out is not None:
            aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastalign-")))
            regions = stack.enter_context(RegionsFile(aside, limits.pixel, least_area))
        run = EvaluationRun(
            model,
            Path(directory),
            category.test,
            size,
            limits,
            gallery,
            skip_bad,
            depth,
            keep_seen,
            least_area,
            regions,
        )
        run.go_through(Room.of(1, memory), progress)
        # By itself, since threads that read and draw beside it would show in its times.
        meter = LoadMeter()
        run.times = time_model(model, run.paths, run.depth, progress)
        load = meter.read()
        evaluation = conclude(run, category.name)
        run.seen.tell(evaluation)
        evaluation.warnings[:0] = [*category.notes, *run.masks.notes()]
        evaluation.alignment = describe_alignment(model, run.images)
        evaluation.protocol = {
            "data": os.fspath(directory),
            "category": category.name,
            "layout": category.layout,
            "model_file": model_name,
            **describe_protocol(model, size, evaluation.counts, len(run.times.model)),
            "images_trained_on": run.seen.policy,
            "load": load.to_json(),
        }
        if regions is not None:
            assert out is not None
            regions.write_coco(Path(out))
            evaluation.files = {name: Path(out) / name for name in (REGIONS, COCO)}

        def write() -> None:
            if out is not None:
                from fastalign.engine.outputs import write_evaluation

                to = Path(out), gallery_images, run.photograph
                evaluation.files = {
                    **write_evaluation(evaluation, gallery, *to),
                    **evaluation.files,
                }

        write()
        if learning_curve is not None:
            from fastalign.engine.learning_curve import CURVE_CSV, CURVE_JSON, CurveRun

            to = None if out is None else Path(out)
            curve = CurveRun(model, run, learning_curve, to, layout=layout, minutes=curve_minutes)
            evaluation.learning_curve = curve.go_through(progress)
            if to is not None:
                evaluation.files |= {name: to / name for name in (CURVE_CSV, CURVE_JSON)}
            write()
    return evaluation


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
