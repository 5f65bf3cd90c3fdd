"""Contestants that run under a forced launch plan."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from fastalign import ops
from fastalign.bench import measure, plans, rows, setting, summary
from fastalign.bench.cases import QUICK
from fastalign.errors import ConfigError
from fastalign.ops import native

CASE = next(case for case in QUICK if case.op == "mahalanobis")
TINY = replace(CASE, shape=(2, 7, 3, 4), small=False)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    reason = native.load()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setattr(
        measure, "contestants", lambda case, backends: {"fastalign/cpu": case.ours("cpu")}
    )


def test_each_plan_of_a_sweep_is_a_contestant_with_its_plan_in_every_file(monkeypatch):
    seen = []
    monkeypatch.setattr(
        type(CASE), "ours", lambda case, backend: lambda *inputs: seen.append(ops.forced_plans())
    )
    forced = plans.read(["mahalanobis.cpu: width=1|8", "warp_affine.cpu: rows=4"], QUICK, ["cpu"])
    works, words = plans.contestants(TINY, ["cpu"], forced, "fastalign")
    for work in works.values():
        work()
    assert seen == [{}, {"mahalanobis.cpu": {"width": "1"}}, {"mahalanobis.cpu": {"width": "8"}}]
    assert list(words.values()) == ["", "mahalanobis.cpu: width=1", "mahalanobis.cpu: width=8"]


def test_plans_are_gated_timed_and_shown():
    forced = plans.read(["mahalanobis.cpu: width=1|8, threads=1"], [TINY], ["cpu"])
    row = measure.measure(TINY, "cpu", ["cpu"], 0.0, forced=forced, repeats=0)
    names = ["fastalign/cpu"]
    names += [
        f"fastalign/cpu, {w}" for w in ("as chosen", "threads=1, width=1", "threads=1, width=8")
    ]
    assert list(row["contestants"]) == names
    assert all(entry["ms"] > 0 for entry in row["contestants"].values())
    document = setting.BLANK | {"device_type": "cpu", "rows": [row], "forced_plans": "x.cpu: y=1"}
    lines = {
        line["contestant"]: line for line in csv.DictReader(io.StringIO(rows.as_csv(document)))
    }
    assert {line["backend"] for line in lines.values()} == {"cpu"}
    assert lines[names[3]]["plan"] == "mahalanobis.cpu: threads=1, width=8"
    text = summary.markdown(document | {"command": "bench"})
    assert "launch plans forced: x.cpu: y=1" in text
    assert text.partition("## Times")[2].count("mahalanobis, forward") == 1
    table = text.partition("## Forced plans")[2].partition("\n## ")[0]
    assert table.count(f"| {TINY.name} |") == 3 and "| 1.00x |" in table


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mahalanobis.cpu: with=1", "no field 'with'"),
        ("warp_affine.cpu: rows=4", "no measured case.*mahalanobis on cpu"),
        ("mahalanobis.triton: rows=4", "no measured case"),
        ("mahalanobis_backward.triton: rows=4", "no measured case"),
    ],
)
def test_a_plan_without_a_case_is_refused(text, words):
    with pytest.raises(ConfigError, match=f"--plan.*{words}"):
        plans.read([text], [TINY], ["cpu"])
