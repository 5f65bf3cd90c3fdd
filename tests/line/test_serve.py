"""A server on a free port of this machine, asked as anybody asks, and as nobody should."""

import base64
import contextlib
import http.client
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image

from fastalign.engine.predict import predict_paths
from fastalign.errors import BackendError, ConfigError, InputError
from fastalign.line.serve import process, run
from fastalign.line.serve.settings import Settings
from fastalign.line.serve.updating import ModelUpdater, Updated
from fastalign.line.serve.worker import LocalModel
from fastalign.models.update import Taken, Update

pytest.importorskip("fastapi", reason="fastapi is not installed: '.[serve]'")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: '.[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: '.[serve]'")

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
TOKEN = "a-token-that-nobody-guesses"
JSON = {"Content-Type": "application/json"}


class Client:
    """Requests to one server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.host, _, port = address.removeprefix("http://").strip("/").rpartition(":")
        self.port = int(port)

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def get(self, path, **headers):
        answer, body = self.ask("GET", path, headers=headers)
        assert answer.status == 200, body
        return body

    def score(self, data, query="", **headers):
        answer, body = self.ask(
            "POST", f"/score{query}", data, {"Content-Type": "image/png", **headers}
        )
        return answer.status, json.loads(body)

    def raw(self, data):
        """Bytes as they are; what comes back, until the server closes or falls silent."""
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            parts = []
            # A server that has heard enough closes, whatever else is sent.
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                while part := connection.recv(65536):
                    parts.append(part)
                    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
                    stated = re.search(rb"content-length: (\d+)", head, re.I)
                    if stated and len(body) >= int(stated[1]):
                        break
            return b"".join(parts)


def lengthened(app, script):
    """An application whose page's script goes on with another one, as a user does with a page."""

    async def changed(scope, receive, send):
        async def longer(message):
            if message["type"] == "http.response.start":
                message["headers"] = [h for h in message["headers"] if h[0] != b"content-length"]
            elif message["body"]:
                message["body"] += script
            await send(message)

        await app(scope, receive, longer if scope["path"] == "/page.js" else send)

    return changed


