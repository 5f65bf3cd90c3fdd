"""Bytes that processes exchange, against gathering everything everywhere; times on this machine.

    python benchmarks/scaling.py [--rounds 5] [--images 96]

Runs two processes of one thread each on this machine, connected by gloo over the loopback device,
counts what each collective is given and what the device carries, compares the results of both
formulations, and times a fit in one and in two processes. Then it works out the table for more
processes from the formulas that the counts have confirmed. Writes results/scaling.json and .md.

The counters of the loopback device are those of the whole network namespace; in one of its own
(``unshare -rn sh -c 'ip link set lo up; python benchmarks/scaling.py'``) nothing else is in them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from scaling_table import BATCH, CHANNELS, DENSITY, DISTANCE, STAGES, formulas, report, step
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign import FYD, distributed, ops
from fastalign.data import ImageDataset, collect, open_category
from fastalign.engine.environment import peak_rss_mb
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.training import Trainer
from fastalign.nn import DenseGaussian

RESULTS = Path(__file__).parent / "results"
DEMO = Path(distributed.__file__).parents[1] / "demo_data" / "screw_plate"
# The largest relative difference that two orders of float32 sums may have.
_CLOSE = 1e-4


class Counter:
    """Bytes that one process sends, by what each collective is given and the usual algorithm: rings
    for all-reduce and all-gather, direct messages for the others."""

    def __init__(self) -> None:
        self.sent = 0.0
        self.calls = 0
        self._kept = {
            name: getattr(dist, name)
            for name in ("all_reduce", "all_gather", "all_to_all_single", "send", "gather")
        }
        for name in self._kept:
            setattr(dist, name, self._counted(name))

    def _counted(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            size, rank = dist.get_world_size(), dist.get_rank()
            given = args[1] if name in ("all_gather", "all_to_all_single") else args[0]
            volume = given.numel() * given.element_size()
            if name == "all_reduce":
                volume *= 2 * (size - 1) / size
            elif name == "all_gather":
                volume *= size - 1
            elif name == "all_to_all_single":
                kept = args[3][rank] * given.element_size()
                volume -= kept
            elif name == "gather" and rank == 0:
                volume = 0
            self.sent += volume
            self.calls += 1
            return self._kept[name](*args, **options)

        return call

    def end(self) -> None:
        for name, function in self._kept.items():
            setattr(dist, name, function)


def loopback() -> int:
    """Bytes that the loopback device has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split()[9])
    raise SystemExit("scaling.py: /proc/net/dev has no loopback device; run it on Linux")


