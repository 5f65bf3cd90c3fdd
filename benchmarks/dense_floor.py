"""What bounds dense_similarity's loss and gradient on the CPU: bytes, their floor, page faults.

    python benchmarks/dense_floor.py [--out FILE]

By shape, in turns in one process each: the op as it is, the op with results in fresh memory
(FASTALIGN_KEEP_RESULTS=0), torch.compile of the closed form, and ``torch.add(p, z, out=dp)``, which
reads and writes the same 3 N bytes, into memory that is there already, and computes nothing. The
same on shapes of 1/16, whose tensors lie in the second-level cache of a core: what is left there is
computing and the call. Page faults are counted by the system.

Counted by hand, since the machine gives no hardware counters: per vector of p (one cache line) the
packed sweeps take 9 loads, 5 stores and 11 operations, about 6 cycles of a core from its
first-level cache; one thread takes about 35. An image's tile is larger than that cache, so lines of
z, p, S, their copies and the rest go between the first and the second level some 17 times, and
memory is read in rows of 256 bytes, which hardware does not foresee. Tried without gain: wider
rows (128 to 512 pixels), more or nearer prefetches, and, for tiles that fit, no copies; where z
does not fit, no copies saved a fifth. A call adds about 0.1 ms for autograd and the second thread,
which small tensors feel in ``compiled`` as well.

``compiled`` and ``eager`` take results from malloc, which asks the system for blocks beyond 32 MiB
unless the heap has a hole of that size, and then every page is faulted in. So it is here; in the
table of all ops the loop over pairs, which runs before, leaves such a hole, and the baselines
fault nothing. Our results are kept in either case.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch

from fastalign.bench import timing
from fastalign.bench.cases import SIMILARITY_SHAPES, Case
from fastalign.bench.modes import LOSS

OUT = Path(__file__).parent / "results" / "cpu" / "dense_similarity.md"
SMALL = tuple((b, c, h // 4, w // 4) for b, c, h, w in SIMILARITY_SHAPES)
CALLS = 20


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def measure(shape: tuple[int, int, int, int]) -> dict[str, dict[str, float]]:
    """Milliseconds and page faults of a call."""
    torch._dynamo.reset()
    case = Case("dense_similarity", LOSS, shape)
    p, z = case.inputs("cpu")
    ours, compiled = case.ours("cpu"), case.baselines()["compiled"]
    total, plain = torch.empty_like(p), p.detach()
    works = {
        "ours": lambda: ours(p, z),
        "compiled": lambda: compiled(p, z),
        "add": lambda: torch.add(plain, z, out=total),
    }
    times = timing.on_cpu(works, 2.0)
    found = {}
    for name, work in works.items():
        work()
        before = faults()
        for _ in range(CALLS):
            work()
        found[name] = {"ms": median(times[name]), "faults": (faults() - before) / CALLS}
    return found


def child(keep: bool, threads: int) -> list[dict[str, dict[str, float]]]:
    """All shapes in a process of their own, since the library reads its environment once."""
    environment = {**os.environ, "FASTALIGN_KEEP_RESULTS": str(int(keep))}
    command = [sys.executable, __file__, "--child", "--threads", str(threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes = SIMILARITY_SHAPES + SMALL
    if options.child:
        print(json.dumps([measure(shape) for shape in shapes]))
        return
    kept, fresh = (child(keep, options.threads) for keep in (True, False))
    lines = [
        "# dense_similarity, loss and gradient: what bounds it on the CPU",
        "",
        *__doc__.split("\n\n", 2)[2].strip().splitlines(),
        "",
        f"float32, {options.threads} threads, torch {torch.__version__}. Milliseconds, in brackets "
        "page faults of a call.",
        "",
        "| shape | 3 N, MB | add | ours | over add | fresh memory | compiled | over ours | "
        "over fresh |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape, one, other in zip(shapes, kept, fresh, strict=True):
        ours, compiled, add = one["ours"], one["compiled"], one["add"]
        bare = other["ours"]
        size = 12 * torch.Size(shape).numel() / 1e6
        cells = [
            "x".join(map(str, shape)),
            f"{size:.3g}",
            f"{add['ms']:.3g}",
            f"{ours['ms']:.3g} ({ours['faults']:.0f})",
            f"{ours['ms'] / add['ms']:.2f}x",
            f"{bare['ms']:.3g} ({bare['faults']:.0f})",
            f"{compiled['ms']:.3g} ({compiled['faults']:.0f})",
            f"{compiled['ms'] / ours['ms']:.2f}x",
            f"{other['compiled']['ms'] / bare['ms']:.2f}x",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
