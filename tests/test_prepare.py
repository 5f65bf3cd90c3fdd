"""The way of a photograph into an exported model is that into the library's own, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fastalign.data import Depth, load_image, prepare
from fastalign.errors import ArtifactError, InputError
from fastalign.prepare import photograph


def contract(size, dtype="float32", **other):
    inside = {"dtype": dtype, "shape": ["batch", 3, *size]}
    return {"format": "fastalign-export", "version": 1, "input": inside, **other}


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


# Smaller, larger, one of each, by whole numbers and not, and as they are.
@pytest.mark.parametrize("size", [(256, 256), (80, 112), (37, 700), (200, 152), (400, 304), (3, 5)])
def test_it_is_what_the_library_prepares(demo_data, size):
    path = next((demo_data / "test" / "good").iterdir())
    wanted = prepare(load_image(path), size)[None].numpy()
    found = photograph(path, json.dumps(contract(size)))
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted)
    pixels = photograph(path, contract(size, "uint8"))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.rint(wanted * 255))


def test_the_depth_is_that_of_the_training_images(tmp_path):
    # 12 bits in the lower end of 16, as a camera's own software saves them.
    values = (noise(20, 30).astype(np.uint16) << 4) + 7
    Image.fromarray(values).save(tmp_path / "deep.png")
    about = contract((20, 30), "uint8")
    about["input"]["depth"] = Depth(12, source="23 files").record()
    np.testing.assert_array_equal(photograph(tmp_path / "deep.png", about)[0, 0], values >> 4)
    about["input"]["depth"] = Depth(8, source="23 files").record()
    with pytest.raises(InputError, match=r"deep\.png: uses values up to"):
        photograph(tmp_path / "deep.png", about)


def test_deep_grey_photographs_are_not_cut_off(tmp_path):
    values = (noise(20, 30).astype(np.uint16) << 8) + 77
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = photograph(tmp_path / "deep.png", contract((20, 30), "uint8"))
    np.testing.assert_array_equal(found[0, 0], values >> 8)


def test_deep_photographs_are_read_by_the_depth_of_the_model(tmp_path):
    values = (noise(20, 30).astype(np.uint16) << 4) + 7
    values[0, 0] = 4095
    Image.fromarray(values).save(tmp_path / "deep.png")
    about = contract((20, 30), "uint8")
    about["input"]["depth"] = Depth(12).record()
    found = photograph(tmp_path / "deep.png", json.dumps(about))
    np.testing.assert_array_equal(found[0, 0], values >> 4)


def test_pixels_are_taken_as_they_are():
    image = noise(40, 30, 3)
    image.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = photograph(image[:, ::-1], contract((11, 13)))
        wanted = prepare(image[:, ::-1], (11, 13))
        prepare(image, (40, 30))
    assert torch.equal(torch.from_numpy(found[0]), wanted)


@pytest.mark.parametrize("about", [{}, "no json", "[1]", contract((4, 4), format="other")])
def test_a_foreign_contract(about):
    with pytest.raises(ArtifactError, match="no contract of a file that fastalign export wrote"):
        photograph(noise(4, 4, 3), about)


def test_a_later_contract():
    with pytest.raises(ArtifactError, match=r"version 9.*knows 1; update fastalign"):
        photograph(noise(4, 4, 3), contract((4, 4), version=9))


def test_torch_is_not_needed(tmp_path):
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.tif")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from fastalign.prepare import photograph\n"
        f"print(photograph({str(tmp_path / 'a.tif')!r}, {json.dumps(contract((4, 5)))!r}).shape)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 3, 4, 5)", done.stderr
