"""What is known about a fit, besides the model that came out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Decision:
    """Whether images, or features, are aligned.

    Attributes:
        used: whether they are.
        summary: how, for people.
        reason: why, for people.
        unexplained: share of held-out normal images that their mean leaves unexplained, for each
            family that was tried.
        fca: the decision about feature-level warps.
    """

    used: bool
    summary: str = ""
    reason: str = ""
    unexplained: Mapping[str, float] | None = None
    fca: Decision | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, without what is not known."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["fca"] = None if self.fca is None else self.fca.to_json()
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Decision:
        """The decision of :meth:`to_json`."""
        known = {item.name: plain[item.name] for item in fields(cls) if item.name in plain}
        fca = known.pop("fca", None)
        return cls(**known, fca=None if fca is None else cls.from_json(fca))


@dataclass(frozen=True)
class FitRecord:
    """A fit in plain data.

    Attributes:
        aspect: width over height of the photographs in true units.
        seed: of everything random.
        images: how many, by set.
        alignment: the decision about it, as :meth:`Decision.to_json` gives it.
        training: what was logged, by epoch.
        parts: the optional parts of the model, with what restores them.
        threshold_source: where the threshold of images comes from, in words.
        pixel_threshold_source: the same of pixels; None: that of images.
        fitted_thresholds: ``image``, ``pixel`` and ``source`` of the fit, and ``pixel_source``
            where that of pixels is another, where they were changed since.
        normal_scores: ``scores`` of normal images, ascending, that the thresholds are a quantile
            of, and ``of``, what images they are, in words.
        evidence: how normal images are covered and aligned, and what is asked of others, the record
            of :class:`fastalign.models.evidence.Evidence`.
        prior: of the Gaussians' covariances: its ``strength`` in photographs, the ``shrinkage``
            added to the variances, and ``likelihood``, pairs of a candidate strength and the mean
            of -2 log density per feature of held-out photographs; of their means, where these are
            drawn, ``mean``: ``towards``, ``strength`` and ``gain``
            (:class:`fastalign.nn.MeanPrior`); None: there is none.
        density: what the density is and why, in words.
        normal_whole: ``distance``, the largest distance of a whole normal image that the density
            has not seen, and ``residual``, the largest of their alignment, where there is any.
        score_unit: the distance that scores and maps are in units of: the median score of normal
            images that the density has not seen, so that 1 is an ordinary good image; None:
            distances as they are.
        normal_distances: by which thresholds of regions of interest are derived, the record of
            :class:`fastalign.models.normal.NormalDistances`.
        regions_of_interest: what of the part is judged, the record of
            :class:`fastalign.models.interest.Interest`; None: all of it.
        normal_conditions: how the normal images were taken, by statistic the record of
            :class:`fastalign.drift.normal.Normal`; None: they are too few, or an earlier version
            fitted.
        normal_view: by which a move of the camera is seen where images are not aligned, the record
            of :class:`fastalign.models.view.NormalView`; None: they are, or as above.
        warnings: what the user has to know, in sentences.
        known_images: by which images of the fit are known again, the record of
            :class:`fastalign.models.known.KnownImages`.
        photographs: ``typical``, the most frequent size in words, and the ranges of ``width`` in
            pixels and ``aspect``, width over height; None for tensors.
        depth: of 16-bit photographs whose files state none, as its record.
        others: what a file says beyond these.
    """

    aspect: float | None = None
    seed: int | None = None
    images: Mapping[str, int] | None = None
    alignment: Mapping[str, Any] | None = None
    training: Sequence[Mapping[str, float]] | None = None
    parts: Mapping[str, Any] | None = None
    threshold_source: str | None = None
    pixel_threshold_source: str | None = None
    fitted_thresholds: Mapping[str, Any] | None = None
    normal_scores: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] | None = None
    prior: Mapping[str, Any] | None = None
    density: str | None = None
    normal_whole: Mapping[str, float] | None = None
    score_unit: float | None = None
    normal_distances: Mapping[str, Any] | None = None
    regions_of_interest: Mapping[str, Any] | None = None
    normal_conditions: Mapping[str, Any] | None = None
    normal_view: Mapping[str, Any] | None = None
    warnings: Sequence[str] | None = None
    known_images: Mapping[str, Any] | None = None
    photographs: Mapping[str, Any] | None = None
    depth: Mapping[str, Any] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """As a file keeps it: JSON-able, without what is not known."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        others = plain.pop("others")
        return {**{k: v for k, v in plain.items() if v is not None}, **others}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> FitRecord:
        """The record of :meth:`metadata`."""
        known = {item.name for item in fields(cls)} - {"others"}
        mine = {name: value for name, value in metadata.items() if name in known}
        return cls(**mine, others={k: v for k, v in metadata.items() if k not in known})
