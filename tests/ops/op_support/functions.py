"""The public functions with every option, each with its definition."""

from __future__ import annotations

from torch import Tensor

from op_support.kinds import Function
from op_support.stems import each

__all__ = ["FUNCTIONS", "ONE_OF_EACH", "Function", "require_gradients"]

FUNCTIONS = [function for module in each() for function in module.FUNCTIONS]

# One of each, for checks that are slow or do not depend on the options.
ONE_OF_EACH = [function for module in each() for function in module.ONE_OF_EACH]


def require_gradients(
    function: Function, tensors: tuple[Tensor | None, ...], which: tuple[int, ...] | None = None
) -> list[Tensor]:
    """Let the derivable tensors (or those numbered ``which``) require gradients; returns them."""
    chosen = [tensors[n] for n in (function.derivable if which is None else which)]
    return [tensor.requires_grad_() for tensor in chosen if tensor is not None]
