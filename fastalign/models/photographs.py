"""Photographs as they are (files, arrays, pictures), scored one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastalign.errors import InputError
from fastalign.models.detail import Detail, roi_scores
from fastalign.regions import Region, find_regions
from fastalign.verdict import Verdict, judge

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from fastalign.data import Depth
    from fastalign.roi import RegionsOfInterest

Pixels: TypeAlias = "npt.NDArray[Any] | Image.Image"
Photographs: TypeAlias = (
    "str | os.PathLike[str] | Pixels | Sequence[str | os.PathLike[str] | Pixels]"
)


@dataclass(frozen=True)
class Scored:
    """What a model says of one photograph.

    Attributes:
        name: its path, or its place among arrays, such as ``image 3``.
        score: the largest value of the map; NaN where it cannot be judged.
        verdict: by the model's threshold of images.
        map: float32 ``[H,W]`` of the model's image size, in the frame of the photograph; NaN where
            nothing was compared.
        theta: ``[2,3]``, where the part lies, as :meth:`fastalign.FYD.align` gives it.
        reason: why the verdict is unsure; empty where there is a score.
        regions: places above the model's threshold of pixels, highest score first.
        roi: the score of each region of interest by name, None where there is none; empty where the
            whole part is judged.
    """

    name: str
    score: float
    verdict: Verdict
    map: npt.NDArray[np.float32] = field(repr=False)
    theta: npt.NDArray[np.float32] = field(repr=False)
    reason: str = ""
    regions: tuple[Region, ...] = ()
    roi: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        size: tuple[int, int],
        detail: Detail,
        reason: str,
        limits: tuple[float, float],
        part_area: float,
        roi: RegionsOfInterest | None = None,
    ) -> Scored:
        """What the details of one photograph, of height and width ``size``, say with the
        thresholds of images and pixels, ``limits``."""
        score = float(detail.score[0])
        maps, theta = (of[0].cpu().numpy() for of in (detail.map, detail.theta))
        regions = find_regions(maps, limits[1], size, theta=theta, part_area=part_area, roi=roi)
        scores = {} if roi is None else roi_scores(roi, detail, 0)
        return cls(name, score, judge(score, limits[0]), maps, theta, reason, regions, scores)


def tensors(
    source: Photographs, size: tuple[int, int], depth: Depth | None
) -> Iterator[tuple[str, tuple[int, int], Tensor]]:
    """``(name, (height, width), image [3,H,W] in 0..1)`` of each photograph, read as it is asked
    for.

    Args:
        source: a file, a folder with its sub-folders, a pattern, an array ``[h,w,3]`` or ``[h,w]``
            of uint8, or of floats in 0..1, a picture of Pillow; or several of these.
        size: height and width to resize to.
        depth: of 16-bit files that state none.

    Raises:
        InputError: nothing there, or something that is no photograph.
    """
    from fastalign.data import find_photographs, load_image, prepare

    several = isinstance(source, (list, tuple))
    given: Sequence[Any] = source if several else [source]  # type: ignore[assignment]
    if not given:
        raise InputError("no photographs given; give a path, an array, or several of these.")
    for index, item in enumerate(given):
        if isinstance(item, (str, os.PathLike)):
            for path in find_photographs(item).files:
                image = load_image(Path(path), depth=depth)
                yield str(path), (image.shape[0], image.shape[1]), prepare(image, size)
        else:
            name = f"image {index}" if several else "image"
            image = _pixels(item, name)
            yield name, (image.shape[0], image.shape[1]), prepare(image, size)


def _pixels(item: Any, name: str) -> npt.NDArray[np.uint8]:
    """uint8 ``[h,w,3]`` of an array or a picture."""
    try:
        array = np.asarray(item.convert("RGB") if hasattr(item, "convert") else item)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{name}: {type(item).__name__} is no array ({str(error).splitlines()[0]}); give an "
            "array [height, width, 3], such as image.detach().cpu().to_dense().numpy() of a tensor."
        ) from error
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InputError(
            f"{name}: an array of shape {list(array.shape)}, expected [height, width, 3] in RGB or "
            "[height, width]; tensors [B, 3, H, W] go to the model itself: model(images)."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and np.isfinite(array).all():
        if 0 <= array.min() and array.max() <= 1:
            return np.rint(255 * array.astype(np.float64)).astype(np.uint8)
        limits = f"values from {array.min():g} to {array.max():g}"
    else:
        limits = "values that are not finite" if array.dtype.kind == "f" else "whole numbers"
    raise InputError(
        f"{name}: an array of {array.dtype} with {limits}, expected uint8, or floating point in "
        "0..1; fastalign.data.from_camera takes the buffers of cameras."
    )
