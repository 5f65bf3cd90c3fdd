"""A photograph as an exported model takes it: read and resized as in training, without torch.

numpy and Pillow, and for deep TIFF files tifffile, are all that it imports.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastalign.data.depth import Depth
from fastalign.data.images import load_image
from fastalign.data.resize import resize_image
from fastalign.errors import ArtifactError

FORMAT = "fastalign-export"
CONTRACT_VERSION = 1


def photograph(
    source: str | os.PathLike[str] | npt.NDArray[np.uint8], contract: str | Mapping[str, Any]
) -> npt.NDArray[Any]:
    """What to give to an exported model for one photograph: ``[1,3,H,W]``, contiguous.

    The same values as :func:`fastalign.data.load_image`, with the depth of the model's training
    images, and :func:`fastalign.data.prepare` give the model itself; ``numpy.concatenate`` makes a
    batch of several.

    Args:
        source: the file, or its pixels, uint8 ``[h,w,3]`` RGB of any size.
        contract: what the exported file says of itself under the key ``fastalign``, as JSON or
            decoded.

    Returns:
        float32 in 0..1 or uint8 in 0..255, as the file's input is.

    Raises:
        InputError: the photograph cannot be read, or contradicts the depth.
        ArtifactError: ``contract`` is not what ``fastalign export`` writes, or of a later version.
        ValueError: pixels of another shape or dtype.
    """
    about = _input(contract)
    depth = Depth.from_record(about.get("depth"))
    image = source if isinstance(source, np.ndarray) else load_image(source, depth=depth)
    height, width = about["shape"][2:]
    planes = resize_image(image, (height, width)).transpose(2, 0, 1)[None]
    if about["dtype"] == "uint8":
        return np.array(planes, order="C")
    return np.divide(planes, np.float32(255), dtype=np.float32, order="C")


def _input(contract: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """What a contract says of the input."""
    try:
        about = json.loads(contract) if isinstance(contract, str) else contract
        kind, version, inside = about["format"], int(about["version"]), dict(about["input"])
    except (TypeError, KeyError, ValueError) as error:
        raise ArtifactError(_FOREIGN) from error
    if kind != FORMAT:
        raise ArtifactError(_FOREIGN)
    if version > CONTRACT_VERSION:
        raise ArtifactError(
            f"the exported file has a contract of version {version}, this fastalign knows "
            f"{CONTRACT_VERSION}; update fastalign here, or export the model again with this one."
        )
    return inside


_FOREIGN = (
    "this is no contract of a file that fastalign export wrote; give the text that the file holds "
    "under the key fastalign."
)
