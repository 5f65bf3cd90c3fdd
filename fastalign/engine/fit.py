"""Fit a model on the good images of a category and store it."""

from __future__ import annotations

import dataclasses
import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastalign.data import Depth, fingerprint, is_image_file, load_image, open_category
from fastalign.engine.environment import open_device
from fastalign.engine.fit_images import open_fit_images
from fastalign.engine.fit_output import checkpoint_path, goes_on, reserve_output
from fastalign.engine.results import FitOutcome
from fastalign.engine.scoring import NO_THRESHOLD, thresholds
from fastalign.errors import ConfigError, InputError
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import real_number, seed_number
from fastalign.roi import read_regions

if TYPE_CHECKING:
    from fastalign.models.config import FYDConfig


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
    roi: str | os.PathLike[str] | None = None,
    roi_photo: str | os.PathLike[str] | None = None,
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
        roi, roi_photo: regions of interest, and the photograph that they were drawn on, see
            :meth:`fastalign.FYD.fit`. Where they cannot be carried to the frame of the fit, the
            model is written without them, and the error says so.
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
        own = partial(reserve_output, stack, out, progress, resume)
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
            roi=roi,
            roi_photo=roi_photo,
            progress=progress,
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
    roi: str | os.PathLike[str] | None,
    roi_photo: str | os.PathLike[str] | None,
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
    regions = None
    if roi is not None:
        # What cannot be read is told before the fit takes its time.
        regions = read_regions(roi)
        if roi_photo is not None:
            load_image(Path(roi_photo), depth=depth)
        else:
            regions.at(config.image_size)
    category = open_category(directory, layout=layout)
    if not category.train:
        raise InputError(
            f"{directory}: no good training images (layout {category.layout}); put photographs of "
            "good parts into train/good, or give a folder that has them in good/."
        )
    images = open_fit_images(
        world,
        category,
        config,
        seed=seed,
        skip_bad=skip_bad,
        validation_fraction=validation_fraction,
        kept=memory_budget is None,
        depth=depth,
        progress=progress,
    )
    train_set, validation_set, depth = images.training, images.validation, images.depth
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
    again = partial(goes_on, checkpoint, settings, resume=resume, restarted=restarted())
    resumed = world.once(again, "looking at the checkpoint")
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

    refused: InputError | None = None
    if regions is not None:
        try:
            model.set_roi(regions, drawn_on=roi_photo)
        except InputError as error:
            refused = error

    def write() -> None:
        model.save(out)
        checkpoint.unlink(missing_ok=True)

    world.once(write, "writing the model")
    if refused is not None:
        raise InputError(
            f"{str(refused).rstrip('.')}. The fitted model is written without regions ({out}): "
            f"fastalign roi --model {out} --apply FILE sets others without a new fit."
        ) from refused
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
        skipped=images.skipped,
        warnings=warnings,
        details=details,
        regions=() if model.roi is None else model.roi.names,
    )
