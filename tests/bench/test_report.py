"""The model's gate, and the files of a run from invented rows."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from fastalign.bench import models, page, protocol, run


class Model:
    """Scores by brightness, and by something else in a batch if it is told to."""

    def __init__(self, wrong=1.0):
        self.wrong = wrong

    def learn(self, batches):
        self.seen = sum(len(batch) for batch in batches)

    def score(self, images):
        return images.mean(1) * (self.wrong if len(images) > 1 else 1.0)

    def stored_bytes(self):
        return 7


@pytest.fixture
def images():
    test = torch.rand(10, 3, 16, 16) / 2
    masks = np.zeros((10, 16, 16), dtype=bool)
    masks[5:, 4:9, 4:9] = True
    test[5:, :, 4:9, 4:9] += 0.5
    labels = np.array([0] * 5 + [1] * 5)
    return protocol.Images(torch.rand(4, 3, 16, 16), test[:0], test, labels, masks, 1.0)


def test_a_model_is_timed_by_the_clock_and_judged(images):
    clock = iter(range(1000))
    row = models.measure(Model(), images, 16, lambda: next(clock))
    assert row["fit_s"] == 1 and row["latency_p50_ms"] == row["latency_p95_ms"] == 1000
    assert row["images_per_second"] == 16 and row["train_images"] == 4
    assert row["image_auroc"] == 1 and row["stored_bytes"] == 7
    assert {*models.COLUMNS} <= {*row, "part", "contestant", "image_size", "pose", "gate"}


def test_a_wrong_model_gets_no_figure(images):
    row = models.measure(Model(1.01), images, 4)
    assert set(row) == {"failed"} and row["failed"].startswith("wrong: maps in one batch are off")
    nan = models.judge(torch.full((1, 2, 2), float("nan")), torch.ones(1, 2, 2), None)
    assert nan == "a map is not finite"
    assert models.judge(torch.full((1, 2, 2), torch.inf), torch.ones(1, 2, 2), None) == nan
    ones = torch.ones(1, 2, 2)
    partly = torch.tensor([[[1.0, torch.nan], [1.0, 1.0]]])
    assert models.judge(partly, partly, 1.0001 * partly) is None
    assert "by the reference ops" in models.judge(partly, partly, 1.1 * partly)
    assert "other places" in models.judge(partly, ones, None)
    assert "by the reference ops" in models.judge(ones, ones, 1.1 * ones)
    assert models.judge(ones, ones, 1.0001 * ones) is None


def test_what_was_not_compared_ranks_lowest_and_what_is_not_judged_highest(images):
    maps = torch.rand(len(images.test), *images.test.shape[2:]) + 1
    maps[0], maps[1, :4] = torch.nan, torch.nan
    scores = protocol.scores_of(maps)
    others = [float(one.nan_to_num().max()) for one in maps[1:]]
    assert scores.tolist() == pytest.approx([max(others) + 1, *others])
    found = protocol.figures(scores.numpy(), maps, images)
    filled = maps.nan_to_num(nan=0.0)
    filled[0] = 9.0
    assert found == protocol.figures(filled.amax((1, 2)).numpy(), filled, images)


@pytest.fixture
def finished(images):
    def entry(ms, **more):
        quantiles = {"p05": ms * 0.9, "p25": ms * 0.95, "p75": ms * 1.05, "p95": ms * 1.1}
        return {"ms": ms, "samples": [ms] * 5, "errors": [1e-7], "peak_bytes": 4096, **quantiles}

    entries = {"fastalign/cpu": entry(1.0), "compiled": entry(3.0), "eager": entry(0.5)}
    entries |= {"kornia": {"absent": "kornia is not installed"}, "loop": {"failed": "wrong: <b>"}}
    row = {"case": "c", "op": "warp_affine", "work": "forward", "mode": "forward"}
    row |= {"shape": [1, 2, 3, 4], "dtype": "float32", "layout": "contiguous"}
    row |= {"storage": "float32", "small": False, "bytes": 192, "contestants": entries}
    model = models.measure(Model(), images, 8)
    model |= {"part": "model", "contestant": "fastalign", "image_size": 16, "pose": "as is"}
    gone = {"part": "model", "contestant": "anomalib PaDiM", "image_size": 16, "pose": "as is"}
    difference = {"case": "c", "contestant": "fastalign/cpu", "ratio": 0.8, "low": 0.7}
    difference |= {"high": 0.9, "noise": None, "verdict": "slower"}
    comparison = {"baseline": "commit 0", "interleaved": True, "left_out": []}
    return {
        "device": "a <machine>",
        "device_type": "cpu",
        "profile": "quick",
        "measured": "today",
        "versions": {"torch": "2", "fastalign": "0"},
        "commit": "0123",
        "threads": 2,
        "cores": 2,
        "copy_bytes_per_second": 1e9,
        "absent": {"triton": "no GPU"},
        "left_out": ["d"],
        "rows": [row],
        "models": [model, {**gone, "absent": "anomalib is not installed"}],
        "comparison": {**comparison, "rows": [difference]},
    }


def test_the_files_of_a_run(finished, tmp_path):
    run.write(finished, tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert {"bench.json", "ops.csv", "models.csv", "report.html"} <= written
    assert run.read_baseline(str(tmp_path / "bench.json"))["rows"][0]["case"] == "c"
    lines = list(csv.DictReader(io.StringIO((tmp_path / "models.csv").read_text())))
    assert [line["gate"] for line in lines] == ["passed", "absent: anomalib is not installed"]
    assert {*models.COLUMNS, "device", "commit", "torch"} <= set(lines[0])
    pytest.importorskip("matplotlib")
    assert {"ops.png", "models.png"} <= written


def test_the_report_opens_by_itself(finished):
    html = page.render(finished)
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    text = []
    parser.handle_data = text.append
    parser.feed(html)
    text = re.sub(r"\s+", " ", "".join(text))
    assert not [tag for tag, _ in found if tag in ("img", "link", "script", "b")]
    assert not [a for _, a in found if {"src", "href", "action"} & set(a)]
    for words in ("a <machine>", "wrong: <b>", "kornia is not installed", "no GPU", "slower"):
        assert words in text
    # Against the fastest of the others, and that is not torch.compile here.
    assert page.ratios(finished["rows"]) == [("warp_affine, forward, 1x2x3x4", 0.5, "0.5x eager")]


def test_an_only_that_finds_nothing():
    from fastalign.errors import ConfigError

    with pytest.raises(ConfigError, match="--list names them"):
        run.run("nowhere", "nowhere", only=lambda name: False)