@contextlib.contextmanager
def serving(model, monkeypatch, **options):
    """A server in a thread of this process; ``script`` runs behind that of its page."""
    out, script = options.pop("out", None), options.pop("script", "")
    updating = options.pop("updating", None)
    servers, addresses = [], []
    made = run.make_server

    def make(config, told):
        if script:
            config.app = lengthened(config.app, script.encode())
        servers.append(made(config, told))
        return servers[-1]

    monkeypatch.setattr(run, "make_server", make)
    ready = threading.Event()

    def started(address):
        addresses.append(address)
        ready.set()

    settings = Settings(**{"port": 0, **options})
    thread = threading.Thread(
        target=run.serve,
        args=(model, settings),
        kwargs={
            "model_name": "part.safetensors",
            "out": out,
            "started": started,
            "updating": updating,
        },
    )
    thread.start()
    assert ready.wait(20)
    try:
        yield Client(addresses[0])
    finally:
        servers[0].should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_for(check, seconds=20.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


@pytest.fixture
def serve(model, monkeypatch):
    return lambda **options: serving(model, monkeypatch, **options)


@pytest.fixture
def png(make_picture):
    """The bytes of a photograph."""

    def make(defect=False, size=(32, 48)):
        buffer = io.BytesIO()
        make_picture(defect, size).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def grey_png():
    """The bytes of a photograph of one grey, nearly."""

    def make(level):
        image = np.full((32, 48, 3), level, np.uint8)
        image[::2] = level + 4
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return buffer.getvalue()

    return make


def test_a_verdict_is_that_of_predict_and_in_the_journal_before_it_is_told(
    serve, png, tmp_path, model, read_lines
):
    data = png(defect=True)
    (tmp_path / "bad.png").write_bytes(data)
    (item,) = predict_paths(
        model,
        tmp_path / "bad.png",
        tmp_path / "predict",
        outputs=["map"],
        gallery_images=0,
        map_format="npy",
    ).images
    with serve(out=tmp_path / "out") as client:
        status, told = client.score(data, "?name=bad.png&map=1")
        assert status == 200
        (line,) = read_lines(tmp_path / "out", "photograph")
        scores = np.frombuffer(base64.b64decode(told["map"]["base64"]), "<f4")
        kept = np.load(io.BytesIO(client.get(f"/photographs/{told['id']}/map.npy")))
        # Whatever is sent again under one key has one line.
        keys = {"Idempotency-Key": "bad.png@12:00"}
        first, again = (client.score(data, **keys)[1] for _ in range(2))
    assert (told["score"], told["verdict"]) == (item.score, "anomaly")
    assert told["regions"] == [region.to_json() for region in item.regions] != []
    assert (told["path"], told["width"], told["height"]) == ("bad.png", 48, 32)
    assert told["map"]["shape"] == [16, 24] == list(kept.shape)
    assert (scores == kept.ravel()).all() and kept.max() == np.float32(item.score)
    assert {name: told[name] for name in ("id", "score", "regions")} == {
        name: line[name] for name in ("id", "score", "regions")
    }
    assert (first["repeated"], again["repeated"]) == (False, True)
    assert first["score"] == again["score"]
    assert len(read_lines(tmp_path / "out", "photograph")) == 2


def test_health_metrics_and_the_last_photographs(serve, png):
    turn = sys.getswitchinterval()
    with serve(kept=3) as client:
        assert json.loads(client.get("/health")) == {"status": "ok"}
        assert sys.getswitchinterval() <= 0.001
        # As some that look after servers ask.
        answer, body = client.ask("HEAD", "/health")
        assert (answer.status, body) == (200, b"")
        for index in range(5):
            client.score(png(index % 2 == 1), f"?name={index}.png")
        client.score(b"no image")
        last = json.loads(client.get("/photographs"))
        assert [photo["path"] for photo in last["photographs"]] == ["4.png", "3.png", "2.png"]
        assert last["judged"] == 5 and last["image_threshold"] == 0.25
        answer, body = client.ask("GET", f"/photographs?changes={last['changes']}")
        assert (answer.status, body) == (204, b"")
        one = last["photographs"][0]["id"]
        assert client.get(f"/photographs/{one}/photo.jpg").startswith(b"\xff\xd8")
        assert client.get(f"/photographs/{one}/heat.png").startswith(b"\x89PNG")
        text = client.get("/metrics").decode()
    assert sys.getswitchinterval() == turn
    assert 'fastalign_photographs_total{verdict="good"} 3.0' in text
    assert 'fastalign_photographs_total{verdict="anomaly"} 2.0' in text
    assert 'fastalign_refused_total{status="422"} 1.0' in text
    assert "fastalign_seconds_count 5.0" in text and "fastalign_waiting 0.0" in text
    assert 'model="part.safetensors"' in text
    # Every line is one that Prometheus reads.
    pattern = r'[a-z_]+(\{([a-z_]+="[^"\n]*",?)+\})? \S+'
    assert all(
        re.fullmatch(pattern, line) for line in text.splitlines() if not line.startswith("#")
    )


def test_what_somebody_says_of_a_photograph_is_kept(serve, png, tmp_path, read_lines):
    with serve(out=tmp_path / "out") as client:
        _, told = client.score(png())
        path, kind = f"/photographs/{told['id']}/feedback", {"Content-Type": "application/json"}
        for truth in ("anomaly", None, "good"):
            answer, body = client.ask("POST", path, json.dumps({"truth": truth}), kind)
            assert answer.status == 200 and json.loads(body)["truth"] == truth
        (photo,) = json.loads(client.get("/photographs"))["photographs"]
        assert photo["truth"] == "good"
    said = read_lines(tmp_path / "out", "feedback")
    assert [line["truth"] for line in said] == ["anomaly", None, "good"]
    assert {line["id"] for line in said} == {told["id"]}


def test_drift_is_told_over_restarts_too(serve, grey_png, tmp_path, read_lines):
    usual, dark = [118, 124, 121, 127, 119] * 3, [95, 91, 97, 93] * 5

    def send(client, levels, start):
        for index, level in enumerate(levels, start):
            status, _ = client.score(grey_png(level), f"?name={index:03d}.png")
            assert status == 200

    with serve(out=tmp_path / "out") as client:
        send(client, usual, 0)
        quiet = json.loads(client.get("/drift"))
        assert (quiet["standing"], quiet["said"], quiet["interval"]) == ([], [], 100_000)
        assert [one["statistic"] for one in quiet["watched"]] == ["brightness", "unjudged"]
        send(client, dark[:3], 15)
    with serve(out=tmp_path / "out") as client:
        send(client, dark[3:], 18)
        drift = json.loads(client.get("/drift"))
        (line,) = read_lines(tmp_path / "out", "drift")
        (standing,) = drift["standing"]
        del line["event"]
        assert standing.items() <= line.items() and drift["said"] == [line]
        # It began before the restart.
        assert int(standing["since"][:3]) < 18 <= int(standing["at"][:3])
        assert json.loads(client.get("/photographs"))["drift"] == [line["text"]]
        gauge = 'fastalign_drift{direction="darker",statistic="brightness",unit="%"}'
        assert f"{gauge} {line['size']}" in client.get("/metrics").decode()
        send(client, 3 * usual, 35)
        assert json.loads(client.get("/drift"))["standing"] == []
        assert "fastalign_drift{" not in client.get("/metrics").decode()


def test_a_model_that_keeps_nothing_of_normal_photographs_says_so(model):
    known = model.extra_metadata()
    model.extra_metadata = lambda: {**known, "normal_conditions": None}
    notes, stop = [], threading.Event()
    stop.set()
    for drift in (100, 0):
        told = {"note": notes.append, "stop": stop}
        run.serve(model, Settings(port=0), model_name="part.safetensors", drift=drift, **told)
    assert len(notes) == 1 and "no drift is told" in notes[0]


def test_a_model_whose_process_has_ended_ends_the_server(model, monkeypatch):
    class Ending(LocalModel):
        def __init__(self, scorer, on_end):
            super().__init__(scorer)
            ends.append(on_end)

    ends = []
    monkeypatch.setattr(process, "ModelProcess", Ending)
    told = {"started": lambda address: ends[0](), "apart": True}
    with pytest.raises(BackendError, match="ended by itself"):
        run.serve(model, Settings(port=0), model_name="part.safetensors", **told)


def test_a_folder_that_cannot_be_written_is_named_with_the_file_that_belongs_there(model, tmp_path):
    (tmp_path / "out").write_text("a file")
    told = {"model_name": "part.safetensors", "out": tmp_path / "out"}
    with pytest.raises(InputError, match=r"out/verdicts\.jsonl: cannot be written"):
        run.serve(model, Settings(port=0), **told)


# Bad requests -------------------------------------------------------------------------------------


def bomb(width=40_000, height=40_000):
    """A small PNG that says it is huge."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
        + chunk(b"IEND", b"")
    )


IMAGE = {"Content-Type": "image/png"}
NOBODY = "/photographs/nobody/feedback"
# What is asked: method, path, body, headers; the status, and a word of the error.
BAD = {
    "an empty body": ("POST", "/score", b"", IMAGE, 400, "empty"),
    "no image": ("POST", "/score", b"GET / HTTP/1.1", IMAGE, 422, "photograph"),
    "a torn image": ("POST", "/score", "torn", IMAGE, 422, "photograph"),
    "a bomb": ("POST", "/score", bomb(), IMAGE, 422, "40000 x 40000 pixels"),
    "a large body": ("POST", "/score", b"x" * 200_001, IMAGE, 413, "200000 bytes"),
    "a pickle": ("POST", "/score", b"\x80\x04K\x01.", IMAGE, 422, "photograph"),
    "objects of numpy": (
        "POST",
        "/score",
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (4, 4)}"
        + b" " * 13
        + b"\n",
        IMAGE,
        422,
        "photograph",
    ),
    "a script as svg": ("POST", "/score", b"<svg><script/></svg>", IMAGE, 422, "photograph"),
    "a form": ("POST", "/score", b"a=b", {"Content-Type": "text/plain"}, 415, "image"),
    "no kind": ("POST", "/score", b"a=b", {}, 415, "image"),
    "packed": ("POST", "/score", b"x", {**IMAGE, "Content-Encoding": "gzip"}, 415, "as it is"),
    "a name with a control character": ("POST", "/score?name=a%0Ab", b"x", IMAGE, 400, "name"),
    "a long name": ("POST", "/score?name=" + "n" * 201, b"x", IMAGE, 400, "name"),
    "two names": ("POST", "/score?name=a&name=b", b"x", IMAGE, 400, "once"),
    "another query": ("POST", "/score?path=/etc/passwd", b"x", IMAGE, 400, "once"),
    "map=yes": ("POST", "/score?map=yes", b"x", IMAGE, 400, "map"),
    "a long key": ("POST", "/score", b"x", {**IMAGE, "Idempotency-Key": "k" * 201}, 400, "Key"),
    "GET /score": ("GET", "/score", None, {}, 405, "Allowed"),
    "a path that is not there": ("GET", "/etc/passwd", None, {}, 404, "Found"),
    "a path upwards": ("GET", "/photographs/../../etc/passwd", None, {}, 404, "Found"),
    "the same, encoded": ("GET", "/photographs/%2e%2e/photo.jpg", None, {}, 404, "photograph"),
    "a picture of nobody": ("GET", "/photographs/nobody/photo.jpg", None, {}, 404, "photograph"),
    "the pages of the framework": ("GET", "/docs", None, {}, 404, "Found"),
    "feedback on nobody": ("POST", NOBODY, b'{"truth": "good"}', JSON, 404, "photograph"),
    "feedback that is no JSON": ("POST", NOBODY, b"{", JSON, 400, "JSON"),
    "JSON that is deep": ("POST", NOBODY, b"[" * 9_000, JSON, 400, "JSON"),
    "JSON that is large": ("POST", NOBODY, b" " * 10_001, JSON, 413, "10000"),
    "another truth": ("POST", NOBODY, b'{"truth": ["good"]}', JSON, 400, "truth"),
    "other fields": ("POST", NOBODY, b'{"truth": "good", "x": 1}', JSON, 400, "truth"),
    "feedback of a form": ("POST", NOBODY, b"truth=good", {}, 415, "json"),
    "another host": ("GET", "/photographs", None, {"Host": "evil.example"}, 421, "name"),
    "another page": ("GET", "/photographs", None, {"Sec-Fetch-Site": "cross-site"}, 403, "pages"),
}


@pytest.fixture(scope="module")
def strict_client(model_class):
    """One server for requests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        with serving(model_class(), patch, most_bytes=200_000) as client:
            yield client


def test_bad_requests_get_an_error_and_nothing_else(serve, png, tmp_path, capfd):
    inside = re.compile(r"/tmp|Traceback|fastalign-|\.py|--")
    with serve(most_bytes=200_000, most_pixels=1_000_000, out=tmp_path / "out") as client:
        for what, (method, path, body, headers, status, word) in BAD.items():
            body = png()[:60] if body == "torn" else body
            answer, text = client.ask(method, path, body, headers)
            error = json.loads(text)
            assert (answer.status, set(error)) == (status, {"error"}), what
            assert word in error["error"], (what, error)
            # Nothing of this machine is told, and no option of a command.
            assert not inside.search(error["error"]), (what, error)
        assert client.score(png())[0] == 200
    assert not (tmp_path / "etc").exists()
    journal = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    assert len(journal) == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 6\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 400_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_request_is_refused_and_the_next_one_answered(strict_client, request_):
    answer = strict_client.raw(request_ + b"\r\n\r\n")
    assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 421")), answer[:100]
    assert json.loads(strict_client.get("/health")) == {"status": "ok"}


def test_a_body_that_does_not_come_is_not_waited_for(serve, png):
    with serve(seconds=0.5) as client:
        head = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        answer = client.raw(head + b"Content-Length: 1000\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 408")
        # A body of unknown length that is too large.
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        answer = client.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert answer.startswith(b"HTTP/1.1 408")
        assert client.score(png())[0] == 200


def test_more_than_may_wait_are_turned_away_and_slow_ones_told_so(serve, png, model):
    scored, may_go_on = model.predict_detail, threading.Event()

    def slow(images):
        may_go_on.wait(20)
        return scored(images)

    model.predict_detail = slow
    with serve(most_waiting=2, seconds=1.0) as client:
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(client.score, png()) for _ in range(6)]
            statuses = sorted(answer.result()[0] for answer in answers)
        may_go_on.set()
        assert statuses == [503] * 4 + [504] * 2
        time.sleep(0.05)
        assert client.score(png())[0] == 200


