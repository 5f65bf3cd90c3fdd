"""One photograph after the other through a model that stays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastalign.data import Depth, load_image
from fastalign.data.tensors import resized
from fastalign.engine.judging import Judging
from fastalign.engine.results import finite
from fastalign.engine.scoring import Thresholds, score_resized, stored_depth
from fastalign.engine.table import Row
from fastalign.errors import InputError
from fastalign.models.detail import Detail
from fastalign.numeric import whole_number
from fastalign.verdict import Verdict

if TYPE_CHECKING:
    import torch

    from fastalign.models.fyd import FYD

Photograph = npt.NDArray[np.uint8]

# More together take hardly less for each, and wait for each other.
AT_ONCE = 4

# Of one photograph nobody knows these.
_LABELS = ("truth", "defect", "trained_on")
# What is judged keeps the names of odd photographs for the warnings of a run; a line has no end.
_KEPT = 256
# So many photographs one after the other that end in an unexpected error are the machine's.
MOST_FAULTS = 10


@dataclass(frozen=True)
class Judged:
    """What is said of one photograph.

    Attributes:
        row: as in every table.
        map: ``[H,W]`` at the model's size, on the CPU, in the frame of the photograph.
    """

    row: Row
    map: torch.Tensor


class LineScorer:
    """Judges photographs as ``fastalign predict`` does, by the same code.

    Three steps, so that the model's thread need do no other work: :meth:`prepare` and :meth:`say`
    are for any thread, :meth:`score` is for one. It takes several photographs at once, which on a
    CPU takes less for each and gives what each gives alone, to the bit.

    Args:
        model: a fitted model; the device it is on is used.
        limits: thresholds in force.
        least_area: pixels of a photograph below which a region is left out.
        depth: of 16-bit files that state none, in place of the model's.
        at_once: photographs that are scored together at most, on a CPU; elsewhere each alone.
        conditions: whether rows say how a photograph was taken, for what is told of drift.

    Attributes:
        at_once: photographs that :meth:`score` should be given at once, at most.
    """

    def __init__(
        self,
        model: FYD,
        limits: Thresholds,
        *,
        least_area: float = 0.0,
        depth: Depth | None = None,
        at_once: int = AT_ONCE,
        conditions: bool = False,
    ) -> None:
        self.limits = limits
        at_once = whole_number("at once", at_once, 1, 1000)
        self.at_once = at_once if model.image_threshold.device.type == "cpu" else 1
        self._model, self._least_area = model, least_area
        self._depth = depth or stored_depth(model)
        self._conditions = conditions
        self._judging = self._fresh()
        self._judged = 0

    def _fresh(self) -> Judging:
        return Judging(self._model, self.limits, self._least_area, conditions=self._conditions)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the model's images."""
        height, width = self._model.config.image_size
        return height, width

    def read(self, path: Path) -> Photograph:
        """A photograph ``[h,w,3]`` from its file.

        Raises:
            InputError: it cannot be read.
        """
        return load_image(path, depth=self._depth)

    def judge(self, name: str, image: Photograph) -> Judged:
        """The verdict on a photograph uint8 ``[h,w,3]``; whatever the model raises."""
        (detail,) = self.score([self.prepare(image)])
        if isinstance(detail, Exception):
            raise detail
        return self.say(name, image, detail)

    def prepare(self, image: Photograph) -> torch.Tensor:
        """A photograph uint8 ``[h,w,3]`` at the model's size, uint8 ``[3,H,W]``."""
        return resized(image, self._model.config.image_size)

    def score(self, prepared: Sequence[torch.Tensor]) -> list[Detail | Exception]:
        """What the model says of each that :meth:`prepare` gave, on the CPU, or the error that it
        ended in, which takes nothing from the others."""
        try:
            # Fetched here, so that one thread alone uses a device.
            found = [part.cpu() for part in score_resized(self._model, list(prepared))]
        except Exception as error:
            if len(prepared) == 1:
                return [error]
            return [one for alone in prepared for one in self.score([alone])]
        places = [slice(place, place + 1) for place in range(len(prepared))]
        return [Detail(*(part[place] for part in found)) for place in places]

    def say(self, name: str, image: Photograph, detail: Detail) -> Judged:
        """The verdict on a photograph uint8 ``[h,w,3]`` that the model has scored."""
        if self._judged % _KEPT == 0:
            self._judging = self._fresh()
        self._judged += 1
        return Judged(self._judging.row(name, image, detail, 0), detail.map[0])

    def unread(self, name: str, error: InputError | str) -> Row:
        """The row of a photograph that cannot be read."""
        return Row(name, None, self.limits.image, Verdict.UNSURE, str(error))


def reason_of(error: InputError) -> str:
    """Why a photograph cannot be read, without the option of the commands that read whole sets."""
    return str(error).replace(" (--skip-bad)", "")


def told(row: Row) -> dict[str, Any]:
    """A row with its regions and how the photograph was taken, JSON-able."""
    values = {name: value for name, value in row.values().items() if name not in _LABELS}
    height, width = row.size or (None, None)
    regions = [region.to_json() for region in row.regions]
    about = {"width": width, "height": height, "conditions": row.conditions, "regions": regions}
    return finite({**values, **about})
