"""A run over a collection: what it is to do, as the output folder holds it, and what is done.

The folder tells all that a later run needs: ``job.json`` names the model, the options and the
input, ``plan.parquet`` lists the images, one row group for each part. Parts are cut once and for
all, and part ``n`` goes to ``scores/part-n.parquet`` whoever writes it, so that an image can only
ever stand in one place of the output.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastalign.data import fingerprint
from fastalign.engine.inputs import Input
from fastalign.engine.pictures import PictureOptions
from fastalign.engine.scoring import Thresholds
from fastalign.errors import ArtifactError
from fastalign.integrations.ray.parts import Counts, part_path, read_counts
from fastalign.io import atomic_write

JOB = "job.json"
PLAN = "plan.parquet"
SUMMARY = "summary.json"
_ATTEMPTS = ".attempts"
# Bounds of the default size of a part: small ones spread few images over many workers, large ones
# keep the number of files low.
_SMALLEST, _LARGEST, _PARTS = 16, 256, 64


@dataclass(frozen=True)
class Options:
    """What decides the rows of the output, besides model and input."""

    outputs: tuple[str, ...]
    map_format: str
    threshold: float | None
    batch_size: int
    part_size: int
    bit_depth: str = "auto"
    overlay_format: str = "jpg"
    picture_size: int | str | None = None
    pixel_threshold: float | None = None
    precision: str | None = None
    least_area: float = 0.0
    runtime: str = "auto"

    @property
    def pictures(self) -> PictureOptions:
        """What is written besides the scores."""
        return PictureOptions(self.outputs, self.map_format, self.overlay_format, self.picture_size)


@dataclass(frozen=True)
class Job:
    """A job whose output folder is prepared; sent to the workers.

    Attributes:
        out: the output folder, absolute.
        model_file: where the model lies, absolute.
        model: SHA-256 of that file: the model's identity.
        identity: SHA-256 over model, options and input; every part names it.
        images: number of images.
        options: what decides the rows.
        limits: thresholds in force.
    """

    out: Path
    model_file: Path
    model: str
    identity: str
    images: int
    options: Options
    limits: Thresholds

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.images // self.options.part_size)

    def part(self, number: int) -> list[Input]:
        """The images of a part, in their order."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.out / PLAN) as plan:
            rows = plan.read_row_group(number).to_pylist()
        return [
            Input(Path(os.fsdecode(row["file"])), row["path"], Path(os.fsdecode(row["stem"])))
            for row in rows
        ]

    def attempts_path(self, number: int) -> Path:
        """Where the workers' notes on a part lie while it is in work."""
        return self.out / _ATTEMPTS / f"{number:05d}"

    def content(self, number: int) -> str:
        """A fingerprint of the images of a part, four blocks of each."""
        return fingerprint([item.path for item in self.part(number)], blocks=4)

    def finished(self, *, compare: bool = True) -> dict[int, Counts]:
        """The parts that are complete, by number; without those whose images are others now, which
        is not looked at where ``compare`` is False.

        Raises:
            InputError: one is damaged or foreign.
        """
        found = {}
        for number in self.written():
            images = self.content(number) if compare else None
            counts = read_counts(part_path(self.out, number), number, self.identity, images)
            if counts is not None:
                found[number] = counts
        return found

    def written(self) -> list[int]:
        """The parts whose files are there."""
        return [n for n in range(self.parts) if part_path(self.out, n).exists()]

    def forget_attempts(self) -> None:
        """Deaths of workers of an earlier run, which may itself have been killed, do not count."""
        shutil.rmtree(self.out / _ATTEMPTS, ignore_errors=True)

    def write_summary(self, counts: Counts) -> None:
        """The last file of a complete output, by which scripts see that all is done.

        Raises:
            InputError: it cannot be written.
        """
        document = {
            **asdict(counts),
            "parts": self.parts,
            "image_threshold": self.limits.image,
            "pixel_threshold": self.limits.pixel,
            "model": self.model,
        }
        write_json(self.out / SUMMARY, document)


def default_part_size(images: int, batch_size: int) -> int:
    """Images in a part: 16 to 256, about 64 parts between, in whole batches."""
    size = max(_SMALLEST, min(_LARGEST, -(-images // _PARTS)))
    return -(-size // batch_size) * batch_size


def digest(path: Path) -> str:
    """SHA-256 of a model's file in hexadecimal.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        state = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                state.update(chunk)
        return state.hexdigest()
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}); give the file that `fastalign fit` wrote."
        ) from error


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a file of the output folder in one step.

    Raises:
        InputError: it cannot be written.
    """
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())
