"""Figures of merit, exact, per image and per pixel."""

from fastalign.metrics.figures import Figures
from fastalign.metrics.image import IMAGE_FIGURES, image_metrics
from fastalign.metrics.pixel import PixelMetrics

__all__ = ["IMAGE_FIGURES", "Figures", "PixelMetrics", "image_metrics"]
