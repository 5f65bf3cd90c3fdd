"""``fastalign threshold``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import Number, flag, real
from fastalign.cli.options import Debug
from fastalign.cli.roi import describe_regions
from fastalign.errors import ConfigError
from fastalign.numeric import real_number
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign import FYD


@guarded
def threshold(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The file that fit wrote.")],
    value: Annotated[
        float | None,
        typer.Argument(
            metavar="[VALUE]",
            help="The threshold from here on: scores above it are anomalies.",
            parser=Number("VALUE", False, -math.inf, math.inf),
            show_default=False,
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        real(
            "--quantile",
            "Of the scores of normal images that the model keeps of its fit.",
            0,
            1,
            default="no change",
        ),
    ] = None,
    false_alarms: Annotated[
        str | None,
        typer.Option(
            "--false-alarms",
            help="Share of normal images that may be called anomalies, such as 1%; as --quantile "
            "of 1 less it.",
            metavar="SHARE",
            show_default="no change",
        ),
    ] = None,
    fitted: Annotated[bool, flag("--fitted", "Back to what the fit has set.")] = False,
    image: Annotated[bool, flag("--image", "Change the threshold of images alone.")] = False,
    pixel: Annotated[bool, flag("--pixel", "Change the threshold of pixels alone.")] = False,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            help="Change the threshold of this region of interest, of images and pixels, in the "
            "unit of its own scores.",
            metavar="NAME",
            show_default="all",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show the thresholds of a model, or change and keep them: images are labelled by the one,
    masks drawn by the other. By default both change, so that an image is an anomaly where its mask
    shows something.

    Example: fastalign threshold screw.safetensors --false-alarms 1%
    """
    share = None if false_alarms is None else parse_share(false_alarms)
    given = [value is not None, quantile is not None, share is not None, fitted]
    if sum(given) > 1:
        raise ConfigError("threshold: give one of VALUE, --quantile, --false-alarms and --fitted.")
    if image and pixel:
        raise ConfigError(
            "threshold: --image and --pixel together are the default: leave both out."
        )
    if region is not None and (image or pixel):
        raise ConfigError("threshold: --region changes both: leave --image and --pixel out.")
    if region is not None and not any(given):
        raise ConfigError(f"threshold: --region {region} says what to change: give VALUE as well.")
    if not any(given) and (image or pixel):
        raise ConfigError("threshold: --image and --pixel say what to change: give VALUE as well.")
    from fastalign import artifact
    from fastalign.io import check_writable

    kept = artifact.load(model, runtime="torch")
    if any(given):
        check_writable(model)
        kept.set_threshold(
            value,
            quantile=quantile,
            false_alarms=share,
            fitted=fitted,
            image=not pixel,
            pixel=not image,
            region=region,
        )
        kept.save(model)
    _show(kept, quantile if share is None else 1 - share)


def parse_share(text: str) -> float:
    """``"1%"`` or ``"0.01"`` as a share.

    Raises:
        ConfigError: it is neither, or above 1 without a percent sign.
    """
    name = "--false-alarms"
    number = text.strip()
    if number.endswith("%"):
        return real_number(name, number[:-1], 0, 100, text=True, other="a share") / 100
    return real_number(
        name, number, 0, 1, open_ended=True, text=True, other="a percentage such as 1%"
    )


def _show(model: FYD, quantile: float | None) -> None:
    from fastalign.engine.model_info import about_regions
    from fastalign.models.thresholds import above

    record = model.record
    source = record.threshold_source or "unknown"
    limits = float(model.image_threshold), float(model.pixel_threshold)
    sources = source, record.pixel_threshold_source or source
    for name, limit, words in zip(("image", "pixel"), limits, sources, strict=True):
        shown = "none" if math.isnan(limit) else f"{limit:.6g}"
        typer.echo(f"{name} threshold: {shown} ({words})")
    if (regions := about_regions(model)) is not None:
        for line in describe_regions(regions):
            typer.echo(line)
    found = above(record, limits[0])
    if found is None:
        reason = "" if record.normal_scores else "none kept with this model"
        scores = (record.normal_scores or {}).get("scores", [])
        typer.echo(f"scores of normal images: {reason or len(scores)}")
        return
    over, number = found
    scores = (record.normal_scores or {})["scores"]
    typer.echo(
        f"scores of normal images: {number}, from {scores[0]:.4g} to {scores[-1]:.4g}; "
        f"{over} above the image threshold ({100 * over / number:.3g} %)"
    )
    if quantile is not None and 1 - quantile < 1 / number:
        warn(
            f"{count(number, 'normal score')} cannot tell a rate below {100 / number:.3g} %: the "
            "threshold lies just below the largest of them; more normal images tell more"
        )
