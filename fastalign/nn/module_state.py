"""What a module is made of at one moment, to see whether it has changed since."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class ModuleState:
    """What a module is made of at one moment: its tensors and parts and, of our own modules, all
    attributes. In-place changes of tensors leave it as it is, and a graph reads them.

    Attributes:
        hooked: a part of it has forward hooks.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        tables: list[dict[str, Any]] = []
        self._tensors: list[Tensor] = []
        for part in module.modules():
            own = type(part).__module__.partition(".")[0] == __name__.partition(".")[0]
            tables += [table for table in (part._parameters, part._buffers) if own or table]
            tables += [part._modules, vars(part)] if own else [part._modules]
            self._tensors += [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        self._tables, self._sizes = tables, list(map(len, tables))
        # Flat, since it is looked at before each replay: some ten microseconds.
        self._holders = [table for table in tables for _ in table]
        self._names = [name for table in tables for name in table]
        self._values = [value for table in tables for value in table.values()]
        self._places = list(map(Tensor.data_ptr, self._tensors))
        self._look_for_hooks()

    def _look_for_hooks(self) -> None:
        self._hooks = RemovableHandle.next_id
        self.hooked = any(
            part._forward_hooks or part._forward_pre_hooks for part in self._module.modules()
        )

    def holds(self) -> bool:
        """Whether the module is still the same, and without hooks."""
        if self._hooks != RemovableHandle.next_id:
            self._look_for_hooks()
        return (
            not self.hooked
            and self._places == list(map(Tensor.data_ptr, self._tensors))
            and self._sizes == list(map(len, self._tables))
            and all(map(operator.is_, map(dict.get, self._holders, self._names), self._values))
        )
