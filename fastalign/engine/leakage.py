"""Test images that the model was fitted on: found, and kept out of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastalign.data import ANOMALY, digest, glance
from fastalign.engine.results import Evaluation, ImageResult
from fastalign.engine.scoring import listed
from fastalign.metrics import image_metrics
from fastalign.models.known import Known, KnownImages
from fastalign.words import agree, count

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

UNKNOWN = (
    "the model's file does not say which images it was fitted on (an earlier version wrote it), so "
    "test images that were trained on count in the figures"
)


@dataclass(frozen=True)
class Seen:
    """A test image that is one of the fit.

    Attributes:
        path: of the test image. known: the image of the fit.
        label: 0 good, 1 anomaly, -1 unknown.
        counted: it counts in the figures all the same.
    """

    path: str
    known: Known
    label: int
    counted: bool

    @property
    def remark(self) -> str:
        """What a table says of it."""
        how = "trained on" if self.known.same else "nearly an image that was trained on"
        where = "counts in the figures" if self.counted else "left out of the figures"
        return f"{how} ({self.known.name}); {where}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "path": self.path,
            "training_image": self.known.name,
            "same_pixels": self.known.same,
            "in_figures": self.counted,
        }


class SeenImages:
    """Looks for images of the fit among test images, one after the other.

    Left out of the figures are images with the pixels of one of the fit, and nearly such ones that
    are not labelled as anomalies: a defect that was painted into a training image, or a part before
    and after it broke, is nearly the same picture too.

    Args:
        model: the model evaluated.
        keep: let all of them count.
    """

    def __init__(self, model: FYD, keep: bool) -> None:
        record = model.extra_metadata().get("known_images")
        self._known = None if record is None else KnownImages.from_record(record)
        self._keep = keep
        self.found: list[Seen] = []

    def look(self, path: str, label: int, image: Tensor) -> Seen | None:
        """What is known of a test image ``[1,3,H,W]`` as the model sees it."""
        if self._known is None:
            return None
        known = self._known.find(digest(image[0]), glance(image))
        if known is None:
            return None
        counted = self._keep or not (known.same or label != ANOMALY)
        self.found.append(Seen(path, known, label, counted))
        return self.found[-1]

    @property
    def policy(self) -> str:
        """What is done with them, for the protocol."""
        if self._known is None:
            return UNKNOWN
        return "count in the figures, as asked" if self._keep else "left out of the figures"

    def tell(self, evaluation: Evaluation) -> None:
        """Write what was found into ``evaluation``, image figures with and without all of it, and
        warnings."""
        if self._known is None:
            evaluation.warnings.append(UNKNOWN)
        if not self.found:
            return
        seen = {item.path for item in self.found}
        images = evaluation.images
        evaluation.seen_in_training = [item.to_json() for item in self.found]
        evaluation.with_seen = _figures(images)
        evaluation.without_seen = _figures([item for item in images if item.path not in seen])
        evaluation.warnings[:0] = self._warnings(evaluation)

    def _warnings(self, evaluation: Evaluation) -> list[str]:
        found = []
        for same, what in (
            (True, "what the model was fitted on, pixel by pixel"),
            (False, "nearly what the model was fitted on"),
        ):
            if group := [item for item in self.found if item.known.same == same]:
                pairs = listed([f"{item.path} = {item.known.name}" for item in group])
                found.append(f"{count(len(group), 'test image', 'show')} {what}: {pairs}")
        left = [item for item in self.found if not item.counted]
        kept = [item for item in self.found if item.counted]
        told = []
        if left:
            told.append(
                f"{len(left)} of them {agree(len(left), 'are')} left out of the figures"
                f"{_auroc(', which with them have', evaluation.with_seen)}"
            )
        if kept and not self._keep:
            told.append(
                f"{len(kept)} labelled as {'anomalies' if len(kept) > 1 else 'an anomaly'} "
                f"{agree(len(kept), 'count')}, since a defect may be all that differs"
            )
        if kept and self._keep:
            told.append(
                "the figures count them, as asked"
                f"{_auroc('; without them they have', evaluation.without_seen)}"
            )
        return [f"{'. '.join(found)}. {'; '.join(told)}."]


def _auroc(words: str, figures: dict[str, float | None]) -> str:
    value = figures["image_auroc"]
    return "" if value is None else f"{words} an image AUROC of {value:.4f}"


def _figures(images: Sequence[ImageResult]) -> dict[str, float | None]:
    known = [item for item in images if item.label >= 0 and item.scored]
    return dict(image_metrics([item.score for item in known], [item.label for item in known]))
