"""Opening a category, whatever its layout."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from fastalign.data.files import IMAGE_SUFFIXES, is_hidden, subfolders
from fastalign.data.readers import LAYOUTS, detect, is_category
from fastalign.data.samples import Category
from fastalign.errors import ConfigError, InputError
from fastalign.words import count

_SHOWN = 8


def open_category(
    path: str | os.PathLike[str], layout: str = "auto", *, require_masks: bool = False
) -> Category:
    """List the images of a category. No image is read.

    Args:
        path: folder of one category.
        layout: a name of :data:`LAYOUTS`, or ``"auto"`` to recognise it.
        require_masks: make a missing mask of an anomalous test image an error. Without it the mask
            is None and ``notes`` says how many are missing, which is enough for figures per image.

    Raises:
        ConfigError: there is no such layout.
        InputError: the folder is missing, empty or in another layout; it holds several categories;
            two masks fit one image; a mask is missing and ``require_masks`` is set.
    """
    root = Path(path)
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r}: choose one of auto, {', '.join(LAYOUTS)}.")
    if not root.exists() and glob.has_magic(str(path)):
        raise InputError(
            f"{path}: a pattern of files cannot be a category; give the folder that holds them."
        )
    if not root.exists():
        raise InputError(f"{path}: there is no such folder; check the path.")
    if not root.is_dir():
        raise InputError(f"{path}: this is a file; give the folder of a category.")
    found = detect(root) if layout == "auto" else LAYOUTS[layout]
    if found is None or not found.matches(root):
        raise InputError(_nothing_found(root, layout))
    category = found.read(root)
    if require_masks:
        _require_masks(category)
    return category


def _require_masks(category: Category) -> None:
    missing = [sample for sample in category.anomalous if not sample.mask_paths]
    if missing:
        raise InputError(
            f"{missing[0].path}: no mask for this anomalous image, and for {len(missing) - 1} "
            f"others; expected {missing[0].path.stem}_mask.png, {missing[0].path.stem}_GT.png, a "
            "file of the same name or a folder of that name with several masks, in the folder of "
            "masks (ground_truth/<defect>). Add it, or evaluate per image only."
        )


def _nothing_found(root: Path, layout: str) -> str:
    tried = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]
    entries = sorted(entry.name for entry in root.iterdir() if not is_hidden(entry.name))
    if not entries:
        return f"{root}: the folder is empty; put the good images into it, or into {root / 'good'}."
    inside = [folder.name for folder in subfolders(root) if is_category(folder)]
    if layout == "auto" and inside and not _is_part(inside):
        return (
            f"{root}: this folder holds {count(len(inside), 'category')} ({_shorten(inside)}); "
            f"give one of them, such as {root / inside[0]}."
        )
    wanted = "\n".join(f"  {item.name}: {item.looks_for}" for item in tried)
    return (
        f"{root}: no category in a known layout. Looked for\n{wanted}\nand found: "
        f"{_shorten(entries)}. Put the good images into {root / 'good'}. These endings count as "
        f"images: {' '.join(sorted(IMAGE_SUFFIXES))}"
    )


def _is_part(names: list[str]) -> bool:
    """Whether the folders are those of a category that lacks its good images."""
    return any(name.casefold() in ("train", "test", "ground_truth") for name in names)


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
