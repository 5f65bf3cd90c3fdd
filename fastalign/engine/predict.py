"""Score images that carry no label: a table, a page, and pictures of each image in its frame."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from fastalign.data import Depth, Source, load_image, prepare
from fastalign.engine.inputs import Input, find_inputs
from fastalign.engine.judging import Judging
from fastalign.engine.pictures import OUTPUTS, PictureOptions, PictureWriter
from fastalign.engine.predict_page import PredictionPage
from fastalign.engine.protocol import threshold_source
from fastalign.engine.results import Prediction, Predictions, Skipped, finite
from fastalign.engine.runfolder import PREDICTIONS, begin, reserve
from fastalign.engine.scoring import (
    NO_THRESHOLD,
    NOT_JUDGED,
    Thresholds,
    listed,
    stored_depth,
    thresholds,
)
from fastalign.engine.table import FILES, SCORES, Row, ScoresTable, encode
from fastalign.errors import InputError
from fastalign.io import atomic_write
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import whole_number
from fastalign.verdict import Verdict
from fastalign.words import none_of, part_of

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD, Detail


def predict_paths(
    model: FYD,
    source: Source,
    out: str | os.PathLike[str],
    *,
    map_format: str = "tiff",
    overlay_format: str = "jpg",
    outputs: Sequence[str] = OUTPUTS,
    picture_size: int | str | None = None,
    gallery_images: int = 120,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    batch_size: int = 1,
    skip_bad: bool = False,
    overwrite: bool = False,
    depth: Depth | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Score the images of a folder (with its sub-folders), a file, or the files a glob pattern
    matches, or of several of these.

    Written below ``out``: ``scores.csv``, row by row while the run goes on; ``maps/``, ``masks/``
    and ``overlays/`` with the folder tree of the source; in the end ``predictions.json`` and
    ``report.html``. Maps are float32 and unclamped; a mask is 255 where the map exceeds the pixel
    threshold, 128 where it could not be judged, else 0. All are in the frame of their image,
    upright as its EXIF orientation says.

    An image that cannot be read is a row with its reason. A run that ends early, whatever the
    cause, leaves the rows and pictures that it has made.

    Args:
        model: a fitted model; the device it is on is used.
        source: an existing folder or file, or a glob pattern (``**`` for any depth); or several.
        out: folder to write to; made when missing. Pictures that a run wrote there are no input.
        map_format: ``"tiff"`` (with a viewable PNG beside each) or ``"npy"``.
        overlay_format: ``"jpg"`` or ``"png"``.
        outputs: which of ``"map"``, ``"mask"``, ``"overlay"`` to write.
        picture_size: longest side of the pictures in pixels, ``"full"`` for that of the image;
            None: 1024, or that of the model where it is larger. Never larger than the image.
        gallery_images: images on the page at most, highest score first; 0 for no page.
        threshold: to use in place of the model's, for images and, without ``pixel_threshold``, for
            masks as well.
        pixel_threshold: of masks, to use in place of the model's.
        batch_size: images per forward pass.
        skip_bad: an image that cannot be read makes a warning, where the default is an error after
            all others are scored.
        overwrite: replace the results of an earlier run in ``out``: its tables and the pictures
            that they list.
        depth: of 16-bit files that state none, in place of the model's.
        progress: told about the course.

    Raises:
        ConfigError: an option has no such value, or ``out`` holds results and ``overwrite`` is not
            set.
        InputError: nothing to score, an image that cannot be read, a file that cannot be written,
            or another run that writes into ``out``.
    """
    options = PictureOptions(tuple(outputs), map_format, overlay_format, picture_size)
    batch_size = whole_number("batch size", batch_size, 1)
    most = whole_number("gallery", gallery_images)
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
        page = PredictionPage(scratch, limits, most, _words(source), depth)
        run = _Run(model, out, limits, options, table, page, notes, progress, depth)
        progress.start("scoring", len(inputs))
        try:
            for batch in _batches(inputs, batch_size):
                run.score(batch)
                progress.advance(len(batch))
            run.finish(inputs)
        except BaseException as error:
            # The first error is the cause; what is left to write may fail for the same one.
            with suppress(InputError):
                run.break_off(inputs, error)
            raise
    if run.skipped and not (skip_bad and run.images):
        raise InputError(_unread(run, inputs))
    return run.result()


def _unread(run: _Run, inputs: list[Input]) -> str:
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


def score_images(model: FYD, images: list[npt.NDArray[np.uint8]]) -> Detail:
    """What the model says of images uint8 ``[h,w,3]`` of any size."""
    batch = torch.stack([prepare(image, model.config.image_size) for image in images])
    with torch.inference_mode():
        return model.predict_detail(batch.to(model.image_threshold.device))


