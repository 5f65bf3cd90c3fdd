"""Score maps as TIFF: float32, compressed, with the range that viewers need to show them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

_LOWEST, _HIGHEST, _FLOAT = 340, 341, 11
_STRIP_BYTES = 1 << 18
# The digits of interpolated scores hardly compress: higher levels take longer and save nothing
# (benchmarks/picture_size.py).
_LEVEL = 1


def encode_tiff(scores: npt.NDArray[np.float32], description: str = "") -> bytes:
    """One float32 channel ``[H, W]`` as TIFF, in strips of Deflate without a predictor, which every
    reader of floating-point TIFF knows.

    SMinSampleValue and SMaxSampleValue hold the range of the finite values. (Pillow writes both as
    0 where it compresses.)
    """
    import tifffile

    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        scores,
        photometric="minisblack",
        compression="zlib",
        compressionargs={"level": _LEVEL},
        # Whoever writes many maps has threads of its own.
        maxworkers=1,
        predictor=False,
        rowsperstrip=max(1, min(scores.shape[0], _STRIP_BYTES // (4 * scores.shape[1]))),
        description=description.encode("ascii", "replace").decode(),
        metadata=None,
        software=False,
        extratags=[(_LOWEST, _FLOAT, 1, low, True), (_HIGHEST, _FLOAT, 1, high, True)],
    )
    return buffer.getvalue()
