"""Handing on gradients that a loss op has computed together with its value."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.ops import native

# Tells inside a backward pass whether the graph is kept for another one.
_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)


def _is_one(upstream: Tensor) -> bool:
    """Whether ``upstream`` is known to be 1 without a wait: eager mode, CPU."""
    return (
        type(upstream) is Tensor
        and upstream.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and upstream.item() == 1
    )


def scaled(stored: Tensor, upstream: Tensor) -> Tensor:
    """``stored * upstream`` for a stored gradient and the 0-dimensional gradient of the loss.

    Where upstream is 1, as it is after ``loss.backward()``, the stored tensor itself is handed
    over, unread; on a GPU a kernel finds out whether it is. If the graph is kept for another pass a
    copy is made, since the receiver may add to what it gets.

    Raises:
        RuntimeError: the backward pass runs with ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        # The stored gradient has no path to the inputs, so a second derivative of it would be
        # missing in silence: autograd asks only the nodes that lead to what it differentiates by.
        raise RuntimeError(
            "create_graph=True asks for a gradient of a fastalign loss that can itself be "
            "differentiated: fastalign's ops can be differentiated once, not twice; write the loss "
            "with plain PyTorch where a second derivative is needed"
        )
    if type(stored) is not Tensor or torch.compiler.is_compiling():
        return stored * upstream
    kept = _graph_is_kept is None or _graph_is_kept()
    if _is_one(upstream):
        return stored.clone() if kept else stored
    if not kept and native.cannot_run("scale_", stored) is None:
        return native.kernel("scale_")(stored, upstream)
    return stored * upstream
