import json
import multiprocessing
import os
import random
import signal
import stat
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fastalign.engine.predict import predict_paths
from fastalign.errors import ConfigError, InputError
from fastalign.line import finder as finding
from fastalign.line import scorer
from fastalign.line.messages import Messages
from fastalign.line.watch import watch_folder

QUICK = {"settle": 0.02, "patience": 0.15, "poll": 0.02, "events": "poll"}


def wait_for(check, seconds=20.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


@pytest.fixture
def running(model, tmp_path):
    """Watch ``tmp_path/in`` in a thread; ended and joined after the test."""
    (tmp_path / "in").mkdir(exist_ok=True)
    stop, lines, notes, failures = threading.Event(), [], [], []
    threads = []

    def start(**options):
        def run():
            try:
                watch_folder(
                    model,
                    tmp_path / "in",
                    tmp_path / "out",
                    stop=stop,
                    tell=lines.append,
                    note=notes.append,
                    **{**QUICK, **options},
                )
            except BaseException as error:
                failures.append(error)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return lines, notes

    yield start
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert failures == []


def test_a_line_for_every_photograph_and_the_verdicts_are_those_of_predict(
    tmp_path, model, write_picture, read_lines
):
    for name, defect in (("a.png", False), ("sub/ü.jpg", True), ("z.bmp", False)):
        write_picture(tmp_path / "in" / name, defect)
    (tmp_path / "in" / "torn.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:40])
    (tmp_path / "in" / "notes.txt").write_text("about the line")
    (tmp_path / "in" / ".hidden.png").write_text("")
    out = tmp_path / "in" / "out"
    options = {"outputs": ["mask", "overlay"], "once": True, **QUICK}
    assert watch_folder(model, tmp_path / "in", out, **options) == 4
    lines = read_lines(out, "photograph")
    assert sorted(line["path"] for line in lines) == ["a.png", "sub/ü.jpg", "torn.png", "z.bmp"]
    by_name = {line["path"]: line for line in lines}
    torn = by_name.pop("torn.png")
    assert torn["verdict"] == "unsure" and "torn.png" in torn["reason"] and torn["score"] is None
    assert torn["width"] is None and torn["regions"] == [] and "--" not in torn["reason"]
    paths = [tmp_path / "in" / name for name in by_name]
    expected = predict_paths(model, paths, tmp_path / "predict", gallery_images=0)
    for item in expected.images:
        line = by_name[item.path]
        assert (line["score"], line["verdict"]) == (item.score, item.verdict.text)
        assert line["regions"] == [region.to_json() for region in item.regions]
        assert (line["width"], line["height"]) == (48, 32)
    # Pictures of what is not good alone.
    assert by_name["a.png"]["mask"] is None
    assert (out / by_name["sub/ü.jpg"]["mask"]).is_file()
    assert watch_folder(model, tmp_path / "in", out, **options) == 0


def test_photographs_that_come_and_files_that_are_written_again(
    tmp_path, running, write_picture, read_lines
):
    lines, _ = running()
    write_picture(tmp_path / "in" / "one.png")
    wait_for(lambda: len(lines) == 1)
    write_picture(tmp_path / "in" / "new folder" / "two.png", defect=True)
    wait_for(lambda: len(lines) == 2)
    again = write_picture(tmp_path / "in" / "one.png", defect=True)
    os.utime(again, ns=(1, again.stat().st_mtime_ns + 10_000_000))
    wait_for(lambda: len(lines) == 3)
    assert [line["verdict"] for line in lines] == ["good", "anomaly", "anomaly"]
    os.replace(again, tmp_path / "in" / "moved.png")
    wait_for(lambda: len(lines) == 4)
    assert lines == read_lines(tmp_path / "out", "photograph")


def test_a_file_is_judged_when_it_is_complete(tmp_path, running, write_picture):
    whole = write_picture(tmp_path / "apart.png", defect=True).read_bytes()
    lines, _ = running(patience=20)
    target = tmp_path / "in" / "slow.png"
    with target.open("wb") as file:
        quarter = len(whole) // 4
        for end in (quarter, 2 * quarter, 3 * quarter, len(whole)):
            assert lines == []
            file.write(whole[file.tell() : end])
            file.flush()
            # Longer than a file has to stay as it is.
            time.sleep(0.06)
    wait_for(lambda: lines)
    assert [line["verdict"] for line in lines] == ["anomaly"]


def test_what_was_read_while_it_was_written_again_is_read_again(
    tmp_path, running, write_picture, monkeypatch
):
    path = write_picture(tmp_path / "in" / "a.png")
    read, calls = scorer.load_image, []

    def overtaken(*arguments, **options):
        image = read(*arguments, **options)
        calls.append(1)
        if len(calls) == 1:
            write_picture(path, defect=True)
        return image

    monkeypatch.setattr(scorer, "load_image", overtaken)
    lines, _ = running()
    wait_for(lambda: lines)
    time.sleep(0.1)
    assert [line["verdict"] for line in lines] == ["anomaly"] and len(calls) == 2
    assert lines[0]["size"] == path.stat().st_size


def test_a_name_that_is_gone_at_once_is_no_photograph(tmp_path, running, write_picture):
    lines, _ = running(settle=0.2)
    draft = write_picture(tmp_path / "in" / "draft.png")
    time.sleep(0.05)
    os.replace(draft, tmp_path / "in" / "final.png")
    wait_for(lambda: lines)
    time.sleep(0.3)
    assert [line["path"] for line in lines] == ["final.png"]


def test_one_that_is_taken_away_before_its_turn_has_a_line(
    tmp_path, running, write_picture, model, monkeypatch
):
    monkeypatch.setattr(finding, "_LATE", 0.02)
    for name in "abcdef":
        write_picture(tmp_path / "in" / f"{name}.png")
    scored, may_go_on = model.predict_detail, threading.Event()

    def slow(images):
        may_go_on.wait(20)
        return scored(images)

    model.predict_detail = slow
    lines, _ = running(ahead=1)
    time.sleep(0.3)
    (tmp_path / "in" / "f.png").unlink()
    may_go_on.set()
    wait_for(lambda: len(lines) == 6)
    assert [line["path"] for line in lines] == [f"{name}.png" for name in "abcdef"]
    assert "taken away" in lines[5]["reason"] and lines[5]["verdict"] == "unsure"


def test_a_folder_that_is_away_for_a_while_is_waited_for(tmp_path, running, write_picture):
    lines, notes = running()
    write_picture(tmp_path / "in" / "a.png")
    wait_for(lambda: lines)
    os.rename(tmp_path / "in", tmp_path / "away")
    wait_for(lambda: notes)
    write_picture(tmp_path / "away" / "b.png")
    os.rename(tmp_path / "away", tmp_path / "in")
    wait_for(lambda: len(lines) == 2)
    assert len(notes) == 1 and "cannot be listed" in notes[0]


def test_events_wake_where_nobody_looks(tmp_path, running, write_picture):
    pytest.importorskip("watchfiles", reason="watchfiles is not installed: '.[watch]'")
    lines, _ = running(events="events", poll=600)
    time.sleep(0.5)
    write_picture(tmp_path / "in" / "sub" / "a.png")
    wait_for(lambda: lines)


def test_where_events_are_lost_the_folder_is_polled(tmp_path, running, write_picture, monkeypatch):
    watchfiles = pytest.importorskip("watchfiles", reason="watchfiles is not installed: '.[watch]'")

    def broken(*folders, **options):
        raise RuntimeError("a name that nobody can read")

    monkeypatch.setattr(watchfiles, "watch", broken)
    monkeypatch.setattr(finding, "POLL_SECONDS", 0.05)
    lines, notes = running(events="events", poll=None)
    wait_for(lambda: notes)
    time.sleep(0.2)
    write_picture(tmp_path / "in" / "a.png")
    wait_for(lambda: lines)
    assert "it is polled" in notes[0]


def test_an_error_of_one_photograph_is_a_line_and_of_all_is_the_end(
    tmp_path, model, write_picture, read_lines, monkeypatch
):
    for index in range(12):
        write_picture(tmp_path / "in" / f"{index:02}.png", defect=index == 6)
    scored = model.predict_detail

    def sometimes(images):
        if images.max() > 0.9:
            raise RuntimeError("a bad day")
        return scored(images)

    model.predict_detail = sometimes
    assert watch_folder(model, tmp_path / "in", tmp_path / "out", once=True, **QUICK) == 12
    odd = [line for line in read_lines(tmp_path / "out", "photograph") if line["reason"]]
    assert [line["path"] for line in odd] == ["06.png"]
    assert "a bad day" in odd[0]["reason"] and odd[0]["verdict"] == "unsure"

    def never(images):
        raise RuntimeError("broken")

    model.predict_detail = never
    with pytest.raises(RuntimeError, match="broken"):
        watch_folder(model, tmp_path / "in", tmp_path / "other", once=True, **QUICK)


# Killed -------------------------------------------------------------------------------------------


def _watch(model, folder, out, options):
    watch_folder(model, folder, out, **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_none_is_lost_and_none_is_twice(
    tmp_path, model, write_picture, read_lines
):
    """Real processes, killed with SIGKILL while photographs come in and are judged."""
    source, out = tmp_path / "in", tmp_path / "out"
    rng = random.Random(0)
    names = [f"{rng.randrange(4)}/{index:03}.png" for index in range(240)]
    data = write_picture(tmp_path / "good.png").read_bytes()
    apart = multiprocessing.get_context("fork")
    source.mkdir()
    fed, kills = 0, 0
    while fed < len(names):
        child = apart.Process(target=_watch, args=(model, source, out, QUICK))
        child.start()
        for name in names[fed : fed + 30]:
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_bytes(data)
            time.sleep(0.001)
        fed += 30
        # Not before it began, so that every kill meets work.
        before = fed - 30
        wait_for(lambda: (out / "verdicts.jsonl").exists())
        time.sleep(rng.uniform(0.03, 0.15))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        assert before <= fed
    watch_folder(model, source, out, once=True, **QUICK)
    judged = [line["path"] for line in read_lines(out, "photograph")]
    assert kills == 8 and sorted(judged) == sorted(names)
    # It was no single run that did it.
    begun = [line["event"] for line in read_lines(out)]
    assert begun.count("begin") >= 5 and begun[-1] == "end"


def test_a_line_that_was_cut_short_is_judged_again(tmp_path, model, write_picture, read_lines):
    write_picture(tmp_path / "in" / "a.png")
    write_picture(tmp_path / "in" / "b.png")
    options = {"once": True, **QUICK}
    watch_folder(model, tmp_path / "in", tmp_path / "out", **options)
    journal = tmp_path / "out" / "verdicts.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert watch_folder(model, tmp_path / "in", tmp_path / "out", **options) == 1
    assert [line["path"] for line in read_lines(tmp_path / "out", "photograph")] == [
        "a.png",
        "b.png",
    ]
    journal.write_bytes(lines[0] + b'{"event": "photograph"}\n')
    with pytest.raises(InputError, match=r"verdicts.jsonl: line 2 is none of this journal"):
        watch_folder(model, tmp_path / "in", tmp_path / "out", **options)


def test_one_folder_one_run_and_bad_options(tmp_path, model, running):
    running()
    wait_for(lambda: (tmp_path / "out" / "verdicts.jsonl").exists())
    with pytest.raises(InputError, match="another run writes"):
        watch_folder(model, tmp_path / "in", tmp_path / "out", once=True)
    with pytest.raises(InputError, match="no such folder"):
        watch_folder(model, tmp_path / "nowhere", tmp_path / "new")
    for options, named in (
        ({"settle": -1}, "settle"),
        ({"patience": float("nan")}, "patience"),
        ({"poll": 0}, "poll"),
        ({"ahead": 0}, "ahead"),
        ({"events": "magic"}, "--events 'magic'"),
        ({"notify": ["bad"]}, "--notify 'bad'"),
        ({"outputs": ["video"]}, "output 'video'"),
    ):
        with pytest.raises(ConfigError, match=named):
            watch_folder(model, tmp_path / "in", tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


# Messages -----------------------------------------------------------------------------------------


def script(path, text):
    path.write_text(f"#!{sys.executable}\nimport json, sys, time\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_a_hook_is_told_of_anomalies_without_a_shell(tmp_path, model, write_picture, read_lines):
    odd = "$(touch hacked); {score} a b.png"
    write_picture(tmp_path / "in" / odd, defect=True)
    write_picture(tmp_path / "in" / "good.png")
    told = tmp_path / "told"
    hook = script(
        tmp_path / "hook.py",
        f"line = json.load(sys.stdin)\nopen({str(told)!r}, 'a').write("
        "json.dumps([sys.argv[1:], line['path'], line['verdict']]) + '\\n')",
    )
    messages = Messages([hook, "--file={path}", "{verdict}"])
    options = {"once": True, "messages": messages, **QUICK}
    watch_folder(model, tmp_path / "in", tmp_path / "out", **options)
    (line,) = [json.loads(line) for line in told.read_text().splitlines()]
    assert line == [[f"--file={tmp_path / 'in' / odd}", "anomaly"], odd, "anomaly"]
    (note,) = read_lines(tmp_path / "out", "notified")
    assert (note["path"], note["by"], note["outcome"], note["attempts"]) == (odd, "hook", "sent", 1)
    assert not list(tmp_path.rglob("hacked"))


def test_what_was_not_told_before_a_kill_is_told_afterwards(
    tmp_path, model, write_picture, read_lines
):
    write_picture(tmp_path / "in" / "bad.png", defect=True)
    quiet = Messages([sys.executable, "-c", "pass"])
    options = {"once": True, "messages": quiet, **QUICK}
    watch_folder(model, tmp_path / "in", tmp_path / "out", **options)
    journal = tmp_path / "out" / "verdicts.jsonl"
    kept = [raw for raw in journal.read_text().splitlines(True) if "notified" not in raw]
    journal.write_text("".join(kept))
    assert watch_folder(model, tmp_path / "in", tmp_path / "out", **options) == 0
    assert [line["path"] for line in read_lines(tmp_path / "out", "notified")] == ["bad.png"]
    watch_folder(model, tmp_path / "in", tmp_path / "out", **options)
    assert len(read_lines(tmp_path / "out", "notified")) == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; print('no paper'); sys.exit(3)", "ended with 3: no paper"),
        ("import time; time.sleep(60)", "still ran after 0.3 s"),
    ],
)
def test_a_hook_that_fails_is_a_line(tmp_path, model, write_picture, read_lines, code, why):
    write_picture(tmp_path / "in" / "bad.png", defect=True)
    messages = Messages([sys.executable, "-c", code], timeout=0.3, retries=0)
    if "sys.exit" in code:
        messages = Messages([sys.executable, "-c", code], timeout=20, retries=0)
    options = {"once": True, "messages": messages, **QUICK}
    assert watch_folder(model, tmp_path / "in", tmp_path / "out", **options) == 1
    (note,) = read_lines(tmp_path / "out", "notified")
    assert why in note["outcome"] and note["outcome"].startswith("not sent")


@pytest.fixture
def server():
    """A web server on this machine: the status of each answer, and what it was sent."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body))
            status = answers.pop(0) if answers else 200
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "file:///etc/passwd")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    received, answers = [], []
    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/line", received, answers
        httpd.shutdown()
        thread.join()


def test_a_webhook_is_tried_again_and_given_up(
    tmp_path, model, write_picture, read_lines, server, monkeypatch
):
    from fastalign.line import notify

    monkeypatch.setattr(notify, "_FIRST_PAUSE", 0.01)
    address, received, answers = server
    answers += [500, 302, 200, 503, 503, 503]
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "in" / name, defect=True)
    messages = Messages(webhook=address, retries=2)
    options = {"once": True, "messages": messages, **QUICK}
    watch_folder(model, tmp_path / "in", tmp_path / "out", **options)
    first, second = read_lines(tmp_path / "out", "notified")
    assert (first["outcome"], first["attempts"]) == ("sent", 3)
    assert "503" in second["outcome"] and second["attempts"] == 3
    assert [line["path"] for line in received] == ["a.png"] * 3 + ["b.png"] * 3


def test_who_wants_it_is_told_of_drift_and_each_way_goes_on_where_it_was(
    tmp_path, model, read_lines, server
):
    (tmp_path / "in").mkdir()
    for index, level in enumerate([118, 124, 121, 127, 119] * 3 + [95, 91, 97, 93] * 5):
        image = np.full((32, 48, 3), level, np.uint8)
        image[::2] = level + 4
        Image.fromarray(image).save(tmp_path / "in" / f"{index:03d}.png")
    address, received, _ = server
    told = tmp_path / "told"
    hook = script(tmp_path / "h.py", f"open({str(told)!r}, 'a').write(json.dumps(sys.argv[1:]))")
    messages = Messages([hook, "{path}", "{verdict}", "{score}", "{text}"], address)
    options = {"once": True, "messages": messages, "notify": ["anomaly", "drift"], **QUICK}
    watch_folder(model, tmp_path / "in", tmp_path / "out", **options)
    (line,) = read_lines(tmp_path / "out", "drift")
    place = str(tmp_path / "in" / line["at"])
    assert json.loads(told.read_text()) == [place, "drift", "", line["text"]]
    assert received == [{**line, "file": place}] and "darker" in line["text"]
    notes = read_lines(tmp_path / "out", "notified")
    assert [(note["by"], note["left"]) for note in notes] == [
        ("hook", ["webhook"]),
        ("webhook", []),
    ]
    assert {(note["path"], note["key"]) for note in notes} == {(line["at"], line["key"])}
    # Killed between the two ways: the second alone is left.
    journal = tmp_path / "out" / "verdicts.jsonl"
    kept = [raw for raw in journal.read_text().splitlines(True) if '"left": []' not in raw]
    journal.write_text("".join(kept))
    watch_folder(model, tmp_path / "in", tmp_path / "out", **options)
    assert len(received) == 2 and len(read_lines(tmp_path / "out", "notified")) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"hook": ["no-such-command-anywhere"]},
        {"webhook": "file:///etc/passwd"},
        {"webhook": "ftp://host/x"},
        {"webhook": "nonsense"},
        {"timeout": 0},
        {"retries": -1},
    ],
)
def test_messages_that_cannot_be_sent_are_refused_before(options):
    with pytest.raises(ConfigError):
        Messages(**options)
