"""Fetch the photographs that the tables are measured on, and lay them out as MVTec AD does.

They come from three public repositories, at one commit each; `tools/data_sources.json` names every
file with its SHA-256 and what becomes of it. The result is the same, byte for byte, as the set that
the published tables were measured on, where Pillow's JPEG encoder is the same (`cookie` and
`screw_head` are stored anew; the other two are copies), and the script says whether it is.

    python tools/fetch_data.py DATA                         # all four categories, about 50 MB
    python tools/fetch_data.py DATA --only ball_screw cookie
    python tools/fetch_data.py DATA --from file:///mirror   # <repository>/<commit>/<file> below it

Files that have arrived are kept in DATA/.fetched until all is done, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SOURCES = Path(__file__).with_name("data_sources.json")
ORIGIN = "https://raw.githubusercontent.com"
COOKIES = "computer-vision-defect-detection/cookie-dataset"
# Left upper corners of the four places that the source gives for the screws, and the side.
PLACES = ((5, 69), (305, 69), (5, 429), (325, 429))
SIDE = 256
RADIUS = 50
STORED_ANEW = ("cookie", "screw_head")
READERS, ATTEMPTS, TIMEOUT = 8, 3, 60

File = tuple[str, bytes]
Get = Callable[[str], bytes]


class Source:
    """The files of a repository at a commit, each fetched once and checked."""

    def __init__(self, about: dict[str, Any], origin: str, kept: Path) -> None:
        self.about = about
        self.files: dict[str, str] = about["files"]
        self._base = f"{origin.rstrip('/')}/{about['repository']}/{about['commit']}"
        self._kept = kept

    def get(self, path: str) -> bytes:
        wanted = self.files[path]
        kept = self._kept / wanted
        if kept.exists() and digest(content := kept.read_bytes()) == wanted:
            return content
        content = self._download(f"{self._base}/{path}", wanted)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_bytes(content)
        partial.replace(kept)
        return content

    def fetch(self, paths: list[str]) -> None:
        """Several files at a time."""
        with ThreadPoolExecutor(READERS) as pool:
            for number, _ in enumerate(pool.map(self.get, paths), 1):
                if number % 50 == 0 or number == len(paths):
                    print(f"  {number} of {len(paths)} files", flush=True)

    def _download(self, url: str, wanted: str) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                    content: bytes = answer.read()
                break
            except (urllib.error.URLError, OSError) as error:
                if attempt == ATTEMPTS or isinstance(error, urllib.error.HTTPError):
                    raise SystemExit(
                        f"{url}: cannot be fetched ({error}); try again later, what has arrived is "
                        "kept, or name a mirror with --from."
                    ) from error
        if (found := digest(content)) != wanted:
            raise SystemExit(
                f"{url}: SHA-256 {found}, expected {wanted}; the file was changed on its way or at "
                "its place. Try again, or name another mirror with --from."
            )
        return content


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tree_digest(folder: Path) -> str:
    """SHA-256 of a list as `sha256sum` prints it, of all files below, sorted by path."""
    files = sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    return digest("".join(f"{digest(p.read_bytes())}  {name}\n" for name, p in files).encode())


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=92, subsampling=0, optimize=True)
    return buffer.getvalue()


def png(mask: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def cookie(about: dict[str, Any], files: list[str], get: Get) -> Iterator[File]:
    """Photographs stored anew, and the coloured masks as 0 and 255."""
    kinds = {"normal": "train/good", "test-normal": "test/good", "anomaly": "test/broken"}
    for path in files:
        kind, _, number = Path(path).stem.rpartition("-")
        if path.endswith(".jpg"):
            yield f"{kinds[kind]}/{int(number):03d}.jpg", jpeg(opened(get(path)))
            continue
        with warnings.catch_warnings():
            # Pillow recommends RGBA for palettes with transparency, which is what is asked for.
            warnings.simplefilter("ignore", UserWarning)
            colours = np.asarray(opened(get(path)).convert("RGBA"))
        drawn = (colours[..., 3] > 0) & (colours[..., :3].max(axis=2) > 0)
        yield f"ground_truth/broken/{int(number):03d}_mask.png", png(drawn)


def plates(about: dict[str, Any], files: list[str]) -> Iterator[tuple[str, str]]:
    """The photographs of screws by number, of those that belong to the set."""
    wanted = {*about["holes"], *about["good"]["train"], *about["good"]["test"]}
    for path in files:
        number = f"{int(Path(path).stem.split('_')[0]):03d}"
        if number in wanted:
            yield number, path


def discs(size: tuple[int, int], holes: list[list[int]]) -> np.ndarray[Any, Any]:
    """A mask ``[H, W]`` with a disc at each hole (x, y)."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    mask = np.zeros((size[1], size[0]), dtype=bool)
    for x, y in holes:
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= RADIUS**2
    return mask


