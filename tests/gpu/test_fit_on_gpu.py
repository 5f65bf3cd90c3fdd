"""On a GPU the steps of a fit wait for the host where they say so and nowhere else."""

from __future__ import annotations

import contextlib

import pytest
import torch
from gpu_support import QUICK, SIZE, photographs

from fastalign import FYD
from fastalign.models.fitting import figures, watch
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.training import Trainer
from fastalign.models.pose import make_encoder
from fastalign.nn.registration import bank, choose, encoder, search
from fastalign.nn.transfer import fetched, sent

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@contextlib.contextmanager
def no_wait_but_fetches(monkeypatch):
    def allowed(tensor):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return fetched(tensor)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    for module in (figures, watch, bank, choose, encoder, search):
        if hasattr(module, "fetched"):
            monkeypatch.setattr(module, "fetched", allowed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wait_is_seen(monkeypatch):
    value = torch.ones(3, device="cuda")
    with no_wait_but_fetches(monkeypatch), pytest.raises(RuntimeError, match="synchron"):
        value.sum().item()


@pytest.mark.filterwarnings("ignore::fastalign.errors.CollapseWarning")
@pytest.mark.parametrize("teacher", [True, False])
def test_training(teacher, monkeypatch):
    model = FYD(**{**QUICK, "epochs": 3}).cuda()
    model.pose.install(ica=None if teacher else model.pose.make_ica().cuda())
    model.features.install(
        fca=model.features.make_fca(1.0).cuda(), adapters=model.features.make_adapters().cuda()
    )
    source = ImageSource(photographs(10), (SIZE, SIZE), torch.device("cuda"))
    theta = torch.eye(2, 3, device="cuda").expand(10, 2, 3) if teacher else None
    trainer = Trainer(model.config, model.pose, model.features, source, theta, seed=0)
    before = trainer.epoch(0)
    with no_wait_but_fetches(monkeypatch):
        after = trainer.epoch(1)
    assert before.keys() == after.keys() and len(after) > 3


def test_the_search_for_poses(monkeypatch):
    model = FYD(**QUICK).cuda()
    images = photographs(8).cuda()

    def found():
        encoder = make_encoder(model.features.backbone)
        with torch.no_grad():
            return search.search_poses(images, encoder, "rotation_translation", max_angle=0.5)

    wanted = found()
    with no_wait_but_fetches(monkeypatch):
        poses = found()
    assert torch.allclose(poses.theta, wanted.theta, atol=1e-3)


def test_what_is_sent_arrives_whole_whatever_the_gpu_is_doing():
    busy = torch.rand(2048, 2048, device="cuda")
    for number in range(20):
        busy = busy @ busy / 2048
        given = torch.full((3, 1000, 1000), float(number))
        arrived = sent(given, torch.device("cuda"))
        given.zero_()
        assert arrived.is_cuda and torch.equal(arrived.cpu(), torch.full_like(given, number))
