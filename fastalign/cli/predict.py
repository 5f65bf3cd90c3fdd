"""``fastalign predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import flag, real, whole
from fastalign.cli.options import (
    BitDepth,
    Debug,
    Details,
    Device,
    Gallery,
    LeastArea,
    MapFormat,
    MemoryBudget,
    ModelFile,
    OverlayFormat,
    PixelThreshold,
    Precision,
    Runtime,
    SkipBad,
    Threads,
    Threshold,
    runtime_within,
    set_threads,
)
from fastalign.cli.progress import make_progress
from fastalign.cli.verdicts import print_predictions
from fastalign.drift.settings import INTERVAL
from fastalign.errors import ConfigError
from fastalign.load import keep_freed_memory
from fastalign.words import count, part_of

LOCAL = "local"
RAY = "ray"


@guarded
def predict(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Folders (with sub-folders), images or glob patterns, quoted or not; with "
            "--engine ray also a text file or Parquet with paths.",
        ),
    ],
    model: ModelFile,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")],
    overwrite: Annotated[
        bool,
        flag(
            "--overwrite",
            "Replace the results of an earlier run in --out: its tables and the pictures that they "
            "list.",
        ),
    ] = False,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            help="What to write besides the scores, any of map,mask,overlay,regions with commas, "
            "or none.",
            metavar="LIST",
            show_default="map,mask,overlay; none with --engine ray",
        ),
    ] = None,
    picture_size: Annotated[
        str | None,
        typer.Option(
            "--picture-size",
            help="Longest side of the pictures in pixels, or full for that of the photograph; they "
            "are never larger than it.",
            metavar="N|full",
            show_default="1024, or that of the model if larger",
        ),
    ] = None,
    map_format: Annotated[
        MapFormat,
        typer.Option("--map-format", help="float32 maps as tiff, with a PNG to look at, or npy."),
    ] = MapFormat.tiff,
    overlay_format: Annotated[
        OverlayFormat, typer.Option("--overlay-format", help="Format of the overlays.")
    ] = OverlayFormat.jpg,
    gallery: Gallery = 120,
    threshold: Threshold = None,
    pixel_threshold: PixelThreshold = None,
    least_area: LeastArea = 0.0,
    drift: Annotated[
        int | None,
        whole(
            "--drift",
            "Drift (camera, light, focus) from one photograph to the next is told, falsely once in "
            "so many photographs on average; 0: not at all.",
            default=f"{INTERVAL}; with --engine ray, which has no order, not at all",
        ),
    ] = None,
    batch_size: Annotated[int, whole("--batch-size", "Images per forward pass.", 1)] = 1,
    memory_budget: MemoryBudget = None,
    device: Device = "cpu",
    precision: Precision = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    skip_bad: SkipBad = False,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="local: this process; ray: many processes or machines, scores as Parquet.",
            metavar="local|ray",
        ),
    ] = LOCAL,
    workers: Annotated[
        int | None,
        whole("--workers", "ray: processes that hold the model.", 1, default="1"),
    ] = None,
    gpus: Annotated[
        float | None,
        real("--gpus", "ray: GPUs of each worker.", 0, default="1 on CUDA, else 0"),
    ] = None,
    part_size: Annotated[
        int | None,
        whole(
            "--part-size",
            "ray: images in one file of scores.",
            1,
            default="16 to 256, by the number of images",
        ),
    ] = None,
    path_column: Annotated[
        str | None,
        typer.Option(
            "--path-column",
            help="ray: column of a Parquet PATH.",
            metavar="NAME",
            show_default="path",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="ray: a running cluster, such as auto.",
            metavar="ADDRESS",
            show_default="starts Ray here",
        ),
    ] = None,
    bit_depth: BitDepth = "auto",
    details: Details = False,
    debug: Debug = False,
) -> None:
    """Score images: a table, a page, and maps, masks and overlays in each image's own frame.

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
    common: dict[str, Any] = {
        "map_format": map_format.value,
        "overlay_format": overlay_format.value,
        "picture_size": picture_size,
        "threshold": threshold,
        "pixel_threshold": pixel_threshold,
        "least_area": least_area,
    }
    if save is not None:
        names = [name.strip() for name in save.split(",") if name.strip()]
        common["outputs"] = [] if names == ["none"] else names
    sources = source[0] if len(source) == 1 else source
    if engine == RAY:
        if memory_budget is not None:
            raise ConfigError("--memory-budget is an option of the local engine: leave one out.")
        if overwrite:
            raise ConfigError(
                "--overwrite is an option of the local engine; with --engine ray remove the "
                "folder, or give another --out."
            )
        if drift:
            raise ConfigError(
                "--drift is an option of the local engine: the processes of Ray score photographs "
                "in no order; leave it out."
            )
        if skip_bad:
            raise ConfigError(
                "--skip-bad is an option of the local engine: with --engine ray an image that "
                "cannot be read is a row with its error, and no error of the command."
            )
        if threads is not None:
            given["threads"] = threads
        given["bit_depth"] = bit_depth
        _predict_with_ray(
            model,
            sources,
            out,
            device=device,
            precision=precision,
            runtime=runtime,
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
        budget = None if memory_budget is None else parse_bytes(memory_budget)
        common |= {"skip_bad": skip_bad, "overwrite": overwrite, "gallery_images": gallery}
        common |= {"precision": precision, "runtime": runtime}
        common["drift"] = INTERVAL if drift is None else drift
        _predict_here(model, sources, out, device, budget, batch_size, details, **common)
    else:
        raise ConfigError(f"--engine {engine!r}: use {LOCAL} or {RAY}.")


def _predict_here(
    model: str,
    source: str | list[str],
    out: str,
    device: str,
    budget: int | None,
    batch_size: int,
    details: bool,
    *,
    precision: str | None,
    runtime: str,
    **options: Any,
) -> None:
    from fastalign import artifact
    from fastalign.engine import predict_paths
    from fastalign.engine.environment import open_device
    from fastalign.engine.runfolder import check_free

    chosen = runtime_within(budget, runtime)
    if budget is None:
        keep_freed_memory()
    target = open_device(device)
    check_free(Path(out), overwrite=options["overwrite"])
    fitted = artifact.load(model, target, precision=precision, runtime=chosen)
    with make_progress(details=details) as progress:
        plan = fitted.limit_memory(budget, batch_size)
        progress.detail(plan.describe())
        progress.detail(f"network: {fitted.features.runtime.words}")
        result = predict_paths(
            fitted,
            source,
            out,
            batch_size=plan.images,
            memory=plan.spare,
            model_name=Path(model).name,
            progress=progress,
            **options,
        )
    for message in result.warnings:
        warn(message)
    print_predictions(result, everything=details)


def _predict_with_ray(model: str, source: str | list[str], out: str, **options: Any) -> None:
    from fastalign.integrations.ray import score_collection
    from fastalign.io import check_writable

    check_writable(Path(out) / "job.json")
    with make_progress() as progress:
        result = score_collection(model, source, out, progress=progress, **options)
    for message in result.warnings:
        warn(message)
    if result.errors:
        warn(f"{count(result.errors, 'image', 'have')} no score; the column reason says why")
    verdict = (
        f", {count(result.anomalies, 'anomaly')}" if result.image_threshold is not None else ""
    )
    before = f", {result.resumed} of them by an earlier run" if result.resumed else ""
    scored = part_of(result.images - result.errors, result.images, "image")
    typer.echo(f"{scored} scored{before}{verdict}: {result.scores}")
