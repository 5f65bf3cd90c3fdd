"""The page of a prediction: the template of the report, of images that carry no label."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastalign.data import Depth, load_image
from fastalign.engine.protocol import describe_alignment, describe_protocol
from fastalign.engine.reading import reading_ahead
from fastalign.engine.results import Evaluation, ImageResult, Predictions, rank
from fastalign.engine.runfolder import REPORT
from fastalign.engine.scoring import Thresholds, aligned_picture, thresholds
from fastalign.engine.texts import write_texts
from fastalign.load import LoadMeter
from fastalign.report.gallery import Gallery
from fastalign.verdict import Verdict

if TYPE_CHECKING:
    from fastalign.models.detail import Detail
    from fastalign.models.fyd import FYD


@dataclass(frozen=True)
class Card:
    """What the page shows of an image besides the photograph.

    Attributes:
        scores: map ``[h,w]`` float32 in the image's frame.
        aligned, covered: as :func:`fastalign.engine.scoring.aligned_picture` gives them.
    """

    scores: npt.NDArray[np.float32]
    aligned: npt.NDArray[np.uint8]
    covered: npt.NDArray[np.bool_]


class PredictionPage:
    """Keeps the pictures of the images with the highest scores, and writes the page.

    Args:
        folder: an empty folder for the pictures of one run.
        limits: thresholds in force.
        most: images shown at most; 0: no page.
        data: what is scored, in words.
        depth: of 16-bit files that state none.
        ahead: whether the page may hold two photographs at a time while it is written.
        model_name: name of the model's file.
    """

    def __init__(
        self,
        folder: Path,
        limits: Thresholds,
        most: int,
        data: str,
        depth: Depth | None,
        ahead: bool = True,
        model_name: str = "",
    ) -> None:
        self._ahead = ahead
        self._model_name = model_name
        self._gallery = Gallery(folder, limits.pixel_or_nan)
        self._most = most
        self._data = data
        self._depth = depth
        self._seen: list[float] = []
        self._kept: list[tuple[float, int]] = []
        self._paths: dict[int, Path] = {}
        self._load = LoadMeter()

    def card(self, score: float, detail: Detail, index: int) -> Card | None:
        """What is to be drawn of the next image of the run, which is ``index`` in ``detail``; None
        where so many before it have higher scores that it will not be shown."""
        if not self._among_highest(rank(score)):
            return None
        aligned, covered = aligned_picture(detail, index)
        return Card(detail.map[index].float().cpu().numpy(), aligned, covered)

    def _among_highest(self, place: float) -> bool:
        if len(self._seen) < self._most:
            heapq.heappush(self._seen, place)
            return True
        if not self._most or place <= self._seen[0]:
            return False
        heapq.heapreplace(self._seen, place)
        return True

    def draw(self, number: int, image: npt.NDArray[np.uint8], card: Card) -> None:
        """Make the pictures of image ``number`` of the run; several threads may do so at once."""
        self._gallery.add(number, image, card.scores, None, card.aligned, card.covered)

    def add(self, number: int, path: Path, score: float) -> None:
        """Take image ``number`` of the run, which was drawn, if it is among the highest so far."""
        entry = (rank(score), -number)
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, entry)
        else:
            _, dropped = heapq.heappushpop(self._kept, entry)
            self._gallery.remove(-dropped)
            self._paths.pop(-dropped, None)
            if -dropped == number:
                return
        self._paths[number] = path

    def _photograph(self, number: int) -> npt.NDArray[np.uint8]:
        return load_image(self._paths[number], depth=self._depth)

    def write(self, model: FYD, result: Predictions, given: int) -> None:
        """Write the page into the folder of the run.

        Raises:
            InputError: it cannot be written.
        """
        if not self._kept:
            return
        from fastalign.report.page import render_report

        images = [
            ImageResult(
                path=item.path,
                defect="",
                label=-1,
                score=item.score,
                predicted=None if item.verdict is Verdict.UNSURE else int(item.verdict),
                alignment=item.alignment,
                reason=item.reason,
                regions=item.regions,
            )
            for item in result.images
        ]
        counts = {
            "images": given,
            "scored": len(images),
            "anomalous": len(result.of(Verdict.ANOMALY)),
            "good": len(result.of(Verdict.GOOD)),
            "unsure": len(result.of(Verdict.UNSURE)) + len(result.skipped),
        }
        protocol = {
            "data": self._data,
            "model_file": self._model_name,
            **describe_protocol(model, None, counts, 0),
        }
        stored = thresholds(model)
        for name, used, of_model in (
            ("threshold_source", result.image_threshold, stored.image),
            ("pixel_threshold_source", result.pixel_threshold, stored.pixel),
        ):
            if used != of_model:
                protocol[name] = "given for this run"
        # The threads of this run wait for each other's cores, which says nothing of other work.
        protocol["load"] = replace(self._load.read(), waited=None).to_json()
        for name in ("evaluation_size", "mask_resampling", "timing", "memory"):
            del protocol[name]
        evaluation = Evaluation(
            category=result.out.resolve().name,
            metrics={},
            reasons={},
            ms_per_image=None,
            alignment_ms_per_image=None,
            peak_rss_mb=None,
            image_threshold=result.image_threshold,
            pixel_threshold=result.pixel_threshold,
            counts=counts,
            alignment=describe_alignment(model, images),
            protocol=protocol,
            images=images,
            skipped=result.skipped,
            warnings=result.warnings,
        )
        order = [-number for _, number in sorted(self._kept, reverse=True)]
        with reading_ahead(self._photograph, order if self._ahead else ()) as photograph:
            text = render_report(evaluation, self._gallery, order=order, photograph=photograph)
        write_texts(result.out, {REPORT: text})
