"""What the contestants of each op compute on a case's inputs, and the bytes it has to move.

Every op has a map, ``x -> y``, that is measured forward, backward and both ways; two have a loss
besides, whose gradient is made in the same pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fastalign import ops
from fastalign.bench import baselines, libraries
from fastalign.bench.modes import (
    BACKWARD,
    BOTH,
    FORWARD,
    LOSS,
    Function,
    Kind,
    Results,
    Work,
    loss_work,
)
from fastalign.bench.problem import FORMATS, Problem
from fastalign.nn.smoothing import gaussian_taps, smooth
from fastalign.ops import affine, reference

DEGREES, SHIFT = 17, (0.013, -0.017)


def compiled(function: Callable) -> Callable:
    """``torch.compile``, for one shape."""
    return torch.compile(function, dynamic=False)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _map_bytes(case: Problem) -> int:
    return math.prod(case.shape) * case.dtype.itemsize


def _pixels(case: Problem) -> int:
    batch, _, height, width = case.shape
    return batch * height * width


def _upstream(case: Problem, generator: torch.Generator, device: str) -> Tensor:
    """Gradient of a map ``[B,H,W]``, which the ops return in float32."""
    batch, _, height, width = case.shape
    return torch.randn(batch, height, width, generator=generator).to(device)


def _none(case: Problem) -> dict[str, Function]:
    return {}


# dense_similarity ----------------------------------------------------------------------------


def _similarity_inputs(case: Problem, device: str, seed: int) -> Results:
    generator = _generator(seed)
    p, z = (case.random(generator, device) for _ in range(2))
    if case.work == FORWARD:
        return p, z
    if case.work == LOSS:
        return p.requires_grad_(), z
    return p.requires_grad_(), z, _upstream(case, generator, device)


def _memcpy() -> dict[str, Work]:
    buffers: list[Tensor] = []

    def memcpy(p: Tensor, z: Tensor) -> Results:
        """Half of 3 N read and half written: two reads and a write of N, as the op needs."""
        if not buffers:
            count = p.numel() * 3 // 2
            buffers.extend(torch.ones(count, dtype=p.dtype, device=p.device) for _ in range(2))
        buffers[0].copy_(buffers[1])
        return ()

    return {"memcpy": memcpy}


def _similarity_losses() -> dict[str, Function]:
    return {
        "compiled": compiled(baselines.closed_form_loss),
        "eager": baselines.closed_form_loss,
        "loop": baselines.pair_loop_loss,
    }


def _similarity_maps() -> dict[str, Function]:
    return {
        "compiled": compiled(baselines.closed_form_map),
        "eager": baselines.closed_form_map,
    }


# warp_affine ---------------------------------------------------------------------------------


def _warp_inputs(case: Problem, device: str, seed: int) -> Results:
    generator = _generator(seed)
    x = case.random(generator, device)
    angle = math.radians(DEGREES)
    rows = [[math.cos(angle), -math.sin(angle), SHIFT[0]]]
    rows.append([math.sin(angle), math.cos(angle), SHIFT[1]])
    theta = torch.tensor([rows] * case.shape[0], device=device)
    if case.work == FORWARD:
        return x, theta
    return x.requires_grad_(), theta.requires_grad_(), case.random(generator, device)


def _warp_baselines() -> dict[str, Function]:
    return {"compiled": compiled(baselines.grid_warp), "eager": baselines.grid_warp}


def _warp_libraries(case: Problem) -> dict[str, Function]:
    found: dict[str, Function] = {"kornia": libraries.kornia_warp}
    # Its angle and shift are numbers, which have no gradient, and it takes pixels as square.
    if case.work == FORWARD and case.shape[2] == case.shape[3]:
        found["torchvision"] = lambda x, theta: libraries.torchvision_warp(x, DEGREES, SHIFT)
    return found


# pairwise_distance ---------------------------------------------------------------------------


def _distance_inputs(case: Problem, device: str, seed: int) -> Results:
    generator = _generator(seed)
    h = case.random(generator, device)
    if case.work == FORWARD:
        return (h,)
    if case.work == LOSS:
        return (h.requires_grad_(),)
    return h.requires_grad_(), _upstream(case, generator, device)


def _distance_losses() -> dict[str, Work]:
    total = compiled(baselines.distances_to_all)
    return {
        "cdist": loss_work(baselines.cdist_loss),
        "compiled": lambda h: baselines.chunked_distance_loss(h, total),
        "eager": baselines.chunked_distance_loss,
    }


def _distance_maps() -> dict[str, Function]:
    return {
        "cdist": baselines.cdist_map,
        "compiled": compiled(baselines.pair_distance_map),
        "eager": baselines.pair_distance_map,
    }


# mahalanobis ---------------------------------------------------------------------------------


def _mahalanobis_inputs(case: Problem, device: str, seed: int) -> Results:
    generator = _generator(seed)
    _, channels, height, width = case.shape
    x = case.random(generator, device)
    mean = torch.randn(channels, height, width, generator=generator).to(device)
    if case.rank is None:
        given = torch.randn(height * width, channels * (channels + 1) // 2, generator=generator)
    else:  # rows shorter than 1, as those of a fit
        given = torch.randn(height * width, case.rank, channels, generator=generator)
        given /= 2 * max(case.rank * channels, 1) ** 0.5
    whitener = given.to(device).to(case.storage)
    inverse = baselines.inverse_covariance(whitener, channels)
    if case.work == FORWARD:
        return x, mean, whitener, inverse
    return x.requires_grad_(), mean, whitener, inverse, _upstream(case, generator, device)


def _mahalanobis_baselines() -> dict[str, Function]:
    run = compiled(baselines.inverse_covariance_distance)
    return {
        "compiled": lambda x, mean, _, inverse: run(x, mean, inverse),
        "eager": lambda x, mean, _, inverse: baselines.inverse_covariance_distance(
            x, mean, inverse
        ),
    }


def _mahalanobis_libraries(case: Problem) -> dict[str, Function]:
    return {"anomalib": lambda x, mean, _, inverse: libraries.anomalib_distance(x, mean, inverse)}


def _mahalanobis_bytes(case: Problem) -> int:
    batch, channels, height, width = case.shape
    entries = channels * (channels + 1) // 2 if case.rank is None else case.rank * channels
    factors = height * width * entries * case.storage.itemsize
    forward = _map_bytes(case) + 4 * height * width * (channels + batch) + factors
    # Backward reads all of it again, the distance included, and writes x's gradient.
    backward = forward + 4 * _pixels(case) + _map_bytes(case)
    return {FORWARD: forward, BACKWARD: backward, BOTH: forward + backward}[case.work]


# refine_pose ---------------------------------------------------------------------------------

# As one image is aligned: candidates of each image, and steps.
CANDIDATES, STEPS = 3, 2


def _refine_inputs(case: Problem, device: str, seed: int) -> Results:
    generator = _generator(seed)
    batch, _, height, width = case.shape
    # Smooth, so that a step leads somewhere.
    coarse = torch.rand(batch + 1, 1, 6, 6, generator=generator)
    maps = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    edges = maps[:1] + 0.1 * maps[1:]
    edges = edges.to(case.dtype).contiguous(memory_format=FORMATS[case.layout])
    parameters = 0.02 * torch.randn(batch, CANDIDATES, 3, generator=generator)
    theta = affine.from_parameters(parameters, "rotation_translation")
    weight = torch.rand(height, width, generator=generator)
    generators = affine.generators("rotation_translation")
    given = edges, theta, maps[0, 0].contiguous(), weight, generators
    return tuple(tensor.to(device) for tensor in given)


def _refined(*given: Tensor) -> Tensor:
    """The steps one by one, in torch's own ops."""
    return reference.kernel("refine_pose")(*given, STEPS)[0]


