"""What runs in each worker: the model, loaded once, scores one part after the other."""

from __future__ import annotations

import json
import pickle
import platform
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fastalign import artifact
from fastalign.data import Depth, load_image, parse_depth
from fastalign.engine.environment import open_device
from fastalign.engine.inputs import Input
from fastalign.engine.judging import Judging
from fastalign.engine.pictures import REGIONS, PictureWriter
from fastalign.engine.scoring import score_images, stored_depth
from fastalign.engine.table import FILES
from fastalign.engine.table import Row as ImageRow
from fastalign.errors import ArtifactError, InputError
from fastalign.integrations.ray.attempts import DEATHS, Attempts
from fastalign.integrations.ray.job import Job, digest
from fastalign.integrations.ray.parts import (
    Counts,
    Row,
    part_name,
    part_path,
    read_counts,
    text_of,
    write_part,
)
from fastalign.load import keep_freed_memory
from fastalign.verdict import Verdict

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


class PartScorer:
    """Callable for ``ray.data.Dataset.map_batches``: numbers of parts in, what they hold out.

    A part that is finished already is not scored again: Ray repeats a call whose worker died, and
    it may have died after its last deed. What goes wrong with the run, rather than with an image,
    is handed back as a value, since Ray would wrap an exception in its own.

    Args:
        job: the job, whose folder and model this machine sees under the same paths.
        device: a torch device name.
        threads: CPU threads of torch.
    """

    def __init__(self, job: Job, device: str, threads: int) -> None:
        self._job = job
        self._depth = parse_depth(job.options.bit_depth)
        self._model: FYD | None = None
        self._failure: Exception | None = None
        try:
            torch.set_num_threads(threads)
            keep_freed_memory()
            self._model = _load(job, device)
        except Exception as error:
            # Whatever it is, it ends the run, from the first part on: see _outcome.
            self._failure = error

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, list[Any]]:
        rows = [self._outcome(int(part)) for part in batch["part"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _outcome(self, part: int) -> dict[str, Any]:
        counts, failure = Counts(0, 0, 0), (b"", "")
        try:
            if self._failure is not None:
                raise self._failure
            counts = self.score(part)
        except Exception as error:
            # Handed back as a value: Ray would wrap it in an error of its own.
            failure = (pickle.dumps(_sendable(error)), traceback.format_exc())
        return {"part": part, **asdict(counts), "failure": failure[0], "trace": failure[1]}

    def score(self, part: int) -> Counts:
        """Score a part and write it, unless it is there.

        Raises:
            InputError: the output cannot be written.
        """
        job, options = self._job, self._job.options
        content = job.content(part)
        done = read_counts(part_path(job.out, part), part, job.identity, content)
        if done is not None:
            return done
        images = job.part(part)
        attempts = Attempts(job.attempts_path(part))
        writer = _Pictures(job, part)
        rows: list[Row] = []
        attempts.begin()
        for start, end in _batches(len(images), options.batch_size, attempts):
            first = part * options.part_size + start
            if attempts.hopeless(start, end):
                given_up = self._unread(images[start], _given_up(images[start]))
                rows.append(Row(first, given_up, 0.0))
                continue
            attempts.note(start, end)
            rows += self._score_batch(first, images[start:end], writer)
        counts = write_part(
            job.out,
            part,
            rows,
            job=job.identity,
            model=job.model,
            images=content,
            outputs=options.outputs,
        )
        attempts.close()
        return counts

    def _score_batch(self, first: int, batch: list[Input], writer: _Pictures) -> list[Row]:
        assert self._model is not None
        rows: list[Row] = []
        loaded = []
        for offset, item in enumerate(batch):
            began = time.perf_counter()
            image, error = _read(item.path, self._depth or stored_depth(self._model))
            rows.append(Row(first + offset, self._unread(item, error), _ms(began)))
            if image is not None:
                loaded.append((offset, image))
        if not loaded:
            return rows
        began = time.perf_counter()
        detail = score_images(self._model, [image for _, image in loaded])
        share = _ms(began) / len(loaded)
        judging = Judging(self._model, self._job.limits, self._job.options.least_area)
        for index, (offset, image) in enumerate(loaded):
            began = time.perf_counter()
            item = batch[offset]
            row = judging.row(item.name, image, detail, index)
            files = writer.write(item, image, detail.map[index])
            # A column, where one is asked for.
            files[REGIONS] = json.dumps([region.to_json() for region in row.regions])
            spent = rows[offset].ms + share + _ms(began)
            rows[offset] = Row(first + offset, row, spent, files)
        return rows

    def _unread(self, item: Input, reason: str | None) -> ImageRow:
        limit = self._job.limits.image
        return ImageRow(item.name, None, limit, Verdict.UNSURE, reason or "")


class _Pictures:
    """The pictures of one part in a folder of their own, so that no folder grows without bound."""

    def __init__(self, job: Job, part: int) -> None:
        self._folder = part_name(part)
        self._writer = PictureWriter(job.out, job.options.pictures, job.limits)

    def write(
        self, item: Input, image: npt.NDArray[np.uint8], scored: torch.Tensor
    ) -> dict[str, str | None]:
        """Pictures of an image, as a row names them."""
        placed = replace(item, stem=Path(self._folder) / item.stem)
        files = self._writer.write(placed, image, scored)
        return {name: text_of(files[name]) if name in files else None for name in FILES}


def _load(job: Job, device: str) -> FYD:
    found = digest(job.model_file)
    if found != job.model:
        raise ArtifactError(
            f"{job.model_file}: on {platform.node()} this is another model than the one the "
            f"run began with (SHA-256 {found[:12]}... and {job.model[:12]}...); put that one back "
            "on every machine, or score with the new one into another folder."
        )
    return artifact.load(
        job.model_file,
        open_device(device),
        precision=job.options.precision,
        runtime=job.options.runtime,
    )


def _read(path: Path, depth: Depth | None) -> tuple[npt.NDArray[np.uint8] | None, str | None]:
    """The image, or why there is none."""
    try:
        return load_image(path, depth=depth), None
    except InputError as error:
        return None, text_of(str(error))
    except Exception as error:
        # Whatever a decoder does with one file must not end the run over all others.
        return None, text_of(f"{path}: {type(error).__name__}: {error}")


def _batches(images: int, size: int, attempts: Attempts) -> Iterator[tuple[int, int]]:
    """Bounds of the batches; one at which workers keep dying is gone through one by one."""
    for start in range(0, images, size):
        end = min(start + size, images)
        if end - start > 1 and attempts.hopeless(start, end):
            yield from ((index, index + 1) for index in range(start, end))
        else:
            yield start, end


def _given_up(item: Input) -> str:
    return text_of(
        f"{item.path}: {DEATHS} workers died at this image (its decoder crashed, or memory ran "
        "out); convert it or make it smaller."
    )


def _sendable(error: Exception) -> Exception:
    """The error itself where it survives the way to the driver, else its text."""
    try:
        return error if type(pickle.loads(pickle.dumps(error))) is type(error) else _plain(error)
    except Exception:
        # Pickling runs what the error's class has made of it, and raises what that raises.
        return _plain(error)


def _plain(error: Exception) -> Exception:
    return RuntimeError(f"{type(error).__name__}: {error}")


def _ms(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
