"""When recorded work is replayed, made again or left alone; the recording itself runs on a GPU."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections import namedtuple

import pytest
import torch
from torch import nn

from fastalign import ops
from fastalign.errors import GraphWarning
from fastalign.export import plain_ops
from fastalign.nn.module_state import ModuleState
from fastalign.nn.replay import ENVIRONMENT, Replays, replayed

Pair = namedtuple("Pair", "total maps")


class Recorded:
    """In the place of a graph: results in tensors of its own, which the next call overwrites."""

    made = 0

    def __init__(self, work, images, pool):
        type(self).made += 1
        self._work = work
        self._results = work(images)

    def __call__(self, images):
        for kept, result in zip(self._results, self._work(images), strict=True):
            kept.copy_(result)
        return self._results


class Broken:
    def __init__(self, work, images, pool):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


class Model(nn.Module):
    def __init__(self, record=Recorded):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
        self.register_buffer("factor", torch.ones(1))
        self.replays = Replays(record, kind="cpu")
        self.runs = []
        self.replayable = True

    @replayed
    def forward(self, images):
        self.runs.append(tuple(images.shape))
        maps = self.inner(images) * self.factor
        return Pair(maps.sum((1, 2, 3)), maps)

    @replayed
    def other(self, images):
        return (images + 1,)


@pytest.fixture
def model():
    Recorded.made = 0
    torch.manual_seed(0)
    return Model()


def images(batch=2, side=4):
    return torch.rand(batch, 3, side, side)


def twice(model, given):
    with torch.inference_mode():
        model(given)
        return model(given)


def test_a_shape_that_comes_again_is_recorded(model):
    given = images()
    with torch.inference_mode():
        first = model(given)
        assert Recorded.made == 0
        second, third = model(given), model(given)
    assert Recorded.made == 1
    assert isinstance(third, Pair)
    for one in (second, third):
        assert all(torch.equal(a, b) for a, b in zip(first, one, strict=True))


def test_results_are_of_their_own_call_alone(model):
    given = images()
    kept = twice(model, given)
    before = kept.maps.clone()
    with torch.inference_mode():
        model(images())
    assert torch.equal(kept.maps, before)


def test_results_are_in_the_mode_of_the_caller(model):
    given = images()
    assert twice(model, given).maps.is_inference()
    with torch.no_grad():
        maps = model(given).maps
    assert not maps.is_inference()
    maps.add_(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.inner[0], "weight", nn.Parameter(torch.ones(2, 3, 1, 1))),
        lambda m: setattr(m.inner[0].weight, "data", torch.ones(2, 3, 1, 1)),
        lambda m: setattr(m, "factor", torch.full((1,), 3.0)),
        lambda m: setattr(m.inner, "1", nn.Identity()),
        lambda m: m.inner.append(nn.ReLU()),
        lambda m: m.double().float(),
    ],
    ids=["parameter", "data", "buffer", "module", "another module", "conversion"],
)
def test_what_is_replaced_is_recorded_again(model, change):
    given = images()
    twice(model, given)
    change(model)
    with torch.inference_mode():
        wanted = Model.forward.__wrapped__(model, given)
        assert torch.equal(model(given).maps, wanted.maps)
        model(given)
    assert Recorded.made == 2


def test_what_changes_in_place_is_read_by_the_graph(model):
    given = images()
    before = twice(model, given).maps
    model.factor.fill_(2)
    with torch.inference_mode():
        assert torch.equal(model(given).maps, 2 * before)
    assert Recorded.made == 1


def test_an_attribute_of_our_own_modules_counts():
    from fastalign.nn import SpatialAlign

    module = SpatialAlign(3, "rotation", grid=8)
    state = ModuleState(module)
    assert state.holds()
    module.aspect = 1.25
    assert not state.holds()


def test_a_hook_sees_every_call(model):
    given = images()
    twice(model, given)
    seen = []
    model.inner[0].register_forward_hook(lambda *_: seen.append(1))
    twice(model, given)
    assert len(seen) == 2 and Recorded.made == 1


def test_the_least_recently_used_goes(model):
    sides = range(4, 9)
    for side in sides:
        twice(model, images(side=side))
    assert Recorded.made == len(sides)
    with torch.inference_mode():
        model(images(side=8))
        model(images(side=5))
        assert Recorded.made == len(sides)
        model(images(side=4))
        model(images(side=4))
    assert Recorded.made == len(sides) + 1


def test_each_method_has_its_own(model):
    given = images()
    twice(model, given)
    with torch.inference_mode():
        for _ in range(2):
            (found,) = model.other(given)
    assert torch.equal(found, given + 1) and Recorded.made == 2


@pytest.mark.parametrize(
    "case", ["gradients", "switch", "module", "plain", "export", "vmap", "empty"]
)
def test_it_is_left_alone(model, case, monkeypatch):
    given = images()

    def call():
        if case == "gradients":
            return model(given)
        if case == "empty":
            return model(given[:0])
        if case == "vmap":
            return torch.func.vmap(lambda x: model(x[None]))(given)
        return model(given)

    if case == "module":
        model.replayable = False
    if case == "switch":
        monkeypatch.setenv(ENVIRONMENT, "0")
    with torch.set_grad_enabled(case == "gradients"):
        for _ in range(3):
            if case == "plain":
                with plain_ops():
                    call()
            elif case == "export":
                torch.export.export(model, (given,))
            else:
                call()
    assert Recorded.made == 0


def test_kernels_that_are_chosen_otherwise_are_recorded_again(model, monkeypatch):
    given = images()
    twice(model, given)
    monkeypatch.setenv("FASTALIGN_BACKEND", "reference")
    twice(model, given)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(not before)
    try:
        twice(model, given)
    finally:
        torch.use_deterministic_algorithms(before)
    with ops.forced_plan("pairwise_distance.triton: warps=4"):
        twice(model, given)
    assert Recorded.made == 4


def test_what_cannot_be_recorded_runs_as_ever_and_is_told_once():
    model = Model(Broken)
    given = images()
    with pytest.warns(GraphWarning, match=f"batch of 2 .*operation not permitted.*{ENVIRONMENT}=0"):
        found = twice(model, given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = twice(model, given)
        twice(model, images(batch=3))
    assert torch.equal(found.maps, again.maps)


def test_a_shape_that_is_too_large_keeps_no_other_from_being_recorded():
    class Small(Recorded):
        tried: list[int] = []

        def __init__(self, work, images, pool):
            self.tried.append(len(images))
            if len(images) > 4:
                raise RuntimeError("out of memory")
            super().__init__(work, images, pool)

    Small.made = 0
    model = Model(Small)
    with pytest.warns(GraphWarning, match="batch of 5 .*out of memory"):
        twice(model, images(batch=5))
    twice(model, images(batch=5))
    twice(model, images(batch=1))
    assert Small.tried == [5, 1] and Small.made == 1


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_records_for_itself(model, make):
    given = images()
    wanted = twice(model, given)
    again = make(model)
    again.factor.fill_(2)
    assert torch.equal(twice(again, given).maps, 2 * wanted.maps)
    assert Recorded.made == 2


def test_threads_get_their_own_results(model):
    given = [images() for _ in range(4)]
    with torch.inference_mode():
        wanted = [Model.forward.__wrapped__(model, one).maps for one in given]
    wrong = []

    def score(index):
        with torch.inference_mode():
            for _ in range(50):
                if not torch.equal(model(given[index]).maps, wanted[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=score, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and Recorded.made == 1
