"""Validation of the ops' arguments: every message names the argument, what was given, what was
expected and, where it is not plain, the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))


def _text(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def _listed(words: Sequence[str]) -> str:
    """``a``; ``a or b``; ``a, b or c``."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _be(name: str) -> str:
    return "are" if name.endswith("s") else "is"


def _have(name: str) -> str:
    return "have" if name.endswith("s") else "has"


def dense(op: str, name: str, value: Tensor | None) -> Tensor:
    """One tensor whose numbers lie in memory one beside the other: not sparse, nested, quantised or
    in a layout of one library. Returns it."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{op}: {name} {_be(name)} of type {type(value).__name__}, expected a tensor"
        )
    if value.is_nested:
        raise TypeError(
            f"{op}: {name} {_be(name)} nested, expected one tensor whose images have one size; "
            "torch.stack of its parts (unbind()) makes it of those of the same size"
        )
    if value.layout is not torch.strided:
        raise TypeError(
            f"{op}: {name} {_have(name)} the layout {value.layout}, expected a dense tensor "
            "(torch.strided); convert with .to_dense()"
        )
    if value.is_quantized:
        raise TypeError(
            f"{op}: {name} {_be(name)} quantised ({value.dtype}), expected floating point; convert "
            "with .dequantize()"
        )
    return value


def floating(op: str, name: str, value: Tensor) -> None:
    """A dense tensor of a supported floating-point dtype."""
    dense(op, name, value)
    if value.dtype not in FLOATS:
        raise TypeError(
            f"{op}: {name} {_have(name)} dtype {value.dtype}, expected float32, float64, float16 "
            f"or bfloat16; convert, for example with {name}.float()"
        )


def features(op: str, name: str, value: Tensor) -> None:
    """A feature tensor ``[B,C,H,W]`` of a supported floating-point dtype."""
    dense(op, name, value)
    if value.dim() != 4:
        raise ValueError(
            f"{op}: {name} has shape {_text(value.shape)}, expected [B, C, H, W]; add the missing "
            "dimensions with unsqueeze()"
        )
    floating(op, name, value)


def not_empty(op: str, name: str, value: Tensor) -> None:
    """Feature tensors that can be sampled."""
    if value.shape[2] == 0 or value.shape[3] == 0:
        raise ValueError(
            f"{op}: {name} has shape {_text(value.shape)}, expected at least one row and one "
            "column to sample from"
        )


def dtype(
    op: str,
    name: str,
    value: Tensor,
    allowed: Sequence[torch.dtype],
    remedy: str,
    first: torch.dtype,
) -> None:
    """One of the dtypes ``allowed``; ``{dtype}`` in the remedy becomes ``first``."""
    if value.dtype not in allowed:
        one = len(allowed) == 1
        words = _listed([str(a) if one else str(a).removeprefix("torch.") for a in allowed])
        raise TypeError(
            f"{op}: {name} has dtype {value.dtype}, expected {words}{remedy.format(dtype=first)}"
        )


def device(op: str, name: str, value: Tensor, other: str, reference: Tensor) -> None:
    """On the device of ``reference``, which is the argument called ``other``."""
    if value.device != reference.device:
        raise ValueError(
            f"{op}: {name} is on {value.device}, expected {reference.device} where {other} is; "
            f"move it with {name}.to({other}.device)"
        )


def shape(op: str, name: str, value: Tensor, expected: Sequence[int | str], meaning: str) -> None:
    """Exactly the shape ``expected``, called ``meaning`` in the message; a letter is any size."""
    given = value.shape
    same = len(given) == len(expected) and all(
        isinstance(size, str) or own == size for own, size in zip(given, expected, strict=True)
    )
    if not same:
        raise ValueError(
            f"{op}: {name} has shape {_text(value.shape)}, expected {_text(expected)} ({meaning})"
        )


def size(op: str, name: str, value: Sequence[int]) -> None:
    """``(height, width)`` of a map that is not empty."""
    if len(value) != 2 or value[0] < 1 or value[1] < 1:
        raise ValueError(
            f"{op}: {name} is {tuple(value)}, expected (height, width), both at least 1"
        )


def count(op: str, name: str, value: int) -> None:
    """A whole number from 0 on."""
    if value < 0:
        raise ValueError(f"{op}: {name} {_be(name)} {value}, expected a number from 0 on")


def choice(op: str, name: str, value: str, allowed: Sequence[str]) -> None:
    """One of a few words."""
    if value not in allowed:
        words = ", ".join(repr(word) for word in allowed)
        raise ValueError(f"{op}: {name} is {value!r}, expected one of {words}")
