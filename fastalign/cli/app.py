"""The entry point and the sub-commands; nothing heavier than typer is imported before one runs."""

from __future__ import annotations

import gc
import io
import sys
from typing import Annotated

import typer

from fastalign.cli.bench import bench
from fastalign.cli.compare import compare
from fastalign.cli.demo import demo
from fastalign.cli.evaluate import evaluate
from fastalign.cli.export import export
from fastalign.cli.fit import fit
from fastalign.cli.info import info
from fastalign.cli.predict import predict
from fastalign.cli.roi import roi
from fastalign.cli.serve import serve
from fastalign.cli.threshold import threshold
from fastalign.cli.update import update
from fastalign.cli.validate import validate
from fastalign.cli.watch import watch
from fastalign.load import wait_passively

_ABOUT = (
    "Find defects on photographs of parts after a look at good ones only: fit learns from good "
    "photographs, predict scores new ones, evaluate measures on labelled ones."
    "\n\nExample: fastalign fit data/screw --out screw.safetensors"
    "\n\nExit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 bad data or path, 4 bad model "
    "file, 5 device or backend not usable, or out of memory, 6 another process of the job lost, "
    "7 compared models differ, 130 interrupted, 143 terminated."
)

app = typer.Typer(
    name="fastalign",
    help=_ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import fastalign

        typer.echo(f"fastalign {fastalign.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    pass


for _command in (
    fit,
    evaluate,
    predict,
    watch,
    serve,
    roi,
    threshold,
    update,
    compare,
    export,
    validate,
    bench,
    info,
    demo,
):
    app.command()(_command)


def main() -> None:
    """Run the command line; the process ends with one of the documented exit codes."""
    # Before a command loads torch, and for the processes that it starts.
    wait_passively()
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding has not, or no text at all.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="fastalign")
    finally:
        # At its end Python looks for garbage in all that was imported, a second for torch and timm.
        gc.freeze()
