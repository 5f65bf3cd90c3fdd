"""Tensors that depend on sizes alone, kept from call to call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from fastalign.nn.state import own_state, transformed
from fastalign.ops import plain

_MOST = 64
_holder: ContextVar[list[Tensor] | None] = ContextVar("_holder", default=None)


@contextmanager
def held() -> Iterator[list[Tensor]]:
    """The kept tensors that are used within, for who needs their memory for longer than they are
    kept: a recorded graph reads it at each replay."""
    tensors: list[Tensor] = []
    token = _holder.set(tensors)
    try:
        yield tensors
    finally:
        _holder.reset(token)


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``make`` with 64 of its results kept.

    While something is traced (torch.export, torch.compile, torch.func, fake tensors) the result is
    made anew and not kept: it may hold no numbers, and one that is kept may not be let in. Under
    :func:`fastalign.export.plain_ops` one that an earlier call has left is taken all the same, and
    is then a constant of the exported graph.
    """
    kept: dict[tuple[Hashable, ...], Tensor] = {}
    lock = threading.Lock()

    def get(*key: Hashable) -> Tensor:
        tracing = torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor
        # A transform of torch.func wraps what is made in it, and the wrapping ends with it.
        tracing = tracing or transformed()
        found = kept.get(key) if plain.active() or not tracing else None
        if found is not None:
            _hold(found)
            return found
        if tracing:
            return make(*key)
        # For later calls, in whatever state.
        with own_state(making=True):
            made = make(*key)
        with lock:
            if len(kept) >= _MOST:
                del kept[next(iter(kept))]
            kept[key] = made
        _hold(made)
        return made

    return get


def _hold(tensor: Tensor) -> None:
    holder = _holder.get()
    if holder is not None:
        holder.append(tensor)
