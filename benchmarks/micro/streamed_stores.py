"""Whether a gradient is better written past the caches, by its size: dense_similarity on a CPU.

    python benchmarks/micro/streamed_stores.py [--threads 2] [--write]

A store that misses fetches its line first, and a gradient past the caches has to be fetched by
whoever reads it. So two times are given: of loss + gradient, and of that with a pass that adds the
gradient to another tensor. Both plans take turns; the least and the tenth percentile of many turns.
`--write` keeps the table in benchmarks/results/cpu/streamed_stores.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from fastalign import ops
from fastalign.bench.setting import describe

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cpu" / "streamed_stores.md"
SHAPES = (
    *((batch, 256, 16, 16) for batch in (2, 4, 8, 16, 32)),
    (8, 64, 64, 64),
    (8, 64, 128, 128),
)
PLANS = ("cached", "streamed")
Times = dict[str, list[float]]


def measure(shape: tuple[int, int, int, int], turns: int) -> tuple[Times, Times]:
    """Milliseconds by plan: of loss + gradient, and with the pass over the gradient."""
    generator = torch.Generator().manual_seed(0)
    p, z, total = (torch.randn(shape, generator=generator) for _ in range(3))
    p.requires_grad_()
    alone: Times = {plan: [] for plan in PLANS}
    used: Times = {plan: [] for plan in PLANS}
    for _ in range(turns):
        for plan in PLANS:
            with ops.forced_plan(f"dense_similarity.cpu: stores={plan}"):
                began = time.perf_counter()
                (gradient,) = torch.autograd.grad(ops.dense_similarity_loss(p, z), p)
                written = time.perf_counter()
                total.add_(gradient)
                read = time.perf_counter()
            alone[plan].append(1000 * (written - began))
            used[plan].append(1000 * (read - began))
    return alone, used


def cells(times: Times) -> list[str]:
    least, tenth = (
        {plan: sorted(ms)[len(ms) * percent // 100] for plan, ms in times.items()}
        for percent in (0, 10)
    )
    words = [f"{least[plan]:.3f} ({tenth[plan]:.3f})" for plan in PLANS]
    return [*words, f"{least['cached'] / least['streamed']:.2f}"]


def table(turns: int) -> str:
    lines = [
        "# Gradients past the caches",
        "",
        f"Written by `benchmarks/micro/streamed_stores.py` on {describe('cpu')}, torch "
        f"{torch.__version__}; float32. Milliseconds, the least of {turns} turns and in brackets "
        "the tenth percentile; the ratio is of the least.",
        "",
        "| shape | gradient, MiB | cached | streamed | times | cached, then read | streamed, then "
        "read | times |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in SHAPES:
        alone, used = measure(shape, turns)
        size = 4 * torch.Size(shape).numel() / 2**20
        row = ["x".join(map(str, shape)), f"{size:.1f}", *cells(alone), *cells(used)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=150)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = table(options.turns)
    print(text, end="")
    if options.write:
        RESULTS.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
