"""What the pictures of `fastalign predict` take: bytes and seconds for one photograph of 12 million
pixels, by --picture-size and formats.

    python benchmarks/picture_size.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from fastalign.engine.inputs import Input
from fastalign.engine.pictures import PictureOptions, PictureWriter
from fastalign.engine.scoring import Thresholds
from fastalign.nn.smoothing import smooth

HEIGHT, WIDTH, SIDE = 3000, 4000, 256
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


if __name__ == "__main__":
    main()
