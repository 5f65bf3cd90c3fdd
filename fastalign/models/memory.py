"""What a fit or a score needs in memory, and how to stay within a budget [O].

Three things can be made smaller without changing a result: the pieces in which the backbone sees an
image, the number of images at a time, and, while fitting, the rows of the map whose Gaussians are
summed up in one pass over the images. The rest is what it is: the libraries, the stored Gaussians,
one image with its features and maps.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fastalign.errors import ConfigError
from fastalign.nn.moments import runs_native

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

MB = 1_000_000
# One pass through a stage of the backbone on a CPU: what last-level caches hold.
PASS_BYTES = 32 * MB
_LEAST_PASS_BYTES = 16 * MB
# Features of one image that are made at once for a score.
_FEATURE_BYTES = 32 * MB
# Images whose features enter the Gaussians at once: each time, all sums are read and written.
GROUP = 8
# Images that are read and described at once, at most.
_AT_ONCE = 16
# Pixels of the images that are read at once.
_PIXELS_AT_ONCE = 1 << 17
# What the first pass leaves behind in libraries: compiled kernels, thread stacks, heap.
_LIBRARIES = 90 * MB
# Share of what a fit frees and allocates all the time that the C library keeps.
_NOT_RETURNED = 0.05
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_bytes(text: str) -> int:
    """``"4GB"``, ``"900 MB"`` or ``"2GiB"`` in bytes.

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if found is None or (found[3] and not found[2]) or float(found[1]) == 0:
        raise ConfigError(f"memory budget {text!r}: give a size such as 4GB or 900MB.")
    unit = 2 ** (10 * "kmgt".index(found[2]) + 10) if found[3] else _UNITS[found[2]]
    return int(float(found[1]) * unit)


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError):
        return 0


@dataclass(frozen=True)
class MemoryPlan:
    """How to run, and the memory that this is expected to take.

    Attributes:
        parts: bytes at the peak, by what they are for.
        budget: bytes allowed; None: no limit was given.
        images: images per pass.
        group: images whose features enter the Gaussians at once.
        pass_bytes: of one pass through a stage of the backbone.
        bands: bands of rows in which the Gaussians are fitted, each with a pass over the images.
        turn_bands: the same for thresholds from images that take turns.
    """

    parts: dict[str, int]
    budget: int | None
    images: int
    group: int
    pass_bytes: float
    bands: int = 1
    turn_bands: int = 1

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """One line for people."""
        shares = ", ".join(f"{name} {size / MB:.0f}" for name, size in self.parts.items() if size)
        limit = "" if self.budget is None else f" of {self.budget / MB:.0f} MB allowed"
        ways = [f"{self.images} images at a time" if self.images > 1 else "one image at a time"]
        if self.bands > 1:
            ways.append(
                f"Gaussians in {self.bands} bands of rows, with a pass over the images each"
            )
        if not math.isinf(self.pass_bytes):
            ways.append(f"backbone in pieces of {self.pass_bytes / MB:.0f} MB")
        return f"memory: about {self.total / MB:.0f} MB{limit} ({shares}); {'; '.join(ways)}"


