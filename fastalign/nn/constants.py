"""Tensors that depend on sizes alone, kept from call to call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from fastalign.nn.state import own_state, transformed
from fastalign.ops import plain

_MOST = 64


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
        return made

    return get