def test_an_error_inside_is_told_as_one_and_the_server_goes_on(serve, png, model, capfd):
    scored = model.predict_detail

    def broken(images):
        raise RuntimeError("a secret of /var/somebody")

    model.predict_detail = broken
    with serve() as client:
        status, told = client.score(png())
        assert status == 500 and "secret" not in told["error"]
        assert client.ask("GET", "/health")[0].status == 200
        for _ in range(9):
            client.score(png())
        assert client.ask("GET", "/health")[0].status == 503
        model.predict_detail = scored
        assert client.score(png())[0] == 200
        assert client.ask("GET", "/health")[0].status == 200
    assert "a secret of" in capfd.readouterr().err


def test_many_at_once_get_each_their_own_verdict(serve, png, tmp_path):
    with serve(out=tmp_path / "out") as client:
        with ThreadPoolExecutor(8) as pool:
            sent = [index % 3 == 0 for index in range(24)]
            told = list(pool.map(lambda defect: client.score(png(defect))[1], sent))
            # The same one many times at once has one line.
            keys = {"Idempotency-Key": "one"}
            same = list(pool.map(lambda _: client.score(png(), **keys)[1], range(8)))
    assert [line["verdict"] == "anomaly" for line in told] == sent
    assert len({line["id"] for line in told}) == 24
    assert sorted(line["repeated"] for line in same) == [False] + [True] * 7


