"""``fastalign validate``."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import flag, real
from fastalign.cli.options import Debug, ModelFile, Threads, set_threads
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.export.validation import Validation


@guarded
def validate(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A file of fastalign export: .onnx, .xml, .pt2.")
    ],
    model: ModelFile,
    photographs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Photographs to compare on: folders, images or glob patterns.",
            show_default="images that are made up",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        real("--tolerance", "Largest difference allowed, as a share of a score.", 0, 1),
    ] = 0.001,
    as_json: Annotated[bool, flag("--json", "Print everything as JSON.")] = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Compare an exported file with its model: whether it is whole, every output on photographs,
    verdicts that change, times. Ends with 0 where it may stand for the model, else with 4.

    Example: fastalign validate screw.onnx --model screw.safetensors photos/
    """
    from fastalign import artifact
    from fastalign.data import find_photographs
    from fastalign.export.validation import validate_file

    set_threads(threads)
    paths = find_photographs(photographs).files if photographs else []
    found = validate_file(file, artifact.load(model), paths, tolerance=tolerance)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(found)
    if not found.holds:
        raise typer.Exit(4)


def _print(found: Validation) -> None:
    kind = "made-up image" if found.synthetic else "photograph"
    typer.echo(f"{found.file}: {found.kind}, run by {found.runtime}")
    typer.echo(f"compared on {count(found.photographs, kind)}, {found.scored} of them with a score")
    for item in found.differences:
        by = f"{item.largest:.2g}" if math.isfinite(item.largest) else "not comparable"
        place = "" if item.place is None else f", row {item.place[0]}, column {item.place[1]}"
        where = f"  ({item.photograph}{place})" if item.photograph else ""
        typer.echo(f"  {item.output:<9} differs by {by}{where}")
    typer.echo(f"verdicts changed: {len(found.verdicts_changed)} of {found.photographs}")
    typer.echo(f"one image: {found.file_ms:.1f} ms, the model {found.model_ms:.1f} ms")
    if found.synthetic:
        warn("made-up images say little of verdicts; give photographs as well")
    for line in found.problems:
        typer.echo(f"problem: {line}")
    typer.echo("it may stand for the model" if found.holds else "it must not stand for the model")
