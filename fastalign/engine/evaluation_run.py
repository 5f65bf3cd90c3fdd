"""The images of an evaluation, one at a time: what each adds to the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fastalign.data import Depth, Sample, load_image, load_masks
from fastalign.data.decode import size_of
from fastalign.data.listing import name_within
from fastalign.data.maskcheck import MaskCheck
from fastalign.data.masks import describe_mask_names
from fastalign.data.tensors import resized, to_float
from fastalign.engine.judging import Judging
from fastalign.engine.leakage import SeenImages
from fastalign.engine.pipeline import Pipeline, Room
from fastalign.engine.regions_file import RegionsFile
from fastalign.engine.results import ImageResult, Skipped
from fastalign.engine.scoring import Thresholds, aligned_picture, map_at, stored_depth
from fastalign.engine.table import Row
from fastalign.engine.timing import Times
from fastalign.errors import InputError
from fastalign.metrics import PixelMetrics
from fastalign.models.progress import Progress
from fastalign.report.gallery import Gallery

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

_Mask = npt.NDArray[np.bool_]
# Of one pixel of a photograph: what decoding takes, and the mask.
_BYTES_OF_A_PIXEL = 12
_NOTHING = np.empty((0, 0, 3), np.uint8)


class _Looked(NamedTuple):
    """A test image that was read: the photograph, the same at the model's size, and its mask; or
    why it cannot be read, or has no mask."""

    sample: Sample
    image: npt.NDArray[np.uint8] | None = None
    small: torch.Tensor | None = None
    truth: _Mask | None = None
    unread: str = ""
    unmasked: str = ""


class _Judged(NamedTuple):
    """A test image that was scored; ``shown`` is what its pictures in the report are made of."""

    number: int
    sample: Sample
    row: Row
    result: ImageResult
    image: npt.NDArray[np.uint8]
    shown: tuple[Any, ...]


@dataclass
class EvaluationRun:
    """What an evaluation has found so far.

    Attributes:
        images: those that were scored; ``scored`` and ``paths`` are theirs.
        skipped: files that were left out. unmasked: images left out of the pixel figures.
        times: of the model, once :func:`fastalign.engine.timing.time_model` has measured it.
        masks, judging, pixels, seen: what has looked at every image, for its notes and figures.
        has_masks: an anomalous image has a mask.
        gallery: of their pictures; None: none are made.
        regions: the file of the images' regions; None: there is none.
    """

    model: FYD
    directory: Path
    samples: Sequence[Sample]
    size: tuple[int, int] | None
    limits: Thresholds
    gallery: Gallery | None
    skip_bad: bool
    depth: Depth | None
    keep_seen: bool = False
    least_area: float = 0.0
    regions: RegionsFile | None = None
    images: list[ImageResult] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unmasked: list[Skipped] = field(default_factory=list)
    times: Times = field(default_factory=Times)
    scored: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.depth = self.depth or stored_depth(self.model)
        self._defects = self._unseen = self._judged = 0
        self.masks = MaskCheck()
        self.judging = Judging(self.model, self.limits, self.least_area)
        self.seen = SeenImages(self.model, self.keep_seen)
        self.pixels = PixelMetrics(self.size)
        self.device = self.model.image_threshold.device
        anomalous = [sample for sample in self.samples if sample.label == 1]
        self.has_masks = any(sample.mask_paths for sample in anomalous)

    @property
    def paths(self) -> list[Path]:
        """Where the photographs of ``images`` are."""
        return [sample.path for sample in self.scored]

    def go_through(self, room: Room, progress: Progress) -> None:
        """Score all images and take them into every figure.

        Raises:
            InputError: a file that cannot be read, or a mask that is missing or does not fit.
        """

        def finish(judged: _Judged | None) -> None:
            self._add(judged)
            progress.advance()

        batches = ([sample] for sample in self.samples)
        Pipeline(self._read, self._judge, self._draw, finish, room, weigh=self._weigh).run(batches)

    def _weigh(self, sample: Sample) -> int:
        height, width = size_of(sample.path) or (0, 0)
        return _BYTES_OF_A_PIXEL * height * width

    def _read(self, sample: Sample) -> _Looked:
        """A photograph and its mask, in a thread."""
        try:
            image = load_image(sample.path, depth=self.depth)
        except InputError as error:
            if not self.skip_bad:
                raise
            return _Looked(sample, unread=str(error))
        small = resized(image, self.model.config.image_size)
        try:
            truth = self._truth(sample, image.shape[:2])
        except InputError as error:
            if not self.skip_bad:
                raise
            return _Looked(sample, image, small, unmasked=str(error))
        return _Looked(sample, image, small, truth)

    def _judge(self, looked: list[_Looked]) -> list[_Judged | None]:
        """What the model says of one image, and the figures that it enters."""
        ((sample, image, small, truth, unread, unmasked),) = looked
        name = name_within(sample.path, self.directory)
        if unmasked:
            self.unmasked.append(Skipped(name, unmasked))
        if image is None or small is None:
            self.skipped.append(Skipped(name, unread))
            return [None]
        batch = to_float(small[None]).to(self.device)
        with torch.inference_mode():
            detail = self.model.predict_detail(batch)
        scores = detail.map[0]
        score = float(detail.score[0])
        if truth is not None and sample.mask_paths and sample.label == 1:
            self.masks.add(sample.mask_paths[0], truth)
        seen = self.seen.look(name, sample.label, batch)
        counted = seen is None or seen.counted
        if self.has_masks and truth is not None and counted and math.isfinite(score):
            self._add_pixels(scores, truth, name)
        row = self.judging.row(name, image, detail, 0)
        assert row.alignment is not None
        result = ImageResult(
            path=name,
            defect=sample.defect,
            label=sample.label,
            score=score,
            predicted=self.limits.label(score),
            alignment=row.alignment,
            reason="; ".join(filter(None, (row.reason, seen.remark if seen else ""))),
            trained_on=seen.known.name if seen else "",
            counted=counted,
            regions=row.regions,
            roi=row.roi,
        )
        outline = truth if sample.label == 1 and self.has_masks else None
        shown = scores.float().cpu().numpy(), outline, *aligned_picture(detail, 0)
        self._judged += 1
        return [_Judged(self._judged - 1, sample, row, result, image, shown)]

    def _draw(self, judged: _Judged | None) -> _Judged | None:
        """Make the pictures of an image, in a thread."""
        if judged is None:
            return None
        if self.gallery is not None:
            self.gallery.add(judged.number, judged.image, *judged.shown)
        return judged._replace(image=_NOTHING, shown=())

    def _add(self, judged: _Judged | None) -> None:
        if judged is None:
            return
        self.images.append(judged.result)
        self.scored.append(judged.sample)
        if self.regions is not None:
            self.regions.add(judged.row)

    def _add_pixels(self, scores: torch.Tensor, truth: _Mask, name: str) -> None:
        """Take a map into the pixel figures, in which all pixels count: places that nothing was
        compared at rank lowest, so that a defect there is missed."""
        at_mask = map_at(scores, (truth.shape[0], truth.shape[1]))
        self._defects += int(truth.sum())
        self._unseen += int(np.isnan(at_mask[truth]).sum())
        if self.size is None:
            self.pixels.update(np.nan_to_num(at_mask, nan=0.0), truth, name)
        else:
            self.pixels.update(scores.float().nan_to_num(0.0), truth, name)

    @property
    def unseen_defects(self) -> float:
        """The share of the annotated defects that lies where nothing was compared."""
        return self._unseen / max(1, self._defects)

    def photograph(self, index: int) -> npt.NDArray[np.uint8]:
        """The photograph of image ``index`` of the results once more."""
        return load_image(self.scored[index].path, depth=self.depth)

    def _truth(self, sample: Sample, size: tuple[int, int]) -> _Mask | None:
        """The mask at the image's own size; empty for a good image, None where unknown."""
        if sample.label == 0:
            return np.zeros(size, dtype=bool)
        if sample.label != 1 or not self.has_masks:
            return None
        if not sample.mask_paths:
            other = next(other for other in self.samples if other.mask_paths)
            raise InputError(
                f"{sample.path}: this anomalous image has no mask although others have one, such "
                f"as {other.mask_paths[0]} of {other.path}; add one named alike "
                f"({sample.path.stem}_mask.png; {describe_mask_names()}), or leave the image out "
                "of the pixel figures with --skip-bad."
            )
        return load_masks(sample.mask_paths, size, image_path=sample.path)
