"""What `fastalign serve` and `fastalign watch` hold under load, kills and long runs.

    python benchmarks/on_the_line.py serve [--model FILE] [--photographs 400] [--clients 8]
    python benchmarks/on_the_line.py kills [--model FILE] [--photographs 2000] [--kills 10]
    python benchmarks/on_the_line.py endurance [--photographs 100000]

``serve``: photographs per second that so many clients get judged, beside the model alone on
prepared images in the same process, in turns. ``kills``: `watch` is killed (SIGKILL) while
photographs are written, and `serve` while clients send them, again until they are answered; each
has to have one line. ``endurance``: resident memory of `watch` while it judges many small
photographs at full speed; with TMPDIR=/dev/shm no disk is waited for. The photographs are the
shipped test photographs, small ones but for ``serve``. Prints JSON; ends with 1 where something
does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from fastalign import artifact
from fastalign.data import load_image, prepare
from fastalign.engine import fit_category
from fastalign.engine.demo import demo_category
from fastalign.line.watch import watch_folder
from fastalign.models.config import FYDConfig

_LEAST_SHARE = 0.8
_MOST_GROWTH = 0.02
_SMALL = {"image_size": (64, 64), "epochs": 1, "channels": 8, "align": "none", "layers": (1, 2)}
_SIDE = 96
_TURNS = 3


def fitted(folder: Path, given: Path | None, options: dict[str, Any] | None = None) -> Path:
    """The model's file; fitted on the shipped photographs where none is given."""
    if given is not None:
        return given
    path = folder / "model.safetensors"
    with demo_category() as category:
        config = FYDConfig(**options) if options else None
        fit_category(category, path, config=config)
    return path


def shipped() -> list[Path]:
    """The shipped test photographs."""
    with demo_category() as category:
        return sorted((category / "test").rglob("*.jpg"))


# serve --------------------------------------------------------------------------------------------


def send(address: str, photographs: list[str], clients: int) -> float:
    """Photographs per second that so many clients at once get judged."""
    files = [Path(name).read_bytes() for name in photographs]

    def one(data: bytes) -> None:
        headers = {"Content-Type": "image/jpeg"}
        asked = urllib.request.Request(f"{address}score", data=data, headers=headers)
        with urllib.request.urlopen(asked, timeout=120) as answer:
            json.load(answer)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, files[:clients]))
        began = time.perf_counter()
        list(pool.map(one, files))
        return len(files) / (time.perf_counter() - began)


def alone(model: Any, photographs: list[str]) -> float:
    """Photographs per second of the model alone, one prepared image at a time."""
    size = model.config.image_size
    images = [prepare(load_image(path), size)[None] for path in photographs[:20]]
    with torch.inference_mode():
        for image in images[:3]:
            model(image)
        began = time.perf_counter()
        for image in islice(cycle(images), len(photographs)):
            model(image)
        return len(photographs) / (time.perf_counter() - began)


