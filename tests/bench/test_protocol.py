"""Photographs of a category with random poses."""

from __future__ import annotations

import torch

from fastalign.bench.protocol import Jitter, read_category


def test_a_photograph_has_its_pose_whatever_the_split(tiny_category):
    jitter = Jitter(30, 0.1)
    split = read_category(tiny_category, (32, 40), jitter, seed=1, validation=0.3)
    whole = read_category(tiny_category, (32, 40), jitter, seed=1, validation=0.0)
    assert len(split.validation) == 2 and len(whole.validation) == 0
    assert torch.equal(split.test, whole.test)
    parts = torch.cat([split.train, split.validation]).flatten(1)
    assert {tuple(p.tolist()) for p in parts} == {tuple(p.tolist()) for p in whole.train.flatten(1)}
    other = read_category(tiny_category, (32, 40), jitter, seed=2, validation=0.0)
    assert not torch.isclose(other.test, whole.test).all(dim=(1, 2, 3)).any()
