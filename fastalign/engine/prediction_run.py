"""What a run over images without labels has found so far, and what it writes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from fastalign.data import Depth
from fastalign.engine.drift import DriftTable
from fastalign.engine.inputs import Input
from fastalign.engine.judging import Judging
from fastalign.engine.pictures import PictureOptions, PictureWriter
from fastalign.engine.pipeline import Pipeline, Room, Stop
from fastalign.engine.predict_page import Card, PredictionPage
from fastalign.engine.protocol import threshold_source
from fastalign.engine.reading import Photograph, Reader
from fastalign.engine.regions_file import RegionsFile
from fastalign.engine.results import Prediction, Predictions, Skipped, finite
from fastalign.engine.runfolder import PREDICTIONS
from fastalign.engine.scoring import NO_THRESHOLD, Thresholds, score_resized, thresholds
from fastalign.engine.table import FILES, SCORES, Row, ScoresTable, encode
from fastalign.errors import InputError
from fastalign.io import atomic_write
from fastalign.models.progress import Progress
from fastalign.verdict import Verdict
from fastalign.words import part_of

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


@dataclass(frozen=True)
class _Scored:
    """A photograph between the model and its files; ``files`` grows while they are written."""

    photograph: Photograph
    row: Row
    number: int = -1
    scores: npt.NDArray[np.float32] | None = None
    card: Card | None = None
    files: dict[str, str] = field(default_factory=dict)


class _Written(NamedTuple):
    """What is left of it then: whether it has a place on the page, and what went wrong."""

    item: Input
    row: Row
    number: int
    has_card: bool
    error: Exception | None = None


class PredictionRun:
    """What a run has found so far, and what it has written of it.

    Attributes:
        images: those that were scored.
        skipped: those that cannot be read.
        rows: of the table, one for each image of either kind.
        regions: the file of their regions; None: there is none.
        drift: what watches for drift; None: nothing does.
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
        drift: DriftTable | None = None,
    ) -> None:
        self.model, self.out, self.limits, self.depth = model, out, limits, depth
        self.table, self.page, self.progress = table, page, progress
        self.writer = PictureWriter(out, options, limits)
        self.judging = Judging(model, limits, least_area, conditions=drift is not None)
        self.regions, self.drift = regions, drift
        given = limits != thresholds(model)
        self.source = "given for this run" if given else threshold_source(model)
        self.notes = notes
        self.images: list[Prediction] = []
        self.skipped: list[Skipped] = []
        self.rows: list[Row] = []
        self.stopped: Stop | None = None
        self._scored = 0
        if limits.image is None or (limits.pixel is None and "mask" in options.outputs):
            notes.append(NO_THRESHOLD)

    def go_through(self, batches: Iterable[Sequence[Input]], room: Room) -> None:
        """Score all batches; rows and pictures of an image are written before those of the next.

        Raises:
            BaseException: what went wrong, of the first image with which anything did.
        """
        reader = Reader(self.model.config.image_size, self.depth, self.writer)
        pipeline = Pipeline(
            reader.read, self._score, self._save, self._add, room, weigh=reader.weigh
        )
        try:
            pipeline.run(batches)
        finally:
            self.stopped = pipeline.stopped

    def _score(self, read: list[Photograph]) -> list[_Scored]:
        images = [photograph.resized for photograph in read if photograph.resized is not None]
        detail = score_resized(self.model, images) if images else None
        found: list[_Scored] = []
        index = 0
        for photograph in read:
            image, name = photograph.image, photograph.item.name
            if image is None or detail is None:
                unsure = Row(name, None, self.limits.image, Verdict.UNSURE, photograph.reason)
                found.append(_Scored(photograph, unsure))
                continue
            row = self.judging.row(name, image, detail, index)
            assert row.score is not None
            scores = self.writer.scores(image, detail.map[index])
            card = self.page.card(row.score, detail, index)
            found.append(_Scored(photograph, row, self._scored, scores, card))
            self._scored += 1
            index += 1
        return found

    def _save(self, scored: _Scored) -> _Written:
        """Write what is to be seen of an image, in a thread."""
        photograph, row, number = scored.photograph, scored.row, scored.number
        item, image, error = photograph.item, photograph.image, None
        if image is not None:
            try:
                self.writer.save(item, image, scored.scores, scored.files)
                if scored.card is not None:
                    self.page.draw(number, image, scored.card)
            except Exception as caught:
                # The score is known; the run ends for want of a place for its pictures.
                error = caught
                what = str(error) if isinstance(error, InputError) else repr(error)
                cause = f"its pictures could not be written: {what}"
                row = replace(row, reason="; ".join(filter(None, (row.reason, cause))))
        row = replace(row, files=scored.files)
        return _Written(item, row, number, scored.card is not None and error is None, error)

    def _add(self, written: _Written) -> None:
        item, row = written.item, written.row
        if row.score is None or row.alignment is None:
            self.skipped.append(Skipped(item.name, row.reason))
            self.progress.note(f"warning: cannot be read: {row.reason}")
        self._write(row)
        if written.error is not None:
            raise written.error
        self.progress.advance()
        if row.score is None or row.alignment is None:
            return
        placed = {kind: self.out / row.files[kind] if kind in row.files else None for kind in FILES}
        # Behind one that failed the numbers are those of other places.
        if written.has_card and written.number == len(self.images):
            self.page.add(written.number, item.path, row.score)
        self.images.append(
            Prediction(
                item.name,
                row.score,
                row.verdict,
                row.reason,
                row.alignment,
                **placed,
                regions=row.regions,
                roi=row.roi,
            )
        )

    def _write(self, row: Row) -> None:
        self.table.add(row)
        if self.regions is not None:
            self.regions.add(row)
        if self.drift is not None:
            self.drift.add(row)
        self.rows.append(row)

    def result(self) -> Predictions:
        """What is known so far."""
        warnings = [*self.notes, *self.judging.warnings()]
        if self.skipped:
            total = len(self.images) + len(self.skipped)
            warnings.append(f"{part_of(len(self.skipped), total, 'image')} could not be read")
        limits, drift = self.limits, self.drift
        if drift is not None:
            warnings += drift.warnings()
        return Predictions(
            self.out,
            self.images,
            limits.image,
            limits.pixel,
            self.skipped,
            warnings,
            [] if drift is None else list(drift.said),
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
            "drift": [said.to_json() for said in result.drift],
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
        where = ""
        if self.stopped is not None and isinstance(self.stopped.item, Input):
            where = f" while {self.stopped.stage} {self.stopped.item.name}"
        self.finish(inputs, type(error).__name__ + where)
