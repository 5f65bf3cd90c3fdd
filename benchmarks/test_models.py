"""The models of ``fastalign bench`` under pytest-benchmark: fit once, then one image at a time.

``fastalign bench`` gives each a process of its own and measures its memory besides.
"""

from __future__ import annotations

import os

import pytest
import torch

from fastalign.bench import contestants, models
from fastalign.bench.libraries import Absent
from fastalign.bench.protocol import Jitter, read_category
from fastalign.engine.demo import demo_category

SIZE = int(os.environ.get("FASTALIGN_BENCH_SIZE", "128"))
THREADS = int(os.environ.get("FASTALIGN_BENCH_THREADS", "2"))


@pytest.fixture(scope="module")
def images():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with demo_category() as folder:
        yield read_category(folder, (SIZE, SIZE), Jitter(), seed=0, validation=0.0)
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", contestants.NAMES)
def test_one_image(name: str, images, benchmark) -> None:
    try:
        contestant = contestants.make(name, SIZE)
    except Absent as error:
        pytest.skip(str(error))
    row = models.measure(contestant, images, 1)
    assert "failed" not in row, row["failed"]
    benchmark.group = f"one image, {SIZE} x {SIZE}"
    kept = ("fit_s", "stored_bytes", "image_auroc", "pixel_auroc", "aupro_30")
    benchmark.extra_info.update({key: row[key] for key in kept})
    image = images.test[:1]
    with torch.inference_mode():
        benchmark(lambda: contestant.score(image))
