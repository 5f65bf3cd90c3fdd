"""From the bytes of a photograph's file to what is answered."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import numpy as np
import numpy.typing as npt
from starlette.exceptions import HTTPException

from fastalign.data.tensors import to_float
from fastalign.drift.statement import Statement
from fastalign.errors import FastalignError, InputError
from fastalign.line.drift import LineDrift
from fastalign.line.journal import Journal, key_of, now
from fastalign.line.scorer import LineScorer, Photograph, told
from fastalign.line.serve.metrics import Metrics
from fastalign.line.serve.recent import Recent, Shown
from fastalign.line.serve.settings import Settings
from fastalign.line.serve.updating import ModelUpdater
from fastalign.line.serve.worker import Busy, ServedModel, Worker, decode_bytes

if TYPE_CHECKING:
    import torch

    from fastalign.drift.monitor import DriftMonitor
    from fastalign.models.fyd import FYD

FEEDBACK, UPDATE = "feedback", "update"


class Service:
    """Judges photographs for the application.

    Args:
        scorer: the model's.
        settings: limits.
        about: what the page and ``/health`` say of the model: name, version.
        read: reads a photograph's file.
        journal: has a line for each verdict before it is told; None: nothing is kept.
        drifting: watches for drift, with what the journal says of it taken in.
        judging_by: makes what judges by a model, and what watches for drift by it.
        serving: has a model score.
        updating: takes photographs into the model; None: it stays as it is.
    """

    def __init__(
        self,
        scorer: LineScorer,
        settings: Settings,
        about: dict[str, Any],
        read: Callable[[Path], Photograph],
        journal: Journal | None,
        drifting: LineDrift,
        judging_by: Callable[[FYD], tuple[LineScorer, DriftMonitor | None]],
        serving: Callable[[LineScorer], ServedModel],
        updating: ModelUpdater | None = None,
    ) -> None:
        self._judging_by, self._serving, self._updating = judging_by, serving, updating
        self._one_update = threading.Lock()
        about = {**about, "updates": updating is not None}
        self.settings, self.about, self.limits = settings, about, scorer.limits
        self._scorer, self._read, self._journal = scorer, read, journal
        self.worker = Worker(serving(scorer), settings.most_waiting)
        self.recent = Recent(
            settings.kept,
            scorer.limits.pixel,
            lambda data: decode_bytes(data, "photograph", read),
            keeps_images=updating is not None,
        )
        self.metrics = Metrics(about["version"], about["model"], lambda: self.worker.waiting)
        self._drifting = drifting
        # Photographs drift in the order of their lines.
        self._in_order = threading.Lock()
        self.metrics.drift(drifting.standing())
        self._under_way = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place among those whose photographs are taken in and judged at once."""
        if self._under_way >= self.settings.most_waiting:
            raise _busy()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def score(self, data: bytes, name: str, key: str | None, with_map: bool) -> Any:
        """The verdict on a photograph's file, as it is answered."""
        began = time.monotonic()
        try:
            return await asyncio.wait_for(
                self._score(data, name, key, with_map, began), self.settings.seconds
            )
        except asyncio.TimeoutError:
            raise HTTPException(504, "there was no verdict in time; try again later") from None

    async def _score(
        self, data: bytes, name: str, key: str | None, with_map: bool, began: float
    ) -> Any:
        def read() -> tuple[Photograph, torch.Tensor]:
            image = decode_bytes(data, name, self._read)
            return image, self._scorer.prepare(image)

        try:
            image, prepared = await anyio.to_thread.run_sync(read)
        except InputError as error:
            raise HTTPException(422, str(error)) from None
        try:
            scored = await asyncio.wrap_future(self.worker.score(prepared))
        except Busy:
            raise _busy() from None

        def keep() -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
            try:
                judged = scored.scorer.say(name, image, scored.detail)
            except Exception:
                self.worker.ended(well=False)
                raise
            self.worker.ended(well=True)
            row, scores = judged.row, judged.map.float().numpy()
            seconds = time.monotonic() - began
            line = {"id": uuid.uuid4().hex, "time": now(), **told(row), "bytes": len(data)}
            repeated = False
            with self._in_order:
                if self._journal is not None:
                    known = key_of(f"key\0{key}") if key else key_of(line["id"])
                    about = {**line, "key": known, "notify": False}
                    repeated = self._journal.add_photograph(about) is None
                if not repeated:
                    self._tell(self._drifting.add(line))
            line["repeated"] = repeated
            if not repeated:
                self.recent.add(line, data, image, prepared, scores)
                self.metrics.judged(line["verdict"], seconds)
            return line, scores

        # To its end, once the journal may have the line, whoever still waits.
        line, scores = await asyncio.shield(anyio.to_thread.run_sync(keep))
        if with_map:
            values = base64.b64encode(np.ascontiguousarray(scores, "<f4").tobytes())
            shape = list(scores.shape)
            line = {**line, "map": {"shape": shape, "dtype": "<f4", "base64": values.decode()}}
        return line

    def _tell(self, statements: list[Statement]) -> None:
        if self._drifting.tell(statements, self._journal):
            self.metrics.drift(self._drifting.standing())

    def standing(self) -> list[dict[str, Any]]:
        """The drifts that stand."""
        return self._drifting.standing()

    def drift(self) -> dict[str, Any]:
        """What stands of drift, what was said of it, and by what it is told."""
        with self._in_order:
            return self._drifting.summary()

    def feedback(self, name: str, truth: str | None) -> Shown | None:
        """Keep what somebody says of a photograph; None where it is not there any more."""
        shown = self.recent.judge(name, truth)
        if shown is not None and self._journal is not None:
            about = {key: shown.line[key] for key in ("id", "path", "verdict", "score")}
            self._journal.add(FEEDBACK, {**about, "truth": truth})
        return shown

    def update(self) -> dict[str, Any]:
        """Take what somebody says is good, and was called an anomaly, into the model; verdicts go
        on meanwhile, and are those of the new one then."""
        if self._updating is None:
            raise HTTPException(409, "this server's model stays as it is (--no-update)")
        if not self._one_update.acquire(blocking=False):
            raise HTTPException(409, "the model is being updated; wait for its end")
        try:
            return self._update(self._updating)
        finally:
            self._one_update.release()

    def _update(self, updating: ModelUpdater) -> dict[str, Any]:
        alarms = self.recent.false_alarms()
        if not alarms:
            raise HTTPException(
                409, "no photograph that was called an anomaly is marked as good; mark some first"
            )
        images = [to_float(shown.image) for shown in alarms if shown.image is not None]
        names = [f"{shown.line['path']} ({shown.line['id'][:8]})" for shown in alarms]
        try:
            found = updating(images, names)
        except FastalignError as error:
            raise HTTPException(409, str(error)) from None
        scorer, monitor = self._judging_by(found.model)
        serving = self._serving(scorer)
        self._scorer, self.limits = scorer, scorer.limits
        self.recent.colour_by(scorer.limits.pixel)
        self.worker.go_on_with(serving)
        self.recent.take(alarms)
        backup = None if found.backup is None else found.backup.name
        told = {**found.update.to_json(), "model_before": backup}
        with self._in_order:
            self._drifting.go_on_with(monitor)
            if self._journal is not None:
                self._journal.add(UPDATE, {**told, **self._drifting.begin()})
        self.metrics.drift(self._drifting.standing())
        return told


def _busy() -> HTTPException:
    return HTTPException(503, "too many photographs wait; try again", {"Retry-After": "1"})
