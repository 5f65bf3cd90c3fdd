"""Photographs from disk: layouts of data sets, reading of images and masks, batches of tensors."""

from fastalign.data.dataset import (
    Batch,
    ImageDataset,
    Item,
    SkippedFile,
    collect,
    iterate_batches,
    prepare,
)
from fastalign.data.files import IMAGE_SUFFIXES, is_image_file, list_images
from fastalign.data.images import load_image, load_mask, resize_mask
from fastalign.data.layouts import open_category
from fastalign.data.readers import LAYOUTS
from fastalign.data.samples import ANOMALY, GOOD, UNKNOWN, Category, Sample
from fastalign.data.split import split_validation, validation_indices

__all__ = [
    "ANOMALY",
    "GOOD",
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "UNKNOWN",
    "Batch",
    "Category",
    "ImageDataset",
    "Item",
    "Sample",
    "SkippedFile",
    "collect",
    "is_image_file",
    "iterate_batches",
    "list_images",
    "load_image",
    "load_mask",
    "open_category",
    "prepare",
    "resize_mask",
    "split_validation",
    "validation_indices",
]
