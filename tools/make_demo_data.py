"""Make the photographs that ship with the project from the full category.

The rule, so that nobody has to wonder whether the images were picked for their result: all images
of ``train/good`` and ``test/good``, and of each defect every sixth image by name, starting with the
first. A photograph that is there twice is taken once, from ``train`` where it is there as well.
Images are made smaller until the longer side is 400 px (Lanczos) and stored as JPEG of
quality 90; masks follow by nearest neighbour. No metadata is copied.

    python tools/make_demo_data.py SOURCE/screw_plate fastalign/demo_data/screw_plate
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from PIL import Image

LONG_SIDE = 400
QUALITY = 90
STEP = 6


def smaller(size: tuple[int, int]) -> tuple[int, int]:
    """The size (width, height) whose longer side is ``LONG_SIDE``; never larger than ``size``."""
    scale = min(1.0, LONG_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def content(path: Path) -> str:
    """A digest of the pixels, the same for two files that show the same."""
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()


def without_repeats(images: list[Path]) -> list[Path]:
    """The images in their order, each content once."""
    first: dict[str, Path] = {}
    for image in images:
        known = first.setdefault(content(image), image)
        if known != image:
            print(f"{image} shows the same as {known}: left out")
    return list(first.values())


def write_image(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        small = image.convert("RGB").resize(smaller(image.size), Image.Resampling.LANCZOS)
    small.save(target.with_suffix(".jpg"), quality=QUALITY, optimize=True)


def write_mask(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as mask:
        small = mask.convert("L").resize(smaller(mask.size), Image.Resampling.NEAREST)
    small.save(target, optimize=True)


def make(source: Path, target: Path) -> int:
    """Write the selection from ``source`` to ``target``; return the number of images."""
    if target.exists() and any(target.iterdir()):
        raise SystemExit(f"{target} is not empty; remove it first, so that no old image stays.")
    chosen = [*sorted((source / "train" / "good").iterdir())]
    chosen += sorted((source / "test" / "good").iterdir())
    if not chosen:
        raise SystemExit(f"{source} holds no train/good and test/good images.")
    defects = sorted(f.name for f in (source / "test").iterdir() if f.is_dir() and f.name != "good")
    for defect in defects:
        chosen += sorted((source / "test" / defect).iterdir())[::STEP]
    chosen = without_repeats(chosen)
    for image in chosen:
        name = image.relative_to(source)
        write_image(image, target / name)
        if name.parts[0] == "test" and name.parts[1] != "good":
            mask = Path("ground_truth", name.parts[1], f"{image.stem}_mask.png")
            write_mask(source / mask, target / mask)
    return len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the full category, in MVTec AD layout")
    parser.add_argument("target", type=Path, help="the folder to write; must be empty or absent")
    arguments = parser.parse_args()
    count = make(arguments.source, arguments.target)
    size = sum(f.stat().st_size for f in arguments.target.rglob("*") if f.is_file())
    print(f"{count} images, {size / 1e6:.2f} MB with masks, in {arguments.target}")


if __name__ == "__main__":
    main()
