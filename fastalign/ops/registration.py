"""Registration of the ops with torch: schema, implementation, fake, autocast, autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastalign.ops import plain
from fastalign.ops.schema import NAMESPACE, SCHEMAS

_AUTOCAST_DEVICES = ("cpu", "cuda")

# Torch takes the registrations back when this object goes.
_library = torch.library.Library(NAMESPACE, "DEF")

Op = Callable[..., Any]


def register(name: str, implementation: Op, fake: Op, autocast: Op | None = None) -> Op:
    """Define the op ``name`` of ``schema.py`` and return the callable that dispatches to it.

    Args:
        name: key of ``SCHEMAS``.
        implementation: takes the schema's arguments, for every device and below autograd.
        fake: the same arguments; returns empty tensors of the right shape, dtype and strides.
        autocast: takes the arguments and returns them with the dtypes wanted under autocast;
            None: as they are.
    """
    # The layout of an output follows from that of its input, so compilers must keep the strides
    # that the fake has seen.
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
    _library.define(name + SCHEMAS[name], tags=tags)
    _library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    for device in _AUTOCAST_DEVICES:
        _library.impl(name, _below_autocast(op, device, autocast), f"Autocast{device.upper()}")
    dispatched = _without_tangents(name, op)
    if name not in plain.FORMS:
        return dispatched

    def call(*arguments: Any) -> Any:
        if plain.active():
            return _inlined(implementation, autocast, arguments)
        return dispatched(*arguments)

    return call


def _inlined(implementation: Op, cast: Op | None, arguments: tuple[Any, ...]) -> Any:
    """The implementation without the dispatcher, so that no op is recorded but its own."""
    device = arguments[0].device.type
    if not torch.is_autocast_enabled(device):
        return implementation(*arguments)
    with torch.autocast(device, enabled=False):
        return implementation(*(arguments if cast is None else cast(*arguments)))


def _without_tangents(name: str, op: Op) -> Op:
    """The op, with an error for forward-mode derivatives, which torch would drop without a word.

    This stands before the dispatcher: inside, torch.func has put the tangents out of sight.
    """

    def call(*arguments: Any) -> Any:
        if forward_ad._current_level >= 0 and any(
            isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
            for value in arguments
        ):
            raise NotImplementedError(
                f"{NAMESPACE}::{name} has no forward-mode derivative; use reverse mode, for "
                "example torch.autograd.grad"
            )
        return op(*arguments)

    return call


def _below_autocast(op: Op, device: str, cast: Op | None) -> Op:
    """The op without autocast inside: a reference made of torch's own ops must not be cast.

    ``torch.library.register_autocast`` casts every tensor to one fixed dtype, which would take
    theta's precision away.
    """

    @wraps(op)
    def call(*arguments: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return op(*(arguments if cast is None else cast(*arguments)))

    return call


def differentiable(name: str, backward: Op, setup: Op) -> None:
    """Give the op ``name`` its gradient."""
    torch.library.register_autograd(
        f"{NAMESPACE}::{name}", backward, setup_context=setup, lib=_library
    )


def once_only(name: str) -> None:
    """Let differentiation of the op ``name``, itself a gradient, end in an error that says so."""

    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(_once_message(name))

    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, lib=_library)


def _once_message(name: str) -> str:
    return (
        f"{NAMESPACE}::{name} has no gradient: fastalign's ops can be differentiated once, not "
        "twice; write the loss with plain PyTorch where a second derivative is needed"
    )
