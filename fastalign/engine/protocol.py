"""What stands beside the figures: how they were made, and what alignment did."""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from fastalign.engine.environment import describe_device, peak_rss_mb, versions
from fastalign.engine.results import ImageResult
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


def describe_protocol(
    model: FYD, size: tuple[int, int] | None, counts: dict[str, int], timed: int
) -> dict[str, Any]:
    """Everything a reader needs to repeat the figures, JSON-able.

    Args:
        model: the model evaluated.
        size: height and width at which maps met masks; None for each image's own.
        counts: numbers of test images by kind.
        timed: number of images that ``ms_per_image`` is the median of.
    """
    height, width = model.config.image_size
    extra = model.extra_metadata()
    device = model.image_threshold.device
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "images": counts,
        "image_size": f"{height} x {width} (height x width)",
        "resampling": "whole image, antialiased bilinear, aspect ratio not kept, no crop",
        "evaluation_size": "each image's own" if size is None else f"{size[0]} x {size[1]}",
        "map_resampling": "bilinear, in the frame of the image",
        "mask_resampling": "nearest",
        "threshold_source": threshold_source(model),
        "pixel_threshold_source": extra.get("pixel_threshold_source") or threshold_source(model),
        **({} if model.roi is None else {"regions_of_interest": model.roi_thresholds}),
        "density": extra.get("density"),
        "seed": extra.get("seed"),
        "timing": (
            f"median over {count(timed, 'image')}, one at a time: alignment, backbone, density, "
            "un-warping and smoothing; reading, resizing and writing files are not included"
        ),
        "memory": peak_rss_mb()[1],
        "device": describe_device(device),
        "runtime": model.features.runtime.words,
        "versions": versions(),
        "configuration": dataclasses.asdict(model.config),
    }


def threshold_source(model: FYD) -> str:
    """Where the thresholds of ``model`` come from, in words."""
    if model.image_threshold.isnan():
        return "none: fitted without normal validation images"
    return str(
        model.extra_metadata().get("threshold_source")
        or f"quantile {model.config.threshold_quantile:g} of normal validation images"
    )


def describe_alignment(model: FYD, images: list[ImageResult]) -> dict[str, Any]:
    """The model's decision about alignment with its reason, and what it did on the test images."""
    decision = model.extra_metadata().get("alignment", {})
    pairs = [
        (item.alignment.residual_before, item.alignment.residual_after)
        for item in images
        if math.isfinite(item.alignment.residual_before + item.alignment.residual_after)
    ]
    return {
        "used": decision.get("used"),
        "summary": _sentence(decision.get("summary", "")),
        "reason": _sentence(decision.get("reason", "")),
        "median_residual_before": median(before for before, _ in pairs) if pairs else None,
        "median_residual_after": median(after for _, after in pairs) if pairs else None,
        "improved_images": sum(after < before for before, after in pairs),
    }


def _sentence(text: str) -> str:
    """``text`` with a capital and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?")) else text + "."