def screw_plate(about: dict[str, Any], files: list[str], get: Get) -> Iterator[File]:
    """Copies, and a disc for every missing screw."""
    for number, path in plates(about, files):
        content = get(path)
        if holes := about["holes"].get(number):
            yield f"test/missing_screw/{number}.jpg", content
            mask = png(discs(opened(content).size, holes))
            yield f"ground_truth/missing_screw/{number}_mask.png", mask
        else:
            split = "train" if number in about["good"]["train"] else "test"
            yield f"{split}/good/{number}.jpg", content


def screw_head(about: dict[str, Any], files: list[str], get: Get) -> Iterator[File]:
    """What is at the four places of every plate: with a screw to learn from (plates to 100) and to
    measure with, without one where it was chosen."""
    for number, path in plates(about["plates"], files):
        plate = opened(get(path)).convert("RGB")
        holes = about["plates"]["holes"].get(number, [])
        mask = discs(plate.size, holes)
        for place, (x, y) in enumerate(PLACES):
            name, box = f"{number}_{place}", (x, y, x + SIDE, y + SIDE)
            missing = any(x <= hx < x + SIDE and y <= hy < y + SIDE for hx, hy in holes)
            if missing and name in about["missing"]:
                yield f"test/missing/{name}.jpg", jpeg(plate.crop(box))
                inside = mask[y : y + SIDE, x : x + SIDE]
                yield f"ground_truth/missing/{name}_mask.png", png(inside)
            elif not missing:
                split = "train" if int(number) <= 100 else "test"
                yield f"{split}/good/{name}.jpg", jpeg(plate.crop(box))


def ball_screw(about: dict[str, Any], files: list[str], get: Get) -> Iterator[File]:
    """Copies of a selection, and the polygons of its annotations as masks."""
    for kind, names in about["images"].items():
        for name in names:
            content = get(f"data/01_{name}_crop_2.jpg")
            yield f"{kind}/{name}.jpg", content
            if kind == "test/pitting":
                picture = Image.new("L", opened(content).size)
                for shape in json.loads(get(f"label/01_{name}_crop_2.json"))["shapes"]:
                    points = [tuple(point) for point in shape["points"]]
                    ImageDraw.Draw(picture).polygon(points, fill=1, outline=1)
                yield f"ground_truth/pitting/{name}_mask.png", png(np.asarray(picture))


CATEGORIES = {
    "cookie": cookie,
    "screw_plate": screw_plate,
    "screw_head": screw_head,
    "ball_screw": ball_screw,
}


def lay_out(name: str, about: dict[str, Any], source: Source, target: Path) -> None:
    """Write a category to ``target``, which appears when it is complete."""
    source.fetch(list(source.files))
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path, content in CATEGORIES[name](about, list(source.files), source.get):
        file = partial / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    partial.replace(target)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder to write the categories to")
    parser.add_argument("--only", nargs="+", choices=CATEGORIES, default=list(CATEGORIES))
    parser.add_argument("--from", dest="origin", default=ORIGIN, help=f"default: {ORIGIN}")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="the list of files")
    given = parser.parse_args(arguments)
    document = json.loads(given.sources.read_text(encoding="utf-8"))
    kept = given.data / ".fetched"
    credits = []
    for name in given.only:
        about = document["categories"][name]
        source = Source(document["sources"][about["source"]], given.origin, kept)
        target = given.data / name
        if not target.exists():
            print(f"{name}: from {source.about['repository']}", flush=True)
            about = {**about, "plates": document["categories"]["screw_plate"]}
            lay_out(name, about, source, target)
        if tree_digest(target) == about["sha256"]:
            print(f"{name}: {target}, byte for byte the set of the published tables")
        elif name in STORED_ANEW:
            print(
                f"{name}: {target}, but not byte for byte the set of the published tables: Pillow "
                f"{Image.__version__} stores JPEG otherwise, or files were added or changed there. "
                "Figures may differ in the last digit.",
                file=sys.stderr,
            )
        else:
            raise SystemExit(
                f"{target}: holds other files than the published set; remove it and run again."
            )
        credits.append(credit(name, source.about))
    (given.data / "SOURCES.md").write_text("\n".join(credits), encoding="utf-8")
    shutil.rmtree(kept, ignore_errors=True)


def credit(name: str, source: dict[str, Any]) -> str:
    return (
        f"- `{name}`: made from https://github.com/{source['repository']} at {source['commit']} "
        f"({source['authors']}), licence {source['licence']} ({source['licence_text']}); renamed "
        "and laid out, with masks, by tools/fetch_data.py of fastalign; it says what is changed.\n"
    )


if __name__ == "__main__":
    main()
