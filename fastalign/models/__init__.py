"""The models."""

from __future__ import annotations

from fastalign.models.config import FYDConfig
from fastalign.models.fyd import FYD, Detail

__all__ = ["FYD", "Detail", "FYDConfig"]
