from __future__ import annotations

import os
import struct
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, features

from fastalign.data import IMAGE_SUFFIXES, load_image, load_mask
from fastalign.data.decode import MAX_PIXELS, decode, size_of
from fastalign.errors import ConfigError, DataWarning, InputError, LargeFileError

CODECS = {".webp": "webp", ".jp2": "jpg_2000", ".j2k": "jpg_2000", ".avif": "avif"}


@pytest.fixture
def picture(rng):
    """uint8 [9,13,3], different in every pixel and along both axes."""
    return rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def smooth():
    """uint8 [16,24,3], which lossy formats keep to a few levels."""
    rows, columns = np.mgrid[:16, :24]
    return np.stack([rows * 8 + 40, columns * 6 + 40, 200 - rows * 4], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".heic", ".heif", ".hif"}))
def test_every_ending_is_read(tmp_path, suffix):
    if suffix in CODECS and not features.check(CODECS[suffix]):
        pytest.skip(f"this Pillow was built without {CODECS[suffix]}")
    path = tmp_path / f"image{suffix}"
    image = Image.fromarray(smooth())
    bilevel = suffix == ".pbm"
    grey = suffix == ".pgm"
    kind = {".mpo": "JPEG", ".dib": "DIB"}.get(suffix)
    (image.convert("1" if bilevel else "L") if bilevel or grey else image).save(path, kind)
    loaded = load_image(path)
    assert loaded.shape == (16, 24, 3) and loaded.dtype == np.uint8 and loaded.flags.writeable
    if not bilevel:
        expected = np.asarray(image.convert("L").convert("RGB")) if grey else smooth()
        assert np.abs(loaded.astype(int) - expected).mean() < 6


def test_the_content_decides_not_the_ending(tmp_path, picture):
    path = tmp_path / "really_a.jpg"
    Image.fromarray(picture).save(path, "PNG")
    assert np.array_equal(load_image(str(path)), picture)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    upright = smooth()
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x{suffix}"
    options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif, **options)
    loaded = load_image(path)
    assert loaded.shape == upright.shape
    assert np.abs(loaded.astype(int) - upright).max() <= (12 if suffix == ".jpg" else 0)


