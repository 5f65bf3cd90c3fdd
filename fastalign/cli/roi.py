"""``fastalign roi``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import flag
from fastalign.cli.options import BitDepth, Debug, ModelFile
from fastalign.errors import ConfigError


@guarded
def roi(
    model: ModelFile,
    photo: Annotated[
        str | None,
        typer.Argument(
            metavar="[PHOTO]",
            help="A photograph of a good part, to be written as the model aligns it.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="The aligned photograph; beside it, in .regions.png, the same with the regions "
            "that the model has.",
            metavar="PNG",
            show_default="PHOTO.aligned.png in this folder",
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            "--apply",
            help="Judge these regions from now on: a mask (PNG, 0 is not judged, each other grey "
            "value a region) or polygons (JSON of labelme or COCO), drawn on an aligned "
            "photograph.",
            metavar="FILE",
            show_default="no change",
        ),
    ] = None,
    drawn_on: Annotated[
        str | None,
        typer.Option(
            "--drawn-on",
            help="The photograph that they were drawn on, where it is not aligned.",
            metavar="PHOTO",
            show_default="an aligned photograph",
        ),
    ] = None,
    clear: Annotated[bool, flag("--clear", "Judge all of the part again.")] = False,
    bit_depth: BitDepth = "auto",
    debug: Debug = False,
) -> None:
    """Regions of interest: write a photograph to draw them on, set them in a fitted model, show
    them. They lie in the part's own frame and follow it wherever it lies.

    Example: fastalign roi photo.jpg --model screw.safetensors

    Then: fastalign roi --model screw.safetensors --apply mask.png
    """
    if clear and regions is not None:
        raise ConfigError("roi: give one of --apply and --clear.")
    if drawn_on is not None and regions is None:
        raise ConfigError("roi: --drawn-on says what the file of --apply was drawn on: give both.")
    if out is not None and photo is None:
        raise ConfigError("roi: --out is the aligned photograph: give PHOTO as well.")
    from fastalign import artifact
    from fastalign.data import parse_depth
    from fastalign.engine.model_info import about_regions
    from fastalign.io import check_writable

    depth = parse_depth(bit_depth)
    kept = artifact.load(model, runtime="torch")
    if regions is not None or clear:
        check_writable(model)
        known = set(kept.record.warnings or ())
        kept.set_roi(regions, drawn_on=drawn_on)
        kept.save(model)
        for message in kept.record.warnings or ():
            if message not in known:
                warn(message)
    if photo is not None:
        from fastalign.engine.roi import align_photograph, draw_regions, write_picture

        aligned = align_photograph(kept, photo, depth)
        if aligned.doubt:
            warn(f"{photo}: a bad one to draw on: {aligned.doubt}")
        target = Path(out or f"{Path(photo).stem}.aligned.png")
        height, width = aligned.picture.shape[:2]
        typer.echo(f"{write_picture(target, aligned.picture)}: {width} x {height} pixels, aligned")
        if kept.roi is not None:
            beside = target.with_suffix(".regions.png")
            typer.echo(f"{write_picture(beside, draw_regions(aligned.picture, kept.roi))}")
    for line in describe_regions(about_regions(kept)):
        typer.echo(line)


def describe_regions(regions: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """What of the part a model judges, in lines, of what
    :func:`fastalign.engine.model_info.about_regions` says of it."""
    if regions is None:
        return ["regions of interest: none, all of the part is judged"]
    lines = []
    for name, about in regions.items():
        limit = about["threshold"]
        known = limit is not None and not math.isnan(limit)
        shown = f"{limit:.6g}" if known else "none"
        share = f"{100 * about['share']:.3g} % of the frame"
        lines.append(f"region of interest {name}: {share}, threshold {shown}")
    return lines
