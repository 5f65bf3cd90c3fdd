"""Scoring with the network compiled."""

import copy

import pytest
import torch

from fastalign import FYD
from fastalign.errors import ConfigError
from fastalign.export import export_model


@pytest.fixture(scope="module")
def fitted():
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    options = {"image_size": (64, 64), "channels": 12, "epochs": 1, "skip": False, "layers": (1,)}
    return FYD(align="ica+fca", teacher=False, **options).fit(images)


@pytest.fixture
def model(fitted):
    return copy.deepcopy(fitted)


@pytest.fixture
def graphs(model):
    """Compiles the model, and what then is compiled."""
    found = []

    def keep(graph, _):
        found.append(graph)
        return graph.forward

    model.compile(backend=keep, fullgraph=True)
    return found


def test_compiled_or_within_a_budget_nothing_is_recorded(model):
    assert model.replayable
    model.limit_memory(1 << 40)
    assert not model.replayable and not copy.deepcopy(model).replayable
    model.limit_memory(None)
    assert model.replayable
    model.compile(backend="eager")
    assert not model.replayable and copy.deepcopy(model).replayable


def test_compiled_it_scores_the_same(model, graphs):
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        score, maps = model(images)
        assert len(graphs) == 1
        wanted_score, wanted_maps = copy.deepcopy(model)(images)
    torch.testing.assert_close(maps, wanted_maps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score, wanted_score, rtol=1e-4, atol=1e-4)


def test_a_copy_is_not_compiled(model, graphs):
    copied = copy.deepcopy(model)
    copied(torch.rand(1, 3, 64, 64))
    assert not graphs


def test_it_can_still_be_exported(model, graphs, tmp_path):
    # Warps, which are most of a graph, are nothing to what is asked here.
    model.pose.install()
    model.features.install()
    model.rooms.settle()
    export_model(model, tmp_path / "m.pt2", to="torch")
    assert (tmp_path / "m.pt2").exists()


def test_a_budget_is_refused(model, graphs):
    with pytest.raises(ConfigError, match="compiled"):
        model.limit_memory(4_000_000_000)


def test_within_a_budget_it_is_refused(model):
    model.limit_memory(20_000_000_000)
    with pytest.raises(ConfigError, match="20000000000"):
        model.compile()
    model.limit_memory(None)
    model.compile(backend="eager")
