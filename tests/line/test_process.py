"""A model in a process of its own: what it says, and what becomes of those who wait at its end."""

import importlib
import os
import signal
import threading
from concurrent.futures import Future

import pytest
import torch

from fastalign.errors import BackendError
from fastalign.line.serve.process import ModelProcess
from fastalign.line.serve.worker import LocalModel, Task

# In a file, since the other process has to import it.
SCORER = """
import time
import torch
from fastalign.models.detail import Detail


class Scorer:
    at_once, image_size = 3, (4, 6)

    def score(self, prepared):
        return [self._one(image, len(prepared)) for image in prepared]

    def _one(self, image, together):
        if image.max() == 255:
            return ValueError("too bright")
        time.sleep(float(image.min()) / 100)
        values = image[None].float()
        sizes = [(1,), (1, 4, 6), (1, 2, 3), (1, 4, 6), (1, 3, 4, 6), *7 * [(1,)]]
        parts = [values.mean().expand(size).to(torch.bfloat16) for size in sizes]
        parts[3], parts[5], parts[-1] = values[:, 0] > 1, torch.tensor([together]), torch.ones(1, 0)
        return Detail(*parts)
"""


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    (tmp_path / "scorer_of_a_test.py").write_text(SCORER)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("scorer_of_a_test").Scorer()


def task(value):
    return Task(Future(), torch.full((4, 6, 3), value, dtype=torch.uint8).permute(2, 0, 1))


def test_it_says_what_the_model_says_here_until_it_is_killed(scorer):
    ended = threading.Event()
    model = ModelProcess(scorer, ended.set)
    given = [task(value) for value in (40, 2, 255, 3, 4, 5)]
    given[3].future.cancel()
    model.submit(given)
    for one in given[:2] + given[4:]:
        here = Task(Future(), one.prepared)
        LocalModel(scorer).submit([here])
        found, expected = one.future.result(20), here.future.result(0)
        assert found.scorer is scorer
        for name, part in found.detail._asdict().items():
            other = getattr(expected.detail, name)
            assert name == "residual_before" or torch.equal(part, other), name
            assert part.dtype == other.dtype and part.shape == other.shape, name
    # What came while others were scored was scored together.
    together = [given[place].future.result().detail.residual_before for place in (0, 1, 4, 5)]
    assert max(together) == 3
    with pytest.raises(RuntimeError, match="too bright"):
        given[2].future.result(20)
    assert model.alive and not ended.is_set()

    slow = task(200)
    model.submit([slow])
    os.kill(model.pid, signal.SIGKILL)
    with pytest.raises(BackendError, match="exit code -9"):
        slow.future.result(20)
    assert ended.wait(20) and not model.alive
    # More than there is room for: nobody waits for ever.
    late = [task(1) for _ in range(9)]
    model.submit(late)
    for one in late:
        with pytest.raises(BackendError, match="has ended"):
            one.future.result(20)
    model.close()
