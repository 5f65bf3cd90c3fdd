"""How often a warp's loads of turned taps meet in one bank, by the distance of rows.

    python benchmarks/micro/shared_banks.py

Counted, not timed: 32 banks of four bytes, a load takes as many rounds as the fullest bank has
different words. It decided the pitch of patches and the lanes on them (csrc/cuda/warp_patch.cuh).
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

BANKS = 32
# Lanes across and down, and columns from one lane to the next.
LANES = ((32, 1, 1), (8, 4, 1), (8, 4, 2), (16, 2, 2), (4, 8, 2))
ANGLES = (0, 3, 10, 17, 30, 45, 90)
SCALES = (0.9, 1.0, 1.1)


def rounds(words: np.ndarray) -> int:
    """Of one load: the words of its lanes."""
    return int(np.bincount(np.unique(words) % BANKS, minlength=BANKS).max())


def turned(lanes: tuple[int, int, int], angle: float, pitch: int, places: np.ndarray) -> float:
    """Mean rounds over scales, both senses of the turn and places of the first tap."""
    across, _, step = lanes
    lane = np.arange(BANKS)
    column, row = lane % across * step, lane // across
    found = []
    for scale, sense, (x, y) in product(SCALES, (1, -1), places):
        cosine = scale * math.cos(math.radians(angle))
        sine = scale * sense * math.sin(math.radians(angle))
        to_x = np.floor(cosine * column - sine * row + x).astype(int)
        to_y = np.floor(sine * column + cosine * row + y).astype(int)
        found.append(rounds(to_y * pitch + to_x))
    return float(np.mean(found))


def main() -> None:
    places = 200 + 8 * np.random.default_rng(0).random((20, 2))
    pitches = range(64, 96, 4)
    print(
        "| lanes, columns apart | degrees | "
        + " | ".join(f"{p % 32} mod 32" for p in pitches)
        + " |"
    )
    print("|---|---:|" + "---:|" * len(pitches))
    for lanes, angle in product(LANES, ANGLES):
        cells = " | ".join(f"{turned(lanes, angle, pitch, places):.1f}" for pitch in pitches)
        print(f"| {lanes[0]} x {lanes[1]}, {lanes[2]} | {angle} | {cells} |")


if __name__ == "__main__":
    main()
