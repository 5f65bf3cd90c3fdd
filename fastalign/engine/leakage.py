"""Test images that the model was fitted on: named, and what the figures are without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fastalign.engine.results import Evaluation, ImageResult
from fastalign.engine.scoring import listed
from fastalign.metrics import image_metrics
from fastalign.models.fitting.survey import known_images
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


def find_seen(
    model: FYD, images: Sequence[ImageResult], glances: Sequence[torch.Tensor]
) -> list[tuple[str, str]]:
    """Paths of the test images that are twins of an image of the fit, each with the name that this
    had; none where the model's file does not know its images.

    Args:
        model: the model evaluated.
        images: the test images.
        glances: what :func:`fastalign.data.glance` keeps of each, ``[1,D]``.
    """
    record = model.extra_metadata().get("known_images")
    if record is None or not glances:
        return []
    found = known_images(record, torch.cat(list(glances)))
    return [(item.path, name) for item, name in zip(images, found, strict=True) if name]


def tell_seen(evaluation: Evaluation, pairs: list[tuple[str, str]]) -> None:
    """Write the pairs and the figures of the other images into ``evaluation``, with a warning."""
    if not pairs:
        return
    seen = dict(pairs)
    others = [item for item in evaluation.images if item.label >= 0 and item.path not in seen]
    figures = image_metrics([item.score for item in others], [item.label for item in others])
    evaluation.seen_in_training = pairs
    evaluation.without_seen = dict(figures)
    auroc = figures["image_auroc"]
    without = "" if auroc is None else f", without them the image AUROC is {auroc:.4f}"
    evaluation.warnings.insert(
        0,
        f"{count(len(pairs), 'test image', 'show')} what the model was fitted on, or nearly: "
        f"{listed([f'{path} = {name}' for path, name in pairs])}. The figures count them{without}; "
        "take them out of the test set or of the training set.",
    )
