"""Bilinear interpolation of Bayer mosaics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def demosaic(mosaic: npt.NDArray[np.uint8], pattern: str) -> npt.NDArray[np.uint8]:
    """RGB ``[H,W,3]`` of a mosaic ``[H,W]``, both uint8.

    A missing colour is the mean of the two or four nearest samples of that colour, rounded half
    up; beyond the border the mosaic is reflected at its outermost row and column, which keeps the
    pattern.

    Args:
        mosaic: the samples, at least 2 x 2.
        pattern: colours of the first two pixels of the first row: RG, GR, GB or BG.
    """
    height, width = mosaic.shape
    padded = np.pad(mosaic, 1, mode="reflect").astype(np.uint16)

    def at(row: int, column: int) -> npt.NDArray[np.uint16]:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    beside = (at(0, -1) + at(0, 1) + 1) >> 1
    above = (at(-1, 0) + at(1, 0) + 1) >> 1
    cross = (at(0, -1) + at(0, 1) + at(-1, 0) + at(1, 0) + 2) >> 2
    corners = (at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1) + 2) >> 2
    result = np.empty((height, width, 3), np.uint8)
    red = {"RG": (0, 0), "GR": (0, 1), "GB": (1, 0), "BG": (1, 1)}[pattern]
    for row in (0, 1):
        for column in (0, 1):
            place = np.s_[row::2, column::2]
            in_red_row, in_red_column = row == red[0], column == red[1]
            if in_red_row == in_red_column:
                # A red or a blue pixel.
                own, other = (0, 2) if in_red_row else (2, 0)
                result[place + (own,)] = mosaic[place]
                result[place + (1,)] = cross[place]
                result[place + (other,)] = corners[place]
            else:
                result[place + (1,)] = mosaic[place]
                result[place + (0,)] = (beside if in_red_row else above)[place]
                result[place + (2,)] = (above if in_red_row else beside)[place]
    return result
