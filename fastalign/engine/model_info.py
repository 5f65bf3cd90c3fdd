"""What is known about a model, from its file."""

from __future__ import annotations

import os
from typing import Any

from fastalign import artifact
from fastalign.engine.results import finite


def about_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model was fitted on, how it aligns and where it draws the line, JSON-able.

    Raises:
        ArtifactError: the file is none of a model.
    """
    model = artifact.load(path, runtime="torch")
    record = model.record
    alignment = record.alignment or {}
    height, width = model.config.image_size
    regions = None
    if model.roi is not None:
        limits = model.roi_thresholds
        regions = {
            name: {"share": share, "threshold": limits[name]}
            for name, share in model.roi.shares.items()
        }
    about = {
        "model": os.fspath(path),
        "images": dict(record.images or {}),
        "photographs": (record.photographs or {}).get("typical"),
        "image size": f"{width} x {height}",
        "backbone": model.config.backbone,
        "alignment": alignment.get("summary"),
        "image threshold": float(model.image_threshold),
        "pixel threshold": float(model.pixel_threshold),
        "threshold source": record.threshold_source,
        "regions of interest": regions,
    }
    return finite(about)
