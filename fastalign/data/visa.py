"""VisA as published: one folder per object, the split in a table beside them."""

from __future__ import annotations

import csv
from pathlib import Path

from fastalign.data.parts import Parts
from fastalign.data.samples import ANOMALY, GOOD, Category, Sample
from fastalign.errors import InputError

_CSV = Path("split_csv") / "1cls.csv"
_COLUMNS = ("object", "split", "label", "image", "mask")


def matches_visa(root: Path) -> bool:
    return (root / "Data" / "Images" / "Normal").is_dir()


def read_visa(root: Path) -> Category:
    """Read one object; its folder must keep its name, which the table uses."""
    parts = Parts(root, "visa", reasons={root: "not in the split table"})
    # The table's paths start with the object's name, whatever path the user came by.
    name = root.resolve().name
    places = (root.resolve().parent / _CSV, root / _CSV)
    table = next((place for place in places if place.is_file()), None)
    if table is None:
        raise InputError(
            f"{root}: VisA's split table was not found; looked for {places[0]} and {places[1]}. "
            "Keep the folder split_csv of the download beside the objects' folders."
        )
    parts.read.add(table)
    for row in _rows(table, name):
        inside = Path(row["image"].strip())
        path = _file(table, root, inside, name)
        good = row["label"].strip().casefold() == "normal"
        mask = row["mask"].strip()
        sample = Sample(
            path=path,
            label=GOOD if good else ANOMALY,
            defect="good" if good else "anomaly",
            mask_paths=(_file(table, root, Path(mask), name),) if mask and not good else (),
            split=row["split"].strip().casefold(),
        )
        if sample.split == "train" and not good:
            raise InputError(
                f"{table}: {inside.as_posix()} is an anomalous training image; the tables of "
                "supervised splits cannot be used, take 1cls.csv."
            )
        (parts.train if sample.split == "train" else parts.test).append(sample)
    return parts.category()


def _rows(table: Path, name: str) -> list[dict[str, str]]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table}: the split table cannot be read: {error}; restore it from the download."
        ) from error
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise InputError(
            f"{table}: the split table lacks the columns {', '.join(missing)}; expected "
            f"{','.join(_COLUMNS)}, found {','.join(columns) or 'none'}."
        )
    own = [row for row in rows if row["object"].strip() == name]
    if not own:
        objects = sorted({row["object"].strip() for row in rows})
        raise InputError(
            f"{table}: no row for the object {name!r}; the folder must keep the name it has in the "
            f"table: {', '.join(objects) or 'the table is empty'}."
        )
    unknown = sorted({row["split"].strip() for row in own} - {"train", "test"})
    if unknown:
        raise InputError(
            f"{table}: the split {unknown[0]!r} is neither train nor test; restore the table from "
            "the download."
        )
    return own


def _file(table: Path, root: Path, inside: Path, name: str) -> Path:
    """A file that the table names, as a path below ``root``."""
    relative = Path(*inside.parts[1:]) if inside.parts[:1] == (name,) else inside
    path = root / relative
    if not path.is_file():
        raise InputError(
            f"{path}: {table.name} names this file, but it is not there; restore it from the "
            "download."
        )
    return path
