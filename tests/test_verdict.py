"""A score meets a threshold in one place, and what could not be judged is never good."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fastalign.engine.scoring import Thresholds
from fastalign.verdict import Verdict, judge, judge_each

SCORES = [-math.inf, 0.0, 1.0, 1.5, math.inf, math.nan]
NOT, GOOD, BAD = Verdict.UNSURE, Verdict.GOOD, Verdict.ANOMALY
EXPECTED = [NOT, GOOD, GOOD, BAD, NOT, NOT]


def test_only_a_finite_score_at_or_below_a_finite_threshold_is_good():
    assert [judge(score, 1.0) for score in SCORES] == EXPECTED
    assert [verdict.text for verdict in (GOOD, BAD, NOT)] == ["good", "anomaly", "unsure"]


@pytest.mark.parametrize("threshold", [None, math.nan, math.inf, -math.inf])
def test_without_a_finite_threshold_nothing_is_judged(threshold):
    assert {judge(score, threshold) for score in SCORES} == {NOT}
    assert (judge_each(np.array(SCORES), threshold) == NOT).all()
    assert (judge_each(torch.tensor(SCORES), threshold) == NOT).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_and_tensors_are_judged_as_single_scores_are(dtype):
    array = np.array([SCORES, SCORES], dtype)
    for judged in (
        judge_each(array, 1.0),
        judge_each(torch.from_numpy(array), 1.0).numpy(),
        judge_each(torch.from_numpy(array), torch.tensor(1.0)).numpy(),
    ):
        assert judged.dtype == np.int8 and judged.tolist() == [EXPECTED, EXPECTED]


def test_a_mask_tells_good_from_not_judged():
    scores = np.array([[0.0, 2.0, math.nan]], np.float32)
    assert Thresholds(1.0, 1.0).mask(scores).tolist() == [[0, 255, 128]]
    assert Thresholds(1.0, None).mask(scores).tolist() == [[128, 128, 128]]


# The source ---------------------------------------------------------------------------------------

# A name of a score or a threshold, in any spelling: `scores`, `self._threshold`, `limits.image`.
NAMES = re.compile(r"(?<![a-z])(scores?|\w*thresholds?|limits?\.(image|pixel))\b(?!_quantile)")
CALLS = {"gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"}


def comparisons(tree: ast.AST) -> Iterator[ast.expr]:
    """Ordered comparisons of something called a score or a threshold with what is no constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            ordered = any(isinstance(op, (ast.Gt, ast.GtE, ast.Lt, ast.LtE)) for op in node.ops)
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            ordered, operands = node.func.attr in CALLS, [node.func.value, *node.args]
        else:
            continue
        if not ordered or any(isinstance(one, ast.Constant) for one in operands):
            continue
        if any(NAMES.search(ast.unparse(operand)) for operand in operands):
            yield node


def test_nobody_else_compares_a_score_with_a_threshold(repository):
    package = repository / "fastalign"
    found = {
        f"{path.relative_to(package).as_posix()}: {ast.unparse(node)}"
        for path in package.rglob("*.py")
        if path.name != "verdict.py"
        for node in comparisons(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    ["score > self.image", "x > limits.pixel", "model.image_threshold < x", "torch.gt(scores, t)"],
)
def test_such_a_comparison_would_be_noticed(source):
    assert list(comparisons(ast.parse(source)))
