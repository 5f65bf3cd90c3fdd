"""What torch knows of the ops: schemas, fakes, autocast, autograd keys, determinism."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from op_support.backends import Backend
from op_support.cases import CASES, DTYPES, SHAPE, Case, Inputs, as_tuple, short
from op_support.functions import ONE_OF_EACH, require_gradients
from op_support.layouts import LAYOUTS
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign import ops
from fastalign.ops.schema import NAMESPACE, OPS, SCHEMAS, STEMS

every_case = pytest.mark.parametrize("case", CASES, ids=str)
one_of_each = pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)

# The op and the gradient it needs: the first case of each op.
ONE_CASE_OF_EACH = list({case.op: case for case in reversed(CASES)}.values())


@pytest.mark.parametrize("name", SCHEMAS)
def test_torch_has_the_schema(name):
    schema = getattr(getattr(torch.ops, NAMESPACE), name).default._schema
    assert str(schema) == f"{NAMESPACE}::{name}{SCHEMAS[name]}"
    assert schema.arguments[-1].name == "backend" and schema.arguments[-1].default_value == "auto"
    assert not schema.is_mutable


@pytest.mark.parametrize("name", STEMS)
def test_the_defaults_of_op_and_function_agree(name):
    parameters = inspect.signature(getattr(ops, name)).parameters
    schema = getattr(torch.ops.fastalign, name).default._schema
    assert [argument.name for argument in schema.arguments] == list(parameters)
    for argument in schema.arguments:
        if argument.has_default_value() and argument.name != "backend":
            assert argument.default_value == parameters[argument.name].default


def _differentiable(case: Case) -> tuple[str, ...]:
    """Names of the arguments that have a gradient, of maps and losses."""
    op = OPS[case.op]
    return () if op.first else tuple(op.arguments[place].name for place in op.derivable)


def _arguments(case: Case, backend: Backend, dtype: torch.dtype, layout: str) -> tuple:
    """The case's arguments, those asked for as gradients requiring them."""
    arguments = list(case.make(Inputs(dtype, backend.device, layout)))
    schema = getattr(torch.ops.fastalign, case.op).default._schema
    places = {argument.name: n for n, argument in enumerate(schema.arguments)}
    for name in _differentiable(case):
        flag = places.get(f"need_{name}")
        value = arguments[places[name]] if places[name] < len(arguments) else None
        if value is not None and value.is_floating_point() and (flag is None or arguments[flag]):
            value.requires_grad_()
    backend.require(case.op, *(value for value in arguments if isinstance(value, Tensor)))
    return tuple(arguments)


def _opcheck(case: Case, backend: Backend, dtype: torch.dtype, layout: str, *tests: str) -> None:
    arguments = _arguments(case, backend, dtype, layout)
    op = getattr(torch.ops.fastalign, case.op).default
    options = {"atol": 1e-2, "rtol": 1e-2} if dtype in (torch.float16, torch.bfloat16) else {}
    torch.library.opcheck(op, arguments, {"backend": backend.name}, test_utils=tests, **options)


@every_case
def test_opcheck(case, backend):
    """Nothing changed in place, no alias, and a fake that agrees with the op in every respect."""
    tests = "test_schema", "test_autograd_registration", "test_faketensor"
    for layout in ("contiguous", "channels_last", "permuted"):
        _opcheck(case, backend, torch.float32, layout, *tests)


@pytest.mark.parametrize("case", ONE_CASE_OF_EACH, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
def test_opcheck_of_dtypes(case, dtype, backend):
    for layout in ("sliced", "sliced_channels_last"):
        _opcheck(case, backend, dtype, layout, "test_schema", "test_faketensor")


@pytest.mark.parametrize(
    "case", [case for case in ONE_CASE_OF_EACH if _differentiable(case)], ids=str
)
def test_opcheck_of_tracing(case, traced):
    """Forward and backward traced with sizes that are not known, against the op itself."""
    _opcheck(case, traced, torch.float32, "channels_last", "test_aot_dispatch_dynamic")


SHAPES = {
    "usual": SHAPE,
    "one pixel": (3, 4, 1, 1),
    "one channel": (3, 1, 3, 2),
    "no image": (0, 3, 4, 5),
}


@every_case
def test_fakes_have_the_strides_of_the_results(case, backend):
    op, mode = getattr(torch.ops.fastalign, case.op), FakeTensorMode()
    for layout, (name, shape) in itertools.product(LAYOUTS, SHAPES.items()):
        arguments = case.make(Inputs(torch.float32, backend.device, layout, shape))
        real = as_tuple(backend.run(case.op, *arguments))
        with mode:
            fakes = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]
            pretended = as_tuple(op(*fakes, backend=backend.name))
        for fake, out in zip(pretended, real, strict=True):
            described = [(t.shape, t.dtype, t.device, t.stride()) for t in (fake, out)]
            assert described[0] == described[1], f"{layout}, {name}"