def serve(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from fastalign.line.serve import run
    from fastalign.line.serve.settings import Settings

    torch.set_num_threads(options.threads)
    model = artifact.load(fitted(folder, options.model))
    addresses: list[str] = []
    ready = threading.Event()

    def started(address: str) -> None:
        addresses.append(address)
        ready.set()

    threading.Thread(
        target=run.serve,
        args=(model, Settings(port=0)),
        kwargs={"model_name": "model", "out": folder / "out", "started": started},
        daemon=True,
    ).start()
    ready.wait()
    photographs = [str(path) for path in islice(cycle(shipped()), options.photographs)]
    rates: dict[str, list[float]] = {"served": [], "alone": []}
    for _ in range(_TURNS):
        rates["alone"].append(alone(model, photographs))
        # In a process of their own: clients shall not hold up the server's interpreter.
        call = [sys.executable, __file__, "clients", addresses[0], str(options.clients)]
        done = subprocess.run(
            call, input="\n".join(photographs), capture_output=True, text=True, check=True
        )
        rates["served"].append(float(done.stdout))
    share = median(rates["served"]) / median(rates["alone"])
    return {"images_per_s": rates, "share": share, "holds": share >= _LEAST_SHARE}


# kills and endurance ------------------------------------------------------------------------------


def small_photographs() -> list[bytes]:
    """The shipped test photographs as small files, so that little time goes into reading them."""
    made = []
    for path in shipped():
        photo = Image.open(path)
        photo.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def kills(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = fitted(folder, options.model, _SMALL)
    found = {
        "watch": kills_of_watch(options, folder / "watch", model),
        "serve": kills_of_serve(options, folder / "serve", model),
    }
    return {**found, "holds": all(part["holds"] for part in found.values())}


def killed_again_and_again(command: list[str], out: Path, options: argparse.Namespace) -> list[int]:
    """Start a command and kill it, so often and evenly over the photographs; the lines of its
    journal at each kill."""
    rng, killed = random.Random(0), []
    for kill in range(1, options.kills + 1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # In the middle of its work, and not twice without any.
        share = kill * options.photographs // (options.kills + 1)
        least = max(share, lines(out) + 5)
        while lines(out) < min(least, options.photographs) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed.append(lines(out))
    return killed


def counted(out: Path, names: list[str], killed: list[int]) -> dict[str, Any]:
    """Photographs without a line, and with more than one."""
    read = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    times = Counter(line["path"] for line in read if line["event"] == "photograph")
    lost = len(set(names) - set(times))
    twice = sum(count > 1 for count in times.values())
    return {
        "photographs": len(names),
        "lines_at_each_kill": killed,
        "lost": lost,
        "twice": twice,
        "holds": lost == twice == 0,
    }


def kills_of_watch(options: argparse.Namespace, folder: Path, model: Path) -> dict[str, Any]:
    source, out = folder / "in", folder / "out"
    source.mkdir(parents=True)
    names = [f"{index:06d}.jpg" for index in range(options.photographs)]
    contents = small_photographs()

    def write() -> None:
        for name, data in zip(names, cycle(contents), strict=False):
            (source / name).write_bytes(data)
            time.sleep(0.002)

    command = [sys.executable, "-m", "fastalign", "watch", str(source), "--out", str(out)]
    command += ["--model", str(model), "--settle", "0.2", "--threads", "1"]
    writer = threading.Thread(target=write)
    writer.start()
    killed = killed_again_and_again(command, out, options)
    writer.join()
    subprocess.run([*command, "--once"], stdout=subprocess.DEVNULL, check=True)
    return counted(out, names, killed)


def kills_of_serve(options: argparse.Namespace, folder: Path, model: Path) -> dict[str, Any]:
    out = folder / "out"
    names = [f"{index:06d}.jpg" for index in range(options.photographs)]
    contents = small_photographs()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def send_until_answered(place: int) -> None:
        """As a camera's program does: again, under the same key, until there is an answer."""
        name, data = names[place], contents[place % len(contents)]
        headers = {"Content-Type": "image/jpeg", "Idempotency-Key": name}
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("POST", f"/score?name={name}", data, headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()

    command = [sys.executable, "-m", "fastalign", "serve", "--model", str(model), "--out", str(out)]
    command += ["--port", str(port), "--threads", "1", "--max-waiting", str(2 * options.clients)]
    with ThreadPoolExecutor(options.clients) as pool:
        answers = [pool.submit(send_until_answered, place) for place in range(len(names))]
        killed = killed_again_and_again(command, out, options)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for answer in answers:
            answer.result()
        process.terminate()
        process.wait()
    return counted(out, names, killed)


def lines(out: Path) -> int:
    """Lines of the journal."""
    try:
        return (out / "verdicts.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def endurance(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    model = artifact.load(fitted(folder, None, _SMALL))
    source = folder / "in"
    source.mkdir()
    contents = small_photographs()
    stop, room = threading.Event(), threading.Semaphore(200)
    judged, memory = 0, {}

    def write() -> None:
        for index in range(options.photographs):
            room.acquire()
            (source / f"{index:07d}.jpg").write_bytes(contents[index % len(contents)])

    def tell(line: dict[str, Any]) -> None:
        nonlocal judged
        if line["event"] != "photograph":
            return
        judged += 1
        (source / line["path"]).unlink()
        room.release()
        if judged % max(1, options.photographs // 20) == 0:
            memory[judged] = resident()
        if judged == options.photographs:
            stop.set()

    threading.Thread(target=write, daemon=True).start()
    began = time.perf_counter()
    watch_folder(
        model, source, folder / "out", settle=0.05, poll=0.05, events="poll", stop=stop, tell=tell
    )
    seconds = time.perf_counter() - began
    first, *_, last = memory.values()
    growth = last / first - 1
    return {
        "photographs": judged,
        "images_per_s": judged / seconds,
        "resident_mb": memory,
        "growth": growth,
        "holds": growth < _MOST_GROWTH,
    }


def resident() -> float:
    """Resident memory of this process, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    if sys.argv[1:2] == ["clients"]:
        print(send(sys.argv[2], sys.stdin.read().split("\n"), int(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("serve", "kills", "endurance"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--photographs", type=int)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    usual = {"serve": 400, "kills": 2000, "endurance": 100_000}
    options.photographs = options.photographs or usual[options.part]
    parts = {"serve": serve, "kills": kills, "endurance": endurance}
    with tempfile.TemporaryDirectory() as temporary:
        found = parts[options.part](options, Path(temporary))
    print(json.dumps(found, indent=2))
    # Threads of a server that nobody asks any more do not hold up the end.
    sys.stdout.flush()
    os._exit(not found["holds"])


if __name__ == "__main__":
    main()
