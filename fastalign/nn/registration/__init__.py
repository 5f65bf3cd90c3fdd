"""Registration of images against a template learned from images of the same kind."""

from __future__ import annotations

from fastalign.nn.registration.aligner import Pose, TemplateAligner
from fastalign.nn.registration.bank import TemplateBank
from fastalign.nn.registration.choose import Choice, choose_family, unexplained_share
from fastalign.nn.registration.refiner import GaussNewtonRefiner, edge_strength
from fastalign.nn.registration.search import Search, search_poses

__all__ = [
    "Choice",
    "GaussNewtonRefiner",
    "Pose",
    "Search",
    "TemplateAligner",
    "TemplateBank",
    "choose_family",
    "edge_strength",
    "search_poses",
    "unexplained_share",
]
