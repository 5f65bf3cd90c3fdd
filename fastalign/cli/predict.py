"""``fastalign predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.options import (
    BitDepth,
    Debug,
    Device,
    MemoryBudget,
    ModelFile,
    SkipBad,
    Threads,
    set_threads,
)
from fastalign.cli.progress import make_progress
from fastalign.errors import ConfigError

LOCAL = "local"
RAY = "ray"


@guarded
def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A folder (with sub-folders), an image, or a quoted glob pattern; with --engine "
            "ray also a text file or Parquet with paths.",
        ),
    ],
    model: ModelFile,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")],
    map_format: Annotated[
        str, typer.Option("--map-format", help="Float32 maps as tiff or npy.", metavar="FORMAT")
    ] = "tiff",
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            help="Pictures to write, any of map,mask,overlay; the default is all, and none with "
            "--engine ray.",
            metavar="LIST",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Image threshold to use in place of the model's."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images per forward pass.")
    ] = 1,
    memory_budget: MemoryBudget = None,
    device: Device = "cpu",
    threads: Threads = None,
    skip_bad: SkipBad = False,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="local: this process; ray: many processes or machines, scores as Parquet.",
            metavar="NAME",
        ),
    ] = LOCAL,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="ray: processes that hold the model.")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option("--gpus", min=0, help="ray: GPUs of each worker; the default is 1 on CUDA."),
    ] = None,
    part_size: Annotated[
        int | None, typer.Option("--part-size", min=1, help="ray: images in one file of scores.")
    ] = None,
    path_column: Annotated[
        str | None,
        typer.Option("--path-column", help="ray: column of a Parquet PATH; the default is path."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="ray: a running cluster, such as auto; the default starts Ray here.",
            metavar="ADDRESS",
        ),
    ] = None,
    bit_depth: BitDepth = "auto",
    debug: Debug = False,
) -> None:
    """Score images: label, float32 map, mask and overlay in the image's own size and frame.

    Example: fastalign predict photos/ --model screw.safetensors --out scored/
    """
    from fastalign.data import parse_depth
    from fastalign.models.memory import parse_bytes

    of_ray = {
        "workers": workers,
        "gpus": gpus,
        "part_size": part_size,
        "path_column": path_column,
        "address": ray_address,
    }
    given: dict[str, Any] = {name: value for name, value in of_ray.items() if value is not None}
    pictures = None if save is None else [n.strip() for n in save.split(",") if n.strip()]
    common: dict[str, Any] = {"map_format": map_format, "threshold": threshold}
    if engine == RAY:
        if memory_budget is not None:
            raise ConfigError("--memory-budget is an option of the local engine: leave one out.")
        if threads is not None:
            given["threads"] = threads
        given["bit_depth"] = bit_depth
        _predict_with_ray(
            model,
            source,
            out,
            device=device,
            outputs=pictures or (),
            batch_size=batch_size,
            **common,
            **given,
        )
    elif engine == LOCAL:
        if given:
            flag = next(iter(given)).replace("address", "ray-address").replace("_", "-")
            raise ConfigError(f"--{flag} is an option of the ray engine: add --engine ray.")
        set_threads(threads)
        common["depth"] = parse_depth(bit_depth)
        if pictures is not None:
            common["outputs"] = pictures
        budget = None if memory_budget is None else parse_bytes(memory_budget)
        _predict_here(model, source, out, device, budget, batch_size, skip_bad=skip_bad, **common)
    else:
        raise ConfigError(f"--engine {engine!r}: use {LOCAL} or {RAY}.")


def _predict_here(
    model: str,
    source: str,
    out: str,
    device: str,
    budget: int | None,
    batch_size: int,
    **options: Any,
) -> None:
    from fastalign import artifact
    from fastalign.engine import predict_paths
    from fastalign.engine.environment import open_device
    from fastalign.io import check_writable

    target = open_device(device)
    check_writable(Path(out) / "scores.csv")
    fitted = artifact.load(model, target)
    with make_progress() as progress:
        plan = fitted.limit_memory(budget, batch_size)
        progress.note(plan.describe())
        result = predict_paths(
            fitted, source, out, batch_size=plan.images, progress=progress, **options
        )
    for skipped in result.skipped:
        warn(f"left out {skipped.path}: {skipped.reason}")
    for message in result.warnings:
        warn(message)
    count = sum(item.label == "anomaly" for item in result.images)
    verdict = f", {count} labelled anomaly" if result.image_threshold is not None else ""
    typer.echo(f"{len(result.images)} images scored{verdict}: {result.out / 'scores.csv'}")


def _predict_with_ray(model: str, source: str, out: str, **options: Any) -> None:
    from fastalign.integrations.ray import score_collection
    from fastalign.io import check_writable

    check_writable(Path(out) / "job.json")
    with make_progress() as progress:
        result = score_collection(model, source, out, progress=progress, **options)
    for message in result.warnings:
        warn(message)
    if result.errors:
        warn(f"{result.errors} images have no score; the column error says why")
    verdict = f", {result.anomalies} labelled anomaly" if result.image_threshold is not None else ""
    before = f", {result.resumed} of them by an earlier run" if result.resumed else ""
    scored = result.images - result.errors
    typer.echo(f"{scored} of {result.images} images scored{before}{verdict}: {result.scores}")
