"""Photographs and masks as arrays in NumPy's own format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastalign.data.picture import Picture
from fastalign.data.pillow import Unread

if TYPE_CHECKING:
    from collections.abc import Callable


SIGNATURE = b"\x93NUMPY"
"""What such a file begins with."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path, check_size: Callable[[int, int], None]) -> Picture:
    """An array in NumPy's format: ``[H,W]``, ``[H,W,1]``, RGB ``[H,W,3]`` or RGBA ``[H,W,4]``.

    ``check_size`` is called with width and height before the values are read.

    Raises:
        Unread: another shape or dtype.
        ValueError, OSError: it is damaged or truncated.
    """
    # Read and not mapped: whoever cuts a mapped file short ends the process.
    with path.open("rb") as file:
        read_header = _HEADERS[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
        if len(shape) == 3 and shape[2] == 1:
            shape = shape[:2]
        if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
            raise Unread(
                f"its array has the shape {list(shape)}; store grey [H, W] or RGB [H, W, 3], "
                "or turn a camera's buffer into it with fastalign.data.from_camera"
            )
        if dtype.kind not in "biuf":
            raise Unread(f"its array has the type {dtype}; store uint8, uint16 or float32")
        check_size(shape[1], shape[0])
        file.seek(0)
        values = np.lib.format.read_array(file, allow_pickle=False).reshape(shape)
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    alpha = None
    if values.ndim == 3 and values.shape[2] == 4:
        if values.dtype != np.uint8:
            raise Unread("four channels are read as RGBA, of uint8 only; leave the fourth out")
        values, alpha = values[..., :3], values[..., 3]
    peak = 255 if values.dtype.itemsize == 1 else 0xFFFF
    return Picture(values, alpha, peak, kind="NPY")
