"""What `fastalign serve` and `fastalign watch` hold under load, kills and long runs.

    python benchmarks/on_the_line.py serve [--model FILE] [--photographs 400] [--clients 8]
    python benchmarks/on_the_line.py kills [--model FILE] [--photographs 2000] [--kills 10]
    python benchmarks/on_the_line.py endurance [--photographs 100000]
    each with [--out benchmarks/results]

``serve``: photographs per second that so many clients get judged, each over one connection, as the
command serves them on a CPU, beside the model alone on prepared images in this process, one by one
and eight at once, in turns. ``kills``: `watch` is
killed (SIGKILL) while photographs are written, and `serve` while clients send them, again until
they are answered; each has to have one line. ``endurance``: resident memory of `watch` while it
judges many small photographs at full speed; with TMPDIR=/dev/shm no disk is waited for. The
photographs are the shipped test photographs, small ones but for ``serve``. Prints JSON; ends with 1
where something does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import torch
from line_stress import endurance, fitted, kills, shipped

from fastalign import artifact
from fastalign.bench import setting
from fastalign.data import load_image, prepare
from fastalign.load import LoadMeter

_LEAST_SHARE = 0.8
_TURNS, _BATCH = 3, 8


# serve --------------------------------------------------------------------------------------------


def send(address: str, photographs: list[str], clients: int) -> float:
    """Photographs per second that so many clients at once get judged, each over one connection."""
    files = [Path(name).read_bytes() for name in photographs]
    place, mine = urlsplit(address), threading.local()

    def one(data: bytes) -> None:
        if not hasattr(mine, "connection"):
            mine.connection = http.client.HTTPConnection(place.netloc, timeout=120)
        mine.connection.request("POST", "/score", data, {"Content-Type": "image/jpeg"})
        answer = mine.connection.getresponse()
        told = json.load(answer)
        assert answer.status == 200, told

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, files[:clients]))
        began = time.perf_counter()
        list(pool.map(one, files))
        return len(files) / (time.perf_counter() - began)


def alone(model: Any, photographs: list[str], batch: int) -> float:
    """Photographs per second of the model alone, so many prepared images at a time."""
    size = model.config.image_size
    images = torch.stack([prepare(load_image(path), size) for path in photographs[: 3 * _BATCH]])
    batches = images.split(batch)
    with torch.inference_mode():
        model(batches[0])
        began = time.perf_counter()
        for given in islice(cycle(batches), len(photographs) // batch):
            model(given)
        return len(photographs) // batch * batch / (time.perf_counter() - began)


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
        kwargs={
            "model_name": "model",
            "out": folder / "out",
            "apart": True,
            "started": started,
        },
        daemon=True,
    ).start()
    ready.wait()
    photographs = [str(path) for path in islice(cycle(shipped()), options.photographs)]
    one, several = "the model alone, one by one", f"the model alone, {_BATCH} at once"
    rates: dict[str, list[float]] = {"served": [], one: [], several: []}
    for _ in range(_TURNS):
        rates[one].append(alone(model, photographs, 1))
        rates[several].append(alone(model, photographs, _BATCH))
        # In a process of their own: clients shall not hold up the server's interpreter.
        call = [sys.executable, __file__, "clients", addresses[0], str(options.clients)]
        done = subprocess.run(
            call, input="\n".join(photographs), capture_output=True, text=True, check=True
        )
        rates["served"].append(float(done.stdout))
    share = median(rates["served"]) / max(median(rates[one]), median(rates[several]))
    about = {name: getattr(options, name) for name in ("clients", "threads", "photographs")}
    return {"images_per_s": rates, "share": share, "holds": share >= _LEAST_SHARE, **about}


# The page -----------------------------------------------------------------------------------------


def publish(folder: Path, part: str, found: dict[str, Any], meter: LoadMeter) -> None:
    """Put a part into ``on_the_line.json`` and the page, beside the others that are there."""
    stored = folder / "on_the_line.json"
    document = json.loads(stored.read_text()) if stored.is_file() else {}
    # No path of this machine.
    command = re.sub(r"--out[ =]\S+", "--out benchmarks/results", setting.command())
    command, place = re.sub(r"--model[ =]\S+", "--model FILE", command), "TMPDIR"
    if place in os.environ:
        command = f"{place}=/dev/shm {command}" if _in_memory(os.environ[place]) else command
    origin = {"command": command, "commit": setting.commit(), "load": meter.read().describe()}
    document[part] = {**found, **origin, "device": setting.describe("cpu")}
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(document, indent=1) + "\n")
    (folder / "on_the_line.md").write_text(page(document))


def _in_memory(folder: str) -> bool:
    return Path(folder).resolve().is_relative_to("/dev/shm")


def page(document: dict[str, Any]) -> str:
    """The parts that there are, as Markdown."""
    parts = {"serve": page_of_serve, "kills": page_of_kills, "endurance": page_of_endurance}
    text = ["# On the line", "", "What `fastalign watch` and `fastalign serve` hold."]
    for name, about in parts.items():
        if name in document:
            found = document[name]
            origin = (
                f"Made by `{found['command']}` at commit {found['commit']}, {found['load']}, on "
            )
            text += ["", f"## {name}", "", *about(found), "", f"{origin}{found['device']}."]
    return "\n".join(text) + "\n"


def page_of_serve(found: dict[str, Any]) -> list[str]:
    rates = found["images_per_s"]
    rows = [
        f"| {name} | {median(values):.1f} | {', '.join(f'{value:.1f}' for value in values)} |"
        for name, values in rates.items()
    ]
    return [
        f"{found['clients']} clients, each over one connection, {found['photographs']} photographs "
        "in each turn, "
        f"{found['threads']} threads of torch, a line of each on the disk.",
        "",
        "| photographs per second | median | turns |",
        "|---|---|---|",
        *rows,
        "",
        f"Served: {found['share']:.3f} of the model alone, in whichever way that is quicker.",
    ]


def page_of_kills(found: dict[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {part['photographs']} | {len(part['lines_at_each_kill'])} | "
        f"{', '.join(map(str, part['lines_at_each_kill']))} | {part['lost']} | {part['twice']} |"
        for name in ("watch", "serve")
        for part in [found[name]]
    ]
    return [
        "| | photographs | `kill -9` | lines at each | lost | twice |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def page_of_endurance(found: dict[str, Any]) -> list[str]:
    memory = {int(number): size for number, size in found["resident_mb"].items()}
    first, last = min(memory), max(memory)
    return [
        f"{found['photographs']} photographs, {found['images_per_s']:.0f} per second. Resident "
        f"memory: {memory[first]:.1f} MB after {first}, {memory[last]:.1f} MB after {last}, "
        f"{100 * found['growth']:+.2f} %; {max(memory.values()):.1f} MB at most of 20 looks.",
    ]


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
    parser.add_argument("--out", type=Path, help="folder for on_the_line.json and .md")
    options = parser.parse_args()
    usual = {"serve": 400, "kills": 2000, "endurance": 100_000}
    options.photographs = options.photographs or usual[options.part]
    parts: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]]
    parts = {"serve": serve, "kills": kills, "endurance": endurance}
    meter = LoadMeter()
    with tempfile.TemporaryDirectory() as temporary:
        found = parts[options.part](options, Path(temporary))
    print(json.dumps(found, indent=2))
    if options.out is not None:
        publish(options.out, options.part, found, meter)
    # Threads of a server that nobody asks any more do not hold up the end.
    sys.stdout.flush()
    os._exit(not found["holds"])


if __name__ == "__main__":
    main()
