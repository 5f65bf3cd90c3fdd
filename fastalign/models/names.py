"""Tensors of several modules in one flat mapping, by dotted names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with ``prefix.`` before each name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins with ``prefix.``, without it."""
    dotted = prefix + "."
    return {
        name.removeprefix(dotted): value
        for name, value in tensors.items()
        if name.startswith(dotted)
    }
