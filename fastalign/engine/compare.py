"""Two models on the same photographs: what changes sides."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fastalign.data import GOOD, Sample, find_photographs, load_image, load_masks, open_category
from fastalign.data.decode import size_of
from fastalign.data.listing import name_within
from fastalign.data.tensors import resized, to_float
from fastalign.engine.judging import Judging
from fastalign.engine.leakage import SeenImages
from fastalign.engine.pipeline import Pipeline, Room
from fastalign.engine.results import Skipped
from fastalign.engine.runfolder import reserve
from fastalign.engine.scoring import NO_THRESHOLD, aligned_picture, stored_depth, thresholds
from fastalign.engine.table import relative
from fastalign.engine.texts import write_texts
from fastalign.errors import InputError
from fastalign.metrics import image_metrics
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import whole_number
from fastalign.report.comparison import Compared, Comparison, Side
from fastalign.report.gallery import Gallery
from fastalign.words import none_of, part_of

if TYPE_CHECKING:
    from fastalign.models.detail import Detail
    from fastalign.models.fyd import FYD

COMPARE = ("compare.html", "compare.csv", "compare.json")
_BYTES_OF_A_PIXEL = 16
_Image = npt.NDArray[np.uint8]


class _Read(NamedTuple):
    sample: Sample
    images: tuple[_Image, ...] = ()
    small: tuple[torch.Tensor, ...] = ()
    truth: npt.NDArray[np.bool_] | None = None
    unread: str = ""


class _Judged(NamedTuple):
    number: int
    compared: Compared
    images: tuple[_Image, ...]
    shown: tuple[Any, ...]


def compare_models(
    models: tuple[FYD, FYD],
    names: tuple[str, str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    layout: str = "auto",
    gallery_images: int = 120,
    skip_bad: bool = False,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Judge photographs by two models, each by its own threshold and its own depth of 16-bit files.

    Args:
        models: both fitted, of any options; the device of each is used.
        names: of their files.
        source: a category in any layout that :func:`fastalign.data.open_category` reads, whose test
            images have labels, and masks where there are some; or a folder, a file or a glob
            pattern of photographs without labels.
        out: folder for ``compare.json``, ``compare.csv`` and ``compare.html``; None writes nothing.
        layout: data layout, ``"auto"`` to recognise it.
        gallery_images: photographs on the page at most, the largest changes first.
        skip_bad: a photograph that cannot be read is a warning, where the default is an error.
        memory: bytes that photographs under way may take.
        progress: told about the course.

    Raises:
        ConfigError: an option has no such value.
        InputError: nothing to compare on, a file that cannot be read, or ``out`` cannot be written.
    """
    most = whole_number("gallery", gallery_images)
    progress = progress or NoProgress()
    samples, root, notes = _samples(source, layout)
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(reserve(Path(out)))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastalign-")))
        run = _Run(models, samples, root, scratch, skip_bad)
        progress.start("comparing", len(samples))
        run.go_through(Room.of(1, memory), progress)
        found = run.conclude(names, notes)
        if out is not None:
            _write(found, run.galleries, Path(out), most)
    return found


def _samples(source: str | os.PathLike[str], layout: str) -> tuple[list[Sample], Path, list[str]]:
    """Photographs with their labels, the folder that names them, and notes."""
    category = None
    if layout != "auto":
        category = open_category(source, layout=layout)
    elif Path(source).is_dir():
        # What is no category may still be a folder of photographs.
        with suppress(InputError):
            category = open_category(source)
    if category is not None and category.test:
        samples = [*category.test, *category.unlabelled]
        if any(sample.label == GOOD for sample in samples):
            return samples, Path(source), list(category.notes)
        # good/ beside folders of defects, which a fit would learn from; what the models were
        # fitted on is known again.
        return [*category.train, *samples], Path(source), []
    found = find_photographs(source)
    samples = [Sample(path, -1, "", (), "test") for path in found.files]
    return samples, found.root, list(found.notes)


