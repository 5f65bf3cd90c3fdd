"""FYD as a model of anomalib; needs ``fastalign[anomalib]``.

``Fyd`` is the Lightning module. ``register()`` lets anomalib find it by name; ``python -m
fastalign.integrations.anomalib`` is anomalib's command line with it registered.

Raises:
    ImportError: anomalib is missing.
"""

from __future__ import annotations

from importlib.util import find_spec

from fastalign.errors import extra

if find_spec("anomalib") is None:
    raise ImportError(
        "fastalign.integrations.anomalib needs anomalib, which is not installed; install it with: "
        + extra("anomalib")
    )

from fastalign.integrations.anomalib.model import FydModel
from fastalign.integrations.anomalib.module import Fyd
from fastalign.integrations.anomalib.regions import find_regions
from fastalign.integrations.anomalib.registry import register

__all__ = ["Fyd", "FydModel", "find_regions", "register"]
