"""Score images that carry no label: maps, masks and overlays in each image's own size and frame."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastalign.data import IMAGE_SUFFIXES, Depth, is_image_file, list_images, load_image, prepare
from fastalign.engine.results import Prediction, Predictions, Skipped, finite
from fastalign.engine.scoring import NO_THRESHOLD, Thresholds, map_at, stored_depth, thresholds
from fastalign.errors import ConfigError, InputError
from fastalign.io import atomic_write
from fastalign.models.progress import NoProgress, Progress
from fastalign.report.heat import heat_overlay
from fastalign.verdict import Verdict

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

MAP_FORMATS = ("tiff", "npy")
OUTPUTS = ("map", "mask", "overlay")


@dataclass(frozen=True)
class Input:
    """An image to score: its file, its name in tables, and the stem of the files written for it."""

    path: Path
    name: str
    stem: Path


def predict_paths(
    model: FYD,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    map_format: str = "tiff",
    outputs: Sequence[str] = OUTPUTS,
    threshold: float | None = None,
    batch_size: int = 1,
    skip_bad: bool = False,
    depth: Depth | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Score the images of a folder (with its sub-folders), one file, or the files a glob pattern
    matches.

    Written below ``out``: ``maps/``, ``masks/`` and ``overlays/`` with the folder tree of the
    source, then ``scores.csv`` and ``predictions.json``. Maps are float32 and unclamped; a mask is
    255 where the map exceeds the pixel threshold, 128 where it could not be judged, else 0. All
    have the size and the frame of their image, upright as its EXIF orientation says.

    Args:
        model: a fitted model; the device it is on is used.
        source: an existing folder or file, or a glob pattern (``**`` for any depth).
        out: folder to write to; made when missing. Images below it are never taken as input.
        map_format: ``"tiff"`` or ``"npy"``.
        outputs: which of ``"map"``, ``"mask"``, ``"overlay"`` to write.
        threshold: image threshold to use in place of the model's.
        batch_size: images per forward pass.
        skip_bad: leave unreadable images out, with a warning and a count, where the default is an
            error.
        depth: of 16-bit files that state none, in place of the model's.
        progress: told about the course.

    Raises:
        ConfigError: an option has no such value.
        InputError: nothing to score, an unreadable image, or a file that cannot be written.
    """
    check_options(map_format, outputs, batch_size)
    out = Path(out)
    depth = depth or stored_depth(model)
    inputs = find_inputs(source, exclude=out)
    stored = thresholds(model)
    limits = stored if threshold is None else replace(stored, image=threshold)
    progress = progress or NoProgress()
    progress.start("scoring", len(inputs))
    warnings = []
    if limits.image is None or (limits.pixel is None and "mask" in outputs):
        warnings.append(NO_THRESHOLD)
    skipped: list[Skipped] = []
    rows: list[Prediction] = []
    writer = PictureWriter(out, map_format, frozenset(outputs), limits)
    for batch in _batches(inputs, batch_size):
        images = []
        for item in batch:
            try:
                images.append((item, load_image(item.path, depth=depth)))
            except InputError as error:
                if not skip_bad:
                    raise
                skipped.append(Skipped(item.name, str(error)))
        if images:
            scores, maps = score_images(model, [image for _, image in images])
            for (item, image), score, scored in zip(images, scores.tolist(), maps, strict=True):
                rows.append(writer.write(item, image, score, scored))
        progress.advance(len(batch))
    if unjudged := [row for row in rows if row.label == Verdict.NOT_JUDGED.text]:
        warnings.append(
            f"{len(unjudged)} of {len(rows)} images could not be judged, since their scores are "
            f"not finite; the first: {unjudged[0].path}"
        )
    if not rows:
        raise InputError(
            f"{source}: none of the {len(inputs)} images could be read; "
            f"the first: {skipped[0].reason}"
        )
    if skipped:
        warnings.append(
            f"{len(skipped)} of {len(inputs)} images could not be read and were left out"
        )
    result = Predictions(out, rows, limits.image, limits.pixel, skipped, warnings)
    _write_tables(result)
    return result


def check_options(map_format: str, outputs: Sequence[str], batch_size: int) -> None:
    """Refuse options that have no such value.

    Raises:
        ConfigError: one has not.
    """
    if map_format not in MAP_FORMATS:
        raise ConfigError(f"map format {map_format!r}: use one of {', '.join(MAP_FORMATS)}.")
    if unknown := [name for name in outputs if name not in OUTPUTS]:
        raise ConfigError(f"output {unknown[0]!r}: use any of {', '.join(OUTPUTS)}.")
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: use 1 or more.")


