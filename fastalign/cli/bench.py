"""``fastalign bench``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from fastalign.cli.guard import guarded
from fastalign.cli.numbers import flag, whole
from fastalign.cli.options import Debug
from fastalign.numeric import MOST_THREADS


class Profile(str, enum.Enum):
    """How much is measured."""

    quick = "quick"
    full = "full"


class Part(str, enum.Enum):
    """What is measured."""

    ops = "ops"
    models = "models"


class On(str, enum.Enum):
    """Where the ops run."""

    cpu = "cpu"
    cuda = "cuda"


@guarded
def bench(
    profile: Annotated[
        Profile, typer.Option("--profile", help="quick takes two minutes, full many hours.")
    ] = Profile.quick,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder of the results.", metavar="DIR")
    ] = "fastalign-bench",
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            help="bench.json of an earlier run, or a commit, to compare with.",
            metavar="FILE|COMMIT",
            show_default="none",
        ),
    ] = None,
    part: Annotated[
        list[Part] | None,
        typer.Option("--part", help="What to measure; may be repeated.", show_default="both"),
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            "--only",
            help="Cases whose name this expression finds.",
            metavar="REGEX",
            show_default="all",
        ),
    ] = "",
    plan: Annotated[
        list[str] | None,
        typer.Option(
            "--plan",
            help="A launch plan to force, as one more contestant beside the kernel's own choice; "
            "`a|b` and a field without a value sweep. `fastalign info --all` lists the fields.",
            metavar="KERNEL:FIELD=VALUE",
            show_default="none",
        ),
    ] = None,
    list_only: Annotated[bool, flag("--list", "Name the cases and stop.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="The category of the models' rows.",
            metavar="DIR",
            show_default="the shipped photographs",
        ),
    ] = None,
    device: Annotated[On, typer.Option("--device", help="Where the ops run.")] = On.cpu,
    threads: Annotated[int, whole("--threads", "CPU threads.", 1, MOST_THREADS)] = 2,
    debug: Debug = False,
) -> None:
    """Measure ops and models beside what people use today, and write tables, plots and a report.

    Example: fastalign bench --out bench
    """
    import re

    from fastalign.bench.run import PROFILES, run
    from fastalign.cli.options import set_threads
    from fastalign.engine.demo import demo_category
    from fastalign.engine.environment import open_device
    from fastalign.errors import ConfigError

    try:
        found = re.compile(only)
    except re.error as error:
        raise ConfigError(f"--only {only!r} is no regular expression: {error}.") from error
    parts = [one.value for one in part or list(Part)]
    chosen = PROFILES[profile.value]
    if list_only:
        names = [case.name for case in chosen.cases] if "ops" in parts else []
        names += [job.name for job in chosen.jobs] if "models" in parts else []
        typer.echo("\n".join(name for name in names if found.search(name)))
        return
    open_device(device.value)
    set_threads(threads)
    with demo_category(data) as category:
        document = run(
            Path(out),
            category,
            profile.value,
            device=device.value,
            parts=parts,
            only=lambda name: found.search(name) is not None,
            baseline=baseline,
            threads=threads,
            forced=plan or [],
            note=lambda text: typer.echo(text, err=True),
        )
    comparison = document["comparison"]
    compared = comparison["rows"] if comparison else []
    for row in compared:
        if row["verdict"] != "within the noise":
            typer.echo(f"{row['verdict']}: {row['case']}, {row['contestant']}: {row['ratio']:.3f}x")
    if compared and all(row["verdict"] == "within the noise" for row in compared):
        typer.echo("no difference exceeds the noise")
    if comparison and not compared:
        typer.echo(f"nothing in common with {comparison['baseline']}")
    if document["left_out"]:
        typer.echo(f"out of time: {len(document['left_out'])} cases, named in the report")
    typer.echo(f"report: {Path(out) / 'report.html'}")
