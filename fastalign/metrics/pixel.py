"""Figures per pixel: where is the defect?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.data.images import resize_mask
from fastalign.errors import ConfigError, InputError
from fastalign.metrics.compact import Keys, PackedKeys, to_keys
from fastalign.metrics.curve import Steps, area, average_precision, points
from fastalign.metrics.figures import Figures
from fastalign.numeric import real_number, whole_pair

Map: TypeAlias = "npt.NDArray[np.float32] | Tensor"
Mask: TypeAlias = "npt.NDArray[np.bool_] | Tensor"

_NEIGHBOURS = np.ones((3, 3), dtype=bool)


class PixelMetrics:
    """Exact pixel AUROC, average precision and AUPRO, one image at a time.

    AUPRO is the area under the per-region overlap curve of Bergmann et al. (MVTec AD, IJCV 2021):
    the overlap, averaged over all connected regions of all masks (8 neighbours), over the
    false-positive rate among all pixels outside them, integrated to a limit and divided by it.
    Every distinct score is a threshold: nothing is binned or sampled. Pixels with equal scores
    enter each curve as one step, with a straight line across it.

    Memory: good pixels take 1 to 2 bytes each as a rule, never more than 4, kept without loss;
    anomalous pixels take 8. ``nbytes`` tells. ``compute`` needs some 60 bytes per anomalous pixel
    and 20 per pixel of the largest image on top, whatever the number of images.

    Args:
        size: height and width at which maps and masks are compared: maps are resampled to it
            bilinearly, without antialiasing, masks by nearest neighbour. None compares each map at
            the size of its mask, and the two must agree.
        limits: false-positive rates for AUPRO; 0.3 gives the figure ``aupro_30``.

    Raises:
        ConfigError: ``size`` or ``limits`` make no sense.
    """

    def __init__(
        self, size: tuple[int, int] | None = None, limits: Sequence[float] = (0.3, 0.05)
    ) -> None:
        self.size = None
        if size is not None:
            self.size = whole_pair("evaluation size", size, because="height and width in pixels")
        if not limits:
            raise ConfigError("false-positive limits: give at least one, such as (0.3,).")
        limits = [real_number("false-positive limit", one, 0, 1, above=True) for one in limits]
        self._limits = {f"aupro_{100 * limit:02.0f}": limit for limit in limits}
        self._good: list[PackedKeys] = []
        self._good_pixels = 0
        self._anomalous: list[Keys] = []
        self._regions: list[npt.NDArray[np.int32]] = []
        self._region_sizes: list[npt.NDArray[np.int64]] = []
        self._region_count = 0
        self.images = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the figures that ``compute`` returns."""
        return ("pixel_auroc", "pixel_ap", *self._limits)

    @property
    def nbytes(self) -> int:
        """Memory taken by the scores so far, in bytes."""
        good = sum(packed.nbytes for packed in self._good)
        parts = (self._anomalous, self._regions, self._region_sizes)
        return good + sum(array.nbytes for part in parts for array in part)

    def update(self, scores: Map, mask: Mask, name: str | None = None) -> None:
        """Take in one image.

        Args:
            scores: raw anomaly map ``[H, W]``, float32 (other dtypes are cast to it), unclamped.
            mask: bool ``[H, W]``, True where the image is anomalous; all False for a good image.
            name: the image's name, for errors; its number by default.

        Raises:
            InputError: the map holds a NaN or an infinity.
            ValueError: a shape or dtype is wrong.
        """
        name = name if name is not None else f"image {self.images}"
        values, truth = self._at_size(_as_array(scores), _as_array(mask), name)
        broken = values.size - int(np.count_nonzero(np.isfinite(values)))
        if broken:
            raise InputError(
                f"{name}: {broken} of {values.size} values of its anomaly map are NaN or infinite; "
                "scores must be finite. Check the image and the model."
            )
        keys = to_keys(values)
        if truth.any():
            self._add_regions(keys, truth)
            keys = keys[~truth]
        if keys.size:
            self._good.append(PackedKeys.pack(np.sort(keys, axis=None)))
            self._good_pixels += keys.size
        self.images += 1

    def _at_size(
        self,
        scores: npt.NDArray[np.generic],
        mask: npt.NDArray[np.generic],
        name: str,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        if scores.ndim != 2 or mask.ndim != 2 or 0 in scores.shape or 0 in mask.shape:
            raise ValueError(
                f"{name}: map {list(scores.shape)}, mask {list(mask.shape)}: give both as [H, W]."
            )
        if mask.dtype != np.bool_ or not np.issubdtype(scores.dtype, np.floating):
            raise ValueError(
                f"{name}: map of {scores.dtype} and mask of {mask.dtype}: give floating-point "
                "scores and a bool mask."
            )
        with np.errstate(over="ignore"):
            values = scores.astype(np.float32, copy=False)
        truth: npt.NDArray[np.bool_] = mask.astype(np.bool_, copy=False)
        if self.size is not None:
            return _resize_map(values, self.size), resize_mask(truth, self.size)
        if values.shape != truth.shape:
            raise ValueError(
                f"{name}: the map is {list(values.shape)}, the mask {list(truth.shape)}; resample "
                "one of them, or name an evaluation size: PixelMetrics(size=(H, W))."
            )
        return values, truth

    def _add_regions(self, keys: Keys, truth: npt.NDArray[np.bool_]) -> None:
        from scipy import ndimage

        rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        labels, count = ndimage.label(truth[box], structure=_NEIGHBOURS)
        inside = labels[labels > 0] - 1
        self._anomalous.append(keys[box][labels > 0])
        self._regions.append((inside + self._region_count).astype(np.int32))
        self._region_sizes.append(np.bincount(inside, minlength=count))
        self._region_count += count

    def compute(self) -> Figures:
        """All figures over the images so far; more may follow.

        Returns:
            ``pixel_auroc``, ``pixel_ap``, ``aupro_30``, ``aupro_05`` (or as ``limits`` say); all
            None, with a reason, unless there are both good and anomalous pixels. Among its
            ``curves``, ``"pro"`` is the mean overlap of a region over false-positive rates up to
            the largest limit.
        """
        if not self._region_count or not self._good_pixels:
            missing = "good" if self._region_count else "anomalous"
            return Figures.undefined(self.names, f"there are no {missing} pixels")
        levels, hits, overlap = self._levels()
        between, ties = self._count_good(levels)
        after = np.cumsum((between[1:] + ties)[::-1])
        steps = Steps(
            before=after - ties[::-1], after=after, hits=hits[::-1], good=self._good_pixels
        )
        found = np.cumsum(steps.hits)
        overlap = np.cumsum(overlap[::-1]) / self._region_count
        figures: dict[str, float | None] = {
            "pixel_auroc": area(steps, found / found[-1]),
            "pixel_ap": average_precision(steps),
        }
        figures.update({name: area(steps, overlap, limit) for name, limit in self._limits.items()})
        return Figures(figures, curves={"pro": points(steps, overlap, max(self._limits.values()))})

    def _levels(self) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Distinct anomalous keys, rising; how many pixels have each; and how much of a region,
        summed over the regions, they are."""
        keys = np.concatenate(self._anomalous)
        share = 1.0 / np.concatenate(self._region_sizes)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        weights = share[np.concatenate(self._regions)[order]]
        hits = np.diff(np.append(starts, keys.size))
        return keys[starts], hits, np.add.reduceat(weights, starts)

    def _count_good(self, levels: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Good pixels strictly between the levels (``[K + 1]``, from below the lowest to above the
        highest), and on each of them (``[K]``)."""
        between = np.zeros(levels.size + 1, np.int64)
        ties = np.zeros(levels.size, np.int64)
        for packed in self._good:
            keys = packed.unpack()
            # The keys are sorted, so that equal places follow each other.
            places = np.searchsorted(levels, keys)
            tied = levels[np.minimum(places, levels.size - 1)] == keys
            for counts, group in ((ties, places[tied]), (between, places[~tied])):
                starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
                if group.size:
                    counts[group[starts]] += np.diff(np.append(starts, group.size))
        return between, ties


def _as_array(values: npt.NDArray[np.generic] | Tensor) -> npt.NDArray[np.generic]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _resize_map(scores: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    if scores.shape == size:
        return scores
    tensor = torch.from_numpy(np.ascontiguousarray(scores))[None, None]
    resized: npt.NDArray[np.float32] = F.interpolate(
        tensor, size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    return resized
