"""What the pictures of `fastalign predict` take: bytes and seconds for one photograph of 12 million
pixels, by --picture-size and formats; and, for each file at the default size, by the compression's
level, in one thread.

    python benchmarks/picture_size.py
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import tifffile
import torch
from PIL import Image

from fastalign.engine.inputs import Input
from fastalign.engine.pictures import PictureOptions, PictureWriter
from fastalign.engine.scoring import Thresholds
from fastalign.nn.smoothing import smooth

HEIGHT, WIDTH, SIDE = 3000, 4000, 256
# zlib's strategy that looks for runs of equal values alone.
RUNS = 3
WAYS = {
    "full, png": PictureOptions(size="full", overlay_format="png"),
    "full": PictureOptions(size="full"),
    "2048": PictureOptions(size=2048),
    "1024 (default)": PictureOptions(),
    "512": PictureOptions(size=512),
}


def photograph(rng: np.random.Generator) -> np.ndarray:
    """A part with edges and sensor noise, uint8 [3000,4000,3]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    ring = np.abs(np.hypot(y - HEIGHT / 2, x - WIDTH / 2) - 900) < 250
    image = 90 + 30 * np.sin(x / 170) + 90 * ring
    image = image[..., None] + rng.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8)


def by_level(out: Path, runs: int) -> None:
    """Recompress the files that were written; each level shows the same."""

    def png(image: Image.Image, level: int, strategy: int) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=level, compress_type=strategy)
        return buffer.getvalue()

    def tiff(scores: np.ndarray, level: int) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            scores,
            photometric="minisblack",
            rowsperstrip=max(1, (1 << 18) // (4 * scores.shape[1])),
            compression="zlib" if level else None,
            compressionargs={"level": level} if level else None,
            maxworkers=1,
            metadata=None,
        )
        return buffer.getvalue()

    scores = tifffile.imread(out / "maps/part.tiff")
    ways: list[tuple[str, str, Callable[[], bytes]]] = [
        ("map, TIFF", f"level {level}" if level else "none", partial(tiff, scores, level))
        for level in (0, 1, 3, 6, 9)
    ]
    for noun, name in (
        ("map to look at, PNG", "maps/part.png"),
        ("mask, PNG", "masks/part.png"),
        ("overlay, PNG", "overlays/part.png"),
    ):
        image = Image.open(out / name)
        image.load()
        ways += [(noun, f"level {n}", partial(png, image, n, 0)) for n in (1, 3, 6, 9)]
        ways.append((noun, "level 1, runs", partial(png, image, 1, RUNS)))
    print("\n| file | compression | kB | ms |")
    print("|---|---|---|---|")
    for noun, way, encode in ways:
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            data = encode()
            times.append(1000 * (time.perf_counter() - began))
        print(f"| {noun} | {way} | {len(data) / 1e3:.1f} | {median(times):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    image = photograph(rng)
    scores = torch.from_numpy(rng.gamma(4, 20, (1, 1, 64, 64)).astype(np.float32))
    scores[..., 20:24, 30:34] *= 6
    scored = torch.nn.functional.interpolate(scores, (SIDE, SIDE), mode="bilinear")[:, 0]
    scored = smooth(scored, 4.0)[0]
    threshold = float(scored.quantile(0.99))
    item = Input(Path("part.jpg"), "part.jpg", Path("part"))
    print("| --picture-size | map MB | to look at MB | mask MB | overlay MB | all MB | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, options in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            writer = PictureWriter(out, options, Thresholds(threshold, threshold))
            times = []
            for _ in range(runs):
                began = time.perf_counter()
                writer.write(item, image, scored)
                times.append(time.perf_counter() - began)
            files = [p for p in out.rglob("*") if p.is_file()]
            kinds = ("maps/part.tiff", "maps/part.png", "masks/part.png", "overlays/part.*")
            sizes = [sum(p.stat().st_size for p in out.glob(kind)) / 1e6 for kind in kinds]
            total = sum(p.stat().st_size for p in files) / 1e6
        shown = " | ".join(f"{size:.2f}" for size in (*sizes, total))
        print(f"| {name} | {shown} | {median(times):.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        options = PictureOptions(overlay_format="png")
        writer = PictureWriter(Path(folder), options, Thresholds(threshold, threshold))
        writer.write(item, image, scored)
        by_level(Path(folder), 3 * runs)


if __name__ == "__main__":
    main()
