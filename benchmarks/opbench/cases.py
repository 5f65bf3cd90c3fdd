"""The cases: an op's work on one shape, its baselines, and what is required of it on the CPU.

One list for every device; the required ratios were set for two CPU threads. The most telling cases
come first, so that a run that is cut short has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign import ops
from opbench import baselines

Results = tuple[Tensor, ...]
Work = Callable[..., Results]

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
_FORMATS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Case:
    """One row of the tables."""

    op: str
    work: str
    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    layout: str = CONTIGUOUS
    storage: torch.dtype = torch.float32  # of mahalanobis' whitener
    small: bool = False  # shows the overhead of a call

    @property
    def name(self) -> str:
        words = [self.op, self.work, "x".join(map(str, self.shape)), short(self.dtype)]
        if self.layout != CONTIGUOUS:
            words.append(self.layout)
        if self.storage != torch.float32:
            words.append(f"{short(self.storage)} factors")
        return ", ".join(words)

    def _random(self, generator: torch.Generator, device: str) -> Tensor:
        x = torch.randn(self.shape, generator=generator).to(self.dtype).to(device)
        return x.contiguous(memory_format=_FORMATS[self.layout])

    def inputs(self, device: str, seed: int = 0) -> Results:
        return _KINDS[self.op, self.work].inputs(self, device, seed)

    def ours(self, backend: str | None) -> Work:
        run = _KINDS[self.op, self.work].run
        return lambda *inputs: run(backend, *inputs)

    def baselines(self) -> dict[str, Work]:
        """Fresh callables, so that nothing compiled for another shape is taken again."""
        found = _KINDS[self.op, self.work].baselines()
        if self.dtype != torch.float32 or self.layout != CONTIGUOUS:
            found.pop("loop", None)  # takes longer than all others and says the same again
        return found

    def bytes(self) -> int:
        """What the op has to move: each input read and each output written once."""
        return _KINDS[self.op, self.work].bytes(self)


@dataclass(frozen=True)
class _Kind:
    inputs: Callable[[Case, str, int], Results]
    run: Callable[..., Results]
    baselines: Callable[[], dict[str, Work]]
    bytes: Callable[[Case], int]


def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _map_bytes(case: Case) -> int:
    return math.prod(case.shape) * case.dtype.itemsize


# dense_similarity ----------------------------------------------------------------------------


def _similarity_inputs(case: Case, device: str, seed: int) -> Results:
    generator = _generator(seed)
    p, z = (case._random(generator, device) for _ in range(2))
    return p.requires_grad_(), z


def _similarity(backend: str | None, p: Tensor, z: Tensor) -> Results:
    loss = ops.dense_similarity_loss(p, z, backend=backend)
    return loss.detach(), *torch.autograd.grad(loss, p)


def _similarity_baselines() -> dict[str, Work]:
    def with_gradient(function: Callable) -> Work:
        def work(p: Tensor, z: Tensor) -> Results:
            loss = function(p, z)
            return loss.detach(), *torch.autograd.grad(loss, p)

        return work

    buffers: list[Tensor] = []

    def memcpy(p: Tensor, z: Tensor) -> Results:
        """Half of 3 N read and half written: two reads and a write of N, as the op needs."""
        if not buffers:
            count = p.numel() * 3 // 2
            buffers.extend(torch.ones(count, dtype=p.dtype, device=p.device) for _ in range(2))
        buffers[0].copy_(buffers[1])
        return ()

    return {
        "compiled": with_gradient(_compiled(baselines.closed_form_loss)),
        "eager": with_gradient(baselines.closed_form_loss),
        "loop": with_gradient(baselines.pair_loop_loss),
        "memcpy": memcpy,
    }


# warp_affine ---------------------------------------------------------------------------------

DEGREES = 17


def _warp_inputs(case: Case, device: str, seed: int) -> Results:
    generator = _generator(seed)
    x = case._random(generator, device)
    angle = math.radians(DEGREES)
    rows = [[math.cos(angle), -math.sin(angle), 0.013], [math.sin(angle), math.cos(angle), -0.017]]
    theta = torch.tensor([rows] * case.shape[0], device=device)
    if case.work == "forward":
        return x, theta
    return x.requires_grad_(), theta.requires_grad_(), case._random(generator, device)


def _warp_forward(backend: str | None, x: Tensor, theta: Tensor) -> Results:
    return (ops.warp_affine(x, theta, backend=backend),)


def _with_warp_gradients(function: Callable) -> Work:
    def work(x: Tensor, theta: Tensor, upstream: Tensor) -> Results:
        out = function(x, theta)
        return out.detach(), *torch.autograd.grad(out, (x, theta), upstream)

    return work


def _warp_both(backend: str | None, *inputs: Tensor) -> Results:
    return _with_warp_gradients(lambda x, theta: ops.warp_affine(x, theta, backend=backend))(
        *inputs
    )


def _warp_forward_baselines() -> dict[str, Work]:
    compiled = _compiled(baselines.grid_warp)
    return {
        "compiled": lambda x, theta: (compiled(x, theta),),
        "eager": lambda x, theta: (baselines.grid_warp(x, theta),),
    }


def _warp_both_baselines() -> dict[str, Work]:
    return {
        "compiled": _with_warp_gradients(_compiled(baselines.grid_warp)),
        "eager": _with_warp_gradients(baselines.grid_warp),
    }


# pairwise_distance ---------------------------------------------------------------------------


def _distance_inputs(case: Case, device: str, seed: int) -> Results:
    return (case._random(_generator(seed), device).requires_grad_(),)


def _distance(backend: str | None, h: Tensor) -> Results:
    loss = ops.pairwise_distance_loss(h, backend=backend)
    return loss.detach(), *torch.autograd.grad(loss, h)


def _distance_baselines() -> dict[str, Work]:
    compiled = _compiled(baselines.distances_to_all)

    def cdist(h: Tensor) -> Results:
        loss = baselines.cdist_loss(h)
        return loss.detach(), *torch.autograd.grad(loss, h)

    return {
        "cdist": cdist,
        "compiled": lambda h: baselines.chunked_distance_loss(h, compiled),
        "eager": baselines.chunked_distance_loss,
    }


# mahalanobis ---------------------------------------------------------------------------------


def _mahalanobis_inputs(case: Case, device: str, seed: int) -> Results:
    generator = _generator(seed)
    _, channels, height, width = case.shape
    x = case._random(generator, device)
    mean = torch.randn(channels, height, width, generator=generator).to(device)
    packed = torch.randn(height * width, channels * (channels + 1) // 2, generator=generator)
    whitener = packed.to(device).to(case.storage)
    return x, mean, whitener, baselines.inverse_covariance(whitener, channels)


def _mahalanobis(backend: str | None, x: Tensor, mean: Tensor, whitener: Tensor, *_) -> Results:
    return (ops.mahalanobis(x, mean, whitener, backend=backend),)


def _mahalanobis_baselines() -> dict[str, Work]:
    compiled = _compiled(baselines.inverse_covariance_distance)
    return {
        "compiled": lambda x, mean, _, inverse: (compiled(x, mean, inverse),),
        "eager": lambda x, mean, _, inverse: (
            baselines.inverse_covariance_distance(x, mean, inverse),
        ),
    }


def _mahalanobis_bytes(case: Case) -> int:
    batch, channels, height, width = case.shape
    factors = height * width * (channels * (channels + 1) // 2) * case.storage.itemsize
    return _map_bytes(case) + 4 * height * width * (channels + batch) + factors


LOSS, FORWARD, BOTH = "loss + gradient", "forward", "forward + backward"

_KINDS = {
    ("dense_similarity", LOSS): _Kind(
        _similarity_inputs, _similarity, _similarity_baselines, lambda c: 3 * _map_bytes(c)
    ),
    ("warp_affine", FORWARD): _Kind(
        _warp_inputs, _warp_forward, _warp_forward_baselines, lambda c: 2 * _map_bytes(c)
    ),
    # x is read twice: for the result, and for theta's gradient once the upstream one is known.
    ("warp_affine", BOTH): _Kind(
        _warp_inputs, _warp_both, _warp_both_baselines, lambda c: 5 * _map_bytes(c)
    ),
    ("pairwise_distance", LOSS): _Kind(
        _distance_inputs, _distance, _distance_baselines, lambda c: 2 * _map_bytes(c)
    ),
    ("mahalanobis", FORWARD): _Kind(
        _mahalanobis_inputs, _mahalanobis, _mahalanobis_baselines, _mahalanobis_bytes
    ),
}

SIMILARITY_SHAPES = ((8, 64, 128, 128), (8, 128, 64, 64), (8, 256, 64, 64), (32, 256, 16, 16))
WARP_SHAPES = ((8, 3, 1024, 1024), (8, 64, 128, 128), (8, 256, 32, 32))
DISTANCE_SHAPE = (32, 3, 224, 224)
MAHALANOBIS_SHAPES = ((1, 100, 64, 64), (8, 100, 64, 64))


def _cases() -> list[Case]:
    similarity, warp = "dense_similarity", "warp_affine"
    distance, mahalanobis = "pairwise_distance", "mahalanobis"
    half, quarter = {"dtype": torch.bfloat16}, {"storage": torch.bfloat16}
    last = {"layout": CHANNELS_LAST}
    return [
        *(Case(similarity, LOSS, shape) for shape in SIMILARITY_SHAPES),
        *(Case(warp, work, shape) for work in (FORWARD, BOTH) for shape in WARP_SHAPES),
        Case(distance, LOSS, DISTANCE_SHAPE),
        *(Case(mahalanobis, FORWARD, shape) for shape in MAHALANOBIS_SHAPES),
        *(Case(mahalanobis, FORWARD, shape, **quarter) for shape in MAHALANOBIS_SHAPES),
        *(Case(similarity, LOSS, SIMILARITY_SHAPES[n], **half) for n in (0, 2)),
        *(Case(warp, BOTH, WARP_SHAPES[n], **half) for n in (0, 1)),
        Case(distance, LOSS, DISTANCE_SHAPE, **half),
        Case(similarity, LOSS, (4, 32, 16, 16), small=True),
        Case(warp, BOTH, (4, 32, 16, 16), small=True),
        Case(distance, LOSS, (8, 3, 32, 32), small=True),
        Case(mahalanobis, FORWARD, (1, 32, 8, 8), small=True),
        *(Case(similarity, LOSS, SIMILARITY_SHAPES[n], **last) for n in (0, 2)),
        Case(similarity, LOSS, SIMILARITY_SHAPES[2], **last, **half),
        *(Case(warp, BOTH, WARP_SHAPES[n], **last) for n in (0, 1)),
        Case(warp, BOTH, WARP_SHAPES[1], **last, **half),
        Case(distance, LOSS, DISTANCE_SHAPE, **last),
        Case(mahalanobis, FORWARD, MAHALANOBIS_SHAPES[1], **last),
        Case(mahalanobis, FORWARD, MAHALANOBIS_SHAPES[1], storage=torch.float16),
    ]


CASES = _cases()


@dataclass(frozen=True)
class Goal:
    """A required ratio on the CPU, over the plain float32 cases of one kind of work.

    ``against``: the fastest of these baselines counts. ``at_least``: times faster;
    ``at_most``: times the baseline's time, ``beyond_cache`` only where the data do not fit it.
    """

    op: str
    work: str
    against: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None
    beyond_cache: bool = False
    batch: int | None = None

    def covers(self, case: Case) -> bool:
        plain = case.dtype == case.storage == torch.float32 and case.layout == CONTIGUOUS
        same = (case.op, case.work) == (self.op, self.work)
        return plain and same and not case.small and self.batch in (None, case.shape[0])


GOALS = (
    Goal("dense_similarity", LOSS, ("compiled",), at_least=3),
    Goal("dense_similarity", LOSS, ("loop",), at_least=60),
    Goal("dense_similarity", LOSS, ("memcpy",), at_most=2.5, beyond_cache=True),
    Goal("warp_affine", FORWARD, ("eager", "compiled"), at_least=3),
    Goal("warp_affine", BOTH, ("eager", "compiled"), at_least=5),
    Goal("pairwise_distance", LOSS, ("eager", "cdist"), at_least=10),
    Goal("mahalanobis", FORWARD, ("eager",), at_least=6, batch=1),
    Goal("mahalanobis", FORWARD, ("eager",), at_least=5, batch=8),
)
