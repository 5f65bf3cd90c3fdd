"""``dense_similarity`` and its loss: mean cosine of each image with the others, by location."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.backends import resolve
from fastalign.ops.gradients import scaled
from fastalign.ops.layout import empty_locations, empty_maps, empty_scalar, no_gradient
from fastalign.ops.registration import differentiable, once_only, register

_NAME = "dense_similarity"


def _check(p: Tensor, z: Tensor, groups: Tensor | None) -> None:
    checks.features(_NAME, "p", p)
    checks.shape(_NAME, "z", z, p.shape, "[B, C, H, W] of p")
    checks.dtype(_NAME, "z", z, p.dtype, "(the dtype of p)")
    checks.device(_NAME, "z", z, "p", p)
    checks.groups(_NAME, groups, "p", p)


def _gradients(p: Tensor, z: Tensor, need_p: bool, need_z: bool) -> tuple[Tensor, Tensor]:
    return (
        empty_maps(p) if need_p else no_gradient(p),
        empty_maps(z) if need_z else no_gradient(z),
    )


def _run(p: Tensor, z: Tensor, groups: Tensor | None = None, backend: str = "auto") -> Tensor:
    _check(p, z, groups)
    return resolve(_NAME, backend, p, z)(p, z, groups)


def _fake(p: Tensor, z: Tensor, groups: Tensor | None = None, backend: str = "auto") -> Tensor:
    _check(p, z, groups)
    return empty_locations(p)


def _run_backward(
    grad: Tensor,
    p: Tensor,
    z: Tensor,
    groups: Tensor | None,
    need_p: bool,
    need_z: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    _check(p, z, groups)
    checks.location_gradient(_NAME, grad, "p", p)
    kernel = resolve("dense_similarity_backward", backend, p, z)
    return kernel(grad, p, z, groups, need_p, need_z)


def _fake_backward(
    grad: Tensor,
    p: Tensor,
    z: Tensor,
    groups: Tensor | None,
    need_p: bool,
    need_z: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    _check(p, z, groups)
    checks.location_gradient(_NAME, grad, "p", p)
    return _gradients(p, z, need_p, need_z)


def _run_loss(
    p: Tensor,
    z: Tensor,
    groups: Tensor | None,
    need_p: bool,
    need_z: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    _check(p, z, groups)
    return resolve("dense_similarity_loss", backend, p, z)(p, z, groups, need_p, need_z)


def _fake_loss(
    p: Tensor,
    z: Tensor,
    groups: Tensor | None,
    need_p: bool,
    need_z: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    _check(p, z, groups)
    return empty_scalar(p), *_gradients(p, z, need_p, need_z)


def _autocast(p: Tensor, z: Tensor, *rest: Any) -> tuple[Any, ...]:
    """A 16-bit p and z stay as they are; of two dtypes the wider one is taken."""
    widest = torch.promote_types(p.dtype, z.dtype)
    return p.to(widest), z.to(widest), *rest


def _autocast_backward(grad: Tensor, p: Tensor, z: Tensor, *rest: Any) -> tuple[Any, ...]:
    return grad, *_autocast(p, z, *rest)


_map = register("dense_similarity", _run, _fake, _autocast)
_map_backward = register(
    "dense_similarity_backward", _run_backward, _fake_backward, _autocast_backward
)
_loss = register("dense_similarity_loss", _run_loss, _fake_loss, _autocast)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    p, z, groups, ctx.backend = inputs
    ctx.save_for_backward(p, z, groups)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    p, z, groups = ctx.saved_tensors
    need_p, need_z = ctx.needs_input_grad[:2]
    to_p, to_z = _map_backward(grad, p, z, groups, need_p, need_z, ctx.backend)
    return to_p if need_p else None, to_z if need_z else None, None, None


def _setup_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, to_p, to_z = output
    ctx.computed = inputs[3:5]
    ctx.mark_non_differentiable(to_p, to_z)
    # Else torch would make a tensor of zeros as the gradient of each stored gradient.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(to_p, to_z)


def _backward_loss(ctx: Any, upstream: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    results: list[Tensor | None] = []
    for name, stored, computed, wanted in zip(
        "pz", ctx.saved_tensors, ctx.computed, ctx.needs_input_grad[:2], strict=True
    ):
        if wanted and not computed:
            raise RuntimeError(
                f"fastalign::dense_similarity_loss was called with need_{name}=False, but {name} "
                f"requires a gradient; call it with need_{name}=True"
            )
        results.append(scaled(stored, upstream) if wanted and upstream is not None else None)
    return *results, None, None, None, None


differentiable("dense_similarity", _backward, _setup)
differentiable("dense_similarity_loss", _backward_loss, _setup_loss)
once_only("dense_similarity_backward")


def dense_similarity(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """Mean cosine of each image with the other images of its group, at every location.

    For image a and location x this is the mean over b != a of ``cos(p_a(x), z_b(x))``. All
    ``B (B - 1)`` pairs cost O(B). The fine alignment of FYD (arXiv 2110.04538) is built on it; the
    choice of all ordered pairs is ours.

    Args:
        p: predictions ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        z: targets, same shape, dtype and device. Detach it for a stopped gradient.
        groups: int64 ``[B]``, any labels; pairs exist only within a label. None: one group.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        ``[B,H,W]`` in float32, in float64 for float64. 0 for an image without partners. A zero
        vector has cosine 0, and gradient 0, with everything.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _map(p, z, groups, backend or "auto")


def dense_similarity_loss(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """Minus the mean of ``dense_similarity`` over images and locations.

    The gradient is computed in the same pass, so that p and z are read once. float16 inputs that
    require a gradient take a second pass instead: the gradient of a mean lies below float16's
    range, and a gradient scaler must be able to scale it before it is rounded.

    Args:
        p, z, groups, backend: as for ``dense_similarity``.

    Returns:
        A scalar in float32, in float64 for float64; 0 for empty tensors.
    """
    learns = torch.is_grad_enabled()
    need_p, need_z = learns and p.requires_grad, learns and z.requires_grad
    if (need_p or need_z) and p.dtype == z.dtype == torch.float16:
        value = _map(p, z, groups, backend or "auto")
        return value.sum() * (-1 / max(value.numel(), 1))
    return _loss(p, z, groups, need_p, need_z, backend or "auto")[0]
