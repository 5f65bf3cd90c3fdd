"""Pictures: readable by others, compressed, and no larger than they need to be."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastalign.engine.inputs import Input
from fastalign.engine.pictures import PictureOptions, PictureWriter
from fastalign.engine.scoring import Thresholds
from fastalign.engine.tiff import encode_tiff

LOW, HIGH, ABOUT = 340, 341, 270


def some_map(height=40, width=60):
    return np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (40, 60), (700, 301)])
def test_a_map_as_tiff_is_read_by_others_bit_by_bit(shape, tmp_path):
    scores = some_map(*shape)
    data = encode_tiff(scores, "about")
    picture = opened(data)
    assert picture.mode == "F" and (np.asarray(picture) == scores).all()
    assert picture.tag_v2[LOW] == (scores.min(),) and picture.tag_v2[HIGH] == (scores.max(),)
    assert picture.tag_v2[ABOUT] == "about"
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    assert (tifffile.imread(io.BytesIO(data)) == scores).all()


def test_opencv_reads_the_same(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="opencv-python is not installed")
    scores = some_map()
    (tmp_path / "map.tiff").write_bytes(encode_tiff(scores))
    assert (cv2.imread(str(tmp_path / "map.tiff"), cv2.IMREAD_UNCHANGED) == scores).all()


def test_the_stated_range_is_that_of_the_finite_scores():
    scores = np.array([[np.nan, 1.5], [np.inf, -2.5]], np.float32)
    picture = opened(encode_tiff(scores))
    assert (picture.tag_v2[LOW], picture.tag_v2[HIGH]) == ((-2.5,), (1.5,))
    assert np.array_equal(np.asarray(picture), scores, equal_nan=True)
    nothing = opened(encode_tiff(np.full((2, 2), np.nan, np.float32)))
    assert (nothing.tag_v2[LOW], nothing.tag_v2[HIGH]) == ((0.0,), (0.0,))


def test_smooth_maps_are_compressed():
    y, x = np.mgrid[:300, :400].astype(np.float32)
    assert len(encode_tiff(np.floor(x / 40) + y // 40)) < 300 * 400 * 4 / 20


@pytest.mark.parametrize(
    ("size", "photo", "model", "expected"),
    [
        (None, (40, 60), (32, 48), (40, 60)),
        (None, (3000, 4000), (256, 256), (768, 1024)),
        (None, (4000, 3000), (2048, 512), (2048, 1536)),
        ("full", (3000, 4000), (256, 256), (3000, 4000)),
        (400, (3000, 4000), (256, 256), (300, 400)),
        (400, (30, 40), (256, 256), (30, 40)),
        (16, (1, 4000), (256, 256), (1, 16)),
    ],
)
def test_the_size_of_pictures(size, photo, model, expected):
    assert PictureOptions(size=size).at(photo, model) == expected


def test_files_of_one_image_agree_and_keep_its_frame(tmp_path):
    scored = torch.zeros(32, 48)
    scored[4:12, 30:44] = 3.0
    photo = np.full((320, 480, 3), 120, np.uint8)
    options = PictureOptions(size=120)
    writer = PictureWriter(tmp_path, options, Thresholds(1.0, 1.0))
    item = Input(tmp_path / "x.png", "sub/ä.png", Path("sub/x"))
    files = writer.write(item, photo, scored)
    assert files == {
        "map": "maps/sub/x.tiff",
        "mask": "masks/sub/x.png",
        "overlay": "overlays/sub/x.jpg",
    }
    tiff = Image.open(tmp_path / files["map"])
    scores = np.asarray(tiff)
    mask = np.asarray(Image.open(tmp_path / files["mask"]))
    view = Image.open(tmp_path / "maps/sub/x.png")
    overlay = np.asarray(Image.open(tmp_path / files["overlay"]))
    assert scores.shape == mask.shape == overlay.shape[:2] == view.size[::-1] == (80, 120)
    assert ((scores > 1) == (mask == 255)).all() and (mask == 255).any()
    rows, columns = np.nonzero(mask)
    assert rows.max() < 40 and columns.min() > 60
    # The map as a picture is bright where its scores are high.
    light = np.asarray(view.convert("L")).astype(int)
    assert light[mask == 255].min() > light[scores <= 0].max()
    about = json.loads(tiff.tag_v2[ABOUT])
    assert about["image_size"] == "480 x 320" and about["pixel_threshold"] == 1.0


def test_pictures_that_are_not_asked_for_are_not_written(tmp_path):
    options = PictureOptions(outputs=("overlay",), overlay_format="png")
    writer = PictureWriter(tmp_path, options, Thresholds(None, None))
    item = Input(tmp_path / "x.png", "x.png", Path("x"))
    assert writer.write(item, np.zeros((20, 30, 3), np.uint8), torch.zeros(8, 8)) == {
        "overlay": "overlays/x.png"
    }
    assert [p.name for p in tmp_path.iterdir()] == ["overlays"]
