"""Regions of interest from files: masks, labelme's polygons, COCO's form, and what is refused."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from fastalign.errors import InputError
from fastalign.roi import RegionsOfInterest, read_regions

SIZE = (40, 60)  # height, width


def write(tmp_path, document) -> str:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(document))
    return str(path)


def labelme(*shapes, **others):
    document = {"version": "5.4.1", "flags": {}, "imagePath": "aligned.png", "imageData": None}
    return {**document, "shapes": list(shapes), "imageHeight": 40, "imageWidth": 60, **others}


def shape(label, points, kind="polygon", **others):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | (
        others
    )


def coco(*segmentations, names=("seal", "ignore"), **others):
    annotations = [
        {"id": n, "image_id": 7, "category_id": n % 2 + 1, "iscrowd": 0, **segmentation}
        for n, segmentation in enumerate(segmentations)
    ]
    return {
        "images": [{"id": 7, "width": 60, "height": 40, "file_name": "aligned.png"}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
        "annotations": annotations,
        **others,
    }


def box(left, top, width, height):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_the_region_at_a_place_is_that_of_its_pixel_and_beside_the_picture_of_the_nearest():
    labels = np.array([[1, 2], [0, 3]], np.uint8)
    regions = RegionsOfInterest(("a", "b", "c"), labels)
    places = {(0.0, 0.0): "a", (0.49, 0.49): "a", (0.5, 0.0): "b", (0.0, 0.5): None}
    places |= {(1.0, 1.0): "c", (-1.0, -1.0): "a", (2.0, -1.0): "b", (9.0, 9.0): "c"}
    assert {place: regions.name_at(*place) for place in places} == places


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA"])
def test_grey_values_of_a_mask_are_regions(tmp_path, mode):
    values = np.zeros(SIZE, np.uint8)
    values[5:20, 10:30], values[25:35, 40:50] = 7, 200
    image = Image.fromarray(values)
    if mode == "P":
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    elif mode != "L":
        image = image.convert(mode)
    image.save(tmp_path / "mask.png")
    found = read_regions(tmp_path / "mask.png")
    assert found.names == ("region 7", "region 200")
    assert np.array_equal(found.labels == 1, values == 7)
    assert np.array_equal(found.labels == 2, values == 200)
    assert found.shares["region 7"] == pytest.approx(300 / 2400)


def test_a_mask_of_one_bit_and_what_is_transparent(tmp_path):
    Image.fromarray(box(3, 4, 20, 10)).save(tmp_path / "mask.png")
    found = read_regions(tmp_path / "mask.png")
    assert found.names == ("region",) and np.array_equal(found.labels == 1, box(3, 4, 20, 10))
    rgba = np.full((*SIZE, 4), 255, np.uint8)
    rgba[..., 3] = 255 * box(3, 4, 20, 10)
    Image.fromarray(rgba).save(tmp_path / "mask.png")
    assert np.array_equal(read_regions(tmp_path / "mask.png").labels == 1, box(3, 4, 20, 10))


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "given",
    [
        labelme(shape("seal", [[10, 5], [30, 5], [30, 25], [10, 25]])),
        labelme(shape("seal", [[30, 25], [10, 5]], "rectangle")),
        labelme(shape("seal", [[10, 5], [29, 24]], "mask", mask=png(np.full((20, 20), True)))),
        labelme(shape("seal", [[10, 5], [30, 5], [30, 25], [10, 25]], None)),
        coco({"segmentation": [[10, 5, 30, 5, 30, 25, 10, 25]]}),
        coco({"segmentation": [[10, 5, 20, 5, 20, 25, 10, 25], [20, 5, 30, 5, 30, 25, 20, 25]]}),
        coco({"bbox": [10, 5, 20, 20]}),
        coco({"segmentation": {"size": [40, 60], "counts": [405, *[20, 20] * 19, 20, 1215]}}),
    ],
)
def test_polygons_boxes_and_masks_enclose_the_same(tmp_path, given):
    found = read_regions(write(tmp_path, given))
    assert found.names == ("seal",)
    assert np.array_equal(found.at(SIZE).labels == 1, box(10, 5, 20, 20))


def test_one_run_may_be_the_whole_picture(tmp_path):
    given = coco({"segmentation": {"size": [40, 60], "counts": [0, 2400]}})
    assert (read_regions(write(tmp_path, given)).at(SIZE).labels == 1).all()


def test_a_circle(tmp_path):
    given = labelme(shape("bore", [[30, 20], [30, 30]], "circle"))
    found = read_regions(write(tmp_path, given)).at(SIZE)
    assert (found.labels == 1).sum() == pytest.approx(np.pi * 100, rel=0.03)


def test_shapes_of_one_name_are_one_region_later_ones_lie_above_and_ignored_ones_above_all(
    tmp_path,
):
    given = labelme(
        shape("__ignore__", [[10, 10], [20, 20]], "rectangle"),
        shape("body", [[0, 0], [60, 40]], "rectangle"),
        shape("seal", [[0, 0], [30, 40]], "rectangle"),
        shape("body", [[0, 0], [5, 5]], "rectangle"),
    )
    found = read_regions(write(tmp_path, given)).at(SIZE)
    assert found.names == ("body", "seal")
    wanted = np.ones(SIZE, np.uint8)
    wanted[:, :30], wanted[:5, :5], wanted[10:20, 10:20] = 2, 1, 0
    assert np.array_equal(found.labels, wanted)


def test_where_something_is_ignored_alone_the_rest_is_judged(tmp_path):
    found = read_regions(write(tmp_path, labelme(shape("ignore", [[0, 0], [9, 9]], "rectangle"))))
    assert found.names == ("part",)
    assert np.array_equal(found.at(SIZE).labels == 0, box(0, 0, 9, 9))


def test_coordinates_are_scaled_from_the_picture_that_they_were_drawn_on(tmp_path):
    points = [[500, 250], [1500, 1250]]
    large = labelme(shape("seal", points, "rectangle"), imageHeight=2000, imageWidth=3000)
    found = read_regions(write(tmp_path, large)).at(SIZE)
    assert np.array_equal(found.labels == 1, box(10, 5, 20, 20))


def test_a_pixel_has_the_label_that_takes_most_of_it():
    labels = np.zeros((4, 8), np.uint8)
    labels[:, 1:4], labels[:, 4:] = 1, 2
    found = RegionsOfInterest(("a", "b"), labels).at((1, 2))
    assert found.labels.tolist() == [[1, 2]]
    with pytest.raises(InputError, match=r"region 'a'.*image size"):
        RegionsOfInterest(("a", "b"), labels).at((1, 1))


BAD = {
    "nothing": ({}, "neither shapes"),
    "empty": (labelme(), "no polygon"),
    "two points": (labelme(shape("a", [[0, 0], [9, 9]])), "shape 0 .a.: a polygon of 2 points"),
    "a line": (labelme(shape("a", [[0, 0], [9, 9]], "line")), "'line', which encloses nothing"),
    "nameless": (labelme(shape("", [[0, 0], [9, 9]])), "no name"),
    "words": (labelme(shape("a", "none")), "points"),
    "infinite": (labelme(shape("a", [[0, 0], [1e999, 0], [0, 9]])), "finite"),
    "sizeless": (labelme(shape("a", [[0, 0]]), imageWidth=None), "width None"),
    "outside": (labelme(shape("a", [[70, 50], [90, 60]], "rectangle")), "encloses nothing"),
    "hidden": (
        labelme(
            shape("a", [[0, 0], [9, 9]], "rectangle"), shape("b", [[0, 0], [60, 40]], "rectangle")
        ),
        "region 'a': no place",
    ),
    "no picture": (labelme(shape("a", [[0, 0], [1, 1]], "mask", mask="AAAA")), "no picture"),
    "two images": (
        coco(*[{"bbox": [0, 0, 9, 9]}] * 2)
        | {"annotations": [{"image_id": n, "category_id": 1} for n in (7, 8)]},
        r"annotations of more than one image \(2\)",
    ),
    "unknown image": (coco({"bbox": [0, 0, 9, 9]}, images=[]), "no image of its list"),
    "unknown category": (coco({"bbox": [0, 0, 9, 9]}, categories=[]), "no category 1"),
    "no outline": (coco({"segmentation": []}), "neither a segmentation nor a bbox"),
    "odd": (coco({"segmentation": [[1, 2, 3]]}), "pairs"),
    "short runs": (coco({"segmentation": {"size": [40, 60], "counts": [9]}}), "of 9 pixels"),
    "short compressed": (coco({"segmentation": {"size": [40, 60], "counts": "0"}}), "of 0 pixels"),
    "cut compressed": (coco({"segmentation": {"size": [40, 60], "counts": "o"}}), "cut short"),
    "no compressed": (coco({"segmentation": {"size": [40, 60], "counts": "~"}}), "character '~'"),
    "huge compressed": (coco({"segmentation": {"size": [40, 60], "counts": "oooooooooo0"}}), "cha"),
    "negative run": (coco({"segmentation": {"size": [4, 6], "counts": [-9, 33]}}), "run length -9"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_region_is_named(tmp_path, kind):
    document, message = BAD[kind]
    path = write(tmp_path, document)
    with pytest.raises(InputError, match=message) as error:
        read_regions(path)
    assert str(error.value).startswith(path)


def test_masks_that_are_none_are_named(tmp_path):
    def refused(message: str, name: str = "mask.png") -> None:
        with pytest.raises(InputError, match=message) as error:
            read_regions(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))

    refused("No such file")
    (tmp_path / "mask.png").write_bytes(b"none")
    refused("no mask that can be read")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "mask.png")
    refused("0 everywhere")
    Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(SIZE)).save(tmp_path / "mask.png")
    refused("antialiasing")
    Image.fromarray(np.ones(SIZE, np.uint16)).save(tmp_path / "mask.png")
    refused("mode I;16")
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[..., 0] = 255
    Image.fromarray(colours).save(tmp_path / "mask.png")
    refused("has colours")
    Image.fromarray(np.ones(SIZE, np.uint8)).save(tmp_path / "mask.jpg")
    refused("losses", "mask.jpg")
    (tmp_path / "mask.json").write_text('{"shapes": [')
    refused("no JSON", "mask.json")


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_are_those_of_cocos_own_library(tmp_path, seed):
    library = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.random.default_rng(seed).random(SIZE) > (0.5, 0.99, 0.01, 0.9)[seed]
    counts = library.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    given = coco({"segmentation": {"size": [40, 60], "counts": counts}})
    assert np.array_equal(read_regions(write(tmp_path, given)).at(SIZE).labels == 1, mask)
