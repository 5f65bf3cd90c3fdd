"""What is known about a model, from its file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastalign import artifact
from fastalign.engine.results import finite

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


def about_regions(model: FYD) -> dict[str, dict[str, float]] | None:
    """Of each region of interest by name the ``share`` of the part's frame that it takes, 0 to 1,
    and its ``threshold``, NaN where there is none; None: all of the part is judged."""
    if model.roi is None:
        return None
    limits = model.roi_thresholds
    return {
        name: {"share": share, "threshold": limits[name]}
        for name, share in model.roi.shares.items()
    }


def about_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model was fitted on, how it aligns and where it draws the line, JSON-able.

    Raises:
        ArtifactError: the file is none of a model.
    """
    model = artifact.load(path, runtime="torch")
    record = model.record
    alignment = record.alignment or {}
    height, width = model.config.image_size
    about = {
        "model": os.fspath(path),
        "images": dict(record.images or {}),
        "photographs": (record.photographs or {}).get("typical"),
        "image size": f"{width} x {height}",
        "backbone": model.config.backbone,
        "alignment": alignment.get("summary"),
        "density": record.density,
        "image threshold": float(model.image_threshold),
        "pixel threshold": float(model.pixel_threshold),
        "threshold source": record.threshold_source,
        "regions of interest": about_regions(model),
    }
    return finite(about)
