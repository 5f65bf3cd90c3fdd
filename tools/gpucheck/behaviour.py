"""What a backend has to do beside right numbers: compile, be captured, repeat itself, follow the
current stream, address more than 2^31 elements; and what it relies on of the chip's arithmetic.

``python -m gpucheck.behaviour --backend cuda --device cuda --out FILE``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gpucheck import inplace
from gpucheck.records import Skip, run_checks

sys.path.insert(0, str(inplace.ROOT / "tests" / "ops"))

import torch  # noqa: E402
from op_support.cases import CASES, Case, Inputs, as_tuple  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fastalign import ops  # noqa: E402
from gpucheck import arithmetic, large  # noqa: E402

REPEATS = 20
# Blocks of several warps, a part of a tile left over.
SHAPE = (6, 33, 40, 37)


class Everything(nn.Module):
    """Every op, with gradients through all of them."""

    def __init__(self, backend: str, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.backend = backend
        packed = channels * (channels + 1) // 2
        generator = torch.Generator().manual_seed(0)
        self.offset = nn.Parameter(torch.randn(6, generator=generator) * 0.1)
        self.mean = nn.Parameter(torch.randn(channels, height, width, generator=generator))
        self.whitener = nn.Parameter(torch.randn(height * width, packed, generator=generator))

    def forward(self, x: Tensor, groups: Tensor) -> Tensor:
        own = {"backend": self.backend}
        theta = ops.affine.from_parameters(self.offset.expand(x.shape[0], 6), "affine")
        warped = ops.warp_affine(x, theta, padding_mode="border", **own)
        mask = ops.affine.valid_mask(theta, x.shape[2:])
        return (
            ops.pairwise_distance_loss(warped, mask, groups, **own)
            + ops.dense_similarity_loss(warped, x, groups, **own)
            + ops.dense_similarity(x, warped, **own).square().mean()
            + ops.pairwise_distance(warped, mask, groups, squared=True, **own).mean()
            + ops.mahalanobis(warped, self.mean, self.whitener, **own).mean()
        )


def _model_and_batch(backend: str, device: str) -> tuple[Everything, tuple[Tensor, Tensor]]:
    inputs = Inputs(torch.float32, device, shape=(6, 5, 21, 19))
    model = Everything(backend, *inputs.shape[1:]).to(device)
    return model, (inputs.features(), inputs.groups())


def _loss_and_gradients(call: Callable, model: nn.Module, batch: tuple) -> list[Tensor]:
    loss = call(*batch)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def compiles(backend: str, device: str, mode: str | None = None) -> None:
    """One graph, default code generation, forward and backward."""
    model, batch = _model_and_batch(backend, device)
    wanted = _loss_and_gradients(model, model, batch)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    for _ in range(3):
        found = [value.clone() for value in _loss_and_gradients(compiled, model, batch)]
    for out, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def _call(case: Case, backend: str, device: str, shape=SHAPE, seed: int = 0):
    """The tensors, and a function that runs the op on what they hold."""
    arguments = list(case.make(Inputs(torch.float32, device, shape=shape, seed=seed)))
    if case.op == "warp_affine_backward":
        arguments[-1] = True
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    reason = ops.available_backends(case.op, *tensors)[backend]
    if reason is not None:
        raise Skip(reason)
    op = getattr(torch.ops.fastalign, case.op)
    return tensors, lambda: as_tuple(op(*arguments, backend=backend))


def _same(first: tuple[Tensor, ...], second: tuple[Tensor, ...], what: str) -> None:
    for index, (one, two) in enumerate(zip(first, second, strict=True)):
        # As bits, so that NaN equals itself.
        if not torch.equal(one.nan_to_num(1e30), two.nan_to_num(1e30)):
            apart = (one.double() - two.double()).abs().max().item()
            raise AssertionError(f"{what}: result {index} differs by {apart:.3g}")


def repeats(case: Case, backend: str, device: str) -> None:
    """The same bits each time."""
    _, call = _call(case, backend, device)
    first = call()
    for _ in range(REPEATS - 1):
        _same(first, call(), "a repeated call")


def _need_cuda(device: str) -> None:
    if device != "cuda":
        raise Skip("needs a CUDA device")


def replays(case: Case, backend: str, device: str) -> None:
    """A captured call, replayed on new contents, gives the bits of an eager call on them."""
    _need_cuda(device)
    tensors, call = _call(case, backend, device)
    fresh, _ = _call(case, backend, device, seed=1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for contents in (tensors, fresh):
        for mine, new in zip(tensors, contents, strict=True):
            mine.copy_(new)
        for _ in range(2):
            graph.replay()
        torch.cuda.synchronize()
        _same(tuple(out.clone() for out in captured), call(), "the replay")


def follows_stream(case: Case, backend: str, device: str) -> None:
    """On a stream that is late, the op sees what was written before it there, and only there."""
    _need_cuda(device)
    tensors, call = _call(case, backend, device)
    fresh, expected = _call(case, backend, device, seed=1)
    wanted = expected()
    call()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        for mine, new in zip(tensors, fresh, strict=True):
            mine.copy_(new)
        found = call()
        copies = tuple(out.clone() for out in found)
    side.synchronize()
    _same(copies, wanted, "on another stream")


def deterministic(backend: str, device: str) -> None:
    """Under torch's switch: no refusal, and the same bits twice, gradients included."""
    model, batch = _model_and_batch(backend, device)
    plain = _loss_and_gradients(model, model, batch)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first = _loss_and_gradients(model, model, batch)
        second = _loss_and_gradients(model, model, batch)
    finally:
        torch.use_deterministic_algorithms(before)
    _same(tuple(first), tuple(second), "the second call")
    for out, expected in zip(first, plain, strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def training_step_replays(backend: str, device: str) -> None:
    """Forward and backward of all ops through autograd in one CUDA graph."""
    _need_cuda(device)
    model, batch = _model_and_batch(backend, device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            _loss_and_gradients(model, model, batch)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _loss_and_gradients(model, model, batch)
    graph.replay()
    torch.cuda.synchronize()
    wanted = _loss_and_gradients(model, model, batch)
    for out, expected in zip(captured, wanted, strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def checks(backend: str, device: str) -> dict[str, Callable[[], Any]]:
    """All, those that say most first."""
    first = list({case.op: case for case in reversed(CASES)}.values())[::-1]
    rest = [case for case in CASES if case not in first]
    result: dict[str, Callable[[], Any]] = {
        "training step, CUDA graph": partial(training_step_replays, backend, device),
        "deterministic switch": partial(deterministic, backend, device),
        **arithmetic.checks(backend, device),
    }
    for case in first:
        result[f"repeated {REPEATS} times: {case}"] = partial(repeats, case, backend, device)
        result[f"CUDA graph: {case}"] = partial(replays, case, backend, device)
        result[f"other stream: {case}"] = partial(follows_stream, case, backend, device)
    result["torch.compile, one graph"] = partial(compiles, backend, device)
    result.update(large.checks(backend, device))
    result["torch.compile, reduce-overhead"] = partial(compiles, backend, device, "reduce-overhead")
    for case in rest:
        result[f"repeated {REPEATS} times: {case}"] = partial(repeats, case, backend, device)
        result[f"CUDA graph: {case}"] = partial(replays, case, backend, device)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    run_checks(checks(options.backend, options.device), options.out)


if __name__ == "__main__":
    main()
