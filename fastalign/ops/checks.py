"""Validation of the ops' arguments: every message names the argument, what was given, what was
expected and, where it is not plain, the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
MODES = ("bilinear", "nearest")
PADDING_MODES = ("zeros", "border", "reflection")


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def features(op: str, name: str, value: Tensor) -> None:
    """A feature tensor ``[B,C,H,W]`` of a supported floating-point dtype."""
    if value.dim() != 4:
        raise ValueError(
            f"{op}: {name} has shape {_text(value.shape)}, expected [B, C, H, W]; add the missing "
            "dimensions with unsqueeze()"
        )
    if value.dtype not in FLOATS:
        raise TypeError(
            f"{op}: {name} has dtype {value.dtype}, expected float32, float64, float16 or "
            f"bfloat16; convert it, for example with {name}.float()"
        )


def dtype(op: str, name: str, value: Tensor, expected: torch.dtype, why: str) -> None:
    """Exactly the dtype ``expected``; ``why`` says where that follows from."""
    if value.dtype != expected:
        raise TypeError(f"{op}: {name} has dtype {value.dtype}, expected {expected} {why}")


def device(op: str, name: str, value: Tensor, other: str, reference: Tensor) -> None:
    """On the device of ``reference``, which is the argument called ``other``."""
    if value.device != reference.device:
        raise ValueError(
            f"{op}: {name} is on {value.device}, expected {reference.device} where {other} is; "
            f"move it with {name}.to({other}.device)"
        )


def shape(op: str, name: str, value: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Exactly the shape ``expected``, called ``meaning`` in the message."""
    if value.shape != expected:
        raise ValueError(
            f"{op}: {name} has shape {_text(value.shape)}, expected {_text(expected)} ({meaning})"
        )


def groups(op: str, value: Tensor | None, other: str, reference: Tensor) -> None:
    """Optional labels: int64 ``[B]``."""
    if value is None:
        return
    if value.dtype != torch.int64:
        raise TypeError(
            f"{op}: groups has dtype {value.dtype}, expected torch.int64; convert with .long()"
        )
    shape(op, "groups", value, reference.shape[:1], f"one label for each image of {other}")
    device(op, "groups", value, other, reference)


def mask(op: str, value: Tensor | None, other: str, reference: Tensor) -> None:
    """Optional validity: bool ``[B,H,W]``."""
    if value is None:
        return
    if value.dtype != torch.bool:
        raise TypeError(
            f"{op}: mask has dtype {value.dtype}, expected torch.bool (True where valid); compare, "
            "for example mask > 0"
        )
    batch, _, height, width = reference.shape
    shape(op, "mask", value, (batch, height, width), f"[B, H, W] of {other}")
    device(op, "mask", value, other, reference)


def location_gradient(op: str, grad: Tensor, name: str, reference: Tensor) -> None:
    """The gradient of a ``[B,H,W]`` result in the accumulation dtype of ``reference``."""
    batch, _, height, width = reference.shape
    shape(op, "grad", grad, (batch, height, width), f"[B, H, W] of {name}")
    expected = torch.float64 if reference.dtype == torch.float64 else torch.float32
    dtype(op, "grad", grad, expected, f"(the accumulation dtype of {name})")
    device(op, "grad", grad, name, reference)


def choice(op: str, name: str, value: str, allowed: Sequence[str]) -> None:
    """One of a few words."""
    if value not in allowed:
        words = ", ".join(repr(word) for word in allowed)
        raise ValueError(f"{op}: {name} is {value!r}, expected one of {words}")