def test_a_result_is_no_view_of_an_argument(backend):
    """Identity maps and lonely images must not hand the input itself out."""
    x = torch.randn(1, 3, 4, 5, device=backend.device)
    theta = ops.affine.identity(1, device=backend.device)
    size = x.shape[2:]
    results = [
        backend.run("warp_affine", x, theta, size, "nearest", "zeros", False),
        *backend.run(
            "warp_affine_backward", x, x, theta, "nearest", "zeros", False, True, True, False
        ),
        backend.run("pairwise_distance", x, None, None, False),
    ]
    taken = {x.untyped_storage().data_ptr(), theta.untyped_storage().data_ptr()}
    assert all(out.untyped_storage().data_ptr() not in taken for out in results)


def _value_and_gradients(function, tensors, backend):
    wanted = require_gradients(function, tensors)
    out = function(*tensors, backend=backend.name)
    return out, *torch.autograd.grad(out.sum(), wanted)


@one_of_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=short)
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16], ids=short)
def test_autocast_changes_nothing(function, dtype, low, backend):
    """Inputs keep their dtype, and nothing inside an op is cast either."""
    tensors = function.make(Inputs(dtype, backend.device))
    backend.require(function.name, *(value for value in tensors if value is not None))
    plain = _value_and_gradients(function, tensors, backend)
    with torch.autocast(backend.device, dtype=low):
        cast = _value_and_gradients(function, tensors, backend)
    for was, now in zip(plain, cast, strict=True):
        assert was.dtype == now.dtype and torch.equal(was, now)


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16], ids=short)
def test_autocast_takes_theta_up(low, backend):
    """A localiser under autocast gives 16 bits; outside autocast they are an error."""
    inputs = Inputs(torch.float32, backend.device)
    x, theta = inputs.features(), inputs.theta().to(low).requires_grad_()
    backend.require("warp_affine", x, theta.float())
    with torch.autocast(backend.device, dtype=low):
        out = ops.warp_affine(x, theta, backend=backend.name)
    assert torch.equal(out, ops.warp_affine(x, theta.float(), backend=backend.name))
    assert torch.autograd.grad(out.sum(), theta)[0].dtype == low
    with pytest.raises(TypeError, match="theta has dtype"):
        ops.warp_affine(x, theta, backend=backend.name)


@pytest.mark.parametrize("name", ["dense_similarity", "dense_similarity_loss"])
def test_autocast_takes_the_wider_of_two_dtypes(name, backend):
    """p may come from a layer that autocast runs in 16 bits, and z from one that it does not."""
    inputs = Inputs(torch.float32, backend.device)
    p, z = inputs.features().half().requires_grad_(), inputs.features().requires_grad_()
    backend.require(name, p.float(), z)
    function = getattr(ops, name)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        out = function(p, z, backend=backend.name)
        to_p, to_z = torch.autograd.grad(out.sum(), (p, z))
    assert torch.equal(out, function(p.float(), z, backend=backend.name))
    assert to_p.dtype == torch.float16 and to_z.dtype == torch.float32
    with pytest.raises(TypeError, match="z has dtype torch.float32, expected torch.float16"):
        function(p, z, backend=backend.name)


class _Calls(TorchDispatchMode):
    """Records the calls of fastalign's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, tuple] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == NAMESPACE:
            self.arguments[func._schema.name.removeprefix(f"{NAMESPACE}::")] = args
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("asked", [False, True])
def test_the_gradient_of_a_warp_follows_the_deterministic_switch(asked, backend):
    inputs = Inputs(torch.float32, backend.device)
    x, theta = inputs.features().requires_grad_(), inputs.theta()
    backend.require("warp_affine_backward", x, theta)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(asked)
        with _Calls() as calls:
            ops.warp_affine(x, theta, backend=backend.name).sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    *_, need_x, need_theta, deterministic, name = calls.arguments["warp_affine_backward"]
    assert (need_x, need_theta, deterministic, name) == (True, False, asked, backend.name)


@one_of_each
def test_the_short_way_to_a_kernel_ends_where_the_dispatcher_does(function, backend):
    """The same bits, without the op; a mode that looks for the op finds it."""
    tensors = function.make(Inputs(torch.float32, backend.device))
    backend.require(function.name, *(value for value in tensors if value is not None))
    with torch.autograd.profiler.profile() as seen:
        direct = _value_and_gradients(function, tensors, backend)
    assert not any(event.key.startswith(f"{NAMESPACE}::") for event in seen.key_averages())
    with _Calls() as calls:
        dispatched = _value_and_gradients(function, tensors, backend)
    assert function.name in calls.arguments
    assert all(torch.equal(one, two) for one, two in zip(direct, dispatched, strict=True))


@one_of_each
def test_the_backward_pass_uses_the_backend_of_the_forward_pass(function, backend):
    tensors = function.make(Inputs(torch.float32, backend.device))
    backend.require(function.name, *(value for value in tensors if value is not None))
    with _Calls() as calls:
        _value_and_gradients(function, tensors, backend)
    assert all(arguments[-1] == backend.name for arguments in calls.arguments.values())
    expected = 1 if function.name.endswith("_loss") else 2
    assert len(calls.arguments) == expected, "a loss computes its gradient in the same pass"
