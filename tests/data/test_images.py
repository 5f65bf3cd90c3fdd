from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from PIL import Image, features

from fastalign.data import IMAGE_SUFFIXES, load_image
from fastalign.errors import DataWarning, InputError

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


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
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


def test_twelve_bits_stated_by_the_file(tmp_path):
    """A TIFF that packs two 12-bit samples into three bytes."""
    values = [0, 15, 16, 4095]
    packed = b"".join(
        ((first << 12) | second).to_bytes(3, "big")
        for first, second in zip(values[::2], values[1::2], strict=True)
    )
    tags = [
        (256, 4, 4),
        (257, 4, 1),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 0),
        (277, 3, 1),
        (278, 4, 1),
        (279, 4, len(packed)),
    ]
    offset = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + (offset if tag == 273 else value).to_bytes(4, "little")
        for tag, kind, value in tags
    )
    head = b"II*\x00" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little")
    (tmp_path / "x.tif").write_bytes(head + entries + bytes(4) + packed)
    assert load_image(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 0, 1, 255]


def test_twelve_bits_not_stated_are_warned_about(tmp_path):
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(tmp_path / "x.png")
    with pytest.warns(DataWarning, match="values below 4096 only.*multiplied by 16"):
        assert load_image(tmp_path / "x.png").max() == 15
    Image.fromarray(DEEP).save(tmp_path / "y.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(tmp_path / "y.png")


def test_floating_point(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(path)
    assert load_image(path)[0, :, 1].tolist() == [0, 128, 255]
    for bad in (2.0, -0.1, np.nan, np.inf):
        Image.fromarray(np.array([[0, bad]], np.float32)).save(path)
        with pytest.raises(InputError, match=r"x\.tif: floating-point images must lie in 0\.\.1"):
            load_image(path)


def test_integers_without_a_known_range(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif: grey values from 0 to 70000.*8 or 16 bits"):
        load_image(tmp_path / "x.tif")


def test_colours_that_cannot_be_converted(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).convert("LAB").save(tmp_path / "x.tif")

    def refuse(*args, **kwargs):
        raise ValueError("conversion from LAB to RGB not supported")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(InputError, match=r"x\.tif: files of colour mode LAB.*convert it to RGB"):
        load_image(tmp_path / "x.tif")


def test_the_first_of_several_frames(tmp_path, picture):
    second = Image.fromarray(picture[::-1].copy())
    Image.fromarray(picture).save(tmp_path / "x.tif", save_all=True, append_images=[second])
    assert np.array_equal(load_image(tmp_path / "x.tif"), picture)


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
        (b"\x89PNG\r\n\x1a\n", "this is no image|damaged"),
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


def test_an_image_too_large_to_be_true(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(InputError, match=r"x\.png: .*cut the image into tiles"):
        load_image(tmp_path / "x.png")
