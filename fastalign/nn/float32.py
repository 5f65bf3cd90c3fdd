"""float32 as such, whatever the caller lets torch round it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

_Undo = Callable[[], None]
_ROUNDED = ("tf32", "bf16")

_lock = threading.Lock()
_inside = 0
_undo: ExitStack | None = None


@contextmanager
def unrounded() -> Iterator[None]:
    """Matrix products and convolutions of float32 without rounding their operands to tf32 or
    bfloat16, as torch may be told to on GPUs and CPUs, and lets convolutions on GPUs by default.

    These are switches of the whole process. They are set where they say otherwise, and are again
    what they were when the last of several threads has left.
    """
    global _inside, _undo
    with _lock:
        if _inside == 0:
            _undo = ExitStack()
            for switch in (_products, _convolutions):
                if (undo := switch()) is not None:
                    _undo.callback(undo)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _undo is not None:
                _undo.close()
                _undo = None


@contextmanager
def rounded_convolutions() -> Iterator[None]:
    """Convolutions on GPUs in tf32, within :func:`unrounded`: a switch of the whole process too."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "tf32"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


# torch has an older and a newer way to say it and refuses to tell by the older one what was said by
# the newer one alone. What was said by the older one is changed by it, so that whoever asks within,
# such as torch.compile, has an answer.


def _products() -> _Undo | None:
    matmul, onednn = torch.backends.cuda.matmul, torch.backends.mkldnn
    parts = [matmul, onednn.matmul, onednn.conv]  # type: ignore[attr-defined]
    if not any(part.fp32_precision in _ROUNDED for part in parts):
        return None
    undo = ExitStack()
    try:
        before = torch.get_float32_matmul_precision()
        if before != "highest":
            torch.set_float32_matmul_precision("highest")
            undo.callback(torch.set_float32_matmul_precision, before)
    except RuntimeError:
        pass
    for part in parts:
        _unround(part, undo)
    return undo.close


def _convolutions() -> _Undo | None:
    if not torch.cuda.is_initialized():
        return None
    cudnn = torch.backends.cudnn
    convolutions = cudnn.conv  # type: ignore[attr-defined]
    if convolutions.fp32_precision not in _ROUNDED:
        return None
    undo = ExitStack()
    try:
        if cudnn.allow_tf32:
            cudnn.allow_tf32 = False
            undo.callback(setattr, cudnn, "allow_tf32", True)
    except RuntimeError:
        pass
    _unround(convolutions, undo)
    return undo.close


def _unround(part: object, undo: ExitStack) -> None:
    before = part.fp32_precision  # type: ignore[attr-defined]
    if before in _ROUNDED:
        part.fp32_precision = "ieee"  # type: ignore[attr-defined]
        undo.callback(setattr, part, "fp32_precision", before)
