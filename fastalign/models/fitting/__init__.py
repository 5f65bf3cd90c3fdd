"""From images of good parts to a fitted model: one file a step, and their order in ``course``."""

from __future__ import annotations

from fastalign.models.fitting.course import fit

__all__ = ["fit"]
