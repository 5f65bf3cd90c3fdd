"""Regions of interest: what of a part is judged, drawn as a mask or as polygons."""

from __future__ import annotations

from fastalign.roi.read import read_regions
from fastalign.roi.regions import RegionsOfInterest

__all__ = ["RegionsOfInterest", "read_regions"]
