"""A model that judges regions of interest: drawn on a photograph, kept in the part's frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastalign.errors import ConfigError, InputError
from fastalign.models.interest import Interest
from fastalign.models.judged_regions import judge_regions
from fastalign.models.persistence import PersistentModel
from fastalign.models.photographs import Photographs, tensors
from fastalign.nn.state import made_in_own_state
from fastalign.ops import warp_affine
from fastalign.roi import RegionsOfInterest, read_regions

if TYPE_CHECKING:
    from typing_extensions import Self

# How much finer regions are carried to the part's frame than the model's images are.
_FINER = 4
# Width over height may differ by so much: pictures have whole pixels.
_LIKE = 0.03


class RegionalModel(PersistentModel):
    """A model whose regions of interest can be set; arguments, attributes and errors are those of
    :class:`fastalign.models.room_model.RoomModel`."""

    @property
    def roi(self) -> RegionsOfInterest | None:
        """What of the part is judged, as labels of the part's frame; None: all of it."""
        interest = Interest.from_record(self.record.regions_of_interest)
        if interest is None or self.maps.regions is None:
            return None
        return RegionsOfInterest(tuple(interest.names), self.maps.regions.labels.cpu().numpy())

    @property
    def roi_thresholds(self) -> dict[str, float]:
        """The threshold of each region of interest by its name, in the unit of the distances; NaN:
        there is none. Empty where the whole part is judged."""
        roi = self.roi
        if roi is None or self.maps.regions is None:
            return {}
        limits = float(self.image_threshold) / self.maps.regions.gain.cpu()
        return dict(zip(roi.names, limits.tolist(), strict=True))

    @made_in_own_state
    def set_roi(
        self,
        roi: RegionsOfInterest | str | os.PathLike[str] | None,
        *,
        drawn_on: Photographs | None = None,
    ) -> Self:
        """Judge these regions of the part alone, wherever the part lies; returns the model.

        The density stays as it is. Thresholds are those that a fit with these regions gives, bit
        for bit: they are derived from distances of normal images that the fit has kept. Those that
        :meth:`set_threshold` has changed are those of the fit again.

        Args:
            roi: drawn on an aligned photograph, as ``fastalign roi`` writes it: a file, see
                :func:`fastalign.roi.read_regions`, or labels. None: judge all of the part.
            drawn_on: the photograph that they were drawn on, where that is not aligned: they are
                carried to the part's frame by its pose.

        Raises:
            InputError: no regions; some that were drawn on a picture of another shape, are too
                small or too far outside; or a photograph whose pose is not found.
            ConfigError: not fitted, or the model does not keep distances of normal images: fit it
                again with the regions.
        """
        if not self.density.fitted:
            raise ConfigError("the model is not fitted: give the regions to fit(..., roi=...).")
        regions = None if roi is None else self._in_part_frame(as_regions(roi), drawn_on)
        with torch.inference_mode(False), torch.no_grad():
            self.record = judge_regions(self.rooms, self.record, regions)
        self.replays.forget()
        return self

    def _in_part_frame(
        self, regions: RegionsOfInterest, drawn_on: Photographs | None
    ) -> RegionsOfInterest:
        size = self.config.image_size
        if drawn_on is None:
            ranges = (self.record.photographs or {}).get("aspect") or [self.aspect]
            _require_like(regions, ranges, size[1] / size[0], "an aligned photograph")
            return regions
        (name, shape, image), *others = tensors(drawn_on, size, self.depth)
        if others:
            raise InputError("regions of interest are drawn on one photograph; give that one.")
        _require_like(regions, [shape[1] / shape[0]], size[1] / size[0], name)
        with torch.inference_mode():
            found = self.pose.locate(image[None].to(self.features.device))
        if found.theta is None:
            return regions
        placed = self.evidence.placed(found.residual)
        if placed is not None and not bool(placed):
            raise InputError(
                f"{name}: the pose of the part was not found, so regions that were drawn on it "
                "cannot be carried to others; draw them on a photograph of a good part."
            )
        labels = torch.from_numpy(regions.labels.astype(np.float32))[None, None]
        finer = (_FINER * size[0], _FINER * size[1])
        moved = warp_affine(labels, found.theta.cpu(), size=finer, mode="nearest")[0, 0]
        return RegionsOfInterest(regions.names, moved.numpy().astype(np.uint8))


def _require_like(
    regions: RegionsOfInterest, aspects: Sequence[float], own: float, what: str
) -> None:
    """Refuse regions that were drawn on a picture of another shape.

    Args:
        aspects: the least and the largest width over height of ``what``.
        own: that of the model's images, which will do as well.
    """
    height, width = regions.size
    drawn, (low, high) = width / height, (min(aspects), max(aspects))
    within = low / (1 + _LIKE) <= drawn <= high * (1 + _LIKE)
    if within or abs(drawn / own - 1) <= _LIKE:
        return
    shown = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
    raise InputError(
        f"regions of interest: they were drawn on {width} x {height} pixels, {drawn:.3g} times as "
        f"wide as high, where {what} is {shown}; draw them on the picture that fastalign roi "
        "writes, or give the photograph that they were drawn on."
    )


def as_regions(roi: RegionsOfInterest | str | os.PathLike[str]) -> RegionsOfInterest:
    """Regions of a file, or as they are.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    return roi if isinstance(roi, RegionsOfInterest) else read_regions(roi)
