"""Files whose damage the decoder conceals, and healthy ones that look odd."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from fastalign.data import load_image
from fastalign.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8).repeat(2, 0).repeat(2, 1)


def encoded(kind, pixels=PIXELS, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


JPEG, PNG = encoded("JPEG"), encoded("PNG")


def read(tmp_path, data, name="x.jpg"):
    path = tmp_path / name
    path.write_bytes(data)
    return load_image(path)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_jpeg_that_ends_early_with_an_end_marker(tmp_path, share, options):
    data = encoded("JPEG", **options)
    with pytest.raises(InputError, match=r"x\.jpg: the image is damaged.*data end before"):
        read(tmp_path, data[: int(share * len(data))] + b"\xff\xd9")


def test_a_grey_jpeg_that_ends_early(tmp_path):
    data = encoded("JPEG", PIXELS[..., 0])
    with pytest.raises(InputError, match="data end before"):
        read(tmp_path, data[: len(data) // 2] + b"\xff\xd9")


def test_data_lost_in_the_middle(tmp_path):
    with pytest.raises(InputError, match="data end before"):
        read(tmp_path, JPEG[:3000] + JPEG[4000:])


@pytest.mark.parametrize("first", [JPEG, encoded("JPEG", progressive=True), PNG])
@pytest.mark.parametrize("gap", [b"", b"\0\0\0"])
@pytest.mark.parametrize("second", [JPEG, PNG])
def test_two_pictures_in_one_file(tmp_path, first, gap, second):
    with pytest.raises(InputError, match=r"x\.jpg: .*another picture follows the first"):
        read(tmp_path, first + gap + second)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_changed_bit_of_png(tmp_path, place):
    start = PNG.index(b"IDAT") + 4
    data = bytearray(PNG)
    data[start + int(place * (len(PNG) - start - 20))] ^= 4
    with pytest.raises(InputError, match=r"x\.png"):
        read(tmp_path, bytes(data), "x.png")


def _with_segment(data, marker, body):
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


HEALTHY = {
    "zeros behind it": JPEG + b"\0" * 512,
    "a trailer": JPEG + b"\x00\x00QDIOBS" + b"text" * 20,
    "Samsung's trailer": JPEG + JPEG + b"SEFH\0\0\0\0SEFT",
    "a picture listed in its index": _with_segment(JPEG, 0xE2, b"MPF\0" + b"II*\0") + JPEG,
    "a gain map": _with_segment(JPEG, 0xE1, b"http://ns xmlns hdrgm:Version") + JPEG,
    "a film": JPEG + b"\0\0\0\x18ftypmp42" + bytes(99),
    "a thumbnail": _with_segment(JPEG, 0xE1, b"Exif\0\0" + JPEG[:2000]),
    "filling before a marker": JPEG[:2] + b"\xff\xff" + JPEG[2:],
    "progressive": encoded("JPEG", progressive=True),
    "restarts": encoded("JPEG", restart_marker_blocks=3),
    "smooth and of the grey of missing data": encoded("JPEG", np.full((40, 40, 3), 128, np.uint8)),
    "grey at its end": encoded("JPEG", np.vstack([PIXELS, np.full_like(PIXELS[:32], 128)])),
}


@pytest.mark.filterwarnings("ignore:.*every pixel has the same value")
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_files_are_read(tmp_path, name):
    assert read(tmp_path, HEALTHY[name]).ndim == 3


def test_a_wrong_checksum_of_what_says_nothing_of_the_pixels(tmp_path):
    text = b"tEXtComment\0good"
    chunk = (len(text) - 4).to_bytes(4, "big") + text + (zlib.crc32(text) ^ 1).to_bytes(4, "big")
    end = PNG.rindex(b"IEND") - 4
    assert np.array_equal(read(tmp_path, PNG[:end] + chunk + PNG[end:], "x.png"), PIXELS)
