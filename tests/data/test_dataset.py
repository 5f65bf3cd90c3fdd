from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fastalign.data import (
    Batch,
    ImageDataset,
    Item,
    Sample,
    collect,
    dataset,
    iterate_batches,
    load_image,
    prepare,
)
from fastalign.errors import ConfigError, DataWarning, InputError

SIZE = (5, 7)


def antialiased(image, size):
    """Triangle filter of the reduced pixel's width, by its definition, in float64."""

    def weights(old, new):
        scale = max(old / new, 1.0)
        centres = (np.arange(new) + 0.5) * old / new
        table = 1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / scale
        table = table.clip(0)
        return table / table.sum(axis=1, keepdims=True)

    rows, columns = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    return np.einsum("yh,hwc,xw->cyx", rows, image.astype(np.float64), columns) / 255


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((40, 30), (7, 9)),
        ((40, 30), (40, 11)),
        ((5, 4), (12, 13)),
        ((1, 1), (3, 2)),
        ((9, 9), (1, 1)),
    ],
)
def test_prepare_is_bilinear_with_antialiasing(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    tensor = prepare(image, new)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, *new) and tensor.is_contiguous()
    # Two passes, each rounded to 8 bits.
    assert np.abs(tensor.numpy() - antialiased(image, new)).max() <= 1.01 / 255


def test_prepare_at_the_own_size_is_exact_and_leaves_the_image_alone():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    before = image.copy()
    tensor = prepare(image, (4, 5))
    assert torch.equal(tensor, torch.from_numpy(before).permute(2, 0, 1) / 255)
    tensor.zero_()
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        (np.zeros((4, 4), np.uint8), "stack"),
        (np.zeros((4, 4, 4), np.uint8), ""),
        (np.zeros((3, 4, 4), np.uint8), "transpose"),
        (np.zeros((4, 4, 3), np.float32), "image \\* 255"),
        (np.full((4, 4, 3), 200.0), "rint\\(image\\)"),
        (np.full((4, 4, 3), np.nan), "48 of its 48 values are NaN"),
        (np.zeros((4, 4, 3), np.uint16), "bits - 8"),
        (np.zeros((0, 4, 3), np.uint8), ""),
    ],
)
def test_prepare_refuses_other_arrays(image, remedy):
    with pytest.raises(ValueError, match=rf"expected uint8 \[H, W, 3\], got .*{remedy}"):
        prepare(image, SIZE)


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_prepare_refuses_tensors(image):
    with pytest.raises(ValueError, match=r"expected a numpy array.*got Tensor.*permute"):
        prepare(image, SIZE)


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, 4, 4), 4, (4.5, 4)])
def test_sizes_are_checked(size):
    with pytest.raises(ConfigError, match="image size"):
        prepare(np.zeros((4, 4, 3), np.uint8), size)
    with pytest.raises(ConfigError, match="image size"):
        ImageDataset([Sample(Path("x"), 0, "good")], size)


@pytest.fixture
def samples(tmp_path):
    """Nine images of different sizes."""
    rng = np.random.default_rng(0)
    result = []
    for index in range(9):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (6 + index, 20 - index, 3), np.uint8)).save(path)
        result.append(Sample(path, 0, "good"))
    return result


def test_items(samples):
    data = ImageDataset(samples, SIZE)
    assert len(data) == 9
    item = data[4]
    assert isinstance(item, Item) and item.position == 4
    assert torch.equal(item.image, prepare(load_image(samples[4].path), SIZE))
    assert data[-1].position == 8
    for index in (9, -10):
        with pytest.raises(IndexError, match="9 images"):
            data[index]


def test_the_usual_loader_takes_it(samples):
    batches = list(DataLoader(ImageDataset(samples, SIZE), batch_size=4))
    assert [tuple(batch.image.shape) for batch in batches] == [(4, 3, 5, 7)] * 2 + [(1, 3, 5, 7)]
    assert torch.cat([batch.position for batch in batches]).tolist() == list(range(9))


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_batches_come_in_order(samples, workers):
    data = ImageDataset(samples, SIZE)
    batches = list(iterate_batches(data, 4, workers=workers))
    assert all(isinstance(batch, Batch) for batch in batches)
    assert [batch.positions.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, torch.stack([data[i].image for i in range(9)]))
    assert torch.equal(collect(data, workers=workers), images)


