"""What runs in each worker: the model, loaded once, scores one part after the other."""

from __future__ import annotations

import json
import pickle
import platform
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fastalign import artifact
from fastalign.data import Depth, parse_depth
from fastalign.engine.environment import open_device
from fastalign.engine.inputs import Input
from fastalign.engine.judging import Judging
from fastalign.engine.pictures import REGIONS, PictureWriter
from fastalign.engine.pipeline import Pipeline, Room
from fastalign.engine.reading import Photograph, Reader
from fastalign.engine.scoring import score_resized, stored_depth
from fastalign.engine.table import FILES
from fastalign.engine.table import Row as ImageRow
from fastalign.errors import ArtifactError
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
        self._job, self._threads = job, threads
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
        course = _Course(self._given_model(), job, part, images, self._depth)
        room = Room.of(options.batch_size, threads=self._threads)
        if attempts.begin():
            course.go_through(_slices(len(images), options.batch_size), room)
        else:
            for start, end in _batches(len(images), options.batch_size, attempts):
                if attempts.hopeless(start, end):
                    course.give_up(start)
                    continue
                attempts.note(start, end)
                course.go_through([range(start, end)], Room(1))
        rows = course.rows
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

    def _given_model(self) -> FYD:
        assert self._model is not None
        return self._model


@dataclass(frozen=True)
class _Timed:
    """A photograph that was read, which image of its part it is, and milliseconds so far."""

    number: int
    photograph: Photograph
    ms: float
    row: ImageRow | None = None
    scores: npt.NDArray[np.float32] | None = None


class _Course:
    """The images of one part on their way; their pictures lie in a folder of their own, so that no
    folder grows without bound.

    Attributes:
        rows: of the images so far.
    """

    def __init__(
        self, model: FYD, job: Job, part: int, images: list[Input], depth: Depth | None
    ) -> None:
        self._model, self._limits = model, job.limits
        self._first = part * job.options.part_size
        folder = Path(part_name(part))
        self._images = [replace(item, stem=folder / item.stem) for item in images]
        self._judging = Judging(model, job.limits, job.options.least_area)
        self._writer = PictureWriter(job.out, job.options.pictures, job.limits)
        size, depth = model.config.image_size, depth or stored_depth(model)
        self._reader = Reader(size, depth, self._writer)
        self.rows: list[Row] = []

    def go_through(self, batches: Iterable[range], room: Room) -> None:
        """Score images by their places in the part.

        Raises:
            InputError: the output cannot be written.
        """
        Pipeline(
            self._read, self._score, self._save, self.rows.append, room, weigh=self._weigh
        ).run(batches)

    def give_up(self, number: int) -> None:
        """A row without a score."""
        item = self._images[number]
        self.rows.append(Row(self._first + number, self._unread(item, _given_up(item)), 0.0))

    def _weigh(self, number: int) -> int:
        return self._reader.weigh(self._images[number])

    def _read(self, number: int) -> _Timed:
        began = time.perf_counter()
        item = self._images[number]
        try:
            photograph = self._reader.read(item)
        except Exception as error:
            # Whatever a decoder does with one file must not end the run over all others.
            reason = f"{item.path}: {type(error).__name__}: {error}"
            photograph = Photograph(item, None, None, reason)
        return _Timed(number, photograph, _ms(began))

    def _score(self, read: list[_Timed]) -> list[_Timed]:
        began = time.perf_counter()
        images = [one.photograph.resized for one in read if one.photograph.resized is not None]
        if not images:
            return read
        detail = score_resized(self._model, images)
        share = _ms(began) / len(images)
        found: list[_Timed] = []
        index = 0
        for one in read:
            began = time.perf_counter()
            image = one.photograph.image
            if image is None:
                found.append(one)
                continue
            row = self._judging.row(one.photograph.item.name, image, detail, index)
            scores = self._writer.scores(image, detail.map[index])
            ms = one.ms + share + _ms(began)
            found.append(replace(one, ms=ms, row=row, scores=scores))
            index += 1
        return found

    def _save(self, one: _Timed) -> Row:
        began = time.perf_counter()
        photograph, number = one.photograph, self._first + one.number
        item, image = photograph.item, photograph.image
        if image is None or one.row is None:
            return Row(number, self._unread(item, text_of(photograph.reason)), one.ms)
        files: dict[str, str] = {}
        self._writer.save(item, image, one.scores, files)
        shown: dict[str, str | None] = {
            name: text_of(files[name]) if name in files else None for name in FILES
        }
        # A column, where one is asked for.
        shown[REGIONS] = json.dumps([region.to_json() for region in one.row.regions])
        return Row(number, one.row, one.ms + _ms(began), shown)

    def _unread(self, item: Input, reason: str) -> ImageRow:
        return ImageRow(item.name, None, self._limits.image, Verdict.UNSURE, reason)


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


def _slices(images: int, size: int) -> Iterator[range]:
    for start in range(0, images, size):
        yield range(start, min(start + size, images))


def _batches(images: int, size: int, attempts: Attempts) -> Iterator[tuple[int, int]]:
    """Bounds of the batches; one at which workers keep dying is gone through one by one."""
    for batch in _slices(images, size):
        start, end = batch.start, batch.stop
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
