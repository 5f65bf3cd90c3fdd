"""Bits of 16-bit samples: stated by the file, else settled for the set, never by one image."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_files import pack, tiff_file

from fastalign.data import Depth, load_image, parse_depth, settle_depth
from fastalign.data.bits import alignment
from fastalign.errors import ConfigError, DataWarning, InputError

RAMP = np.linspace(0, 1, 48).reshape(4, 12)


def picture(bits, left=False, colour=False, bright=1.0):
    """A ramp over the whole range, right- or left-aligned in 16 bits."""
    values = np.floor(RAMP * bright * (2**bits - 1)).astype(np.uint16)
    values = values << (16 - bits) if left else values
    return np.stack([values, values[::-1], values[:, ::-1]], axis=2) if colour else values


def save(path, values, **tags):
    if path.suffix == ".tif":
        photometric = "rgb" if values.ndim == 3 else "minisblack"
        tifffile.imwrite(path, values, photometric=photometric, **tags)
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        path.write_bytes(png(values, **tags))
    return path


def png(values, sbit=None):
    """A PNG of 16 bits per sample, with a chunk of significant bits if these are given."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    rows = values.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 * (channels == 3), 0, 0, 0))]
    if sbit is not None:
        chunks.append((b"sBIT", bytes([sbit] * channels if isinstance(sbit, int) else sbit)))
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def expected(colour):
    """What any depth gives: the ramp at 8 bits, up to one level."""
    values = picture(16, colour=colour) >> 8
    return values if colour else np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_set_shows_its_depth(tmp_path, bits, left, suffix, colour):
    full = save(tmp_path / f"a{suffix}", picture(bits, left, colour))
    dark = save(tmp_path / f"b{suffix}", picture(bits, left, colour, bright=0.3))
    depth = settle_depth([dark, full])
    assert (depth.bits, depth.left) == (bits, left and bits < 16)
    assert "2 files that state no depth" in depth.describe()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path, share in ((full, 1.0), (dark, 0.3)):
            upper = picture(bits, False, colour, share) >> (bits - 8)
            loaded = load_image(path, depth=depth)
            assert np.array_equal(loaded if colour else loaded[..., 0], upper)
    assert Depth.from_record(depth.record()) == depth


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_without_a_set_a_dark_file_is_warned_about(tmp_path, bits, colour):
    path = save(tmp_path / "x.png", picture(bits, colour=colour))
    factor = 2 ** (16 - bits)
    with pytest.warns(DataWarning, match=rf"use {bits} bits only.* {factor} times.*multiplied by"):
        loaded = load_image(path)
    assert np.array_equal(loaded.max(), (2**bits - 1) >> 8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [0, 4095, 65535])
def test_a_fourth_channel_of_deep_colours(tmp_path, suffix, alpha):
    """Empty, opaque at the depth of the colours, opaque."""
    values = picture(12, colour=True)
    with_alpha = np.concatenate([values, np.full((4, 12, 1), alpha, np.uint16)], axis=2)
    path = tmp_path / f"x{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, with_alpha, photometric="rgb", extrasamples=["unassalpha"])
    else:
        path.write_bytes(pytest.importorskip("imagecodecs").png_encode(with_alpha))
    assert np.array_equal(load_image(path, depth=Depth(12)), values >> 4)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_significant_bits_of_png(tmp_path, bits, scaled):
    """The format has them scaled up to 16 bits; some writers leave the samples as they are."""
    path = save(tmp_path / "x.png", picture(bits, left=scaled), sbit=bits)
    depth = settle_depth([path])
    assert (depth.bits, depth.left) == (bits, scaled)
    for known in (None, depth):
        assert np.abs(load_image(path, depth=known) - expected(False).astype(int)).max() <= 1


def test_of_colours_with_different_significant_bits_the_most_count(tmp_path):
    path = save(tmp_path / "x.png", picture(12, colour=True), sbit=(8, 12, 10))
    assert settle_depth([path]).bits == 12
    path = save(tmp_path / "y.png", picture(10), sbit=(10, 16, 16))  # grey: one byte counts
    assert settle_depth([path]).bits == 10


@pytest.mark.parametrize("tag", [281, 341])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_the_largest_sample_of_tiff(tmp_path, bits, tag):
    values = picture(bits, bright=0.5)
    tags = [(tag, "H", 1, 2**bits - 1, True)]
    path = save(tmp_path / "x.tif", values, extratags=tags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_image(path)[..., 0], values >> (bits - 8))
    assert settle_depth([path]).bits == bits
    wrong = save(tmp_path / "y.tif", picture(16), extratags=tags)
    with pytest.raises(InputError, match=rf"y\.tif: states {bits} bits.*up to 65535"):
        load_image(wrong)


