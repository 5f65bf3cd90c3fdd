"""Data sets without folders of kinds, whose masks say which images are good."""

from __future__ import annotations

import re
from pathlib import Path

from fastalign.data.beside import tell_apart
from fastalign.data.files import find_folder, subfolders
from fastalign.data.listing import holds_outputs, list_images
from fastalign.data.parts import IMAGE_FOLDERS, Parts, mask_folder_in, normal_in
from fastalign.data.samples import Category

_PROBED = 3


def matches_pairs(root: Path) -> bool:
    """KolektorSDD2 (``x.png`` and ``x_GT.png`` in train/ and test/), DAGM (``Label/x_label.PNG`` in
    Train/ and Test/), and any folder of images with masks that has no folders of kinds."""
    return any(_has_pairs(place) for place in _places(root).values())


def read_pairs(root: Path) -> Category:
    """Good images of train/ to learn from, and all of test/; of a single folder the good ones to
    learn from and the others to evaluate."""
    parts = Parts(root, "pairs")
    places = _places(root)
    if "all" in places:
        parts.by_masks(root, "test")
        good = [sample for sample in parts.test if not sample.mask_paths]
        parts.move_good(good)
        parts.notes.append(
            "the masks say which images are good; all of these are learned from, so that none is "
            "left to evaluate with. For that use train/ and test/"
        )
    for split, place in places.items():
        if split != "all":
            parts.by_masks(place, split)
    return parts.category()


def matches_items(root: Path) -> bool:
    """KolektorSDD: folders kos01 to kos50, each with some images of one item and their masks."""
    items = subfolders(root)
    return (
        len(items) > 1
        and not list_images(root, below=False)
        and all(map(_has_pairs_beside, items[:_PROBED]))
    )


def read_items(root: Path) -> Category:
    """Every second item is for evaluation, and so are the defects of the others; the good images of
    these are learned from. No item has good images on both sides."""
    parts = Parts(root, "items")
    items = sorted(subfolders(root), key=lambda item: _natural(item.name))
    for number, item in enumerate(items):
        parts.by_masks(item, "test")
        if number % 2 == 0:
            parts.move_good([s for s in parts.test if s.path.parent == item and not s.mask_paths])
    parts.notes.append(
        f"the data set has no split: the good images of every second item, from {items[0].name} "
        "on, are learned from, all others are for evaluation"
    )
    return parts.category()


def _places(root: Path) -> dict[str, Path]:
    found = {name: find_folder(root, [name]) for name in ("train", "test")}
    places = {name: place for name, place in found.items() if place is not None}
    if places:
        return {} if any(normal_in(place) for place in places.values()) else places
    # Masks beside a table of predictions are what a model made of the images.
    return {} if normal_in(root) or holds_outputs(root) else {"all": root}


def _has_pairs(folder: Path) -> bool:
    if _has_pairs_beside(folder):
        return True
    if mask_folder_in(folder) is None:
        return False
    images = find_folder(folder, IMAGE_FOLDERS)
    return bool(list_images(images or folder, below=images is not None))


def _has_pairs_beside(folder: Path) -> bool:
    found = tell_apart(list_images(folder, below=False))
    return bool(found.marked or found.same)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key under which item 10 comes after item 9."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]
