"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

import enum
import json
import os
from typing import Annotated, Any

import typer

from fastalign.cli.numbers import flag, real, whole
from fastalign.errors import ConfigError
from fastalign.numeric import LARGEST_SEED, MOST_THREADS, whole_number

# Sides of images: what the model takes at least, and no file has more.
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 65535
_MOST_LAYERS = 10_000
LAYOUT_NAMES = ("mvtec", "mvtec2", "btad", "visa", "realiad", "pairs", "items", "folder")
# Options of the model that have a flag of their own name, so that none can be given twice.
_OWN_FLAG = (
    "image_size",
    "align",
    "teacher",
    "family",
    "backbone",
    "weights",
    "layers",
    "channels",
    "shrinkage",
    "epochs",
    "batch_size",
    "threshold_quantile",
)

Category = Annotated[
    list[str],
    typer.Argument(metavar="DIR", help="A category: its folder; to fit, good/ in it is enough."),
]


class MapFormat(str, enum.Enum):
    """Formats of maps."""

    tiff = "tiff"
    npy = "npy"


class OverlayFormat(str, enum.Enum):
    """Formats of overlays."""

    jpg = "jpg"
    png = "png"


Device = Annotated[
    str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, ...", metavar="NAME")
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="What the network computes in: float32, tf32 and float16 on GPUs, bfloat16 also on "
        "some processors. Poses and distances are float32.",
        metavar="NAME",
        show_default="tf32 on NVIDIA's GPUs, else float32",
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        help="What computes the network on a CPU: torch; openvino, where it is installed; auto: "
        "openvino where it gives what torch gives.",
        metavar="NAME",
    ),
]
Threads = Annotated[
    int | None, whole("--threads", "CPU threads.", 1, MOST_THREADS, default="torch's choice")
]
Seed = Annotated[int, whole("--seed", "Seed of everything random.", 0, LARGEST_SEED)]
Gallery = Annotated[int, whole("--gallery", "Images on the page at most; 0 for none.")]
Threshold = Annotated[
    float | None,
    real(
        "--threshold",
        "Threshold to use for this run, for images and masks.",
        default="the model's",
    ),
]
PixelThreshold = Annotated[
    float | None,
    real(
        "--pixel-threshold",
        "Threshold of masks and regions to use for this run.",
        default="--threshold, else the model's",
    ),
]
LeastArea = Annotated[
    float,
    real(
        "--least-area",
        "Pixels of a photograph below which a region is left out; verdicts stay.",
        0,
    ),
]
Drift = Annotated[
    int,
    whole(
        "--drift",
        "Drift (camera, light, focus) is told, falsely once in so many photographs on average; "
        "0: not at all.",
    ),
]
Layout = Annotated[
    str,
    typer.Option(
        "--layout",
        help=f"Layout of DIR: auto, {', '.join(LAYOUT_NAMES)}.",
        metavar="NAME",
    ),
]
SkipBad = Annotated[
    bool, flag("--skip-bad", "Files that cannot be read are a warning and no error.")
]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        help="Memory that the process may take, such as 4GB; large images go in pieces.",
        metavar="SIZE",
        show_default="no limit",
    ),
]
BitDepth = Annotated[
    str,
    typer.Option(
        "--bit-depth",
        help="Bits used in 16-bit files that state no depth: auto, or 8 to 16, with -left "
        "(12-left) where they are the upper ones; auto: as all training images show.",
        metavar="BITS",
    ),
]
Debug = Annotated[bool, flag("--debug", "Show where an error came from.")]
Details = Annotated[bool, flag("--details", "Print everything: memory plans, figures, all images.")]
ModelFile = Annotated[
    str, typer.Option("--model", "-m", help="The file that fit wrote.", metavar="FILE")
]


def set_threads(threads: int | None) -> None:
    """Use ``threads`` CPU threads; None leaves torch's own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def runtime_within(budget: int | None, runtime: str) -> str:
    """What computes the network within a memory budget: torch, which does it in pieces.

    Raises:
        ConfigError: it was to be OpenVINO.
    """
    if budget is None:
        return runtime
    if runtime == "openvino":
        raise ConfigError(
            "--runtime openvino: OpenVINO has no pieces that would keep a --memory-budget; leave "
            "one of the two out."
        )
    return "torch"


def one_folder(given: list[str]) -> str:
    """The one folder that a command takes.

    Raises:
        ConfigError: there are several, as of a pattern that the shell has replaced.
    """
    if len(given) > 1:
        shown = ", ".join(given[:3]) + (", ..." if len(given) > 3 else "")
        raise ConfigError(
            f"DIR: {len(given)} paths were given ({shown}), as a shell makes them of a pattern; "
            f"give the one folder that holds them, such as {os.path.dirname(given[0]) or '.'}."
        )
    return given[0]


def parse_size(text: str) -> tuple[int, int]:
    """``"256"`` or ``"256x384"`` (height x width) as ``(height, width)``.

    Raises:
        ConfigError: it is neither.
    """
    parts = text.lower().split("x")
    try:
        sides = [
            whole_number("side", part, _SMALLEST_SIDE, _LARGEST_SIDE, text=True) for part in parts
        ]
    except ConfigError:
        sides = []
    if len(sides) not in (1, 2):
        raise ConfigError(
            f"--image-size {text!r}: use one side such as 256, or height x width such as 256x384, "
            f"each from {_SMALLEST_SIDE} to {_LARGEST_SIDE}."
        )
    return (sides[0], sides[-1])


def parse_layers(text: str) -> tuple[int, ...]:
    """``"1,2,4"`` as ``(1, 2, 4)``.

    Raises:
        ConfigError: no comma-separated list of numbers.
    """
    try:
        layers = tuple(
            whole_number("layer", part, -_MOST_LAYERS, _MOST_LAYERS, text=True)
            for part in text.split(",")
        )
    except ConfigError:
        raise ConfigError(f"--layers {text!r}: use numbers with commas, such as 1,2,4.") from None
    return layers


def parse_settings(entries: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` entries as options; values are JSON where they can be, else text.

    Raises:
        ConfigError: an entry without ``=``, a name given twice, or one that has its own flag.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"--set {entry!r}: write NAME=VALUE, such as --set sigma=2.")
        if name in found:
            raise ConfigError(f"--set {entry!r}: {name} is given twice.")
        if name in _OWN_FLAG:
            raise ConfigError(f"--set {entry!r}: use --{name.replace('_', '-')} for this option.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
