"""An opaque op or ``torch.library.triton_op`` around a Triton kernel: what each costs the host.

    python benchmarks/triton_op.py                 writes benchmarks/results/triton_op.md and .json

The same launcher of warp_affine's forward kernel is registered both ways. The launch itself is cut
off, so that no GPU is needed and what remains is the way there: an eager call, and the time that
``torch.compile(fullgraph=True)`` takes to trace it, with the nodes of the graph that a compiler
then has to take on. Contestants take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch.library import triton_op, wrap_triton
from triton.backends.compiler import GPUTarget

from fastalign.kernels import warp_affine as kernels
from fastalign.ops.layout import empty_maps

RESULTS = Path(__file__).resolve().parent / "results"
_OPTIONS = "bilinear", "zeros", False
Op = Callable[[Tensor, Tensor, list[int]], Tensor]


def _launch(x: Tensor, theta: Tensor, size: list[int]) -> Tensor:
    return kernels.warp_affine(x, theta, size, *_OPTIONS)


@torch.library.custom_op("benchmark::opaque", mutates_args=())
def opaque(x: Tensor, theta: Tensor, size: list[int]) -> Tensor:
    return _launch(x, theta, size)


@opaque.register_fake
def _(x: Tensor, theta: Tensor, size: list[int]) -> Tensor:
    return empty_maps(x, size)


class _Wrapped:
    """The kernel as ``triton_op`` wants to see it launched."""

    def __init__(self, kernel: triton.JITFunction) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return wrap_triton(self.kernel)[grid]


@triton_op("benchmark::traced", mutates_args=())
def traced(x: Tensor, theta: Tensor, size: list[int]) -> Tensor:
    plain, kernels._forward = kernels._forward, _Wrapped(kernels._forward)
    try:
        return _launch(x, theta, size)
    finally:
        kernels._forward = plain


class _NoDriver:
    """Says for which chip to compile, which is all that tracing asks of a GPU's driver."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def _inputs() -> tuple[Tensor, Tensor, list[int]]:
    return torch.randn(2, 8, 16, 16), torch.eye(2, 3).repeat(2, 1, 1), [16, 16]


def eager(op: Op, calls: int) -> float:
    """Microseconds of a call."""
    given = _inputs()
    begin = time.perf_counter()
    for _ in range(calls):
        op(*given)
    return (time.perf_counter() - begin) / calls * 1e6


def traced_graph(op: Op, dynamic: bool) -> tuple[float, int]:
    """Milliseconds to trace one call in one graph, and the nodes in it that call something."""
    nodes: list[int] = []

    def count(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        nodes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, theta, size: op(x, theta, size) * 2,
        backend=aot_autograd(fw_compiler=count),
        fullgraph=True,
        dynamic=dynamic,
    )
    given = _inputs()
    begin = time.perf_counter()
    compiled(*given)
    return (time.perf_counter() - begin) * 1e3, sum(nodes)


def measure(rounds: int, calls: int) -> list[dict[str, object]]:
    contestants: dict[str, Op] = {"opaque op": opaque, "triton_op": traced}
    for op in contestants.values():
        eager(op, 10), traced_graph(op, False), traced_graph(op, True)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in contestants}
    nodes = {}
    for _ in range(rounds):
        for name, op in contestants.items():
            found[name].setdefault("eager_us", []).append(eager(op, calls))
            for dynamic in (False, True):
                taken, nodes[name, dynamic] = traced_graph(op, dynamic)
                found[name].setdefault(f"trace_{'dynamic' if dynamic else 'fixed'}_ms", []).append(
                    taken
                )
    return [
        {
            "contestant": name,
            **{key: round(statistics.median(taken), 1) for key, taken in times.items()},
            "nodes_fixed": nodes[name, False],
            "nodes_dynamic": nodes[name, True],
        }
        for name, times in found.items()
    ]


def table(rows: list[dict[str, object]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[key]) for key in head] for row in rows)]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return (
        "# An opaque op or triton_op\n\n"
        f"Written by `benchmarks/triton_op.py` with torch {torch.__version__} and Triton "
        f"{triton.__version__}; the launch is cut off, no GPU is used. Medians; nodes are those "
        "that call something in the traced graph of one call and a product by 2.\n\n" + body + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    kernels._forward.run = lambda *given, **named: None
    triton.runtime.driver.set_active(_NoDriver())
    torch.set_num_threads(1)
    rows = measure(chosen.rounds, chosen.calls)
    (chosen.out / "triton_op.json").write_text(json.dumps(rows, indent=1) + "\n")
    (chosen.out / "triton_op.md").write_text(table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
