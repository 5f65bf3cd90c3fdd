"""What an op is, said once, and the ops of torch that follow: the map, its gradient, its loss.

From a declaration follow the schemas, the checks, what a fake returns, what autocast does, how
``torch.vmap`` folds its dimension away, and the calls of every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor

from fastalign.ops.arguments import Argument, Companion, Result, Size, Twin, flag
from fastalign.ops.layout import empty_gradient, empty_scalar, no_gradient

_HALVES = (torch.float16, torch.bfloat16)

Values = Sequence[Any]


@dataclass(frozen=True)
class Declaration:
    """An op and the ops that belong to it.

    Attributes:
        name: of the op and of the files that hold it; its gradient is ``<name>_backward``.
        arguments: in order, tensors before all others and those that may be missing last of them;
            the first is :class:`Features`, and ``backend`` comes after the last.
        result: of the op.
        loss: sign of the mean that ``<name>_loss`` is, with its gradients; 0 where there is none.
        switches: further flags of the gradient, each with what is asked for its value.
        backward: whether its gradient is an op, ``<name>_backward``. Without it the gradient is
            what torch makes of the reference's derivable form: for an op that computes where
            nothing learns.
        inference: arguments that may be missing and that ``<name>_backward`` does not have. Where
            one is given the gradient is what torch makes of the derivable form.
        absent: places of arguments that the forms of the reference take and that this declaration
            does not have (:attr:`learning`).
        independent: the axes along which a result depends on nothing but its own slice, the
            cheaper one to enlarge first: "images", "rows".
    """

    name: str
    arguments: tuple[Argument, ...]
    result: Result
    loss: int = 0
    switches: tuple[tuple[str, Callable[[], bool]], ...] = ()
    backward: bool = True
    inference: tuple[str, ...] = ()
    absent: tuple[int, ...] = ()
    independent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        order = {"Tensor": 0, "Tensor?": 1}
        kinds = [order.get(argument.type, 2) for argument in self.arguments]
        if kinds != sorted(kinds):
            raise ValueError(
                f"{self.name}: tensors come before other arguments, those that may be missing last "
                "of them: calls count on it"
            )

    @cached_property
    def derivable(self) -> tuple[int, ...]:
        """Places of the arguments that have a gradient."""
        return tuple(n for n, argument in enumerate(self.arguments) if argument.gradient)

    @cached_property
    def learning(self) -> Declaration:
        """The same without what is for inference alone."""
        names = [a.name for a in self.arguments]
        kept = tuple(a for a in self.arguments if a.name not in self.inference)
        absent = tuple(names.index(name) for name in self.inference)
        return replace(self, arguments=kept, inference=(), absent=absent)

    def needs(self, always: bool) -> tuple[Argument, ...]:
        """One flag for each gradient; none where a gradient is alone, unless ``always``."""
        names = [self.arguments[n].name for n in self.derivable]
        return tuple(flag(f"need_{name}") for name in names if always or len(names) > 1)


@dataclass(frozen=True)
class Op:
    """One op of torch; the base class is the map itself.

    Values are all arguments of the schema in order, with or without ``backend``, the last.
    """

    declaration: Declaration

    @property
    def name(self) -> str:
        return self.declaration.name

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        return self.declaration.arguments

    @property
    def results(self) -> int:
        """How many tensors it returns."""
        return self.declaration.result.count

    @property
    def first(self) -> int:
        """Place of the argument that the others go with."""
        return 0

    @cached_property
    def schema(self) -> str:
        """Arguments and results as ``torch.library.define`` takes them after the name."""
        words = [
            f"{a.type} {a.name}" + ("" if a.default is None else f"={a.default}")
            for a in self.arguments
        ]
        results = ", ".join(["Tensor"] * self.results)
        words.append('str backend="auto"')
        return f"({', '.join(words)}) -> " + (f"({results})" if self.results > 1 else results)

    @cached_property
    def size(self) -> int | None:
        """Place of the argument that says how large the result is, or None."""
        return next((n for n, a in enumerate(self.arguments) if isinstance(a, Size)), None)

    @cached_property
    def tensors(self) -> tuple[int, ...]:
        """Places of the tensors, those included that may be missing."""
        return tuple(n for n, a in enumerate(self.arguments) if a.type.startswith("Tensor"))

    @cached_property
    def derivable(self) -> tuple[int, ...]:
        """Places of the declared arguments that have a gradient: they decide which backend runs."""
        return tuple(n for n, a in enumerate(self.arguments) if a.gradient)

    @cached_property
    def check(self) -> Callable[[Values], None]:
        """Raises where an argument is wrong: the message names it, the value and the remedy."""
        op, first, of = self.declaration.name, self.first, self.arguments[self.first].name
        places = [n for n, a in enumerate(self.arguments) if type(a) is not Argument]
        # The first argument before all that are held against it.
        looks = [(n, self.arguments[n].check) for n in sorted(places, key=lambda n: n < first)]

        def check(values: Values) -> None:
            against = values[first]
            for place, look in looks:
                look(op, values[place], of, against)

        return check

    def empty(self, values: Values) -> Tensor | tuple[Tensor, ...]:
        """Uninitialised results of the right shape, dtype and strides."""
        size = () if self.size is None else values[self.size]
        return self.declaration.result.empty(values, size)

    def cast(self, values: Values) -> list[Any]:
        """The values as they are computed with under autocast: never in fewer bits.

        What a layer gave in 16 bits, and the op does not take so, is taken up to float32.
        """
        cast, first = list(values), self.first
        arguments = enumerate(self.arguments)
        twins = [n for n, a in arguments if isinstance(a, Twin) and values[n] is not None]
        if twins:
            dtypes = [values[n].dtype for n in (first, *twins)]
            widest = reduce(torch.promote_types, dtypes)
            for n in (first, *twins):
                cast[n] = values[n].to(widest)
        for n in self.derivable:
            argument, value = self.arguments[n], cast[n]
            if value is None:
                continue
            if isinstance(argument, Companion) and value.dtype in _HALVES:
                if value.dtype not in argument.dtypes(cast[first].dtype):
                    cast[n] = value.float()
        return cast


@dataclass(frozen=True)
class Gradient(Op):
    """``<name>_backward``: the gradients of ``sum(grad * op)`` that are asked for."""

    @property
    def name(self) -> str:
        return f"{self.declaration.name}_backward"

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        declared = self.declaration
        given = [replace(a, default=None) for a in declared.arguments if not isinstance(a, Size)]
        flags = [*declared.needs(False), *(flag(name) for name, _ in declared.switches)]
        grad = declared.result.gradient(declared.arguments[0].name)
        return (grad, *given, *(replace(a, default=None) for a in flags))

    @property
    def results(self) -> int:
        return len(self.declaration.derivable)

    @property
    def first(self) -> int:
        return 1

    def needs(self, values: Values) -> tuple[bool, ...]:
        """Which gradients are asked for."""
        flags = len(self.declaration.needs(False))
        end = len(self.arguments) - len(self.declaration.switches)
        return tuple(values[end - flags : end]) or (True,)

    def empty(self, values: Values) -> Tensor | tuple[Tensor, ...]:
        found = _gradients([values[n] for n in self.derivable], self.needs(values))
        return found if len(found) > 1 else found[0]


@dataclass(frozen=True)
class Loss(Op):
    """``<name>_loss``: the signed mean of the map, and its gradients, made in the same pass."""

    @property
    def name(self) -> str:
        return f"{self.declaration.name}_loss"

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        declared = self.declaration
        return tuple(replace(a, default=None) for a in (*declared.arguments, *declared.needs(True)))

    @property
    def results(self) -> int:
        return 1 + len(self.declaration.derivable)

    def needs(self, values: Values) -> tuple[bool, ...]:
        """Which gradients are asked for."""
        return tuple(values[len(self.declaration.arguments) : len(self.arguments)])

    def empty(self, values: Values) -> Tensor | tuple[Tensor, ...]:
        needs = self.needs(values)
        return empty_scalar(values[0]), *_gradients([values[n] for n in self.derivable], needs)


def _gradients(values: Values, needs: Sequence[bool]) -> tuple[Tensor, ...]:
    pairs = zip(values, needs, strict=True)
    return tuple(empty_gradient(value) if need else no_gradient(value) for value, need in pairs)
