"""``fastalign info``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fastalign.cli.guard import guarded
from fastalign.cli.numbers import flag
from fastalign.cli.options import Debug
from fastalign.cli.roi import describe_regions

_UNKNOWN = "unknown to this installation; install fastalign again"


@guarded
def info(
    everything: Annotated[
        bool,
        flag("--all", "The backends of every op, all launch plans and environment variables, too."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A file that fit wrote: what is known about it, in place of the machine.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, flag("--json", "Everything as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """What is installed and what runs here: versions, devices, fast kernels and why not, extras;
    or what is known about a model.

    Example: fastalign info --json
    """
    if model is not None:
        from fastalign.engine.model_info import about_model

        about = about_model(model)
        if as_json:
            typer.echo(json.dumps(about, indent=2))
            return
        regions = about.pop("regions of interest")
        for name, value in about.items():
            typer.echo(f"{name}: {_shown(value)}")
        for line in describe_regions(regions):
            typer.echo(line)
        return
    from fastalign.engine.info import collect

    found = collect()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for line in summary(found):
        typer.echo(line)
    if everything:
        _print_tables(found)
    else:
        typer.echo("More: fastalign info --all")


def _shown(value: Any) -> str:
    """A value in words."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        parts = [f"{name} {_shown(item)}" for name, item in value.items()]
        return ", ".join(parts) if parts else "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def summary(found: dict[str, Any]) -> list[str]:
    """The lines that answer most questions."""
    versions = dict(found["versions"])
    first = " ".join(f"{name} {versions.pop(name)}," for name in ("fastalign", "python"))
    lines = [f"{first} {', '.join(f'{name} {text}' for name, text in versions.items())}"]
    for device in found["devices"]:
        lines.append(f"Device {device}")
    if len(found["devices"]) == 1:
        built = found["extension"]["cuda_of_torch"]
        why = "this torch has no CUDA" if built is None else f"torch for CUDA {built} finds none"
        lines.append(f"No GPU: {why}")
    for kind, sentence in found["kernels"].items():
        lines.append(f"Fast {'CUDA' if kind == 'cuda' else 'CPU'} kernels: {sentence}")
    library = found["extension"]
    if library["loaded"]:
        built = " and ".join(library["built_for"]) or "nothing"
        lines.append(f"Native library: built for {built}, {library['file']}")
    lines.append(f"Threads that wait for each other: {found['waiting']}")
    lines.append(f"Networks on the CPU: {found['runtime']}")
    for name, extra in found["extras"].items():
        if extra["missing"]:
            lines.append(f"Extra {name}: not installed; {extra['install']}")
        else:
            parts = ", ".join(f"{one} {text}" for one, text in extra["installed"].items())
            lines.append(
                f"Extra {name}: {parts or 'unknown to this installation; install fastalign again'}"
            )
    chosen = [
        f"{name}={entry['value']}" for name, entry in found["environment"].items() if entry["value"]
    ]
    lines.append(f"Environment: {', '.join(chosen) or 'nothing set'}")
    return lines


def _print_tables(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for device, ops in found["backends"].items():
        table = Table("op", "backend", "state", title=f"Backends for {device} tensors")
        table.title_justify = "left"
        for op, backends in ops.items():
            for backend, reason in backends.items():
                table.add_row(op, backend, "runs" if reason is None else escape(reason))
                op = ""
        console.print(table)
    plans = Table("kernel", "field", "values", "forced", title="Launch plans", title_justify="left")
    for kernel, fields in found["plans"]["fields"].items():
        forced = found["plans"]["forced"].get(kernel, {})
        for field, values in fields.items():
            plans.add_row(kernel, field, " ".join(values), forced.get(field, ""))
            kernel = ""
    console.print(plans)
    if found["plans"]["wrong"]:
        console.print(escape(found["plans"]["wrong"]))
    variables = Table("variable", "value", "meaning", title="Environment", title_justify="left")
    for name, entry in found["environment"].items():
        variables.add_row(name, escape(entry["value"] or "not set"), entry["meaning"])
    console.print(variables)