def gathered(values: Tensor) -> Tensor:
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def total(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


def similarity_ours(p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    p = p.clone().requires_grad_()
    loss = distributed.dense_similarity_loss(p, z)
    loss.backward()
    return loss.detach(), p.grad / dist.get_world_size()


def similarity_gathered(p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """As SimCLR does it: every process has all targets and its own predictions."""
    p = p.clone().requires_grad_()
    others = F.normalize(gathered(z), dim=1)
    number = len(others)
    own = F.normalize(z, dim=1)
    cosine = (F.normalize(p, dim=1) * (others.sum(0) - own)).sum(1) / (number - 1)
    loss = -cosine.sum() / (number * p.shape[2] * p.shape[3])
    loss.backward()
    return total(loss.detach().clone()), p.grad


def distance_ours(h: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    h = h.clone().requires_grad_()
    loss = distributed.pairwise_distance_loss(h, valid)
    loss.backward()
    return loss.detach(), h.grad / dist.get_world_size()


def distance_gathered(h: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Every process has all images and works out all pairs."""
    everything = gathered(h).requires_grad_()
    loss = ops.pairwise_distance_loss(everything, gathered(valid.to(torch.uint8)) > 0)
    loss.backward()
    rank, own = dist.get_rank(), len(h)
    return loss.detach(), everything.grad[rank * own : (rank + 1) * own]


def density_ours(features: Tensor) -> tuple[Tensor, Tensor]:
    density = DenseGaussian(DENSITY[0], DENSITY[1:])
    density.update(features)
    distributed.merge_density(density)
    if dist.get_rank():
        return torch.zeros(()), torch.zeros(())
    density.finalize()
    return density.mean, density.whitener


def density_gathered(features: Tensor) -> tuple[Tensor, Tensor]:
    """As PaDiM does it: all embeddings in one place, then the Gaussians."""
    parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
    dist.gather(features, parts if dist.get_rank() == 0 else None)
    if dist.get_rank():
        return torch.zeros(()), torch.zeros(())
    density = DenseGaussian(DENSITY[0], DENSITY[1:])
    density.update(torch.cat(parts))
    density.finalize()
    return density.mean, density.whitener


def norm_ours(x: Tensor) -> tuple[Tensor, Tensor]:
    layer = distributed.globalise_norms(nn.BatchNorm2d(x.shape[1], affine=False))
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.ones_like(y) * x.detach().sign())
    return y.detach(), x.grad


def norm_gathered(x: Tensor) -> tuple[Tensor, Tensor]:
    """As torch.nn.SyncBatchNorm, which does not run on a CPU: gather, then sum on the way back."""
    channels, number = x.shape[1], x.numel() // x.shape[1]
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    own = torch.cat([mean, variance, mean.new_tensor([number])])
    each = gathered(own[None])
    means, variances, numbers = each.split([channels, channels, 1], 1)
    whole = numbers.sum()
    mean = (means * numbers).sum(0) / whole
    variance = ((variances + (means - mean).square()) * numbers).sum(0) / whole
    deviation = (variance + 1e-5).rsqrt()[:, None, None]
    y = (x - mean[:, None, None]) * deviation
    grad = x.sign()
    sums = total(torch.stack([grad.sum((0, 2, 3)), (grad * y).sum((0, 2, 3))])) / whole
    return y, (grad - sums[0][:, None, None] - y * sums[1][:, None, None]) * deviation


def tensors(name: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(dist.get_rank())
    half = BATCH // dist.get_world_size()
    if name == "pairwise_distance_loss":
        h = torch.randn(half, *DISTANCE, generator=generator)
        return h, torch.rand(half, *DISTANCE[1:], generator=generator) > 0.1
    if name == "DenseGaussian":
        return (torch.randn(half, *DENSITY, generator=generator),)
    channels, side = STAGES[int(name[-1]) - 1]
    shape = half, channels, side, side
    if name.startswith("BatchNorm"):
        return (torch.randn(shape, generator=generator),)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


FORMULATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "dense_similarity_loss": (similarity_ours, similarity_gathered),
    "pairwise_distance_loss": (distance_ours, distance_gathered),
    "BatchNorm": (norm_ours, norm_gathered),
    "DenseGaussian": (density_ours, density_gathered),
}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One op on both sides: bytes counted and carried, median seconds, and that they agree."""
    inputs = tensors(name)
    ways = dict(zip(("ours", "gathered"), FORMULATIONS[name.split(", ")[0]], strict=True))
    results = {way: work(*inputs) for way, work in ways.items()}
    for found, wanted in zip(*results.values(), strict=True):
        difference = (found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)
        if difference > _CLOSE:
            raise SystemExit(f"scaling.py: {name}: the two formulations differ by {difference:.1e}")
    row: dict[str, Any] = {"op": name}
    for way, work in ways.items():
        seconds, carried = [], []
        for _ in range(rounds):
            dist.barrier()
            counter, before, began = Counter(), loopback(), time.perf_counter()
            work(*inputs)
            seconds.append(time.perf_counter() - began)
            counter.end()
            dist.barrier()
            carried.append((loopback() - before) / dist.get_world_size())
        sent = total(torch.tensor([counter.sent], dtype=torch.float64)).item()
        row[way] = {
            "counted": sent / dist.get_world_size(),
            "calls": counter.calls,
            "carried": median(carried),
            "seconds": median(seconds),
        }
    return row


def merge_memory() -> dict[str, float]:
    """Peak memory that a merge of two densities adds, beside the density itself."""
    density = DenseGaussian(DENSITY[0], DENSITY[1:])
    density.update(torch.randn(2, *DENSITY))
    dist.barrier()
    # Memory that was freed before goes back, and the kernel's record of the peak begins anew.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_rss_mb()[0] or 0.0
    distributed.merge_density(density)
    after = peak_rss_mb()[0] or 0.0
    # Its count, means and packed sums by location.
    channels, height, width = DENSITY
    sums = height * width * (8 + 8 * channels + 2 * channels * (channels + 1))
    return {"sums_mb": sums / 1e6, "added_mb": after - before}


def training_step(rounds: int) -> tuple[dict[str, Any], list[int]]:
    """One step on a whole batch; sizes of the tensors that are trained."""
    world = distributed.current()
    model = FYD(epochs=1, batch_size=BATCH)
    features = model.features
    features.install(fca=features.make_fca(1.0), adapters=features.make_adapters())
    images = torch.rand(BATCH, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    source = ImageSource(images, (256, 256), torch.device("cpu"))
    trainer = Trainer(model.config, model.pose, features, source, None, 0, world)
    seconds, counter = [], None
    for _ in range(rounds):
        counter = Counter() if world.size > 1 else None
        began = time.perf_counter()
        trainer.epoch(0)
        seconds.append(time.perf_counter() - began)
        if counter is not None:
            counter.end()
    found: dict[str, Any] = {"seconds": median(seconds)}
    if counter is not None:
        # At the end of an epoch the warps of each FCA layer are summed: two numbers and a count.
        watches = len(STAGES)
        found["calls"] = counter.calls - watches
        found["counted"] = counter.sent - watches * 4 * 3 * 2 * (world.size - 1) / world.size
    return found, [parameter.numel() for parameter in trainer.parameters()]


def fit_seconds(images: int) -> dict[str, float]:
    """A fit at the default options but for the epochs, and a step of its training."""
    photographs = collect(ImageDataset(open_category(DEMO).train, (256, 256)))
    repeated = photographs[torch.arange(images) % len(photographs)]
    began = time.perf_counter()
    FYD(epochs=2).fit(repeated, seed=0)
    return {"images": images, "seconds": time.perf_counter() - began}


def process(role: str, rounds: int, images: int, out: Path) -> None:
    """What one of the started processes does."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if role == "alone":
        found = {**fit_seconds(images), "step": training_step(rounds)[0]}
    else:
        dist.init_process_group("gloo")
        stages = range(1, len(STAGES) + 1)
        names = [f"dense_similarity_loss, stage {i}" for i in stages]
        step_found, trained = training_step(rounds)
        names += ["pairwise_distance_loss", *(f"BatchNorm, stage {i}" for i in stages)]
        found = {
            "ops": [measure(name, rounds) for name in [*names, "DenseGaussian"]],
            "merge": merge_memory(),
            "step": step_found,
            "parameters": sum(trained),
            "tensors": len(trained),
            "fit": fit_seconds(images),
        }
        rank = dist.get_rank()
        # Nobody leaves while another still needs the connection.
        dist.barrier()
        dist.destroy_process_group()
        if rank:
            return
    out.write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=96, help="of the timed fit")
    parser.add_argument("--role", choices=("alone", "pair"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        process(given.role, given.rounds, given.images, given.json)
        return
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for role, start in (("alone", []), ("pair", launch)):
            path = Path(folder) / role
            options = ["--role", role, "--json", str(path), "--rounds", str(given.rounds)]
            options += ["--images", str(given.images)]
            subprocess.run(
                [sys.executable, *start, __file__, *options],
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            found[role] = json.loads(path.read_text())
    pair = found["pair"]
    whole = step(2, pair["parameters"], pair["tensors"], BATCH // 2)
    if (whole["ours"], whole["collectives"]) != (pair["step"]["counted"], pair["step"]["calls"]):
        raise SystemExit(f"scaling.py: a step: {pair['step']} counted, {whole} by the formula")
    for row in pair["ops"]:
        expected = formulas(row["op"], 2)
        for way in ("ours", "gathered"):
            if abs(row[way]["counted"] - expected[way]) > 0.5:
                raise SystemExit(
                    f"scaling.py: {row['op']}, {way}: {row[way]['counted']:.0f} bytes counted, "
                    f"{expected[way]:.0f} by the formula"
                )
    results = {"torch": torch.__version__, "channels": CHANNELS, **found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "scaling.md").write_text(report(results))
    print((RESULTS / "scaling.md").read_text())


if __name__ == "__main__":
    main()