def _refine_baselines() -> dict[str, Function]:
    return {"compiled": compiled(_refined), "eager": _refined}


def _refine_bytes(case: Problem) -> int:
    batch, _, height, width = case.shape
    return _map_bytes(case) + 8 * height * width + 4 * batch * CANDIDATES * (6 + 6 + 1)


# anomaly_map ---------------------------------------------------------------------------------

# As maps of a model: eight pixels for each distance, and the usual smoothing.
ENLARGED, SIGMA = 8, 4.0


def _mapped_size(case: Problem) -> tuple[int, int]:
    return ENLARGED * case.shape[2], ENLARGED * case.shape[3]


def _map_inputs(case: Problem, device: str, seed: int) -> Results:
    generator = _generator(seed)
    batch, _, height, width = case.shape
    distance = torch.rand(case.shape, generator=generator) + 0.5
    distance = distance.to(case.dtype).contiguous(memory_format=FORMATS[case.layout])
    parameters = 0.05 * torch.randn(batch, 3, generator=generator)
    theta = affine.from_parameters(parameters, "rotation_translation")
    evidence = torch.rand(batch, height, width, generator=generator) > 0.1
    given = distance, theta, evidence, gaussian_taps(SIGMA)
    return tuple(tensor.to(device) for tensor in given)


