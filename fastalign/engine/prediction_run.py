"""What a run over images without labels has found so far, and what it writes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastalign.data import Depth, load_image
from fastalign.engine.inputs import Input
from fastalign.engine.judging import Judging
from fastalign.engine.pictures import PictureOptions, PictureWriter
from fastalign.engine.predict_page import PredictionPage
from fastalign.engine.protocol import threshold_source
from fastalign.engine.regions_file import RegionsFile
from fastalign.engine.results import Prediction, Predictions, Skipped, finite
from fastalign.engine.runfolder import PREDICTIONS
from fastalign.engine.scoring import NO_THRESHOLD, Thresholds, score_images, thresholds
from fastalign.engine.table import FILES, SCORES, Row, ScoresTable, encode
from fastalign.errors import InputError
from fastalign.io import atomic_write
from fastalign.models.progress import Progress
from fastalign.verdict import Verdict
from fastalign.words import part_of

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD, Detail


class PredictionRun:
    """What a run has found so far, and what it has written of it.

    Attributes:
        images: those that were scored.
        skipped: those that cannot be read.
        rows: of the table, one for each image of either kind.
        regions: the file of their regions; None: there is none.
    """

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
        least_area: float = 0.0,
        regions: RegionsFile | None = None,
    ) -> None:
        self.model, self.out, self.limits, self.depth = model, out, limits, depth
        self.table, self.page, self.progress = table, page, progress
        self.writer = PictureWriter(out, options, limits)
        self.judging = Judging(model, limits, least_area)
        self.regions = regions
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
        self._write(Row(item.name, None, self.limits.image, Verdict.UNSURE, reason))

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
        prediction = Prediction(
            item.name, score, row.verdict, reason, alignment, **placed, regions=row.regions
        )
        self.page.add(len(self.images), item.path, score, image, detail, index)
        self.images.append(prediction)

    def _write(self, row: Row) -> None:
        self.table.add(row)
        if self.regions is not None:
            self.regions.add(row)
        self.rows.append(row)

    def result(self) -> Predictions:
        """What is known so far."""
        warnings = [*self.notes, *self.judging.warnings()]
        if self.skipped:
            total = len(self.images) + len(self.skipped)
            warnings.append(f"{part_of(len(self.skipped), total, 'image')} could not be read")
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
        if self.regions is not None:
            self.regions.write_coco()
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
