"""On a GPU nothing between image and map waits for the host: shown with tensors of a GPU that is
not there."""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastalign import FYD

KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"


class Host(TorchDispatchMode):
    """Counts operations, and keeps those that a tensor of the host takes part in; what is kept for
    later calls (``fastalign.nn.constants``) is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type != "cuda" for tensor in tensors):
            frames = [f for f in traceback.extract_stack() if "fastalign" in f.filename]
            if not any(frame.filename.endswith("constants.py") for frame in frames):
                self.found.append(f"{func} at {frames[-1].filename}:{frames[-1].lineno}")
        return result


def _whole(model: FYD) -> FYD:
    return model


def _plain_ica(model: FYD) -> FYD:
    model.pose.install(ica=model.pose.make_ica())
    return model


def _unaligned(model: FYD) -> FYD:
    model.pose.install()
    model.features.fca = None
    return model


def _replace(module: nn.Module, fn, recurse=True):
    """In the place of ``Module._apply``, which cannot put fake tensors into what is shared."""
    for child in module.children():
        child._apply(fn)
    for name, value in module._parameters.items():
        if value is not None:
            module._parameters[name] = nn.Parameter(fn(value), requires_grad=False)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = fn(value)
    return module


@pytest.fixture
def on_gpu(monkeypatch):
    """Gives a model fake tensors of a GPU in the place of its own."""
    with ExitStack() as stack:

        def move(model: FYD) -> FYD:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(torch.no_grad())
            monkeypatch.setattr(nn.Module, "_apply", _replace)
            return model.to("cuda")

        yield move


@pytest.mark.parametrize("method", ["forward", "predict_detail"])
@pytest.mark.parametrize("change", [_whole, _plain_ica, _unaligned])
def test_an_image_becomes_a_map_on_its_device(change, method, on_gpu):
    model = on_gpu(change(FYD.load(KEPT)))
    images = torch.empty(2, 3, *model.config.image_size, device="cuda")
    getattr(model, method)(images)
    with Host() as host:
        results = getattr(model, method)(images)
    assert {result.device.type for result in results} == {"cuda"}
    assert host.count > 50 and not host.found


def test_a_look_at_a_value_is_seen(on_gpu, monkeypatch):
    model = on_gpu(FYD.load(KEPT))
    images = torch.empty(1, 3, *model.config.image_size, device="cuda")
    map_from = model.maps.map_from
    monkeypatch.setattr(
        model.maps, "map_from", lambda distance, *rest: map_from(distance.cpu().cuda(), *rest)
    )
    with Host() as host:
        model(images)
    assert host.found


@pytest.mark.parametrize("change", [_whole, _plain_ica, _unaligned])
def test_the_whole_of_forward_is_one_graph(change, on_gpu):
    """As ``torch.compile`` and exports see it: no choice by a value breaks it."""
    model = on_gpu(change(FYD.load(KEPT)))
    images = torch.empty(2, 3, *model.config.image_size, device="cuda")
    graphs = []

    def kept(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    results = torch.compile(model, backend=kept, fullgraph=True)(images)
    assert len(graphs) == 1 and {result.device.type for result in results} == {"cuda"}