class _Run:
    """What has been found so far; pictures of each model in a gallery of its own."""

    def __init__(
        self,
        models: tuple[FYD, FYD],
        samples: Sequence[Sample],
        root: Path,
        scratch: Path,
        skip_bad: bool,
    ) -> None:
        self._models, self._samples, self._root, self._skip_bad = models, samples, root, skip_bad
        self._depths = [stored_depth(model) for model in models]
        self._limits = [thresholds(model) for model in models]
        self._judging = [
            Judging(model, limits) for model, limits in zip(models, self._limits, strict=True)
        ]
        self._seen = [SeenImages(model, keep=False) for model in models]
        self.galleries: list[Gallery] = []
        for place, limits in enumerate(self._limits):
            folder = scratch / str(place)
            folder.mkdir()
            self.galleries.append(Gallery(folder, limits.pixel_or_nan))
        self.images: list[Compared] = []
        self.skipped: list[Skipped] = []
        self._number = 0

    def go_through(self, room: Room, progress: Progress) -> None:
        def finish(judged: _Judged | None) -> None:
            if judged is not None:
                self.images.append(judged.compared)
            progress.advance()

        batches = ([sample] for sample in self._samples)
        Pipeline(self._read, self._judge, self._draw, finish, room, weigh=self._weigh).run(batches)

    def _weigh(self, sample: Sample) -> int:
        height, width = size_of(sample.path) or (0, 0)
        return _BYTES_OF_A_PIXEL * height * width

    def _read(self, sample: Sample) -> _Read:
        try:
            images = [load_image(sample.path, depth=self._depths[0])]
            if self._depths[1] != self._depths[0]:
                images.append(load_image(sample.path, depth=self._depths[1]))
            truth = None
            if sample.label == 1 and sample.mask_paths:
                truth = load_masks(sample.mask_paths, images[0].shape[:2], image_path=sample.path)
        except InputError as error:
            if not self._skip_bad:
                raise
            return _Read(sample, unread=str(error))
        sides = images[0], images[-1]
        small = tuple(
            resized(image, model.config.image_size)
            for image, model in zip(sides, self._models, strict=True)
        )
        return _Read(sample, sides, small, truth)

    def _judge(self, read: list[_Read]) -> list[_Judged | None]:
        ((sample, images, small, truth, unread),) = read
        name = name_within(sample.path, self._root)
        if unread:
            self.skipped.append(Skipped(name, unread))
            return [None]
        sides, shown = [], []
        for place, model in enumerate(self._models):
            batch = to_float(small[place][None]).to(model.image_threshold.device)
            with torch.inference_mode():
                detail = model.predict_detail(batch)
            sides.append(self._side(place, name, sample, images[place], batch, detail))
            shown.append((_array(detail), truth, *aligned_picture(detail, 0)))
        compared = Compared(name, sample.label, sample.defect, (sides[0], sides[1]))
        self._number += 1
        return [_Judged(self._number - 1, compared, images, tuple(shown))]

    def _side(
        self,
        place: int,
        name: str,
        sample: Sample,
        image: _Image,
        batch: torch.Tensor,
        detail: Detail,
    ) -> Side:
        row = self._judging[place].row(name, image, detail, 0)
        seen = self._seen[place].look(name, sample.label, batch)
        assert row.score is not None
        return Side(
            row.score,
            relative(row.score, row.threshold),
            row.verdict,
            row.reason,
            # As in an evaluation: of an anomaly the defect may be all that differs.
            seen.known.name if seen and not seen.counted else "",
        )

    def _draw(self, judged: _Judged | None) -> _Judged | None:
        if judged is None:
            return None
        for gallery, image, shown in zip(self.galleries, judged.images, judged.shown, strict=True):
            gallery.add(judged.number, image, *shown)
        return judged._replace(images=(), shown=())

    def conclude(self, names: tuple[str, str], notes: Sequence[str]) -> Comparison:
        if not self.images:
            raise InputError(
                f"{none_of(len(self._samples), 'photograph', 'could be read')}; the first: "
                f"{self.skipped[0].reason}"
            )
        warnings = list(notes)
        for name, judging, limits in zip(names, self._judging, self._limits, strict=True):
            told = [*([] if limits.image is not None else [NO_THRESHOLD]), *judging.warnings()]
            warnings += [f"{name}: {text}" for text in told]
        if trained := sum(any(side.trained_on for side in item.sides) for item in self.images):
            warnings.append(
                f"{part_of(trained, len(self.images), 'photograph')} had a part in the fit of one "
                "of the models, and none in what is counted by labels"
            )
        if self.skipped:
            warnings.append(
                f"{part_of(len(self.skipped), len(self._samples), 'photograph')} could not be read"
            )
        return Comparison(
            names,
            (self._limits[0].image, self._limits[1].image),
            self.images,
            (self._auroc(0), self._auroc(1)),
            self.skipped,
            warnings,
        )

    def _auroc(self, side: int) -> float | None:
        some = [item for item in self.images if item.counted]
        known = [
            (item.sides[side].score, item.label)
            for item in some
            if np.isfinite(item.sides[side].score)
        ]
        figures = image_metrics([score for score, _ in known], [label for _, label in known])
        return figures["image_auroc"]


def _array(detail: Detail) -> npt.NDArray[np.float32]:
    return detail.map[0].float().cpu().numpy()


def _write(found: Comparison, galleries: Sequence[Gallery], out: Path, most: int) -> None:
    """All three files are composed before the first is written; the figures come last."""
    from fastalign.report.compare_page import render_comparison

    table = io.StringIO(newline="")
    rows = [item.to_json() for item in found.images]
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    document = json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n"
    page = render_comparison(found, galleries, most=most)
    write_texts(out, dict(zip(COMPARE, (page, table.getvalue(), document), strict=True)))
