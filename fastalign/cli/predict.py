"""``fastalign predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.options import (
    Debug,
    Device,
    MemoryBudget,
    ModelFile,
    SkipBad,
    Threads,
    set_threads,
)
from fastalign.cli.progress import make_progress


@guarded
def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A folder (with sub-folders), an image, or a quoted glob pattern."
        ),
    ],
    model: ModelFile,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")],
    map_format: Annotated[
        str, typer.Option("--map-format", help="Float32 maps as tiff or npy.", metavar="FORMAT")
    ] = "tiff",
    save: Annotated[
        str,
        typer.Option("--save", help="Pictures to write, any of map,mask,overlay.", metavar="LIST"),
    ] = "map,mask,overlay",
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
    debug: Debug = False,
) -> None:
    """Score images: label, float32 map, mask and overlay in the image's own size and frame.

    Example: fastalign predict photos/ --model screw.safetensors --out scored/
    """
    from fastalign import artifact
    from fastalign.engine import predict_paths
    from fastalign.engine.environment import open_device
    from fastalign.io import check_writable
    from fastalign.models.memory import parse_bytes

    set_threads(threads)
    target = open_device(device)
    check_writable(Path(out) / "scores.csv")
    budget = None if memory_budget is None else parse_bytes(memory_budget)
    fitted = artifact.load(model, target)
    with make_progress() as progress:
        plan = fitted.limit_memory(budget, batch_size)
        progress.note(plan.describe())
        result = predict_paths(
            fitted,
            source,
            out,
            map_format=map_format,
            outputs=[name.strip() for name in save.split(",") if name.strip()],
            threshold=threshold,
            batch_size=plan.images,
            skip_bad=skip_bad,
            progress=progress,
        )
    for skipped in result.skipped:
        warn(f"left out {skipped.path}: {skipped.reason}")
    for message in result.warnings:
        warn(message)
    count = sum(item.label == "anomaly" for item in result.images)
    verdict = f", {count} labelled anomaly" if result.image_threshold is not None else ""
    typer.echo(f"{len(result.images)} images scored{verdict}: {result.out / 'scores.csv'}")
