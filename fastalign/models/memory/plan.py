"""How to stay within a memory budget [O].

Three things can be made smaller without changing a result: the pieces in which the backbone sees an
image, the number of images at a time, and, while fitting, the rows of the map whose Gaussians are
summed up in one pass over the images. The rest is what it is: the libraries, the stored Gaussians,
one image with its features and maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fastalign.errors import ConfigError
from fastalign.models.memory.needs import Needs
from fastalign.models.memory.sizes import resident_bytes, resident_of
from fastalign.models.pieces import MB, PASS_BYTES
from fastalign.models.rooms import Rooms

_LEAST_PASS_BYTES = 16 * MB
# Images whose features enter the Gaussians at once: each time, all sums are read and written.
GROUP = 8
# What training keeps of its images, at most; more is worked out anew in each epoch.
_KEPT = 512 * MB
# Images that are read and described at once, at most.
_AT_ONCE = 16
# Pixels of the images that are read at once.
_PIXELS_AT_ONCE = 1 << 17
# What the first pass leaves behind in libraries: compiled kernels, thread stacks, heap.
_LIBRARIES = 90 * MB
# Share of what a fit frees and allocates all the time that the C library keeps.
_NOT_RETURNED = 0.05


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
        keep: whether training keeps what no epoch changes of the images.
    """

    parts: dict[str, int]
    budget: int | None
    images: int
    group: int
    pass_bytes: float
    bands: int = 1
    turn_bands: int = 1
    keep: bool = False

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def spare(self) -> int | None:
        """Bytes that the budget leaves; None: no limit was given."""
        return None if self.budget is None else max(0, self.budget - self.total)

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


def plan_scoring(rooms: Rooms, budget: int | None = None, images: int = 1) -> MemoryPlan:
    """How to score so many images at a time, and with how many of them at once.

    Args:
        rooms: of a fitted model, already in memory.
        budget: bytes that the process may take; None: no limit.
        images: images that come together, at most.

    Raises:
        ConfigError: it cannot be done within the budget.
    """
    needs = Needs(rooms)

    process = _process(rooms, resident_of(rooms.density.gaussians.whitener))

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
    rooms: Rooms,
    train: int,
    validation: int,
    turns: int,
    budget: int | None = None,
    held: int = 0,
) -> MemoryPlan:
    """How to fit.

    Args:
        rooms: of the model, not fitted yet.
        train: training images.
        validation: validation images whose distances are kept until all bands are fitted.
        turns: images that take turns for the thresholds, whose features are kept.
        budget: bytes that the process may take; None: no limit.
        held: bytes of images that are kept in memory.

    Raises:
        ConfigError: it cannot be done within the budget.
    """
    needs = Needs(rooms, train + validation)
    process = _process(rooms) + held
    training, kept = needs.training(train), needs.kept(train)
    keep = 0 < kept <= _KEPT
    if keep and budget is None:
        training += kept
    in_place = needs.in_place and (validation == 0 or turns > 0 or not rooms.config.refit)

    def phases(
        images: int, pass_bytes: float, group: int, bands: int, turn_bands: int
    ) -> list[dict[str, int]]:
        base = {"process": process, "read ahead": images * needs.read_ahead}
        one_pass = _one_pass(needs, images, pass_bytes)
        encoding = images * needs.encoding + one_pass
        work = {"images": max(encoding, images * needs.describing)}
        maps = {"distances": 4 * needs.locations * max(validation, turns)}
        # The whitener of a band, beside its sums unless it takes their place.
        own = 0 if in_place else needs.part(needs.whitener, bands)
        sums = {
            "Gaussians": needs.stored - needs.whitener + own + (needs.whitener if bands > 1 else 0),
            "sums": needs.part(needs.sums, bands),
            "features": group * needs.part(needs.described, bands),
        }
        turn = {
            "Gaussians": 0 if needs.in_place else needs.part(needs.stored, turn_bands),
            "sums": needs.part(needs.sums, turn_bands),
            "features": (turns + group) * needs.part(needs.described, turn_bands),
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
        plan = MemoryPlan(parts, budget, images, group, pass_bytes, bands, turn_bands)
        fits = budget is None or plan.total + kept <= budget
        return replace(plan, keep=keep and fits)

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
    if not needs.keeps(PASS_BYTES):
        return [(count, math.inf) for count in counts]
    ways = [(count, float(PASS_BYTES)) for count in counts]
    pass_bytes = PASS_BYTES // 2
    while pass_bytes >= _LEAST_PASS_BYTES and needs.keeps(pass_bytes):
        ways.append((1, float(pass_bytes)))
        pass_bytes //= 2
    return ways


def _one_pass(needs: Needs, images: int, pass_bytes: float) -> int:
    whole = images * needs.whole_pass
    # What cannot be cut into pieces still goes image by image.
    if not needs.pieces:
        return whole if math.isinf(pass_bytes) else needs.whole_pass
    return int(min(whole, pass_bytes))


def _process(rooms: Rooms, loaded: int = 0) -> int:
    """The process without the ``loaded`` bytes of its Gaussians, with what libraries will add."""
    if rooms.density.device.type != "cpu":
        return 6 * _LIBRARIES
    return max(resident_bytes() - loaded, _LIBRARIES) + _LIBRARIES


def _too_little(plan: MemoryPlan, what: str) -> ConfigError:
    assert plan.budget is not None
    largest = sorted(plan.parts, key=lambda name: -plan.parts[name])[:3]
    shares = ", ".join(f"{name} {plan.parts[name] / MB:.0f} MB" for name in largest)
    whole = ", or a purely convolutional backbone, since this one is not run in pieces"
    return ConfigError(
        f"memory budget {plan.budget / MB:.0f} MB: {what} needs at least {plan.total / MB:.0f} MB "
        f"({shares}); allow that much, or use a smaller image size, fewer channels or a smaller "
        "rank"
        f"{whole if math.isinf(plan.pass_bytes) else ''}."
    )
