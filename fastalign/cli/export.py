"""``fastalign export``."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from fastalign.cli.guard import guarded
from fastalign.cli.options import Debug, Device, Threads, set_threads


class Target(str, enum.Enum):
    """The formats."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"
    aotinductor = "aotinductor"


class Input(str, enum.Enum):
    """dtype of the images."""

    float32 = "float32"
    uint8 = "uint8"


@guarded
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The file that fit wrote.")],
    to: Annotated[Target, typer.Option("--to", help="The format.")],
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="The file to write: .onnx, .xml or .pt2.", metavar="FILE"),
    ],
    images: Annotated[
        Input, typer.Option("--input", help="Images as float32 in 0..1 or uint8 in 0..255.")
    ] = Input.float32,
    device: Device = "cpu",
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Write a model as a file that runs without fastalign: images in, scores, maps, labels out.

    Example: fastalign export screw.safetensors --to onnx --out screw.onnx
    """
    from fastalign import artifact
    from fastalign.engine.environment import open_device
    from fastalign.export import OUTPUTS, export_model

    set_threads(threads)
    fitted = artifact.load(model, open_device(device), runtime="torch")
    files = export_model(fitted, out, to.value, input_dtype=images.value)
    height, width = fitted.config.image_size
    *first, last = OUTPUTS
    typer.echo(
        f"{' and '.join(str(file) for file in files)}: takes {images.value} images "
        f"[batch, 3, {height}, {width}], gives {', '.join(first)} and {last}"
    )
