"""Training of the plain ICA, of FCA and of FA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastalign.distributed import (
    Targets,
    World,
    average_gradients,
    globalise_norms,
    pairwise_distance_loss,
)
from fastalign.models.config import FYDConfig
from fastalign.models.features import FeatureExtractor
from fastalign.models.fitting.begun import Begun
from fastalign.models.fitting.figures import BatchFigures, EpochFigures
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.watch import Watch, warn_of
from fastalign.models.names import below, under
from fastalign.models.pose import PoseEstimator
from fastalign.models.rooms import warp
from fastalign.nn.heads import Predictor, Projector
from fastalign.nn.registration.encoder import resize
from fastalign.nn.spatial_align import SpatialAlign
from fastalign.nn.transfer import sent
from fastalign.ops import affine, warp_affine

_SEED_STRIDE = 1_000_003


class Trainer:
    """Trains the parts of a model that its options ask for, an epoch at a time.

    Each step: the plain ICA, where there is one, warps the images and is trained by the pairwise
    distance of what it gives at the search size; its result, without gradient, or the poses found
    before, go through the backbone with FCA between the stages, each of its warps trained by the
    loss of the stage that it is applied to; and each stage, adapted, through a
    projector and a predictor into the fine loss, all ordered pairs of images at each location.

    [P] the three losses and the stop-gradient. [L] SGD with momentum, cosine decay, the heads.
    [O] FA trains a residual 1x1 convolution per stage, zero at the start, and leaves the pretrained
    network alone: few images cannot spoil it, and poses keep their meaning.

    Over several processes each batch is shared out among them: losses, statistics and gradients are
    those of the whole batch, to rounding.

    Arguments:
        config: options of the model.
        pose: its plain ICA is trained where it is, where there is one.
        features: its FCA and FA are trained where they are.
        source: training images.
        theta: their poses ``[N,2,3]``; None: none, or the plain ICA's own.
        seed: of heads and order.
        world: the processes that train together, each with the same arguments; None: this one.
        keep: hold what no epoch changes of the images in memory, see :class:`Begun`.
    """

    def __init__(
        self,
        config: FYDConfig,
        pose: PoseEstimator,
        features: FeatureExtractor,
        source: ImageSource,
        theta: Tensor | None,
        seed: int,
        world: World | None = None,
        *,
        keep: bool = False,
    ) -> None:
        self.config = config
        self.pose = pose
        self.features = features
        self.source = source
        self.theta = theta
        self.seed = seed
        self.world = world = world or World()
        # Where the poses are trained nothing stays.
        self._begun = Begun(features, source, theta) if keep and pose.ica is None else None
        device = features.device
        self.projectors, self.predictors = nn.ModuleList(), nn.ModuleList()
        if features.fca is not None or features.adapters is not None:
            width = self.config.projector_channels or None
            for channels in features.channels:
                projector = Projector(channels, width, width)
                self.projectors.append(projector)
                self.predictors.append(Predictor(projector.out_channels))
        self.heads = nn.ModuleList([self.projectors, self.predictors]).to(device)
        if world.size > 1:
            globalise_norms(self.heads, world)
        fine = [*self.heads.parameters()]
        for part in (features.fca, features.adapters):
            fine += [] if part is None else list(part.parameters())
        groups: list[dict[str, Any]] = (
            [{"params": fine, "lr": self.config.learning_rate}] if fine else []
        )
        if pose.ica is not None:
            rate = self.config.ica_learning_rate
            groups.append({"params": list(pose.ica.parameters()), "lr": rate})
        self.rates = [group["lr"] for group in groups]
        self.optimizer = torch.optim.SGD(groups, momentum=self.config.momentum) if groups else None
        for module in self._trained():
            world.broadcast_(list(module.state_dict().values()), "the start values of training")

    @property
    def idle(self) -> bool:
        """Whether there is nothing to train, or nothing to train on."""
        return self.optimizer is None or len(self.source) < 2 or self.config.epochs == 0

    def epoch(self, index: int) -> dict[str, float]:
        """Train for one pass; returns the means of what is logged, by name."""
        assert self.optimizer is not None
        decay = 0.5 * (1 + math.cos(math.pi * index / self.config.epochs))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * decay
        trained = self._trained()
        for part in trained:
            part.train()
        watches = {name: Watch(layer) for name, layer in self._warps().items()}
        epoch = EpochFigures()
        try:
            for images, positions in self.batches(index):
                loss, logged = self._step(images, positions)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                average_gradients(self.parameters(), world=self.world)
                self.optimizer.step()
                epoch.add(logged)
        finally:
            for part in trained:
                part.eval()
            for watch in watches.values():
                watch.end()
        figures = epoch.settle()
        for watch in watches.values():
            watch.join(self.world)
        if self.world.rank == 0:
            warn_of(figures, watches, index)
        return {"epoch": index + 1, **figures}

    def _trained(self) -> list[nn.Module]:
        parts = (self.heads, *self._parts().values())
        return list(parts)

    def _parts(self) -> dict[str, nn.Module]:
        """What is trained of the model, by name."""
        parts = {
            "ica": self.pose.ica,
            "fca": self.features.fca,
            "adapters": self.features.adapters,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def batches(self, epoch: int) -> Iterator[tuple[Tensor | list[Tensor], Tensor]]:
        """This process's shares of batches of nearly equal size, at least two images each in all,
        in an order of this epoch: images, or what is kept of them, and their positions."""
        generator = torch.Generator().manual_seed(self.seed * _SEED_STRIDE + epoch)
        order = torch.randperm(len(self.source), generator=generator)
        number = math.ceil(len(order) / self.config.batch_size)
        number = max(1, min(number, len(order) // 2))
        for part in order.tensor_split(number):
            share = self.world.share(len(part))
            with self.world.together("reading a batch"):
                batch: tuple[Tensor | list[Tensor], Tensor]
                indices = part[share.start : share.stop].tolist()
                if self._begun is not None:
                    batch = self._begun.of(indices), torch.tensor(indices, dtype=torch.int64)
                else:
                    batch = self._read(indices)
            yield batch

    def _read(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """These images at the size of training, and their positions."""
        size = self.features.training_size
        if size == self.config.image_size or not indices:
            images, positions = self.source.batch(indices)
            return images[..., : size[0], : size[1]], positions
        # One by one: together they may be large.
        parts = list(self.source.batches(1, indices))
        images = torch.cat([resize(image, size) for image, _ in parts])
        return images, torch.cat([position for _, position in parts])

    def _step(
        self, images: Tensor | list[Tensor], positions: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pose, features = self.pose, self.features
        loss = torch.zeros((), device=features.device)
        logged: dict[str, Tensor] = {}
        figures = BatchFigures(self.world)
        theta = None if self.theta is None else self.theta[sent(positions, self.theta.device)]
        if pose.ica is not None:
            assert isinstance(images, Tensor)
            theta = pose.ica.localise(images)
            small = resize(images, pose.search_size)
            valid = affine.valid_mask(theta.detach(), small.shape[-2:])
            distance = pairwise_distance_loss(
                warp_affine(small, theta, padding_mode="border"), valid, world=self.world
            )
            loss = loss + self.config.ica_weight * distance
            logged["loss_ica"] = distance.detach()
            figures.add_magnitudes("ica", theta, pose.aspect)
            theta = theta.detach()
        if not self.projectors:
            return loss, logged | figures.settle()
        begun = images
        if isinstance(begun, Tensor):
            with torch.no_grad():
                begun = features.begin(warp(begun, theta))
        stages, moved = features.train_from(begun)
        if moved is not None:
            figures.add_magnitudes("fca", moved, pose.aspect)
        fine = []
        heads = zip(self.projectors, self.predictors, strict=True)
        for stage, (projector, predictor) in zip(features.adapt(stages), heads, strict=True):
            z = projector(stage)
            # Their sum is on its way to the other processes while the predictor computes.
            targets = Targets(z.detach(), world=self.world)
            fine.append(targets.loss(predictor(z)))
            figures.add_spread(z)
        similarity = torch.stack(fine).mean()
        logged["loss_fa"] = similarity.detach()
        return loss + self.config.fa_weight * similarity, logged | figures.settle()

    def _warps(self) -> dict[str, SpatialAlign]:
        """The trained spatial transformers by what messages call them."""
        named = {} if self.pose.ica is None else {"ica": self.pose.ica}
        for index, layer in enumerate(self.features.fca or []):
            assert isinstance(layer, SpatialAlign)
            named[f"fca of stage {index + 1}"] = layer
        return named

    # State -----------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes."""
        state = below("heads", self.heads.state_dict())
        for name, part in self._parts().items():
            state |= below(name, part.state_dict())
        if self.optimizer is not None:
            for index, parameter in enumerate(self.parameters()):
                momentum = self.optimizer.state[parameter].get("momentum_buffer")
                if momentum is not None:
                    state[f"momentum.{index}"] = momentum
        return state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        self.heads.load_state_dict(under("heads", tensors))
        for name, part in self._parts().items():
            part.load_state_dict(under(name, tensors))
        if self.optimizer is not None:
            for index, parameter in enumerate(self.parameters()):
                momentum = tensors.get(f"momentum.{index}")
                if momentum is not None:
                    self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(
                        parameter.device
                    )

    def parameters(self) -> list[nn.Parameter]:
        """All that the optimiser steps."""
        assert self.optimizer is not None
        return [p for group in self.optimizer.param_groups for p in group["params"]]
