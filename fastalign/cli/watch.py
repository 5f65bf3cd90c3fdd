"""``fastalign watch``."""

from __future__ import annotations

import json
import sys
import threading
from typing import Annotated, Any

import typer

from fastalign.cli.ending import until_told
from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import flag, real, whole
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
from fastalign.load import keep_freed_memory
from fastalign.words import printable


@guarded
def watch(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Where photographs come in; its sub-folders count as well."
        ),
    ],
    model: ModelFile,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Folder for verdicts.jsonl and pictures; that of an earlier run is gone on with.",
            metavar="DIR",
        ),
    ],
    save: Annotated[
        str,
        typer.Option(
            "--save",
            help="Pictures to write of photographs that are not good, any of map,mask,overlay "
            "with commas, or none.",
            metavar="LIST",
        ),
    ] = "none",
    save_all: Annotated[bool, flag("--save-all", "Write pictures of good photographs too.")] = (
        False
    ),
    threshold: Threshold = None,
    pixel_threshold: PixelThreshold = None,
    least_area: LeastArea = 0.0,
    drift: Drift = INTERVAL,
    settle: Annotated[
        float,
        real("--settle", "Seconds that a file must have stayed as it is to be complete.", 0),
    ] = 1.0,
    patience: Annotated[
        float,
        real("--patience", "Seconds that a file which cannot be read is waited for.", 0),
    ] = 10.0,
    events: Annotated[
        str,
        typer.Option(
            "--events",
            help="How new files are noticed: events of the system, poll, or auto: events where "
            "watchfiles is installed and FOLDER is on no network drive.",
            metavar="auto|events|poll",
        ),
    ] = "auto",
    poll: Annotated[
        float | None,
        real(
            "--poll",
            "Seconds between two looks at FOLDER.",
            0.01,
            default="1, with events 30",
        ),
    ] = None,
    ahead: Annotated[
        int, whole("--ahead", "Photographs that are read ahead of the model.", 1, 1000)
    ] = 4,
    hook: Annotated[
        str | None,
        typer.Option(
            "--hook",
            help="Command to run on an anomaly; {path}, {verdict}, {score} and {text} (the reason) "
            "are filled in, the line comes on standard input. No shell reads it.",
            metavar="COMMAND",
            show_default="none",
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook",
            help="Address that the line of an anomaly is sent to (POST, JSON).",
            metavar="URL",
            show_default="none",
        ),
    ] = None,
    notify: Annotated[
        str,
        typer.Option(
            "--notify",
            help="What hook and webhook are told of, any of anomaly,unsure,good,drift with "
            "commas; of a drift {verdict} is drift and {text} the statement.",
            metavar="LIST",
        ),
    ] = "anomaly",
    timeout: Annotated[
        float, real("--timeout", "Seconds for one call of hook or webhook.", 0.1, 3600)
    ] = 10.0,
    retries: Annotated[
        int, whole("--retries", "Further calls after one that failed, ever later.", 0, 20)
    ] = 3,
    once: Annotated[bool, flag("--once", "End when nothing is left to judge.")] = False,
    as_json: Annotated[bool, flag("--json", "Print the lines as they are written.")] = False,
    memory_budget: MemoryBudget = None,
    device: Device = "cpu",
    precision: Precision = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    bit_depth: BitDepth = "auto",
    debug: Debug = False,
) -> None:
    """Judge photographs as they are written into a folder, until told to end (Ctrl-C, SIGTERM): a
    line of JSON for each in DIR/verdicts.jsonl, none twice and none left out, however a run ends.

    Example: fastalign watch camera/ --model screw.safetensors --out verdicts/
    """
    from fastalign import artifact
    from fastalign.data import parse_depth
    from fastalign.engine.environment import open_device
    from fastalign.line.messages import Messages, split_command
    from fastalign.line.scorer import AT_ONCE
    from fastalign.line.watch import watch_folder
    from fastalign.models.memory import parse_bytes

    set_threads(threads)
    depth = parse_depth(bit_depth)
    words = [] if hook is None else split_command(hook)
    messages = Messages(words, webhook, timeout, retries)
    target = open_device(device)
    stop = threading.Event()
    with until_told(stop):
        budget = None if memory_budget is None else parse_bytes(memory_budget)
        if budget is None:
            keep_freed_memory()
        chosen = runtime_within(budget, runtime)
        fitted = artifact.load(model, target, precision=precision, runtime=chosen)
        fitted.limit_memory(budget, 1)
        judged = watch_folder(
            fitted,
            folder,
            out,
            outputs=[] if save.strip() == "none" else _listed(save),
            save_all=save_all,
            threshold=threshold,
            pixel_threshold=pixel_threshold,
            least_area=least_area,
            drift=drift,
            settle=settle,
            patience=patience,
            poll=poll,
            events=events,
            ahead=ahead,
            # A budget is worked out for one photograph at a time.
            at_once=AT_ONCE if budget is None else 1,
            messages=messages,
            notify=_listed(notify),
            once=once,
            depth=depth,
            stop=stop,
            tell=_print_json if as_json else _print,
            note=warn,
        )
    print(f"{judged} judged: {out}/verdicts.jsonl", file=sys.stderr, flush=True)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _print_json(line: dict[str, Any]) -> None:
    typer.echo(json.dumps(line))


def _print(line: dict[str, Any]) -> None:
    if line["event"] == "drift":
        typer.echo(printable(f"{'drift':<8} {'':>16}  {line['text']}"))
        return
    from fastalign.engine.table import highest_roi

    share = line["relative"]
    far = "" if share is None else f"{share:.2f} x threshold"
    reason = f": {line['reason']}" if line["reason"] else ""
    where = highest_roi(line["roi"] or {})
    reason = reason if where is None else f" ({where}){reason}"
    typer.echo(printable(f"{line['verdict']:<8} {far:>16}  {line['path']}{reason}"))
