"""The whole model on a GPU: what a batch takes, room by room, beside plain PaDiM.

    python benchmarks/model_on_gpu.py [--data CATEGORY] [--out FOLDER] [--device cuda]

Milliseconds of ``model(images)`` in inference mode, medians of calls in turns between two
synchronisations, at 256 x 256 with the default options, aligned and not, launch by launch and as
the recorded CUDA graph that is the default; kernels, synchronisations and copies from the host of a
call; how far scores are from the CPU's with each precision of the network. PaDiM is its formula on
the same backbone in plain PyTorch: 100 channels, nearest upsampling, mean and whole inverse
covariance by ``matmul``, bilinear upsampling, Gaussian smoothing, maximum; as it is and as a graph.
Writes ``model_on_gpu.json`` and ``.md``. ``--device cpu`` tries the script itself.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign import FYD
from fastalign.bench import setting
from fastalign.bench.protocol import Jitter, read_category
from fastalign.bench.rows import write_texts
from fastalign.engine.demo import demo_category
from fastalign.models.rooms import warp
from fastalign.nn import FeatureBackbone, gaussian_matrix
from fastalign.nn.precision import PRECISIONS
from fastalign.nn.replay import ENVIRONMENT

RESULTS = Path(__file__).parent / "results" / "gpu"
SIZE = 256
LARGE = 1024
CHANNELS = 100
ROUNDS = 25
Call = Callable[[], object]


class Plain(nn.Module):
    """PaDiM's formula, and nothing to make it quick."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.backbone = FeatureBackbone("tf_efficientnet_lite0").eval()
        order = torch.randperm(sum(self.backbone.channels), generator=torch.Generator())
        self.register_buffer("selection", order[:CHANNELS].sort().values)
        self.register_buffer("smoothing", gaussian_matrix(size, 4.0))
        self.size = size

    def describe(self, images: Tensor) -> Tensor:
        first, *others = self.backbone(images)
        grown = [F.interpolate(other, first.shape[2:], mode="nearest") for other in others]
        return torch.cat([first, *grown], 1)[:, self.selection].flatten(2)

    def fit(self, images: Tensor) -> Plain:
        found = torch.cat([self.describe(part) for part in images.split(32)]).permute(2, 0, 1)
        self.mean = found.mean(1)
        centred = found - self.mean[:, None]
        covariance = centred.mT @ centred / (len(images) - 1)
        eye = torch.eye(CHANNELS, device=images.device)
        self.inverse = torch.linalg.inv(covariance + 0.01 * eye)
        self.places = self.backbone(images[:1])[0].shape[2:]
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        apart = self.describe(images).permute(2, 0, 1) - self.mean[:, None]
        distance = ((apart @ self.inverse) * apart).sum(2).clamp_min(0).sqrt().T
        maps = distance.unflatten(1, self.places)[:, None]
        maps = F.interpolate(maps, (self.size, self.size), mode="bilinear", align_corners=False)
        maps = self.smoothing @ maps[:, 0] @ self.smoothing.mT
        return maps.amax((1, 2)), maps


class Bench:
    """How calls are measured on one device."""

    def __init__(self, device: str, rounds: int) -> None:
        self.device, self.rounds = torch.device(device), rounds

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, calls: dict[str, Call]) -> dict[str, float]:
        """Medians; the calls take turns."""
        for call in calls.values():
            for _ in range(3):
                call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.rounds):
            for name, call in calls.items():
                self.wait()
                start = time.perf_counter()
                call()
                self.wait()
                times[name].append(1000 * (time.perf_counter() - start))
        return {name: round(median(taken), 4) for name, taken in times.items()}

    def replay(self, work: Callable[[Tensor], object], images: Tensor) -> Call | None:
        """The work as a CUDA graph, results left where they are."""
        if not self.on_gpu:
            return None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work(images)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work(images)
        return graph.replay

    def counted(self, call: Call) -> dict[str, Any]:
        """Kernels, and what makes host and GPU wait for each other; the GPU's share of the time."""
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        call()
        self.wait()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
            call()
            self.wait()
        on_gpu = [e for e in found.events() if e.device_type == DeviceType.CUDA]
        asked = Counter(e.name for e in found.events() if e.device_type == DeviceType.CPU)
        longest: Counter[str] = Counter()
        for event in on_gpu:
            longest[event.name[:100]] += event.device_time
        return {
            "kernels": sum(not e.name.startswith("Mem") for e in on_gpu),
            "busy_ms": round(sum(e.device_time for e in on_gpu) / 1000, 3),
            "synchronisations": asked["cudaStreamSynchronize"],
            "copies_from_host": sum("HtoD" in e.name for e in on_gpu),
            "longest_us": {name: round(us, 1) for name, us in longest.most_common(12)},
        }


