"""Real-IAD: OK/ and NG/<defect>/ with the masks beside their images, the split in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastalign.data.files import find_folder, subfolders
from fastalign.data.parts import Parts
from fastalign.data.samples import ANOMALY, GOOD, Category, Sample
from fastalign.errors import InputError

_FOLDERS = ("", "realiad_jsons", "realiad_jsons/realiad_jsons", "realiad_jsons_sv")


def matches_realiad(root: Path) -> bool:
    return find_folder(root, ["OK"]) is not None and find_folder(root, ["NG"]) is not None


def read_realiad(root: Path) -> Category:
    """Read one category: by its split where the JSON file is found, else all of OK/ to learn from.

    Raises:
        InputError: the split cannot be read, or names a file that is not there.
    """
    parts = Parts(root, "realiad")
    table = _find_split(root)
    if table is not None:
        _read_split(parts, root, table)
        return parts.category()
    good, defects = find_folder(root, ["OK"]), find_folder(root, ["NG"])
    if good is not None:
        parts.train = parts.good(good, "train")
    for kind in subfolders(defects) if defects is not None else ():
        parts.test += parts.anomalies(kind, None, "test")
    parts.notes.append(
        f"no file {root.resolve().name}.json beside the folder or in realiad_jsons/: all images of "
        "OK are learned from, so that none is left to evaluate with"
    )
    return parts.category()


def _find_split(root: Path) -> Path | None:
    real = root.resolve()
    name = f"{real.name}.json"
    places = [root / name]
    for above in (real.parent, real.parent.parent):
        places += [above / folder / name for folder in _FOLDERS]
    return next((place for place in places if place.is_file()), None)


def _read_split(parts: Parts, root: Path, table: Path) -> None:
    remedy = "restore it from the download"
    try:
        document: Any = json.loads(table.read_text(encoding="utf-8"))
        splits = {split: list(document[split]) for split in ("train", "test")}
        rows = [(split, dict(row)) for split, found in splits.items() for row in found]
        entries = [
            (split, row["image_path"], row["anomaly_class"], row.get("mask_path"))
            for split, row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{table}: the split cannot be read ({type(error).__name__}: {error}); {remedy}."
        ) from error
    parts.read.add(table)
    for split, image, kind, mask in entries:
        good = kind == "OK"
        if split == "train" and not good:
            raise InputError(
                f"{table}: {image} is an anomalous training image; take a split of realiad_jsons, "
                "whose training images are good."
            )
        sample = Sample(
            path=_file(table, root, image),
            label=GOOD if good else ANOMALY,
            defect="good" if good else str(kind),
            mask_paths=(_file(table, root, mask),) if mask and not good else (),
            split=split,
        )
        (parts.train if split == "train" else parts.test).append(sample)
    parts.leave([root], f"not in the split {table.name}")


def _file(table: Path, root: Path, inside: str) -> Path:
    for path in (root / inside, root.parent / inside):
        if path.is_file():
            return path
    raise InputError(
        f"{root / inside}: {table.name} names this file, but it is not there; restore it from the "
        "download."
    )
