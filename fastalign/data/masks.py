"""Which mask belongs to which image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fastalign.data.images import MaskArray, load_mask, resize_mask
from fastalign.data.listing import list_images
from fastalign.errors import InputError

MASK_FOLDERS = ("ground_truth", "groundtruth", "gt", "masks", "mask")
"""Names of a folder of masks, compared without regard to case."""

MAYBE_MASK_FOLDERS = tuple("label labels annotation annotations segmentation segmentations".split())
"""Further names of a folder of masks, which may also be those of photographs: of a label, say."""

MARKERS = ("mask", "masks", "gt", "groundtruth", "ground_truth", "label", "seg", "segmentation")
"""What a mask's name has behind its image's, after ``_`` or ``-``, compared without regard to
case; a number may follow where an image has several masks."""

_MARKED = re.compile(
    rf"(?P<name>.+)[_-](?:{'|'.join(MARKERS)})(?:[_-]?\d+| ?\(\d+\))?", re.IGNORECASE
)

Masks = dict[Path, tuple[Path, ...]]


def base_name(stem: str) -> str | None:
    """The name of the image that a mask of this stem is named after; None if it is no mask's."""
    match = _MARKED.fullmatch(stem)
    return match["name"] if match else None


def describe_mask_names() -> str:
    """What a mask may be called, in words."""
    return (
        f"the image's name, in a folder of masks alone or with _{', _'.join(MARKERS)} behind it, "
        "whatever the ending"
    )


def separate_masks(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images, and the masks among them: ``x_mask.png`` or ``x_GT.png``, see :data:`MARKERS`, is one
    where there is an ``x`` as well."""
    stems = {path.with_suffix("") for path in files}
    images: list[Path] = []
    masks: list[Path] = []
    for path in files:
        name = base_name(path.stem)
        is_mask = name is not None and path.with_name(name) in stems
        (masks if is_mask else images).append(path)
    return images, masks


def match_masks(
    images: Sequence[Path],
    image_folder: Path,
    mask_folder: Path | None,
    beside: Sequence[Path],
    same: Sequence[Path] = (),
) -> tuple[Masks, list[Path]]:
    """Find the masks of each image by their names, whatever the endings.

    The masks of ``sub/x.jpg`` in ``image_folder`` are ``sub/x_mask.*`` in ``mask_folder`` (any of
    :data:`MARKERS`, numbered where there are several), else ``sub/x.*`` there, else all images in
    the folder ``sub/x/`` there, else ``sub/x_mask.*`` beside it, else ``sub/x.*`` beside it.

    Args:
        images: image files below ``image_folder``.
        image_folder: the folder that their names are relative to.
        mask_folder: folder of the masks, None without one.
        beside: masks that lie among the images, from :func:`separate_masks`.
        same: those among them that have the names of their images but for the endings.

    Returns:
        The masks by image, and the masks that belong to no image.

    Raises:
        InputError: two masks of one name, or two images of one mask.
    """
    places = [
        _Place(image_folder, beside, plain=False),
        _Place(image_folder, same, plain=True),
    ]
    if mask_folder is not None:
        places.insert(0, _Place(mask_folder, list_images(mask_folder), plain=True))
    masks: Masks = {}
    owners: dict[Path, Path] = {}
    for image in images:
        name = image.relative_to(image_folder).with_suffix("")
        found = next(filter(None, (place.masks_of(name) for place in places)), ())
        for mask in found:
            if mask in owners:
                raise InputError(
                    f"{owners[mask]} and {image} have the same name, so the mask {mask} fits both; "
                    "rename one of the images and its mask."
                )
            owners[mask] = image
        if found:
            masks[image] = found
    unused = {mask for place in places for mask in place.files}.difference(owners)
    return masks, sorted(unused)


def load_masks(
    paths: Sequence[Path],
    size: tuple[int, int] | None = None,
    *,
    image_path: Path | None = None,
    output_size: tuple[int, int] | None = None,
) -> MaskArray:
    """The union of an image's masks, bool ``[H, W]``: a pixel is anomalous where one of them says
    so. Arguments and errors are those of :func:`fastalign.data.load_mask`.

    Raises:
        ValueError: there is no mask.
        InputError: one cannot be read, or they differ in size.
    """
    if not paths:
        raise ValueError("paths: expected at least one mask, got none.")
    union = load_mask(paths[0], size, image_path=image_path)
    for path in paths[1:]:
        union = union | load_mask(path, union.shape, image_path=image_path or paths[0])
    return union if output_size is None else resize_mask(union, output_size)


class _Place:
    """The masks of a folder by the names of their images."""

    def __init__(self, folder: Path, files: Sequence[Path], plain: bool) -> None:
        self.files = files
        self._marked: dict[Path, list[Path]] = defaultdict(list)
        self._plain: dict[Path, list[Path]] = defaultdict(list)
        self._inside: dict[Path, list[Path]] = defaultdict(list)
        for path in files:
            name = path.relative_to(folder).with_suffix("")
            base = base_name(name.name)
            if base is not None:
                self._marked[name.with_name(base)].append(path)
            if plain:
                self._plain[name].append(path)
                self._inside[name.parent].append(path)

    def masks_of(self, name: Path) -> tuple[Path, ...]:
        for masks in (self._marked, self._plain, self._inside):
            if found := masks.get(name):
                return _each_once(found, name)
        return ()


def _each_once(masks: Sequence[Path], name: Path) -> tuple[Path, ...]:
    stems: dict[Path, Path] = {}
    for mask in masks:
        other = stems.setdefault(mask.with_suffix(""), mask)
        if other != mask:
            raise InputError(
                f"{other} and {mask} are both masks of the image {name.as_posix()}; keep one of "
                "them."
            )
    return tuple(sorted(masks))
