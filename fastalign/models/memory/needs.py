"""What scoring, training and fitting need in memory, by what it is for."""

from __future__ import annotations

import math

import torch

from fastalign.models.pieces import PASS_BYTES, feature_bands
from fastalign.models.rooms import Rooms
from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.moments import runs_native
from fastalign.numeric import LARGEST_WHOLE


def stage_bytes(
    backbone: FeatureBackbone, height: int, width: int, first: int | None = None
) -> int:
    """Feature maps of one image of this size, of so many stages; None: of all."""
    stages = list(zip(backbone.channels, backbone.reductions, strict=True))
    return sum(
        4 * channels * math.ceil(height / stride) * math.ceil(width / stride)
        for channels, stride in stages[:first]
    )


class Needs:
    """Sizes of what the rooms of a model work with, in bytes.

    Arguments:
        rooms: of the model.
        images: that its density will be fitted to; None: it is fitted.
    """

    def __init__(self, rooms: Rooms, images: int | None = None) -> None:
        config, features, density = rooms.config, rooms.features, rooms.density
        height, width = config.image_size
        rows, columns = features.size
        channels = density.channels
        triangle = channels * (channels + 1) // 2
        item = 4 if config.storage == "float32" else 2
        self._rooms = rooms
        self.on_gpu = density.device.type != "cpu"
        self.pieces = features.backbone.splittable
        # With a prior, which is known once the images are.
        low_rank = config.low_rank
        rank = min(config.rank, channels, LARGEST_WHOLE if images is None else images - 1)
        self.in_place = not low_rank and item == 4 and runs_native("whiten_", torch.empty(0))
        # Rows beside a band whose sums its Gaussians need.
        self.margin = 2 * config.neighbours if low_rank else 0
        self.rows = rows
        self.pixels = height * width
        self.locations = rows * columns
        # Mean, whitener, count, calibration, support.
        self.whitener = self.locations * (rank * channels if low_rank else triangle) * item
        if images is None and density.fitted:
            self.whitener = density.gaussians.whitener.numel() * item
        self.stored = self.whitener + self.locations * (4 * channels + 8 + 4 + 1)
        # Sums of outer products, mean and count while fitting.
        self.sums = self.locations * (4 * triangle + 8 * channels + 8)
        self.described = 4 * self.locations * channels
        stages = stage_bytes(features.backbone, height, width)
        # An image as it was read, as numbers, and warped where it is.
        pictures = 3 * self.pixels * (1 + 4 + (0 if config.align == "none" else 4))
        # Two batches are read ahead, and a third is put together.
        self.read_ahead = 3 * 4 * 3 * self.pixels
        # On its way through the backbone: reordered, and its stages, twice where FCA warps them.
        self.encoding = pictures + 4 * 3 * self.pixels + stages * (2 if config.uses("fca") else 1)
        # Described: features by stage and together.
        whitened = config.reduction == "whiten"
        # What each stage adds to the features is as large as they are.
        described = (1 + len(density.stage_channels) if whitened else 2) * self.described
        self.describing = pictures + stages + max(described, 2 * self.described)
        # Scored: described in bands, then distances and evidence, upsampled, and smoothed along one
        # axis and both.
        bands = feature_bands(features.size, channels)
        maps = 4 * self.pixels * (4 if config.align == "none" else 7) + 4 * 4 * self.locations
        self.maps = pictures + maps
        self.scoring = max(pictures + stages + self._scored(described) // bands, self.maps)
        self.whole_pass = features.backbone.image_bytes(height, width) - stages
        searched = min(config.search_images, images or 0)
        teaches = config.uses("ica") and config.teacher
        self.search = self._searching(searched) if teaches else 0

    def _scored(self, described: int) -> int:
        """Of ``described`` what a distance needs: of whitened features of two stages what each adds
        to them, at its own size."""
        config, features = self._rooms.config, self._rooms.features
        reductions = zip(features.described, features.backbone.reductions, strict=True)
        used = [reduction for channels, reduction in reductions if channels]
        if config.reduction != "whiten" or len(used) > 2:
            return described
        return int(sum(self.described * (used[0] / reduction) ** 2 for reduction in used))

    def part(self, whole: int, bands: int) -> int:
        """Of what all rows of the map take, what a band takes with the rows beside it."""
        share = 1.0 if bands == 1 else min(1.0, 1 / bands + self.margin / self.rows)
        return int(whole * share)

    def keeps(self, pass_bytes: float) -> bool:
        """Whether no pass of the backbone has to take more, if images go one by one."""
        backbone = self._rooms.features.backbone
        return not self.pieces or backbone.keeps(*self._rooms.config.image_size, pass_bytes)

    def _searching(self, images: int) -> int:
        """Descriptors, spectra and edges of so many images on which poses are searched."""
        height, width = self._rooms.pose.search_size
        return images * height * width * 4 * 32

    def training(self, images: int) -> int:
        """One step of a fit on so many images: maps of all stages in heads, with what their
        gradients need."""
        features, config = self._rooms.features, self._rooms.config
        if not (config.uses("fca") or config.uses("fa")) or config.epochs == 0:
            return 0
        height, width = features.training_size
        stages = stage_bytes(features.backbone, height, width)
        heads = 14 * stages
        # What warps and their gradients need; the network itself is not trained.
        warps = 6 * stages if config.uses("fca") else 0
        batches = max(1, math.ceil(images / config.batch_size))
        pictures = 2 * 4 * 3 * height * width
        return math.ceil(images / batches) * (heads + warps + pictures) + PASS_BYTES

    def kept(self, images: int) -> int:
        """What training keeps of so many images, see
        :class:`fastalign.models.fitting.begun.Begun`: maps of the first stage, or of all without
        feature-level warps."""
        if not self.training(images):
            return 0
        features = self._rooms.features
        height, width = features.training_size
        first = 1 if self._rooms.config.uses("fca") else None
        return images * stage_bytes(features.backbone, height, width, first)
