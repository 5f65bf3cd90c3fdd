"""Copies, files encoded again and frames of a burst are found; photographs of one part are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastalign.data import ImageDataset, glance, group_twins, list_images, load_image, prepare
from fastalign.data.samples import GOOD, Sample
from fastalign.data.split import split_validation
from fastalign.data.twins import pictures

SIZE = (96, 128)


@pytest.fixture(scope="module")
def photographs(demo_data) -> list[np.ndarray]:
    return [load_image(path) for path in list_images(demo_data / "train" / "good")[:10]]


def look(images: list[np.ndarray]) -> Tensor:
    return glance(torch.stack([prepare(image, SIZE) for image in images]))


def encoded(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def frame(image: np.ndarray, seed: int, noise: float = 3.0, gain: float = 1.0) -> np.ndarray:
    moved = gain * image + np.random.default_rng(seed).normal(0, noise, image.shape)
    return moved.round().clip(0, 255).astype(np.uint8)


def smaller(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width // 2, height // 2)))


CHANGES = {
    "copied": lambda image: image,
    "encoded again": lambda image: encoded(image, 60),
    "a frame later": lambda image: frame(image, 1),
    "a brighter frame": lambda image: frame(image, 2, gain=1.03),
    "at half the size": smaller,
}


@pytest.mark.parametrize("change", CHANGES)
def test_twins_are_found_among_photographs_of_one_part(photographs, change):
    twins = [CHANGES[change](image) for image in photographs[:3]]
    assert group_twins(look([*photographs, *twins])) == [*range(10), 0, 1, 2]


def test_photographs_of_one_part_are_no_twins(photographs):
    assert group_twins(look(photographs)) == list(range(10))


def test_a_camera_that_never_moves_makes_no_twins_but_copies_are(photographs):
    """All photographs are as close to each other as twins elsewhere; the noise is the spread."""
    still = [frame(photographs[0], seed) for seed in range(8)]
    assert group_twins(look(still)) == list(range(8))
    assert group_twins(look([*still, *still])) == [*range(8), *range(8)]


@pytest.mark.parametrize("parts", [2, 5])
def test_bursts_are_groups(photographs, parts):
    burst = [frame(image, seed) for image in photographs[:parts] for seed in range(6)]
    assert group_twins(look(burst)) == [part for part in range(parts) for _ in range(6)]


@pytest.mark.parametrize("others", [1, 2, 4])
@pytest.mark.parametrize("frames", [12, 30])
def test_a_burst_that_is_nearly_the_whole_set_is_a_group(photographs, frames, others):
    burst = [frame(photographs[0], seed) for seed in range(frames)]
    found = group_twins(look([*burst, *photographs[1 : 1 + others]]))
    assert found == [0] * frames + list(range(1, 1 + others))
    found = group_twins(look([*photographs[1 : 1 + others], *burst]))
    assert found == [*range(others), *[others] * frames]


def test_a_slow_drift_does_not_join_what_is_far_apart():
    """Each picture is close to the next, and the first is not close to the last."""
    steps = torch.linspace(0, 1, 200)[:, None]
    ends = torch.randn(2, 257, generator=torch.Generator().manual_seed(0))
    groups = group_twins((1 - steps) * ends[0] + steps * ends[1])
    assert 10 < len(set(groups)) < 100 and groups == sorted(groups)


def test_brightness_and_contrast_do_not_count_and_one_grey_is_like_another(photographs):
    small = pictures(look(photographs[:2]))
    torch.testing.assert_close(small.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(small.std(1, unbiased=False), torch.ones(2))
    grey = [np.full((8, 8, 3), value, np.uint8) for value in (0, 130)]
    assert group_twins(look([*grey, *photographs[:2]])) == [0, 0, 1, 2]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_images(number, photographs):
    empty = torch.empty(0, 257)
    assert group_twins(look(photographs[:number]) if number else empty) == list(range(number))


def test_a_split_keeps_twins_together_and_is_that_of_one_image_of_each_group(tmp_path):
    once = [Sample(tmp_path / f"{index:02d}.png", GOOD, "good") for index in range(20)]
    copies = [Sample(tmp_path / f"{index:02d}_copy.png", GOOD, "good") for index in range(20)]
    numbers = [*range(100, 120)] * 2
    train, validation = split_validation([*once, *copies], 0.2, 3, numbers)
    expected = split_validation(once, 0.2, 3)
    for part, single in zip((train, validation), expected, strict=True):
        assert [sample.path for sample in part if "copy" not in sample.path.name] == [
            sample.path for sample in single
        ]
        assert len(part) == 2 * len(single)


def test_a_data_set_looks_once_and_its_parts_know_what_was_seen(tiny_category):
    samples = [Sample(path, GOOD, "good") for path in list_images(tiny_category / "train" / "good")]
    dataset = ImageDataset(samples, (32, 40))
    seen = []
    whole = dataset.glances(lambda: seen.append(1))
    assert len(seen) == len(samples) and dataset.unseen == 0
    expected = glance(torch.stack([dataset[index].image for index in range(len(dataset))]))
    torch.testing.assert_close(whole, expected, rtol=0, atol=0)
    part = dataset.subset([4, 1])
    assert part.unseen == 0 and torch.equal(part.glances(), whole[[4, 1]])
    assert [sample.path for sample in part.samples] == [samples[4].path, samples[1].path]
    assert torch.equal(part[0].image, dataset[4].image)
