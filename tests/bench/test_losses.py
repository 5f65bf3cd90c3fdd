"""The losses that README and docs/limits.md name are those of the quick benchmark's table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def measured():
    text = (ROOT / "benchmarks" / "results" / "quick" / "models.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["part"] == "model"]
    assert {(row["image_size"], row["train_images"]) for row in rows} == {("128", "23")}
    return {row["contestant"]: row for row in rows}


def words(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page", ["README.md", "docs/limits.md"])
def test_what_we_lose_is_said_with_its_figures(page, measured):
    text = words(page)
    ours, padim, patchcore = (
        measured[name] for name in ("fastalign", "anomalib PaDiM", "anomalib PatchCore")
    )
    for row in (ours, padim, patchcore):
        assert f"{float(row['image_auroc']):.3f}" in text
    longer = sorted(float(ours["fit_s"]) / float(row["fit_s"]) for row in (padim, patchcore))
    assert f"{longer[0]:.0f} to {longer[1]:.0f} times as long" in text
    assert "23 training photographs" in text and "128 x 128 pixels" in text
    assert "quick/models.csv" in text


def test_the_table_of_the_limits_is_that_of_the_run(measured):
    text = words("docs/limits.md")
    for name, row in measured.items():
        cells = [f"{float(row[key]):.3f}" for key in ("image_auroc", "pixel_auroc", "aupro_30")]
        cells += [f"{float(row[key]):.1f}" for key in ("fit_s", "latency_p50_ms")]
        assert f"| {name} | {' | '.join(cells)} |" in text
