"""Sees every address that a kernel touches in the interpreter.

Allowed are the elements of the tensors that the launch was given, by their strides: neither what
lies around them nor between them. Wide borders keep tensors apart, so that no kernel leaves one and
arrives in the next. A read that is thrown away later counts like any other, since on
a GPU it may fault; poison around a buffer would not show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder


class OutOfBounds(AssertionError):
    """A kernel touched memory that it was not given."""


# Elements around a tensor; more than a block of any kernel reaches out in these tests.
_BORDER = 1 << 16


def bordered(tensor: Tensor) -> Tensor:
    """The same values and strides in memory of its own, with NaN around where there is NaN."""
    extent = 1 + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    space = torch.zeros(extent + 2 * _BORDER, dtype=tensor.dtype)
    if tensor.is_floating_point():
        space.fill_(float("nan"))
    return space.as_strided(tensor.shape, tensor.stride(), _BORDER).copy_(tensor)


def _addresses(tensor: Tensor) -> np.ndarray:
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(size) * stride
    return tensor.data_ptr() + offsets.flatten().numpy() * tensor.element_size()


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among arguments, those in tuples too."""
    found = []
    for value in values:
        if isinstance(value, tuple):
            found += _tensors(value)
        elif isinstance(value, Tensor):
            found.append(value)
    return found


@contextmanager
def watched() -> Iterator[list[str]]:
    """Accesses within are checked; yields the names of the kernels that were launched."""
    launched: list[str] = []
    allowed = np.empty(0, np.int64)

    def check(pointers: Any, mask: Any, what: str) -> None:
        chosen = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]
        outside = ~np.isin(chosen.astype(np.int64), allowed)
        if outside.any():
            raise OutOfBounds(f"{launched[-1]}: {int(outside.sum())} {what} outside its tensors")

    run, load, store = (
        InterpretedFunction.run,
        InterpreterBuilder.create_masked_load,
        InterpreterBuilder.create_masked_store,
    )

    def watched_run(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal allowed
        launched.append(self.fn.__name__)
        given = _tensors((*arguments, *named.values()))
        allowed = np.unique(np.concatenate([_addresses(value) for value in given]))
        return run(self, *arguments, **named)

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        check(pointers, mask, "reads")
        return load(self, pointers, mask, *rest, **named)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask, "writes")
        return store(self, pointers, value, mask, *rest)

    empty, new_empty = torch.empty, Tensor.new_empty
    torch.empty = lambda *given, **named: bordered(empty(*given, **named))
    Tensor.new_empty = lambda *given, **named: bordered(new_empty(*given, **named))
    InterpretedFunction.run = watched_run
    InterpreterBuilder.create_masked_load = watched_load
    InterpreterBuilder.create_masked_store = watched_store
    try:
        yield launched
    finally:
        torch.empty, Tensor.new_empty = empty, new_empty
        InterpretedFunction.run = run
        InterpreterBuilder.create_masked_load = load
        InterpreterBuilder.create_masked_store = store
