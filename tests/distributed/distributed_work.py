"""What the processes of tests/distributed do; a world of one process gives what is expected.

Tensors come from seeds, so that each process cuts its share out of the same whole.
"""

from __future__ import annotations

import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from fastalign import FYD
from fastalign.data import open_category
from fastalign.distributed import (
    World,
    average_gradients,
    dense_similarity,
    dense_similarity_loss,
    globalise_norms,
    merge_density,
    pairwise_distance_loss,
    share_density,
)
from fastalign.engine.fit_images import open_samples
from fastalign.errors import ConfigError, InputError, ProcessError
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.training import Trainer
from fastalign.nn import DenseGaussian, Predictor, Projector

ONE = World()


def share(world: World, counts: list[int]) -> slice:
    """This process's images, of counts[rank] images each; all of them in a world of one."""
    if world.size == 1:
        return slice(None)
    start = sum(counts[: world.rank])
    return slice(start, start + counts[world.rank])


def random(shape, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def similarity(world, counts, dtype, groups, detach, loss):
    """Value, or values, and the gradients to p and z."""
    number, own = sum(counts), share(world, counts)
    p = random((number, 5, 4, 3), 1, dtype)[own].requires_grad_()
    z = random((number, 5, 4, 3), 2, dtype)[own].requires_grad_(not detach)
    labels = None if groups is None else torch.tensor(groups)[own]
    if loss:
        value = dense_similarity_loss(p, z, labels, world=world)
        value.backward()
    else:
        value = dense_similarity(p, z, labels, world=world)
        value.backward(random((number, 4, 3), 3, dtype)[own].to(value.dtype))
    # A loss is averaged over the processes, so that each holds their number times its gradient.
    scale = 1 / world.size if loss else 1
    return value.detach(), p.grad * scale, None if detach else z.grad * scale


def distance(world, counts, dtype, groups, masked, squared, shape=(3, 4, 3)):
    number, own = sum(counts), share(world, counts)
    h = random((number, *shape), 1, dtype)[own].requires_grad_()
    mask = random((number, *shape[1:]), 2, torch.float32)[own] > -0.8 if masked else None
    labels = None if groups is None else torch.tensor(groups)[own]
    value = pairwise_distance_loss(h, mask, labels, squared=squared, world=world)
    value.backward()
    return value.detach(), h.grad / world.size


def norm(world, counts, dtype, affine, offset=0.0):
    """Result, gradients and running statistics after two steps, and the result in evaluation."""
    number, own = sum(counts), share(world, counts)
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, affine=affine).to(dtype)
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    if world.size > 1:
        layer = globalise_norms(layer, world)
    for step in range(2):
        x = (random((number, 3, 4, 2), step, dtype) + offset)[own].requires_grad_()
        y = layer(x)
        layer.zero_grad()
        y.backward(random((number, 3, 4, 2), 5, dtype)[own])
    result = {"y": y.detach(), "to_x": x.grad}
    state = dict(layer.state_dict())
    if affine:
        # Not averaged: the sum over the processes is the gradient.
        for name in ("weight", "bias"):
            result[f"sum of {name}"] = world.sum_(getattr(layer, name).grad, name)
    layer.eval()
    return result | state | {"evaluated": layer(x.detach()).detach()}


