"""On a GPU the steps of a fit wait for the host where they say so and nowhere else: shown with
tensors of a GPU that is not there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from host import Host
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from fastalign import FYD, FYDConfig
from fastalign.models.fitting import figures, samples, training, views, watch
from fastalign.models.fitting.samples import Samples
from fastalign.models.fitting.training import Trainer
from fastalign.models.fitting.views import NormalViews
from fastalign.models.pose import Located, make_encoder
from fastalign.nn.registration import bank, choose, encoder, refiner, search
from fastalign.nn.registration.choose import unexplained_share
from fastalign.nn.registration.search import search_poses

SIZE = (32, 32)


@pytest.fixture
def fetches(monkeypatch):
    """What was fetched from the device, by shape; numbers in its place, since there are none."""
    seen: list[tuple[int, ...]] = []

    def fetched(tensor: Tensor) -> Tensor:
        if tensor.device.type == "cuda":
            seen.append(tuple(tensor.shape))
        with unset_fake_temporarily():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)

    def sent(tensor: Tensor, device: torch.device) -> Tensor:
        return tensor.to(device)

    for module in (
        figures,
        samples,
        training,
        views,
        watch,
        bank,
        choose,
        encoder,
        refiner,
        search,
    ):
        for made in (fetched, sent):
            if hasattr(module, made.__name__):
                monkeypatch.setattr(module, made.__name__, made)
    return seen


def host() -> Host:
    return Host(alone=False, allowed=("sent", "fetched"))


def batches(epoch: int):
    """Of images on a GPU: an order that is drawn has no numbers here."""
    for positions in ([0, 1], [4, 5]):
        yield torch.empty(2, 3, *SIZE, device="cuda"), torch.tensor(positions)


@pytest.mark.filterwarnings("ignore::fastalign.errors.CollapseWarning")
def test_an_epoch_fetches_its_figures_once_at_the_end(on_gpu, fetches, monkeypatch):
    model = FYD(FYDConfig(image_size=SIZE, batch_size=2))
    model.pose.install(ica=model.pose.make_ica())
    model.features.install(
        fca=model.features.make_fca(1.0), adapters=model.features.make_adapters()
    )
    model = on_gpu(model, gradients=True)
    # The plain transformer and poses that were found: one fit has one of them.
    theta = torch.empty(6, 2, 3, device="cuda")
    trainer = Trainer(model.config, model.pose, model.features, [], theta, seed=0)
    trainer.batches = batches

    def backward(loss: Tensor) -> None:
        """torch's engine needs a GPU that is there: tests/gpu has it."""
        assert loss.requires_grad
        for parameter in trainer.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    with host() as seen:
        logged = trainer.epoch(0)
    assert seen.count > 500 and not seen.found
    # All that is logged, then what each warp has done.
    first, *others = fetches
    assert first == (len(logged) - 1,) and len(others) == len(model.features.fca) + 1


def test_the_search_for_poses_fetches_once_a_round_and_for_each_bank(on_gpu, fetches):
    model = on_gpu(FYD(FYDConfig(image_size=SIZE)))
    images = torch.empty(40, 3, 64, 64, device="cuda")
    encoder = make_encoder(model.features.backbone)
    with host() as seen:
        found = search_poses(images, encoder, "rotation_translation", max_angle=0.2)
    assert seen.count > 500 and not seen.found
    assert found.theta.is_cuda and found.aligner.bank.templates.is_cuda
    # Three rounds, in each how many poses are at the end of the angles, and the largest angle in
    # the end; four banks, for each the covariance of its features.
    width = model.features.channels[1]
    assert sorted(fetches) == [*[(1,)] * 4, *[(width, width)] * 4]


def test_a_judgement_of_poses_is_one_fetch(on_gpu, fetches):
    model = on_gpu(FYD(FYDConfig(image_size=SIZE)))
    stages = [torch.empty(8, 4, side, side, device="cuda") for side in (16, 8)]
    with host() as seen:
        unexplained_share(stages, torch.empty(8, 2, 3, device=model.features.device), SIZE)
    assert seen.count > 50 and not seen.found and fetches == [(2, 2)]


def test_normal_views_and_samples_stay_on_the_device(on_gpu, fetches):
    model = FYD(FYDConfig(image_size=SIZE))
    pose = model.pose
    height, width = pose.edges(torch.zeros(1, 3, *SIZE)).shape[2:]
    pose.install(template=pose.make_template(torch.ones(height, width), torch.ones(height, width)))
    model = on_gpu(model)
    train = object()
    seen_by = NormalViews(model.rooms, SimpleNamespace(train=train, judged=[0, 1, 2]))
    kept = Samples((8, 8), side=4)
    images, theta = torch.empty(3, 3, *SIZE, device="cuda"), torch.empty(3, 2, 3, device="cuda")
    with host() as seen:
        for first in (0, 3):
            # Positions are read on the host, where they are; fakes have none.
            positions = SimpleNamespace(tolist=lambda first=first: [first, first + 1, first + 2])
            features = torch.empty(3, 5, 8, 8, device="cuda")
            kept.put(*kept.pick(features, features[:, 0] > 0), first)
            kept.put(*kept.pick(features, None), first)
            seen_by.add(train, positions, images, Located(theta, theta[:, 0, 0]), theta)
    assert seen.count > 100 and not seen.found and not fetches
