"""``warp_affine``: affine resampling without a grid tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.backends import resolve
from fastalign.ops.layout import empty_maps, no_gradient
from fastalign.ops.registration import differentiable, once_only, register

_NAME = "warp_affine"


def _check(x: Tensor, theta: Tensor, mode: str, padding_mode: str) -> None:
    checks.features(_NAME, "x", x)
    checks.shape(_NAME, "theta", theta, (x.shape[0], 2, 3), "[B, 2, 3] with the B of x")
    if theta.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{_NAME}: theta has dtype {theta.dtype}, expected float32 or float64 whatever x is; "
            "convert it with theta.float()"
        )
    checks.device(_NAME, "theta", theta, "x", x)
    checks.choice(_NAME, "mode", mode, checks.MODES)
    checks.choice(_NAME, "padding_mode", padding_mode, checks.PADDING_MODES)
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(
            f"{_NAME}: x has shape {list(x.shape)}, expected at least one row and one column to "
            "sample from"
        )


def _check_size(size: Sequence[int]) -> None:
    if len(size) != 2 or size[0] < 1 or size[1] < 1:
        raise ValueError(
            f"{_NAME}: size is {tuple(size)}, expected (height, width), both at least 1"
        )


def _check_backward(grad: Tensor, x: Tensor, theta: Tensor, mode: str, padding_mode: str) -> None:
    _check(x, theta, mode, padding_mode)
    checks.features(_NAME, "grad", grad)
    checks.shape(
        _NAME,
        "grad",
        grad,
        (x.shape[0], x.shape[1], grad.shape[2], grad.shape[3]),
        "[B, C, height, width] with the B and C of x",
    )
    _check_size(grad.shape[2:])
    checks.dtype(_NAME, "grad", grad, x.dtype, "(the dtype of x)")
    checks.device(_NAME, "grad", grad, "x", x)


def _run(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    backend: str = "auto",
) -> Tensor:
    _check(x, theta, mode, padding_mode)
    _check_size(size)
    kernel = resolve(_NAME, backend, x, theta)
    return kernel(x, theta, size, mode, padding_mode, align_corners)


def _fake(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    backend: str = "auto",
) -> Tensor:
    _check(x, theta, mode, padding_mode)
    _check_size(size)
    return empty_maps(x, size)


def _run_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    need_x: bool,
    need_theta: bool,
    deterministic: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    _check_backward(grad, x, theta, mode, padding_mode)
    kernel = resolve("warp_affine_backward", backend, x, theta)
    return kernel(
        grad, x, theta, mode, padding_mode, align_corners, need_x, need_theta, deterministic
    )


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    need_x: bool,
    need_theta: bool,
    deterministic: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    _check_backward(grad, x, theta, mode, padding_mode)
    return (
        empty_maps(x) if need_x else no_gradient(x),
        theta.new_empty(theta.shape) if need_theta else no_gradient(theta),
    )


def _autocast(x: Tensor, theta: Tensor, *rest: Any) -> tuple[Any, ...]:
    """theta is never cast down; one that a layer gave in 16 bits is taken up to float32."""
    if theta.dtype in (torch.float16, torch.bfloat16):
        theta = theta.float()
    return x, theta, *rest


def _autocast_backward(grad: Tensor, x: Tensor, theta: Tensor, *rest: Any) -> tuple[Any, ...]:
    return grad, *_autocast(x, theta, *rest)


_warp = register("warp_affine", _run, _fake, _autocast)
_warp_backward = register("warp_affine_backward", _run_backward, _fake_backward, _autocast_backward)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, theta, _, *ctx.options, ctx.backend = inputs
    ctx.save_for_backward(x, theta)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, theta = ctx.saved_tensors
    need_x, need_theta = ctx.needs_input_grad[:2]
    deterministic = torch.are_deterministic_algorithms_enabled()
    to_x, to_theta = _warp_backward(
        grad, x, theta, *ctx.options, need_x, need_theta, deterministic, ctx.backend
    )
    wanted = to_x if need_x else None, to_theta if need_theta else None
    return *wanted, None, None, None, None, None


differentiable("warp_affine", _backward, _setup)
once_only("warp_affine_backward")


def warp_affine(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Resample ``x`` under an affine map: ``grid_sample(x, affine_grid(theta, ...))`` in one step.

    Args:
        x: ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        theta: ``[B,2,3]``, float32 or float64 whatever x is. It maps homogeneous normalised output
            coordinates to normalised input coordinates, as in ``torch.nn.functional.affine_grid``;
            coordinates are computed in its dtype.
        size: output ``(height, width)``; None: that of x.
        mode: ``"bilinear"`` or ``"nearest"``.
        padding_mode: ``"zeros"``, ``"border"`` or ``"reflection"``.
        align_corners: whether -1 and 1 are the centres of the outer pixels (True) or their outer
            borders.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        ``[B,C,height,width]`` in the dtype and memory format of x. The gradient goes to x and to
        theta; with ``torch.use_deterministic_algorithms(True)`` it is bit-identical from run to
        run.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device, dtype or an unknown option.
        BackendError: a backend asked for by name cannot run.
    """
    if size is None:
        checks.features(_NAME, "x", x)
        size = x.shape[2:]
    return _warp(x, theta, size, mode, padding_mode, align_corners, backend or "auto")
