"""The last room: from distances in the aligned frame to a map in the image's own, and its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fastalign.models.evidence import coverage_of
from fastalign.models.region_maps import RegionMaps, largest
from fastalign.nn.fitted_gaussian import keeping_dtypes
from fastalign.nn.smoothing import gaussian_taps, upsampled_smooth
from fastalign.nn.state import in_own_state
from fastalign.numeric import LARGEST_SIGMA, real_number
from fastalign.ops import affine, anomaly_map

# Below this share of valid neighbours a pixel of the map has no evidence.
_LEAST_EVIDENCE = 0.05


def are_finite(values: Tensor) -> Tensor:
    """Which of ``[B,...]`` are free of NaN and infinity, bool ``[B]``.

    By a sum and a difference, in one pass, which hand NaN on in every runtime of exported files: a
    maximum passes over it in onnxruntime, OpenVINO and OpenCV, and OpenVINO's ``Greater(NaN, 0)``
    is true.
    """
    total = values.flatten(1).sum(1)
    return total - total == 0


def where_known(known: Tensor, values: Tensor) -> Tensor:
    """Values ``[B,...]`` of the images that are ``known [B]``, NaN for the others."""
    return torch.where(known.view(-1, *[1] * (values.dim() - 1)), values, torch.nan)


class JudgedMaps(NamedTuple):
    """score ``[B]`` and map ``[B,H,W]`` as :meth:`AnomalyMaps.forward` gives them; regions
    ``[B,R]``, the largest value in each region of interest, NaN where the score is or where nothing
    of it was seen."""

    score: Tensor
    map: Tensor
    regions: Tensor


class AnomalyMaps(nn.Module):
    """Distances to maps and scores.

    Arguments:
        image_size: height and width of the maps.
        size: height and width of the distances.
        sigma: Gaussian smoothing of the map in pixels.
        top_share: the score is the mean of this share of the map's pixels, the largest; 0: the
            largest value.

    Attributes:
        regions: what of the part is judged; None: all of it.

    Buffers:
        image_threshold, pixel_threshold: scores above them are anomalies; NaN: there are none.
    """

    image_threshold: Tensor
    pixel_threshold: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        size: tuple[int, int],
        sigma: float = 4.0,
        top_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.size = size
        self.sigma = real_number("sigma", sigma, 0, LARGEST_SIGMA)
        self.top_share = real_number("top share", top_share, 0, 1)
        self.register_buffer("image_threshold", torch.tensor(torch.nan))
        self.register_buffer("pixel_threshold", torch.tensor(torch.nan))
        self.regions: RegionMaps | None = None

    @in_own_state
    def forward(
        self,
        distance: Tensor,
        theta: Tensor | None = None,
        support: Tensor | None = None,
        whole: Tensor | None = None,
        enough: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores ``[B]``, the largest value of each map or the mean of its ``top_share``, and maps
        ``[B,H,W]`` of distances ``[B,h,w]`` of images that were aligned by theta ``[B,2,3]`` (None:
        not at all); ``support [h,w]``: see :meth:`map_from`.

        Places that nothing was compared at are NaN in a map. An image that cannot be judged has
        NaN as score and in all of its map: one whose distances are not finite, of which nothing is
        left, or that ``whole [B]`` rules out. One of which not ``enough [B]`` was seen has a map of
        what was, and NaN as score. None: all are, and of all. ``valid``: see :meth:`map_from`.
        Places outside of all regions of interest are NaN as well, and an image that shows nothing
        of one of the regions has NaN as score.
        """
        return self.judged(distance, theta, support, whole, enough, valid)[:2]

    def judged(
        self,
        distance: Tensor,
        theta: Tensor | None = None,
        support: Tensor | None = None,
        whole: Tensor | None = None,
        enough: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> JudgedMaps:
        """As :meth:`forward`, with the score of each region of interest."""
        if self.regions is None:
            maps, seen = self.map_from(distance, theta, support, valid)
            regions = shown = None
        else:
            maps, seen, regions, shown = self.regions(
                distance, theta, support, valid, self.sigma, self.top_share
            )
        judged = are_finite(maps) & seen.flatten(1).any(1)
        judged = judged if whole is None else whole & judged
        # Where nothing was seen a map is 0, below all others: a maximum passes over NaN in some
        # runtimes of exported files, and hands it on in others.
        known = judged if enough is None else judged & enough
        found = torch.where(judged[:, None, None] & seen, maps, torch.nan)
        if regions is None or shown is None:
            pixels = self.image_size[0] * self.image_size[1]
            score = where_known(known, largest(maps, self.top_share, pixels))
            return JudgedMaps(score, found, maps.new_zeros(maps.shape[0], 0))
        score = where_known(known & shown.all(1), regions.amax(1))
        return JudgedMaps(score, found, torch.where(known[:, None] & shown, regions, torch.nan))

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AnomalyMaps:
        super()._apply(keeping_dtypes(fn), recurse)
        return self

    def map_from(
        self,
        distance: Tensor,
        theta: Tensor | None,
        support: Tensor | None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Distances ``[B,h,w]`` of the aligned frame as smoothed maps of the images: upsampled and
        moved back in one step, and without what came from outside the image, or from locations
        ``[h,w]`` without support (None: all have it). ``valid``: what :meth:`valid` says of theta,
        where it is known. Maps ``[B,H,W]``, 0 where nothing was seen, and where something was, bool
        ``[B,H,W]``."""
        size = self.image_size
        if self.regions is not None:
            found = self.regions(distance, theta, support, valid, self.sigma)
            return found.maps, found.seen
        if theta is None and support is None:
            maps = upsampled_smooth(distance, size, self.sigma)
            return maps, torch.ones_like(maps, dtype=torch.bool)
        if theta is None:
            theta = affine.identity(distance.shape[0], device=distance.device)
        if valid is None:
            valid = affine.valid_mask(theta, size, self.size)
        if support is not None:
            valid = valid & support
        taps = gaussian_taps(self.sigma, device=distance.device)
        maps, share = anomaly_map(distance.unsqueeze(1), theta, valid, taps, size)
        seen = share > _LEAST_EVIDENCE
        return torch.where(seen, maps, 0), seen

    def valid(self, theta: Tensor | None) -> Tensor | None:
        """Locations ``[B,h,w]`` that came from inside the image; None: all."""
        return None if theta is None else affine.valid_mask(theta, self.image_size, self.size)

    def coverage(self, valid: Tensor | None, support: Tensor | None, images: Tensor) -> Tensor:
        """See :func:`fastalign.models.evidence.coverage_of`; with regions of interest the share of
        the one that each image shows least of."""
        of = coverage_of if self.regions is None else self.regions.coverage
        return of(valid, support, images)

    def interest(self, labels: Tensor | None, gain: Tensor | None = None) -> AnomalyMaps:
        """Judge what ``labels [H,W]`` of the part's frame say, see :class:`RegionMaps`, values of
        each region multiplied with ``gain [R]`` (None: 1); None: everything. Returns the room.

        Raises:
            ValueError: labels of another size, or without a region.
        """
        if labels is None:
            self.regions = None
            return self
        if tuple(labels.shape) != self.image_size:
            raise ValueError(
                f"labels of regions have shape {list(labels.shape)}, expected "
                f"{list(self.image_size)}"
            )
        gain = torch.ones(int(labels.max())) if gain is None else gain
        device = self.image_threshold.device
        self.regions = RegionMaps(labels.cpu(), gain.cpu(), self.size).to(device)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}image_threshold" in state_dict:
            labels = state_dict.get(f"{prefix}regions.labels")
            self.interest(labels, state_dict.get(f"{prefix}regions.gain"))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def set_thresholds(self, image: float, pixel: float) -> None:
        """Scores and map values above them are anomalies; NaN: nothing is."""
        self.image_threshold.fill_(image)
        self.pixel_threshold.fill_(pixel)
