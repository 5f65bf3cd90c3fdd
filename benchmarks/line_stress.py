"""What `benchmarks/on_the_line.py` does to `fastalign watch` and `fastalign serve`: kills, and many
small photographs."""

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
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fastalign import artifact
from fastalign.engine import fit_category
from fastalign.engine.demo import demo_category
from fastalign.line.watch import watch_folder
from fastalign.models.config import FYDConfig

_MOST_GROWTH = 0.02
_SMALL = {"image_size": (64, 64), "epochs": 1, "channels": 8, "align": "none", "layers": (1, 2)}
_SIDE = 96


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
