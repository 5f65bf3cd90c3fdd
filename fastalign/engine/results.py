"""What the engine hands back: plain dataclasses, no tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastalign.drift.statement import Statement
from fastalign.metrics.learning import LearningCurve
from fastalign.regions import Region
from fastalign.verdict import Verdict

METRICS = (
    "image_auroc",
    "image_ap",
    "image_f1max",
    "pixel_auroc",
    "pixel_ap",
    "aupro_30",
    "aupro_05",
)


@dataclass(frozen=True)
class Skipped:
    """A file that was left out because the user asked for it (``skip_bad``), and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Alignment:
    """How one image was aligned.

    ``residual_before`` and ``residual_after`` are 1 minus the correlation of the image's edges with
    the mean of the training images, without and with the warp; ``shift`` is a fraction of the image
    size, ``rotation`` in degrees, ``scale`` a factor, ``covered`` the fraction of the aligned frame
    that came from inside the image.
    """

    residual_before: float
    residual_after: float
    shift: float
    rotation: float
    scale: float
    covered: float


@dataclass(frozen=True)
class ImageResult:
    """One test image: ``path`` relative to the category, ``label`` 0 good, 1 anomaly, -1 unknown.

    ``predicted`` is 1 when the score exceeds the model's threshold, 0 when not, None when the
    model has no threshold. ``reason``: what speaks against a verdict; empty: nothing.
    ``trained_on``: the image of the fit that it is, or nearly is; empty: none. ``counted``: it has
    a part in the figures. ``regions``: its places above the pixel threshold, highest score first.
    ``roi``: the score of each region of interest, None where it has none.
    """

    path: str
    defect: str
    label: int
    score: float
    predicted: int | None
    alignment: Alignment
    reason: str = ""
    trained_on: str = ""
    counted: bool = True
    regions: tuple[Region, ...] = ()
    roi: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Whether it has a score."""
        return math.isfinite(self.score)

    @property
    def wrong(self) -> bool:
        """True when the model's verdict contradicts the label."""
        return self.predicted is not None and self.label >= 0 and self.predicted != self.label


@dataclass(frozen=True)
class FitOutcome:
    """A finished ``fit``: where the artifact lies and what went into it.

    ``depth`` says in words how many bits of 16-bit files were read; None: there were none.
    ``regions``: names of the regions of interest; empty: all of the part is judged.
    """

    out: Path
    category: str
    layout: str
    train_images: int
    validation_images: int
    image_threshold: float | None
    pixel_threshold: float | None
    seconds: float
    resumed: bool
    depth: str | None
    skipped: list[Skipped]
    warnings: list[str]
    details: dict[str, Any]
    regions: Sequence[str] = ()


@dataclass
class Evaluation:
    """A finished ``evaluate``; a metric that is None has its reason in ``reasons``.

    ``seen_in_training``: test images that the model was fitted on, each with ``path``,
    ``training_image``, ``same_pixels`` (else nearly) and whether it counts ``in_figures``;
    ``with_seen`` and ``without_seen``: the figures of images either way. ``mistakes``: at the
    stored threshold, ``fewest_mistakes``: at the one with the fewest on these images, which was
    chosen by looking at them.
    ``learning_curve``: of fits on fewer photographs, where it was asked for.
    """

    category: str
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    ms_per_image: float | None
    alignment_ms_per_image: float | None
    peak_rss_mb: float | None
    image_threshold: float | None
    pixel_threshold: float | None
    counts: dict[str, int]
    alignment: dict[str, Any]
    protocol: dict[str, Any]
    images: list[ImageResult]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    seen_in_training: list[dict[str, Any]] = field(default_factory=list)
    with_seen: dict[str, float | None] = field(default_factory=dict)
    without_seen: dict[str, float | None] = field(default_factory=dict)
    mistakes: dict[str, Any] | None = None
    fewest_mistakes: dict[str, Any] | None = None
    learning_curve: LearningCurve | None = None
    files: dict[str, Path] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of ``results.json``: figures at the top level, NaN and infinity as None."""
        figures = {name: self.metrics.get(name) for name in METRICS}
        document = {
            "category": self.category,
            "mistakes": self.mistakes,
            **figures,
            "ms_per_image": self.ms_per_image,
            "alignment_ms_per_image": self.alignment_ms_per_image,
            "peak_rss_mb": self.peak_rss_mb,
            "reasons": self.reasons,
            "image_threshold": self.image_threshold,
            "pixel_threshold": self.pixel_threshold,
            "counts": self.counts,
            "alignment": self.alignment,
            "protocol": self.protocol,
            "seen_in_training": self.seen_in_training,
            "with_seen": self.with_seen,
            "without_seen": self.without_seen,
            "fewest_mistakes_on_these_images": self.fewest_mistakes,
            "skipped": [asdict(item) for item in self.skipped],
            "warnings": self.warnings,
        }
        if self.learning_curve is not None:
            document["learning_curve"] = self.learning_curve.to_json()
        return finite(document)


@dataclass(frozen=True)
class Prediction:
    """One scored image.

    Attributes:
        path: the image as the source names it.
        score: its score.
        verdict: what the score says at the threshold in force.
        reason: why it is unsure, or what speaks against the verdict; empty without such.
        alignment: how it was aligned.
        map, mask, overlay: the files written for it; None where there are none.
        regions: its places above the pixel threshold, highest score first.
        roi: the score of each region of interest, None where it has none; empty where the whole
            part is judged.
    """

    path: str
    score: float
    verdict: Verdict
    reason: str
    alignment: Alignment
    map: Path | None = None
    mask: Path | None = None
    overlay: Path | None = None
    regions: tuple[Region, ...] = ()
    roi: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """``"good"`` or ``"anomaly"``; None for an image that is unsure."""
        return None if self.verdict is Verdict.UNSURE else self.verdict.text


@dataclass(frozen=True)
class Predictions:
    """A finished ``predict``: scored images and those that could not be read, in the order of the
    source, and what was said of drift meanwhile."""

    out: Path
    images: list[Prediction]
    image_threshold: float | None
    pixel_threshold: float | None
    skipped: list[Skipped]
    warnings: list[str]
    drift: list[Statement] = field(default_factory=list)

    def of(self, verdict: Verdict) -> list[Prediction]:
        """The scored images with this verdict, highest score first."""
        found = [item for item in self.images if item.verdict is verdict]
        return sorted(found, key=lambda item: (-rank(item.score), item.path))


def order_by_error(images: list[ImageResult], threshold: float | None) -> list[int]:
    """Indices of ``images``, worst first.

    Misclassified images come first, the clearest mistake leading; then those that are unsure; then
    the right ones, the closest call leading. Without a threshold or any label: highest score first,
    led by scores that are no numbers.
    """
    if threshold is None or all(item.label < 0 for item in images):
        return sorted(range(len(images)), key=lambda i: (-rank(images[i].score), images[i].path))

    def key(i: int) -> tuple[int, float, str]:
        item = images[i]
        margin = abs(item.score - threshold)
        if not item.scored:
            return (1, 0.0, item.path)
        return (0, -margin, item.path) if item.wrong else (2, margin, item.path)

    return sorted(range(len(images)), key=key)


def rank(score: float) -> float:
    """A score to sort by: one that is no number stands above all others."""
    return score if math.isfinite(score) else math.inf


def finite(value: Any) -> Any:
    """``value`` with NaN and infinities as None and paths as text: what JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
