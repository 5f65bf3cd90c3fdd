from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastalign.data import Sample, split_validation
from fastalign.errors import ConfigError, DataWarning, InputError


def samples(count, root="data"):
    return [Sample(Path(root) / "good" / f"{i:03d}.png", 0, "good") for i in range(count)]


def test_the_parts_are_disjoint_and_complete():
    given = samples(50)
    train, validation = split_validation(given, 0.2, seed=0)
    assert (len(train), len(validation)) == (40, 10)
    assert sorted(train + validation, key=lambda s: s.path) == given
    assert train == sorted(train, key=lambda s: s.path)


def test_the_choice_is_fixed_for_all_time():
    """A model fitted again after an update must keep the same images apart."""
    _, validation = split_validation(samples(20), 0.2, seed=3)
    assert [s.path.name for s in validation] == ["004.png", "005.png", "013.png", "015.png"]


def test_it_depends_on_the_seed_only():
    given = samples(30)
    shuffled = random.Random(1).sample(given, len(given))
    first = split_validation(given, 0.3, seed=0)
    assert split_validation(shuffled, 0.3, seed=0) == first
    assert split_validation(given, 0.3, seed=1) != first
    elsewhere = split_validation(samples(30, root="/other/place"), 0.3, seed=0)
    assert [s.path.name for s in elsewhere[1]] == [s.path.name for s in first[1]]


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(3, 0.1, 1), (3, 0.9, 1), (4, 0.1, 1), (4, 0.9, 2), (10, 0.9, 8), (10, 0.0, 0), (1, 0.0, 0)],
)
def test_few_images(count, fraction, expected):
    train, validation = split_validation(samples(count), fraction, seed=0)
    assert (len(train), len(validation)) == (count - expected, expected)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_are_all_trained_on_and_that_is_said(count):
    with pytest.warns(DataWarning, match=f"{count} good images? only: none kept apart"):
        train, validation = split_validation(samples(count), 0.2, seed=0)
    assert (len(train), len(validation)) == (count, 0)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="fraction 1.0: give"):
        split_validation(samples(5), 1.0, seed=0)
    with pytest.raises(ConfigError, match="fraction nan"):
        split_validation(samples(5), float("nan"), seed=0)
    with pytest.raises(InputError, match="no training images"):
        split_validation([], 0.2, seed=0)


@pytest.mark.parametrize("change", [{"label": 1, "split": "train"}, {"label": 0, "split": "test"}])
def test_only_normal_training_images(change):
    given = samples(5) + [Sample(Path("z.png"), defect="", **change)]
    with pytest.raises(InputError, match=r"z\.png.*normal training images only"):
        split_validation(given, 0.2, seed=0)
