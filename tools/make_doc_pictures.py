"""Make the pictures of README.md and the guides from what `fastalign demo` writes.

The rule, so that nobody has to wonder whether the images were picked for their result: the first
and the last defective photograph by name, and the good one with the highest score. Needs chromium
for the picture of the report.

    fastalign demo --out fastalign-demo
    python tools/make_doc_pictures.py fastalign-demo docs/images
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fastalign import artifact
from fastalign.data import load_image, prepare
from fastalign.report.heat import heat_overlay

DATA = Path(__file__).parents[1] / "fastalign" / "demo_data" / "screw_plate"
WIDTH, GAP, HEAD, QUALITY = 220, 8, 26, 85
COLUMNS = ("photograph", "aligned", "score map and outline")


def chosen(scores: Path) -> list[str]:
    """Paths below the data folder, by the rule above."""
    with scores.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    good_ones = [row for row in rows if Path(row["path"]).parent.name == "good"]
    defective = [row["path"] for row in rows if row not in good_ones]
    good = max(good_ones, key=lambda row: float(row["score"]))
    return [defective[0], defective[-1], good["path"]]


def panels(model: torch.nn.Module, path: Path) -> list[Image.Image]:
    """Photograph, what the model compared, and the map with outlines, all of one size."""
    photo = load_image(path)
    height, width = photo.shape[:2]
    with torch.inference_mode():
        detail = model.predict_detail(prepare(photo, model.config.image_size)[None])
    aligned = (detail.aligned[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    scores = np.asarray(
        Image.fromarray(detail.map[0].float().numpy()).resize(
            (width, height), Image.Resampling.BILINEAR
        )
    )
    over = heat_overlay(photo, scores, float(model.pixel_threshold))
    size = (WIDTH, round(WIDTH * height / width))
    return [
        Image.fromarray(array).resize(size, Image.Resampling.LANCZOS)
        for array in (photo, aligned, over)
    ]


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    size = (len(COLUMNS) * (width + GAP) + GAP, HEAD + len(rows) * (height + GAP))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(COLUMNS):
        left = GAP + column * (width + GAP)
        draw.text((left, 5), title, "black", font=ImageFont.load_default(15))
        for row, images in enumerate(rows):
            picture.paste(images[column], (left, HEAD + row * (height + GAP)))
    return picture


def screenshot(report: Path, target: Path) -> None:
    """The top of the report as a browser shows it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("no chromium here: install one for the picture of the report")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            + ["--window-size=1160,1100", f"--screenshot={shot}", report.resolve().as_uri()],
            check=True,
            capture_output=True,
        )
        with Image.open(shot) as image:
            image.convert("RGB").save(target, quality=QUALITY, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="what `fastalign demo --out` wrote")
    parser.add_argument("out", type=Path, help="folder of the pictures")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    model = artifact.load(given.demo / "model.safetensors", device="cpu")
    rows = [panels(model, DATA / path) for path in chosen(given.demo / "scores.csv")]
    sheet(rows).save(given.out / "screw_plate.jpg", quality=QUALITY, optimize=True)
    screenshot(given.demo / "report.html", given.out / "report.jpg")


if __name__ == "__main__":
    main()
