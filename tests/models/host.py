"""Sees what tensors of a GPU that is not there have to do with the host."""

from __future__ import annotations

import traceback

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They wait for the device although no tensor of the host takes part: for a number of results, or
# whether a system could be solved.
WAITING = ("nonzero", "_local_scalar_dense", "_linalg_check_errors", "masked_select", "unique")


class Host(TorchDispatchMode):
    """Counts operations, and keeps those that a tensor of the host takes part in, or that wait for
    the device; what is kept for later calls (``fastalign.nn.constants``) is left out.

    Arguments:
        alone: keep also what happens on the host alone, beside the device.
        allowed: functions that may do it.
    """

    def __init__(self, alone: bool = True, allowed: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.count = 0
        self.found: list[str] = []
        self._alone, self._allowed = alone, allowed

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        waits = "cuda" in devices and any(name in str(func) for name in WAITING)
        if waits or (devices - {"cuda"} and (self._alone or "cuda" in devices)):
            stack = traceback.extract_stack()
            frames = [frame for frame in stack if "fastalign" in frame.filename]
            if not any(frame.filename.endswith("constants.py") for frame in frames) and not any(
                frame.name in self._allowed for frame in stack
            ):
                self.found.append(f"{func} at {frames[-1].filename}:{frames[-1].lineno}")
        return result
