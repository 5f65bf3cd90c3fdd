"""Camera buffers against bit layouts written out here, and OpenCV where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from fastalign.data import from_camera, prepare
from fastalign.errors import ConfigError, InputError

# The first two pixels of the first row, and the name by which OpenCV knows the mosaic: by the
# second and third pixel of the second row.
OPENCV = {"RG": "BG", "GR": "GB", "GB": "GR", "BG": "RG"}


def stream(samples, bits):
    """The packing of the names in p: lowest bit first, without a gap."""
    text = "".join(f"{value:0{bits}b}"[::-1] for value in samples.ravel())
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8))


def pairs(samples, bits):
    """GigE Vision: the upper 8 bits of two samples around a byte of what is left of them."""
    low = bits - 8
    data = b""
    for first, second in samples.reshape(-1, 2).tolist():
        rest = (first & ((1 << low) - 1)) | ((second & ((1 << low) - 1)) << 4)
        data += bytes([first >> low, rest, second >> low])
    return data


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_unpacked_grey(rng, bits):
    samples = rng.integers(0, 2**bits, (5, 6)).astype("<u2" if bits > 8 else np.uint8)
    upper = np.repeat((samples >> (bits - 8))[..., None], 3, axis=2)
    for buffer in (samples.tobytes(), samples, samples.reshape(-1).view(np.uint8)):
        assert np.array_equal(from_camera(buffer, f"Mono{bits}", (5, 6)), upper)
    if bits > 8:
        # An array knows its own byte order.
        assert np.array_equal(from_camera(samples.astype(">u2"), f"Mono{bits}", (5, 6)), upper)


@pytest.mark.parametrize(
    ("name", "bits", "pack"),
    [
        ("Mono10p", 10, stream),
        ("Mono12p", 12, stream),
        ("Mono14p", 14, stream),
        ("Mono10Packed", 10, pairs),
        ("Mono12Packed", 12, pairs),
    ],
)
@pytest.mark.parametrize("width", [4, 6, 5])
def test_packed_grey(rng, name, bits, pack, width):
    samples = rng.integers(0, 2**bits, (4, width))
    image = from_camera(pack(samples, bits), name, (4, width))
    assert np.array_equal(image[..., 1], samples >> (bits - 8))
    if (width * bits) % 8 == 0 and width % 2 == 0:
        needed = len(pack(samples[:1], bits))
        padded = b"".join(pack(row, bits) + b"\xff" * 7 for row in samples)
        again = from_camera(padded, name, (4, width), row_bytes=needed + 7)
        assert np.array_equal(again, image)


@pytest.mark.parametrize("name", ["Mono12p", "Mono12Packed"])
def test_the_bytes_of_two_samples(name):
    """0xABC and 0x123, as the naming convention and GigE Vision draw them."""
    data = {"Mono12p": b"\xbc\x3a\x12", "Mono12Packed": b"\xab\x3c\x12"}[name]
    assert from_camera(data, name, (1, 2))[0, :, 0].tolist() == [0xAB, 0x12]


@pytest.mark.parametrize("pattern", ["RG", "GR", "GB", "BG"])
def test_a_mosaic_of_one_colour(pattern):
    """Every pattern gives back the colour from which the mosaic was taken."""
    colour = {"R": 200, "G": 100, "B": 50}
    first, second = pattern
    third, fourth = {"RG": "GB", "GR": "BG", "GB": "RG", "BG": "GR"}[pattern]
    tile = np.array([[colour[first], colour[second]], [colour[third], colour[fourth]]], np.uint8)
    image = from_camera(np.tile(tile, (3, 4)), f"Bayer{pattern}8", (6, 8))
    assert (image == [200, 100, 50]).all()
    twelve = (np.tile(tile, (3, 4)).astype(np.uint16) << 4) | 15
    for buffer, name in (
        (twelve, "12"),
        (stream(twelve, 12), "12p"),
        (pairs(twelve, 12), "12Packed"),
    ):
        assert np.array_equal(from_camera(buffer, f"Bayer{pattern}{name}", (6, 8)), image)


@pytest.mark.parametrize("pattern", OPENCV)
def test_mosaics_against_opencv(rng, pattern):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    mosaic = rng.integers(0, 256, (12, 14), np.uint8)
    theirs = cv2.cvtColor(mosaic, getattr(cv2, f"COLOR_Bayer{OPENCV[pattern]}2RGB"))
    ours = from_camera(mosaic, f"Bayer{pattern}8", (12, 14))
    # At the border OpenCV repeats its neighbours.
    assert np.array_equal(ours[1:-1, 1:-1], theirs[1:-1, 1:-1])


@pytest.mark.parametrize(
    ("name", "theirs", "pack"),
    [
        ("Mono10p", "Mono10p", stream),
        ("Mono12p", "Mono12p", stream),
        ("Mono12Packed", "Mono12packed", pairs),
        ("BayerRG12p", "BayerRG12p", stream),
        ("BayerGR12p", "BayerGR12p", stream),
        ("BayerGB12Packed", "BayerGB12Packed", pairs),
        ("BayerBG12Packed", "BayerBG12Packed", pairs),
    ],
)
def test_packed_samples_against_pylon(rng, name, theirs, pack):
    pylon = pytest.importorskip("pypylon.pylon", reason="pypylon is not installed")
    bits, mosaic = (10 if "10" in name else 12), name.startswith("Bayer")
    # Its interpolation is another one, which a mosaic of one colour does not show.
    tile = rng.integers(0, 2**bits, (2, 2) if mosaic else (16, 64))
    samples = np.tile(tile, (8, 32) if mosaic else (1, 1))
    data = pack(samples, bits)
    image, convert = pylon.PylonImage(), pylon.ImageFormatConverter()
    image.AttachBytesObject(data, getattr(pylon, f"PixelType_{theirs}"), 64, 16, 0)
    convert.OutputPixelFormat = pylon.PixelType_RGB8packed
    expected = convert.Convert(image).GetArray()
    # The two greens of a tile are not alike, and it takes one of them.
    inside = np.s_[2:-2, 2:-2, [0, 2] if mosaic else slice(None)]
    assert np.array_equal(from_camera(data, name, (16, 64))[inside], expected[inside])


def test_colours(rng):
    pixels = rng.integers(0, 256, (3, 4, 4), np.uint8)
    rgb = pixels[..., :3]
    assert np.array_equal(from_camera(rgb.tobytes(), "RGB8", (3, 4)), rgb)
    assert np.array_equal(from_camera(rgb[..., ::-1].tobytes(), "BGR8", (3, 4)), rgb)
    assert np.array_equal(from_camera(pixels.tobytes(), "RGBa8", (3, 4)), rgb)
    swapped = pixels[..., [2, 1, 0, 3]]
    assert np.array_equal(from_camera(swapped.tobytes(), "BGRA8Packed", (3, 4)), rgb)
    deep = (rgb.astype("<u2") << 4) | 9
    assert np.array_equal(from_camera(deep.tobytes(), "RGB12", (3, 4)), rgb)
    assert np.array_equal(from_camera(deep[..., ::-1], "BGR12", (3, 4)), rgb)
    assert np.array_equal(from_camera(deep, "RGB12Packed", (3, 4)), rgb)
    assert np.array_equal(from_camera(stream(deep, 12), "RGB12p", (3, 4)), rgb)


@pytest.mark.parametrize(
    ("name", "order"),
    [("YUV422_8", "yuyv"), ("YCbCr422_8", "yuyv"), ("YUV422_8_UYVY", "uyvy")],
)
def test_luma_and_chroma(name, order):
    """Red, green and grey of ITU-R BT.601 over the full range, two pixels each."""
    colours = [(76, 85, 255), (150, 44, 21), (128, 128, 128)]
    data = b"".join(bytes((y, u, y, v) if order == "yuyv" else (u, y, v, y)) for y, u, v in colours)
    image = from_camera(data, name, (1, 6))[0].astype(int)
    expected = np.repeat([[255, 0, 0], [0, 255, 0], [128, 128, 128]], 2, axis=0)
    assert np.abs(image - expected).max() <= 2


@pytest.mark.parametrize(
    ("buffer", "name", "shape", "error", "reason"),
    [
        (bytes(6), "Mono9", (2, 3), ConfigError, "'Mono9' is not known"),
        (bytes(6), "Mono8p", (2, 3), ConfigError, "'Mono8p' is not known"),
        (bytes(5), "Mono8", (2, 3), InputError, "5 bytes, but 6 are needed"),
        (bytes(8), "Mono12p", (2, 3), InputError, "8 bytes, but 9 are needed"),
        (np.full((2, 3), 4096, np.uint16), "Mono12", (2, 3), InputError, "up to 4096.*4095"),
        (np.zeros((2, 3), np.uint16), "Mono12p", (2, 3), InputError, "expected bytes"),
        (np.zeros((3, 3), np.uint16), "Mono12", (2, 3), InputError, r"\[3, 3\] has not the 2 rows"),
        (np.zeros((3, 2), np.uint8), "Mono8", (2, 3), InputError, r"\[3, 2\] has not the 2 rows"),
        (np.zeros((2, 4), np.uint16), "Mono12", (2, 3), InputError, r"\[2, 4\] is not \[2, 3\]"),
        (np.zeros((2, 3), np.float32), "Mono8", (2, 3), InputError, "float32"),
        (bytes(6), "Mono8", (0, 3), ConfigError, "shape"),
        (bytes(6), "Mono8", 6, ConfigError, "shape"),
        (bytes(6), "BayerRG8", (1, 6), ConfigError, "2 x 2"),
        (bytes(6), "YUV422_8", (1, 3), ConfigError, "odd"),
    ],
)
def test_what_cannot_be(buffer, name, shape, error, reason):
    with pytest.raises(error, match=reason):
        from_camera(buffer, name, shape)


def test_rows_shorter_than_needed():
    with pytest.raises(ConfigError, match="5 bytes per row are fewer than the 6"):
        from_camera(bytes(100), "Mono8", (2, 6), row_bytes=5)


def test_on_to_the_model(rng):
    buffer = rng.integers(0, 256, (8, 8), np.uint8)
    assert prepare(from_camera(buffer, "BayerGB8", (8, 8)), (4, 4)).shape == (3, 4, 4)


def test_rows_of_an_array_are_its_own():
    frame = np.arange(40, dtype=np.uint8).reshape(4, 10)
    for buffer in (frame, memoryview(frame)):
        assert np.array_equal(from_camera(buffer, "Mono8", (4, 7))[..., 0], frame[:, :7])


@pytest.mark.parametrize(
    ("pixel_format", "bits"), [("Mono8", 16), ("Mono10p", 16), ("Mono8", 12), ("BayerRG8", 24)]
)
def test_the_size_of_another_format_is_no_surplus(pixel_format, bits):
    frame = bytes(64 * 48 * bits // 8)
    with pytest.raises(InputError, match=f"those of {bits} bits per pixel"):
        from_camera(frame, pixel_format, (48, 64))
    assert from_camera(frame + b"chunk", "Mono8", (48, 64)).shape == (48, 64, 3)


def test_samples_that_are_words_are_no_bytes():
    with pytest.raises(InputError, match="uint16"):
        from_camera(memoryview(np.zeros((4, 6), np.uint16)), "Mono8", (4, 6))


@pytest.mark.parametrize(
    ("pixel_format", "shape"), [(17301505, (4, 6)), ("Mono8", (float("nan"), 6))]
)
def test_a_format_is_a_name_and_a_shape_is_finite(pixel_format, shape):
    with pytest.raises(ConfigError, match="give"):
        from_camera(bytes(24), pixel_format, shape)
