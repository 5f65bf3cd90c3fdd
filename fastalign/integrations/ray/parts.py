"""The output: one Parquet file of scores for each part of the input, whole or not there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastalign.engine.table import COLUMNS, FILES, roi_text
from fastalign.engine.table import Row as ImageRow
from fastalign.errors import InputError
from fastalign.io import atomic_write
from fastalign.verdict import Verdict

SCORES = "scores"
_KEY = b"fastalign"
# All columns of a table of scores but those that take labels, and those of its pictures.
_COLUMNS = tuple(name for name in COLUMNS if name not in ("truth", "defect", "trained_on", *FILES))


@dataclass(frozen=True)
class Row:
    """One image of the output.

    Attributes:
        index: position in the input, from 0.
        image: what is said of it, as in every table of scores.
        ms: milliseconds in the worker: reading, the image's share of the forward pass, writing.
        pictures: files written for it by kind, relative to the output folder; and ``regions``, its
            regions as JSON.
    """

    index: int
    image: ImageRow
    ms: float
    pictures: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What a part holds: images with rows, those without a score, those that are anomalies."""

    images: int
    errors: int
    anomalies: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.images + other.images,
            self.errors + other.errors,
            self.anomalies + other.anomalies,
        )


def part_name(part: int) -> str:
    """``part-00012``: of the pictures' folders and, with its ending, of the scores."""
    return f"part-{part:05d}"


def part_path(out: Path, part: int) -> Path:
    """The file of scores of a part."""
    return out / SCORES / f"{part_name(part)}.parquet"


def write_part(
    out: Path,
    part: int,
    rows: list[Row],
    *,
    job: str,
    model: str,
    images: str,
    outputs: tuple[str, ...],
) -> Counts:
    """Write a part; the file appears under its name when it is complete. ``images`` is the
    fingerprint of its images as they were before they were scored.

    Raises:
        InputError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = Counts(
        len(rows),
        sum(row.image.score is None or not math.isfinite(row.image.score) for row in rows),
        sum(row.image.verdict is Verdict.ANOMALY for row in rows),
    )
    texts = ("path", "verdict", "reason", "roi")
    fields = [
        ("index", pa.int64()),
        *((name, pa.string() if name in texts else pa.float32()) for name in _COLUMNS),
        ("model", pa.string()),
        ("ms", pa.float32()),
        *((name, pa.string()) for name in outputs),
    ]
    columns = [
        {
            **row.image.values(),
            "roi": roi_text(row.image.roi),
            "index": row.index,
            "ms": row.ms,
            "model": model,
            **row.pictures,
        }
        for row in rows
    ]
    about = {"job": job, "part": part, "content": images, **asdict(counts)}
    schema = pa.schema(fields, metadata={_KEY: json.dumps(about)})
    table = pa.table(
        {name: [row.get(name) for row in columns] for name, _ in fields}, schema=schema
    )
    with atomic_write(part_path(out, part)) as file:
        pq.write_table(table, file)
    return counts


def read_counts(path: Path, part: int, job: str, images: str | None = None) -> Counts | None:
    """What a finished part says about itself; None where it is not there yet, or, with ``images``,
    where it was made of images with another fingerprint.

    Raises:
        InputError: the file is damaged, or not of this job.
    """
    import pyarrow
    import pyarrow.parquet as pq

    remedy = "remove this file, and the next run writes it anew"
    try:
        metadata = pq.read_metadata(path)
        about: dict[str, Any] = json.loads((metadata.metadata or {})[_KEY])
        counts = Counts(about["images"], about["errors"], about["anomalies"])
        rows, owner = metadata.num_rows, (about["job"], about["part"])
        content = about["content"]
    except FileNotFoundError:
        return None
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: this finished part cannot be read ({type(error).__name__}: {error}); "
            f"{remedy}."
        ) from error
    if owner != (job, part) or rows != counts.images:
        raise InputError(f"{path}: this part was not written by this run; {remedy}.")
    return counts if images in (None, content) else None


def text_of(name: str | os.PathLike[str]) -> str:
    """A file name as text that Parquet can hold: bytes that are no UTF-8 become ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
