"""The course of a fit: poses, training, density, thresholds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.distributed import current
from fastalign.errors import ConfigError, DataWarning
from fastalign.models.memory import MemoryPlan, plan_fitting, release_unused
from fastalign.models.names import below
from fastalign.models.progress import NoProgress, Progress
from fastalign.models.source import ImageSource, spread
from fastalign.models.survey import few_images, look_at
from fastalign.models.thresholds import fit_density, turns
from fastalign.models.training import Trainer
from fastalign.nn.registration.choose import (
    LEAST_IMAGES,
    MARGIN,
    choose_family,
    ladder,
    unexplained_share,
)
from fastalign.nn.registration.encoder import resize
from fastalign.nn.registration.search import mean_template
from fastalign.ops import affine
from fastalign.storage import checkpoint as checkpoints

if TYPE_CHECKING:
    from fastalign.data import ImageDataset
    from fastalign.models.fyd import FYD

# Locations of a map on which alignment is judged, at most: a mean does not need them all.
_JUDGED = 32 * 32


class Fitting:
    """One fit of a model; the arguments are those of :meth:`fastalign.FYD.fit`.

    Under an initialised process group all processes fit one model together. Training, poses,
    density and scores are shared out; what is decided once, on a bounded number of images, is
    decided by the first process.
    """

    def __init__(
        self,
        model: FYD,
        train_set: ImageDataset | Tensor | Sequence[Tensor],
        validation_set: ImageDataset | Tensor | Sequence[Tensor] | None,
        *,
        seed: int,
        checkpoint: Path | None,
        settings: dict[str, Any],
        progress: Progress | None,
        memory_budget: int | None = None,
    ) -> None:
        self.model = model
        self.config = model.config
        self.device = model.selection.device
        size = self.config.image_size
        self.train = ImageSource(train_set, size, self.device)
        self.validation = (
            None
            if validation_set is None
            else ImageSource(validation_set, size, self.device, "validation")
        )
        self.seed = seed
        self.checkpoint = checkpoint
        self.settings = settings
        self.progress = progress or NoProgress()
        self.world = current()
        self.survey = self.world.once(
            lambda: look_at(self.train, self.validation, self.progress), "looking at the images"
        )
        self.turns = turns(self.survey, self.config.refit)
        self.warnings = self._warn()
        self.plan = self._plan(memory_budget)

    def _warn(self) -> list[str]:
        """Tell what the user has to know about the images, before anything takes its time."""
        scored = self.survey.distinct_of(self.turns or self.survey.held_out)
        few = few_images(self.survey.distinct(), scored)
        texts = [*self.survey.warnings, *([] if few is None else [few])]
        if self.world.rank == 0:
            for text in texts:
                warnings.warn(text, DataWarning, stacklevel=4)
        return texts

    def _plan(self, budget: int | None) -> MemoryPlan:
        number = 0 if self.validation is None else len(self.validation)
        cached = sum(s.cached_bytes for s in (self.train, self.validation) if s is not None)
        # What building the network has left.
        release_unused()
        plan = plan_fitting(self.model, len(self.train), number, len(self.turns), budget, cached)
        self.model.backbone.limit_memory(plan.pass_bytes)
        self.progress.note(plan.describe())
        return plan

    def run(self, *, resume: bool) -> None:
        """Fit, from the beginning or from the checkpoint."""
        model, config = self.model, self.config
        saved: dict[str, Tensor] = {}
        meta: dict[str, Any] | None = None
        self._check_agreement(resume)
        checkpoint = self.checkpoint
        if resume and checkpoint is not None:
            saved, meta = self.world.once(
                lambda: checkpoints.load_checkpoint(checkpoint), "reading the checkpoint"
            )
        # What an earlier fit has left must not shine through.
        model.aligner = model.ica = model.template = model.fca = model.adapters = None
        aspect = config.aspect or self.world.once(
            lambda: self.train.aspect(config.image_size), "looking at the photographs"
        )
        model._metadata = {"aspect": aspect}
        if (depth := self.train.depth) is not None:
            model._metadata["depth"] = depth
        channels = sum(model.backbone.channels)
        generator = torch.Generator().manual_seed(self.seed)
        kept = torch.randperm(channels, generator=generator)[: model.selection.numel()]
        model.select(kept.sort().values)
        # Layers that are made here draw their start values from the seed, and nobody else's do.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            model.ica = (
                model.make_ica(model.aspect).to(self.device)
                if config.uses("ica") and not config.teacher
                else None
            )
            model.fca = model.make_fca(model.aspect).to(self.device) if config.uses("fca") else None
            model.adapters = model.make_adapters().to(self.device) if config.uses("fa") else None
            decision, theta = self._poses(saved, meta)
            trainer = Trainer(model, self.train, theta, self.seed, self.world)
        history = self._train(trainer, decision, theta, saved, meta)
        model.requires_grad_(False)
        model.eval()
        if not trainer.idle:
            decision = self._judge_trained(decision)
        else:
            model.ica = model.fca = None
        release_unused()
        self.warnings += fit_density(
            model,
            self.train,
            self.validation,
            self.survey,
            self.seed,
            self.progress,
            self.world,
            self.plan,
        )
        model._metadata |= {
            "warnings": self.warnings,
            "known_images": self.survey.record(),
            "seed": self.seed,
            "images": {
                "train": len(self.train),
                "validation": 0 if self.validation is None else len(self.validation),
            },
            "alignment": decision,
            "training": history,
            "parts": model.parts(),
        }

    def _check_agreement(self, resume: bool) -> None:
        """All processes have to fit the same model on the same images."""
        own: dict[str, Any] = {
            "seed": self.seed,
            "training images": len(self.train),
            "validation images": 0 if self.validation is None else len(self.validation),
            "resume": resume,
            **asdict(self.config),
            # Threads change the rounding alone.
            **{name: self.settings[name] for name in self.settings.keys() - {"config", "threads"}},
        }
        first = self.world.once(lambda: own, "the start of the fit")
        with self.world.together("the start of the fit"):
            names = sorted(own.keys() | first.keys())
            differing = [name for name in names if own.get(name) != first.get(name)]
            if differing:
                listed = (
                    f"{name} {own.get(name)!r}, not {first.get(name)!r}" for name in differing
                )
                raise ConfigError(
                    f"the processes of one fit were given different things: {'; '.join(listed)} as "
                    "the first one; give all of them the same, the whole data set included."
                )

    # Poses -----------------------------------------------------------------------------------

    @torch.no_grad()
    def _poses(
        self, saved: dict[str, Tensor], meta: dict[str, Any] | None
    ) -> tuple[dict[str, Any], Tensor | None]:
        """The decision about the teacher's alignment, and theta of all training images."""
        model, config = self.model, self.config
        if not config.uses("ica"):
            return _decision(False, "no image-level alignment", "it was not asked for"), None
        if not config.teacher:
            return _decision(True, "", ""), None
        if meta is not None:
            model.restore_parts({"aligner": meta["aligner"]}, saved)
            theta = saved.get("theta")
            return meta["decision"], None if theta is None else theta.to(self.device)
        decision, found = self.world.once(self._search, "the search for poses")
        if found is None:
            return decision, None
        if model.aligner is None:
            model.restore_parts({"aligner": found[0]}, found[1])
        assert model.aligner is not None
        share = self.world.share(len(self.train))
        self.progress.start("aligning", len(share))
        poses = [affine.identity(0, device=self.device)]
        with self.world.together("aligning"):
            for batch, _ in self.train.batches(self.plan.images, share):
                poses.append(model.aligner(batch).theta)
                self.progress.advance(len(batch))
        return decision, self.world.gather_rows(torch.cat(poses), "the poses")

    def _search(self) -> tuple[dict[str, Any], tuple[dict[str, Any], dict[str, Tensor]] | None]:
        """Give the model its aligner, or none; returns the decision, and the state of the aligner
        for the other processes."""
        model, config = self.model, self.config
        images = self._searched()
        self.progress.start("searching poses", len(ladder(config.family)))
        choice = choose_family(
            images,
            model.make_encoder,
            model.backbone,
            family=config.family,
            aspect=model.aspect,
            may_skip=config.skip,
            report=self.progress.advance,
        )
        decision = _decision(choice.search is not None, choice.summary, choice.reason)
        decision["unexplained"] = choice.shares
        if choice.search is None:
            return decision, None
        model.aligner = choice.search.aligner.to(self.device).eval()
        tensors = below("aligner", model.aligner.state_dict())
        state = {name: tensor.cpu() for name, tensor in tensors.items()}
        return decision, (model.aligner.state(), state)

    def _subset(self) -> list[int]:
        """Training images to judge alignment on, spread evenly if there are more than asked for."""
        return spread(len(self.train), self.config.search_images)

    def _searched(self) -> Tensor:
        size = self.model.search_size
        return torch.cat(
            [
                resize(batch, size)
                for batch, _ in self.train.batches(self.plan.images, self._subset())
            ]
        )

    # Training --------------------------------------------------------------------------------

    def _train(
        self,
        trainer: Trainer,
        decision: dict[str, Any],
        theta: Tensor | None,
        saved: dict[str, Tensor],
        meta: dict[str, Any] | None,
    ) -> list[dict[str, float]]:
        history: list[dict[str, float]] = []
        if trainer.idle:
            return history
        if meta is not None:
            history = list(meta["history"])
            trainer.restore(saved)
        self.progress.start("training", self.config.epochs)
        self.progress.advance(len(history))
        aligner = self.model.aligner
        for epoch in range(len(history), self.config.epochs):
            history.append(trainer.epoch(epoch))
            self.progress.log(history[-1])
            self.progress.advance()
            if self.checkpoint is None:
                continue
            tensors = trainer.tensors()
            if aligner is not None and theta is not None:
                tensors |= below("aligner", aligner.state_dict())
                tensors["theta"] = theta
            about = {
                "settings": self.settings,
                "history": history,
                "decision": decision,
                "aligner": None if aligner is None else aligner.state(),
            }
            self.world.once(
                partial(checkpoints.save_checkpoint, self.checkpoint, tensors, about),
                "writing the checkpoint",
            )
        return history

    @torch.no_grad()
    def _judge_trained(self, decision: dict[str, Any]) -> dict[str, Any]:
        """Leave the plain ICA and FCA out where held-out normal images are explained no better."""
        model = self.model
        if model.ica is not None:
            model.ica, judged = self._with_and_without("ica", model.ica, "a trained warp")
            decision = {**judged, "fca": decision.get("fca")}
        if model.fca is not None:
            model.fca, judged = self._with_and_without("fca", model.fca, "feature-level warps")
            decision = {**decision, "fca": judged}
        if model.ica is not None:
            template, weight = self.world.once(self._mean_edges, "the mean of the aligned images")
            model.template = model.make_template(template.to(self.device), weight.to(self.device))
        return {key: value for key, value in decision.items() if value is not None}

    def _with_and_without(self, name: str, part: Any, words: str) -> tuple[Any, dict[str, Any]]:
        if not self.config.skip:
            return part, _decision(True, f"aligned by {words}", "skipping was ruled out")
        subset = self._subset()
        if len(subset) < LEAST_IMAGES:
            return None, _decision(
                False, "no alignment", f"{len(subset)} images are too few to judge it by"
            )
        setattr(self.model, name, None)
        before = self.world.once(partial(self._unexplained, subset), f"judging {words}")
        setattr(self.model, name, part)
        after = self.world.once(partial(self._unexplained, subset), f"judging {words}")
        helps = after < (1 - MARGIN) * before
        reason = (
            f"share of held-out normal images that their mean leaves unexplained: {before:.1%} "
            f"without and {after:.1%} with {words}; it has to fall by {MARGIN:.0%} of itself"
        )
        summary = f"aligned by {words}" if helps else "no alignment"
        return (part if helps else None), _decision(helps, summary, reason)

    def _unexplained(self, subset: list[int]) -> float:
        """As :func:`unexplained_share`, of the stages as they are now."""
        model = self.model
        batches, poses = [], []
        for images, _ in self.train.batches(self.plan.images, subset):
            pose = model.find_pose(images)
            stages, theta = model.encode(model.warp(images, pose), pose)
            batches.append([_coarse(stage) for stage in stages])
            poses.append(
                affine.identity(len(images), device=self.device) if theta is None else theta
            )
        stages = [torch.cat(stage) for stage in zip(*batches, strict=True)]
        return unexplained_share(stages, torch.cat(poses), self.config.image_size)

    def _mean_edges(self) -> tuple[Tensor, Tensor]:
        """The mean of the training images as the plain ICA aligns them, and its weight."""
        model = self.model
        edges, poses = [], []
        for images, _ in self.train.batches(self.plan.images, self._subset()):
            edges.append(model.edges(images))
            pose = model.find_pose(images)
            assert pose is not None
            poses.append(pose)
        template, weight = mean_template(torch.cat(edges), torch.cat(poses))
        return template.cpu(), weight.cpu()


def _coarse(maps: Tensor) -> Tensor:
    """Maps ``[B,C,h,w]`` at half size where they are more than small, and at most of so many
    locations."""
    step = 2 if min(maps.shape[2:]) > 16 else 1
    while maps.shape[2] * maps.shape[3] > _JUDGED * step**2:
        step *= 2
    return F.avg_pool2d(maps, step) if step > 1 else maps


def _decision(used: bool, summary: str, reason: str) -> dict[str, Any]:
    return {"used": used, "summary": summary, "reason": reason}
