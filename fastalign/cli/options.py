"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[
    str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, ...", metavar="NAME")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; the default is torch's.")
]
Layout = Annotated[
    str,
    typer.Option(
        "--layout", help="Layout of DIR: auto, or a name from the documentation.", metavar="NAME"
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave bad files out with a warning and a count."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
ModelFile = Annotated[
    str, typer.Option("--model", "-m", help="The file that fit wrote.", metavar="FILE")
]


def set_threads(threads: int | None) -> None:
    """Use ``threads`` CPU threads; None leaves torch's own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def parse_size(text: str) -> tuple[int, int]:
    """``"256"`` or ``"256x384"`` (height x width) as ``(height, width)``.

    Raises:
        ConfigError: it is neither.
    """
    from fastalign.errors import ConfigError

    parts = text.lower().split("x")
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or any(side < 1 for side in sides):
        raise ConfigError(
            f"--image-size {text!r}: use one side such as 256, or height x width such as 256x384."
        )
    return (sides[0], sides[-1])


def parse_layers(text: str) -> tuple[int, ...]:
    """``"1,2,4"`` as ``(1, 2, 4)``.

    Raises:
        ConfigError: no comma-separated list of numbers.
    """
    from fastalign.errors import ConfigError

    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--layers {text!r}: use numbers with commas, such as 1,2,4.") from None
    return layers
