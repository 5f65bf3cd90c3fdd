"""The short way of a call that nothing looks into: from the public function to the kernel.

Torch's dispatcher boxes every argument and enters Python twice for an op like ours, for autograd
and for the op itself, which costs as much as the work on a small map. Whatever wants to see the op
takes the dispatcher: compilers, fakes and other modes, tensor subclasses, torch.func, autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._functorch import is_legacy_batchedtensor
from torch.nn import Parameter

from fastalign.ops.declaration import Op, Values

Function = Callable[..., Any]

_PLAIN = frozenset((Tensor, Parameter, type(None)))


def short_way(
    op: Op, run: Function, setup: Function, rule: Function, otherwise: Function
) -> Function:
    """The op as it is called.

    Args:
        op: its declaration.
        run: the op below autograd and autocast, all arguments given.
        setup, rule: ``setup_context`` and ``backward`` of its gradient.
        otherwise: the op of torch, for calls that something looks into.
    """
    tensors, first = op.tensors, op.first

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Any) -> Any:
            result = run(*values)
            setup(ctx, values, result)
            return result

        backward = staticmethod(rule)

    apply = Direct.apply
    # A gradient depends on what arrives, too.
    tracked = (0, *op.derivable) if op.first else op.derivable

    def unwatched(values: Values) -> bool:
        if (
            _len_torch_dispatch_stack()
            or _len_torch_function_stack()
            or _are_functorch_transforms_active()
            or _get_tracing_state() is not None
        ):
            return False
        for place in tensors:
            if type(values[place]) not in _PLAIN:
                return False
        if is_legacy_batchedtensor(values[0]):  # by is_grads_batched
            return False
        device = values[first].device.type
        return device in ("cpu", "cuda") and not torch.is_autocast_enabled(device)

    def call(*values: Any) -> Any:
        if torch.compiler.is_compiling():
            return otherwise(*values)
        if not unwatched(values):
            # A subclass that knows nothing of the op would answer before it is looked at.
            if any(getattr(values[place], "is_nested", False) for place in tensors):
                op.check(values)
            return otherwise(*values)
        if torch.is_grad_enabled():
            for place in tracked:
                if values[place].requires_grad:
                    return apply(*values)
        return run(*values)

    return call
