"""What processes exchange by formula, and the page of benchmarks/scaling.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# The default model: EfficientNet-Lite0 at 256 x 256.
STAGES = ((24, 64), (40, 32), (112, 16))  # channels and side of the maps that the losses see
DISTANCE = (3, 128, 128)  # the image-level loss of the plain ICA
CHANNELS = 100
DENSITY = (CHANNELS, 64, 64)
BATCH = 32  # images of a batch of two processes in the measured part
EACH = 32  # images of each process in the table
FITTED = 1000  # images of each process that the density is fitted to, in the table
PROCESSES = (2, 8, 64, 256, 1024)
# Assumed for the arithmetic: a 100 Gbit/s link at 90 %, and a message that takes 20 microseconds.
BYTES_PER_SECOND = 0.9 * 100e9 / 8
SECONDS_PER_MESSAGE = 20e-6


def _similarity(channels: int, side: int, size: int, each: int) -> dict[str, float]:
    ring, maps = 2 * (size - 1) / size, channels * side * side
    # S and one count, and the value of the loss.
    return {
        "ours": ring * 4 * (maps + 1 + 1),
        "gathered": (size - 1) * each * maps * 4 + ring * 4,
    }


def _distance(size: int, each: int) -> dict[str, float]:
    channels, height, width = DISTANCE
    pixels = each * height * width
    # The images there, their gradient back, a byte of the mask; sizes of the batches; the value.
    there_and_back = (size - 1) / size * pixels * (2 * 4 * channels + 1)
    return {
        "ours": there_and_back + 8 * (size - 1) + 4 * 2 * (size - 1) / size,
        "gathered": (size - 1) * pixels * (4 * channels + 1),
    }


def _norm(channels: int, size: int) -> dict[str, float]:
    ring = 2 * (size - 1) / size
    back = ring * 4 * 2 * channels
    return {
        "ours": ring * 8 * (2 * channels + 1) + back,
        # torch.nn.SyncBatchNorm gathers mean, deviation and count.
        "gathered": (size - 1) * 4 * (2 * channels + 1) + back,
    }


def sums_bytes() -> int:
    """Count, mean and packed sums of a density."""
    channels, height, width = DENSITY
    return height * width * (8 + 8 * channels + 2 * channels * (channels + 1))


def _density(size: int, each: int) -> dict[str, float]:
    channels, height, width = DENSITY
    # All but one process send once: their sums and whether there are any, or their embeddings.
    share = (size - 1) / size
    return {
        "ours": share * (sums_bytes() + 8),
        "gathered": share * each * channels * height * width * 4,
    }


def formulas(op: str, size: int, each: int = BATCH // 2) -> dict[str, float]:
    """Bytes that a process sends, the mean of all, in both formulations."""
    stage = STAGES[int(op[-1]) - 1] if "stage" in op else (0, 0)
    if op.startswith("dense_similarity"):
        return _similarity(*stage, size, each)
    if op.startswith("BatchNorm"):
        return _norm(stage[0], size)
    return _distance(size, each) if op.startswith("pairwise") else _density(size, each)


def step(size: int, parameters: int, tensors: int, each: int = EACH) -> dict[str, float]:
    """A step of the default training (FA and FCA): losses, BatchNorm of the heads, gradients of so
    many parameters in so many tensors, what is logged, and whether all have read their images."""
    found = {"ours": 0.0, "gathered": 0.0}
    messages, ring = 0, 2 * (size - 1) / size
    # Three magnitudes of warps and their counts; moments of directions by stage.
    figures = 8 * (6 + sum(1 + 2 * channels for channels, _ in STAGES))
    for channels, side in STAGES:
        # Projector: three layers as wide as the features; predictor: one of a quarter.
        parts = [_similarity(channels, side, size, each)]
        parts += [_norm(width, size) for width in (channels,) * 3 + (max(1, channels // 4),)]
        for part in parts:
            for way in found:
                found[way] += part[way]
        # Forward and backward of four layers, S, the value.
        messages += 10
    rest = ring * (4 * (parameters + tensors) + figures + 4)
    messages += 3
    return {**{way: value + rest for way, value in found.items()}, "collectives": messages}


def _mb(value: float) -> str:
    if value < 9.995e4:
        return f"{value / 1e3:.3g} kB"
    return f"{value / 1e6:.3g} MB" if value < 1e9 else f"{value / 1e9:.3g} GB"


def _seconds(value: float, size: int, collectives: int) -> float:
    # A ring passes 2 (P - 1) messages on.
    return value / BYTES_PER_SECOND + collectives * 2 * (size - 1) * SECONDS_PER_MESSAGE


def _measured(found: dict[str, Any]) -> list[str]:
    lines = [
        f"## Measured: two processes, {BATCH} images between them",
        "",
        "| op | ours: counted | carried | time | gathered: counted | carried | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["pair"]["ops"]:
        cells = [
            f"{_mb(row[way]['counted'])} | {_mb(row[way]['carried'])} | "
            f"{1e3 * row[way]['seconds']:.2f} ms"
            for way in ("ours", "gathered")
        ]
        lines.append(f"| {row['op']} | {' | '.join(cells)} |")
    merge, alone, pair = found["pair"]["merge"], found["alone"], found["pair"]["fit"]
    whole = found["pair"]["step"]
    lines += [
        "",
        f"A whole step of the default training, {BATCH} images: {_mb(whole['counted'])} in "
        f"{whole['calls']} collectives and {whole['seconds']:.2f} s, against "
        f"{found['alone']['step']['seconds']:.2f} s in one process of one thread.",
        "",
        f"Merging two densities of {merge['sums_mb']:.0f} MB of sums added {merge['added_mb']:.0f} "
        "MB to the peak memory of the receiving process.",
        "",
        f"A fit on {pair['images']} images, two epochs: {alone['seconds']:.1f} s in one process of "
        f"one thread, {pair['seconds']:.1f} s in two, {alone['seconds'] / pair['seconds']:.2f} "
        "times as fast.",
    ]
    return lines


def _worked_out(parameters: int, tensors: int) -> list[str]:
    lines = [
        f"## Worked out: {EACH} images on each process",
        "",
        "Bytes that a process sends, ours / gathered.",
        "",
        "| processes | " + " | ".join(map(str, PROCESSES)) + " |",
        "|---|" + "---|" * len(PROCESSES),
    ]
    rows = {f"S of stage {i + 1}": f"dense_similarity, stage {i + 1}" for i in range(len(STAGES))}
    rows["warped images of ICA"] = "pairwise_distance_loss"
    rows["one BatchNorm of 112"] = f"BatchNorm, stage {len(STAGES)}"
    for label, op in rows.items():
        cells = [formulas(op, size, EACH) for size in PROCESSES]
        parts = [f"{_mb(cell['ours'])} / {_mb(cell['gathered'])}" for cell in cells]
        lines.append(f"| {label} | {' | '.join(parts)} |")
    cells = [formulas("DenseGaussian", size, FITTED) for size in PROCESSES]
    parts = [f"{_mb(cell['ours'])} / {_mb(cell['gathered'])}" for cell in cells]
    lines.append(f"| density, {FITTED} images each | {' | '.join(parts)} |")
    steps = [step(size, parameters, tensors) for size in PROCESSES]
    parts = [f"{_mb(cell['ours'])} / {_mb(cell['gathered'])}" for cell in steps]
    lines.append(f"| a whole step (FA, FCA) | {' | '.join(parts)} |")
    times = [
        [1e3 * _seconds(cell[way], size, int(cell["collectives"])) for way in ("ours", "gathered")]
        for size, cell in zip(PROCESSES, steps, strict=True)
    ]
    parts = [f"{ours:.3g} ms / {theirs:.3g} ms" for ours, theirs in times]
    lines.append(f"| its exchange in time | {' | '.join(parts)} |")
    latency = [
        f"{1e3 * _seconds(0, size, int(cell['collectives'])):.3g} ms"
        for size, cell in zip(PROCESSES, steps, strict=True)
    ]
    lines.append(f"| of it latency | {' | '.join(latency)} |")
    held = [
        f"{_mb(4 * sum(c * s * s for c, s in STAGES))} / "
        f"{_mb(4 * size * EACH * sum(c * s * s for c, s in STAGES))}"
        for size in PROCESSES
    ]
    lines.append(f"| memory for the targets of others | {' | '.join(held)} |")
    return lines


def report(found: dict[str, Any]) -> str:
    """The page."""
    parameters, tensors = found["pair"]["parameters"], found["pair"]["tensors"]
    lines = [
        "# What processes exchange",
        "",
        "The default model at 256 x 256, float32. `counted`: what the collectives were given, as a "
        "ring or direct messages send it, the mean of the processes. `carried`: bytes of the "
        "loopback device by process, headers, acknowledgements and the barriers around the op "
        "included. `gathered`: every process gets what it needs of the others whole, as SimCLR "
        "does it (embeddings for the density, as PaDiM; means and deviations for BatchNorm, as "
        f"torch.nn.SyncBatchNorm). torch {found['torch']}, gloo, two processes of one thread on "
        "one machine.",
        "",
        *_measured(found),
        "",
        *_worked_out(parameters, tensors),
        "",
        f"The time is arithmetic: {BYTES_PER_SECOND / 1e9:.1f} GB/s (100 Gbit/s at 90 %) and "
        f"{SECONDS_PER_MESSAGE * 1e6:.0f} microseconds for a message, rings of 2 (P - 1) messages, "
        f"nothing overlapped; {parameters} parameters are trained.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    path = Path(
        sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "results/scaling.json"
    )
    path.with_suffix(".md").write_text(report(json.loads(path.read_text())))
