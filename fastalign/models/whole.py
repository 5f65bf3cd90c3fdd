"""How far the whole of an image is from the normal ones.

A defect, even a large one, leaves some of a part as it was; a photograph of another part resembles
the normal ones nowhere. The largest distance, which is the score, does not tell the two apart.
"""

from __future__ import annotations

from torch import Tensor

# The share of a map that stands for its most ordinary places.
_ORDINARY = 0.1
# Places of a map that are looked at, along each axis: the map is smooth.
_PLACES = 64


def whole_distance(maps: Tensor) -> Tensor:
    """The distance that nine tenths of each map exceed, ``[B]`` float32.

    Arguments:
        maps: ``[B,H,W]`` of :class:`fastalign.models.maps.AnomalyMaps`: NaN without evidence, as is
            the result for an image without any.
    """
    steps = [-(-side // _PLACES) for side in maps.shape[1:]]
    places = maps[:, :: steps[0], :: steps[1]].flatten(1).float()
    return places.nanquantile(_ORDINARY, dim=1)
