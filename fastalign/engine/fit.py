"""Fit a model on the good images of a category and store it."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastalign import storage
from fastalign.data import (
    Depth,
    ImageDataset,
    Sample,
    SkippedFile,
    fingerprint,
    group_twins,
    is_image_file,
    open_category,
    settle_depth,
    split_validation,
)
from fastalign.engine.environment import open_device
from fastalign.engine.results import FitOutcome, Skipped
from fastalign.engine.scoring import NO_THRESHOLD, thresholds
from fastalign.errors import ArtifactError, ConfigError, InputError
from fastalign.io import check_writable, unwritable
from fastalign.locks import hold
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import real_number, seed_number

if TYPE_CHECKING:
    from fastalign.distributed import World
    from fastalign.models.config import FYDConfig

_CACHE_BYTES = 1 << 28


def checkpoint_path(out: str | os.PathLike[str]) -> Path:
    """Where the checkpoint of a fit to ``out`` lies while it runs."""
    out = Path(out)
    return out.with_name(out.name + ".ckpt")


def build_config(**options: Any) -> FYDConfig:
    """The model's configuration from options; those that are None keep the model's own default.

    ``teacher`` None means on, except for the paper's plain form (``align="ica"``).

    Raises:
        ConfigError: an option has no such value.
    """
    from fastalign.models.config import FYDConfig

    known = {field.name for field in dataclasses.fields(FYDConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(
            f"the model has no option {', '.join(unknown)}; its options are "
            f"{', '.join(sorted(known))}."
        )
    if options.get("teacher") is None:
        options["teacher"] = options.get("align") != "ica"
    return FYDConfig(**{name: value for name, value in options.items() if value is not None})


def fit_category(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: FYDConfig | None = None,
    layout: str = "auto",
    seed: int = 0,
    device: str | torch.device = "cpu",
    resume: bool = False,
    skip_bad: bool = False,
    validation_fraction: float = 0.1,
    memory_budget: int | None = None,
    depth: Depth | None = None,
    progress: Progress | None = None,
) -> FitOutcome:
    """Fit on the good training images of a category and write the model to ``out``.

    While it runs a checkpoint lies beside ``out`` (see :func:`checkpoint_path`); it goes when the
    model is written. After an interruption ``resume=True`` continues from it to the same file,
    byte for byte, that an unbroken run writes on the same machine.

    Under an initialised process group all its processes fit together, see
    :meth:`fastalign.FYD.fit`: each calls this with the same arguments and reads ``directory``; the
    first one writes. Processes that torchrun starts again go on from a checkpoint of the same
    settings by themselves.

    Args:
        directory: a category in any layout that :func:`fastalign.data.open_category` reads.
        out: the model file.
        config: the model's configuration; None is the default one.
        layout: data layout, ``"auto"`` to recognise it.
        seed: seed of everything random, the validation split included.
        device: torch device.
        resume: continue from the checkpoint where there is one, start from the beginning where
            there is none.
        skip_bad: leave unreadable images out, with a warning and a count, where the default is an
            error.
        validation_fraction: share of the good training images kept apart for the thresholds, where
            the category has no validation images of its own.
        memory_budget: bytes that the process may take, see :meth:`fastalign.FYD.fit`; None: no
            limit.
        depth: of 16-bit files that state none; None: as all training images together show it, see
            :func:`fastalign.data.settle_depth`. It is stored in the model.
        progress: told about the course.

    Raises:
        ConfigError: an option has no such value, the memory budget is too small, or the checkpoint
            belongs to other settings.
        InputError: no training images, an unreadable one, or ``out`` is an image or cannot be
            written.
        ArtifactError: the checkpoint is damaged.
        BackendError: the device or a forced backend cannot be used.
        ProcessError: another process of the group failed or did not answer in time.
    """
    from fastalign.distributed import current

    out = Path(out)
    progress = progress or NoProgress()
    with ExitStack() as stack:
        own = partial(_reserve, stack, out, progress, resume)
        current().once(own, "looking at the output")
        return _fit(
            directory,
            out,
            config=config,
            layout=layout,
            seed=seed,
            device=device,
            resume=resume,
            skip_bad=skip_bad,
            validation_fraction=validation_fraction,
            memory_budget=memory_budget,
            depth=depth,
            progress=progress,
        )


def _reserve(stack: ExitStack, out: Path, progress: Progress, resume: bool) -> None:
    """Keep the model file for this fit, and say what it will replace."""

    def refusal(who: str) -> InputError:
        return InputError(
            f"{out}: another fit writes this model ({who}); wait for its end, or give another "
            "--out."
        )

    check_writable(out)
    try:
        stack.enter_context(hold(out.with_name(f".{out.name}.fit"), refusal))
    except OSError as error:
        raise unwritable(out, error) from error
    if out.exists():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(out.stat().st_mtime))
        progress.note(f"{out}: a model of {when} is there, which this fit replaces in the end")
    elif checkpoint_path(out).exists() and not resume:
        progress.note(
            f"{checkpoint_path(out)}: the checkpoint of an interrupted fit is there, which this "
            "one replaces; --resume goes on from it"
        )


def _fit(
    directory: str | os.PathLike[str],
    out: Path,
    *,
    config: FYDConfig | None,
    layout: str,
    seed: int,
    device: str | torch.device,
    resume: bool,
    skip_bad: bool,
    validation_fraction: float,
    memory_budget: int | None,
    depth: Depth | None,
    progress: Progress,
) -> FitOutcome:
    from fastalign.distributed import current, own_device, restarted
    from fastalign.models.config import FYDConfig
    from fastalign.models.fyd import FYD

    began = time.perf_counter()
    config = config or FYDConfig()
    world = current()
    target = open_device(own_device(str(device)))
    validation_fraction = real_number(
        "validation fraction", validation_fraction, 0, 1, open_ended=True
    )
    seed = seed_number(seed)
    if is_image_file(out):
        raise InputError(
            f"{out}: this is an image or named as one, and a model written there would replace it; "
            "give another name, such as model.safetensors."
        )
    category = open_category(directory, layout=layout)
    if not category.train:
        raise InputError(
            f"{directory}: no good training images (layout {category.layout}); put photographs of "
            "good parts into train/good, or give a folder that has them in good/."
        )
    training, validation = list(category.train), list(category.validation or ())
    if depth is None:
        photographs = [sample.path for sample in (*training, *validation)]
        depth = world.once(lambda: settle_depth(photographs), "looking at the depth of samples")
    # Where prepared images are read more than once or twice they are kept, if that takes little.
    held = 3 * math.prod(config.image_size) * len(training)
    often = config.align != "none" and config.epochs > 0
    cache = (often or memory_budget is None) and held <= _CACHE_BYTES
    every = open_samples(world, training, config.image_size, skip_bad, cache, depth)
    train_set, validation_set = every, None
    if validation:
        validation_set = open_samples(world, validation, config.image_size, skip_bad, depth=depth)
    elif validation_fraction:
        apart = partial(keep_apart, every, validation_fraction, seed, progress)
        kept, held_out = world.once(apart, "keeping images apart")
        train_set, validation_set = every.subset(kept), every.subset(held_out) if held_out else None
    training_files, validation_files = world.once(
        lambda: tuple(
            fingerprint([sample.path for sample in dataset.samples] if dataset else [])
            for dataset in (train_set, validation_set)
        ),
        "looking at the files",
    )
    settings = {
        "depth": depth.record(),
        "config": dataclasses.asdict(config),
        "seed": seed,
        "device": target.type,
        "threads": torch.get_num_threads(),
        "skip_bad": skip_bad,
        "training images": training_files,
        "validation images": validation_files,
    }
    checkpoint = checkpoint_path(out)
    goes_on = partial(_goes_on, checkpoint, settings, resume=resume, restarted=restarted())
    resumed = world.once(goes_on, "looking at the checkpoint")
    model = FYD(config).to(target)
    model.fit(
        train_set,
        validation_set,
        seed=seed,
        checkpoint=checkpoint,
        resume=resumed,
        settings=settings,
        progress=progress,
        memory_budget=memory_budget,
    )

    def write() -> None:
        model.save(out)
        checkpoint.unlink(missing_ok=True)

    world.once(write, "writing the model")
    skipped = [
        Skipped(str(item.path), item.reason)
        for dataset in (every, validation_set)
        if dataset is not None
        for item in dataset.skipped
    ]
    limits = thresholds(model)
    details = model.extra_metadata()
    warnings = [*category.notes, *details["warnings"]]
    if limits.image is None:
        warnings.append(NO_THRESHOLD)
    return FitOutcome(
        out=out,
        category=category.name,
        layout=category.layout,
        train_images=len(train_set),
        validation_images=0 if validation_set is None else len(validation_set),
        image_threshold=limits.image,
        pixel_threshold=limits.pixel,
        seconds=time.perf_counter() - began,
        resumed=resumed,
        depth=None if depth.bits is None else depth.describe(),
        skipped=skipped,
        warnings=warnings,
        details=details,
    )


def keep_apart(
    dataset: ImageDataset, fraction: float, seed: int, progress: Progress
) -> tuple[list[int], list[int]]:
    """Positions of the training and the validation images that :func:`split_validation` makes of a
    data set, twins together."""
    if dataset.unseen:
        progress.start("looking at the photographs", dataset.unseen)
    groups = group_twins(dataset.glances(progress.advance))
    parts = split_validation(dataset.samples, fraction, seed, groups)
    place = {sample.path: index for index, sample in enumerate(dataset.samples)}
    train, validation = ([place[sample.path] for sample in part] for part in parts)
    return train, validation


def open_samples(
    world: World,
    samples: Sequence[Sample],
    size: tuple[int, int],
    skip_bad: bool,
    cache: bool = False,
    depth: Depth | None = None,
) -> ImageDataset:
    """The samples as a data set, the same on all processes whatever one of them cannot read."""
    skipped: list[SkippedFile] = []
    if skip_bad:

        def look() -> tuple[list[Sample], list[SkippedFile]]:
            looked = ImageDataset(samples, size, skip_bad=True, depth=depth)
            return looked.samples, looked.skipped

        samples, skipped = world.once(look, "looking for unreadable images")
    dataset = ImageDataset(samples, size, cache=cache, depth=depth)
    dataset.skipped = skipped
    return dataset


def _goes_on(checkpoint: Path, settings: dict[str, Any], *, resume: bool, restarted: bool) -> bool:
    """Whether there is a checkpoint to go on from; other settings are refused where the user asked
    for it, and mean a new beginning where a launcher did."""
    if not (resume or restarted) or not checkpoint.exists():
        return False
    differing = _other_settings(checkpoint, settings)
    if differing and resume:
        raise ConfigError(
            f"{checkpoint}: belongs to a run with other settings: {'; '.join(differing)}. Give the "
            "same settings to continue it, or fit without --resume to start from the beginning."
        )
    return not differing


def _other_settings(checkpoint: Path, settings: dict[str, Any]) -> list[str]:
    saved = storage.read_metadata(checkpoint).get("meta", {}).get("settings")
    if not isinstance(saved, dict):
        raise ArtifactError(
            f"{checkpoint}: the checkpoint does not say which settings it belongs to; "
            "fit without --resume to start from the beginning."
        )
    return storage.differing_settings(saved, settings)
