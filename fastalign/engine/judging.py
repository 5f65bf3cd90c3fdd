"""What is said of one scored image, whoever scores it: its row in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastalign.engine.scoring import (
    NO_THRESHOLD,
    Thresholds,
    alignment_of,
    evidence_of,
    lacks_limits,
    listed,
)
from fastalign.engine.shapes import ShapeWatch
from fastalign.engine.strangers import PartWatch
from fastalign.engine.table import Row
from fastalign.models.conditions import conditions_at
from fastalign.models.detail import roi_scores
from fastalign.models.evidence import NO_LIMITS
from fastalign.models.view import NormalView
from fastalign.regions import Region, find_regions
from fastalign.verdict import Verdict
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.models.detail import Detail
    from fastalign.models.fyd import FYD


class Judging:
    """Verdicts and remarks on images, one after the other.

    Args:
        model: what scores them.
        limits: thresholds in force.
        least_area: pixels of a photograph below which a region is left out.
        conditions: whether rows say how the image was taken, for what is told of drift.
    """

    def __init__(
        self,
        model: FYD,
        limits: Thresholds,
        least_area: float = 0.0,
        *,
        conditions: bool = False,
    ) -> None:
        self._limits = limits
        metadata = model.extra_metadata() if conditions else {}
        self._aspect = (metadata.get("aspect") or 1.0) if conditions else None
        self._view = NormalView.from_record(metadata.get("normal_view"))
        self._least_area = least_area
        self._part_area = model.density.part_area
        self._roi = model.roi
        self._evidence = evidence_of(model)
        self._blind = lacks_limits(model)
        self._unsure: list[str] = []
        self._shapes = ShapeWatch(model)
        self._parts = PartWatch(model)

    def row(self, name: str, image: npt.NDArray[np.uint8], detail: Detail, index: int) -> Row:
        """The row of image ``index`` of a batch, a photograph uint8 ``[h,w,3]``."""
        score = float(detail.score[index])
        verdict = self._limits.verdict(score)
        alignment = alignment_of(detail, index)
        unsure = self._evidence.reason(detail, index)
        if unsure:
            self._unsure.append(f"{name} ({unsure})")
        elif verdict is Verdict.UNSURE:
            unsure = NO_THRESHOLD
        remarks = [
            unsure,
            self._parts.remark(name, detail, index),
            self._shapes.remark(name, image),
        ]
        reason = "; ".join(remark for remark in remarks if remark)
        size = (image.shape[0], image.shape[1])
        return Row(
            name,
            score,
            self._limits.image,
            verdict,
            reason,
            alignment=alignment,
            size=size,
            regions=self._regions(size, detail, index),
            roi={} if self._roi is None else roi_scores(self._roi, detail, index),
            conditions=(
                {}
                if self._aspect is None
                else conditions_at(detail, index, self._aspect, self._view)
            ),
        )

    def _regions(self, size: tuple[int, int], detail: Detail, index: int) -> tuple[Region, ...]:
        if self._limits.pixel is None:
            return ()
        return find_regions(
            detail.map[index].detach().float().cpu().numpy(),
            self._limits.pixel,
            size,
            theta=detail.theta[index].detach().double().cpu().numpy(),
            part_area=self._part_area,
            least_area=self._least_area,
            roi=self._roi,
        )

    def warnings(self) -> list[str]:
        """One sentence for each kind of odd image that was seen."""
        found = [NO_LIMITS] if self._blind else []
        if number := len(self._unsure):
            found.append(
                f"{count(number, 'image', 'are')} unsure, neither good nor an anomaly: "
                f"{listed(self._unsure)}"
            )
        return [*found, *self._parts.warnings(), *self._shapes.warnings()]