class _Run:
    """What a run has found so far, and what it has written of it."""

    def __init__(
        self,
        model: FYD,
        out: Path,
        limits: Thresholds,
        options: PictureOptions,
        table: ScoresTable,
        page: PredictionPage,
        notes: list[str],
        progress: Progress,
        depth: Depth | None,
    ) -> None:
        self.model, self.out, self.limits, self.depth = model, out, limits, depth
        self.table, self.page, self.progress = table, page, progress
        self.writer = PictureWriter(out, options, limits)
        self.judging = Judging(model, limits)
        given = limits != thresholds(model)
        self.source = "given for this run" if given else threshold_source(model)
        self.notes = notes
        self.images: list[Prediction] = []
        self.skipped: list[Skipped] = []
        self.rows: list[Row] = []
        if limits.image is None or (limits.pixel is None and "mask" in options.outputs):
            notes.append(NO_THRESHOLD)

    def score(self, batch: list[Input]) -> None:
        """Score a batch; its rows and pictures are written when this returns."""
        read: list[tuple[Input, npt.NDArray[np.uint8] | None, str]] = []
        for item in batch:
            try:
                read.append((item, load_image(item.path, depth=self.depth), ""))
            except InputError as error:
                read.append((item, None, str(error)))
        images = [image for _, image, _ in read if image is not None]
        detail = score_images(self.model, images) if images else None
        index = 0
        for item, image, reason in read:
            if image is None or detail is None:
                self._add_unread(item, reason)
                continue
            self._add(item, image, detail, index)
            index += 1

    def _add_unread(self, item: Input, reason: str) -> None:
        self.skipped.append(Skipped(item.name, reason))
        self.progress.note(f"warning: cannot be read: {reason}")
        self._write(Row(item.name, None, self.limits.image, Verdict.NOT_JUDGED, reason))

    def _add(self, item: Input, image: npt.NDArray[np.uint8], detail: Detail, index: int) -> None:
        row = self.judging.row(item.name, image, detail, index)
        score, reason, alignment = row.score, row.reason, row.alignment
        assert score is not None and alignment is not None
        try:
            files = self.writer.write(item, image, detail.map[index])
        except InputError as error:
            # The score is known; the run ends for want of a place for its pictures.
            cause = f"its pictures could not be written: {error}"
            self._write(replace(row, reason="; ".join(filter(None, (reason, cause)))))
            raise
        self._write(replace(row, files=files))
        placed = {kind: self.out / files[kind] if kind in files else None for kind in FILES}
        prediction = Prediction(item.name, score, row.verdict, reason, alignment, **placed)
        self.page.add(len(self.images), item.path, score, image, detail, index)
        self.images.append(prediction)

    def _write(self, row: Row) -> None:
        self.table.add(row)
        self.rows.append(row)

    def result(self) -> Predictions:
        """What is known so far."""
        warnings = [*self.notes, *self.judging.warnings()]
        if self.skipped:
            total = len(self.images) + len(self.skipped)
            warnings.append(f"{part_of(len(self.skipped), total, 'image')} could not be read")
        strange = [row for row in self.images if row.reason == NOT_JUDGED]
        if strange:
            warnings.append(
                f"{part_of(len(strange), len(self.images), 'image')} could not be judged: "
                f"{NOT_JUDGED}; the first: {strange[0].path}"
            )
        covers = self.limits.remark
        if hidden := [item for item in self.images if covers(item.alignment.covered)]:
            warnings.append(
                f"{part_of(len(hidden), len(self.images), 'image', 'are')} covered by alignment to "
                f"less than any normal image was; what was left out was not looked at. The first: "
                f"{hidden[0].path}"
            )
        limits = self.limits
        return Predictions(
            self.out, self.images, limits.image, limits.pixel, self.skipped, warnings
        )

    def finish(self, inputs: list[Input], ended: str | None = None) -> None:
        """Write what stands beside the table; ``ended`` says why the run was cut short.

        Raises:
            InputError: it cannot be written.
        """
        result = self.result()
        if ended is not None:
            result.warnings.insert(
                0, f"the run ended early ({ended}): {part_of(len(self.rows), len(inputs), 'image')}"
            )
        self.page.write(self.model, result, len(inputs))
        document = {
            "complete": ended is None,
            "images_given": len(inputs),
            "image_threshold": result.image_threshold,
            "pixel_threshold": result.pixel_threshold,
            "threshold_source": self.source,
            "images": [row.values() for row in self.rows],
            "skipped": [{"path": item.path, "reason": item.reason} for item in result.skipped],
            "warnings": result.warnings,
        }
        text = json.dumps(finite(document), indent=2, allow_nan=False)
        with atomic_write(self.out / PREDICTIONS) as file:
            file.write(encode(text + "\n"))

    def break_off(self, inputs: list[Input], error: BaseException) -> None:
        """Keep what there is after an error or an interruption."""
        if not self.rows:
            return
        self.progress.note(
            f"{part_of(len(self.rows), len(inputs), 'image', 'are')} in {self.out / SCORES}"
        )
        self.finish(inputs, type(error).__name__)
