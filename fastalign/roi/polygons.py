"""Polygons as annotation tools write them: labelme's files, and COCO's instances."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fastalign.errors import InputError, first_line
from fastalign.roi.regions import RegionsOfInterest, is_ignored, of_named

# Pixels of the longer side of the picture that polygons are drawn on.
_SIDE = 2048
_MOST_SIDE = 1_000_000
_Places = npt.NDArray[np.bool_]
_Points = npt.NDArray[np.float64]


class _Canvas:
    """The picture that shapes are drawn on, finer or coarser than the one they were drawn on.

    Args:
        width, height: of that one, in the pixels of the points.
    """

    def __init__(self, width: Any, height: Any) -> None:
        for name, side in (("width", width), ("height", height)):
            known = isinstance(side, (int, float)) and not isinstance(side, bool)
            if not known or not 1 <= side <= _MOST_SIDE:
                raise InputError(
                    f"{name} {side!r} of the picture that the polygons were drawn on: expected its "
                    "pixels."
                )
        scale = _SIDE / max(width, height)
        self.size = max(1, round(width * scale)), max(1, round(height * scale))
        self.picture = width, height
        self._scale = np.array([self.size[0] / width, self.size[1] / height])

    def fill(self, rings: Iterable[_Points]) -> _Places:
        """What lies inside of any of these polygons, bool ``[h,w]``."""
        image = Image.new("1", self.size)
        draw = ImageDraw.Draw(image)
        for ring in rings:
            # Points are corners and centres of pixels alike; Pillow counts from the first centre.
            points = ring * self._scale - 0.5
            draw.polygon([(float(x), float(y)) for x, y in points], fill=1)
        return np.asarray(image)

    def paste(self, mask: _Places, left: float, top: float) -> _Places:
        """A mask ``[h,w]`` in pixels of the picture, with its upper left corner there."""
        width, height = self.size
        x = np.floor((np.arange(width) + 0.5) / self._scale[0] - left).astype(np.int64)
        y = np.floor((np.arange(height) + 0.5) / self._scale[1] - top).astype(np.int64)
        inside = ((y >= 0) & (y < mask.shape[0]))[:, None] & ((x >= 0) & (x < mask.shape[1]))
        rows, columns = y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)
        return inside & mask[rows[:, None], columns[None]]


class _Shape(NamedTuple):
    name: str
    places: _Places


def parse_polygons(document: object) -> RegionsOfInterest:
    """Regions of interest of what a JSON file holds.

    Raises:
        InputError: neither of the two forms, or something in it that is no region.
    """
    if isinstance(document, Mapping) and isinstance(document.get("shapes"), list):
        shapes = _labelme(document)
    elif isinstance(document, Mapping) and isinstance(document.get("annotations"), list):
        shapes = _coco(document)
    else:
        raise InputError(
            "neither shapes as labelme writes them nor annotations in COCO's form are in it."
        )
    if not shapes:
        raise InputError("it holds no polygon; draw the places that shall be judged.")
    _require_inside(shapes)
    return of_named(shapes)


def _require_inside(shapes: Sequence[_Shape]) -> None:
    for shape in shapes:
        if not shape.places.any() and not is_ignored(shape.name):
            raise InputError(f"region {shape.name!r} encloses nothing of the picture.")


# labelme -------------------------------------------------------------------------------------


def _labelme(document: Mapping[str, Any]) -> list[_Shape]:
    canvas = _Canvas(document.get("imageWidth"), document.get("imageHeight"))
    kinds: dict[str, Callable[[_Canvas, Mapping[str, Any], _Points], _Places]] = {
        "polygon": lambda canvas, shape, points: canvas.fill([_polygon(points)]),
        "rectangle": lambda canvas, shape, points: canvas.fill([_rectangle(points)]),
        "circle": lambda canvas, shape, points: canvas.fill([_circle(points)]),
        "mask": _labelme_mask,
    }
    shapes = []
    for number, shape in enumerate(document["shapes"]):
        where = f"shape {number}"
        if not isinstance(shape, Mapping):
            raise InputError(f"{where} is no object.")
        name, kind = _name(shape.get("label"), where), shape.get("shape_type") or "polygon"
        where = f"{where} ({name})"
        if kind not in kinds:
            raise InputError(
                f"{where} is of type {kind!r}, which encloses nothing: use one of "
                f"{', '.join(kinds)}."
            )
        points = _points(shape.get("points"), where)
        try:
            shapes.append(_Shape(name, kinds[kind](canvas, shape, points)))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return shapes


def _polygon(points: _Points) -> _Points:
    if len(points) < 3:
        raise InputError(f"a polygon of {len(points)} points: it takes three.")
    return points


def _rectangle(points: _Points) -> _Points:
    if len(points) == 4:
        return points
    if len(points) != 2:
        raise InputError(f"a rectangle of {len(points)} points: it takes two corners.")
    (x0, y0), (x1, y1) = points
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _circle(points: _Points) -> _Points:
    if len(points) != 2:
        raise InputError(f"a circle of {len(points)} points: it takes its centre and one on it.")
    angles = np.linspace(0, 2 * math.pi, 256, endpoint=False)
    radius = float(np.hypot(*(points[1] - points[0])))
    return points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _labelme_mask(canvas: _Canvas, shape: Mapping[str, Any], points: _Points) -> _Places:
    try:
        data = base64.b64decode(shape.get("mask") or "", validate=True)
        with Image.open(io.BytesIO(data)) as image:
            mask = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"its mask is no picture ({first_line(error)}).") from error
    left, top = points.min(0)
    return canvas.paste(mask, float(left), float(top))


# COCO ----------------------------------------------------------------------------------------


def _coco(document: Mapping[str, Any]) -> list[_Shape]:
    annotations = document["annotations"]
    images = {_key(image, "id"): image for image in document.get("images") or ()}
    names = {
        _key(category, "id"): _name(category.get("name"), "a category")
        for category in document.get("categories") or ()
    }
    drawn_on = {_key(annotation, "image_id") for annotation in annotations}
    if len(drawn_on) > 1:
        raise InputError(
            f"annotations of more than one image ({len(drawn_on)}): regions are drawn on one; "
            "leave the others out."
        )
    image = next((images[key] for key in drawn_on if key in images), None)
    if annotations and image is None:
        raise InputError("its annotations belong to no image of its list, whose size is needed.")
    if image is None:
        return []
    canvas = _Canvas(image.get("width"), image.get("height"))
    shapes = []
    for number, annotation in enumerate(annotations):
        where = f"annotation {annotation.get('id', number)}"
        category = _key(annotation, "category_id")
        if category not in names:
            raise InputError(f"{where}: there is no category {category!r}.")
        try:
            shapes.append(_Shape(names[category], _segmented(canvas, annotation)))
        except InputError as error:
            raise InputError(f"{where} ({names[category]}): {error}") from error
    return shapes


def _segmented(canvas: _Canvas, annotation: Mapping[str, Any]) -> _Places:
    outline = annotation.get("segmentation")
    if isinstance(outline, Mapping):
        return canvas.paste(_run_lengths(outline), 0, 0)
    if isinstance(outline, list) and outline:
        rings = outline if isinstance(outline[0], list) else [outline]
        paired = [_paired(ring) for ring in rings]
        return canvas.fill(_polygon(_points(ring, "its segmentation")) for ring in paired)
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise InputError("it has neither a segmentation nor a bbox of four numbers.")
    left, top, width, height = _points([box[:2], box[2:]], "its bbox").ravel().tolist()
    return canvas.fill([_rectangle(np.array([(left, top), (left + width, top + height)]))])


def _paired(ring: Any) -> list[Any]:
    if not isinstance(ring, list) or len(ring) % 2:
        raise InputError("its segmentation is no list of pairs x, y.")
    return [ring[at : at + 2] for at in range(0, len(ring), 2)]


def _run_lengths(outline: Mapping[str, Any]) -> _Places:
    """COCO's run lengths: down the columns, from the left, outside and inside by turns."""
    size, counts = outline.get("size"), outline.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        raise InputError("its run lengths have no size.")
    height, width = (_whole(side, "a side of its run lengths", _MOST_SIDE) for side in size)
    if height * width > 1 << 28:
        raise InputError(f"run lengths of {width} x {height} pixels are too large.")
    if isinstance(counts, str):
        counts = _expanded(counts)
    if not isinstance(counts, list):
        raise InputError("its run lengths have no counts.")
    runs = [_whole(run, "a run length", height * width) for run in counts]
    if sum(runs) != height * width:
        raise InputError(f"its run lengths are of {sum(runs)} pixels, not {height} x {width}.")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T


def _expanded(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: numbers of 5 bits a character from ``0`` on, the
    lowest first, whose sixth bit says that more follow; from the fourth on each less the one before
    the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise InputError(f"its compressed run lengths have a character {character!r}.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            # The sign of what has ended.
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise InputError("its compressed run lengths are cut short.")
    return runs


# What both are made of -----------------------------------------------------------------------


def _key(item: Any, name: str) -> Any:
    value = item.get(name) if isinstance(item, Mapping) else None
    if not isinstance(value, (int, str)):
        raise InputError(f"{name} is missing, or neither a number nor text.")
    return value


def _whole(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"{name} {value!r} is no whole number from 0 to {most}.")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} has no name.")
    return value.strip()


def _points(value: Any, where: str) -> _Points:
    """Points ``[n,2]``."""
    try:
        points = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: its points are no numbers.") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"{where}: its points are no pairs x, y of finite numbers.")
    if np.abs(points).max(initial=0) > _MOST_SIDE:
        raise InputError(f"{where}: a point beyond {_MOST_SIDE} pixels.")
    return points
