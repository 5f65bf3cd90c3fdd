"""``fastalign fit``."""

from __future__ import annotations

import enum
import shlex
import sys
from typing import Annotated, Any

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.options import (
    BitDepth,
    Category,
    Debug,
    Device,
    Layout,
    MemoryBudget,
    SkipBad,
    Threads,
    one_folder,
    parse_layers,
    parse_settings,
    parse_size,
    set_threads,
)
from fastalign.cli.progress import make_progress


class Align(str, enum.Enum):
    """Which of the three alignments are used."""

    none = "none"
    ica = "ica"
    fca = "fca"
    fa = "fa"
    all = "all"


def _model(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, rich_help_panel="Model")


def _training(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, rich_help_panel="Training")


@guarded
def fit(
    directory: Category,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The model file to write.", metavar="FILE")
    ],
    image_size: Annotated[str, _model("--image-size", "Side, or height x width.", "N|HxW")] = "256",
    align: Annotated[
        Align, _model("--align", "Image, feature or fine alignment, all of them or none.")
    ] = Align.all,
    teacher: Annotated[
        bool | None,
        _model(
            "--teacher/--no-teacher",
            "Search poses on the training images and learn from them; on, except with --align ica.",
        ),
    ] = None,
    family: Annotated[
        str | None, _model("--family", "Transformations of the image alignment.", "NAME")
    ] = None,
    backbone: Annotated[str | None, _model("--backbone", "A timm network.", "NAME")] = None,
    weights: Annotated[
        str | None, _model("--weights", "Weights of the backbone from a file.", "FILE")
    ] = None,
    layers: Annotated[
        str | None, _model("--layers", "Blocks of the backbone, such as 1,2,4.", "LIST")
    ] = None,
    channels: Annotated[int | None, _model("--channels", "Feature channels kept.", "N")] = None,
    shrinkage: Annotated[
        float | None, _model("--shrinkage", "Added to the covariance's diagonal.", "X")
    ] = None,
    epochs: Annotated[int | None, _training("--epochs", "Training epochs.", "N")] = None,
    batch_size: Annotated[
        int | None, _training("--batch-size", "Images per training step.", "N")
    ] = None,
    validation_fraction: Annotated[
        float,
        _training(
            "--validation-fraction", "Share of the good images kept for the thresholds.", "X"
        ),
    ] = 0.1,
    threshold_quantile: Annotated[
        float | None,
        _training("--threshold-quantile", "Quantile of their scores that is the threshold.", "X"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        _model("--set", "Any other option of the model, see docs/model.md.", "NAME=VALUE"),
    ] = None,
    seed: Annotated[int, _training("--seed", "Seed of everything random.", "N")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run of the same settings.")
    ] = False,
    layout: Layout = "auto",
    device: Device = "cpu",
    threads: Threads = None,
    memory_budget: MemoryBudget = None,
    skip_bad: SkipBad = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            help="Under torchrun: seconds that a process waits for the others.",
            metavar="X",
        ),
    ] = 600,
    bit_depth: BitDepth = "auto",
    debug: Debug = False,
) -> None:
    """Learn what good parts look like and write a model.

    Example: fastalign fit data/screw --out screw.safetensors

    On several processes: torchrun --nproc-per-node 2 -m fastalign fit data/screw --out ...
    """
    from fastalign.data import parse_depth
    from fastalign.distributed import launched
    from fastalign.engine import fit_category
    from fastalign.engine.fit import build_config, checkpoint_path
    from fastalign.models.memory import parse_bytes

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
        family=family,
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
            make_progress(silent=world.rank > 0) as progress,
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
                progress=progress,
            )
    except KeyboardInterrupt:
        if not checkpoint_path(out).exists():
            raise KeyboardInterrupt(
                "interrupted before the first checkpoint; run it again"
            ) from None
        raise KeyboardInterrupt(f"interrupted; to continue: {_resume_line()}") from None
    if world.rank:
        return
    for skipped in result.skipped:
        warn(f"left out {skipped.path}: {skipped.reason}")
    for message in result.warnings:
        # The fit has warned of some itself, before it took its time.
        if message not in result.details["warnings"]:
            warn(message)
    if result.depth is not None:
        typer.echo(f"16-bit files are read as {result.depth}; --bit-depth says otherwise")
    typer.echo(
        f"{result.out}: fitted on {result.train_images} good images "
        f"({result.validation_images} more for the thresholds) in {result.seconds:.0f} s"
    )


def _resume_line() -> str:
    words = ["fastalign", *sys.argv[1:]]
    return shlex.join(words if "--resume" in words else [*words, "--resume"])
