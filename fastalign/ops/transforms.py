"""The ops under torch.func: ``grad``, ``vmap``, ``jvp`` and whatever is made of them.

Reverse mode takes the ops and their gradients. ``vmap`` puts its dimension in front of one along
which the op is independent, images or rows, and makes one call; only where none fits it calls once
for each element. Forward mode goes through the reference's derivable form, because no kernel has
one: slower, and correct at every order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

from fastalign.ops.declaration import Gradient, Op, Values
from fastalign.ops.schema import NAMESPACE

Function = Callable[..., Any]


def forward_mode() -> bool:
    """Whether some transform around this call is a forward-mode derivative."""
    return any(level.key() == TransformType.Jvp for level in retrieve_all_functorch_interpreters())


def transformed(op: Op, setup: Function, rule: Function, form: Function) -> Function:
    """The op as torch.func takes it.

    Args:
        op: its declaration.
        setup: ``setup_context`` of its gradient.
        rule: ``backward`` of its gradient.
        form: the op without ``backend`` in ops of torch's own.
    """

    def call(*values: Any) -> Any:
        return getattr(getattr(torch.ops, NAMESPACE), op.name).default(*values)

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*values: Any) -> Any:
            return call(*values)

        setup_context = staticmethod(setup)
        backward = staticmethod(rule)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *values: Any) -> Any:
            return _folded(op, call, info.batch_size, in_dims, values)

    def kernel(*values: Any) -> Any:
        return form(*values[:-1]) if forward_mode() else Transformed.apply(*values)

    return kernel


def _folded(
    op: Op, call: Function, number: int, dims: tuple[int | None, ...], values: Values
) -> tuple[Any, Any]:
    """The call of ``number`` elements in one, and where each result has the dimension."""
    axis = _axis(op, dims, values)
    if axis is None:
        return _one_by_one(call, number, dims, values)
    given = list(values)
    for place in op.tensors:
        if values[place] is not None:
            at = getattr(op.arguments[place], axis)
            given[place] = _fold(values[place], dims[place], at, number)
    results = call(*given)
    places = _result_axes(op, axis, values)
    if not isinstance(results, tuple):
        return _unfold(results, places[0], number), places[0]
    pairs = zip(results, places, strict=True)
    return tuple(_unfold(result, at, number) for result, at in pairs), tuple(places)


def _axis(op: Op, dims: tuple[int | None, ...], values: Values) -> str | None:
    """The axis that the dimension goes to: every tensor that has the dimension must have it, and
    every gradient that is asked for, or it would be summed over the elements."""
    moved = {place for place in op.tensors if dims[place] is not None}
    if isinstance(op, Gradient):
        needs = zip(op.derivable, op.needs(values[:-1]), strict=True)
        moved |= {place for place, need in needs if need}
    whole = {
        axis
        for place in op.tensors
        if values[place] is not None
        for axis in op.arguments[place].whole
    }
    for axis in op.declaration.independent:
        if axis not in whole and all(
            getattr(op.arguments[place], axis) is not None for place in moved
        ):
            return axis
    return None


def _result_axes(op: Op, axis: str, values: Values) -> list[int | None]:
    """Where the results have the axis; None for a gradient that was not asked for."""
    if not isinstance(op, Gradient):
        return [getattr(op.declaration.result.gradient(""), axis)] * op.results
    needs = zip(op.derivable, op.needs(values[:-1]), strict=True)
    return [getattr(op.arguments[place], axis) if need else None for place, need in needs]


def _fold(value: Tensor, dim: int | None, at: int | None, number: int) -> Tensor:
    """The elements' tensors one after the other along axis ``at``."""
    if at is None:
        return value
    if dim is None:
        stacked = value.unsqueeze(at).expand(*value.shape[:at], number, *value.shape[at:])
    else:
        stacked = value.movedim(dim, at)
    return stacked.flatten(at, at + 1)


def _unfold(result: Tensor, at: int | None, number: int) -> Tensor:
    return result if at is None else result.unflatten(at, (number, result.shape[at] // number))


def _one_by_one(
    call: Function, number: int, dims: tuple[int | None, ...], values: Values
) -> tuple[Any, Any]:
    def element(n: int) -> Any:
        pairs = zip(values, dims, strict=True)
        return call(*(value if dim is None else value.select(dim, n) for value, dim in pairs))

    results = [element(n) for n in range(number)]
    if not isinstance(results[0], tuple):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(found) for found in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)