def _mapped(distance: Tensor, theta: Tensor, evidence: Tensor, taps: Tensor) -> Tensor:
    """Grid, sampling, a product with a matrix for each axis, and division."""
    weight = evidence.float()
    both = torch.stack([distance[:, 0].float() * weight, weight], 1)
    size = [len(both), 2, ENLARGED * both.shape[2], ENLARGED * both.shape[3]]
    grid = functional.affine_grid(affine.invert(theta), size, align_corners=False)
    warped = functional.grid_sample(both, grid, align_corners=False)
    value, share = smooth(warped, SIGMA).unbind(1)
    return value / share.clamp_min(1e-6)


def _map_baselines() -> dict[str, Function]:
    return {"compiled": compiled(_mapped), "eager": _mapped}


def _mapped_bytes(case: Problem) -> int:
    height, width = _mapped_size(case)
    return _map_bytes(case) + _pixels(case) + 8 * case.shape[0] * height * width


# all -----------------------------------------------------------------------------------------

# What a map op moves, in whole maps of x and in its own one-channel results. Both ways x is read
# twice: for the result, and again once the upstream gradient is known.
_MAPS = {
    "dense_similarity": {FORWARD: (2, 1), BACKWARD: (3, 1), BOTH: (5, 2), LOSS: (3, 0)},
    "pairwise_distance": {FORWARD: (1, 1), BACKWARD: (2, 1), BOTH: (3, 2), LOSS: (2, 0)},
    "warp_affine": {FORWARD: (2, 0), BACKWARD: (3, 0), BOTH: (5, 0)},
}


def _bytes(case: Problem) -> int:
    maps, results = _MAPS[case.op][case.work]
    return maps * _map_bytes(case) + 4 * results * _pixels(case)


def _kinds() -> dict[tuple[str, str], Kind]:
    def similarity_loss(backend: str | None) -> Function:
        return lambda p, z: ops.dense_similarity_loss(p, z, backend=backend)

    def similarity(backend: str | None) -> Function:
        return lambda p, z: ops.dense_similarity(p, z, backend=backend)

    def distance_loss(backend: str | None) -> Function:
        return lambda h: ops.pairwise_distance_loss(h, backend=backend)

    def distance(backend: str | None) -> Function:
        return lambda h: ops.pairwise_distance(h, backend=backend)

    def warp(backend: str | None) -> Function:
        return lambda x, theta: ops.warp_affine(x, theta, backend=backend)

    def mahalanobis(backend: str | None) -> Function:
        return lambda x, mean, factors, _: ops.mahalanobis(x, mean, factors, backend=backend)

    def refine(backend: str | None) -> Function:
        def refined(
            edges: Tensor, theta: Tensor, template: Tensor, weight: Tensor, generators: Tensor
        ) -> Tensor:
            given = edges, theta, template, weight, generators
            return ops.refine_pose(*given, STEPS, backend=backend)[0]

        return refined

    def mapped(backend: str | None) -> Function:
        def values(distance: Tensor, theta: Tensor, evidence: Tensor, taps: Tensor) -> Tensor:
            size = (ENLARGED * distance.shape[2], ENLARGED * distance.shape[3])
            return ops.anomaly_map(distance, theta, evidence, taps, size, backend=backend)[0]

        return values

    p, h, x = _similarity_inputs, _distance_inputs, _warp_inputs
    kinds = {
        ("dense_similarity", LOSS): Kind(
            LOSS, p, similarity_loss, _similarity_losses, _none, _bytes, _memcpy
        ),
        ("pairwise_distance", LOSS): Kind(
            LOSS, h, distance_loss, dict, _none, _bytes, _distance_losses
        ),
    }
    kinds["refine_pose", FORWARD] = Kind(
        FORWARD, _refine_inputs, refine, _refine_baselines, _none, _refine_bytes
    )
    kinds["anomaly_map", FORWARD] = Kind(
        FORWARD, _map_inputs, mapped, _map_baselines, _none, _mapped_bytes
    )
    for way in (FORWARD, BACKWARD, BOTH):
        kinds |= {
            ("dense_similarity", way): Kind(way, p, similarity, _similarity_maps, _none, _bytes),
            ("warp_affine", way): Kind(way, x, warp, _warp_baselines, _warp_libraries, _bytes),
            ("pairwise_distance", way): Kind(way, h, distance, _distance_maps, _none, _bytes),
            ("mahalanobis", way): Kind(
                way,
                _mahalanobis_inputs,
                mahalanobis,
                _mahalanobis_baselines,
                _mahalanobis_libraries,
                _mahalanobis_bytes,
            ),
        }
    return kinds


KINDS = _kinds()
