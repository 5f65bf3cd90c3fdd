"""Scoring by recorded CUDA graphs: the bits of the calls that they stand for."""

from __future__ import annotations

import threading

import pytest
import torch
from gpu_support import QUICK, photographs

from fastalign import FYD
from fastalign.nn.replay import ENVIRONMENT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ALIGN = {
    "none": {"align": "none"},
    "search": {"align": "ica"},
    "plain": {"align": "ica", "teacher": False},
    "all": {"align": "all"},
}


@pytest.fixture(scope="module", params=ALIGN)
def model(request):
    model = FYD(**{**QUICK, "skip": False, **ALIGN[request.param]}).fit(photographs(24))
    return model.to("cuda")


def graphs(model):
    return sum(graph is not None for graph in model.replays._graphs.values())


def eager(monkeypatch, call, *args):
    with monkeypatch.context() as context:
        context.setenv(ENVIRONMENT, "0")
        return call(*args)


@pytest.mark.parametrize("method", ["forward", "predict_detail"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_bits(model, method, batch, monkeypatch):
    call = getattr(model, method)
    model.replays.forget()
    with torch.inference_mode():
        call(photographs(batch, seed=5).cuda())
        for seed in range(3):
            images = photographs(batch, seed=seed).cuda()
            found, wanted = call(images), eager(monkeypatch, call, images)
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert graphs(model) == 1


def test_an_image_that_cannot_be_judged(model):
    images = photographs(2).cuda()
    with torch.inference_mode():
        for _ in range(2):
            wanted = model(images)
        images[1, 0, 3, 3] = torch.nan
        score, _ = model(images)
    assert score[0] == wanted[0][0] and score[1].isnan()


def test_a_call_neither_waits_nor_copies_from_the_host(model):
    images = photographs(2).cuda()
    with torch.inference_mode():
        for _ in range(3):
            model(images)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(images)
            model.replays.forget()
            model(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_threads_and_streams(model, monkeypatch):
    given = [photographs(2, seed=seed).cuda() for seed in range(4)]
    with torch.inference_mode():
        for _ in range(2):
            model(given[0])
        wanted = [eager(monkeypatch, model, images)[1] for images in given]
    torch.cuda.synchronize()
    wrong = []

    def score(index):
        stream = torch.cuda.Stream()
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(30):
                maps = model(given[index])[1]
                if not torch.equal(maps.nan_to_num(-1), wanted[index].nan_to_num(-1)):
                    wrong.append(index)

    threads = [threading.Thread(target=score, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and graphs(model) == 1


def test_a_threshold_or_a_move_is_followed(model):
    images = photographs(2).cuda()
    with torch.inference_mode():
        for _ in range(2):
            before = model(images)[1]
        model.maps.sigma = 0.0
        rough = model(images)[1]
        model.maps.sigma = 4.0
        assert not torch.equal(before.nan_to_num(-1), rough.nan_to_num(-1))
        model.to("cpu")
        model.to("cuda")
        for _ in range(2):
            found = model(images)[1]
            torch.testing.assert_close(found, before, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_memory_stays_within_what_a_few_graphs_take(model):
    with torch.inference_mode():
        for batch in (1, 2, 3, 4, 5, 6, 7, 8):
            for _ in range(2):
                model(photographs(batch).cuda())
    assert graphs(model) == 4
