"""Every op on shapes, layouts and options that nobody chose, against the reference.

hypothesis draws them, the same ones in every run. What has one right answer is compared as in
test_every_op; samples on a pixel edge, where two answers are right, are left out.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_support.backends import Backend, runnable
from op_support.cases import DTYPES, Inputs, accumulation, as_tuple, exact, narrowed
from op_support.layouts import LAYOUTS
from op_support.tolerance import assert_accurate, edge_band, float64_yardstick
from torch import Tensor

from fastalign import ops
from fastalign.ops import reference

KERNELS = [backend for backend in runnable() if backend.name != "reference"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not KERNELS, reason="no backend but the reference can run here"),
    pytest.mark.parametrize("kernels", KERNELS, ids=str),
    # Of torch, where the tolerance asks it for positions on an axis of one pixel.
    pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid:UserWarning"),
]

# Sums have up to some thousand terms, in another order than the reference's.
ULPS = 32


def properties(examples: int):
    """The same examples in every run; the fixtures hold nothing that one could change."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# None, one, odd ones, whole vectors, one more than whole vectors and tiles.
BATCHES = st.sampled_from([0, 1, 2, 3, 5, 8])
CHANNELS = st.sampled_from([1, 2, 3, 7, 8, 17, 33, 64, 65])
SIDES = st.sampled_from([1, 2, 3, 5, 8, 9, 16, 17, 31, 33, 67, 130])
flags = st.booleans()


def draw_inputs(data: st.DataObject, largest: int, kernels: Backend, empty: bool = True) -> Inputs:
    """A dtype, a shape of at most ``largest`` elements, and a seed; no layout yet."""
    sides = st.one_of(st.just(0), SIDES) if empty else SIDES
    shapes = st.tuples(BATCHES, CHANNELS, sides, sides)
    limited = shapes.filter(lambda s: max(1, s[0]) * s[1] * s[2] * s[3] <= largest)
    shape = data.draw(limited, "shape")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    seed = data.draw(st.integers(0, 2**16), "seed")
    return Inputs(dtype, kernels.device, shape=shape, seed=seed)


def features(data: st.DataObject, inputs: Inputs, name: str) -> Tensor:
    """Random maps in a layout of their own; one image for all of the batch is a stride of 0."""
    inputs.layout = data.draw(st.sampled_from([*LAYOUTS, "expanded"]), f"layout of {name}")
    if inputs.layout != "expanded":
        return inputs.features()
    inputs.layout = "contiguous"
    return inputs.features()[:1].expand(inputs.shape)


def any_layout(data: st.DataObject, inputs: Inputs, name: str) -> Inputs:
    inputs.layout = data.draw(st.sampled_from(["contiguous", "sliced"]), f"layout of {name}")
    return inputs


def groups(data: st.DataObject, inputs: Inputs) -> Tensor | None:
    labels = st.sampled_from([-3, 0, 7, 2**40])
    count = inputs.shape[0]
    drawn = data.draw(st.none() | st.lists(labels, min_size=count, max_size=count), "groups")
    return None if drawn is None else torch.tensor(drawn, dtype=torch.int64, device=inputs.device)


def mask(data: st.DataObject, inputs: Inputs) -> Tensor | None:
    kind = data.draw(st.sampled_from(["none", "random", "nothing", "everything"]), "mask")
    drawn = any_layout(data, inputs, "mask").mask()
    return {
        "none": None,
        "random": drawn,
        "nothing": torch.zeros_like(drawn),
        "everything": torch.ones_like(drawn),
    }[kind]


def check(
    kernels: Backend,
    op: str,
    *arguments: object,
    ignore: Tensor | None = None,
    ulps: float = ULPS,
    terms: float = 0.0,
) -> None:
    """As accurate as plain PyTorch, or as the small term allows.

    ``terms``: the size of the terms whose sum the first result is, where they may cancel.
    """
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    reason = ops.available_backends(op, *tensors)[kernels.name]
    if reason is not None:
        assert kernels.may_refuse(tensors[0]), reason
        return
    kernel = reference.kernel(op)
    found = as_tuple(getattr(torch.ops.fastalign, op)(*arguments, backend=kernels.name))
    wanted = as_tuple(kernel(*exact(arguments)))
    plain = as_tuple(kernel(*arguments))
    assert [out.dtype for out in found] == [out.dtype for out in plain]
    if tensors[0].dtype == torch.float64:
        rounded = narrowed(arguments)
        narrow, narrow_exact = as_tuple(kernel(*rounded)), as_tuple(kernel(*exact(rounded)))
        plain = tuple(map(float64_yardstick, wanted, narrow, narrow_exact))
    for index, (out, best, same) in enumerate(zip(found, wanted, plain, strict=True)):
        if tensors[0].dtype != torch.float64 and out.dtype == torch.float64:
            out = out.float()  # theta's dtype is not that of the arithmetic
        allowed = ulps
        if terms and index == 0 and best.numel():
            allowed *= max(1.0, terms / max(best.abs().max().item(), 1e-300))
        name = f"{op}, result {index}"
        assert_accurate(out, best, same, ulps=allowed, ignore=ignore, name=name)


