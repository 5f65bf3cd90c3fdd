"""The short way of a call that nothing looks into: from the public function to the kernel.

Torch's dispatcher boxes every argument and enters Python twice for an op like ours, for autograd
and for the op itself, which costs as much as the work on a small map. Whatever wants to see the op
takes the dispatcher: compilers, fakes and other modes, tensor subclasses, torch.func, autocast.

What the arguments look like decides whether they are right and which kernel serves them, so both
are found out once and kept (``backends.settled``). Streams, threads, forced plans and whether
something learns are asked at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad, profiler
from torch.compiler import is_compiling
from torch.nn import Parameter

from fastalign.ops import backends, plain
from fastalign.ops.declaration import Loss, Op

Function = Callable[..., Any]

_PLAIN = frozenset((Tensor, Parameter))
# All that checks and the choice of a backend ask of a tensor of one of these types.
_look = attrgetter("shape", "dtype", "device", "layout")


def short_way(op: Op, choose: Function, rule: Function, otherwise: Function) -> Function:
    """The op as it is called; a loss without the gradients that it stores.

    Args:
        op: its declaration.
        choose: checks all arguments and gives the kernel that serves them; it keeps that for the
            key that comes with them.
        rule: ``backward`` of the op's gradient, for a context that holds what ``gradients.keep``
            puts there.
        otherwise: the op of torch, for calls that something looks into.
    """
    name, first, number = op.name, op.first, len(op.tensors)
    stores = isinstance(op, Loss)
    # Those that may be missing come last.
    required = sum(op.arguments[n].type == "Tensor" for n in op.tensors)
    # A gradient depends on what arrives, too.
    tracked = (0, *op.derivable) if first else op.derivable

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Any) -> Any:
            *given, backend, kernel = values
            result = kernel(*given)
            ctx.given = values[number:-1]
            if stores:
                ctx.set_materialize_grads(False)
                ctx.save_for_backward(*given[:number], *result[1:])
                return result[0]
            ctx.save_for_backward(*given[:number])
            return result

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            return (*rule(ctx, *upstream), None)

    apply = Direct.apply

    def named(kernel: Function) -> Function:
        def run(*given: Any) -> Any:
            with profiler.record_function(f"fastalign.{name}"):
                return kernel(*given)

        return run

    def call(*values: Any) -> Any:
        if (
            is_compiling()
            or plain.active()
            or forward_ad._current_level >= 0
            or _len_torch_dispatch_stack()
            or _len_torch_function_stack()
            or _are_functorch_transforms_active()
            or _is_any_autocast_enabled()
            or _get_tracing_state() is not None
        ):
            return otherwise(*values)
        tensors = values[:required]
        # Legacy ones come by is_grads_batched.
        if not _PLAIN.issuperset(map(type, tensors)) or is_legacy_batchedtensor(values[0]):
            return otherwise(*values)
        key: Any
        try:
            key = (name, *map(_look, tensors), values[number:], backends.asked())
            for tensor in values[required:number]:
                if tensor is not None:
                    if type(tensor) not in _PLAIN:
                        return otherwise(*values)
                    tensor = _look(tensor)
                key += (tensor,)
            kernel = backends.settled(key)
        except (RuntimeError, TypeError):  # a tensor without a shape, an option that has no hash
            key = kernel = None
        if kernel is None:
            if values[first].device.type not in ("cpu", "cuda"):
                return otherwise(*values)
            kernel = choose(values, key)
        if profiler._is_profiler_enabled:
            kernel = named(kernel)
        if torch.is_grad_enabled():
            for place in tracked:
                value = values[place]
                if value is not None and value.requires_grad:
                    return apply(*values, kernel)
        return kernel(*values[:-1])[0] if stores else kernel(*values[:-1])

    return call