def find_inputs(source: str | os.PathLike[str], exclude: Path | None = None) -> list[Input]:
    """The image files that ``source`` stands for, sorted, with the output stem of each.

    Raises:
        InputError: nothing there, or no image among it.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        root = path
        found = list_images(path)
    elif path.exists():
        root, found = path.parent, [path]
    elif glob.has_magic(text):
        matches = [Path(p) for p in glob.glob(text, recursive=True)]
        root = _fixed_part(path)
        found = [p for p in matches if p.is_file() and is_image_file(p)]
    else:
        raise InputError(
            f"{text}: no such file or folder; give an image, a folder or a glob pattern."
        )
    if exclude is not None:
        outputs = exclude.resolve()
        found = [p for p in found if outputs not in p.resolve().parents]
    if not found:
        raise InputError(
            f"{text}: no image found; files with these endings are images: "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return named_inputs(sorted(set(found)), root)


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob pattern before the first wildcard."""
    fixed = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def named_inputs(paths: list[Path], root: Path) -> list[Input]:
    """Output stems mirror the tree below ``root``; where two would meet, the file ending stays."""
    relative = [path.relative_to(root) for path in paths]
    # Compared without case, since the outputs may land on a file system that ignores it.
    stems = Counter(str(name.with_suffix("")).casefold() for name in relative)
    taken: Counter[str] = Counter()
    inputs = []
    for path, name in zip(paths, relative, strict=True):
        stem = name.with_suffix("")
        if stems[str(stem).casefold()] > 1:
            stem = name
        key = str(stem).casefold()
        taken[key] += 1
        if taken[key] > 1:
            stem = stem.with_name(f"{stem.name}~{taken[key]}")
        inputs.append(Input(path, name.as_posix(), stem))
    return inputs


def _batches(inputs: list[Input], size: int) -> Iterator[list[Input]]:
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]


def score_images(
    model: FYD, images: list[npt.NDArray[np.uint8]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[B]`` and maps ``[B,H,W]`` of the model's size, float32 on the CPU, of images uint8
    ``[h,w,3]`` of any size."""
    batch = torch.stack([prepare(image, model.config.image_size) for image in images])
    with torch.inference_mode():
        scores, maps = model(batch.to(model.image_threshold.device))
    return scores.float().cpu(), maps.float().cpu()


class PictureWriter:
    """Writes maps, masks and overlays below ``out``, one image after the other."""

    def __init__(
        self, out: Path, map_format: str, outputs: frozenset[str], limits: Thresholds
    ) -> None:
        self._out = out
        self._map_format = map_format
        self._outputs = outputs
        self._limits = limits

    def write(
        self, item: Input, image: npt.NDArray[np.uint8], score: float, scored: torch.Tensor
    ) -> Prediction:
        """Write what was asked for of one image; ``scored`` is its map at the model's size."""
        scores = map_at(scored, image.shape[:2])
        written: dict[str, Path | None] = dict.fromkeys(OUTPUTS)
        if "map" in self._outputs:
            data = _encode_map(scores, self._map_format)
            written["map"] = self._save("maps", item, f".{self._map_format}", data)
        if "mask" in self._outputs and self._limits.pixel is not None:
            mask = Image.fromarray(self._limits.mask(scores))
            written["mask"] = self._save("masks", item, ".png", encode_png(mask))
        if "overlay" in self._outputs:
            overlay = Image.fromarray(heat_overlay(image, scores, self._limits.pixel_or_nan))
            written["overlay"] = self._save("overlays", item, ".png", encode_png(overlay))
        label = None if self._limits.image is None else self._limits.verdict(score).text
        return Prediction(item.name, score, label, **written)

    def _save(self, folder: str, item: Input, suffix: str, data: bytes) -> Path:
        path = self._out / folder / item.stem.with_name(item.stem.name + suffix)
        with atomic_write(path) as file:
            file.write(data)
        return path


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes. In memory first: Pillow hides the cause of an error while it writes to a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _encode_map(scores: npt.NDArray[np.float32], map_format: str) -> bytes:
    buffer = io.BytesIO()
    if map_format == "npy":
        np.save(buffer, scores, allow_pickle=False)
    else:
        Image.fromarray(scores).save(buffer, "TIFF")
    return buffer.getvalue()


def _write_tables(result: Predictions) -> None:
    rows = [
        {
            "path": row.path,
            "score": row.score,
            "label": row.label,
            **{
                name: None if file is None else file.relative_to(result.out).as_posix()
                for name, file in (("map", row.map), ("mask", row.mask), ("overlay", row.overlay))
            },
        }
        for row in result.images
    ]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in row.items()} for row in rows
    )
    document = {
        "image_threshold": result.image_threshold,
        "pixel_threshold": result.pixel_threshold,
        "images": rows,
        "skipped": [{"path": item.path, "reason": item.reason} for item in result.skipped],
        "warnings": result.warnings,
    }
    text = json.dumps(finite(document), indent=2, allow_nan=False)
    for name, content in (("scores.csv", table.getvalue()), ("predictions.json", text + "\n")):
        with atomic_write(result.out / name) as file:
            # A file name need not be valid UTF-8; this writes its bytes back as they are.
            file.write(content.encode("utf-8", "surrogateescape"))