def test_grey_palette_and_bilevel(tmp_path, picture):
    grey = Image.fromarray(picture).convert("L")
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(load_image(tmp_path / "grey.png"), np.asarray(grey.convert("RGB")))
    palette = Image.fromarray(picture).quantize(16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(load_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    bilevel = grey.point(lambda value: 255 * (value > 127)).convert("1")
    bilevel.save(tmp_path / "bilevel.png")
    assert np.array_equal(load_image(tmp_path / "bilevel.png"), np.asarray(bilevel.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_transparent_pixels_are_black(tmp_path, picture, suffix):
    alpha = np.full((9, 13, 1), 255, np.uint8)
    alpha[2:5] = 0
    path = tmp_path / f"x{suffix}"
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(path, **options)
    assert np.array_equal(load_image(path), np.where(alpha > 0, picture, 0))


def test_half_transparent_grey_and_transparent_colours(tmp_path):
    values = np.full((4, 4, 2), 200, np.uint8)
    values[..., 1] = 128
    Image.fromarray(values, "LA").save(tmp_path / "la.png")
    assert np.abs(load_image(tmp_path / "la.png").astype(int) - 100).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=0)
    assert load_image(tmp_path / "p.png").tolist() == [[[0, 0, 0], [40, 50, 60]]]
    key = Image.fromarray(np.array([[[9, 9, 9], [7, 8, 9]]], np.uint8))
    key.save(tmp_path / "key.png", transparency=(9, 9, 9))
    assert load_image(tmp_path / "key.png").tolist() == [[[0, 0, 0], [7, 8, 9]]]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path, suffix):
    image = Image.fromarray(smooth()).convert("CMYK")
    path = tmp_path / f"x{suffix}"
    image.save(path)
    assert np.abs(load_image(path).astype(int) - smooth()).max() <= 16


DEEP = np.array([[0, 255, 256, 4095], [4096, 32768, 65279, 65535]], np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(DEEP).save(path)
    loaded = load_image(path)
    assert loaded[..., 0].tolist() == (DEEP >> 8).tolist()
    assert (loaded == loaded[..., :1]).all()


def test_sixteen_bits_of_either_byte_order(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for order in "<>":
        tifffile.imwrite(tmp_path / "x.tif", DEEP, byteorder=order)
        assert load_image(tmp_path / "x.tif")[..., 0].tolist() == (DEEP >> 8).tolist()


def test_sixteen_bit_colours_follow_the_same_rule(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    deep = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=2)
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb")
    assert np.array_equal(load_image(tmp_path / "x.tif"), (deep >> 8).astype(np.uint8))


def test_sixteen_bits_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP).save(tmp_path / "x.tif", exif=exif)
    assert load_image(tmp_path / "x.tif")[..., 0].tolist() == np.rot90(DEEP >> 8, -1).tolist()


def test_floating_point(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(path)
    assert load_image(path)[0, :, 1].tolist() == [0, 128, 255]
    for bad in (2.0, -0.1):
        Image.fromarray(np.array([[0, bad]], np.float32)).save(path)
        with pytest.raises(InputError, match=r"x\.tif: floating-point images must lie in 0\.\.1"):
            load_image(path)


def test_an_array_stays_what_was_read_when_its_file_is_cut_short(tmp_path):
    path, values = tmp_path / "x.npy", np.arange(1, 97, dtype=np.uint8).reshape(8, 12)
    np.save(path, values)
    picture = decode(path, "image")
    os.truncate(path, 64)
    assert np.array_equal(picture.values, values)
    np.save(path, values)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"x\.npy: "):
        load_image(path)


@pytest.mark.parametrize("suffix", [".tif", ".pfm", ".npy"])
def test_pixels_that_are_no_numbers_are_counted(tmp_path, suffix):
    values = np.array([[0, np.nan, 1], [np.inf, -np.inf, 0]], np.float32)
    path = tmp_path / f"x{suffix}"
    np.save(path, values) if suffix == ".npy" else Image.fromarray(values).save(path)
    for load in (load_image, load_mask):
        with pytest.raises(InputError, match=r"x\..*: 3 of 6 pixels are NaN or infinite; replace"):
            load(path)
    colours = np.zeros((2, 2, 3), np.float32)
    colours[0, 1] = np.nan
    np.save(tmp_path / "x.npy", colours)
    with pytest.raises(InputError, match=r"1 of 4 pixels"):
        load_image(tmp_path / "x.npy")


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3)])
def test_arrays_in_files(tmp_path, dtype, shape):
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    values *= np.array({np.uint8: 255, np.uint16: 65535}.get(dtype, 1), dtype)
    np.save(tmp_path / "x.npy", values)
    expected = (
        (values > 0) * np.ones((1, 1, 3)) if values.ndim == 3 else np.stack([values > 0] * 3, 2)
    )
    assert np.array_equal(load_image(tmp_path / "x.npy"), expected * 255)


def test_arrays_that_are_no_images(tmp_path):
    for values in (np.zeros(4), np.zeros((2, 2, 5)), np.zeros((2, 2), complex)):
        np.save(tmp_path / "x.npy", values)
        with pytest.raises(InputError, match=r"x\.npy: .*its array has the (shape|type)"):
            load_image(tmp_path / "x.npy")


