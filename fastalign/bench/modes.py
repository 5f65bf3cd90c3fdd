"""How a function becomes what is measured: forward, backward, both ways, a loss with gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastalign.bench.problem import Problem

Results = tuple[Tensor, ...]
Work = Callable[..., Results]
Function = Callable[..., Tensor]
LOSS, FORWARD, BACKWARD, BOTH = "loss + gradient", "forward", "backward", "forward + backward"
MODES = {LOSS: "both", FORWARD: "forward", BACKWARD: "backward", BOTH: "both"}


def forward_work(function: Function) -> Work:
    """The result of ``function``."""
    return lambda *inputs: (function(*inputs),)


def both_work(function: Function) -> Work:
    """The result of ``function``, and its gradients for the last input, the upstream gradient."""

    def work(*inputs: Tensor) -> Results:
        out = function(*inputs[:-1])
        wanted = [x for x in inputs if x.requires_grad]
        return out.detach(), *torch.autograd.grad(out, wanted, inputs[-1])

    return work


def backward_work(function: Function) -> Work:
    """The gradients alone: what they need from the forward pass is made once for given inputs."""
    held: list[Any] = []

    def work(*inputs: Tensor) -> Results:
        if not held or any(a is not b for a, b in zip(held[0], inputs, strict=True)):
            held[:] = [inputs, function(*inputs[:-1])]
        wanted = [x for x in inputs if x.requires_grad]
        return torch.autograd.grad(held[1], wanted, inputs[-1], retain_graph=True)

    return work


def loss_work(function: Function) -> Work:
    """The loss that ``function`` gives, and its gradients."""

    def work(*inputs: Tensor) -> Results:
        loss = function(*inputs)
        return loss.detach(), *torch.autograd.grad(loss, [x for x in inputs if x.requires_grad])

    return work


_WAYS = {FORWARD: forward_work, BACKWARD: backward_work, BOTH: both_work, LOSS: loss_work}


@dataclass(frozen=True)
class Kind:
    """One op in one mode.

    ``function(backend)`` takes the inputs, without the last one, the upstream gradient, where there
    is one; ``baselines`` are functions of the same arguments, ``whole`` finished works.
    """

    way: str
    inputs: Callable[[Problem, str, int], Results]
    function: Callable[[str | None], Function]
    baselines: Callable[[], dict[str, Function]]
    libraries: Callable[[Problem], dict[str, Function]]
    bytes: Callable[[Problem], int]
    whole: Callable[[], dict[str, Work]] = dict

    def ours(self, backend: str | None) -> Work:
        return _WAYS[self.way](self.function(backend))

    def others(self, case: Problem) -> dict[str, Work]:
        found = {name: _WAYS[self.way](f) for name, f in self.baselines().items()}
        found |= {name: _WAYS[self.way](f) for name, f in self.libraries(case).items()}
        return {**found, **self.whole()}
