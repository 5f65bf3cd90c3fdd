"""Controls on the same backbone and the same images: what alignment and our density are worth
beside PaDiM, PatchCore, Mahalanobis PatchCore, nearest neighbours at the same place after our
alignment, nearest neighbours anywhere among turned copies, and one PCA for all locations.

    python benchmarks/controls.py --data DIR [--rows screw_plate] [--turns 0 20 45 180]
        [--counts 5 10 20 50 all] [--controls ours patchcore] [--again]
    python benchmarks/controls.py --data DIR --times screw_plate
    python benchmarks/controls.py --merge NAME ...

DIR holds the categories screw_plate, ball_screw, screw_head and cookie. In pieces, too: results are
written after each row, and rows that are there stay, unless ``--again`` measures them anew; pieces
that were measured side by side (``--name``) are put together by ``--merge``. Writes
results/controls.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from controls_page import OURS, page, plot
from protocol import RESULTS, Images, Jitter, figures, read_category, write

from fastalign import FYD, FYDConfig
from fastalign.bench import setting
from fastalign.bench.contestants import Contestant, Ours
from fastalign.bench.controls import CONTROLS
from fastalign.bench.controls.contestant import Controlled
from fastalign.bench.controls.features import Control, Seen, map_of, see, see_all, turned
from fastalign.bench.models import timed
from fastalign.bench.protocol import scores_of
from fastalign.nn.stages import STRIDES

DATA = ("screw_plate", "ball_screw", "screw_head", "cookie")
# Shifts beside the turns, as in benchmarks/main_job.py.
SHIFTS = {0.0: 0.0, 20.0: 0.08, 45.0: 0.1, 180.0: 0.1}
ALIGN = {OURS[0]: "all", OURS[1]: "none"}
NAMES = (*ALIGN, *CONTROLS)
_BATCH = 16
KEY = ("data", "degrees", "photographs", "seed", "control")
Row = dict[str, Any]


def slug(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "-")


class Bench:
    """A category in one pose and order: its images as they are go through the network once.

    Arguments:
        images: all of them.
        seed: of the order of the training photographs, and of everything that is drawn.
        device: of models and controls.
    """

    def __init__(self, images: Images, seed: int, device: str) -> None:
        self.images, self.seed, self.device = images, seed, device
        self._options = {"image_size": tuple(images.train.shape[2:]), "aspect": images.aspect}
        generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(len(images.train), generator=generator)

    @cached_property
    def plain(self) -> FYD:
        """The network alone."""
        return FYD(FYDConfig(**self._options, align="none", strides=STRIDES)).to(self.device)

    @cached_property
    def as_they_are(self) -> tuple[Seen, Seen]:
        """Training and test images."""
        images = self.images
        return tuple(see_all(self.plain, part, False) for part in (images.train, images.test))  # type: ignore[return-value]

    def fitted(self, align: str, count: int, **options: Any) -> FYD:
        """Ours, fitted to so many photographs, without thresholds, as the controls."""
        model = FYD(FYDConfig(**self._options, align=align, **options)).to(self.device)
        return model.fit(self.images.train[self._order[:count]], seed=self.seed)

    def rows(self, count: int, wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        """Figures of contestants that learn from so many photographs, as they are found."""
        chosen = self._order[:count]
        aligned: tuple[FYD, Seen, Seen] | None = None
        for name in wanted:
            made = None if name in ALIGN else CONTROLS[name](self.seed)
            if made is None or (made.aligned and aligned is None):
                # Controls judge on the grid of the finest stage.
                own = {} if made is None else {"strides": STRIDES}
                model = self.fitted(ALIGN.get(name, "all"), count, **own)
            if made is None:
                yield name, self._ours(model)
            if made is not None and made.aligned and aligned is None:
                parts = self.images.train[chosen], self.images.test
                train, test = (see_all(model, part, True) for part in parts)
                aligned = model, train, test
            if made is None:
                continue
            if made.aligned:
                assert aligned is not None
                yield name, self._control(made, *aligned)
            else:
                train, test = self.as_they_are
                yield name, self._control(made, self.plain, train[chosen], test)

    def _ours(self, model: FYD) -> Row:
        parts = (part.to(self.device) for part in self.images.test.split(_BATCH))
        maps = torch.cat([model(part)[1].cpu() for part in parts])
        summary = model.extra_metadata()["alignment"]["summary"]
        return figures(scores_of(maps).numpy(), maps, self.images) | {"alignment": summary}

    def _control(self, control: Control, model: FYD, train: Seen, test: Seen) -> Row:
        batches = train.batches(_BATCH)
        if control.turns > 1:
            batches = self._turned(model, len(train), control.turns)
        control.fit(batches, control.turns * len(train))
        maps, scores = [], []
        for seen in test.batches(8):
            judged = control.score(seen)
            maps.append(map_of(model, seen, judged).cpu())
            own = judged.score
            scores.append(scores_of(maps[-1]) if own is None else own.cpu())
        return figures(torch.cat(scores).numpy(), torch.cat(maps), self.images)

    def _turned(self, model: FYD, count: int, turns: int) -> Iterator[Seen]:
        for part in self.images.train[self._order[:count]].split(_BATCH):
            for copy in turned(part.to(self.device), turns, self.images.aspect):
                yield see(model, copy, False)


def contestant(name: str, images: Images, seed: int) -> Contestant:
    """One that goes from images to maps, for times."""
    size = images.train.shape[2]
    if name in ALIGN:
        return Ours(size, align=ALIGN[name], aspect=images.aspect)
    return Controlled(CONTROLS[name](seed), size, images.aspect)


def times(path: Path, size: int, wanted: Sequence[str], note: Callable[[Row], None]) -> None:
    """Fit, one image at a time and stored bytes, each contestant after the other."""
    images = read_category(path, (size, size), Jitter(), 0, 0.0)
    for name in wanted:
        found = timed(contestant(name, images, 0), images, rounds=20)
        note({"data": path.name, "control": name, **found})


def study(options: argparse.Namespace, wanted: Sequence[str], document: Row) -> None:
    """All rows that are asked for and not there."""
    there = {tuple(row[key] for key in KEY) for row in document["rows"]}
    there = set() if options.again else there
    for name in options.rows:
        for degrees in options.turns:
            for seed in options.seeds:
                bench: Bench | None = None
                total = photographs(options.data / name)
                for count in dict.fromkeys(
                    total if text == "all" else min(int(text), total) for text in options.counts
                ):
                    about = (name, degrees, count, seed)
                    missing = [control for control in wanted if (*about, control) not in there]
                    if not missing:
                        continue
                    jitter = Jitter(degrees, SHIFTS.get(degrees, 0.1))
                    if bench is None:
                        size = (options.image_size, options.image_size)
                        images = read_category(options.data / name, size, jitter, seed, 0.0)
                        bench = Bench(images, seed, options.device)
                    for control, found in bench.rows(count, missing):
                        key = (*about, control)
                        row = dict(zip(KEY, key, strict=True)) | found
                        row["poses"], row["commit"] = jitter.label, setting.commit()
                        print(*key, found, flush=True)
                        merge(document, {"rows": [row], "times": []})
                        publish(options.name, document)


def photographs(path: Path) -> int:
    from fastalign.data import open_category

    return len(open_category(path).train)


def place(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where a row stands."""
    data, degrees, count, seed, control = key
    return (
        DATA.index(data) if data in DATA else len(DATA),
        degrees,
        -count,
        seed,
        NAMES.index(control),
    )


