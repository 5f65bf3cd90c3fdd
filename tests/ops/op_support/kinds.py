"""What a test walks over: a call of an op, a public function with its options, a wrong call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastalign import ops
from op_support.inputs import Arguments, Inputs
from op_support.tolerance import ULPS


@dataclass(frozen=True)
class Case:
    """An op with one choice of options; ``make`` gives the schema's arguments before backend.

    ``ulps``: what float64 may be off on top of the yardstick, in units in the last place; more than
    usual where float32 has sums in a wider type, and float64 has none.
    """

    op: str
    options: str
    make: Callable[[Inputs], Arguments]
    ulps: float = ULPS

    def __str__(self) -> str:
        return f"{self.op}({self.options})" if self.options else self.op


@dataclass(frozen=True)
class Function:
    """A public function of tensors with one choice of its options."""

    name: str
    make: Callable[[Inputs], tuple[Tensor | None, ...]]  # the tensors, in order
    definition: Callable[..., Tensor]  # of the tensors, the options and a dtype
    derivable: tuple[int, ...]  # which of the tensors may require a gradient
    options: dict[str, object] = field(default_factory=dict)
    given: str = ""  # which optional tensors are there

    def __str__(self) -> str:
        flags = [key for key, value in self.options.items() if value is True]
        words = [value for value in self.options.values() if isinstance(value, str)]
        text = ",".join([*words, *flags, *([self.given] if self.given else [])])
        return f"{self.name}({text})" if text else self.name

    def __call__(self, *tensors: Tensor | None, backend: str | None = None) -> Tensor:
        return getattr(ops, self.name)(*tensors, **self.options, backend=backend)

    def defined(self, *tensors: Tensor | None, dtype: torch.dtype = torch.float64) -> Tensor:
        """The result by definition, computed in ``dtype``."""
        return self.definition(*tensors, **self.options, dtype=dtype)


def negative_mean(definition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors, **options: -definition(*tensors, **options).mean()


def mean(definition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors, **options: definition(*tensors, **options).mean()


# A wrong call: op or function, arguments made anew for each run (the last may be a dictionary of
# those that go by name), error, and every part that the
# message must have.
Row = tuple[str, Callable[[], tuple], type[Exception], tuple[str, ...]]
