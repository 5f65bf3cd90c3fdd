"""``fastalign demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import whole
from fastalign.cli.options import Debug, Device, Seed, Threads, set_threads
from fastalign.cli.progress import make_progress


@guarded
def demo(
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A category to use.",
            metavar="DIR",
            show_default="the shipped photographs",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder for model and results.", metavar="DIR")
    ] = "fastalign-demo",
    epochs: Annotated[int | None, whole("--epochs", "Training epochs.", default="10")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Fit and evaluate on a small set of real photographs that ships with fastalign.

    Example: fastalign demo --out demo
    """
    from fastalign import artifact
    from fastalign.cli.evaluate import print_evaluation
    from fastalign.engine import evaluate_category, fit_category
    from fastalign.engine.demo import demo_category
    from fastalign.engine.environment import open_device
    from fastalign.engine.fit import build_config

    set_threads(threads)
    folder = Path(out)
    file = folder / "model.safetensors"
    with demo_category(data) as directory, make_progress() as progress:
        fitted = fit_category(
            directory,
            file,
            config=build_config(epochs=epochs),
            seed=seed,
            device=device,
            progress=progress,
        )
        result = evaluate_category(
            directory,
            artifact.load(file, open_device(device)),
            folder,
            model_name=file.name,
            progress=progress,
        )
    for message in (*fitted.warnings, *result.warnings):
        warn(message)
    print_evaluation(result)
