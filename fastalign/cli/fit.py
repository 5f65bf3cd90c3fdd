"""``fastalign fit``."""

from __future__ import annotations

import enum
import shlex
import sys
from typing import Annotated, Any

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import flag, real, whole
from fastalign.cli.options import (
    BitDepth,
    Category,
    Debug,
    Details,
    Device,
    Layout,
    MemoryBudget,
    Seed,
    SkipBad,
    Threads,
    one_folder,
    parse_layers,
    parse_settings,
    parse_size,
    set_threads,
)
from fastalign.cli.progress import make_progress
from fastalign.errors import ConfigError
from fastalign.words import count


class Align(str, enum.Enum):
    """Which of the three alignments are used."""

    none = "none"
    ica = "ica"
    fca = "fca"
    fa = "fa"
    all = "all"


class Family(str, enum.Enum):
    """Transformations of the image alignment."""

    auto = "auto"
    translation = "translation"
    rotation = "rotation"
    scale = "scale"
    shear = "shear"
    rotation_scale = "rotation_scale"
    rotation_translation = "rotation_translation"
    scale_translation = "scale_translation"
    similarity = "similarity"
    affine = "affine"


_MODEL, _TRAINING = "Model", "Training"


def _model(flag: str, text: str, metavar: str | None, default: str | bool = True) -> Any:
    return typer.Option(
        flag, help=text, metavar=metavar, rich_help_panel=_MODEL, show_default=default
    )


