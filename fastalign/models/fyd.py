"""FYD: align the images, then the features, and score each location against its Gaussian."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign import storage
from fastalign.errors import ConfigError
from fastalign.load import watched
from fastalign.models.config import FYDConfig
from fastalign.models.memory import (
    PASS_BYTES,
    MemoryPlan,
    feature_bands,
    plan_scoring,
    split_rows,
)
from fastalign.models.names import under
from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.registration.aligner import TemplateAligner, edge_size, search_size
from fastalign.nn.registration.encoder import LocalEncoder, resize
from fastalign.nn.registration.refiner import GaussNewtonRefiner, edge_strength
from fastalign.nn.smoothing import interpolated_rows, smooth
from fastalign.nn.spatial_align import SpatialAlign
from fastalign.nn.weights import EMBEDDED_NETWORK
from fastalign.ops import affine, warp_affine
from fastalign.storage import StoredModel, hub
from fastalign.storage.layout import in_file, rooms_of

if TYPE_CHECKING:
    from fastalign.data import Depth, ImageDataset
    from fastalign.models.progress import Progress

# Bounds of the feature-level warps: a correction, not a second search.
_FCA_BOUNDS: dict[str, Any] = {"max_shift": 0.05, "max_angle": 10.0, "max_scale": 1.1}
# Bounds of the plain image-level warp.
_ICA_BOUNDS: dict[str, Any] = {"max_shift": 0.25, "max_angle": 60.0, "max_scale": 1.5}
# Pixels of the images that FCA and FA are trained on, at most.
_TRAINING_PIXELS = 256 * 256
_COMPILED_WHOLE = "a compiled model runs the whole image at once; use one of the two."
# Below this share of valid neighbours a pixel of the map has no evidence.
_LEAST_EVIDENCE = 0.05


class Detail(NamedTuple):
    """What the model did with a batch of B images.

    score ``[B]``; map ``[B,H,W]`` in the frame of the input, 0 without evidence; theta ``[B,2,3]``,
    all warps composed, aligned to input coordinates; valid ``[B,h,w]`` bool, the locations of the
    aligned frame that the image covers; aligned ``[B,3,H,W]``; residual_before and residual_after
    ``[B]``, 1 minus the correlation of edges with the mean of the training images, NaN without
    alignment; shift as a fraction of the image, rotation in degrees, scale as a factor, each
    ``[B]``. Of an image that cannot be judged (see :meth:`FYD.forward`) all figures are NaN and no
    location is valid.
    """

    score: Tensor
    map: Tensor
    theta: Tensor
    valid: Tensor
    aligned: Tensor
    residual_before: Tensor
    residual_after: Tensor
    shift: Tensor
    rotation: Tensor
    scale: Tensor


class Encoded(NamedTuple):
    """Feature maps of the stages, and theta ``[B,2,3]`` of the last one, input coordinates; None:
    nothing was warped."""

    stages: list[Tensor]
    theta: Tensor | None


class FYD(nn.Module):
    """Focus Your Distribution (Zheng et al., ICME 2022, arXiv 2110.04538).

    ``fit`` it on images of good parts, then call it: ``score, map = model(images)``.

    Arguments:
        config: options, all of them; None for the defaults.
        options: single options by name, in place of those of ``config``.

    Buffers:
        image_threshold, pixel_threshold: scores above them are anomalies; NaN where it was fitted
        without normal validation images.

    Raises:
        ConfigError: an option, or a combination, that makes no sense.
        InputError: weights that cannot be read or downloaded.
    """

    image_threshold: Tensor
    pixel_threshold: Tensor
    calibration: Tensor
    selection: Tensor

    def __init__(self, config: FYDConfig | None = None, **options: Any) -> None:
        super().__init__()
        if options:
            try:
                config = replace(config or FYDConfig(), **options)
            except TypeError as error:
                raise ConfigError(f"FYD: {error}; FYDConfig lists the options.") from error
        config = config or FYDConfig()
        self._build(config, _weights(config))

    def _build(self, config: FYDConfig, weights: str | Path | None) -> None:
        self.config = config
        self.backbone = FeatureBackbone(config.backbone, config.layers, weights).eval().fuse()
        self.backbone.limit_memory(PASS_BYTES)
        if config.uses("fca"):
            self.backbone.stages()
        self.aligner: TemplateAligner | None = None
        self.ica: SpatialAlign | None = None
        self.template: GaussNewtonRefiner | None = None
        self.fca: nn.ModuleList | None = None
        self.adapters: nn.ModuleList | None = None
        self._metadata: dict[str, Any] = {}
        self._compiled: Callable[[Tensor, Tensor | None], Encoded] | None = None
        self._budget: int | None = None
        with torch.inference_mode():
            probe = self.backbone(torch.zeros(1, 3, *config.image_size))
        self.feature_size = (int(probe[0].shape[2]), int(probe[0].shape[3]))
        total = sum(self.backbone.channels)
        kept = min(config.channels or total, total)
        self.register_buffer("selection", torch.arange(kept))
        self._settle()
        self.density = DenseGaussian(
            kept,
            self.feature_size,
            shrinkage=config.shrinkage,
            storage=getattr(torch, config.storage),
        )
        self.register_buffer("calibration", torch.ones(self.feature_size))
        self.register_buffer("image_threshold", torch.tensor(torch.nan))
        self.register_buffer("pixel_threshold", torch.tensor(torch.nan))
        self.register_load_state_dict_post_hook(_settle_again)
        self.eval()

    # Parts -----------------------------------------------------------------------------------

    def make_encoder(self) -> LocalEncoder:
        """An unfitted encoder for poses, with its own copy of the backbone's early layers."""
        strides = self.backbone.reductions
        # As fine as a pose needs; deeper layers know less about where.
        depth = max([i for i, stride in enumerate(strides) if stride <= 8], default=0)
        return LocalEncoder(self.backbone.up_to(depth))

    def make_ica(self, aspect: float) -> SpatialAlign:
        """The spatial transformer of the paper's plain ICA."""
        family = "affine" if self.config.family == "auto" else self.config.family
        return SpatialAlign(3, family, grid=64, aspect=aspect, **_ICA_BOUNDS)

    def make_template(self, template: Tensor, weight: Tensor) -> GaussNewtonRefiner:
        """What residuals are measured against where there is no teacher's template."""
        refiner = GaussNewtonRefiner(
            template, weight, "translation", aspect=self.aspect, iterations=0
        )
        return refiner.to(self.selection.device)

    def make_fca(self, aspect: float) -> nn.ModuleList:
        """One spatial transformer for each stage."""
        return nn.ModuleList(
            SpatialAlign(channels, self.config.fca_family, aspect=aspect, **_FCA_BOUNDS)
            for channels in self.backbone.channels
        )

    def make_adapters(self) -> nn.ModuleList:
        """One residual 1x1 convolution for each stage, zero at the start: what FA trains."""
        adapters = nn.ModuleList()
        for channels in self.backbone.channels:
            adapter = nn.Conv2d(channels, channels, 1, bias=False)
            nn.init.zeros_(adapter.weight)
            adapters.append(adapter)
        return adapters

    def select(self, channels: Tensor) -> None:
        """Keep these feature channels: indices ``[C]``, ascending, into the concatenated stages."""
        self.selection = channels.to(self.selection.device)
        self._settle()

    def _settle(self) -> None:
        """The selected channels by stage, worked out once."""
        starts = [0]
        for channels in self.backbone.channels:
            starts.append(starts[-1] + channels)
        self._rows = [
            self.selection[(self.selection >= start) & (self.selection < end)] - start
            for start, end in zip(starts, starts[1:], strict=False)
        ]

    def _apply(self, fn: Any, recurse: bool = True) -> FYD:
        before = self.selection.device.type
        super()._apply(fn, recurse)
        self._settle()
        kind = self.selection.device.type
        if kind != before:
            # Pieces that fit a CPU's caches would only cost time elsewhere.
            self.backbone.limit_memory(PASS_BYTES if kind == "cpu" else math.inf)
        return self

    # Steps -----------------------------------------------------------------------------------

    @watched
    def encode(self, images: Tensor, theta: Tensor | None) -> Encoded:
        """Stages of images ``[B,3,H,W]`` that were aligned by theta, FCA included."""
        if self.fca is None:
            return Encoded(self.backbone(images), theta)
        stages = []
        x = images
        for index, align in enumerate(self.fca):
            x, moved, _ = align(self.backbone.forward_stage(index, x))
            theta = moved if theta is None else affine.compose(theta, moved)
            stages.append(x)
        return Encoded(stages, theta)

    def adapt(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The stages with what FA has learned."""
        if self.adapters is None:
            return list(stages)
        return [
            stage + adapter(stage) for stage, adapter in zip(stages, self.adapters, strict=True)
        ]

    def describe(self, stages: Sequence[Tensor], rows: slice | None = None) -> Tensor:
        """The selected channels of all stages at the size of the first: ``[B,C,h,w]``, float32; of
        the rows ``rows`` alone if these are given.

        [L] Concatenated as in PaDiM; [O] bilinear where PaDiM repeats the nearest value.
        """
        parts = []
        for index, (stage, channels) in enumerate(zip(stages, self._rows, strict=True)):
            if not len(channels):
                continue
            chosen = stage[:, channels]
            if self.adapters is not None:
                chosen = chosen + F.conv2d(stage, self._kernel(index)[channels])
            if stage.shape[2:] == self.feature_size:
                chosen = chosen if rows is None else chosen[:, :, rows]
            elif rows is None:
                chosen = F.interpolate(
                    chosen, self.feature_size, mode="bilinear", align_corners=False
                )
            else:
                chosen = interpolated_rows(chosen, self.feature_size, rows)
            parts.append(chosen.float())
        return torch.cat(parts, 1)

    def _kernel(self, stage: int) -> Tensor:
        assert self.adapters is not None
        weight = self.adapters[stage].weight
        assert isinstance(weight, Tensor)
        return weight

    def warp(self, images: Tensor, theta: Tensor | None) -> Tensor:
        """Images aligned by theta; what lies outside is continued from the border."""
        return images if theta is None else warp_affine(images, theta, padding_mode="border")

    def valid(self, theta: Tensor | None) -> Tensor | None:
        """Locations ``[B,h,w]`` that came from inside the image; None: all."""
        if theta is None:
            return None
        return affine.valid_mask(theta, self.config.image_size, self.feature_size)

    def find_pose(self, images: Tensor) -> Tensor | None:
        """theta of the image-level alignment ``[B,2,3]``; None where there is none."""
        if self.aligner is not None:
            return self.aligner(images).theta
        return None if self.ica is None else self.ica.localise(images)

    def edges(self, images: Tensor) -> Tensor:
        """Edge strength of images at the size at which poses are refined ``[B,1,h,w]``."""
        size = self.search_size
        return edge_strength(resize(images, size), edge_size(size))

    # Scoring ---------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images ``[B,3,H,W]`` in 0..1 of the model's image size.

        Returns:
            scores ``[B]``, the largest value of each map, and maps ``[B,H,W]`` in the frame of the
            images, float32: the Mahalanobis distance, smoothed. An image that cannot be judged,
            because a value of it or of its features is NaN or infinite or alignment left nothing
            of it to compare, has NaN as score and in all of its map; the others of its batch have
            the same bits as without it. :func:`fastalign.verdict.judge` compares a score with a
            threshold.

        Raises:
            ValueError: images of another shape.
            ConfigError: not fitted.
        """
        maps = self._score(self._prepare(images))[0]
        return maps.amax((1, 2)), maps

    def align(self, images: Tensor) -> Tensor:
        """theta ``[B,2,3]`` of the image-level alignment, the identity where there is none."""
        images = self._prepare(images)
        theta = self.find_pose(images)
        theta = affine.identity(len(images), device=images.device) if theta is None else theta
        return _where(_are_finite(images), theta)

    def predict_detail(self, images: Tensor) -> Detail:
        """As :meth:`forward`, with everything that was found on the way."""
        images = self._prepare(images)
        maps, aligned, pose, theta = self._score(images)
        identity = affine.identity(len(images), device=images.device)
        before = after = images.new_full((len(images),), torch.nan)
        template = self.aligner.refiner if self.aligner is not None else self.template
        if template is not None and pose is not None:
            edges = self.edges(images)
            before = 1 - template.correlation(edges, identity)
            after = 1 - template.correlation(edges, pose)
        score = maps.amax((1, 2))
        judged = score.isfinite()
        before, after = _where(judged, before), _where(judged, after)
        theta = _where(judged, identity if theta is None else theta)
        valid = affine.valid_mask(theta, self.config.image_size, self.feature_size)
        magnitude = affine.magnitude(theta, self.aspect)
        return Detail(
            score=score,
            map=maps,
            theta=theta,
            valid=valid,
            aligned=aligned,
            residual_before=before,
            residual_after=after,
            **magnitude,
        )

    @watched
    def _score(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Maps, aligned images, theta of the image-level and of all alignment."""
        pose = self.find_pose(images)
        aligned = self.warp(images, pose)
        compiled = None if torch.compiler.is_compiling() else self._compiled
        stages, theta = (compiled or self.encode)(aligned, pose)
        distance = self._distance(stages) * self.calibration
        support = None if self.density.supported_everywhere else self.density.support
        maps = self.map_from(distance, theta, support)
        judged = _are_finite(images) & _are_finite(maps)
        return _where(judged, maps), aligned, pose, theta

    def _distance(self, stages: Sequence[Tensor]) -> Tensor:
        """Distances ``[B,h,w]``; where one image's features are large, in bands of rows, since all
        of them are never needed at once."""
        bands = split_rows(self.feature_size[0], feature_bands(self))
        if len(bands) == 1:
            return self.density(self.describe(stages))
        return torch.cat([self.density(self.describe(stages, rows), rows) for rows in bands], 1)

    def map_from(self, distance: Tensor, theta: Tensor | None, support: Tensor | None) -> Tensor:
        """Distances ``[B,h,w]`` of the aligned frame as smoothed maps of the images: upsampled and
        moved back in one step, and without what came from outside the image, or from locations
        ``[h,w]`` without support (None: all have it). An image of which nothing is left is NaN."""
        size = self.config.image_size
        if theta is None and support is None:
            maps = F.interpolate(distance[:, None], size, mode="bilinear", align_corners=False)
            return smooth(maps[:, 0], self.config.sigma)
        if theta is None:
            theta = affine.identity(distance.shape[0], device=distance.device)
        valid = affine.valid_mask(theta, size, self.feature_size)
        if support is not None:
            valid = valid & support
        evidence = valid.to(distance.dtype)
        both = torch.stack([distance * evidence, evidence], 1)
        both = smooth(warp_affine(both, affine.invert(theta), size=size), self.config.sigma)
        maps, share = both.unbind(1)
        maps = torch.where(share > _LEAST_EVIDENCE, maps / share.clamp_min(1e-6), 0)
        return _where(share.amax((1, 2)) > _LEAST_EVIDENCE, maps)

    def _prepare(self, images: Tensor) -> Tensor:
        size = self.config.image_size
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, *size):
            raise ValueError(
                f"FYD: images have shape {list(images.shape)}, expected [B, 3, {size[0]}, "
                f"{size[1]}] with values in 0..1; fastalign.data.prepare resizes photographs"
            )
        return images.float()

    def limit_memory(self, budget: int | None, images: int = 1) -> MemoryPlan:
        """Score within ``budget`` bytes of this process, so many images at a time; returns how.

        Images go through the backbone one by one and in pieces as far as needed, with the same
        maps. None: no budget; on a CPU the pieces are then of a size that costs no time.

        Raises:
            ConfigError: the budget is too small, or the network cannot be run in pieces or is
                compiled.
        """
        if budget is not None and self._compiled is not None:
            raise ConfigError(f"limit_memory: budget={budget}: {_COMPILED_WHOLE}")
        plan = plan_scoring(self, budget, images)
        self.backbone.limit_memory(plan.pass_bytes)
        self._budget = budget
        return plan

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what scoring runs of the network, FCA included; the same scores, to rounding.

        The arguments are those of :func:`torch.compile`. The first image of a shape then takes some
        ten seconds. Poses, distances and maps are left to the kernels that they have.

        Raises:
            ConfigError: :meth:`limit_memory` has set a budget.
        """
        if self._budget is not None:
            raise ConfigError(f"compile: limit_memory was given {self._budget}: {_COMPILED_WHOLE}")
        self._compiled = torch.compile(self.encode, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # As torch does with compiled modules: a copy of the model is not compiled.
        return {**super().__getstate__(), "_compiled": None}

    # Fitting ---------------------------------------------------------------------------------

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
                for bit.
            checkpoint: file to write after each epoch, by the first process.
            resume: go on from ``checkpoint``.
            settings: written into the checkpoint, for whoever resumes to compare.
            progress: told about the course.
            memory_budget: bytes that the process may take: images go through the backbone in
                pieces, and the Gaussians are fitted a band of rows at a time, as far as needed. The
                same model comes out, to rounding. None: no limit.

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
        from fastalign.models.fitting import Fitting

        # Training has its gradients, and what it leaves can be scored with gradients, whatever mode
        # the caller is in.
        with torch.inference_mode(False):
            Fitting(
                self,
                train_set,
                validation_set,
                seed=seed,
                checkpoint=None if checkpoint is None else Path(checkpoint),
                settings=dict(settings or {}),
                progress=progress,
                memory_budget=memory_budget,
            ).run(resume=resume)
        return self

    @property
    def search_size(self) -> tuple[int, int]:
        """The size at which poses are searched; a network of fixed size gets its own."""
        size = self.config.image_size
        return search_size(size) if self.backbone.splittable else size

    @property
    def training_size(self) -> tuple[int, int]:
        """The size at which FCA and FA are trained: the image size, or where that is larger so many
        pixels as 256 x 256; a network of fixed size gets its own. Poses and warps are in units of
        the image, so they hold at every size."""
        height, width = self.config.image_size
        if height * width <= _TRAINING_PIXELS or not self.backbone.splittable:
            return height, width
        scale = (_TRAINING_PIXELS / (height * width)) ** 0.5
        return max(32, 16 * round(height * scale / 16)), max(32, 16 * round(width * scale / 16))

    @property
    def aspect(self) -> float:
        """Width over height of the photographs in true units."""
        return float(self._metadata.get("aspect", self.config.aspect or 1.0))

    @property
    def depth(self) -> Depth | None:
        """Of 16-bit photographs whose files state none, for :func:`fastalign.data.load_image`; None
        where it was fitted on tensors."""
        from fastalign.data import Depth

        return Depth.from_record(self._metadata.get("depth"))

    # State -----------------------------------------------------------------------------------

    def extra_metadata(self) -> dict[str, Any]:
        """What is known about the fit, JSON-able: ``seed``, ``aspect``, ``depth``, ``images``,
        ``alignment`` with ``used``, ``summary`` and ``reason``, ``training`` by epoch, ``parts``,
        ``threshold_source`` in words, ``least_covered`` by each normal image of the aligned frame,
        ``warnings`` in sentences, and ``known_images``, by which
        :func:`fastalign.models.survey.known_images` knows the images of the fit again."""
        return dict(self._metadata)

    def stored(self) -> StoredModel:
        """The model as storage keeps it: configuration, the tensors of its rooms, metadata."""
        rooms = rooms_of(self.state_dict())
        return StoredModel(asdict(self.config), rooms, self.extra_metadata())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, atomically; equal models give equal
        files.

        Raises:
            ConfigError: its metadata cannot be written as JSON.
            InputError: ``path`` cannot be written (the message names it and the cause).
        """
        storage.write_model(path, self.stored())

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> FYD:
        """Read a model written by :meth:`save`; it is in evaluation mode on ``device``.

        Raises:
            ArtifactError: the file is missing, truncated, damaged, foreign, from a newer version,
                or its tensors do not fit its configuration; the message says which, and what to do.
        """
        stored = storage.read_model(path, [field.name for field in fields(FYDConfig)])
        with storage.making_of(path):
            config = FYDConfig(**stored.config)
            model = cls.from_state(config, in_file(stored.rooms), stored.metadata)
        return model.to(device).eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder in the manner of the Hugging Face hub: ``model.safetensors``,
        ``config.json`` and, unless there is one, ``README.md``; returns the folder, which is made
        when missing.

        Raises:
            InputError: it cannot be written.
        """
        return hub.save_folder(folder, self.stored())

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], device: str | torch.device = "cpu", **options: Any
    ) -> FYD:
        """A model from such a folder, a file or the hub.

        Args:
            source: a folder that :meth:`save_pretrained` wrote, a model file, or the id of a
                repository on the hub (``"owner/name"``); what exists on the disk comes first.
            device: where to put it.
            options: for the hub: ``revision``, ``token``, ``cache_dir``, ``force_download``,
                ``local_files_only``, as in ``huggingface_hub.hf_hub_download``.

        Raises:
            ArtifactError: the folder holds no model, or the file is damaged.
            BackendError: a repository without huggingface_hub being installed.
            InputError: there is neither such a path nor such a repository, or it cannot be reached.
        """
        return cls.load(hub.find_file(source, options), device)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes; returns the address of the commit.

        Args:
            repository: ``"owner/name"``; made when missing.
            options: ``private``, ``token``, ``commit_message``, ``revision``.

        Raises:
            BackendError: huggingface_hub is not installed.
            InputError: the hub refuses, or cannot be reached.
        """
        return hub.push(self.stored(), repository, **options)

    @classmethod
    def from_state(
        cls, config: FYDConfig, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> FYD:
        """A fitted model of its configuration, ``state_dict()`` and :meth:`extra_metadata`.

        Raises:
            RuntimeError, KeyError, ValueError: they do not fit each other.
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        # Weights that are replaced at once must not use up the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            model._build(config, None)
            model._metadata = dict(metadata)
            parts = dict(metadata.get("parts") or {})
            model.restore_parts(parts, tensors)
        # The Gaussians, by far the largest part, are taken as they are: a second copy of them could
        # be more than the machine has.
        model.density.load_state_dict(under("density", tensors), assign=True)
        others = {k: v for k, v in tensors.items() if not k.startswith("density.")}
        missing, unexpected = model.load_state_dict(others, strict=False)
        missing = [name for name in missing if not name.startswith("density.")]
        if missing or unexpected:
            raise KeyError(
                f"missing tensors: {', '.join(missing) or 'none'}; unexpected tensors: "
                f"{', '.join(unexpected) or 'none'}"
            )
        # As after a fit: nothing is trained by accident.
        return model.requires_grad_(False).eval()

    def parts(self) -> dict[str, Any]:
        """Which optional parts there are, with what :meth:`restore_parts` needs, JSON-able."""
        return {
            "aligner": None if self.aligner is None else self.aligner.state(),
            "ica": self.ica is not None,
            "fca": self.fca is not None,
            "fa": self.adapters is not None,
        }

    def restore_parts(self, parts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Make the optional parts of :meth:`parts`; the sizes of some are those of ``tensors``."""
        device = self.selection.device
        if parts.get("aligner"):
            self.aligner = TemplateAligner.from_state(
                self.make_encoder(), parts["aligner"], under("aligner", tensors)
            ).to(device)
        if parts.get("ica"):
            self.ica = self.make_ica(self.aspect).to(device)
        template = under("template", tensors)
        if template:
            self.template = self.make_template(**template)
        if parts.get("fca"):
            self.fca = self.make_fca(self.aspect).to(device)
        if parts.get("fa"):
            self.adapters = self.make_adapters().to(device)


def _are_finite(values: Tensor) -> Tensor:
    """Which of ``[B,...]`` are free of NaN and infinity, bool ``[B]``: by a sum, which is one pass
    and, unlike a maximum, hands NaN on in every runtime of exported files."""
    total = values.flatten(1).sum(1)
    return total - total == 0


def _where(known: Tensor, values: Tensor) -> Tensor:
    """Values ``[B,...]`` of the images that are ``known [B]``, NaN for the others."""
    return torch.where(known.view(-1, *[1] * (values.dim() - 1)), values, torch.nan)


def _settle_again(model: FYD, _: object) -> None:
    model._settle()


def _weights(config: FYDConfig) -> str | Path | None:
    if config.weights is not None:
        return config.weights
    return "embedded" if config.backbone == EMBEDDED_NETWORK else "hub"
