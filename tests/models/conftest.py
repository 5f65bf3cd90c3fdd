"""What tests of the model share."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastalign import FYD

sys.path.insert(0, str(Path(__file__).parent))


def _replace(module: nn.Module, fn, recurse=True):
    """In the place of ``Module._apply``, which cannot put fake tensors into what is shared."""
    for child in module.children():
        child._apply(fn)
    for name, value in module._parameters.items():
        if value is not None:
            module._parameters[name] = nn.Parameter(fn(value), value.requires_grad)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = fn(value)
    return module


@pytest.fixture
def on_gpu(monkeypatch):
    """Gives a model fake tensors of a GPU in the place of its own."""
    with ExitStack() as stack:

        def move(model: FYD, gradients: bool = False) -> FYD:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(torch.set_grad_enabled(gradients))
            monkeypatch.setattr(nn.Module, "_apply", _replace)
            return model.to("cuda")

        yield move
