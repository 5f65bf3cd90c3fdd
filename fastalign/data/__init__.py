"""Photographs from disk: layouts of data sets, reading of images and masks, batches of tensors.

What makes tensors is imported when it is first used; the rest does without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastalign.data.camera import from_camera
from fastalign.data.decode import deeper_than_8_bits
from fastalign.data.depth import Depth, parse_depth
from fastalign.data.depth_survey import settle_depth
from fastalign.data.files import IMAGE_SUFFIXES, is_image_file
from fastalign.data.fingerprint import fingerprint
from fastalign.data.images import load_image, load_mask, resize_mask
from fastalign.data.layouts import open_category
from fastalign.data.listing import Listing, PassedOver, list_folder, list_images
from fastalign.data.masks import load_masks
from fastalign.data.readers import LAYOUTS
from fastalign.data.resize import resize_image
from fastalign.data.samples import ANOMALY, GOOD, UNKNOWN, Category, Sample
from fastalign.data.sources import Photographs, Source, find_photographs
from fastalign.data.split import split_validation, validation_indices

if TYPE_CHECKING:
    from fastalign.data.batches import Batch, Item, collect, iterate_batches
    from fastalign.data.dataset import ImageDataset, SkippedFile
    from fastalign.data.tensors import prepare
    from fastalign.data.twins import digest, glance, group_twins

__all__ = [
    "ANOMALY",
    "GOOD",
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "UNKNOWN",
    "Batch",
    "Category",
    "Depth",
    "ImageDataset",
    "Item",
    "Listing",
    "PassedOver",
    "Photographs",
    "Sample",
    "SkippedFile",
    "Source",
    "collect",
    "deeper_than_8_bits",
    "digest",
    "find_photographs",
    "fingerprint",
    "from_camera",
    "glance",
    "group_twins",
    "is_image_file",
    "iterate_batches",
    "list_folder",
    "list_images",
    "load_image",
    "load_mask",
    "load_masks",
    "open_category",
    "parse_depth",
    "prepare",
    "resize_image",
    "resize_mask",
    "settle_depth",
    "split_validation",
    "validation_indices",
]

# Where the names lie that need torch.
_WITH_TORCH = {
    "batches": ("Batch", "Item", "collect", "iterate_batches"),
    "dataset": ("ImageDataset", "SkippedFile"),
    "tensors": ("prepare",),
    "twins": ("digest", "glance", "group_twins"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(importlib.import_module(f"fastalign.data.{module}"), name)
    raise AttributeError(f"module 'fastalign.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
