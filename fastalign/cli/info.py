"""``fastalign info``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fastalign.cli.guard import guarded
from fastalign.cli.options import Debug


@guarded
def info(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Versions, the native extension, the backends of every op and why one cannot run.

    Example: fastalign info --json
    """
    from fastalign.engine.info import collect

    found = collect()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    versions = Table("package", "version", title="Versions", title_justify="left")
    for name, text in found["versions"].items():
        versions.add_row(name, text)
    console.print(versions)
    library = found["extension"]
    if library["loaded"]:
        state = f"{library['file']}, built for {' and '.join(library['built_for']) or 'nothing'}"
    else:
        state = library["reason"]
    typer.echo(f"Native extension: {state}")
    typer.echo(f"CUDA of torch: {library['cuda_of_torch'] or 'none'}")
    typer.echo(f"Devices: {', '.join(found['devices'])}")
    typer.echo("")
    for device, ops in found["backends"].items():
        table = Table("op", "backend", "state", title=f"Backends for {device} tensors")
        table.title_justify = "left"
        for op, backends in ops.items():
            for backend, reason in backends.items():
                table.add_row(op, backend, "runs" if reason is None else escape(reason))
                op = ""
        console.print(table)
    variables = Table("variable", "value", "meaning", title="Environment", title_justify="left")
    for name, entry in found["environment"].items():
        variables.add_row(name, escape(entry["value"] or "not set"), entry["meaning"])
    console.print(variables)
