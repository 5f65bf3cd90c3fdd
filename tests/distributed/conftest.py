"""Real processes, connected by gloo."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

HERE = Path(__file__).resolve().parent
# For distributed_work.py, whose functions also give what is expected.
sys.path.insert(0, str(HERE))
NUMBER = 5

Run = Callable[..., list[Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if dist.is_available() and dist.is_gloo_available():
        return
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason="this torch was built without gloo"))


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """``processes(n, name, **options)``: what the function of that name in distributed_work.py
    returns on each of the first n of five processes."""
    store = tmp_path_factory.mktemp("processes") / "store"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    servers = [
        subprocess.Popen(
            [sys.executable, HERE / "server.py", str(rank), str(NUMBER), store],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        for rank in range(NUMBER)
    ]

    def run(number: int, name: str, /, **options: Any) -> list[Any]:
        for server in servers:
            pickle.dump((number, name, options), server.stdin)
            server.stdin.flush()
        answers = [pickle.load(server.stdout) for server in servers][:number]
        problems = [text for fine, text in answers if not fine]
        assert not problems, "\n".join(problems)
        return [result for _, result in answers]

    yield run
    for server in servers:
        server.stdin.close()
    for server in servers:
        server.wait(30)
        server.stdout.close()
