"""The short way of a call: the same as by the dispatcher, in every respect, call after call."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from op_support.functions import ONE_OF_EACH, require_gradients
from op_support.inputs import DTYPES, Inputs
from op_support.layouts import LAYOUTS
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign import ops
from fastalign.errors import BackendError
from fastalign.ops import backends, native
from fastalign.ops.declaration import Declaration
from fastalign.ops.schema import NAMESPACE

one_of_each = pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)

SHAPES = ((3, 4, 3, 5), (1, 1, 1, 1), (0, 3, 2, 4), (2, 0, 3, 3))


@pytest.fixture
def library():
    """The module ``fastalign._C``."""
    reason = native.load()
    if reason is not None:
        pytest.skip(reason)
    from fastalign import _C

    return _C


class _Through(TorchDispatchMode):
    """Sends calls by way of the dispatcher, and counts those of the ops."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func.namespace == NAMESPACE
        return func(*args, **(kwargs or {}))


def _everything(function, tensors: tuple[Tensor | None, ...], wanted: list[Tensor]):
    """The value and, where something learns, gradients of a graph that is kept, and again."""
    out = function(*tensors)
    grads: list[Tensor | None] = []
    if wanted and out.requires_grad:
        weights = torch.linspace(0.5, 2, out.numel(), dtype=out.dtype).view(out.shape)
        for keep in (True, False):
            grads += torch.autograd.grad(out, wanted, weights, retain_graph=keep, allow_unused=True)
    return [out.detach(), *grads]


