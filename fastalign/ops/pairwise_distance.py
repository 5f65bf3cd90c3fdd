"""``pairwise_distance`` and its loss: mean distance of each image to the others, by location."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.backends import resolve
from fastalign.ops.gradients import scaled
from fastalign.ops.layout import empty_locations, empty_maps, empty_scalar, no_gradient
from fastalign.ops.registration import differentiable, once_only, register

_NAME = "pairwise_distance"


def _check(h: Tensor, mask: Tensor | None, groups: Tensor | None) -> None:
    checks.features(_NAME, "h", h)
    checks.mask(_NAME, mask, "h", h)
    checks.groups(_NAME, groups, "h", h)


def _run(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    squared: bool = False,
    backend: str = "auto",
) -> Tensor:
    _check(h, mask, groups)
    return resolve(_NAME, backend, h)(h, mask, groups, squared)


def _fake(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    squared: bool = False,
    backend: str = "auto",
) -> Tensor:
    _check(h, mask, groups)
    return empty_locations(h)


def _run_backward(
    grad: Tensor,
    h: Tensor,
    mask: Tensor | None,
    groups: Tensor | None,
    squared: bool,
    backend: str = "auto",
) -> Tensor:
    _check(h, mask, groups)
    checks.location_gradient(_NAME, grad, "h", h)
    return resolve("pairwise_distance_backward", backend, h)(grad, h, mask, groups, squared)


def _fake_backward(
    grad: Tensor,
    h: Tensor,
    mask: Tensor | None,
    groups: Tensor | None,
    squared: bool,
    backend: str = "auto",
) -> Tensor:
    _check(h, mask, groups)
    checks.location_gradient(_NAME, grad, "h", h)
    return empty_maps(h)


def _run_loss(
    h: Tensor,
    mask: Tensor | None,
    groups: Tensor | None,
    squared: bool,
    need_h: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    _check(h, mask, groups)
    return resolve("pairwise_distance_loss", backend, h)(h, mask, groups, squared, need_h)


def _fake_loss(
    h: Tensor,
    mask: Tensor | None,
    groups: Tensor | None,
    squared: bool,
    need_h: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    _check(h, mask, groups)
    return empty_scalar(h), empty_maps(h) if need_h else no_gradient(h)


_map = register("pairwise_distance", _run, _fake)
_map_backward = register("pairwise_distance_backward", _run_backward, _fake_backward)
_loss = register("pairwise_distance_loss", _run_loss, _fake_loss)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, mask, groups, ctx.squared, ctx.backend = inputs
    ctx.save_for_backward(h, mask, groups)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, mask, groups = ctx.saved_tensors
    return _map_backward(grad, h, mask, groups, ctx.squared, ctx.backend), None, None, None, None


def _setup_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.computed = inputs[4]
    ctx.mark_non_differentiable(output[1])
    # Else torch would make a tensor of zeros as the gradient of the stored gradient.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward_loss(ctx: Any, upstream: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    if not ctx.computed:
        raise RuntimeError(
            "fastalign::pairwise_distance_loss was called with need_h=False, but h requires a "
            "gradient; call it with need_h=True"
        )
    (stored,) = ctx.saved_tensors
    to_h = None if upstream is None else scaled(stored, upstream)
    return to_h, None, None, None, None, None


differentiable("pairwise_distance", _backward, _setup)
differentiable("pairwise_distance_loss", _backward_loss, _setup_loss)
once_only("pairwise_distance_backward")


def pairwise_distance(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    squared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mean distance of each image to the other images of its group, at every location.

    For image a and location x this is the mean over b != a of ``|h_a(x) - h_b(x)|``, the Euclidean
    norm over channels: the image-level loss of FYD (arXiv 2110.04538) before its mean is taken. It
    costs O(B^2) time and never holds more than a few times the batch.

    Args:
        h: images ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        mask: bool ``[B,H,W]``, True where valid. A pair counts at a location where both images are
            valid; what lies under the mask does not matter, NaN included. None: all valid.
        groups: int64 ``[B]``, any labels; pairs exist only within a label. None: one group.
        squared: the squared distance instead, O(B) time; ours, the paper's is not squared.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        ``[B,H,W]`` in float32, in float64 for float64. 0 where there are no pairs. The gradient of
        a distance of 0 is 0.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _map(h, mask, groups, squared, backend or "auto")


def pairwise_distance_loss(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    squared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The mean of ``pairwise_distance`` over images and locations, those without pairs as 0.

    The gradient is computed in the same pass. float16 inputs that require a gradient take a second
    pass instead: the gradient of a mean lies below float16's range, and a gradient scaler must be
    able to scale it before it is rounded.

    Args:
        h, mask, groups, squared, backend: as for ``pairwise_distance``.

    Returns:
        A scalar in float32, in float64 for float64; 0 for empty tensors.
    """
    need_h = torch.is_grad_enabled() and h.requires_grad
    if need_h and h.dtype == torch.float16:
        value = _map(h, mask, groups, squared, backend or "auto")
        return value.sum() * (1 / max(value.numel(), 1))
    return _loss(h, mask, groups, squared, need_h, backend or "auto")[0]
