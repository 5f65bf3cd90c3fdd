"""Tracing for a GPU that is not there: fake CUDA tensors, the Triton backend asked for by name.

Autograd's engine wants a device even of fake tensors, so gradients are traced as the ops they are.
"""

from __future__ import annotations

import pytest
import torch
from op_support.cases import CASES, Inputs, as_tuple
from op_support.functions import ONE_OF_EACH
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fastalign.ops.schema import SCHEMAS

# The last of each, with the most options.
LAST_CASES = {case.op: case for case in CASES}


def _fake(value: object) -> object:
    """An empty tensor on a GPU in place of one on the CPU, inside a FakeTensorMode."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_op_is_one_node(name):
    """Launches, grids and strides stay out of the graph; results are the GPU's, laid out as on the
    CPU."""
    given = LAST_CASES[name].make(Inputs(torch.float16, "cpu", "channels_last"))
    places = [n for n, value in enumerate(given) if isinstance(value, Tensor)]
    call = getattr(torch.ops.fastalign, name)

    def step(*tensors: Tensor):
        arguments = list(given)
        for n, tensor in zip(places, tensors, strict=True):
            arguments[n] = tensor
        return call(*arguments, backend="triton")

    with FakeTensorMode():
        fakes = [_fake(given[n]) for n in places]
    graph = make_fx(step)(*fakes).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    own = [target for target in called if target.startswith("fastalign.")]
    assert own == [f"fastalign.{name}.default"]
    assert all("getitem" in target for target in set(called) - set(own))
    (node,) = (node for node in graph.nodes if str(node.target) == own[0])
    wanted = as_tuple(call(*given, backend="reference"))
    for fake, real in zip(as_tuple(node.meta["val"]), wanted, strict=True):
        assert fake.device.type == "cuda"
        assert (fake.dtype, tuple(fake.shape)) == (real.dtype, tuple(real.shape))
        assert fake.stride() == real.stride()


@pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)
def test_dynamo_makes_one_graph(function):
    """The public functions, as ``torch.compile(fullgraph=True)`` meets them."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]):
        graphs.append(graph.graph)
        return graph.forward

    torch._dynamo.reset()
    given = function.make(Inputs(torch.float32, "cpu", "channels_last"))
    with FakeTensorMode(), torch.no_grad():
        compiled = torch.compile(
            lambda *tensors: function(*tensors, backend="triton"), backend=keep, fullgraph=True
        )
        out = compiled(*map(_fake, given))
    assert out.device.type == "cuda" and len(graphs) == 1
    called = [str(node.target) for node in graphs[0].nodes if node.op == "call_function"]
    assert [name for name in called if name.startswith("fastalign.")] == [
        f"fastalign.{function.name}.default"
    ]
