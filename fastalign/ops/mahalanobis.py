"""``mahalanobis``: distance to a Gaussian per location."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.backends import resolve
from fastalign.ops.layout import empty_locations, empty_maps, no_gradient
from fastalign.ops.registration import differentiable, once_only, register

_NAME = "mahalanobis"


def _check(x: Tensor, mean: Tensor, whitener: Tensor) -> None:
    checks.features(_NAME, "x", x)
    _, channels, height, width = x.shape
    checks.shape(_NAME, "mean", mean, (channels, height, width), "[C, H, W] of x")
    checks.shape(
        _NAME,
        "whitener",
        whitener,
        (height * width, channels * (channels + 1) // 2),
        "[H*W, C(C+1)/2] of x, the packed lower triangle",
    )
    if x.dtype == torch.float64:
        checks.dtype(_NAME, "mean", mean, torch.float64, "(x is float64)")
        checks.dtype(_NAME, "whitener", whitener, torch.float64, "(x is float64)")
    else:
        checks.dtype(_NAME, "mean", mean, torch.float32, f"(x is {x.dtype})")
        if whitener.dtype == torch.float64 or whitener.dtype not in checks.FLOATS:
            raise TypeError(
                f"{_NAME}: whitener has dtype {whitener.dtype}, expected float32, float16 or "
                f"bfloat16 (x is {x.dtype})"
            )
    checks.device(_NAME, "mean", mean, "x", x)
    checks.device(_NAME, "whitener", whitener, "x", x)


def _run(
    x: Tensor, mean: Tensor, whitener: Tensor, squared: bool = False, backend: str = "auto"
) -> Tensor:
    _check(x, mean, whitener)
    return resolve(_NAME, backend, x, mean, whitener)(x, mean, whitener, squared)


def _fake(
    x: Tensor, mean: Tensor, whitener: Tensor, squared: bool = False, backend: str = "auto"
) -> Tensor:
    _check(x, mean, whitener)
    return empty_locations(x)


def _run_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
    need_x: bool,
    need_mean: bool,
    need_whitener: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, mean, whitener)
    checks.location_gradient(_NAME, grad, "x", x)
    kernel = resolve("mahalanobis_backward", backend, x, mean, whitener)
    return kernel(grad, x, mean, whitener, squared, need_x, need_mean, need_whitener)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
    need_x: bool,
    need_mean: bool,
    need_whitener: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, mean, whitener)
    checks.location_gradient(_NAME, grad, "x", x)
    return (
        empty_maps(x) if need_x else no_gradient(x),
        mean.new_empty(mean.shape) if need_mean else no_gradient(mean),
        whitener.new_empty(whitener.shape) if need_whitener else no_gradient(whitener),
    )


_map = register("mahalanobis", _run, _fake)
_map_backward = register("mahalanobis_backward", _run_backward, _fake_backward)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mean, whitener, ctx.squared, ctx.backend = inputs
    ctx.save_for_backward(x, mean, whitener)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad[:3]
    gradients = _map_backward(grad, *ctx.saved_tensors, ctx.squared, *need, ctx.backend)
    wanted = [value if yes else None for value, yes in zip(gradients, need, strict=True)]
    return *wanted, None, None


differentiable("mahalanobis", _backward, _setup)
once_only("mahalanobis_backward")


def mahalanobis(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    *,
    squared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mahalanobis distance of every location to its own Gaussian (as in PaDiM, arXiv 2011.08785).

    Args:
        x: features ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        mean: ``[C,H,W]``, float32; float64 if and only if x is float64.
        whitener: inverse Cholesky factors L of the covariances, ``cov^-1 = L^T L``, lower
            triangles packed by rows: ``[H*W, C(C+1)/2]``, entry ``(i, j <= i)`` at
            ``i (i + 1) / 2 + j``, row ``y * W + x`` for location ``(y, x)``. float32, float16 or
            bfloat16; float64 if and only if x is float64.
        squared: the squared distance instead.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        The distance ``|L (x - mean)|`` ``[B,H,W]`` in float32, in float64 for float64. Its gradient
        at distance 0 is 0.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _map(x, mean, whitener, squared, backend or "auto")