def read(name: str) -> Row:
    """The rows and times of earlier results, none where there are none."""
    stored = RESULTS / f"{name}.json"
    found = json.loads(stored.read_text()) if stored.is_file() else {}
    return {"rows": found.get("rows", []), "times": found.get("times", [])}


def merge(document: Row, other: Row) -> None:
    """Take in rows and times, in the place of the same ones."""
    rows = {tuple(row[key] for key in KEY): row for row in (*document["rows"], *other["rows"])}
    document["rows"] = [rows[key] for key in sorted(rows, key=place)]
    kept = {row["control"]: row for row in (*document["times"], *other["times"])}
    document["times"] = [kept[name] for name in NAMES if name in kept]


def publish(name: str, document: Row) -> None:
    write(name, document, page(document))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", nargs="+", default=list(DATA), help="categories; default all")
    parser.add_argument(
        "--turns", nargs="+", type=float, default=[0.0], help="degrees; 0: as they are"
    )
    parser.add_argument("--counts", nargs="+", default=["all"], help="training photographs, or all")
    parser.add_argument(
        "--controls", nargs="+", default=[""], help="beginnings of: " + ", ".join(map(slug, NAMES))
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are there anew")
    parser.add_argument("--times", metavar="CATEGORY", help="measure times on it, and no figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--device", default="cpu", help="of the figures; times are the CPU's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="controls", help="of the results")
    parser.add_argument("--merge", nargs="+", metavar="NAME", help="take in these results")
    options = parser.parse_args()
    if options.data is None and options.merge is None:
        parser.error("--data DIR, where the categories are, or --merge NAME")
    torch.set_num_threads(options.threads)
    wanted = [n for n in NAMES if any(slug(n).startswith(given) for given in options.controls)]
    if not wanted:
        parser.error(f"--controls {' '.join(options.controls)}: none of {', '.join(NAMES)}")
    document = read(options.name)
    if options.merge is not None:
        for name in options.merge:
            merge(document, read(name))
        publish(options.name, document)
    elif options.times is None:
        with torch.inference_mode():
            study(options, wanted, document)
    else:

        def note(row: Row) -> None:
            print(row, flush=True)
            merge(document, {"rows": [], "times": [row]})
            publish(options.name, document)

        times(options.data / options.times, options.image_size, wanted, note)
    plot(document, RESULTS / f"{options.name}.png")


if __name__ == "__main__":
    main()