def _assert_same(found, wanted):
    for one, two in zip(found, wanted, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            assert (one.dtype, one.stride()) == (two.dtype, two.stride())
            assert torch.equal(one, two)


@one_of_each
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_both_ways_give_the_same_bits(function, dtype):
    """The first call, which checks, and the second, which does not; each choice of gradients."""
    backends._settled.clear()
    subsets = [s for n in range(3) for s in itertools.combinations(function.derivable, n)][:4]
    for place, (layout, shape) in enumerate(itertools.product(LAYOUTS, SHAPES)):
        tensors = function.make(Inputs(dtype, layout=layout, shape=shape))
        if function.name in ("warp_affine", "refine_pose") and not tensors[0].numel():
            continue
        wanted = require_gradients(function, tensors, subsets[place % len(subsets)])
        first, second = (_everything(function, tensors, wanted) for _ in range(2))
        with _Through() as through:
            dispatched = _everything(function, tensors, wanted)
        assert through.calls
        _assert_same(first, dispatched)
        _assert_same(second, dispatched)


@one_of_each
def test_without_a_graph(function):
    tensors = function.make(Inputs())
    require_gradients(function, tensors)
    expected = function(*tensors).detach()
    for context in (torch.no_grad, torch.inference_mode):
        for _ in range(2):
            with context():
                out = function(*tensors)
            assert not out.requires_grad and torch.equal(out, expected)
            assert out.is_inference() == (context is torch.inference_mode)


def _calls(function, tensors) -> list:
    names = []

    class Names(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Names():
        function(*tensors)
    return names


@one_of_each
def test_whoever_looks_sees_the_op_after_calls_that_nobody_saw(function):
    tensors = function.make(Inputs())
    function(*tensors)
    assert any(f"{NAMESPACE}.{function.name}" in name for name in _calls(function, tensors))
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda *t: function(*t))(*tensors)
    assert f"{NAMESPACE}.{function.name}" in graph.code
    with torch.autograd.profiler.profile() as seen:
        function(*tensors)
    assert f"fastalign.{function.name}" in {event.key for event in seen.key_averages()}


class _Own(Tensor):
    """A subclass that torch's functions keep."""


def test_a_subclass_is_kept():
    x = torch.randn(2, 3, 4, 5).as_subclass(_Own)
    theta = ops.affine.identity(2)
    for _ in range(2):
        assert type(ops.warp_affine(x, theta)) is _Own
    assert type(ops.warp_affine(torch.nn.Parameter(x.as_subclass(Tensor)), theta)) is Tensor


WRONG = {
    "shape": (lambda z: z[:, :3], ValueError, "z has shape"),
    "dtype": (lambda z: z.double(), TypeError, "z has dtype"),
    "device": (lambda z: z.to("meta"), ValueError, "z is on meta"),
    "layout": (lambda z: z.to_sparse(), TypeError, "z has the layout"),
    "nested": (lambda z: torch.nested.nested_tensor(list(z)), TypeError, "z is nested"),
    "quantised": (lambda z: torch.quantize_per_tensor(z, 1.0, 0, torch.qint8), TypeError, "z is"),
    "kind": (lambda z: z.numpy(), RuntimeError, "argument 'z'"),
    "absent": (lambda z: None, TypeError, "z is of type NoneType, expected a tensor"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_argument_after_right_ones(kind):
    p, z = torch.randn(2, 2, 4, 3, 3)
    spoil, error, words = WRONG[kind]
    for _ in range(2):
        ops.dense_similarity(p, z)
        with pytest.raises(error, match=words):
            ops.dense_similarity(p, spoil(z))


@one_of_each
def test_what_is_no_tensor_is_named(function):
    """torch hands None to an op whose schema asks for a tensor."""
    tensors = function.make(Inputs(torch.float32, "cpu", shape=(4, 3, 2, 3)))
    optional = len(function.given.split(",")) if function.given else 0
    for place, learns in itertools.product(range(len(tensors) - optional), (False, True)):
        given = [tensors[0].clone().requires_grad_(learns), *tensors[1:]]
        given[place] = None
        with pytest.raises(TypeError, match="is of type NoneType, expected a tensor"):
            function(*given)


def test_options_that_have_no_hash_or_are_wrong():
    x, theta = torch.randn(2, 3, 4, 5), ops.affine.identity(2)
    expected = ops.warp_affine(x, theta, (3, 2))
    for _ in range(2):
        assert torch.equal(ops.warp_affine(x, theta, [3, 2]), expected)
        with pytest.raises(ValueError, match="mode is 'cubic'"):
            ops.warp_affine(x, theta, (3, 2), "cubic")
        with pytest.raises(ValueError, match="size is"):
            ops.warp_affine(x, theta, (3, 0))
        with pytest.raises(RuntimeError, match="align_corners"):
            ops.warp_affine(x, theta, align_corners="yes")


def test_the_environment_is_read_at_every_call(monkeypatch):
    h = torch.randn(3, 2, 4, 4)
    ops.pairwise_distance(h)
    for _ in range(2):
        monkeypatch.setenv(backends.ENVIRONMENT, "cuda")
        with pytest.raises(BackendError, match="asks for 'cuda'"):
            ops.pairwise_distance(h)
        monkeypatch.delenv(backends.ENVIRONMENT)
        ops.pairwise_distance(h)


def test_a_plan_is_forced_on_calls_that_were_made_before(library):
    h = torch.randn(3, 2, 4, 4, dtype=torch.float16)
    ops.pairwise_distance(h)
    with ops.forced_plan("warp_affine.cpu: rows=4"):
        with pytest.raises(RuntimeError, match="forced plan has no meaning"):
            ops.warp_affine(h, ops.affine.identity(3), mode="nearest")
    for mode in ("nearest", "bilinear"):
        ops.warp_affine(h, ops.affine.identity(3), mode=mode)


@pytest.mark.parametrize("asked", [False, True])
def test_the_deterministic_switch_is_asked_at_every_backward_pass(asked):
    seen: list[bool] = []
    x, theta = torch.randn(2, 3, 4, 5, requires_grad=True), ops.affine.identity(2)
    out = ops.warp_affine(x, theta).sum()
    out.backward(retain_graph=True)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(asked)
        with _Deterministic(seen):
            out.backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert seen == [asked]


class _Deterministic(_Through):
    def __init__(self, seen: list[bool]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "warp_affine_backward" in str(func):
            self.seen.append(args[8])
        return func(*args, **(kwargs or {}))


def test_what_is_no_plain_memory_takes_the_dispatcher():
    """Views that are to be negated, zeros without memory, wrappers of a transform that is over."""
    z = torch.randn(2, 4, 3, 3, dtype=torch.complex64)
    p, negated = torch.randn(2, 4, 3, 3), z.conj().imag
    assert negated.is_neg()
    expected = ops.dense_similarity(p, negated.clone().resolve_neg())
    nothing = torch._efficientzerotensor(2, 4, 3, 3)
    escaped = []
    torch.func.grad(lambda x: escaped.append(x) or x.sum())(p)
    for _ in range(2):
        assert torch.equal(ops.dense_similarity(p, negated), expected)
        assert torch.equal(ops.dense_similarity(p, nothing), torch.zeros(2, 3, 3))
        assert torch.equal(ops.dense_similarity(escaped[0], p), ops.dense_similarity(p, p))


def test_batched_gradients_of_a_kept_call():
    p = torch.randn(2, 4, 3, 3, requires_grad=True)
    z, many = torch.randn(2, 4, 3, 3), torch.randn(3, 2, 3, 3)
    out = ops.dense_similarity(p, z)
    for _ in range(2):
        (together,) = torch.autograd.grad(out, p, many, is_grads_batched=True, retain_graph=True)
        rows = [torch.autograd.grad(out, p, one, retain_graph=True)[0] for one in many]
        torch.testing.assert_close(together, torch.stack(rows))


def test_many_threads_at_once():
    """Each with sizes of its own, some of them met for the first time by several at once."""
    backends._settled.clear()
    wrong: list[object] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        for size in range(1, 9):
            p = torch.randn(3, 4, size, 2, generator=torch.Generator().manual_seed(size))
            p.requires_grad_(seed % 2 == 0)
            loss = ops.dense_similarity_loss(p, p.detach())
            if p.requires_grad:
                loss.backward()
            with torch.no_grad():
                if not torch.equal(loss, ops.dense_similarity_loss(p, p)):
                    wrong.append((seed, size))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_kept_has_a_bound(monkeypatch):
    monkeypatch.setattr(backends, "MOST_SETTLED", 5)
    backends._settled.clear()
    for size in range(1, 20):
        ops.pairwise_distance(torch.ones(2, 1, size, 1))
        assert len(backends._settled) <= 5


def test_saved_tensors_pass_by_hooks():
    """As torch.utils.checkpoint and offloading have it."""
    p, z = torch.randn(2, 3, 4, 2, 2)
    p.requires_grad_()
    (expected,) = torch.autograd.grad(ops.dense_similarity_loss(p, z), p)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: packed.append(tensor) or len(packed) - 1, lambda place: packed[place]
    ):
        loss = ops.dense_similarity_loss(p, z)
    assert torch.equal(torch.autograd.grad(loss, p)[0], expected)
    kept = torch.utils.checkpoint.checkpoint(
        lambda p: ops.dense_similarity_loss(p, z), p, use_reentrant=False
    )
    assert torch.equal(torch.autograd.grad(kept, p)[0], expected)


def test_the_native_callable_takes_what_the_op_takes(library):
    """By the kinds of its arguments alone; all else is the dispatcher's to refuse or to convert."""
    called = []
    bound = library.direct("dense_similarity", lambda *given: called.append(given), Tensor.is_neg)
    p = torch.randn(2, 3, 2, 2)
    if bound.__name__ == "<lambda>":
        pytest.skip("torch older than 2.14 has no way from Python's tensors to the stable ABI")
    assert torch.equal(bound(p, p, None), ops.dense_similarity(p, p))
    for given in ((p, p), (p, p, None, 1), (p, 3, None), (p.to("meta"), p.to("meta"), None), ()):
        assert bound(*given) is None
    assert len(called) == 5
    with pytest.raises(RuntimeError, match="z has shape"):
        bound(p, p[1:], None)
    assert library.direct("no_op", len, Tensor.is_neg) is len


def test_the_environment_by_the_library(library, monkeypatch):
    assert library.environment("A_VARIABLE_OF_TESTS") is None
    monkeypatch.setenv("A_VARIABLE_OF_TESTS", "väl\n")
    assert (
        library.environment("A_VARIABLE_OF_TESTS")
        == "väl\n"
        == native.environment("A_VARIABLE_OF_TESTS")
    )


def test_tensors_come_first_in_a_declaration():
    from fastalign.ops.arguments import Features, Locations, flag, groups

    for wrong in ((flag("squared"), Features("x")), (groups("x"), Features("x"))):
        with pytest.raises(ValueError, match="tensors come before other arguments"):
            Declaration("made_up", wrong, Locations())
