"""Which mask belongs to which image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fastalign.data.files import list_images
from fastalign.errors import InputError

MASK_FOLDERS = ("ground_truth", "groundtruth", "masks", "mask")
"""Names of a folder of masks, compared without regard to case."""

_SUFFIX = "_mask"


def separate_masks(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images, and the masks among them: ``x_mask.png`` is one where there is an ``x`` as well."""
    stems = {path.with_suffix("") for path in files}
    images: list[Path] = []
    masks: list[Path] = []
    for path in files:
        name = path.stem.removesuffix(_SUFFIX)
        is_mask = name not in ("", path.stem) and path.with_name(name) in stems
        (masks if is_mask else images).append(path)
    return images, masks


def match_masks(
    images: Sequence[Path], image_folder: Path, mask_folder: Path | None, beside: Sequence[Path]
) -> tuple[dict[Path, Path], list[Path]]:
    """Find the mask of each image by its name, whatever the endings.

    ``sub/x.jpg`` in ``image_folder`` belongs to ``sub/x_mask.*`` in ``mask_folder``, else to
    ``sub/x.*`` there, else to ``sub/x_mask.*`` beside it.

    Args:
        images: image files below ``image_folder``.
        image_folder: the folder that their names are relative to.
        mask_folder: folder of the masks, None without one.
        beside: masks that lie among the images, from :func:`separate_masks`.

    Returns:
        The masks by image, and the masks that belong to no image.

    Raises:
        InputError: two masks, or two images, for one name.
    """
    places: list[tuple[Path, Sequence[Path]]] = []
    if mask_folder is not None and mask_folder.is_dir():
        places.append((mask_folder, list_images(mask_folder)))
    places.append((image_folder, beside))
    masks: dict[Path, Path] = {}
    unused: set[Path] = set()
    owners: dict[Path, Path] = {}
    indexed = [(_by_name(folder, files), folder != image_folder) for folder, files in places]
    for _, files in places:
        unused.update(files)
    for image in images:
        name = image.relative_to(image_folder).with_suffix("")
        mask = _find(name, indexed)
        if mask is None:
            continue
        if mask in owners:
            raise InputError(
                f"{owners[mask]} and {image} have the same name, so the mask {mask} fits both; "
                "rename one of the images and its mask."
            )
        owners[mask] = image
        masks[image] = mask
    unused.difference_update(masks.values())
    return masks, sorted(unused)


def _by_name(folder: Path, files: Sequence[Path]) -> dict[Path, list[Path]]:
    names: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        names[path.relative_to(folder).with_suffix("")].append(path)
    return names


def _find(name: Path, places: list[tuple[dict[Path, list[Path]], bool]]) -> Path | None:
    marked = name.with_name(name.name + _SUFFIX)
    for masks, plain_name_counts in places:
        for candidate in (marked, name) if plain_name_counts else (marked,):
            found = masks.get(candidate, [])
            if len(found) > 1:
                raise InputError(
                    f"{found[0]} and {found[1]} are both masks of the image {name.as_posix()}; "
                    "keep one of them."
                )
            if found:
                return found[0]
    return None
