"""``fastalign evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import flag, real
from fastalign.cli.options import (
    BitDepth,
    Category,
    Debug,
    Details,
    Device,
    Gallery,
    Layout,
    LeastArea,
    MemoryBudget,
    ModelFile,
    Precision,
    Runtime,
    SkipBad,
    Threads,
    one_folder,
    runtime_within,
    set_threads,
)
from fastalign.cli.progress import make_progress
from fastalign.errors import ConfigError
from fastalign.load import keep_freed_memory
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.engine import Evaluation


@guarded
def evaluate(
    directory: Category,
    model: ModelFile,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")],
    eval_size: Annotated[
        str,
        typer.Option(
            "--eval-size",
            help="Resolution of the pixel figures: model, native or a side length.",
            metavar="SIZE",
        ),
    ] = "model",
    gallery: Gallery = 120,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            help="regions: write the places above the pixel threshold as well, as JSON and in "
            "COCO's form.",
            metavar="LIST",
            show_default="none",
        ),
    ] = None,
    least_area: LeastArea = 0.0,
    memory_budget: MemoryBudget = None,
    layout: Layout = "auto",
    device: Device = "cpu",
    precision: Precision = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    skip_bad: SkipBad = False,
    keep_seen: Annotated[
        bool,
        flag(
            "--keep-seen",
            "Let test images that the model was fitted on count in the figures; by default they "
            "are named and left out.",
        ),
    ] = False,
    learning_curve: Annotated[
        str | None,
        typer.Option(
            "--learning-curve",
            help="How many photographs are enough: fit on 5, 10, 20 and so on of the good training "
            "photographs of this folder as well, and measure each fit.",
            metavar="DIR",
            show_default="none",
        ),
    ] = None,
    curve_minutes: Annotated[
        float, real("--curve-minutes", "That these fits may take.", 0, 10**5)
    ] = 30.0,
    bit_depth: BitDepth = "auto",
    details: Details = False,
    debug: Debug = False,
) -> None:
    """Measure a model on labelled images: results.json, scores.csv, report.html.

    Example: fastalign evaluate data/screw --model screw.safetensors --out results/screw
    """
    from fastalign import artifact
    from fastalign.data import parse_depth
    from fastalign.engine import evaluate_category
    from fastalign.engine.environment import open_device
    from fastalign.io import check_writable
    from fastalign.models.memory import parse_bytes

    if save not in (None, "none", "regions"):
        raise ConfigError(f"--save {save!r}: evaluate writes regions or none.")
    set_threads(threads)
    target = open_device(device)
    check_writable(Path(out) / "results.json")
    budget = None if memory_budget is None else parse_bytes(memory_budget)
    chosen = runtime_within(budget, runtime)
    if budget is None:
        keep_freed_memory()
    fitted = artifact.load(model, target, precision=precision, runtime=chosen)
    with make_progress(details=details) as progress:
        plan = fitted.limit_memory(budget)
        progress.detail(plan.describe())
        progress.detail(f"network: {fitted.features.runtime.words}")
        result = evaluate_category(
            one_folder(directory),
            fitted,
            out,
            layout=layout,
            eval_size=eval_size,
            gallery_images=gallery,
            skip_bad=skip_bad,
            keep_seen=keep_seen,
            save_regions=save == "regions",
            least_area=least_area,
            memory=plan.spare,
            depth=parse_depth(bit_depth),
            learning_curve=learning_curve,
            curve_minutes=curve_minutes,
            model_name=Path(model).name,
            progress=progress,
        )
    for message in result.warnings:
        warn(message)
    print_evaluation(result)


def print_evaluation(result: Evaluation) -> None:
    """The figures as a table and the paths of the files, on standard output."""
    from rich.console import Console
    from rich.table import Table

    from fastalign.load import Load

    table = Table(
        title=f"{result.category}: {count(len(result.images), 'test image')}", title_justify="left"
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    document = result.to_json()
    load = Load.from_json(document["protocol"]["load"])
    for figure, value in mistake_rows(result):
        table.add_row(figure, value)
    for name in (*result.metrics, "ms_per_image", "alignment_ms_per_image", "peak_rss_mb"):
        value = document[name]
        digits = 1 if name.endswith(("_mb", "_image")) else 4
        shown = f"{value:.{digits}f}" if value is not None else "-"
        reason = result.reasons.get(name)
        if load.busy and name.endswith("ms_per_image"):
            reason = "on a busy machine"
        table.add_row(name, f"{shown}  ({reason})" if reason else shown)
    Console().print(table)
    print_curve(result)
    if told := other_threshold(result):
        typer.echo(told)
    if load.busy:
        typer.echo(
            f"The machine was busy, so times are longer than they need be: {load.describe()}."
        )
    for name, path in result.files.items():
        typer.echo(f"{name}: {path}")


def print_curve(result: Evaluation) -> None:
    """The figures by number of photographs, and what another doubling would bring."""
    curve = result.learning_curve
    if curve is None:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="by number of training photographs: mean (least to most)")
    for name in ("photographs", "fits", "image AUROC", "AUPRO 0.30", "false alarms", "missed"):
        table.add_column(name, justify="right")
    names = ("photographs", "fits", "image_auroc", "aupro_30", "false_alarms", "missed")
    for row in curve.rows():
        table.add_row(*(row[name] for name in names))
    Console().print(table)
    for sentence in (curve.outlook, *curve.notes):
        typer.echo(sentence)


def mistake_rows(result: Evaluation) -> list[tuple[str, str]]:
    """False alarms and misses at the stored threshold, as rows of the table."""
    made = result.mistakes
    if made is None:
        return []
    rows = [("threshold", f"{made['threshold']:.4g}")]
    for name, part, of, what in (
        ("false alarms", "false_alarms", "good", "good"),
        ("missed", "missed", "anomalous", "anomalous"),
    ):
        if made[of]:
            share = 100 * made[part] / made[of]
            rows.append((name, f"{made[part]} of {made[of]} {what}  ({share:.0f} %)"))
    if made["unsure"]:
        kinds = f"{made['unsure_good']} good, {made['unsure_anomalous']} anomalous"
        rows.append(("unsure", f"{made['unsure']}  ({kinds}; in no figure)"))
    return rows


def other_threshold(result: Evaluation) -> str:
    """What the threshold with the fewest mistakes would do here; empty where the stored one is as
    good."""
    made, best = result.mistakes, result.fewest_mistakes
    if best is None:
        return ""
    wrong = best["false_alarms"] + best["missed"]
    if made is not None and made["false_alarms"] + made["missed"] <= wrong:
        return ""
    return (
        f"On these images a threshold of {best['threshold']:.4g} would make the fewest mistakes: "
        f"{count(best['false_alarms'], 'false alarm')} and {best['missed']} missed. It was chosen "
        "by looking at the test images, so it says nothing about others and is not stored "
        "(fastalign threshold stores one)."
    )