def launched(call: Call) -> Call:
    """The call without recorded graphs."""

    def run() -> object:
        os.environ[ENVIRONMENT] = "0"
        try:
            return call()
        finally:
            os.environ.pop(ENVIRONMENT)

    return run


def rooms(model: FYD, images: Tensor) -> dict[str, Call]:
    """Each room on what the one before it gives."""
    pose = model.pose(images)
    aligned = warp(images, pose)
    stages, theta = model.features(aligned, pose)
    distance, support = model.density(stages)
    found: dict[str, Call] = {
        "features": lambda: model.features(aligned, pose),
        "density": lambda: model.density(stages),
        "maps": lambda: model.maps(distance, theta, support),
    }
    if pose is not None:
        found = {"pose": lambda: model.pose(images), "warp": lambda: warp(images, pose), **found}
    return found


def measure_batch(bench: Bench, models: dict[str, nn.Module], images: Tensor) -> dict[str, Any]:
    calls: dict[str, Call] = {}
    for name, model in models.items():
        # Bound now: the loop goes on.
        calls[name] = lambda model=model: model(images)
        if isinstance(model, FYD):
            calls[f"{name}, launched"] = launched(calls[name])
        elif (replay := bench.replay(model, images)) is not None:
            calls[f"{name}, graph"] = replay
    row: dict[str, Any] = {"batch": len(images), "size": images.shape[-1]}
    before = torch.cuda.memory_reserved() if bench.on_gpu else 0
    row["ms"] = bench.milliseconds(calls)
    if bench.on_gpu:
        row["reserved_mb"] = round((torch.cuda.memory_reserved() - before) / 2**20)
    first = next(model for model in models.values() if isinstance(model, FYD))
    row["rooms_ms"] = bench.milliseconds(rooms(first, images))
    if bench.on_gpu:
        row["launched"] = bench.counted(launched(lambda: first(images)))
        row["replayed"] = bench.counted(lambda: first(images))
    return row


def parity(bench: Bench, model: FYD, images: Tensor) -> dict[str, Any]:
    """Largest and median relative difference of a score from the CPU's, and verdicts changed."""
    at_home = copy.deepcopy(model).to("cpu")
    wanted = torch.cat([at_home(part)[0] for part in images.split(8)])
    limit = float(at_home.image_threshold)
    found = {}
    for precision in PRECISIONS if bench.on_gpu else ("float32",):
        model.set_precision(precision)
        scores = torch.cat([model(part.to(bench.device))[0].cpu() for part in images.split(8)])
        apart = (scores - wanted).abs() / wanted.abs()
        changed = int(((scores > limit) != (wanted > limit)).sum())
        found[precision] = {
            "largest": float(apart.max()),
            "median": float(apart.median()),
            "verdicts_changed": changed,
            "images": len(images),
        }
    model.set_precision(None)
    return found


