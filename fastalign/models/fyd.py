"""FYD: align the images, then the features, and score each location against its Gaussian."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastalign.models import fitting
from fastalign.models.memory import MemoryPlan, plan_scoring
from fastalign.models.photographs import Photographs, Scored, tensors
from fastalign.models.progress import Progress
from fastalign.models.record import FitRecord
from fastalign.models.regional import as_regions
from fastalign.models.updatable import UpdatableModel
from fastalign.nn.state import made_in_own_state
from fastalign.numeric import LARGEST_SIZE, seed_number, whole_number

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