def test_those_that_wait_are_judged_together_and_one_that_fails_fails_alone(serve, png, model):
    scored, may_go_on, sizes = model.predict_detail, threading.Event(), []

    def slow(images):
        sizes.append(len(images))
        may_go_on.wait(20)
        if (images.amax((1, 2, 3)) > 0.9).any():
            raise RuntimeError("a bad day")
        return scored(images)

    model.predict_detail = slow
    with serve(at_once=3) as client, ThreadPoolExecutor(5) as pool:
        first = pool.submit(client.score, png())
        wait_for(lambda: sizes)
        others = [pool.submit(client.score, png(index == 2)) for index in range(4)]
        wait_for(lambda: b"fastalign_waiting 4.0" in client.get("/metrics"))
        may_go_on.set()
        assert first.result()[0] == 200
        assert sorted(other.result()[0] for other in others) == [200, 200, 200, 500]
    # Three that wait at once, and of those with the bad one each alone.
    assert sizes in ([1, 3, 1, 1, 1, 1], [1, 3, 1])


def _serve(model, port, out):
    run.serve(model, Settings(port=port), model_name="m", out=out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_none_is_lost_and_none_is_twice(tmp_path, model, png, read_lines):
    """A real process, killed with SIGKILL while a client sends, which sends again what was not
    answered, under the same key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    apart, rng = multiprocessing.get_context("fork"), random.Random(0)
    client, data = Client(f"http://127.0.0.1:{port}/"), png()
    done, ended = [], threading.Event()

    def send():
        while len(done) < 80:
            key = f"photograph-{len(done)}"
            try:
                if client.score(data, f"?name={key}", **{"Idempotency-Key": key})[0] == 200:
                    done.append(key)
            except (OSError, http.client.HTTPException):
                time.sleep(0.005)
        ended.set()

    sender = threading.Thread(target=send)
    kills = 0
    process = apart.Process(target=_serve, args=(model, port, tmp_path / "out"))
    process.start()
    sender.start()
    while not ended.is_set():
        before = len(done)
        while len(done) < before + 9 and not ended.wait(0.001):
            pass
        ended.wait(rng.uniform(0, 0.01))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if not ended.is_set():
            kills += 1
            process = apart.Process(target=_serve, args=(model, port, tmp_path / "out"))
            process.start()
    sender.join()
    paths = [line["path"] for line in read_lines(tmp_path / "out", "photograph")]
    assert kills >= 4 and paths == done and len(set(paths)) == 80


# The token ----------------------------------------------------------------------------------------


def test_without_the_token_nothing_is_told(serve, png):
    right = {"Authorization": f"Bearer {TOKEN}"}
    with serve(token=TOKEN) as client:
        for path in ("/", "/page.js", "/health"):
            client.get(path)
        for wrong in (
            {},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer \xff\xfe"},
        ):
            for method, path in (("GET", "/photographs"), ("GET", "/metrics"), ("POST", "/score")):
                answer, body = client.ask(method, path, b"x" if method == "POST" else None, wrong)
                assert answer.status == 401 and answer.getheader("www-authenticate") == "Bearer"
                assert set(json.loads(body)) == {"error"}
        assert client.score(png(), **right)[0] == 200
        assert b"fastalign" in client.get("/metrics", **right)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"host": "0.0.0.0"}, "--token-file"),
        ({"host": "::"}, "--token-file"),
        ({"host": "line-pc.local"}, "--token-file"),
        ({"token": "short"}, "16 characters"),
        ({"token": "ü" * 20}, "ASCII"),
        ({"port": 70_000}, "port"),
        ({"seconds": 0}, "seconds"),
        ({"most_waiting": 0}, "waiting"),
    ],
)
def test_settings_that_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        Settings(**options)


def test_loopback_needs_no_token_and_others_any_name():
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        assert Settings(host=host).is_loopback
    assert Settings(host="0.0.0.0", token=TOKEN).hosts is None
    assert "localhost" in Settings(token=TOKEN).hosts
    assert "line.example" in Settings(names=("line.example",)).hosts


# Updates ------------------------------------------------------------------------------------------


class Updates:
    """In the place of a model's update: the threshold becomes 0.9, above everything."""

    def __init__(self, model_class):
        self.calls, self.wait = [], threading.Event()
        self.wait.set()
        self._model_class = model_class

    def __call__(self, images, names):
        self.calls.append((images, names))
        assert self.wait.wait(20)
        if len(images) > 2:
            raise InputError("too many of them")
        model = self._model_class()
        model.image_threshold.fill_(0.9)
        taken = [Taken(name, 0.5, 0.4) for name in names]
        return Updated(
            model, Update(taken, [], (0.25, 0.25), (0.9, 0.25)), Path("/x/m.before-1.st")
        )


@pytest.fixture
def updates(model_class):
    return Updates(model_class)


def mark(client, name, truth="good"):
    body = json.dumps({"truth": truth})
    return client.ask("POST", f"/photographs/{name}/feedback", body, JSON)


def ask_update(client, body="{}", headers=JSON):
    answer, text = client.ask("POST", "/update", body, headers)
    return answer.status, json.loads(text)


def test_false_alarms_are_taken_into_the_model_without_a_restart(
    serve, png, updates, tmp_path, read_lines
):
    with serve(updating=updates, out=tmp_path / "out") as client:
        first = client.score(png(True), "?name=first.png")[1]
        good = client.score(png(), "?name=good.png")[1]
        assert first["verdict"] == "anomaly"
        # What was called good is no false alarm, whoever says it is good.
        mark(client, good["id"])
        assert ask_update(client)[0] == 409 and not updates.calls
        mark(client, first["id"])
        updates.wait.clear()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask_update, client)
            while not updates.calls:
                time.sleep(0.01)
            # Verdicts go on meanwhile, by the model as it was; another update does not begin.
            assert client.score(png(True))[1]["verdict"] == "anomaly"
            assert ask_update(client)[0] == 409
            updates.wait.set()
            status, told = asked.result()
        assert status == 200 and told["image_threshold"] == [0.25, 0.9]
        assert told["model_before"] == "m.before-1.st"
        ((image,), (name,)) = updates.calls[0]
        assert image.shape == (3, 16, 24) and image.dtype == torch.float32 and image.max() == 1
        assert name == f"first.png ({first['id'][:8]})"
        assert client.score(png(True))[1]["verdict"] == "good"
        page = json.loads(client.get("/photographs"))
        assert page["image_threshold"] == pytest.approx(0.9) and page["updates"]
        (shown,) = [photo for photo in page["photographs"] if photo["id"] == first["id"]]
        assert shown["taken"] and not shown["false_alarm"]
        assert ask_update(client)[0] == 409
    (line,) = read_lines(tmp_path / "out", "update")
    assert line["taken"][0]["name"] == name and line["model_before"] == "m.before-1.st"