def test_significant_bits_of_ome_tiff(tmp_path):
    values = picture(12, bright=0.5)
    tifffile.imwrite(tmp_path / "x.ome.tif", values, metadata={"SignificantBits": 12})
    assert np.array_equal(load_image(tmp_path / "x.ome.tif")[..., 0], values >> 4)


@pytest.mark.parametrize("maxval", [255, 1000, 1023, 4095, 16383])
@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
def test_the_largest_value_of_pnm(tmp_path, kind, maxval):
    values = np.floor(RAMP * maxval).astype(int)
    samples = np.repeat(values, 3, axis=1) if kind in (b"P3", b"P6") else values
    head = kind + b"\n# made by hand\n12 4\n%d\n" % maxval
    if kind in (b"P2", b"P3"):
        body = "\n".join(" ".join(map(str, row)) for row in samples).encode()
    else:
        body = samples.astype(">u2" if maxval > 255 else "u1").tobytes()
    (tmp_path / "x.pnm").write_bytes(head + body)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(tmp_path / "x.pnm")
    assert np.abs(loaded[..., 1] - 255 * values / maxval).max() <= 1
    assert loaded.max() == 255 and (loaded == loaded[..., :1]).all()


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_2000(tmp_path, bits, colour):
    imagecodecs = pytest.importorskip("imagecodecs")
    values = np.kron(picture(bits, colour=colour), np.ones((8, 8) + (1,) * colour, np.uint16))
    options = {"reversible": True, "level": 0, "bitspersample": bits}
    (tmp_path / "x.jp2").write_bytes(imagecodecs.jpeg2k_encode(values, **options))
    loaded = load_image(tmp_path / "x.jp2", depth=settle_depth([tmp_path / "x.jp2"]))
    shown = loaded if colour else loaded[..., 0]
    assert np.abs(shown.astype(int) - (values >> (bits - 8))).max() <= 1


def test_a_later_image_is_read_by_the_depth_of_the_set(tmp_path):
    depth = settle_depth([save(tmp_path / "a.tif", picture(12))])
    dim = save(tmp_path / "b.tif", picture(12, bright=0.3))
    assert load_image(dim, depth=depth).max() == int(0.3 * 4095) >> 4


def test_a_later_image_that_contradicts_the_set(tmp_path):
    depth = settle_depth([save(tmp_path / "a.tif", picture(12))])
    deeper = save(tmp_path / "b.tif", picture(14))
    with pytest.raises(InputError, match=r"b\.tif: uses values up to 16383.*--bit-depth 14"):
        load_image(deeper, depth=depth)
    assert load_image(deeper, depth=parse_depth("14")).max() == 255
    flatter = save(tmp_path / "c.tif", picture(8))
    with pytest.raises(InputError, match=r"c\.tif: uses values up to 255 only.*--bit-depth 8"):
        load_image(flatter, depth=depth)
    with pytest.warns(DataWarning, match=r"d\.tif: uses values up to 1023 only"):
        load_image(save(tmp_path / "d.tif", picture(10)), depth=depth)


