from __future__ import annotations

import numpy as np
import pytest

from fastalign.engine.results import METRICS, Alignment, Evaluation, ImageResult, Skipped
from fastalign.report.gallery import Gallery

HOSTILE = "<img src=x onerror=\"document.documentElement.dataset.hacked='1'\">'&amp;.png"


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    return Gallery(folder, 1.0)


@pytest.fixture
def make_evaluation(gallery):
    """An evaluation of ``count`` images, every third anomalous, with pictures in ``gallery``."""

    def make(count: int = 7, threshold: float | None = 1.0, side: int = 24) -> Evaluation:
        rng = np.random.default_rng(0)
        images = []
        for i in range(count):
            label = int(i % 3 == 0)
            score = float(rng.uniform(0.5, 1.1) + label * rng.uniform(0, 1))
            image = rng.integers(0, 255, (side, 2 * side, 3), dtype=np.uint8)
            scores = rng.uniform(0, score, (side, side)).astype(np.float32)
            truth = np.zeros((side, 2 * side), bool)
            truth[4:9, 6:15] = True
            covered = np.ones((side, side), bool)
            covered[:, :5] = False
            gallery.add(i, image, scores, truth if label else None, image[:, :side], covered)
            images.append(
                ImageResult(
                    path=f"test/{i}-{HOSTILE}" if i == 0 else f"test/{i}.png",
                    defect=("good", HOSTILE, "good", "hole")[i % 4] if label else "good",
                    label=label,
                    score=score,
                    predicted=None if threshold is None else int(score > threshold),
                    alignment=Alignment(2.0 + i, 1.0 + i, 0.02, -3.0, 1.01, 0.8),
                )
            )
        return Evaluation(
            category=f"part {HOSTILE}",
            metrics=dict.fromkeys(METRICS, 0.9),
            reasons={},
            ms_per_image=12.0,
            alignment_ms_per_image=3.0,
            peak_rss_mb=400.0,
            image_threshold=threshold,
            pixel_threshold=threshold,
            counts={"images": count},
            alignment={"summary": "Alignment is used.", "reason": HOSTILE},
            protocol={"threshold_source": "quantile", "versions": {"torch": HOSTILE}},
            images=images,
            skipped=[Skipped(HOSTILE, HOSTILE)],
            warnings=[HOSTILE],
            curves={"roc": ([0.0, 0.0, 1.0], [0.0, 0.8, 1.0]), "pro": ([0.0, 0.3], [0.5, 0.9])},
        )

    return make