def test_batches_in_a_chosen_order(samples):
    order = [5, 0, 5, 8]
    data = ImageDataset(samples, SIZE)
    batches = list(iterate_batches(data, 3, indices=order))
    assert torch.cat([batch.positions for batch in batches]).tolist() == order
    assert torch.equal(batches[0].images[0], batches[0].images[2])
    assert list(iterate_batches(data, 3, indices=[])) == []


def test_leaving_the_loop_stops_the_threads(samples):
    batches = iterate_batches(ImageDataset(samples, SIZE), 2, workers=2)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("fastalign-read")]


def test_reading_ahead_is_bounded(samples, monkeypatch):
    read = []
    load = dataset.load_image
    monkeypatch.setattr(dataset, "load_image", lambda path, **_: read.append(path) or load(path))
    batches = iterate_batches(ImageDataset(samples, SIZE), 2, workers=1, ahead=1)
    next(batches)
    batches.close()
    # Two of the batch, two ahead, and the one whose turn the second result made.
    assert len(read) <= 5


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"workers": -1}, "workers -1"),
        ({"ahead": 0}, "ahead 0"),
    ],
)
def test_options_are_checked_at_the_call(samples, options, name):
    with pytest.raises(ConfigError, match=name):
        iterate_batches(ImageDataset(samples, SIZE), **{"batch_size": 1, **options})


def spoil(samples, *indices):
    for index in indices:
        samples[index].path.write_bytes(b"no image")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_raises_at_its_turn(samples, workers):
    spoil(samples, 5)
    data = ImageDataset(samples, SIZE)
    batches = iterate_batches(data, 3, workers=workers)
    assert next(batches).positions.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"5\.png: this is a text file"):
        next(batches)


@pytest.mark.parametrize("cache", [False, True])
def test_bad_files_are_left_out_on_request(samples, cache):
    good = collect(ImageDataset(samples, SIZE))
    spoil(samples, 0, 5)
    with pytest.warns(
        DataWarning, match=r"2 of 9 images left out as unreadable; the first: .*0\.png"
    ) as caught:
        data = ImageDataset(samples, SIZE, skip_bad=True, cache=cache)
    assert len(caught) == 1
    assert [path.name for path, _ in data.skipped] == ["0.png", "5.png"]
    assert all("text file" in reason for _, reason in data.skipped)
    assert [sample.path.name for sample in data.samples] == [
        f"{i}.png" for i in (1, 2, 3, 4, 6, 7, 8)
    ]
    assert torch.equal(collect(data), good[[1, 2, 3, 4, 6, 7, 8]])


def test_nothing_to_skip_is_silent(samples):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ImageDataset(samples, SIZE, skip_bad=True).skipped == []


def test_nothing_left_and_nothing_given(samples):
    spoil(samples, *range(9))
    with pytest.raises(InputError, match=r"none of the 9 images could be read; .*0\.png"):
        ImageDataset(samples, SIZE, skip_bad=True)
    with pytest.raises(InputError, match="at least one sample"):
        ImageDataset([], SIZE)


def test_the_cache_reads_every_file_once(samples, monkeypatch):
    read = []
    load = dataset.load_image
    monkeypatch.setattr(dataset, "load_image", lambda path, **_: read.append(path) or load(path))
    data = ImageDataset(samples, SIZE, cache=True)
    first, second = collect(data), collect(data)
    assert len(read) == 9 and torch.equal(first, second)
    first.zero_()
    data[0].image.zero_()
    assert torch.equal(collect(data), second)


def test_one_image_is_enough(samples):
    assert collect(ImageDataset(samples[:1], SIZE)).shape == (1, 3, 5, 7)