def gradients(world, present):
    """Averages of gradients rank + 1 of three parameters, where present[rank][i]."""
    parameters = [nn.Parameter(torch.zeros(size)) for size in ((2,), (2, 3), ())]
    parameters.append(nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    for parameter, has in zip(parameters, present[world.rank], strict=True):
        if has:
            parameter.grad = torch.full_like(parameter, world.rank + 1.0)
    average_gradients(parameters, world=world)
    return [None if p.grad is None else p.grad for p in parameters]


def heads(world, counts, ddp):
    """The fine loss through both heads and the gradients of their parameters."""
    number, own = sum(counts), share(world, counts)
    torch.manual_seed(0)
    module = nn.Sequential()
    module.projector, module.predictor = Projector(6), Predictor(6)
    module.double()
    if world.size > 1:
        globalise_norms(module, world)
    features = random((number, 6, 4, 4), 0, torch.float64)[own]

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            z = self.inner.projector(x)
            return dense_similarity_loss(self.inner.predictor(z), z.detach(), world=world)

    step = Step()
    if ddp:
        wrapped = nn.parallel.DistributedDataParallel(step, process_group=world.group)
        loss = wrapped(features)
        loss.backward()
    else:
        loss = step(features)
        loss.backward()
        average_gradients(step.parameters(), world=world)
    return loss.detach(), [parameter.grad for parameter in step.parameters()]


def training(world, align, teacher, number, batch_size, epochs=2):
    """Parameters and figures after some epochs on a model of real size but for its images."""
    torch.manual_seed(0)
    model = FYD(
        image_size=(32, 32),
        align=align,
        teacher=teacher,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=0.05,
        channels=8,
    )
    torch.manual_seed(1)
    pose, features = model.pose, model.features
    pose.install(ica=None if teacher else pose.make_ica())
    fca = features.make_fca(1.0) if "fca" in align else None
    features.install(
        fca=fca, adapters=features.make_adapters() if "fa" in align.split("+") else None
    )
    images = random((number, 3, 32, 32), 0, torch.float32).sigmoid()
    source = ImageSource(images, (32, 32), torch.device("cpu"))
    trainer = Trainer(model.config, pose, features, source, None, 3, world)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = [trainer.epoch(epoch) for epoch in range(epochs)]
    tensors = {name: value.detach().clone() for name, value in trainer.tensors().items()}
    return history, tensors


def density(world, counts, channels, size, run_bytes, masked, again=False):
    """Mean, whitener and count of the Gaussians of all images, as every process has them."""
    number, own = sum(counts), share(world, counts)
    features = random((number, channels, *size), 0, torch.float32) * 2 + 30
    valid = random((number, *size), 1, torch.float32) > -0.5 if masked else None
    mixed = DenseGaussian(channels, size)
    rounds = [own]
    if again:
        # What is updated after a merge is merged once more.
        middle = own.start + (own.stop - own.start) // 2 if world.size > 1 else number // 2
        rounds = [slice(own.start, middle), slice(middle, own.stop)]
    for part in rounds:
        if len(features[part]):
            mixed.update(features[part], None if valid is None else valid[part])
        merge_density(mixed, world=world, run_bytes=run_bytes)
    if world.rank == 0:
        mixed.finalize()
    share_density(mixed, world=world)
    return mixed.mean, mixed.whitener, mixed.count, mixed(features[:2])


def failing(world, who, kind):
    """What each process is told when one of them fails in work that all do."""
    error = {"input": InputError("bad.png: cannot be read"), "other": KeyError("x")}[kind]
    said = []
    for wait in (False, True):
        try:
            if wait:
                world.once(lambda: (_ for _ in ()).throw(error), "work of the first")
            else:
                with world.together("work of each"):
                    if world.rank == who:
                        raise error
        except Exception as caught:
            said.append((type(caught).__name__, str(caught)))
    # They can go on together.
    return said, world.sum_(torch.ones(1), "afterwards").item()


def silent(world, seconds):
    """All but the last process wait for it, which says nothing."""
    group = dist.new_group(list(range(world.size)), timeout=timedelta(seconds=seconds))
    if world.rank == world.size - 1:
        return None
    try:
        World(world.rank, world.size, group).sum_(torch.ones(1), "the sum of targets")
    except ProcessError as error:
        return str(error)
    return "no error"


def shares(world, number):
    return list(world.share(number))


def opened(world, directory):
    """Names of the samples kept and left out of a category with unreadable files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = open_samples(world, open_category(directory).train, (32, 32), skip_bad=True)
    return [s.path.name for s in samples.samples], [s.path.name for s in samples.skipped]


def fit(world, number, seeds=None):
    """The Python interface, in the default process group where there is one: scores and figures."""
    images = random((number, 3, 32, 32), 0, torch.float32).sigmoid()
    model = FYD(image_size=(32, 32), channels=8, epochs=1, batch_size=4, family="translation")
    seed = 0 if seeds is None else seeds[world.rank]
    try:
        model.fit(images, images[:3], seed=seed)
    except ConfigError as error:
        return str(error)
    return model(images)[0], model.image_threshold, model.extra_metadata()
