"""Kinds of arguments and of results: what each may be, and how its gradient looks.

The axes ``images`` and ``rows`` say where a tensor keeps the images of the batch and the rows of
the map, so that ``torch.vmap`` can put its own dimension in front of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.layout import accumulation_dtype, empty_locations, empty_maps

Dtypes = tuple[torch.dtype, ...]


@dataclass(frozen=True)
class Argument:
    """A named argument; ``type`` and ``default`` as the schema has them."""

    name: str
    type: str = "Tensor"
    default: str | None = None  # of the public op; its gradient and its loss have none
    gradient: bool = False  # whether it has one
    images: int | None = None
    rows: int | None = None
    whole: tuple[str, ...] = ()  # axes that must stay as they are where it is given

    def check(self, op: str, value: Any, of: str, first: Tensor) -> None:
        """Raise where ``value`` does not go with ``first``, the first argument, named ``of``."""


@dataclass(frozen=True)
class Features(Argument):
    """``[B,C,H,W]`` of a floating-point dtype: the first argument, which the others go with."""

    gradient: bool = True
    images: int | None = 0
    rows: int | None = 2
    sampled: bool = False  # must have a row and a column

    def check(self, op: str, value: Tensor, of: str, first: Tensor) -> None:
        checks.features(op, self.name, value)
        if self.sampled:
            checks.not_empty(op, self.name, value)


@dataclass(frozen=True)
class Companion(Argument):
    """A tensor that lies on the device of the first argument and whose shape and dtype follow.

    Attributes:
        shape: of it, given B, C, H, W of the first argument; a letter where any size will do.
        meaning: the same in words.
        dtypes: allowed for a dtype of the first argument.
        remedy: end of the message about a wrong dtype; ``{dtype}`` is that of the first argument.
    """

    shape: Callable[..., Sequence[int | str]] = lambda *size: size
    meaning: str = ""
    dtypes: Callable[[torch.dtype], Dtypes] = lambda first: (first,)
    remedy: str = ""

    def check(self, op: str, value: Tensor | None, of: str, first: Tensor) -> None:
        if value is None and self.type == "Tensor?":
            return
        value = checks.dense(op, self.name, value)
        checks.shape(op, self.name, value, tuple(self.shape(*first.shape)), self.meaning)
        checks.dtype(op, self.name, value, self.dtypes(first.dtype), self.remedy, first.dtype)
        checks.device(op, self.name, value, of, first)


@dataclass(frozen=True)
class Twin(Companion):
    """A second feature tensor like the first. Under autocast both take the wider dtype of the two,
    since one may come from a layer that autocast runs in 16 bits and the other not."""

    gradient: bool = True
    images: int | None = 0
    rows: int | None = 2


def groups(of: str) -> Companion:
    """Optional labels ``[B]`` of the images of ``of``."""
    return Companion(
        "groups",
        "Tensor?",
        "None",
        images=0,
        shape=lambda batch, *_: (batch,),
        meaning=f"one label for each image of {of}",
        dtypes=lambda first: (torch.int64,),
        remedy="; convert with .long()",
    )


def mask(of: str) -> Companion:
    """Optional validity ``[B,H,W]`` of the pixels of ``of``."""
    return Companion(
        "mask",
        "Tensor?",
        "None",
        images=0,
        rows=1,
        shape=lambda batch, channels, *size: (batch, *size),
        meaning=f"[B, H, W] of {of}",
        dtypes=lambda first: (torch.bool,),
        remedy=" (True where valid); compare, for example mask > 0",
    )


@dataclass(frozen=True)
class Size(Argument):
    """``(height, width)`` of the result. The op's gradient reads it off what it is given."""

    type: str = "SymInt[2]"

    def check(self, op: str, value: Sequence[int], of: str, first: Tensor) -> None:
        checks.size(op, self.name, value)


@dataclass(frozen=True)
class Choice(Argument):
    """One of a few words, the first of them by default."""

    type: str = "str"
    words: tuple[str, ...] = ()

    def check(self, op: str, value: str, of: str, first: Tensor) -> None:
        checks.choice(op, self.name, value, self.words)


def choice(name: str, *words: str) -> Choice:
    """One of ``words``, by default the first."""
    return Choice(name, default=f'"{words[0]}"', words=words)


@dataclass(frozen=True)
class Count(Argument):
    """A whole number from 0 on."""

    type: str = "int"

    def check(self, op: str, value: int, of: str, first: Tensor) -> None:
        checks.count(op, self.name, value)


def flag(name: str) -> Argument:
    """True or False, by default False."""
    return Argument(name, "bool", "False")


@dataclass(frozen=True)
class Locations:
    """A result ``[B,H,W]`` in the accumulation dtype of the first argument."""

    count = 1

    def empty(self, values: Sequence[Any], size: Sequence[int]) -> Tensor:
        return empty_locations(values[0])

    def gradient(self, of: str) -> Argument:
        """The argument that holds its gradient."""
        return Companion(
            "grad",
            images=0,
            rows=1,
            shape=lambda batch, channels, *size: (batch, *size),
            meaning=f"[B, H, W] of {of}",
            dtypes=lambda first: (accumulation_dtype(first),),
            remedy=f" (the accumulation dtype of {of})",
        )


@dataclass(frozen=True)
class Maps:
    """A result ``[B,C,height,width]`` in the dtype and memory format of the first argument."""

    count = 1

    def empty(self, values: Sequence[Any], size: Sequence[int]) -> Tensor:
        return empty_maps(values[0], size)

    def gradient(self, of: str) -> Argument:
        return _MapsGradient("grad", images=0, rows=2)


@dataclass(frozen=True)
class _MapsGradient(Argument):
    def check(self, op: str, value: Tensor, of: str, first: Tensor) -> None:
        checks.features(op, self.name, value)
        size = value.shape[2:]
        meaning = f"[B, C, height, width] with the B and C of {of}"
        checks.shape(op, self.name, value, (*first.shape[:2], *size), meaning)
        checks.size(op, "size", size)
        checks.dtype(op, self.name, value, (first.dtype,), f" (the dtype of {of})", first.dtype)
        checks.device(op, self.name, value, of, first)


@dataclass(frozen=True)
class Poses:
    """Two results like the second argument ``[B,K,2,3]``: the same and ``[B,K]``."""

    count = 2

    def empty(self, values: Sequence[Any], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        theta = values[1]
        return theta.new_empty(theta.shape), theta.new_empty(theta.shape[:2])

    def gradient(self, of: str) -> Argument:
        raise NotImplementedError("an op with two results has no op for its gradient")


@dataclass(frozen=True)
class WeightedMaps:
    """Two results ``[B,height,width]`` in the accumulation dtype of the first argument."""

    count = 2

    def empty(self, values: Sequence[Any], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        first = values[0]
        shape, dtype = (first.shape[0], *size), accumulation_dtype(first.dtype)
        return first.new_empty(shape, dtype=dtype), first.new_empty(shape, dtype=dtype)

    def gradient(self, of: str) -> Argument:
        """Says where its images are; there is no op that takes it."""
        return Argument("grad", images=0)


Result = Locations | Maps | Poses | WeightedMaps