def test_integers_without_a_known_range(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif: grey values from 0 to 70000.*8 or 16 bits"):
        load_image(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("suffix", "value"),
    [(".png", 0), (".tif", 0), (".bmp", 0), (".tga", 0), (".png", 1), (".tif", 1)],
)
def test_a_fourth_channel_of_one_value_is_no_alpha(tmp_path, picture, suffix, value):
    clear = np.concatenate([picture, np.full((9, 13, 1), value, np.uint8)], axis=2)
    path = tmp_path / f"x{suffix}"
    if suffix == ".bmp":
        path.write_bytes(bitmap_with_alpha(clear))
    else:
        Image.fromarray(clear).save(path)
    assert np.array_equal(load_image(path), picture)
    assert np.array_equal(load_mask(path), picture.any(axis=2))


def test_alpha_of_zeros_and_ones(tmp_path, picture):
    alpha = np.ones((9, 13, 1), np.uint8)
    alpha[2:5] = 0
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(tmp_path / "x.png")
    assert np.array_equal(load_image(tmp_path / "x.png"), picture * alpha)


@pytest.mark.parametrize(
    "header", [b"P4 8 2\n", b"P5 2 1 255\n", b"P5 1 1 4095\n", b"P6 1 1\n255\n"]
)
def test_netpbm_files_of_several_pictures(tmp_path, header):
    size = 3 if header[1:2] == b"6" else 2
    one = header + bytes(range(1, 1 + size))
    (tmp_path / "x.pnm").write_bytes(one + b"\n")
    load_mask(tmp_path / "x.pnm")
    (tmp_path / "x.pnm").write_bytes(one + one)
    with pytest.raises(InputError, match=r"x\.pnm: .*several pictures"):
        load_mask(tmp_path / "x.pnm")


def bitmap_with_alpha(pixels):
    """A BMP of 32 bits per pixel that names a mask for alpha, as some cameras write it."""
    height, width, _ = pixels.shape
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    size = 14 + 108 + 4 * width * height
    about = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, 0, 0, 0, 0, 0)
    head = b"BM" + struct.pack("<IHHI", size, 0, 0, 14 + 108) + about + masks + bytes(52)
    return head + np.ascontiguousarray(pixels[..., [2, 1, 0, 3]]).tobytes()


@pytest.mark.parametrize("value", [0, 255, (10, 20, 30)])
def test_an_image_of_one_value_is_reported(tmp_path, value):
    pixels = np.full((5, 7, 3), value, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with pytest.warns(DataWarning, match=r"x\.png: every pixel has the same value"):
        load_image(tmp_path / "x.png")
    pixels[4, 6] ^= 1
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png", ".webp", ".mpo"])
def test_several_frames_are_refused(tmp_path, picture, suffix):
    second = Image.fromarray(picture[::-1].copy())
    path = tmp_path / f"x{suffix}"
    Image.fromarray(picture).save(path, save_all=True, append_images=[second])
    for load in (load_image, load_mask):
        with pytest.raises(InputError, match=r"x\..*it holds 2 pictures \((pages|frames)\).*save"):
            load(path)


def test_a_preview_in_a_photograph_is_no_frame(tmp_path, picture):
    small = Image.fromarray(picture[:4, :4].copy())
    Image.fromarray(picture).save(tmp_path / "x.mpo", save_all=True, append_images=[small])
    assert load_image(tmp_path / "x.mpo").shape == (9, 13, 3)


@pytest.mark.parametrize("encode", ["jpeg_encode", "ljpeg_encode"])
def test_an_intact_file_of_a_kind_that_is_not_read(tmp_path, encode):
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16)
    (tmp_path / "x.jpg").write_bytes(getattr(imagecodecs, encode)(deep, bitspersample=12))
    with pytest.raises(InputError, match=r"x\.jpg.*of a kind that is not read .*12-bit") as caught:
        load_image(tmp_path / "x.jpg")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n12", "PAM"),
        (b"\xff\xd8\xff\xf7\x00\x0b\x08\x00\x02\x00\x02\x01\x01\x11\x00", "JPEG-LS"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    ],
)
def test_other_formats_are_named(tmp_path, head, kind):
    (tmp_path / "x.png").write_bytes(head)
    with pytest.raises(InputError, match=rf"x\.png: .*of a kind that is not read \(.*{kind}"):
        load_image(tmp_path / "x.png")


HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(64)


def test_a_file_larger_than_the_memory_names_itself(tmp_path, picture, monkeypatch):
    def no_room(*_):
        raise MemoryError

    monkeypatch.setattr("fastalign.data.decode.to_picture", no_room)
    Image.fromarray(picture).save(tmp_path / "x.png")
    with pytest.raises(LargeFileError, match=r"x\.png: there is not enough memory"):
        load_image(tmp_path / "x.png")