def release_unused() -> None:
    """Give memory that was freed back to the system, where the C library can: after a phase of many
    small tensors it may hold on to most of them."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def feature_bands(model: FYD) -> int:
    """Bands of rows in which an image is described and scored, so that its features take little."""
    if torch.compiler.is_compiling():
        return 1
    rows, columns = model.feature_size
    return min(rows, math.ceil(4 * rows * columns * model.density.channels / _FEATURE_BYTES))


def stage_bytes(model: FYD, height: int, width: int) -> int:
    """Feature maps of one image of this size."""
    return sum(
        4 * channels * math.ceil(height / stride) * math.ceil(width / stride)
        for channels, stride in zip(model.backbone.channels, model.backbone.reductions, strict=True)
    )


def split_rows(rows: int, bands: int) -> list[slice]:
    """``range(rows)`` in so many bands of nearly equal size."""
    cuts = [round(band * rows / bands) for band in range(bands + 1)]
    return [slice(start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]


class Needs:
    """Sizes of what a model works with, in bytes."""

    def __init__(self, model: FYD) -> None:
        config = model.config
        height, width = config.image_size
        rows, columns = model.feature_size
        channels = model.density.channels
        triangle = channels * (channels + 1) // 2
        item = 4 if config.storage == "float32" else 2
        self._model = model
        self.on_gpu = model.selection.device.type != "cpu"
        self.pieces = model.backbone.splittable
        self.in_place = item == 4 and runs_native("whiten_", torch.empty(0))
        self.rows = rows
        self.pixels = height * width
        self.locations = rows * columns
        # Mean, whitener, count, calibration, support.
        self.whitener = self.locations * triangle * item
        self.stored = self.whitener + self.locations * (4 * channels + 8 + 4 + 1)
        # Sums of outer products, mean and count while fitting.
        self.sums = self.locations * (4 * triangle + 8 * channels + 8)
        self.features = 4 * self.locations * channels
        stages = stage_bytes(model, height, width)
        # An image as it was read, as numbers, and warped where it is.
        pictures = 3 * self.pixels * (1 + 4 + (0 if config.align == "none" else 4))
        # Two batches are read ahead, and a third is put together.
        self.read_ahead = 3 * 4 * 3 * self.pixels
        # On its way through the backbone: reordered, and its stages, twice where FCA warps them.
        self.encoding = pictures + 4 * 3 * self.pixels + stages * (2 if config.uses("fca") else 1)
        # Described: the selected channels by stage and together.
        self.describing = pictures + stages + 2 * self.features
        # Scored: described in bands, then distances and evidence, upsampled, and smoothed along one
        # axis and both.
        bands = feature_bands(model)
        maps = 4 * self.pixels * (4 if config.align == "none" else 7) + 4 * 4 * self.locations
        self.maps = pictures + maps
        self.scoring = max(pictures + stages + 2 * self.features // bands, self.maps)
        self.whole_pass = model.backbone.image_bytes(height, width) - stages
        self.search = self._searching() if config.uses("ica") and config.teacher else 0

    def _searching(self) -> int:
        """Descriptors, spectra and edges of the images on which poses are searched."""
        height, width = self._model.search_size
        return self._model.config.search_images * height * width * 4 * 32

    def training(self, images: int) -> int:
        """One step of a fit on so many images: maps of all stages in heads, with what their
        gradients need."""
        model, config = self._model, self._model.config
        if not (config.uses("fca") or config.uses("fa")) or config.epochs == 0:
            return 0
        height, width = model.training_size
        stages = stage_bytes(model, height, width)
        heads = 14 * stages
        network = 0
        if config.uses("fca"):
            # Stages behind the first warp keep their maps for the gradient.
            whole = model.backbone.image_bytes(height, width)
            network = int(1.2 * whole) + 6 * stages
        batches = max(1, math.ceil(images / config.batch_size))
        pictures = 2 * 4 * 3 * height * width
        return math.ceil(images / batches) * (heads + network + pictures) + PASS_BYTES


def plan_scoring(model: FYD, budget: int | None = None, images: int = 1) -> MemoryPlan:
    """How to score so many images at a time, and with how many of them at once.

    Args:
        model: a fitted model, already in memory.
        budget: bytes that the process may take; None: no limit.
        images: images that come together, at most.

    Raises:
        ConfigError: it cannot be done within the budget.
    """
    needs = Needs(model)

    process = _process(model, resident_of(model.density.whitener))

    def parts(images: int, pass_bytes: float) -> dict[str, int]:
        one_pass = _one_pass(needs, images, pass_bytes)
        work = max(images * needs.encoding + one_pass, images * needs.scoring)
        return {"process": process, "Gaussians": needs.stored, "images and maps": work}

    for at_once, pass_bytes in _ways(needs, images, budget):
        plan = MemoryPlan(parts(at_once, pass_bytes), budget, at_once, GROUP, pass_bytes)
        if budget is None or plan.total <= budget:
            return plan
    raise _too_little(plan, "scoring")


def plan_fitting(
    model: FYD,
    train: int,
    validation: int,
    turns: int,
    budget: int | None = None,
    held: int = 0,
) -> MemoryPlan:
    """How to fit.

    Args:
        model: the model, not fitted yet.
        train: training images.
        validation: validation images whose distances are kept until all bands are fitted.
        turns: images that take turns for the thresholds, whose features are kept.
        budget: bytes that the process may take; None: no limit.
        held: bytes of images that are kept in memory.

    Raises:
        ConfigError: it cannot be done within the budget.
    """
    needs = Needs(model)
    process = _process(model) + held
    training = needs.training(train)
    in_place = needs.in_place and (validation == 0 or turns > 0 or not model.config.refit)

    def phases(
        images: int, pass_bytes: float, group: int, bands: int, turn_bands: int
    ) -> list[dict[str, int]]:
        base = {"process": process, "read ahead": images * needs.read_ahead}
        one_pass = _one_pass(needs, images, pass_bytes)
        encoding = images * needs.encoding + one_pass
        work = {"images": max(encoding, images * needs.describing)}
        maps = {"distances": 4 * needs.locations * max(validation, turns)}
        # The whitener of a band, beside its sums unless it takes their place.
        own = 0 if in_place else needs.whitener // bands
        sums = {
            "Gaussians": needs.stored - needs.whitener + own + (needs.whitener if bands > 1 else 0),
            "sums": needs.sums // bands,
            "features": group * needs.features // bands,
        }
        turn = {
            "Gaussians": 0 if needs.in_place else needs.stored // turn_bands,
            "sums": needs.sums // turn_bands,
            "features": (turns + group) * needs.features // turn_bands,
        }
        found = [base | sums | work | maps]
        if validation or turns:
            found.append(base | maps | {"Gaussians": needs.stored, "maps": needs.maps})
        if turns:
            found.append(base | turn | work | maps)
        if needs.search:
            found.append(base | {"search for poses": needs.search, "images": encoding})
        if training:
            found.append(base | {"training": training})
        return found

    def plan_of(
        images: int, pass_bytes: float, group: int, bands: int, turn_bands: int
    ) -> MemoryPlan:
        every = phases(images, pass_bytes, group, bands, turn_bands)
        parts = max(every, key=lambda parts: sum(parts.values()))
        parts["freed, not returned"] = int(_NOT_RETURNED * sum(parts.values()))
        return MemoryPlan(parts, budget, images, group, pass_bytes, bands, turn_bands)

    images = max(1, min(_AT_ONCE, _PIXELS_AT_ONCE // needs.pixels))
    plan = None
    for turn_bands, bands in _bands(needs.rows, bool(turns)):
        for at_once, pass_bytes in _ways(needs, images, budget):
            for group in (GROUP, GROUP // 4) if budget is not None else (GROUP,):
                plan = plan_of(at_once, pass_bytes, max(group, at_once), bands, turn_bands)
                if budget is None or plan.total <= budget:
                    return plan
    assert plan is not None
    raise _too_little(plan, "fitting")


def _bands(rows: int, turns: bool) -> list[tuple[int, int]]:
    """Numbers of bands for images in turn and for all images, fewest first."""
    steps = [count for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if count <= rows]
    pairs = [(a, b) for a in steps for b in steps if turns or a == 1]
    return sorted(pairs, key=lambda pair: (pair[0] + pair[1], pair))


def _ways(needs: Needs, images: int, budget: int | None) -> list[tuple[int, float]]:
    """Images at once and bytes of a pass, the quickest first."""
    if needs.on_gpu and budget is None:
        return [(images, math.inf)]
    if budget is None:
        return [(images, float(PASS_BYTES))]
    counts = [images]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    ways = [(count, float(PASS_BYTES)) for count in counts]
    pass_bytes = PASS_BYTES // 2
    while pass_bytes >= _LEAST_PASS_BYTES:
        ways.append((1, float(pass_bytes)))
        pass_bytes //= 2
    return ways


def _one_pass(needs: Needs, images: int, pass_bytes: float) -> int:
    whole = images * needs.whole_pass
    # What cannot be cut into pieces still goes image by image.
    if not needs.pieces:
        return whole if math.isinf(pass_bytes) else needs.whole_pass
    return int(min(whole, pass_bytes))


def resident_of(tensor: torch.Tensor | None) -> int:
    """How much of a tensor's memory is resident: a file that was mapped is read page by page."""
    if tensor is None:
        return 0
    whole = tensor.numel() * tensor.element_size()
    try:
        with open("/proc/self/smaps") as file:
            inside = False
            for line in file:
                name, _, value = line.partition(" ")
                if "-" in name:
                    start, end = (int(bound, 16) for bound in name.split("-"))
                    inside = start <= tensor.data_ptr() < end
                elif inside and name == "Rss:":
                    return min(whole, 1024 * int(value.split()[0]))
    except (OSError, ValueError):
        pass
    return whole


def _process(model: FYD, loaded: int = 0) -> int:
    """The process without the ``loaded`` bytes of its Gaussians, with what libraries will add."""
    if model.selection.device.type != "cpu":
        return 6 * _LIBRARIES
    return max(resident_bytes() - loaded, _LIBRARIES) + _LIBRARIES


def _too_little(plan: MemoryPlan, what: str) -> ConfigError:
    assert plan.budget is not None
    largest = sorted(plan.parts, key=lambda name: -plan.parts[name])[:3]
    shares = ", ".join(f"{name} {plan.parts[name] / MB:.0f} MB" for name in largest)
    return ConfigError(
        f"memory budget {plan.budget / MB:.0f} MB: {what} needs at least {plan.total / MB:.0f} MB "
        f"({shares}); allow that much, or use a smaller image size, fewer channels or "
        "storage=bfloat16, which halves the Gaussians."
    )
