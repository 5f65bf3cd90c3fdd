"""One reader per layout of a category on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastalign.data.classes import Kind, find_good, kind_of_name
from fastalign.data.files import find_folder, subfolders
from fastalign.data.listing import list_images
from fastalign.data.pairs import matches_items, matches_pairs, read_items, read_pairs
from fastalign.data.parts import Parts, mask_folder_in, normal_in
from fastalign.data.realiad import matches_realiad, read_realiad
from fastalign.data.samples import Category
from fastalign.data.visa import matches_visa, read_visa

_VALIDATION = ("validation", "val", "valid")


@dataclass(frozen=True)
class Layout:
    """A way to lay out a category: what it looks like, and how to tell and read it."""

    name: str
    looks_for: str
    matches: Callable[[Path], bool]
    read: Callable[[Path], Category]


def _read_splits(root: Path, layout: str) -> Category:
    """MVTec AD and all that follow it: train/good, test/<kind>, ground_truth/<kind>."""
    parts = Parts(root, layout)
    normal = normal_in(root, "train")
    if normal is not None:
        parts.train = parts.good(normal, "train")
        others = [folder for folder in subfolders(normal.parent) if folder != normal]
        parts.leave([*others, normal_in(root)], f"only {normal} is learned from")
    kept_apart = find_folder(root, _VALIDATION)
    if kept_apart is not None and (good := find_good(kept_apart)) is not None:
        parts.validation = parts.good(good, "validation")
    parts.test = parts.labelled(find_folder(root, ["test"]), mask_folder_in(root), "test")
    return parts.category()


def _matches_mvtec(root: Path) -> bool:
    if normal_in(root, "train") is not None:
        return True
    test = find_folder(root, ["test"])
    return test is not None and bool(subfolders(test)) and normal_in(root) is None


def _matches_btad(root: Path) -> bool:
    normal = normal_in(root, "train")
    return normal is not None and normal.name.casefold() == "ok"


def _matches_mvtec2(root: Path) -> bool:
    return (root / "test_public").is_dir() or (
        normal_in(root, "train") is not None and (root / "test_private").is_dir()
    )


def _read_mvtec2(root: Path) -> Category:
    parts = Parts(root, "mvtec2")
    normal = normal_in(root, "train")
    if normal is not None:
        parts.train = parts.good(normal, "train")
        parts.leave([normal_in(root)], f"only {normal} is learned from")
    kept_apart = normal_in(root, "validation")
    if kept_apart is not None:
        parts.validation = parts.good(kept_apart, "validation")
    public = root / "test_public"
    parts.test = parts.labelled(public, mask_folder_in(public), "test")
    for split in ("test_private", "test_private_mixed"):
        parts.flat(root / split, split)
    return parts.category()


def _matches_visa_either(root: Path) -> bool:
    return matches_visa(root) or _matches_mvtec(root)


def _read_visa_either(root: Path) -> Category:
    return read_visa(root) if matches_visa(root) else _read_splits(root, "visa")


def _matches_folder(root: Path) -> bool:
    return normal_in(root) is not None or bool(list_images(root, below=False))


def _read_folder(root: Path) -> Category:
    """A folder of good images, or a folder with good/ and perhaps folders of defects."""
    parts = Parts(root, "folder")
    normal = normal_in(root)
    if normal is None:
        parts.train = parts.flat_good(root, "train")
        parts.leave(subfolders(root), f"only the images directly in {root} are learned from")
        return parts.category()
    parts.train = parts.good(normal, "train")
    mask_root = mask_folder_in(root)
    kept_apart = find_folder(root, _VALIDATION)
    if kept_apart is not None:
        good = find_good(kept_apart) or kept_apart
        parts.validation = parts.good(good, "validation")
    test = find_folder(root, ["test"])
    parts.test = parts.labelled(test, mask_root, "test")
    if test is None:
        taken = [folder for folder in (normal, mask_root, kept_apart) if folder is not None]
        _read_defect_folders(parts, mask_root, taken)
    return parts.category()


def _read_defect_folders(parts: Parts, mask_root: Path | None, taken: list[Path]) -> None:
    # A link and the folder that it leads to are one: good photographs are no defects.
    real = {folder.resolve() for folder in taken}
    folders = [folder for folder in subfolders(parts.root) if folder not in taken]
    same = [folder for folder in folders if folder.resolve() in real]
    parts.leave(same, "used by way of a link to it")
    folders = [folder for folder in folders if folder not in same]
    good = [folder for folder in folders if kind_of_name(folder.name) is Kind.GOOD]
    parts.leave(good, "good images by its name, but another folder is learned from")
    kinds = [folder for folder in folders if folder not in good and list_images(folder)]
    for kind in kinds:
        masks = find_folder(mask_root, [kind.name]) if mask_root else None
        if masks is None and mask_root is not None and len(kinds) == 1:
            masks = mask_root
        parts.test += parts.anomalies(kind, masks, "test")
    if kinds:
        listed = ", ".join(kind.name for kind in kinds)
        parts.notes.append(
            f"taken as anomalous test images: {listed}. For good test images beside them, use "
            "train/good, test/good and test/<defect>"
        )


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "visa",
            "Data/Images/Normal with split_csv/1cls.csv beside the folder (as published), or "
            "train/good, test/good, test/bad (converted)",
            _matches_visa_either,
            _read_visa_either,
        ),
        Layout(
            "mvtec2",
            "train/good, validation/good, test_public/good, test_public/bad",
            _matches_mvtec2,
            _read_mvtec2,
        ),
        Layout(
            "realiad",
            "OK/ and NG/<defect>/ with the masks beside their images; the split in a file named "
            "after the folder (<category>.json, beside it or in realiad_jsons/)",
            matches_realiad,
            read_realiad,
        ),
        Layout(
            "pairs",
            "train/ and test/, or one folder, whose images have masks: x_GT.png (KolektorSDD2), "
            "Label/x_label.png (DAGM), or images/ and masks/; the masks say which images are good",
            matches_pairs,
            read_pairs,
        ),
        Layout(
            "items",
            "one folder for each item with several images and masks x_label.bmp (KolektorSDD)",
            matches_items,
            read_items,
        ),
        Layout(
            "btad",
            "train/ok, test/ok, test/ko, ground_truth/ko",
            _matches_btad,
            lambda root: _read_splits(root, "btad"),
        ),
        Layout(
            "mvtec",
            "train/good, test/good, test/<defect>, ground_truth/<defect> (MVTec AD, MVTec LOCO, "
            "MPDD), good ones also as ok, normal, ok_front; with rgb/ and gt/ in each of these "
            "folders (MVTec 3D-AD)",
            _matches_mvtec,
            lambda root: _read_splits(root, "mvtec"),
        ),
        Layout(
            "folder",
            "good/ (or ok/, normal/), or images directly in the folder",
            _matches_folder,
            _read_folder,
        ),
    )
}
"""The layouts by name, in the order in which they are tried."""


def is_category(root: Path) -> bool:
    """Whether ``root`` is laid out as a category, rather than being a mere folder of images."""
    layout = detect(root)
    return layout is not None and (layout.name != "folder" or normal_in(root) is not None)


def detect(root: Path) -> Layout | None:
    """The layout of ``root``, None if it has none. A converted VisA counts as MVTec AD, which it
    cannot be told from."""
    for layout in LAYOUTS.values():
        matches = matches_visa if layout.name == "visa" else layout.matches
        if matches(root):
            return layout
    return None
