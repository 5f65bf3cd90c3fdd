"""The models."""

from __future__ import annotations

from fastalign.models.config import FYDConfig
from fastalign.models.detail import Detail
from fastalign.models.fyd import FYD

__all__ = ["FYD", "Detail", "FYDConfig"]
