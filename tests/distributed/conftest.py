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
    requests, results = [os.pipe() for _ in range(NUMBER)], [os.pipe() for _ in range(NUMBER)]
    theirs = [(read, write) for (read, _), (_, write) in zip(requests, results, strict=True)]
    parent = subprocess.Popen(
        [sys.executable, HERE / "server.py", store, *(f"{read},{write}" for read, write in theirs)],
        pass_fds=[number for pair in theirs for number in pair],
        env=environment,
    )
    for pair in theirs:
        for number in pair:
            os.close(number)
    servers = [
        (open(write, "wb"), open(read, "rb"))
        for (_, write), (read, _) in zip(requests, results, strict=True)
    ]

    def run(number: int, name: str, /, **options: Any) -> list[Any]:
        for asked, _ in servers:
            pickle.dump((number, name, options), asked)
            asked.flush()
        answers = [pickle.load(said) for _, said in servers][:number]
        problems = [text for fine, text in answers if not fine]
        assert not problems, "\n".join(problems)
        return [result for _, result in answers]

    yield run
    for asked, _ in servers:
        asked.close()
    parent.wait(30)
    for _, said in servers:
        said.close()