def run(options: argparse.Namespace, document: dict[str, Any], save: Callable[[], None]) -> None:
    bench = Bench(options.device, options.rounds)
    with demo_category(options.data) as category:
        images = read_category(category, (SIZE, SIZE), Jitter(), 0)
    given = images.train.to(bench.device)
    fits = []
    for _ in range(options.fits):
        bench.wait()
        start = time.perf_counter()
        model = FYD(image_size=(SIZE, SIZE)).to(bench.device).fit(given, images.validation)
        bench.wait()
        fits.append(round(time.perf_counter() - start, 2))
    document["fit_s"] = fits
    unaligned = FYD(image_size=(SIZE, SIZE), align="none").to(bench.device)
    unaligned.fit(given, images.validation)
    with torch.inference_mode():
        models = {
            "aligned": model,
            "unaligned": unaligned,
            "PaDiM formula": Plain(SIZE).to(bench.device).fit(given),
        }
        document["parity"] = parity(bench, model, images.test)
        save()
        for batch in options.batches:
            several = images.test.repeat(1 + batch // len(images.test), 1, 1, 1)[:batch]
            row = measure_batch(bench, models, several.to(bench.device))
            document["rows"].append(row)
            save()
            print(json.dumps({k: row[k] for k in ("batch", "ms", "rooms_ms")}), flush=True)
    if options.large:
        with demo_category(options.data) as category:
            images = read_category(category, (LARGE, LARGE), Jitter(), 0)
        model = FYD(image_size=(LARGE, LARGE), align="none").to(bench.device)
        model.fit(images.train)
        with torch.inference_mode():
            one = images.test[:1].to(bench.device)
            document["rows"].append(measure_batch(bench, {"unaligned": model}, one))
        save()


def _ratio(row: dict[str, Any], name: str) -> str:
    times = row["ms"]
    if name not in times or "PaDiM formula" not in times:
        return "-"
    return f"{times['PaDiM formula'] / times[name]:.2f}x"


def markdown(document: dict[str, Any]) -> str:
    """Ratios first."""
    lines = ["## The model", "", f"{document['device']}. fastalign {document['commit']}.", ""]
    if document["rows"]:
        lines += [
            "| size | batch | aligned: PaDiM over ours | unaligned | aligned, ms | launched, ms | "
            "unaligned, ms | launched, ms | PaDiM formula, ms | as a graph, ms |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
    names = ("aligned", "aligned, launched", "unaligned", "unaligned, launched", "PaDiM formula")
    for row in document["rows"]:
        cells = [str(row["size"]), str(row["batch"]), _ratio(row, "aligned")]
        cells.append(_ratio(row, "unaligned"))
        cells += [f"{row['ms'][n]:.3g}" if n in row["ms"] else "-" for n in names]
        graph = row["ms"].get("PaDiM formula, graph")
        cells.append(f"{graph:.3g}" if graph else "-")
        lines.append("| " + " | ".join(cells) + " |")
    counted = [row for row in document["rows"] if "launched" in row]
    if counted:
        lines += [
            "",
            "| size | batch | kernels | synchronisations and copies from the host | GPU busy, ms | "
            "reserved meanwhile, MB | pose, ms | warp | features | density | maps |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
    for row in counted:
        of = row["launched"]
        waits = of["synchronisations"] + of["copies_from_host"]
        replayed = row["replayed"]["synchronisations"] + row["replayed"]["copies_from_host"]
        cells = [str(row["size"]), str(row["batch"]), str(of["kernels"])]
        cells += [f"{waits} launched, {replayed} replayed", f"{of['busy_ms']:.3g}"]
        # Graphs of other shapes may have made room meanwhile.
        cells.append(str(row["reserved_mb"]) if row["reserved_mb"] > 0 else "-")
        for room in ("pose", "warp", "features", "density", "maps"):
            cells.append(f"{row['rooms_ms'][room]:.3g}" if room in row["rooms_ms"] else "-")
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for precision, found in document.get("parity", {}).items():
        lines.append(
            f"- In {precision}: a score is at most {100 * found['largest']:.2g} % "
            f"from the CPU's, in the median {100 * found['median']:.2g} %; "
            f"{found['verdicts_changed']} of {found['images']} verdicts changed."
        )
    if "fit_s" in document:
        taken = ", ".join(f"{seconds:g}" for seconds in document["fit_s"])
        lines.append(
            f"- Fits of the training images in one process, one after the other: {taken} s."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="a category; default: the demo's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batches", type=int, nargs="*", default=(1, 8, 32, 128))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--large", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    document: dict[str, Any] = {
        "device": setting.describe(options.device),
        "commit": setting.commit(),
        "command": setting.command(),
        "rows": [],
    }

    def save() -> None:
        texts = {"json": json.dumps(document, indent=1) + "\n", "md": markdown(document)}
        options.out.mkdir(parents=True, exist_ok=True)
        write_texts(options.out, {f"model_on_gpu.{end}": text for end, text in texts.items()})

    run(options, document, save)
    print(markdown(document))


if __name__ == "__main__":
    main()
