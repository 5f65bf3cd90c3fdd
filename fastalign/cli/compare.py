"""``fastalign compare``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.options import (
    Debug,
    Details,
    Device,
    Gallery,
    Layout,
    Precision,
    Runtime,
    SkipBad,
    Threads,
    set_threads,
)
from fastalign.cli.progress import make_progress
from fastalign.errors import ConfigError

if TYPE_CHECKING:
    from fastalign.engine import Comparison

DIFFERS = 7


class Fails(str, enum.Enum):
    """What makes the command end with 7."""

    change = "change"
    mistakes = "mistakes"
    never = "never"


@guarded
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A model's file: the one in use.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one's: the one to come.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="A category with labels, as evaluate reads it, or photographs without: a folder, "
            "an image or a glob pattern.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Folder for compare.html, compare.csv and compare.json.",
            metavar="DIR",
        ),
    ],
    fail_on: Annotated[
        Fails,
        typer.Option(
            "--fail-on",
            help="End with 7 where a photograph changes sides; where B makes more mistakes than A, "
            "by the labels; or never.",
        ),
    ] = Fails.change,
    gallery: Gallery = 120,
    layout: Layout = "auto",
    device: Device = "cpu",
    precision: Precision = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    skip_bad: SkipBad = False,
    details: Details = False,
    debug: Debug = False,
) -> None:
    """Judge the same photographs by two models: what changes sides, side by side on a page.

    Example: fastalign compare old.safetensors new.safetensors photos/ --out compared/
    """
    from fastalign import artifact
    from fastalign.engine import compare_models
    from fastalign.engine.environment import open_device
    from fastalign.io import check_writable

    set_threads(threads)
    target = open_device(device)
    check_writable(Path(out) / "compare.json")
    models = [
        artifact.load(path, target, precision=precision, runtime=runtime)
        for path in (first, second)
    ]
    names = _names(first, second)
    with make_progress(details=details) as progress:
        found = compare_models(
            (models[0], models[1]),
            names,
            source,
            out,
            layout=layout,
            gallery_images=gallery,
            skip_bad=skip_bad,
            progress=progress,
        )
    for message in found.warnings:
        warn(message)
    _print(found, Path(out))
    if fail_on is Fails.mistakes and not found.labelled:
        raise ConfigError(
            f"--fail-on mistakes: {source} has no labels; give a category with test/good and "
            "test/<defect>, or leave --fail-on out."
        )
    mended, broken = found.effects
    fails = {
        Fails.change: bool(found.changed),
        Fails.mistakes: broken > mended,
        Fails.never: False,
    }
    if fails[fail_on]:
        raise typer.Exit(DIFFERS)


def _names(first: str, second: str) -> tuple[str, str]:
    """Names of the files, with their folders where these alone tell them apart."""
    names = Path(first).name, Path(second).name
    return (first, second) if names[0] == names[1] else names


def _print(found: Comparison, out: Path) -> None:
    from fastalign.engine.compare import COMPARE

    for item in (found.images[place] for place in found.order()[:20]):
        if item.changed:
            way = " -> ".join(side.verdict.text for side in item.sides)
            shares = [
                "-" if side.relative is None else f"{side.relative:.2f}" for side in item.sides
            ]
            effect = f"  {item.effect}" if item.effect else ""
            typer.echo(f"{item.path}: {way}  ({' -> '.join(shares)} x threshold){effect}")
    if len(found.changed) > 20:
        typer.echo(f"and {len(found.changed) - 20} more")
    if found.labelled:
        for letter, side in (("A", 0), ("B", 1)):
            made = found.mistakes(side)
            typer.echo(
                f"{letter} {found.names[side]}: {made['false_alarms']} of {made['good']} good are "
                f"false alarms, {made['missed']} of {made['anomalous']} anomalous missed"
            )
    typer.echo(found.summary)
    for name in COMPARE:
        typer.echo(f"{name}: {out / name}")