@given(data=st.data())
@properties(150)
def test_dense_similarity(kernels, poisoned, data):
    inputs = draw_inputs(data, 20_000, kernels)
    p, z = features(data, inputs, "p"), features(data, inputs, "z")
    labels = groups(data, inputs)
    need = data.draw(flags, "need_p"), data.draw(flags, "need_z")
    grad = any_layout(data, inputs, "grad").location_gradient()
    check(kernels, "dense_similarity", p, z, labels)
    check(kernels, "dense_similarity_backward", grad, p, z, labels, *need)
    check(kernels, "dense_similarity_loss", p, z, labels, *need, terms=1.0)


@given(data=st.data())
@properties(150)
def test_pairwise_distance(kernels, poisoned, data):
    inputs = draw_inputs(data, 10_000, kernels)
    h, valid, labels = features(data, inputs, "h"), mask(data, inputs), groups(data, inputs)
    squared, need_h = data.draw(flags, "squared"), data.draw(flags, "need_h")
    grad = any_layout(data, inputs, "grad").location_gradient()
    check(kernels, "pairwise_distance", h, valid, labels, squared)
    check(kernels, "pairwise_distance_backward", grad, h, valid, labels, squared)
    check(kernels, "pairwise_distance_loss", h, valid, labels, squared, need_h)


@given(data=st.data())
@properties(200)
def test_warp_affine(kernels, poisoned, data):
    inputs = draw_inputs(data, 20_000, kernels, empty=False)
    x = features(data, inputs, "x")
    largest = 20_000 // (max(1, inputs.shape[0]) * inputs.shape[1])
    sizes = st.tuples(SIDES, SIDES).filter(lambda size: size[0] * size[1] <= largest)
    size = data.draw(st.just(inputs.shape[2:]) | sizes, "size")
    mode = data.draw(st.sampled_from(["bilinear", "nearest"]), "mode")
    padding = data.draw(st.sampled_from(["zeros", "border", "reflection"]), "padding_mode")
    corners = data.draw(flags, "align_corners")
    wide = data.draw(flags, "float64 theta") or inputs.dtype == torch.float64
    # From nearly the identity to maps that look from far outside or through a keyhole.
    spread = data.draw(st.sampled_from([0.01, 0.2, 1.0]), "spread")
    inputs = any_layout(data, inputs, "theta")
    theta = inputs.theta(torch.float64 if wide else torch.float32, size=spread)

    # Positions are rounded to float32 unless x is float64, also under a float64 theta, where the
    # reference is better: off by an eps of the largest position, and by twice the largest value
    # for each pixel of that.
    reach = theta.abs().sum(-1).max().item() if theta.numel() else 0.0
    ulps = ULPS + 2 * (1 + reach) * max(inputs.shape[2:])

    # A position is rounded like the narrowest arithmetic that may compute it.
    band = edge_band(theta.float(), inputs.shape[2:], size, corners, mode).unsqueeze(1)
    band = band.to(inputs.device)
    options = mode, padding, corners
    doubtful = band if mode == "nearest" else None
    check(kernels, "warp_affine", x, theta, size, *options, ignore=doubtful, ulps=ulps)

    # Where two gradients are right, none is asked for.
    grad = inputs.other_size(*size)
    grad = torch.where(band, torch.zeros_like(grad), grad)
    need = data.draw(st.sampled_from([(True, True), (True, False), (False, True)]), "need")
    check(kernels, "warp_affine_backward", grad, x, theta, *options, *need, True, ulps=ulps)


@given(data=st.data())
@properties(150)
def test_mahalanobis(kernels, poisoned, data):
    inputs = draw_inputs(data, 8_000, kernels)
    x = features(data, inputs, "x")
    inputs = any_layout(data, inputs, "mean and whitener")
    mean = inputs.mean()
    stored = [torch.float32, torch.float16, torch.bfloat16]
    if inputs.dtype == torch.float64:
        stored = [torch.float64]
    kept_in = data.draw(st.sampled_from(stored), "stored")
    rank = data.draw(st.one_of(st.none(), st.integers(0, 9)), "rank")
    whitener = inputs.whitener(kept_in) if rank is None else inputs.low_rank(rank, kept_in)
    squared = data.draw(flags, "squared")
    need = tuple(data.draw(flags, f"need_{name}") for name in ("x", "mean", "whitener"))
    grad = any_layout(data, inputs, "grad").location_gradient()
    assert grad.dtype == accumulation(inputs.dtype)
    check(kernels, "mahalanobis", x, mean, whitener, None, None, squared)
    check(kernels, "mahalanobis_backward", grad, x, mean, whitener, squared, *need)
