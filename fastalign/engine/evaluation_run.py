"""The images of an evaluation, one at a time: what each adds to the figures."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fastalign.data import Depth, Sample, load_image, load_masks, prepare
from fastalign.data.maskcheck import MaskCheck
from fastalign.data.masks import describe_mask_names
from fastalign.engine.judging import Judging
from fastalign.engine.leakage import SeenImages
from fastalign.engine.regions_file import RegionsFile
from fastalign.engine.results import ImageResult, Skipped
from fastalign.engine.scoring import Thresholds, aligned_picture, map_at, stored_depth
from fastalign.errors import InputError
from fastalign.metrics import PixelMetrics
from fastalign.report.gallery import Gallery

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

_Mask = npt.NDArray[np.bool_]
_TIMED_IMAGES = 50
_WARM_UP = 3


@dataclass
class EvaluationRun:
    """What an evaluation has found so far.

    Attributes:
        images: those that were scored; ``paths`` are theirs.
        skipped: files that were left out. unmasked: images left out of the pixel figures.
        times, alignment_times: milliseconds of the model and of its alignment, of the first images.
        masks, judging, pixels, seen: what has looked at every image, for its notes and figures.
        has_masks: an anomalous image has a mask.
        regions: the file of the images' regions; None: there is none.
    """

    model: FYD
    directory: Path
    samples: Sequence[Sample]
    size: tuple[int, int] | None
    limits: Thresholds
    gallery: Gallery
    skip_bad: bool
    depth: Depth | None
    keep_seen: bool = False
    least_area: float = 0.0
    regions: RegionsFile | None = None
    images: list[ImageResult] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unmasked: list[Skipped] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    alignment_times: list[float] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.depth = self.depth or stored_depth(self.model)
        self._defects = self._unseen = 0
        self.masks = MaskCheck()
        self.judging = Judging(self.model, self.limits, self.least_area)
        self.seen = SeenImages(self.model, self.keep_seen)
        self.pixels = PixelMetrics(self.size)
        self.device = self.model.image_threshold.device
        anomalous = [sample for sample in self.samples if sample.label == 1]
        self.has_masks = any(sample.mask_paths for sample in anomalous)

    def add(self, sample: Sample) -> None:
        """Score one image and take it into every figure."""
        name = self._name(sample.path)
        try:
            image = load_image(sample.path, depth=self.depth)
        except InputError as error:
            if not self.skip_bad:
                raise
            self.skipped.append(Skipped(name, str(error)))
            return
        try:
            truth = self._truth(sample, image.shape[:2])
        except InputError as error:
            if not self.skip_bad:
                raise
            truth = None
            self.unmasked.append(Skipped(name, str(error)))
        batch = prepare(image, self.model.config.image_size)[None].to(self.device)
        with torch.inference_mode():
            self._time(batch)
            detail = self.model.predict_detail(batch)
        scores = detail.map[0]
        score = float(detail.score[0])
        seen = self.seen.look(name, sample.label, batch)
        counted = seen is None or seen.counted
        if self.has_masks and truth is not None and counted and math.isfinite(score):
            self._add_pixels(scores, truth, name)
        aligned, covered = aligned_picture(detail, 0)
        outline = truth if sample.label == 1 and self.has_masks else None
        self.gallery.add(
            len(self.images), image, scores.float().cpu().numpy(), outline, aligned, covered
        )
        self.paths.append(sample.path)
        row = self.judging.row(name, image, detail, 0)
        assert row.alignment is not None
        self.images.append(
            ImageResult(
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
            )
        )
        if self.regions is not None:
            self.regions.add(row)

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
        return load_image(self.paths[index], depth=self.depth)

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
        mask = load_masks(sample.mask_paths, size, image_path=sample.path)
        self.masks.add(sample.mask_paths[0], mask)
        return mask

    def _time(self, batch: torch.Tensor) -> None:
        """Time of the model alone for one prepared image on its device, in milliseconds."""
        if len(self.times) >= _TIMED_IMAGES:
            return
        if not self.images:
            for _ in range(_WARM_UP):
                self.model(batch)
        self.times.append(self._clock(lambda: self.model(batch)))
        self.alignment_times.append(self._clock(lambda: self.model.align(batch)))

    def _clock(self, work: Any) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return 1000 * (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def _name(self, path: Path) -> str:
        try:
            return path.relative_to(self.directory).as_posix()
        except ValueError:
            return path.as_posix()
