"""The last photographs, small, for the page."""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from fastalign.line.scorer import Photograph
from fastalign.report.gallery import fit_inside
from fastalign.report.heat import heat_rgba, scale_limits

_SIDE, _HEAT_SIDE = 640, 256
# Bytes of a file that takes no more memory than its picture would.
_SMALL_FILE = 100_000


@dataclass
class Shown:
    """One photograph of the page.

    Attributes:
        number: from 1, in the order of verdicts.
        line: what was said of it.
        photo: a JPEG of it, or its file as it came.
        is_file: whether that is its file.
        map: float32 ``[H,W]``.
        image: uint8 ``[3,h,w]`` as the model saw it, of an anomaly where models can be updated.
        truth: what somebody has said it is, ``"good"`` or ``"anomaly"``; None: nothing.
        taken: the model has taken it in since.
    """

    number: int
    line: dict[str, Any]
    photo: bytes
    is_file: bool
    map: npt.NDArray[np.float32]
    image: Tensor | None = None
    truth: str | None = None
    taken: bool = False

    @property
    def is_false_alarm(self) -> bool:
        """Whether somebody says that it is good, what the model knows nothing of so far."""
        return self.image is not None and self.truth == "good" and not self.taken

    def summary(self) -> dict[str, Any]:
        """What the page needs of it."""
        names = ("id", "path", "time", "score", "relative", "verdict", "reason", "width", "height")
        about = {name: self.line[name] for name in names}
        regions = len(self.line["regions"])
        said = {"truth": self.truth, "taken": self.taken, "false_alarm": self.is_false_alarm}
        return {"number": self.number, **about, "regions": regions, **said}


class Recent:
    """The last so many photographs; safe for several threads.

    Args:
        most: how many.
        pixel_threshold: for the colours.
        read: reads a photograph from its file's bytes.
        keeps_images: whether the model can be updated, and takes anomalies as it saw them.
    """

    def __init__(
        self,
        most: int,
        pixel_threshold: float | None,
        read: Callable[[bytes], Photograph],
        *,
        keeps_images: bool = False,
    ) -> None:
        self._most, self._read, self._keeps_images = most, read, keeps_images
        self.colour_by(pixel_threshold)
        self._shown: OrderedDict[str, Shown] = OrderedDict()
        self._lock = threading.Lock()
        self._changes = self._number = 0

    def add(
        self,
        line: dict[str, Any],
        data: bytes,
        image: Photograph,
        prepared: Tensor,
        scores: npt.NDArray[np.float32],
    ) -> None:
        """Take a photograph in, and let the oldest go.

        Args:
            line: what was said of it.
            data: its file.
            image: uint8 ``[h,w,3]``.
            prepared: uint8 ``[3,H,W]`` as the model saw it.
            scores: its map, float32 ``[H,W]``.
        """
        is_file = len(data) <= _SMALL_FILE
        photo = data if is_file else _photo(image)
        kept = prepared if self._keeps_images and line["verdict"] == "anomaly" else None
        with self._lock:
            self._number += 1
            self._changes += 1
            self._shown[line["id"]] = Shown(self._number, line, photo, is_file, scores, kept)
            while len(self._shown) > self._most:
                self._shown.popitem(last=False)

    def colour_by(self, pixel_threshold: float | None) -> None:
        """Colours are those of this threshold from here on."""
        self._threshold = math.nan if pixel_threshold is None else pixel_threshold

    def false_alarms(self) -> list[Shown]:
        """Those that somebody says are good, and the model called anomalies, the oldest first."""
        with self._lock:
            return [item for item in self._shown.values() if item.is_false_alarm]

    def take(self, shown: Sequence[Shown]) -> None:
        """The model has taken these in."""
        with self._lock:
            self._changes += 1
            for item in shown:
                item.taken = True

    def photo(self, shown: Shown) -> bytes:
        """A photograph as a JPEG. Of a small file it is made when it is first asked for, which is
        seldom where photographs come quickly."""
        if shown.is_file:
            shown.photo, shown.is_file = _photo(self._read(shown.photo)), False
        return shown.photo

    def heat(self, shown: Shown) -> bytes:
        """A photograph's map in colour, a PNG with transparent places, made when asked for."""
        low, high = scale_limits(self._threshold, shown.map)
        picture = Image.fromarray(heat_rgba(shown.map, low, high))
        picture.thumbnail((_HEAT_SIDE, _HEAT_SIDE), Image.Resampling.BOX)
        return _encoded(picture, "PNG")

    def get(self, name: str) -> Shown | None:
        """By its id; None for one that is not there any more."""
        with self._lock:
            return self._shown.get(name)

    def judge(self, name: str, truth: str | None) -> Shown | None:
        """Keep what somebody says of a photograph."""
        with self._lock:
            shown = self._shown.get(name)
            if shown is not None:
                shown.truth = truth
                self._changes += 1
            return shown

    def summary(self) -> dict[str, Any]:
        """All of them, the newest first, and a number that changes with them."""
        with self._lock:
            shown = [item.summary() for item in reversed(self._shown.values())]
            return {"changes": self._changes, "judged": self._number, "photographs": shown}

    @property
    def changes(self) -> int:
        """A number that changes with what :meth:`summary` says."""
        return self._changes


def _photo(image: Photograph) -> bytes:
    width, height = fit_inside(image.shape[1], image.shape[0], _SIDE)
    photo = Image.fromarray(image).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
    return _encoded(photo, "JPEG", quality=80)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
