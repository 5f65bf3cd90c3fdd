"""Between host and device: sent without waiting for the device, and fetched by name.

A copy from ordinary memory to a GPU, and every copy back, waits until the GPU has done all that
was asked of it. What a fit does in a loop goes through here, so each wait has its place.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. From the host to a GPU it goes from pinned memory, beside what the
    GPU is doing, and only what uses it waits for it."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    copies = _copies(device)
    with torch.cuda.stream(copies):
        moved = tensor.pin_memory().to(device, non_blocking=True)
    using = torch.cuda.current_stream(device)
    using.wait_stream(copies)
    # Its memory belongs to the other stream, which must not hand it on before this one is done.
    moved.record_stream(using)
    return moved


def fetched(tensor: Tensor) -> Tensor:
    """The tensor on the host, without gradients: waits for its device."""
    return tensor.detach().cpu()


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
