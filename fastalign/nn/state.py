"""The caller's state of torch, kept out of numbers that must not depend on it.

Autocast, rounding of float32, another default dtype or default device would change scores, or end
in messages of the layers below; tensors made in inference mode could never be scored against with
gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import is_batchedtensor

from fastalign.nn.float32 import unrounded

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def captured() -> bool:
    """Whether calls are recorded as a graph rather than run: no place for looks at values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, whose tensors have no memory to look at."""
    return not captured() and _are_functorch_transforms_active()


def require_beside(owner: str, name: str, value: Tensor, parameter: Tensor) -> None:
    """Refuse a tensor on another device than the layer's own.

    Raises:
        ValueError: it is elsewhere.
    """
    if value.device != parameter.device:
        raise ValueError(
            f"{owner}: {name} on {value.device}, the layer on {parameter.device}; move one of them "
            f"with .to({str(parameter.device)!r}) or .to({str(value.device)!r})"
        )


def require_unmapped(owner: str, name: str, value: Tensor) -> None:
    """Refuse a tensor that ``torch.vmap`` has taken apart, where whole batches are looked at.

    Raises:
        TypeError: it is one.
    """
    if transformed() and is_batchedtensor(value):
        raise TypeError(
            f"{owner}: {name} come from torch.vmap, which it cannot look through; it takes batches "
            "by itself: call it with all of them at once, [B, ...]"
        )


@contextmanager
def own_state(*, making: bool = False) -> Iterator[None]:
    """float32, unrounded, and the CPU as defaults, and no autocast, whatever the caller has set.

    Args:
        making: what is made stays: neither in inference mode nor without gradients.
    """
    with ExitStack() as stack:
        stack.enter_context(unrounded())
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in _autocast():
            stack.enter_context(torch.autocast(kind, enabled=False))
        if making and torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        yield


def _autocast() -> list[str]:
    """The types of device for which autocast is on."""
    accelerator = torch.accelerator.current_accelerator()
    kinds = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    return [kind for kind in kinds if torch.is_autocast_enabled(kind)]


def in_own_state(work: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """``work`` under :func:`own_state`; inside a graph that is being captured it is ``work``."""

    @functools.wraps(work)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if captured():
            return work(*args, **kwargs)
        with own_state():
            return work(*args, **kwargs)

    return run


def made_in_own_state(work: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """As :func:`in_own_state`, for ``work`` whose results stay."""

    @functools.wraps(work)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with own_state(making=True):
            return work(*args, **kwargs)

    return run
