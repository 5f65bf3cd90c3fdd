"""The directions of feature space that the density works in, from what training images show."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastalign.models.fitting.passes import Passes
from fastalign.models.fitting.samples import Samples
from fastalign.models.fitting.source import spread
from fastalign.nn.directions import Whitening

# Images at most: each shows hundreds of locations, and what they share is one covariance.
_IMAGES = 64


def whiten_features(passes: Passes) -> Tensor:
    """Let the density work on the channels that it has selected, whitened by training images;
    returns the floor of their covariance (:class:`Whitening`)."""
    rooms = passes.rooms
    whitening, selected = _find(passes), rooms.density.selection.cpu()
    directions = torch.zeros((len(selected), sum(rooms.density.stage_channels)))
    directions[:, selected] = whitening.directions.cpu()
    rooms.density.project(directions)
    rooms.settle()
    return whitening.floor


def _find(passes: Passes) -> Whitening:
    setting, world, density = passes.setting, passes.world, passes.rooms.density
    chosen = spread(len(setting.train), _IMAGES)
    groups = [setting.survey.groups[position] for position in chosen]
    share = world.share(len(chosen))
    samples = Samples(density.size)
    passes.tell("whitening", len(share))
    position = share.start
    with world.together("whitening"):
        indices = [chosen[index] for index in share]
        for encoded in passes.encode(setting.train, indices):
            samples.put(*samples.pick(encoded.features, encoded.valid), position)
            position += len(encoded.features)
    gathered = samples.gathered(world, density.channels)
    return world.once(partial(gathered.whitening, density.channels, groups), "the whitening")
