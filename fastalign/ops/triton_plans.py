"""What can be forced of the Triton launches, and what is: see ``fastalign.ops.forced_plan``.

Imports no Triton: what can be forced is known where it is not installed, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from fastalign.errors import BackendError

_WARPS = (1, 2, 4, 8, 16)
_LOCATIONS = (1, 2, 4, 8, 16, 32, 64, 128)
_CHANNELS = (1, 2, 4, 8, 16, 32, 64, 128)
_PIXELS = (16, 32, 64, 128, 256, 512)

# By kernel: its fields, each with the values that it may take.
FIELDS: dict[str, dict[str, tuple[int, ...]]] = {
    "dense_similarity": {
        "locations": _LOCATIONS,
        "images": (1, 2, 4, 8, 16, 32, 64, 128),
        "warps": _WARPS,
        "stages": (1, 2, 3, 4),
    },
    "pairwise_distance": {
        "locations": (8, 16, 32, 64, 128, 256),
        "images": (1, 2, 4, 8, 16),
        "warps": _WARPS,
    },
    "warp_affine": {"pixels": _PIXELS, "channels": _CHANNELS, "warps": _WARPS},
    "warp_affine_backward": {"pixels": _PIXELS, "channels": _CHANNELS, "warps": _WARPS},
    "mahalanobis": {"images": (1, 2, 4, 8), "rows": (2, 4, 8, 16), "warps": _WARPS},
    "mahalanobis_backward": {"images": (1, 2, 4, 8), "rows": (2, 4, 8, 16), "warps": _WARPS},
    "refine_pose": {"locations": (8, 16, 256, 512, 1024, 2048, 4096), "warps": _WARPS},
}

_NOTHING: Mapping[str, int] = {}
_forced: Mapping[str, Mapping[str, int]] = {}


def force(plans: Mapping[str, Mapping[str, int]]) -> None:
    """From now on, in place of what was forced before; empty: nothing."""
    global _forced
    _forced = plans


def refuse(kernel: str, field: str, reason: str) -> NoReturn:
    """Raises: the forced value of a field cannot serve a call.

    Raises:
        BackendError: always.
    """
    value = forced(kernel).get(field)
    raise BackendError(f"{kernel}.triton: the forced plan {field}={value} does not serve: {reason}")


def forced(kernel: str) -> Mapping[str, int]:
    """The forced fields of a kernel."""
    return _forced.get(kernel, _NOTHING)
