"""A whole run: ops, then models, then the comparison; results are written as they come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastalign.bench import (
    compare,
    interleave,
    models,
    oprun,
    outcomes,
    page,
    plans,
    plots,
    rows,
    setting,
    summary,
)
from fastalign.bench.cases import GRID, QUICK, Case
from fastalign.errors import ConfigError, InputError
from fastalign.load import Load

Note = Callable[[str], None]


@dataclass(frozen=True)
class Profile:
    """Budgets in seconds; ``seconds``: of measuring, per contestant; ``compile_last``: as
    :func:`oprun.run_cases` has it."""

    cases: Sequence[Case]
    jobs: Sequence[models.Job]
    seconds: dict[str, float]
    ops_budget: float
    models_budget: float
    job_limit: float
    compile_last: bool = False


PROFILES = {
    "quick": Profile(QUICK, models.QUICK, {"cpu": 0.25, "cuda": 0.1}, 60.0, 60.0, 60.0, True),
    "full": Profile(GRID, models.FULL, oprun.SECONDS, float("inf"), float("inf"), 3600.0),
}


def read_baseline(text: str) -> dict[str, Any] | None:
    """The document of an earlier run, where ``text`` names a file; None: a commit, perhaps.

    Raises:
        InputError: the file is no such document.
    """
    path = Path(text)
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document["rows"], list):
            raise ValueError("rows")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the bench.json of an earlier run; give that file or a commit."
        ) from error
    return dict(document)


def run(
    out: Path,
    data: Path,
    profile: str = "quick",
    *,
    device: str = "cpu",
    parts: Sequence[str] = ("ops", "models"),
    only: Callable[[str], bool] = lambda name: True,
    baseline: str | None = None,
    threads: int = 2,
    forced: Sequence[str] = (),
    note: Note = print,
) -> dict[str, Any]:
    """Measures a profile and writes bench.json, ops.csv, models.csv, the plots and report.html.

    Args:
        out: folder of the results.
        data: category of the model's rows.
        profile: ``quick`` or ``full``.
        device: ``cpu`` or ``cuda``, of the ops; models are measured on the CPU.
        parts: of ``ops`` and ``models``.
        only: which cases and jobs, by name.
        baseline: bench.json of an earlier run, or a commit.
        threads: CPU threads; the caller has set them in this process.
        forced: launch plans of ``--plan``; each is one more contestant of the ops that it is about.
        note: told about each row.

    Raises:
        ConfigError: a baseline that is neither, or a commit without a case to compare on; a plan
            that there is not.
        InputError: a file that is no baseline.
        BackendError: the baseline's commit does not build.
    """
    chosen = PROFILES[profile]
    earlier = None if baseline is None else read_baseline(baseline)
    backends, absent = setting.runnable(device)
    document = setting.document(device, absent)
    document["profile"] = profile
    cases = [case for case in chosen.cases if only(case.name)] if "ops" in parts else []
    jobs = [job for job in chosen.jobs if only(job.name)] if "models" in parts else []
    if not cases and not jobs:
        raise ConfigError("nothing to measure: --only finds no case; --list names them.")
    if baseline is not None and earlier is None and not cases:
        raise ConfigError(
            f"--baseline {baseline}: a commit is compared on ops, and none is measured; add "
            "--part ops, or give the bench.json of an earlier run."
        )
    plans_of_ops = plans.read(forced, cases, backends)
    for backend, reason in absent.items():
        note(f"without {backend}: {reason}")
    before = Load.from_json(document["load"])
    if before.busy:
        note(
            f"this machine is busy ({before.describe()}): rows taken under load are taken again "
            "while there is time, and marked"
        )

    def done(row: dict[str, Any]) -> None:
        write(document, out, pages=False)
        note(summary.line(row, document["copy_bytes_per_second"]))

    if cases and baseline is not None and earlier is None:
        document["comparison"] = _interleaved(baseline, cases, device, threads, note)

    def modelled(job: models.Job, row: dict[str, Any]) -> None:
        write(document, out, pages=False)
        note(f"{job.name}: {rows.verdict(row)}{_figures(row)}{outcomes.remark(row)}")

    def in_child(job: models.Job, limit: float) -> dict[str, Any]:
        return models.in_child(job, data, limit)

    try:
        if cases:
            seconds = chosen.seconds[device]
            oprun.run_cases(
                *(document, cases, chosen.cases, backends, seconds, chosen.ops_budget, done),
                compile_last=chosen.compile_last,
                forced=plans_of_ops,
            )
        models.run_jobs(document, jobs, in_child, chosen.models_budget, chosen.job_limit, modelled)
    except BaseException:
        # An interrupted run has its pages too.
        write(document, out)
        raise
    if earlier is not None:
        found = compare.as_rows(compare.stored(document, earlier))
        document["comparison"] = {
            "baseline": f"{baseline}, commit {earlier.get('commit')}",
            "interleaved": False,
            "rows": found,
            "left_out": [],
        }
    write(document, out)
    return document


def _interleaved(
    commit: str, cases: Sequence[Case], device: str, threads: int, note: Note
) -> dict[str, Any]:
    ours = Path(setting.__file__).resolve().parents[2]
    with interleave.tree_of(commit, note) as tree:
        names = [case.name for case in cases]
        found, left_out = interleave.compare_trees(ours, tree, names, device, threads, note)
    return {
        "baseline": f"commit {commit}",
        "interleaved": True,
        "rows": compare.as_rows(found),
        "left_out": left_out,
    }


def _figures(row: dict[str, Any]) -> str:
    if "fit_s" not in row:
        return ""
    return (
        f", fit {row['fit_s']:.1f} s, {row['latency_p50_ms']:.1f} ms, "
        f"image AUROC {row['image_auroc']:.3f}"
    )


def models_csv(document: dict[str, Any]) -> str:
    out = io.StringIO()
    setting_of = {key: document.get(key) for key in ("device", "threads", "commit", "command")}
    versions = {key: document["versions"].get(key) for key in ("torch", "fastalign", "anomalib")}
    columns = (*models.COLUMNS, *rows.LOAD, *setting_of, *versions)
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in document["models"]:
        cells = {**row, "gate": rows.verdict(row), **rows.load_cells(row)}
        writer.writerow({**cells, **setting_of, **versions})
    return out.getvalue()


def write(document: dict[str, Any], out: Path, pages: bool = True) -> None:
    """All files of a run; ``pages``, which are the report and the plots, at its end."""
    texts = {
        "bench.json": json.dumps(document, indent=1) + "\n",
        "ops.csv": rows.as_csv(document),
        "models.csv": models_csv(document),
    }
    if pages:
        texts["report.html"] = page.render(document)
    rows.write_texts(out, texts)
    if pages:
        plots.write(document, out)
