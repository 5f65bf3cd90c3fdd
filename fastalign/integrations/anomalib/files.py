"""Files that anomalib reads otherwise than they are meant: deeper than 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastalign.data import deeper_than_8_bits, load_image, settle_depth
from fastalign.errors import InputError


def check_read(paths: Sequence[str | Path] | None) -> None:
    """Refuse files of more than 8 bits that anomalib has read wrongly.

    It reads by ``Image.open(path).convert("RGB")``, which makes all above 255 of a 16-bit grey file
    white, all below 1 of a floating-point file black, and a 12-bit colour file nearly black.

    Args:
        paths: of a batch; None: it was not read from files.

    Raises:
        InputError: there is one.
    """
    for path in map(Path, paths or ()):
        if path.is_file() and deeper_than_8_bits(path) and not _is_right(path):
            raise InputError(
                f"{path}: has more than 8 bits per sample, and anomalib's reader, which knows 8 "
                "only, has lost them. Write such photographs as 8 bits first, for training and "
                "later alike: Image.fromarray(load_image(path, depth=settle_depth(paths))) of "
                "fastalign.data."
            )


def _is_right(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as image:
        theirs = np.asarray(image.convert("RGB"))
    ours = load_image(path, depth=settle_depth([path]))
    # Rounded or cut to the upper 8 bits.
    return ours.shape == theirs.shape and int(np.abs(ours.astype(int) - theirs).max()) <= 1
