"""Whole runs on two workers: the scores of one process, whatever dies on the way.

A named pipe in the place of an image makes a worker wait there, so that the tests kill it at a
point they know, and not after some time.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
import time

import pytest

from fastalign.errors import ArtifactError, ConfigError, DataWarning

WHY = "Ray Data is missing; install it with: pip install '.[ray]'"
ray = pytest.importorskip("ray", reason=WHY)
pytest.importorskip("ray.data", reason=WHY)
pytest.importorskip("pyarrow", reason=WHY)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "mkfifo") or not os.path.isdir("/proc/self"),
        reason="needs named pipes and /proc, to kill workers at a known point",
    ),
]

LONGEST = 120.0


@pytest.fixture(scope="module")
def small_ray():
    """Ray with two processors; its sockets need a short path."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition, what):
    end = time.monotonic() + LONGEST
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def begun(out, part):
    """Whether a worker is at a part."""
    return (out / ".attempts" / f"{part:05d}").exists()


def test_a_killed_worker_and_a_bad_image_cost_no_other_row(
    small_ray, listed, model_file, tmp_path, read_rows, as_expected, make_pipe, workers_below, alive
):
    from fastalign.integrations.ray import score_collection

    folder, text, names = listed
    out = tmp_path / "out"
    (folder / names[6]).write_bytes(b"no image")
    kept = make_pipe(folder / names[2])
    results = []
    run = threading.Thread(
        target=lambda: results.append(
            score_collection(model_file, text, out, workers=2, part_size=4, outputs=["map"])
        ),
        daemon=True,
    )
    run.start()
    wait_for(lambda: begun(out, 0), "a worker at the part with the pipe")
    # The other worker does what is left, save one part that Ray has given to the first already.
    wait_for(lambda: len(list((out / "scores").glob("*.parquet"))) == 3, "the other parts")
    before = {p: p.stat().st_mtime_ns for p in (out / "scores").iterdir()}
    os.replace(kept, folder / names[2])
    killed = workers_below(os.getpid())
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    run.join(LONGEST)
    assert results and killed and not any(alive(pid) for pid in killed)
    rows = read_rows(out)
    assert [row["path"] for row in rows] == names
    for index, row in enumerate(rows):
        if index == 6:
            assert row["score"] is None and "this is a text file" in row["reason"]
        else:
            as_expected(row, out)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    result = results[0]
    assert (result.images, result.errors, result.resumed) == (20, 1, 0)
    assert not (out / ".attempts").exists() and (out / "summary.json").is_file()


@pytest.fixture
def command(capsys):
    """``command(*arguments)``: the status of ``fastalign predict`` in this process, and what it
    says."""
    from fastalign.cli import app

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            app(["predict", *map(str, arguments)], prog_name="fastalign")
        return end.value.code, capsys.readouterr()

    return run


# Its words would wait for Ray's processes to end, which have the same files open.
SILENT = """
import os
for stream in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
from fastalign.cli import main
main()
"""


def test_a_killed_run_goes_on_where_it_stopped(
    small_ray,
    listed,
    model_file,
    tmp_path,
    read_rows,
    as_expected,
    make_pipe,
    workers_below,
    alive,
    command,
    python,
):
    from fastalign.integrations.ray import score_collection

    folder, text, names = listed
    out = tmp_path / "out"
    kept = make_pipe(folder / names[9])
    basic = [text, "--model", model_file, "--out", out, "--engine", "ray", "--part-size", "4"]
    arguments = [*basic, "--save", "map", "--workers", "1"]
    program = tmp_path / "program.py"
    program.write_text(SILENT)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        environment = {"RAY_TMPDIR": temp}
        run = python.start(program, "predict", *arguments, "--threads", "1", env=environment)
        try:
            wait_for(lambda: begun(out, 2), "the part with the pipe")
            workers = workers_below(run.pid)
        finally:
            run.send_signal(signal.SIGKILL)
            run.communicate(LONGEST)
        wait_for(lambda: not any(alive(pid) for pid in workers), "the workers to end with the run")
    finished = sorted((out / "scores").glob("*.parquet"))
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in finished}
    assert workers and [p.name for p in finished] == ["part-00000.parquet", "part-00001.parquet"]
    os.replace(kept, folder / names[9])
    # One worker does what is left as well as two, which each take seconds to start.
    code, said = command(*arguments)
    assert code == 0 and "20 of 20 images scored, 8 of them by an earlier run" in said.out
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in finished} == before
    rows = read_rows(out)
    assert [row["path"] for row in rows] == names
    for row in rows:
        as_expected(row, out)
    # Nothing is left to do, and nothing is done.
    again = score_collection(model_file, text, out, part_size=4, outputs=["map"])
    assert (again.images, again.errors, again.resumed, again.seconds) == (20, 0, 20, 0)
    code, said = command(*arguments)
    assert code == 0 and "20 of them by an earlier run" in said.out
    code, said = command(*basic)
    assert code == 2 and "options.outputs" in said.err


def test_the_command_refuses_what_does_not_fit(photos, model_file, tmp_path, command):
    basic = (photos, "--model", model_file, "--out", tmp_path / "out")
    code, said = command(*basic, "--workers", "2")
    assert code == 2 and "--workers is an option of the ray engine" in said.err
    code, said = command(*basic, "--engine", "spark")
    assert code == 2 and "use local or ray" in said.err


def test_what_ends_a_run_is_the_error_itself(small_ray, photos, model_file, tmp_path, monkeypatch):
    """The workers find another model than the driver; no wrapping of Ray around the message."""
    from fastalign.integrations.ray import run, score_collection

    copy = tmp_path / "m.safetensors"
    shutil.copy(model_file, copy)
    prepare = run.open_job

    def change_afterwards(*arguments, **options):
        job = prepare(*arguments, **options)
        copy.write_bytes(b"another")
        return job

    monkeypatch.setattr(run, "open_job", change_afterwards)
    with pytest.raises(ArtifactError, match="another model than the one the run began with"):
        score_collection(copy, photos, tmp_path / "out", workers=1)


def test_a_cluster_that_is_not_there(photos, model_file, tmp_path, monkeypatch):
    from fastalign.integrations.ray import score_collection

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        # Bound and not listening: nobody answers, and nobody else can take the port.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'.*ray start"):
            score_collection(model_file, photos, tmp_path / "out", address=address)


def test_a_worker_that_no_machine_can_hold_is_announced(small_ray):
    from fastalign.integrations.ray.cluster import Pool, running

    with (
        pytest.warns(DataWarning, match="asks for 64 CPU and no machine .* more than 2"),
        running(Pool(1, 64, "cpu", 0.0, None)),
    ):
        pass