def test_a_telephones_picture_names_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(HEIC)
    with pytest.raises(InputError, match=r"x\.heic.*HEIF/HEIC.*pip install pillow-heif"):
        load_image(tmp_path / "x.heic")


def test_a_telephones_picture(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.from_pillow(Image.fromarray(smooth())).save(tmp_path / "x.heic", quality=95)
    assert np.abs(load_image(tmp_path / "x.heic").astype(int) - smooth()).mean() < 6


def damaged(tmp_path, name):
    path = tmp_path / name
    whole = tmp_path / f"whole{path.suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    data = whole.read_bytes()
    whole.unlink()
    return path, data


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp", ".gif"])
@pytest.mark.parametrize("part", [0.9, 0.5])
def test_a_truncated_file(tmp_path, suffix, part):
    path, data = damaged(tmp_path, f"x{suffix}")
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=rf"x\{suffix}: .*(truncated|damaged).*--skip-bad"):
        load_image(path)


def test_a_truncated_jpeg_says_so(tmp_path):
    path, data = damaged(tmp_path, "x.jpg")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"x\.jpg: the image is truncated.*replace it"):
        load_image(path)


def test_a_png_with_a_broken_checksum(tmp_path):
    path, data = damaged(tmp_path, "x.png")
    path.write_bytes(data[:60] + bytes([data[60] ^ 255]) + data[61:])
    with pytest.raises(InputError, match=r"x\.png: the image is (damaged|truncated)"):
        load_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not an image\n", "this is a text file in the place of the image"),
        (bytes(range(256)), "this is no image of a format that can be read"),
        (b"\x89PNG\r\n\x1a\n", "this is no image|the image is damaged"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, reason):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.png: ({reason}).*replace it.*--skip-bad"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif", ".jpg", ".bmp"])
def test_noise_in_a_file_gives_an_image_or_our_error(tmp_path, suffix, seed):
    path, data = damaged(tmp_path, f"x{suffix}")
    rng = np.random.default_rng(seed)
    content = bytearray(data)
    for place in rng.integers(0, min(200, len(content)), 6):
        content[place] = rng.integers(0, 256)
    path.write_bytes(bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert load_image(path).dtype == np.uint8
        except InputError as error:
            assert path.name in str(error)


def test_missing_folder_and_forbidden_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"x\.png: there is no such image"):
        load_image(tmp_path / "x.png")
    with pytest.raises(InputError, match="this is a folder"):
        load_image(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"x\.png: permission denied; make the image readable"):
        load_image(tmp_path / "x.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read anything")
def test_a_file_without_permission(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(InputError, match=r"x\.png: permission denied"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_the_limit_of_pixels_is_an_option(tmp_path, picture, monkeypatch, suffix):
    path = tmp_path / f"x{suffix}"
    np.save(path, picture) if suffix == ".npy" else Image.fromarray(picture).save(path)
    monkeypatch.setenv("FASTALIGN_MAX_PIXELS", "116")
    with pytest.raises(InputError, match=r"x\..*13 x 9 pixels.*FASTALIGN_MAX_PIXELS=117"):
        load_image(path)
    monkeypatch.setenv("FASTALIGN_MAX_PIXELS", "117")
    # Pillow's own limit, a global that warns without the file's name, is not asked.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_image(path), picture)
    monkeypatch.setenv("FASTALIGN_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="FASTALIGN_MAX_PIXELS='many'"):
        load_image(path)


def test_line_scan_images_are_within_the_limit():
    assert 8192 * 24000 <= MAX_PIXELS


def test_the_size_of_a_file_is_known_from_its_head(tmp_path):
    image = Image.fromarray(np.zeros((5, 7, 3), np.uint8))
    for name in ("a.jpg", "a.png", "a.bmp", "a.tiff"):
        image.save(tmp_path / name)
    np.save(tmp_path / "a.npy", np.zeros((5, 7), np.uint8))
    for path in tmp_path.iterdir():
        assert size_of(path) == (5, 7)
    (tmp_path / "text.png").write_text("no image")
    assert size_of(tmp_path / "text.png") is None and size_of(tmp_path / "missing.png") is None
    assert size_of(tmp_path) is None