@guarded
def fit(
    directory: Category,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The model file to write.", metavar="FILE")
    ],
    image_size: Annotated[
        str, _model("--image-size", "Side, or height x width, in pixels.", "N|HxW")
    ] = "256",
    align: Annotated[
        Align, _model("--align", "Image, feature or fine alignment, all of them or none.", None)
    ] = Align.all,
    teacher: Annotated[
        bool | None,
        _model(
            "--teacher/--no-teacher",
            "Search poses on the training images and learn from them.",
            "",
            "on, except with --align ica",
        ),
    ] = None,
    family: Annotated[
        Family | None,
        _model("--family", "Transformations of the image alignment.", None, "auto"),
    ] = None,
    backbone: Annotated[
        str | None,
        _model(
            "--backbone",
            "A network of timm with convolutions, such as resnet18, resnet50, wide_resnet50_2, "
            "mobilenetv3_large_100, efficientnet_b0, convnext_tiny, or a vision transformer.",
            "NAME",
            "tf_efficientnet_lite0",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        _model(
            "--weights",
            "Weights of the backbone: embedded, hub (timm's, downloaded) or a file.",
            "FILE",
            "embedded for tf_efficientnet_lite0, hub for others",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        _model(
            "--layers",
            "Feature layers of the backbone by number, from 0, such as 1,2,3.",
            "LIST",
            "the last at strides 8 and 16",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        whole("--channels", "Channels taken, at most; 0: all.", default="256", panel=_MODEL),
    ] = None,
    shrinkage: Annotated[
        float | None,
        real("--shrinkage", "Added to the covariance's diagonal.", 0, default="0.01", panel=_MODEL),
    ] = None,
    epochs: Annotated[
        int | None, whole("--epochs", "Training epochs.", default="10", panel=_TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None,
        whole("--batch-size", "Images per training step.", 2, default="32", panel=_TRAINING),
    ] = None,
    validation_fraction: Annotated[
        float,
        real(
            "--validation-fraction",
            "Share of the good images kept for the thresholds.",
            0,
            1,
            open_ended=True,
            panel=_TRAINING,
        ),
    ] = 0.1,
    threshold_quantile: Annotated[
        float | None,
        real(
            "--threshold-quantile",
            "Quantile of their scores that is the threshold.",
            0,
            1,
            default="0.99",
            panel=_TRAINING,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        _model(
            "--set",
            "Any other option of the model: skip, fca_family, aspect, strides, reduction, prior, "
            "mean_prior, rank, neighbours, storage, min_share, calibrate, refit, sigma, top_share, "
            "learning_rate, ica_learning_rate, momentum, ica_weight, fa_weight, "
            "projector_channels, search_images.",
            "NAME=VALUE",
            False,
        ),
    ] = None,
    roi: Annotated[
        str | None,
        _model(
            "--roi",
            "Judge these regions alone: a mask (PNG, 0 is not judged, each other grey value a "
            "region) or polygons (JSON of labelme or COCO).",
            "FILE",
            "all of the part",
        ),
    ] = None,
    roi_photo: Annotated[
        str | None,
        _model(
            "--roi-photo",
            "The photograph that they were drawn on.",
            "FILE",
            "an aligned one of this fit",
        ),
    ] = None,
    seed: Seed = 0,
    resume: Annotated[
        bool, flag("--resume", "Continue an interrupted run of the same settings.")
    ] = False,
    layout: Layout = "auto",
    device: Device = "cpu",
    threads: Threads = None,
    memory_budget: MemoryBudget = None,
    skip_bad: SkipBad = False,
    timeout: Annotated[
        float,
        real("--timeout", "Under torchrun: seconds that a process waits for the others.", 1, 10**7),
    ] = 600,
    bit_depth: BitDepth = "auto",
    details: Details = False,
    debug: Debug = False,
) -> None:
    """Learn what good parts look like and write a model.

    Example: fastalign fit data/screw --out screw.safetensors

    On several processes: torchrun --nproc-per-node 2 -m fastalign fit data/screw --out ...
    """
    from fastalign.data import parse_depth
    from fastalign.distributed import launched
    from fastalign.engine import fit_category
    from fastalign.engine.fit import build_config
    from fastalign.engine.fit_output import checkpoint_path
    from fastalign.models.memory import parse_bytes

    if roi_photo is not None and roi is None:
        raise ConfigError("--roi-photo is what the regions of --roi were drawn on: give both.")
    set_threads(threads)
    budget = None if memory_budget is None else parse_bytes(memory_budget)
    depth = parse_depth(bit_depth)
    config = build_config(
        **parse_settings(settings or []),
        image_size=parse_size(image_size),
        align=align.value,
        teacher=teacher,
        backbone=backbone,
        weights=weights,
        family=None if family is None else family.value,
        epochs=epochs,
        batch_size=batch_size,
        layers=None if layers is None else parse_layers(layers),
        channels=channels,
        shrinkage=shrinkage,
        threshold_quantile=threshold_quantile,
    )
    try:
        with (
            launched(device, timeout) as world,
            make_progress(silent=world.rank > 0, details=details) as progress,
        ):
            result = fit_category(
                one_folder(directory),
                out,
                config=config,
                layout=layout,
                seed=seed,
                device=device,
                resume=resume,
                skip_bad=skip_bad,
                validation_fraction=validation_fraction,
                memory_budget=budget,
                depth=depth,
                roi=roi,
                roi_photo=roi_photo,
                progress=progress,
            )
    except KeyboardInterrupt as error:
        kind = type(error)
        if not checkpoint_path(out).exists():
            raise kind("interrupted before the first checkpoint; run it again") from None
        raise kind(f"interrupted; to continue: {_resume_line()}") from None
    if world.rank:
        return
    for skipped in result.skipped:
        warn(f"left out {skipped.reason}")
    for message in result.warnings:
        # The fit has warned of some itself, before it took its time.
        if message not in result.details["warnings"]:
            warn(message)
    if result.depth is not None:
        typer.echo(f"16-bit files are read as {result.depth}; --bit-depth says otherwise")
    if result.regions:
        typer.echo(f"judged: {', '.join(result.regions)}, and nothing else")
    typer.echo(
        f"{result.out}: fitted on {count(result.train_images, 'good image')} "
        f"({result.validation_images} more for the thresholds) in {result.seconds:.0f} s"
    )


def _resume_line() -> str:
    words = ["fastalign", *sys.argv[1:]]
    return shlex.join(words if "--resume" in words else [*words, "--resume"])
