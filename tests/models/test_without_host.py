"""On a GPU nothing between image and map waits for the host: shown with tensors of a GPU that is
not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from host import Host

from fastalign import FYD

KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"


def _whole(model: FYD) -> FYD:
    return model


def _unaligned_and_whitened(model: FYD) -> FYD:
    model.pose.install()
    model.features.fca = None
    total = sum(model.density.stage_channels)
    model.density.project(torch.randn(model.density.channels, total))
    model.rooms.settle()
    return model


def _plain_ica_and_regions(model: FYD) -> FYD:
    model.pose.install(ica=model.pose.make_ica())
    labels = torch.ones(model.config.image_size, dtype=torch.uint8)
    labels[: len(labels) // 2] = 2
    model.maps.interest(labels)
    return model


@pytest.mark.parametrize("method", ["forward", "predict_detail"])
@pytest.mark.parametrize("change", [_whole, _plain_ica_and_regions, _unaligned_and_whitened])
def test_an_image_becomes_a_map_on_its_device(change, method, on_gpu):
    model = on_gpu(change(FYD.load(KEPT)))
    images = torch.empty(2, 3, *model.config.image_size, device="cuda")
    getattr(model, method)(images)
    with Host() as host:
        results = getattr(model, method)(images)
    assert {result.device.type for result in results} == {"cuda"}
    assert host.count > 50 and not host.found


def test_a_look_at_a_value_is_seen(on_gpu, monkeypatch):
    model = on_gpu(FYD.load(KEPT))
    images = torch.empty(1, 3, *model.config.image_size, device="cuda")
    map_from = model.maps.map_from
    monkeypatch.setattr(
        model.maps, "map_from", lambda distance, *rest: map_from(distance.cpu().cuda(), *rest)
    )
    with Host() as host:
        model(images)
    assert host.found


@pytest.mark.parametrize("change", [_whole, _plain_ica_and_regions, _unaligned_and_whitened])
def test_the_whole_of_forward_is_one_graph(change, on_gpu):
    """As ``torch.compile`` and exports see it: no choice by a value breaks it."""
    model = on_gpu(change(FYD.load(KEPT)))
    images = torch.empty(2, 3, *model.config.image_size, device="cuda")
    graphs = []

    def kept(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    results = torch.compile(model, backend=kept, fullgraph=True)(images)
    assert len(graphs) == 1 and {result.device.type for result in results} == {"cuda"}
