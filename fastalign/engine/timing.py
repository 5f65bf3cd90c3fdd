"""How long a model takes for one image at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastalign.data import Depth, load_image, prepare
from fastalign.models.progress import Progress

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

_IMAGES = 50
_WARM_UP = 3


@dataclass
class Times:
    """Milliseconds of one image each: of the whole model, and of its alignment."""

    model: list[float] = field(default_factory=list)
    alignment: list[float] = field(default_factory=list)


def time_model(model: FYD, paths: Sequence[Path], depth: Depth | None, progress: Progress) -> Times:
    """Time the model alone on the first 50 of these photographs, while nothing else runs here.

    Args:
        model: fitted; the device it is on is used.
        paths: photographs that were read before.
        depth: of 16-bit files that state none.
        progress: told about the course.

    Raises:
        InputError: a photograph cannot be read any more.
    """
    times = Times()
    device = model.image_threshold.device
    chosen = paths[:_IMAGES]
    if not chosen:
        return times
    progress.start("timing", len(chosen))
    with torch.inference_mode():
        for number, path in enumerate(chosen):
            image = prepare(load_image(path, depth=depth), model.config.image_size)
            batch = image[None].to(device)
            for _ in range(0 if number else _WARM_UP):
                model(batch)
            times.model.append(_clock(model, batch))
            times.alignment.append(_clock(model.align, batch))
            progress.advance()
    return times


def _clock(work: Callable[[torch.Tensor], object], batch: torch.Tensor) -> float:
    _wait(batch.device)
    start = time.perf_counter()
    work(batch)
    _wait(batch.device)
    return 1000 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
