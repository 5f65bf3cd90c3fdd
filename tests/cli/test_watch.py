import json
import shutil
import signal
import threading
import warnings

import pytest
import torch

from fastalign import FYD
from fastalign.cli.ending import until_told
from fastalign.engine.scoring import thresholds
from fastalign.export import Scorer
from fastalign.line.scorer import LineScorer
from fastalign.prepare import photograph
from fastalign.verdict import Verdict


def test_photographs_are_judged_until_the_command_is_told_to_end(
    run, python, whole_command, fitted, whole_ring, tmp_path
):
    camera, out = tmp_path / "camera", tmp_path / "out"
    shutil.copytree(whole_ring / "test", camera)
    options = ("--model", fitted, "--out", out, "--settle", "0.1", "--json")
    process = python.start(whole_command, "watch", camera, *options)
    lines = [json.loads(process.stdout.readline()) for _ in range(6)]
    shutil.copy(camera / "dent" / "00.png", camera / "late.png")
    lines.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "") and "7 judged" in errors
    journal = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert [line for line in journal if line["event"] == "photograph"] == lines
    assert lines[-1]["path"] == "late.png" and journal[-1]["event"] == "end"
    again = run("watch", camera, "--model", fitted, "--out", out, "--once", "--settle", "0")
    assert again.code == 0 and again.out == "" and "7 judged before" in again.err
    # The verdicts are those of predict, and of what is exported.
    model = FYD.load(fitted)
    scorer = Scorer(model).eval()
    for line in lines:
        with torch.inference_mode():
            image = torch.from_numpy(photograph(camera / line["path"], scorer.contract()))
            score, _, label, _, _ = scorer(image)
        assert (float(score), Verdict(int(label)).text) == (line["score"], line["verdict"])
    # Several at once, as serve judges those that wait, have the scores that each has alone.
    together = LineScorer(model, thresholds(model))
    prepared = [together.prepare(together.read(camera / line["path"])) for line in lines]
    assert [float(one.score) for one in together.score(prepared)] == [
        line["score"] for line in lines
    ]
    other = tmp_path / "predict"
    assert run("predict", camera, "--model", fitted, "--out", other, "--save", "regions").code == 0
    told = {line["path"]: line for line in lines}
    for raw in (other / "regions.jsonl").read_text().splitlines():
        row = json.loads(raw)
        line = told.pop(row["path"])
        assert row == {name: line[name] for name in row}
    assert told == {}


def test_bad_options_leave_with_2_or_3(run, fitted, tmp_path):
    for options, code, named in (
        ((), 3, "no such folder"),
        (("--hook", "'open"), 2, "quotation"),
        (("--hook", "no-such-command-anywhere"), 2, "no such command"),
        (("--webhook", "file:///x"), 2, "http://"),
        (("--settle", "-1"), 2, "--settle"),
        (("--save", "video"), 2, "video"),
        (("--notify", "bad"), 2, "bad"),
        (("--events", "magic"), 2, "magic"),
    ):
        missing = tmp_path / "nowhere" if not options else tmp_path
        outcome = run("watch", missing, "--model", fitted, "--out", tmp_path / "out", *options)
        assert (outcome.code, named in outcome.err) == (code, True), outcome.err


def test_the_first_signal_asks_to_end_and_the_second_ends():
    stop, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt):
        with until_told(stop):
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
