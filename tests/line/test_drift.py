"""Drift on the line: as lines of the journal, over HTTP, and over restarts."""

import json

import numpy as np
import pytest
from PIL import Image

from fastalign.drift.monitor import DriftMonitor
from fastalign.drift.normal import Normal
from fastalign.line.drift import LineDrift
from fastalign.line.watch import watch_folder

QUICK = {"settle": 0.0, "patience": 0.1, "poll": 0.01, "events": "poll", "once": True}


def write(folder, levels, start=0):
    folder.mkdir(exist_ok=True)
    for index, level in enumerate(levels, start):
        image = np.full((32, 48, 3), level, np.uint8)
        image[::2] = level + 4
        Image.fromarray(image).save(folder / f"{index:03d}.png")


USUAL, DARK = [118, 124, 121, 127, 119] * 3, [95, 91, 97, 93] * 5


def without_time(lines):
    own = ("time", "key")
    return [{name: value for name, value in line.items() if name not in own} for line in lines]


def test_drift_is_a_line_the_same_however_often_the_run_is_ended(tmp_path, model, read_lines):
    write(tmp_path / "in", USUAL + DARK + 3 * USUAL)
    tell = []
    watch_folder(model, tmp_path / "in", tmp_path / "whole", tell=tell.append, **QUICK)
    began, ended = read_lines(tmp_path / "whole", "drift")
    assert (began["state"], began["direction"], ended["state"]) == ("began", "darker", "ended")
    assert 13 <= int(began["since"][:3]) <= 16 < int(began["at"][:3]) < 30
    assert began["text"].startswith("the photographs are darker by 2")
    # Behind the line of the photograph with which it was certain, and told with it.
    lines = read_lines(tmp_path / "whole")
    assert lines[lines.index(began) - 1]["path"] == began["at"]
    assert tell == [line for line in lines if line["event"] in ("photograph", "drift")]
    first = lines[1]
    assert first["conditions"]["brightness"] == pytest.approx(120 / 255, abs=0.01)

    # In pieces, one of which ends between the line of a photograph and what it says of drift.
    start = 0
    for upto in (10, int(began["at"][:3]) + 1, 40, 80):
        write(tmp_path / "pieces", (USUAL + DARK + 3 * USUAL)[start:upto], start)
        start = upto
        watch_folder(model, tmp_path / "pieces", tmp_path / "out", **QUICK)
        journal = tmp_path / "out" / "verdicts.jsonl"
        kept = journal.read_text().splitlines(keepends=True)
        if json.loads(kept[-2])["event"] == "drift":
            journal.write_text("".join(kept[:-2]))
    assert without_time(read_lines(tmp_path / "out", "drift")) == without_time([began, ended])


def test_photographs_of_another_model_say_nothing(tmp_path, model, read_lines):
    write(tmp_path / "in", DARK[:4])
    watch_folder(model, tmp_path / "in", tmp_path / "out", **QUICK)
    other = Normal.of([0.4 + 0.01 * index for index in range(20)])
    known = model.extra_metadata()
    model.extra_metadata = lambda: {**known, "normal_conditions": {"brightness": other.record()}}
    write(tmp_path / "in", DARK[4:], 4)
    watch_folder(model, tmp_path / "in", tmp_path / "out", **QUICK)
    digests = [line["drift"] for line in read_lines(tmp_path / "out", "begin")]
    assert len(set(digests)) == 2
    for line in read_lines(tmp_path / "out", "drift"):
        assert int(line["since"][:3]) >= 4


def test_what_is_unsure_or_unreadable_is_no_photograph_of_the_light():
    monitor = DriftMonitor({"brightness": Normal.of([0.4 + 0.01 * index for index in range(20)])})
    drifting = LineDrift(monitor)
    for number in range(60):
        line = {"path": f"{number}.png", "height": 4, "width": 4, "conditions": {}}
        assert drifting.add(line) == []
    assert monitor.photographs == 0
    said = []
    for number in range(60):
        line = {"path": f"{number}.png", "height": 4, "width": 4, "conditions": {"unjudged": 1.0}}
        said += drifting.add(line)
    assert [one.statistic for one in said] == ["unjudged"]


def test_a_model_that_keeps_nothing_says_so_once_and_no_drift(tmp_path, model, read_lines):
    known = model.extra_metadata()
    model.extra_metadata = lambda: {**known, "normal_conditions": None}
    write(tmp_path / "in", [120] * 3 + [20] * 20)
    notes = []
    watch_folder(model, tmp_path / "in", tmp_path / "out", note=notes.append, **QUICK)
    assert len(notes) == 1 and "no drift is told" in notes[0]
    watch_folder(model, tmp_path / "in", tmp_path / "off", note=notes.append, drift=0, **QUICK)
    assert len(notes) == 1
    assert read_lines(tmp_path / "out", "drift") == []
    assert {
        json.dumps(line["conditions"]) for line in read_lines(tmp_path / "out", "photograph")
    } == {"{}"}


def test_an_update_of_the_model_begins_anew_then_and_after_a_restart():
    def monitor(middle):
        values = [middle + 0.01 * (7 * step % 20) for step in range(20)]
        return DriftMonitor({"brightness": Normal.of(values)})

    def photograph(number, level):
        conditions = {"brightness": level, "unjudged": 0.0}
        about = {"event": "photograph", "path": f"{number}.png", "height": 4, "width": 4}
        return {**about, "conditions": conditions}

    first, second = monitor(0.4), monitor(0.6)
    drifting = LineDrift(first)
    lines = [{"event": "begin", **drifting.begin()}]
    lines += [photograph(number, 0.7) for number in range(40)]
    assert [said.direction for line in lines[1:] for said in drifting.add(line)] == ["brighter"]
    # The same normal photographs: nothing is forgotten.
    drifting.go_on_with(monitor(0.4))
    assert len(drifting.standing()) == 1
    drifting.go_on_with(second)
    assert drifting.standing() == [] and drifting.begin() != lines[0]
    lines.append({"event": "update", **drifting.begin()})
    lines += [photograph(number, 0.7) for number in range(40, 80)]
    assert [said for line in lines[42:] for said in drifting.add(line)] == []
    again = LineDrift(monitor(0.6))
    for line in lines:
        again.replay(line)
    assert again.standing() == [] and again.unsaid() == []
    assert again.monitor.photographs == drifting.monitor.photographs == 40