def test_a_deep_image_after_flat_photographs(tmp_path):
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "a.png")
    depth = settle_depth([tmp_path / "a.png"])
    assert depth.bits is None
    assert load_image(save(tmp_path / "b.tif", picture(16)), depth=depth).max() == 255
    with pytest.raises(InputError, match=r"c\.tif: a 16-bit file .*8 bits; .*--bit-depth 12"):
        load_image(save(tmp_path / "c.tif", picture(12)), depth=depth)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_an_option_goes_before_what_a_file_claims(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", picture(10))
    assert load_image(path, depth=parse_depth("10")).max() == 255
    wrong = save(tmp_path / "y.png", picture(10), sbit=14)
    assert load_image(wrong, depth=parse_depth("10")).max() == 255


@pytest.mark.parametrize("text", ["", "7", "17", "twelve", "12-up", "auto-left", "-12", "1e1"])
def test_values_of_the_option(text):
    with pytest.raises(ConfigError, match="--bit-depth .*use auto"):
        parse_depth(text)


def test_the_option_in_words():
    assert parse_depth("auto") is None
    assert parse_depth("12").describe() == "12 bits of 16, right-aligned (given)"
    assert parse_depth("12-left").used_bits == 16 and parse_depth(" 12-RIGHT ").used_bits == 12


@pytest.mark.parametrize(
    ("used", "found"),
    [
        (0xFFF, (12, False)),
        (0xFFF0, (12, True)),
        (0x3FF0, (12, True)),
        (0xFF0, (12, False)),
        (0x80, (8, False)),
        (0xFFFE, (16, False)),
        (0xFFFC, (14, True)),
        (0, (16, False)),
    ],
)
def test_alignment_by_the_bits_in_use(used, found):
    assert alignment(used) == found


def test_white_is_zero_is_negative_at_the_depth_of_the_set(tmp_path):
    tags = {256: ("I", [12]), 257: ("I", [4]), 258: ("H", [16]), 259: ("H", [1]), 262: ("H", [0])}
    tags |= {277: ("H", [1]), 278: ("I", [4])}
    (tmp_path / "x.tif").write_bytes(tiff_file(tags, [pack(picture(12), 16)]))
    depth = settle_depth([tmp_path / "x.tif"])
    assert depth.bits == 12
    loaded = load_image(tmp_path / "x.tif", depth=depth)
    assert loaded[..., 0].tolist() == (255 - (picture(12) >> 4)).tolist()


def test_bad_files_are_left_to_their_reader(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"II*\0" + bytes(20))
    good = save(tmp_path / "y.tif", picture(12))
    assert settle_depth([tmp_path / "x.tif", tmp_path / "missing.png", good]).bits == 12


def test_a_dark_picture_of_a_set_of_scaled_samples(tmp_path):
    """Its values would fit 12 bits as well; the others have shown how samples are placed."""
    bright = np.rint(picture(12) * (65535 / 4095)).astype(np.uint16)
    paths = [tmp_path / "bright.png", tmp_path / "dark.png"]
    paths[0].write_bytes(png(bright, 12))
    paths[1].write_bytes(png(np.rint(picture(12) // 32 * (65535 / 4095)).astype(np.uint16), 12))
    depth = settle_depth(paths)
    assert load_image(paths[1], depth=depth).max() <= load_image(paths[0], depth=depth).max() // 31


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_dark_file_at_the_other_end_of_its_bits_is_refused(tmp_path, bits, suffix):
    """Dark enough to fit both ways, and told by its lowest bits."""
    depths = {}
    for left in (False, True):
        paths = [
            save(tmp_path / f"{left}{bright}{suffix}", picture(bits, left, bright=bright))
            for bright in (1.0, 0.9)
        ]
        depths[left] = settle_depth(paths)
    dark = save(tmp_path / f"left{suffix}", picture(bits, True, bright=0.9 / 2 ** (16 - bits)))
    told = rf"lowest .* bits are 0 .* {2 ** (16 - bits)} times too bright .*--bit-depth {bits}-left"
    if bits == 10:  # too few values are left to tell
        dark = save(tmp_path / f"left{suffix}", picture(bits, True, bright=0.5))
        told = "uses values up to .*but the depth"
    with pytest.raises(InputError, match=told):
        load_image(dark, depth=depths[False])
    right = save(tmp_path / f"right{suffix}", picture(bits, bright=1.0))
    told = rf"lowest .* bits set.* {2 ** (16 - bits)} times too dark|uses values up to .*too dark"
    told += "|is dark"
    with pytest.raises(InputError, match=told):
        load_image(right, depth=depths[True])
    # A user's word stands.
    assert load_image(dark, depth=Depth(bits, left=True)).max() < 128
    assert load_image(right, depth=Depth(bits)).max() == 255


def test_bits_that_the_set_itself_leaves_free_say_nothing(tmp_path):
    """8-bit values stored in 12: the lowest four bits are free in every file."""
    paths = [save(tmp_path / f"{b}.tif", picture(8, bright=b) << 4) for b in (1.0, 0.9)]
    depth = settle_depth(paths)
    assert (depth.bits, depth.left, depth.free) == (12, False, 4)
    for path in paths:
        load_image(path, depth=depth)


def test_a_drawing_of_few_values_is_read(tmp_path):
    depth = settle_depth([save(tmp_path / "a.tif", picture(12))])
    drawing = save(
        tmp_path / "b.tif", np.kron([[16, 2048], [1024, 3072]], np.ones((4, 4), "u2")).astype("u2")
    )
    assert load_image(drawing, depth=depth).max() == 192


def test_one_left_aligned_file_in_a_right_aligned_set_is_named(tmp_path):
    paths = [save(tmp_path / f"{i}.tif", picture(12, bright=1 - i / 9)) for i in range(3)]
    odd = save(tmp_path / "odd.tif", picture(12, True, bright=0.05))
    depth = settle_depth([*paths, odd])
    assert (depth.bits, depth.left) == (12, False)
    with pytest.raises(InputError, match=r"odd\.tif: values whose lowest 4 bits"):
        load_image(odd, depth=depth)