def test_updates_that_fail_or_are_not_wanted_change_nothing(serve, png, updates):
    with serve(updating=updates) as client:
        for _ in range(3):
            mark(client, client.score(png(True))[1]["id"])
        assert ask_update(client) == (409, {"error": "too many of them"})
        page = json.loads(client.get("/photographs"))
        assert page["image_threshold"] == 0.25
        assert all(photo["false_alarm"] for photo in page["photographs"])
        for body, headers, status in (
            ("[]", JSON, 400),
            ("{", JSON, 400),
            ('{"a": 1}', JSON, 400),
            ("{}", {"Content-Type": "text/plain"}, 415),
            ("{}", {**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
        ):
            assert ask_update(client, body, headers)[0] == status
        assert client.ask("POST", "/update?model=x", "{}", JSON)[0].status == 400
        assert len(updates.calls) == 1
    with serve() as client:
        mark(client, client.score(png(True))[1]["id"])
        status, told = ask_update(client)
        assert status == 409 and "--no-update" in told["error"]
        assert not json.loads(client.get("/photographs"))["updates"]


def test_a_model_file_is_updated_under_its_lock_and_kept(model_class, tmp_path):
    class Kept(model_class):
        def update(self, images, names):
            if not images:
                raise InputError(f"{tmp_path}/m.st: nothing to take in")
            return list(names)

        def save(self, path):
            Path(path).write_text("new")

    file = tmp_path / "m.st"
    file.write_text("old")
    updating = ModelUpdater(file, Kept)
    with pytest.raises(InputError, match=r"^m\.st: nothing"):
        updating([], [])
    found = updating([torch.zeros(3, 16, 24)], ["one"])
    assert found.update == ["one"] and found.backup == tmp_path / "m.before-1.st"
    assert file.read_text() == "new" and found.backup.exists()
    # Its own file is updated again, and no other one that was put there meanwhile.
    updating([torch.zeros(3, 16, 24)], ["two"])
    file.write_text("of another fit")
    with pytest.raises(InputError, match=r"^m\.st: it was replaced since"):
        updating([torch.zeros(3, 16, 24)], ["three"])
    assert file.read_text() == "of another fit"


# The page -----------------------------------------------------------------------------------------


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(strict_client):
    answer, html = strict_client.ask("GET", "/")
    policy = answer.getheader("content-security-policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert answer.getheader("x-content-type-options") == "nosniff"
    text = html.decode()
    for name in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert strict_client.get(f"/{name}")
    # Under this policy nothing that stands in the page itself would run.
    assert not re.search(r"<script>|<style>| style=| on\w+=", text)
    script = strict_client.get("/page.js").decode()
    assert "makeThreshold" in script
    script += strict_client.get("/threshold.js").decode()
    assert "innerHTML" not in script and "http:" not in script and "https:" not in script
    wanted = set(re.findall(r'element\("(\w+)"\)', script))
    assert wanted == set(re.findall(r'id="(\w+)"', text)) & wanted and len(wanted) > 10


# Right twice, it is good; left, it is an anomaly; the slider to its upper end, and what it says.
# The last one is good then, and taken into the model.
USER = """
const press = (key) => document.body.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
const ready = setInterval(() => {
  if (document.documentElement.dataset.ready !== "3") return;
  clearInterval(ready);
  for (const key of ["ArrowRight", "ArrowRight", "g", "ArrowLeft", "a", "m"]) press(key);
  document.documentElement.dataset.before = document.getElementById("told").textContent;
  const slider = document.getElementById("slider");
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input"));
  document.documentElement.dataset.after = document.getElementById("told").textContent;
  for (const key of ["ArrowRight", "ArrowRight", "g"]) press(key);
  const marked = setInterval(() => {
    const take = document.getElementById("take");
    if (take.textContent !== "Take 1 false alarm into the model") return;
    clearInterval(marked);
    take.click();
    document.documentElement.dataset.sure = take.textContent;
    take.click();
  }, 20);
}, 20);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_works_in_a_browser(serve, png, grey_png, updates, tmp_path):
    hostile = "<img src=x onerror=alert(1)>.png"
    with serve(script=USER, out=tmp_path / "out", updating=updates, kept=3) as client:
        for index in range(20):
            client.score(grey_png(90 + index % 3), f"?name={index}.png")
        for name, defect in (("first.png", True), ("good.png", False), (hostile, True)):
            answer, _ = client.ask("POST", f"/score?name={quote(name)}", png(defect), IMAGE)
            assert answer.status == 200
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", client.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        photos = json.loads(client.get("/photographs"))["photographs"]
    page = done.stdout
    assert page.count('class="panel"') == 3 and page.count('src="blob:') == 6
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in page and "<img src=x" not in page
    # The newest is first, so that the second is good.png.
    assert [photo["truth"] for photo in photos] == ["anomaly", "good", "good"]
    assert re.search(r"<li>the photographs are darker by \d+ % since 0\.png</li>", page)
    # Asked twice, the model takes in the one that it had called an anomaly.
    assert 'data-sure="Yes, 1 photograph marked good, which it called an anomaly"' in page
    assert [photo["taken"] for photo in photos] == [False, False, True]
    assert "1 taken in. Threshold 0.25 → 0.9. The model as it was: m.before-1.st" in page
    assert 'data-before="2 of 3 are anomalies"' in page
    assert 'data-after="0 of 3 are anomalies' in page
    assert "0 good change to anomalies" in page and "2 anomalies change to good" in page
    assert "--heat-opacity: 0" in page and "fastalign threshold part.safetensors" in page
