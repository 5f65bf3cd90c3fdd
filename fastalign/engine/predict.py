"""Score images that carry no label: a table, a page, and pictures of each image in its frame."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastalign.data import Depth, Source
from fastalign.drift.normal import LEAST
from fastalign.drift.settings import INTERVAL
from fastalign.engine.drift import DRIFT, NO_NORMAL, DriftTable, drift_interval, monitor_of
from fastalign.engine.inputs import Input, find_inputs
from fastalign.engine.pictures import REGIONS, PictureOptions
from fastalign.engine.pipeline import Room
from fastalign.engine.predict_page import PredictionPage
from fastalign.engine.prediction_run import PredictionRun
from fastalign.engine.regions_file import RegionsFile
from fastalign.engine.results import Predictions
from fastalign.engine.runfolder import begin, reserve
from fastalign.engine.scoring import listed, stored_depth, thresholds
from fastalign.engine.table import FILES, SCORES, ScoresTable
from fastalign.errors import InputError
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import real_number, whole_number
from fastalign.words import none_of, part_of

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


def predict_paths(
    model: FYD,
    source: Source,
    out: str | os.PathLike[str],
    *,
    map_format: str = "tiff",
    overlay_format: str = "jpg",
    outputs: Sequence[str] = FILES,
    picture_size: int | str | None = None,
    gallery_images: int = 120,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    least_area: float = 0.0,
    drift: int = INTERVAL,
    batch_size: int = 1,
    skip_bad: bool = False,
    overwrite: bool = False,
    memory: int | None = None,
    depth: Depth | None = None,
    model_name: str = "",
    progress: Progress | None = None,
) -> Predictions:
    """Score the images of a folder (with its sub-folders), a file, or the files a glob pattern
    matches, or of several of these.

    Written below ``out``: ``scores.csv``, row by row while the run goes on; ``maps/``, ``masks/``
    and ``overlays/`` with the folder tree of the source; in the end ``predictions.json`` and
    ``report.html``. Maps are float32 and unclamped; a mask is 255 where the map exceeds the pixel
    threshold, 128 where it could not be judged, else 0. All are in the frame of their image,
    upright as its EXIF orientation says.

    Threads read images ahead of the model and write what it found behind it; rows keep the order of
    the images, and no file depends on how many threads there are.

    An image that cannot be read is a row with its reason. A run that ends early, whatever the
    cause, leaves the rows and pictures that it has made.

    Args:
        model: a fitted model; the device it is on is used.
        source: an existing folder or file, or a glob pattern (``**`` for any depth); or several.
        out: folder to write to; made when missing. Pictures that a run wrote there are no input.
        map_format: ``"tiff"`` (with a viewable PNG beside each) or ``"npy"``.
        overlay_format: ``"jpg"`` or ``"png"``.
        outputs: which of ``"map"``, ``"mask"``, ``"overlay"`` and ``"regions"`` to write; the last
            are ``regions.jsonl``, a line for each image as it is scored, and in the end
            ``regions.coco.json``.
        picture_size: longest side of the pictures in pixels, ``"full"`` for that of the image;
            None: 1024, or that of the model where it is larger. Never larger than the image.
        gallery_images: images on the page at most, highest score first; 0 for no page.
        threshold: to use in place of the model's, for images and, without ``pixel_threshold``, for
            masks as well.
        pixel_threshold: of masks, to use in place of the model's.
        least_area: pixels of a photograph below which a region is left out; its verdict stays.
        drift: images between two false statements of drift on average
            (:class:`fastalign.drift.DriftMonitor`); those that are made are the rows of
            ``drift.csv``. 0: drift is not looked for. Images are taken to be in the order in which
            they were made.
        batch_size: images per forward pass.
        skip_bad: an image that cannot be read makes a warning, where the default is an error after
            all others are scored.
        overwrite: replace the results of an earlier run in ``out``: its tables and the pictures
            that they list.
        memory: bytes that photographs may take between reading and writing, on top of what the
            model needs; None: 512 MiB. One batch is under way whatever it takes.
        depth: of 16-bit files that state none, in place of the model's.
        model_name: name of the model's file, for the page.
        progress: told about the course.

    Raises:
        ConfigError: an option has no such value, or ``out`` holds results and ``overwrite`` is not
            set.
        InputError: nothing to score, an image that cannot be read, a file that cannot be written,
            or another run that writes into ``out``.
    """
    options = PictureOptions(tuple(outputs), map_format, overlay_format, picture_size)
    batch_size = whole_number("batch size", batch_size, 1)
    if memory is not None:
        memory = whole_number("memory", memory)
    most = whole_number("gallery", gallery_images)
    least_area = real_number("least area", least_area, 0)
    interval = drift_interval(drift)
    stored = thresholds(model)
    limits = stored.given(threshold, pixel_threshold)
    out = Path(out)
    inputs, passed_over = find_inputs(source, outputs=out)
    progress = progress or NoProgress()
    with ExitStack() as stack:
        stack.enter_context(reserve(out))
        notes = [*passed_over, *begin(out, overwrite=overwrite)]
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastalign-")))
        table = stack.enter_context(ScoresTable(out / SCORES))
        depth = depth or stored_depth(model)
        words = _words(source)
        page = PredictionPage(scratch, limits, most, words, depth, memory is None, model_name)
        regions = None
        if REGIONS in options.outputs:
            regions = stack.enter_context(RegionsFile(out, limits.pixel, least_area))
        watched = None
        if (monitor := monitor_of(model, interval)) is not None:
            watched = stack.enter_context(DriftTable(out / DRIFT, monitor))
        elif interval and len(inputs) >= LEAST:
            notes.append(NO_NORMAL)
        run = PredictionRun(
            model,
            out,
            limits,
            options,
            table,
            page,
            notes,
            progress,
            depth,
            least_area,
            regions,
            watched,
        )
        progress.start("scoring", len(inputs))
        try:
            run.go_through(_batches(inputs, batch_size), Room.of(batch_size, memory))
            run.finish(inputs)
        except BaseException as error:
            # The first error is the cause; what is left to write may fail for the same one.
            with suppress(InputError):
                run.break_off(inputs, error)
            raise
    if run.skipped and not (skip_bad and run.images):
        raise InputError(_unread(run, inputs))
    return run.result()


def _unread(run: PredictionRun, inputs: list[Input]) -> str:
    first, others = run.skipped[0], len(run.skipped) - 1
    if not run.images:
        return f"{none_of(len(inputs), 'image', 'could be read')}; the first: {first.reason}"
    more = f"; {others} more could not be read" if others else ""
    cause = first.reason.rstrip(".")
    return (
        f"{cause}{more}. {part_of(len(run.images), len(inputs), 'image', 'are')} scored: "
        f"{run.table.path}"
    )


def _words(source: Source) -> str:
    parts = [source] if isinstance(source, (str, os.PathLike)) else source
    return listed([os.fspath(part) for part in parts])


def _batches(inputs: list[Input], size: int) -> Iterator[list[Input]]:
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]
