"""The order of a fit.

1. ``poses`` needs images and the network: whether and how images are aligned, and their poses.
2. ``training`` needs these poses: the plain ICA, FCA and FA, an epoch at a time.
3. ``judging`` needs the trained warps: which of them stay.
4. ``density`` needs rooms whose alignment is settled: Gaussians, calibration, thresholds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastalign.distributed import World, current
from fastalign.errors import DataWarning
from fastalign.models.fitting.density import fit_density
from fastalign.models.fitting.judging import judge_warps
from fastalign.models.fitting.poses import FoundPoses, find_poses
from fastalign.models.fitting.setting import Setting
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.survey import Survey, few_images, look_at
from fastalign.models.fitting.thresholds import turns
from fastalign.models.fitting.training import Trainer
from fastalign.models.memory import plan_fitting, release_unused
from fastalign.models.progress import NoProgress, Progress, tell_detail
from fastalign.models.record import FitRecord
from fastalign.models.rooms import Rooms
from fastalign.storage import checkpoint as checkpoints

if TYPE_CHECKING:
    from fastalign.data import ImageDataset


# Seed of a draw that is the same for every fit.
_SAME = 0


def fit(
    rooms: Rooms,
    train_set: ImageDataset | Tensor | Sequence[Tensor],
    validation_set: ImageDataset | Tensor | Sequence[Tensor] | None,
    *,
    seed: int,
    checkpoint: Path | None,
    resume: bool,
    settings: Mapping[str, Any],
    progress: Progress | None,
    memory_budget: int | None,
) -> FitRecord:
    """Fit the rooms; the arguments are those of :meth:`fastalign.FYD.fit`.

    Under an initialised process group all processes fit one model together. Training, poses,
    density and scores are shared out; what is decided once, on a bounded number of images, is
    decided by the first process.
    """
    setting, warned = _prepare(rooms, train_set, validation_set, seed, progress, memory_budget)
    config, world, device = setting.config, setting.world, setting.device
    pose, features = rooms.pose, rooms.features
    setting.check_agreement(settings, resume)
    saved = _read(checkpoint if resume else None, world)
    aspect = config.aspect or world.once(
        lambda: setting.train.aspect(config.image_size), "looking at the photographs"
    )
    photographs = world.once(partial(_photographs, setting), "looking at the photographs")
    # What an earlier fit has left must not shine through.
    rooms.maps.interest(None)
    pose.install(aspect=aspect)
    features.install()
    every = sum(rooms.density.stage_channels)
    # What is whitened is no matter of the seed.
    of = _SAME if config.reduction == "whiten" else seed
    rooms.density.select(_drawn(every, rooms.density.channels, of))
    rooms.settle()
    # Layers that are made here draw their start values from the seed, and nobody else's do.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        ica = pose.make_ica().to(device) if config.uses("ica") and not config.teacher else None
        fca = features.make_fca(aspect).to(device) if config.uses("fca") else None
        adapters = features.make_adapters().to(device) if config.uses("fa") else None
        features.install(fca=fca, adapters=adapters)
        if saved is None or not (config.uses("ica") and config.teacher):
            found = find_poses(setting, pose, features.backbone)
        else:
            found = FoundPoses.from_saved(*saved, features.backbone, device)
        pose.install(aligner=found.aligner, ica=ica)
        trainer = Trainer(
            config, pose, features, setting.train, found.theta, seed, world, keep=setting.plan.keep
        )
    decision, history = found.decision, _train(trainer, setting, found, checkpoint, settings, saved)
    for room in (pose, features):
        room.requires_grad_(False).eval()
    if not trainer.idle:
        decision = judge_warps(setting, pose, features, decision)
    else:
        pose.install(aligner=found.aligner)
        features.install(adapters=adapters)
    rooms.settle()
    release_unused()
    threshold = fit_density(rooms, setting)
    rooms.maps.set_thresholds(threshold.value, threshold.pixel)
    return FitRecord(
        aspect=aspect,
        seed=seed,
        images=setting.images,
        alignment=decision.to_json(),
        training=history,
        parts=rooms.parts(),
        threshold_source=threshold.source,
        pixel_threshold_source=threshold.pixel_source,
        normal_scores=threshold.normal,
        evidence=threshold.evidence.record(),
        prior=threshold.prior,
        density=threshold.density,
        normal_whole=threshold.whole,
        score_unit=threshold.unit,
        normal_distances=None if threshold.distances is None else threshold.distances.record(),
        normal_conditions=threshold.conditions,
        normal_view=threshold.view,
        warnings=[*warned, *threshold.warnings],
        known_images=setting.survey.known.record(),
        photographs=photographs,
        depth=setting.train.depth,
    )


def _photographs(setting: Setting) -> dict[str, Any] | None:
    """What sizes the photographs have: the most frequent one in words, and the ranges."""
    sources = (setting.train, setting.validation)
    sizes = sorted(size for source in sources if source is not None for size in source.sizes())
    if not sizes:
        return None
    aspects = [width / height for width, height in sizes]
    width, height = mode(sizes)
    return {
        "typical": f"{width} x {height}",
        "width": [sizes[0][0], sizes[-1][0]],
        "aspect": [min(aspects), max(aspects)],
    }


def _prepare(
    rooms: Rooms,
    train_set: ImageDataset | Tensor | Sequence[Tensor],
    validation_set: ImageDataset | Tensor | Sequence[Tensor] | None,
    seed: int,
    progress: Progress | None,
    budget: int | None,
) -> tuple[Setting, list[str]]:
    """Images, processes, and a plan that keeps within the budget; and warnings."""
    config, device = rooms.config, rooms.density.device
    train = ImageSource(train_set, config.image_size, device)
    validation = (
        None
        if validation_set is None
        else ImageSource(validation_set, config.image_size, device, "validation")
    )
    world, progress = current(), progress or NoProgress()
    look = partial(look_at, train, validation, progress)
    survey = world.once(look, "looking at the images")
    taking_turns = turns(survey, config.refit)
    warned = _warn(survey, taking_turns, world)
    number = 0 if validation is None else len(validation)
    cached = sum(source.cached_bytes for source in (train, validation) if source is not None)
    # What building the network has left.
    release_unused()
    plan = plan_fitting(rooms, len(train), number, len(taking_turns), budget, cached)
    rooms.features.backbone.limit_memory(plan.pass_bytes, must=budget is not None)
    tell_detail(progress, plan.describe())
    setting = Setting(config, train, validation, seed, world, progress, plan, survey, taking_turns)
    return setting, warned


def _warn(survey: Survey, taking_turns: Sequence[int], world: World) -> list[str]:
    """Tell what the user has to know about the images, before anything takes its time."""
    scored = survey.distinct_of(taking_turns or survey.held_out)
    few = few_images(survey.distinct(), scored)
    texts = [*survey.warnings, *([] if few is None else [few])]
    if world.rank == 0:
        for text in texts:
            warnings.warn(text, DataWarning, stacklevel=6)
    return texts


def _drawn(channels: int, number: int, seed: int) -> Tensor:
    """So many of the channels at random, ascending."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(channels, generator=generator)[:number].sort().values


def _read(path: Path | None, world: World) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if path is None:
        return None
    return world.once(partial(checkpoints.load_checkpoint, path), "reading the checkpoint")


def _train(
    trainer: Trainer,
    setting: Setting,
    found: FoundPoses,
    checkpoint: Path | None,
    settings: Mapping[str, Any],
    saved: tuple[dict[str, Tensor], dict[str, Any]] | None,
) -> list[dict[str, float]]:
    """All epochs, or those that a checkpoint leaves; returns what was logged."""
    history: list[dict[str, float]] = []
    if trainer.idle:
        return history
    if saved is not None:
        tensors, meta = saved
        history = list(meta["history"])
        trainer.restore(tensors)
    setting.progress.start("training", setting.config.epochs)
    setting.progress.advance(len(history))
    poses, about = found.saved()
    for epoch in range(len(history), setting.config.epochs):
        history.append(trainer.epoch(epoch))
        setting.progress.log(history[-1])
        setting.progress.advance()
        if checkpoint is None:
            continue
        plain = {"settings": dict(settings), "history": history, **about}
        write = partial(
            checkpoints.save_checkpoint, checkpoint, {**trainer.tensors(), **poses}, plain
        )
        setting.world.once(write, "writing the checkpoint")
    return history
