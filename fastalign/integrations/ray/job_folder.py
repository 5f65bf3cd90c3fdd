"""The output folder of a job: prepared for a new one, or found to be that of this very job."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fastalign
from fastalign.artifact import differing_settings
from fastalign.engine.inputs import Input
from fastalign.engine.scoring import Thresholds
from fastalign.errors import ConfigError, InputError
from fastalign.integrations.ray.job import JOB, PLAN, Job, Options, write_json
from fastalign.integrations.ray.parts import text_of
from fastalign.io import atomic_write

_VERSION = 3


def open_job(
    out: Path,
    source: str,
    inputs: list[Input],
    *,
    model_file: Path,
    model: str,
    options: Options,
    limits: Thresholds,
) -> Job:
    """Prepare the output folder for a new job, or find the one there to be this very job.

    Raises:
        ConfigError: the folder is in use: by a job of another model, with other options or other
            images, or by something else.
        InputError: it cannot be read or written.
    """
    rows = [(os.fsencode(item.path), text_of(item.name), os.fsencode(item.stem)) for item in inputs]
    settings = {
        "format": _VERSION,
        "fastalign": fastalign.__version__,
        "model": model,
        "options": asdict(options),
        "input": {"images": len(inputs), "sha256": _digest_rows(rows)},
    }
    identity = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    job = Job(out, model_file, model, identity, len(inputs), options, limits)
    if (out / JOB).exists():
        _refuse_other(out, settings)
        return job
    _refuse_foreign(out)
    _write_plan(out / PLAN, rows, options.part_size)
    # Last: a folder with a job is one whose plan is complete.
    write_json(out / JOB, {**settings, "source": text_of(source), "model_file": str(model_file)})
    return job


def _digest_rows(rows: list[tuple[bytes, str, bytes]]) -> str:
    state = hashlib.sha256()
    for file, name, stem in rows:
        for value in (file, name.encode(), stem):
            # A name holds no NUL byte, so no two lists give the same bytes.
            state.update(value + b"\0")
    return state.hexdigest()


def _refuse_other(out: Path, settings: dict[str, Any]) -> None:
    try:
        saved = json.loads((out / JOB).read_text(encoding="utf-8"))
        begun = {name: saved[name] for name in settings if name in saved}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{out / JOB}: cannot be read ({error}); give another output folder, or remove this "
            "one to begin anew."
        ) from error
    if not (differing := differing_settings(begun, json.loads(json.dumps(settings)))):
        return
    causes = []
    if begun.get("model") != settings["model"]:
        causes.append(f"of another model ({saved.get('model_file')} as it was then)")
    if begun.get("input") != settings["input"]:
        causes.append(
            f"of other images (from {saved.get('source')}; a folder may have gained or lost some)"
        )
    rest = [line for line in differing if not line.startswith(("model", "input"))]
    if rest:
        causes.append(f"with other settings: {'; '.join(rest)}")
    raise ConfigError(
        f"{out}: this folder holds scores {', and '.join(causes)}; to go on with them repeat the "
        "command of that run, else give another output folder or remove this one."
    )


def _refuse_foreign(out: Path) -> None:
    try:
        # A plan without a job is what a run leaves that was killed in its first moment.
        others = [
            entry.name
            for entry in (out.iterdir() if out.exists() else ())
            if not entry.name.startswith(".") and entry.name != PLAN
        ]
    except OSError as error:
        raise InputError(
            f"{out}: cannot be listed ({error.strerror}); give another output folder."
        ) from error
    if others:
        raise ConfigError(
            f"{out}: this folder holds other files ({', '.join(sorted(others)[:3])}) and no "
            f"{JOB}; give an output folder that is new or empty."
        )


def _write_plan(path: Path, rows: list[tuple[bytes, str, bytes]], part_size: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files, names, stems = zip(*rows, strict=True)
    table = pa.table(
        {
            "file": pa.array(files, pa.binary()),
            "path": pa.array(names, pa.string()),
            "stem": pa.array(stems, pa.binary()),
        }
    )
    with atomic_write(path) as file:
        pq.write_table(table, file, row_group_size=part_size)
