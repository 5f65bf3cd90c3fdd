"""Places of a score map above its threshold, as data: boxes, areas, peaks and contours."""

from fastalign.regions.find import CONNECTIVITY, Place, Region, find_regions

__all__ = ["CONNECTIVITY", "Place", "Region", "find_regions"]
