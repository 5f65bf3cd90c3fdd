"""TIFF: photometric x bits x byte order x sample format x planar x compression."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_files import pack, tiff_file

from fastalign.data import Depth, load_image, load_mask
from fastalign.errors import InputError

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8


def basic(width, height, bits, photometric, samples=1, **more):
    return {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * samples),
        259: ("H", [1]),
        262: ("H", [photometric]),
        277: ("H", [samples]),
        278: ("I", [height]),
        **{int(code[1:]): value for code, value in more.items()},
    }


def upper(values, bits):
    """8 bits of samples, by real numbers: the nearest for fewer bits, the upper ones for more."""
    top = 2**bits - 1
    return np.floor(values / (top + 1) * 256 if bits > 8 else values / top * 255 + 0.5).astype(int)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_grey(tmp_path, photometric, bits, order):
    top = 2**bits - 1
    values = np.random.default_rng(0).integers(0, top + 1, (5, 7))
    values[0, :2] = 0, top
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_file(basic(7, 5, bits, photometric), [pack(values, bits, order)], order))
    white = upper(values, bits)
    expected = 255 - white if photometric == WHITE_IS_ZERO else white
    assert load_image(path)[..., 2].tolist() == expected.tolist()
    black = top if photometric == WHITE_IS_ZERO else 0
    assert load_mask(path).tolist() == (values != black).tolist()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("planar", [1, 2])
def test_colour(tmp_path, planar, bits, order):
    values = np.random.default_rng(0).integers(0, 2**bits, (5, 7, 3))
    values[0, 0] = 2**bits - 1
    if planar == 1:
        strips = [pack(values.reshape(5, 21), bits, order)]
    else:
        strips = [pack(values[..., plane], bits, order) for plane in range(3)]
    tags = basic(7, 5, bits, RGB, 3, t284=("H", [planar]))
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_file(tags, strips, order))
    assert load_image(path).tolist() == upper(values, bits).tolist()


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        ("packbits", False),
        *[(c, p) for c in ("lzw", "zlib", "zstd", "lzma") for p in (False, True)],
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("colour", [False, True])
def test_compressions(tmp_path, compression, dtype, predictor, colour):
    shape = (20, 16, 3) if colour else (20, 16)
    values = np.random.default_rng(0).random(shape)
    values.flat[0] = 1
    if dtype != np.float32:
        values = np.rint(values * np.iinfo(dtype).max)
    values = values.astype(dtype)
    path = tmp_path / "x.tif"
    tifffile.imwrite(
        path,
        values,
        compression=compression,
        predictor=predictor,
        tile=(16, 16),
        photometric="rgb" if colour else "minisblack",
    )
    if dtype == np.float32:
        expected = np.rint(values * 255)
    else:
        expected = upper(values, 8 * values.dtype.itemsize)
    loaded = load_image(path)
    assert np.array_equal(loaded if colour else loaded[..., 0], expected)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw", None])
def test_bilevel_fax(tmp_path, compression):
    bits = np.random.default_rng(0).random((16, 24)) < 0.3
    Image.fromarray(bits).save(tmp_path / "x.tif", compression=compression)
    assert np.array_equal(load_image(tmp_path / "x.tif")[..., 0], bits * 255)
    assert np.array_equal(load_mask(tmp_path / "x.tif"), bits)


@pytest.mark.parametrize("wide", [False, True])
def test_palette(tmp_path, wide):
    """Colours of 16 bits, and of 8 where a writer has mistaken that."""
    colours = [[0, 10, 200, 255], [0, 20, 100, 255], [0, 30, 50, 255]]
    flat = [value * (257 if wide else 1) for channel in colours for value in channel]
    values = np.arange(4)[None].repeat(2, 0)
    tags = basic(4, 2, 2, PALETTE, t320=("H", flat))
    (tmp_path / "x.tif").write_bytes(tiff_file(tags, [pack(values, 2)]))
    assert load_image(tmp_path / "x.tif")[1].tolist() == np.array(colours).T.tolist()
    assert load_mask(tmp_path / "x.tif")[0].tolist() == [False, True, True, True]


def test_cmyk(tmp_path):
    values = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 255, 0, 51]]], np.uint8)
    tags = basic(4, 1, 8, CMYK, 4)
    (tmp_path / "x.tif").write_bytes(tiff_file(tags, [values.tobytes()]))
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [204, 0, 204]]
    assert load_image(tmp_path / "x.tif")[0].tolist() == expected


def test_ycbcr_without_jpeg(tmp_path):
    """ITU-R BT.601: red is Y 76, Cb 85, Cr 255."""
    values = np.tile(np.array([76, 85, 255], np.uint8), (2, 2, 1))
    values[1] = 128
    tags = basic(2, 2, 8, YCBCR, 3, t530=("H", [1, 1]))
    (tmp_path / "x.tif").write_bytes(tiff_file(tags, [values.tobytes()]))
    loaded = load_image(tmp_path / "x.tif").astype(int)
    assert np.abs(loaded[0] - [254, 0, 0]).max() <= 2 and np.abs(loaded[1] - 128).max() <= 1


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_fourth_channel(tmp_path, kind):
    """0 nothing stated, 1 values are multiplied by alpha already, 2 they are not."""
    values = np.array([[[200, 100, 50, 255], [200, 100, 50, 51]]], np.uint8)
    tags = basic(2, 1, 8, RGB, 4, t338=("H", [kind]))
    (tmp_path / "x.tif").write_bytes(tiff_file(tags, [values.tobytes()]))
    second = [40, 20, 10] if kind == 2 else [200, 100, 50]
    assert load_image(tmp_path / "x.tif")[0].tolist() == [[200, 100, 50], second]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (basic(2, 1, 8, CIELAB, 3), "CIE L"),
        (basic(2, 1, 8, 32803), "raw Bayer mosaic.*from_camera"),
        (basic(2, 1, 8, 9999), "photometric interpretation 9999"),
        (basic(2, 1, 16, CMYK, 4), "inks other than 8-bit CMYK"),
        (basic(2, 1, 8, BLACK_IS_ZERO, 5), "5 channels"),
        (basic(2, 1, 8, RGB, 6), "6 channels"),
        (basic(2, 1, 16, WHITE_IS_ZERO, t339=("H", [2])), "0 is white.*int16"),
        (basic(2, 1, 32, WHITE_IS_ZERO, t339=("H", [3])), "0 is white.*float32"),
        (basic(2, 1, 24, BLACK_IS_ZERO), "24 bits per sample"),
        (basic(2, 1, 16, YCBCR, 3), "YCbCr colours of 16 bits"),
        (basic(2, 1, 8, YCBCR, 3, t259=("H", [34712])), "YCbCr colours compressed as JPEG2000"),
        (basic(2, 1, 8, RGB, 3, t258=("H", [5, 6, 5])), "5-6-5 bits"),
        (basic(2, 1, 8, BLACK_IS_ZERO, t259=("H", [34676])), "COMPRESSION.*not supported"),
        (basic(2, 1, 64, BLACK_IS_ZERO, t339=("H", [6])), "complex numbers"),
        ({**basic(2, 1, 8, 0), 262: None}, "does not state whether 0 is black"),
        (basic(2, 1, 8, BLACK_IS_ZERO, t254=("I", [1])), "first directory is a reduced picture"),
    ],
)
def test_kinds_that_are_refused_by_name(tmp_path, tags, reason):
    samples, bits = tags[277][1][0], tags[258][1][0]
    tags = {code: value for code, value in tags.items() if value is not None}
    (tmp_path / "x.tif").write_bytes(tiff_file(tags, [bytes(2 * samples * bits // 8)]))
    for load in (load_image, load_mask):
        with pytest.raises(InputError, match=rf"x\.tif: .*{reason}") as caught:
            load(tmp_path / "x.tif")
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_signed_samples(tmp_path, dtype):
    values = np.array([[-3, 0, 5]], dtype)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack")
    with pytest.raises(InputError, match=r"x\.tif: signed samples \(int.*from -3 to 5"):
        load_image(tmp_path / "x.tif")
    assert load_mask(tmp_path / "x.tif").tolist() == [[True, False, True]]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_wide_integers_that_fit_into_sixteen_bits(tmp_path, dtype):
    values = np.array([[0, 4095, 65535]], dtype)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack")
    assert load_image(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 15, 255]
    assert load_image(tmp_path / "x.tif", depth=Depth(16))[0, :, 0].tolist() == [0, 15, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_orientation_of_deep_files(tmp_path, orientation, shape):
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    tag = [(274, "H", 1, orientation, True)]
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric=photometric, extratags=tag)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray((values >> 8).astype(np.uint8)).save(tmp_path / "flat.png", exif=exif)
    flat = load_image(tmp_path / "flat.png")
    assert np.array_equal(load_image(tmp_path / "deep.tif"), flat)


def test_reduced_copies_behind_the_picture_are_no_pages(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(values)
        file.write(values[::2, ::2], subfiletype=1)
    assert np.array_equal(load_image(tmp_path / "x.tif")[..., 0], values)


@pytest.mark.parametrize("below", [False, True], ids=["directory", "SubIFD"])
@pytest.mark.parametrize("flag", [0, 1])
def test_a_picture_that_is_larger_than_the_first(tmp_path, below, flag):
    values = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(values[::2, ::2], subifds=int(below))
        file.write(values, subfiletype=flag)
    with pytest.raises(InputError, match=r"x\.tif: .*4 x 4 pixels and a further one has more"):
        load_image(tmp_path / "x.tif")


def test_a_whole_picture_in_a_subifd(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.zeros((8, 8), np.uint8), subifds=1)
        file.write(np.ones((8, 8), np.uint8))
    with pytest.raises(InputError, match=r"x\.tif: .*2 pictures"):
        load_image(tmp_path / "x.tif")


def test_white_is_zero_of_32_bits(tmp_path):
    white = np.full((4, 4), 2**32 - 1, np.uint32)
    white[1, 1] = 0
    tifffile.imwrite(tmp_path / "x.tif", white, photometric="miniswhite")
    for load in (load_image, load_mask):
        with pytest.raises(InputError, match=r"x\.tif: .*0 is white"):
            load(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("black", "stated"), [(65535, None), (4095, 4095), (4095, None), (255, None)]
)
def test_a_mask_whose_white_is_zero(tmp_path, black, stated):
    """Nothing but the file's own black is good; without any the mask would be all defect."""
    values = np.full((4, 4), black, np.uint16)
    values[1, 1] = 0
    tags = [(281, "H", 1, stated, True)] if stated else []
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="miniswhite", extratags=tags)
    if stated or black == 65535:
        assert load_mask(tmp_path / "x.tif").sum() == 1
        return
    with pytest.raises(InputError, match=rf"x\.tif: .*black would be 65535.*{black}"):
        load_mask(tmp_path / "x.tif")


def test_an_imagej_stack_in_one_directory(tmp_path):
    stack = np.zeros((3, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True)
    with pytest.raises(InputError, match=r"x\.tif: .*3 pictures"):
        load_image(tmp_path / "x.tif")


def test_strips_that_were_never_written(tmp_path):
    """A writer that died leaves zeros where strips should be named, and they are not black."""
    tags = basic(2, 4, 8, BLACK_IS_ZERO, t278=("I", [2]))
    data = tiff_file(tags, [b"abcd", b""])
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.tif: the image is damaged .*1 of 2 strips"):
        load_image(tmp_path / "x.tif")
