"""What a call costs beside its work: our ops on maps of a few pixels, directly and as torch's ops.

    python benchmarks/micro/calls.py [--device cuda] [--write]

"call" is the public function, "dispatched" the registered op that tracing sees (`fastalign::*`),
"kernel" the kernel alone, and "eager" the same formula in torch's own ops. Contestants take turns,
twenty calls each time; the least time of many turns, since what is measured is a path and not a
machine's neighbours. On a GPU the host's time until a call returns is taken, in bursts that the
device keeps up with. `--write` keeps the table in benchmarks/results/calls.md.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign import ops
from fastalign.bench.setting import describe
from fastalign.ops.backends import resolve

RESULTS = Path(__file__).resolve().parents[1] / "results" / "calls.md"
BURST, TURNS = 20, 120
SHAPES = (4, 32, 16, 16), (2, 4, 2, 2)
CONTESTANTS = "call", "dispatched", "kernel", "eager"

Call = Callable[[], object]


def similarity_loss(p: Tensor, z: Tensor) -> Tensor:
    """``dense_similarity_loss`` in torch's ops, in O(B) as well."""
    p, z = F.normalize(p, dim=1), F.normalize(z, dim=1)
    others = (z.sum(0, keepdim=True) - z) / (len(z) - 1)
    return -(p * others).sum(1).mean()


def distance(h: Tensor) -> Tensor:
    """``pairwise_distance`` in torch's ops: all pairs."""
    pairs = torch.linalg.vector_norm(h[:, None] - h[None], dim=2)
    return pairs.sum(1) / (len(h) - 1)


def formula(x: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """``mahalanobis`` in torch's ops, from full factors ``[H*W, C, C]``."""
    deviation = (x - mean).flatten(2).permute(2, 1, 0)
    return torch.linalg.vector_norm(factor @ deviation, dim=1).T.unflatten(1, x.shape[2:])


def low_rank(x: Tensor, mean: Tensor, rows: Tensor) -> Tensor:
    """The low-rank form of ``mahalanobis`` in torch's ops."""
    deviation = (x - mean).flatten(2).permute(2, 1, 0)
    rest = deviation - rows.mT @ (rows @ deviation)
    return torch.linalg.vector_norm(rest, dim=1).T.unflatten(1, x.shape[2:])


def warp(x: Tensor, theta: Tensor) -> Tensor:
    """``warp_affine`` in torch's ops."""
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def learning(
    function: Callable[..., Tensor], tensors: list[Tensor], upstream: Tensor | None
) -> Call:
    """A forward and a backward pass into fresh gradients."""

    def both() -> None:
        for tensor in tensors:
            tensor.grad = None
        function().backward(upstream)

    return both


def works(shape: tuple[int, int, int, int], device: str) -> dict[str, dict[str, Call]]:
    """Row -> contestant -> call."""
    batch, channels, height, width = shape
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device)

    x, z, g = random(*shape), random(*shape), random(*shape)
    p, theta = x.clone().requires_grad_(), ops.affine.identity(batch, device=device)
    learned = theta.clone().requires_grad_()
    mean, locations = random(channels, height, width), height * width
    packed, rows = random(locations, channels * (channels + 1) // 2), random(locations, 2, channels)
    row, column = torch.tril_indices(channels, channels)
    full = torch.zeros(locations, channels, channels, device=device)
    full[:, row, column] = packed
    op = torch.ops.fastalign
    size, options = (height, width), ("bilinear", "zeros", False)

    def kernel(name: str, *values: object) -> Call:
        found = resolve(name, "auto", *(value for value in values if isinstance(value, Tensor)))
        return lambda: found(*values)

    return {
        "dense_similarity_loss": {
            "call": lambda: ops.dense_similarity_loss(x, z),
            "dispatched": lambda: op.dense_similarity_loss(x, z, None, False, False),
            "kernel": kernel("dense_similarity_loss", x, z, None, False, False),
            "eager": lambda: similarity_loss(x, z),
        },
        "dense_similarity_loss, loss + gradient": {
            "call": learning(lambda: ops.dense_similarity_loss(p, z), [p], None),
            "dispatched": learning(
                lambda: op.dense_similarity_loss(p, z, None, True, False)[0], [p], None
            ),
            "kernel": kernel("dense_similarity_loss", x, z, None, True, False),
            "eager": learning(lambda: similarity_loss(p, z), [p], None),
        },
        "pairwise_distance": {
            "call": lambda: ops.pairwise_distance(x),
            "dispatched": lambda: op.pairwise_distance(x),
            "kernel": kernel("pairwise_distance", x, None, None, False),
            "eager": lambda: distance(x),
        },
        "warp_affine": {
            "call": lambda: ops.warp_affine(x, theta),
            "dispatched": lambda: op.warp_affine(x, theta, size),
            "kernel": kernel("warp_affine", x, theta, size, *options),
            "eager": lambda: warp(x, theta),
        },
        "warp_affine, forward + backward": {
            "call": learning(lambda: ops.warp_affine(p, learned), [p, learned], g),
            "dispatched": learning(lambda: op.warp_affine(p, learned, size), [p, learned], g),
            "kernel": kernel("warp_affine_backward", g, x, theta, *options, True, True, False),
            "eager": learning(lambda: warp(p, learned), [p, learned], g),
        },
        "mahalanobis": {
            "call": lambda: ops.mahalanobis(x, mean, packed),
            "dispatched": lambda: op.mahalanobis(x, mean, packed),
            "kernel": kernel("mahalanobis", x, mean, packed, None, None, False),
            "eager": lambda: formula(x, mean, full),
        },
        "mahalanobis, rank 2": {
            "call": lambda: ops.mahalanobis(x, mean, rows),
            "dispatched": lambda: op.mahalanobis(x, mean, rows),
            "kernel": kernel("mahalanobis", x, mean, rows, None, None, False),
            "eager": lambda: low_rank(x, mean, rows),
        },
    }


def measure(calls: dict[str, Call], device: str, turns: int) -> dict[str, float]:
    """Microseconds of each call."""
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        for _ in range(BURST):
            call()
    for _ in range(turns):
        for name, call in calls.items():
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter_ns()
            for _ in range(BURST):
                call()
            best[name] = min(best[name], (time.perf_counter_ns() - began) / BURST / 1000)
    return best


def table(device: str, turns: int) -> str:
    lines = [
        "# What a call costs",
        "",
        f"Written by `benchmarks/micro/calls.py` on {describe(device)}, torch {torch.__version__}, "
        f"Python {platform.python_version()}. Microseconds, the least of {turns} turns of "
        f"{BURST} calls; float32.",
        "",
        f"| op | shape | {' | '.join(CONTESTANTS)} |",
        "| --- | --- | " + "---: | " * len(CONTESTANTS),
    ]
    for shape in SHAPES:
        for row, calls in works(shape, device).items():
            found = measure(calls, device, turns)
            cells = " | ".join(f"{found[name]:.1f}" for name in CONTESTANTS)
            lines.append(f"| {row} | {'x'.join(map(str, shape))} | {cells} |")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda: torch finds no GPU here")
    torch.set_num_threads(1)
    text = table(options.device, options.turns)
    print(text, end="")
    if options.write:
        RESULTS.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
