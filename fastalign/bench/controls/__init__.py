"""Known ways to judge the same features: what ours is held against, on the very same stages.

Each control is a small class with ``fit`` and ``score``; :data:`CONTROLS` has all of them by name.
"""

from __future__ import annotations

from collections.abc import Callable

from fastalign.bench.controls.banks import MahalanobisPatchcore, Patchcore, PositionFree
from fastalign.bench.controls.features import Control
from fastalign.bench.controls.padim import Padim
from fastalign.bench.controls.place import SamePlace
from fastalign.bench.controls.subspace import PcaResidual

# Made with the seed of everything that a control draws.
CONTROLS: dict[str, Callable[[int], Control]] = {
    "PaDiM": Padim,
    "PatchCore": Patchcore,
    "Mahalanobis PatchCore": MahalanobisPatchcore,
    "same place, radius 0": lambda seed: SamePlace(0),
    "same place, radius 1": lambda seed: SamePlace(1),
    "same place, radius 2": lambda seed: SamePlace(2),
    "any place, 8 turns": lambda seed: PositionFree(8, seed),
    "any place, 30 turns": lambda seed: PositionFree(30, seed),
    "PCA residual": lambda seed: PcaResidual(),
}
