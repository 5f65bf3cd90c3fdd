"""``fastalign serve``."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastalign.cli.ending import until_told
from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import real, whole
from fastalign.cli.options import (
    BitDepth,
    Debug,
    Device,
    Drift,
    LeastArea,
    MemoryBudget,
    ModelFile,
    PixelThreshold,
    Precision,
    Runtime,
    Threads,
    Threshold,
    runtime_within,
    set_threads,
)
from fastalign.drift.settings import INTERVAL
from fastalign.errors import ConfigError, InputError
from fastalign.load import cores, keep_freed_memory

if TYPE_CHECKING:
    from fastalign import FYD

_MEGA = 1_000_000
_LARGEST_TOKEN = 1000


@guarded
def serve(
    model: ModelFile,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for verdicts.jsonl: a line for each photograph, before it is answered, "
            "and what is said on the page.",
            metavar="DIR",
            show_default="nothing is kept",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen on; others than loopback need a token.",
            metavar="NAME",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, whole("--port", "Port to listen on; 0: any that is free.", 0, 65535)] = (
        8000
    ),
    names: Annotated[
        str,
        typer.Option(
            "--names",
            help="Further names by which it is asked for, with commas, such as that of a proxy "
            "before it.",
            metavar="LIST",
        ),
    ] = "",
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            help="File with what whoever asks has to send (Authorization: Bearer ...).",
            metavar="FILE",
            show_default="none, on loopback",
        ),
    ] = None,
    threshold: Threshold = None,
    pixel_threshold: PixelThreshold = None,
    least_area: LeastArea = 0.0,
    drift: Drift = INTERVAL,
    max_megabytes: Annotated[
        float, real("--max-megabytes", "Of a photograph's file, in 10^6 bytes.", 0.001, 10_000)
    ] = 32.0,
    max_megapixels: Annotated[
        float, real("--max-megapixels", "Of a photograph, in 10^6 pixels.", 0.001, 10_000)
    ] = 64.0,
    max_waiting: Annotated[
        int,
        whole("--max-waiting", "Photographs at once; further ones are turned away.", 1, 1000),
    ] = 16,
    seconds: Annotated[
        float,
        real("--seconds", "That sending a photograph, and its verdict, may take.", 0.1, 3600),
    ] = 30.0,
    kept: Annotated[int, whole("--kept", "Photographs that the page shows.", 1, 1000)] = 100,
    updates: Annotated[
        bool,
        typer.Option(
            "--update/--no-update",
            help="Whether the page may take false alarms, photographs marked as good, into the "
            "model; its file as it was is kept beside it.",
            metavar="",
        ),
    ] = True,
    memory_budget: MemoryBudget = None,
    device: Device = "cpu",
    precision: Precision = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    bit_depth: BitDepth = "auto",
    debug: Debug = False,
) -> None:
    """Judge photographs over HTTP (POST /score), with a page at / that shows the last ones, until
    told to end (Ctrl-C, SIGTERM).

    Example: fastalign serve --model screw.safetensors --out verdicts/
    """
    from fastalign import artifact
    from fastalign.data import parse_depth
    from fastalign.engine.environment import open_device
    from fastalign.line.serve.run import require, serve
    from fastalign.line.serve.settings import Settings
    from fastalign.line.serve.updating import ModelUpdater
    from fastalign.models.memory import parse_bytes

    require()
    set_threads(threads)
    depth = parse_depth(bit_depth)
    settings = Settings(
        host=host,
        port=port,
        token=None if token_file is None else _read_token(token_file),
        most_bytes=round(max_megabytes * _MEGA),
        most_pixels=round(max_megapixels * _MEGA),
        most_waiting=max_waiting,
        # A budget is worked out for one photograph at a time.
        at_once=Settings.at_once if memory_budget is None else 1,
        seconds=seconds,
        kept=kept,
        names=tuple(part.strip().lower() for part in names.split(",") if part.strip()),
    )
    target = open_device(device)
    # The server has handlers of its own while it runs; they hand the signal on in the end.
    stop = threading.Event()
    with until_told(stop):
        budget = None if memory_budget is None else parse_bytes(memory_budget)
        if budget is None:
            keep_freed_memory()
        chosen = runtime_within(budget, runtime)

        def load() -> FYD:
            fitted = artifact.load(model, target, precision=precision, runtime=chosen)
            fitted.limit_memory(budget, 1)
            return fitted

        # Before it is read: a file that is replaced meanwhile is another one then.
        updating = ModelUpdater(Path(model), load) if updates else None
        serve(
            load(),
            settings,
            model_name=Path(model).name,
            out=out,
            threshold=threshold,
            pixel_threshold=pixel_threshold,
            least_area=least_area,
            drift=drift,
            depth=depth,
            updating=updating,
            # A budget is for one process, and on a single core two take turns all the same.
            apart=target.type == "cpu" and budget is None and cores() > 1,
            stop=stop,
            note=warn,
            started=lambda address: typer.echo(f"serving {Path(model).name}: {address}"),
        )


def _read_token(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(_LARGEST_TOKEN + 1).strip()
        open_to_others = os.name == "posix" and os.stat(path).st_mode & 0o004
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{path}: the token cannot be read ({reason}).") from error
    if not token or len(token) > _LARGEST_TOKEN:
        raise ConfigError(
            f"{path}: holds no token of 16 to {_LARGEST_TOKEN} characters; write one line."
        )
    if open_to_others:
        raise ConfigError(f"{path}: every user of this machine can read it; chmod 600 {path}.")
    return token
