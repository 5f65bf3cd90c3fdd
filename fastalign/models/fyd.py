"""FYD: align the images, then the features, and score each location against its Gaussian."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastalign.load import watched
from fastalign.models import fitting
from fastalign.models.detail import Detail, Measured, Way
from fastalign.models.evidence import or_unknown
from fastalign.models.images import is_empty, judgeable, one_for
from fastalign.models.maps import are_finite, where_known
from fastalign.models.memory import MemoryPlan, plan_scoring
from fastalign.models.photographs import Photographs, Scored, tensors
from fastalign.models.progress import Progress
from fastalign.models.record import FitRecord
from fastalign.models.regional import as_regions
from fastalign.models.rooms import or_identity, warp
from fastalign.models.updatable import UpdatableModel
from fastalign.nn.replay import replayed
from fastalign.nn.state import in_own_state, made_in_own_state
from fastalign.numeric import LARGEST_SIZE, seed_number, whole_number
from fastalign.ops import affine

if TYPE_CHECKING:
    from fastalign.data import ImageDataset
    from fastalign.roi import RegionsOfInterest


class FYD(UpdatableModel):
    """Focus Your Distribution (Zheng et al., ICME 2022, arXiv 2110.04538).

    ``fit`` it on images of good parts, then call it: ``score, map = model(images)``. Arguments are
    those of :class:`fastalign.models.room_model.RoomModel`.

    Attributes:
        pose, features, density, maps: the rooms that an image goes through, each usable alone.
        image_threshold, pixel_threshold: scores above them are anomalies; NaN where it was fitted
        without normal validation images.

    Raises:
        ConfigError: an option, or a combination, that makes no sense.
        InputError: weights that cannot be read or downloaded.
    """

    # Scoring ---------------------------------------------------------------------------------

    @watched
    @in_own_state
    @replayed
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images ``[B,3,H,W]`` in 0..1 of the model's image size.

        Returns:
            scores ``[B]``, the largest value of each map (or the mean of its ``top_share``), and
            maps ``[B,H,W]`` in the frame of the images, float32: the Mahalanobis distance,
            smoothed, in the unit of the fit, NaN where nothing was compared. An image that cannot
            be judged has NaN as score: a value of it or of its features is NaN or infinite, its
            pose was not found, or less of the part is in it than in normal images
            (:class:`fastalign.models.evidence.Evidence`), and then only what was seen in its map.
            The others of a batch have the same bits as without it.
            :func:`fastalign.verdict.judge` compares a score with a threshold.

        On CUDA without gradients a batch is one launch of a recorded graph (``replays``).

        Raises:
            ValueError: images of another shape, or on another device than the model.
            InputError: images of whole numbers, or far outside 0..1, such as in 0..255. On a GPU,
                where a look at them would wait, images in 0..255 have NaN as score instead.
            ConfigError: not fitted.
        """
        return self.measure(images)[:2]

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def measure(self, images: Tensor) -> Measured:
        """As :meth:`forward`, with what tells whether there was enough to judge by."""
        images = self.prepare(images)
        if is_empty(images):
            return Measured(*(found[:0] for found in self.measure(one_for(images))))
        way = self._way(images)
        return Measured(way.score, way.map, way.coverage, or_unknown(way.residual, way.score))

    def _way(self, images: Tensor) -> Way:
        pose, residual = self.pose.locate(images)
        aligned = warp(images, pose)
        stages, theta = self.features(aligned, pose)
        distance, support = self.density(stages)
        valid = self.maps.valid(theta)
        coverage = self.maps.coverage(valid, support, images)
        finite = judgeable(images) & are_finite(distance)
        asked = self.evidence.asked(finite, residual, coverage)
        score, maps, regions = self.maps.judged(distance, theta, support, *asked, valid)
        return Way(score, maps, theta, aligned, residual, coverage, finite, regions)

    @watched
    @in_own_state
    @replayed
    def predict_detail(self, images: Tensor) -> Detail:
        """As :meth:`forward`, with everything that was found on the way."""
        images = self.prepare(images)
        if is_empty(images):
            return Detail(*(found[:0] for found in self.predict_detail(one_for(images))))
        score, maps, theta, aligned, residual, coverage, finite, regions = self._way(images)
        before = where_known(finite, self.pose.residual(images))
        after = where_known(finite, or_unknown(residual, score))
        theta = where_known(finite, or_identity(theta, images))
        valid = self.maps.valid(theta)
        assert valid is not None
        magnitude = affine.magnitude(theta, self.aspect)
        covered = where_known(finite, coverage)
        found = score, maps, theta, valid, aligned, before, after
        return Detail(*found, **magnitude, coverage=covered, regions=regions)

    @in_own_state
    def align(self, images: Tensor) -> Tensor:
        """theta ``[B,2,3]`` of the image-level alignment, the identity where there is none."""
        images = self.prepare(images)
        if is_empty(images):
            return affine.identity(0, device=images.device)
        return where_known(judgeable(images), or_identity(self.pose(images), images))

    def predict(self, source: Photographs) -> list[Scored]:
        """Score photographs as they are: a file, a folder, a pattern, an array, or several.

        They are read as ``fastalign predict`` does, with the depth of the training images, and
        scored one by one on the model's device.

        Args:
            source: a path or pattern (folders with their sub-folders); an array ``[h,w,3]`` RGB or
                ``[h,w]`` of uint8, or of floats in 0..1; a picture of Pillow; or a list of these.

        Raises:
            InputError: nothing to score, or something that is no photograph.
            ConfigError: not fitted.
        """
        found = []
        limits = float(self.image_threshold), float(self.pixel_threshold)
        with torch.inference_mode():
            part_area, roi = self.density.part_area, self.roi
            for name, size, image in tensors(source, self.config.image_size, self.depth):
                detail = self.predict_detail(image[None].to(self.features.device))
                why = self.evidence.reason(detail, 0)
                found.append(Scored.of(name, size, detail, why, limits, part_area, roi))
        return found

    def limit_memory(self, budget: int | None, images: int = 1) -> MemoryPlan:
        """Score within ``budget`` bytes of this process, so many images at a time; returns how.

        Images go through the backbone one by one and in pieces as far as needed, with the same
        maps. None: no budget; on a CPU the pieces are then of a size that costs no time.

        Raises:
            ConfigError: the budget is too small, or the network cannot be run in pieces or is
                compiled.
        """
        if budget is not None:
            budget = whole_number("memory budget", budget, 1, LARGEST_SIZE)
        images = whole_number("images at a time", images, 1)
        self.features.require_free(budget)
        plan = plan_scoring(self.rooms, budget, images)
        self.features.limit_memory(plan.pass_bytes, budget)
        self.replays.forget()
        return plan

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what scoring runs of the network, FCA included; the same scores, to rounding.

        The arguments are those of :func:`torch.compile`. The first image of a shape then takes some
        ten seconds. Poses, distances and maps are left to the kernels that they have.

        Raises:
            ConfigError: :meth:`limit_memory` has set a budget.
        """
        self.features.compile(*args, **kwargs)
        self.replays.forget()

    # Fitting ---------------------------------------------------------------------------------

    @made_in_own_state
    def fit(
        self,
        train_set: ImageDataset | Tensor | Sequence[Tensor],
        validation_set: ImageDataset | Tensor | Sequence[Tensor] | None = None,
        *,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        memory_budget: int | None = None,
        roi: RegionsOfInterest | str | os.PathLike[str] | None = None,
        roi_photo: Photographs | None = None,
    ) -> FYD:
        """Learn from images of good parts; returns the model, in evaluation mode.

        Under an initialised process group of ``torch.distributed`` all its processes fit one model
        together: each gives the same arguments, the whole data set included, and has the fitted
        model in the end. ``batch_size`` is that of all processes together.

        Arguments:
            train_set: an :class:`fastalign.data.ImageDataset` of the model's image size, a tensor
                ``[N,3,H,W]`` or a list of ``[3,H,W]`` in 0..1. One image is legal.
            validation_set: other normal images, for the thresholds; None: no thresholds.
            seed: of everything random. The same seed on the same machine gives the same model, bit
                for bit. A fit is float32, whatever :meth:`set_precision` says.
            checkpoint: file to write after each epoch, by the first process.
            resume: go on from ``checkpoint``.
            settings: written into the checkpoint, for whoever resumes to compare.
            progress: told about the course.
            memory_budget: bytes that the process may take: images go through the backbone in
                pieces, and the Gaussians are fitted a band of rows at a time, as far as needed. The
                same model comes out, to rounding. None: no limit.
            roi: judge these regions alone, see :meth:`set_roi`; None: all of the part. What was
                drawn on an aligned photograph of an earlier fit holds where this one has the same
                photographs, seed and options.
            roi_photo: the photograph that they were drawn on, aligned or not, by whose pose they
                are carried to the frame of this fit.

        Raises:
            ConfigError: the budget is too small.
            InputError: images that cannot be used, of a single grey all of them, or copies of one.
            ArtifactError: the checkpoint cannot be read.
            ConfigError: the processes of a group were given different things.
            ProcessError: another process of the group failed or did not answer in time.

        Warns:
            DataWarning: images that hardly differ, fewer than 20 different ones, or twins: copies
                and frames of one burst, which count as one image where the thresholds are set.
        """
        seed = seed_number(seed)
        if memory_budget is not None:
            memory_budget = whole_number("memory budget", memory_budget, 1, LARGEST_SIZE)
        # What cannot be read, or is too small, is told before a fit takes its time.
        regions = None if roi is None else as_regions(roi)
        if regions is not None and roi_photo is None:
            regions.at(self.config.image_size)
        elif roi_photo is not None:
            next(tensors(roi_photo, self.config.image_size, None))
        # Training has its gradients, and what it leaves can be scored with gradients, whatever mode
        # the caller is in.
        with torch.inference_mode(False), self.as_in_a_fit():
            self.record = FitRecord()
            self.record = fitting.fit(
                self.rooms,
                train_set,
                validation_set,
                seed=seed,
                checkpoint=None if checkpoint is None else Path(checkpoint),
                resume=resume,
                settings=settings or {},
                progress=progress,
                memory_budget=memory_budget,
            )
        return self if regions is None else self.set_roi(regions, drawn_on=roi_photo)
