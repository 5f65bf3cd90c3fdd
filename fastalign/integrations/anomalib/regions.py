"""The regions of anomalib's predictions, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anomalib.data import Batch
from torch import Tensor

from fastalign.regions import Region
from fastalign.regions import find_regions as find

if TYPE_CHECKING:
    from fastalign.integrations.anomalib.module import Fyd


def find_regions(
    batch: Batch, model: Fyd | None = None, *, least_area: float = 0.0
) -> list[tuple[Region, ...]]:
    """The regions of each image of a batch that ``Engine().predict`` gave: connected places of its
    ``pred_mask``, so at anomalib's threshold, highest score first.

    Their pixels are those of the file, not turned by its EXIF orientation, as anomalib reads it;
    of an image without a file those of its map.

    Args:
        batch: with ``anomaly_map`` and ``pred_mask``.
        model: the model that made it: regions are then told in the part's frame as well.
        least_area: pixels below which a region is left out.
    """
    maps, masks = (_planes(getattr(batch, name)) for name in ("anomaly_map", "pred_mask"))
    fyd = None if model is None else model.model.fyd
    theta, part_area, roi = [None] * len(maps), 1.0, None
    if fyd is not None:
        with torch.inference_mode():
            theta = list(fyd.predict_detail(batch.image).theta.double().cpu().numpy())
        part_area, roi = fyd.density.part_area, fyd.roi
    paths = batch.image_path or [None] * len(maps)
    found = []
    for scores, mask, path, pose in zip(maps, masks, paths, theta, strict=True):
        inside = np.where(mask > 0, scores, np.nan)
        threshold = float(np.nanmin(inside)) - 1 if np.isfinite(inside).any() else None
        size = scores.shape if path is None else _size(path)
        found.append(
            find(
                inside,
                threshold,
                size,
                theta=pose,
                part_area=part_area,
                least_area=least_area,
                roi=roi,
            )
        )
    return found


def _planes(values: Tensor) -> Any:
    """``[B,h,w]`` of ``[B,1,h,w]`` or ``[B,h,w]``."""
    planes = values.detach().float().cpu()
    return (planes.squeeze(1) if planes.dim() == 4 else planes).numpy()


def _size(path: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width
