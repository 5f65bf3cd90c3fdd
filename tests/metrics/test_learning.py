from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fastalign.metrics.learning import CurvePoint, conclude_curve, plan

LABELS = [0] * 40 + [1] * 40


def points(error_by_size, draws=3, labels=LABELS, seed=0):
    """Fits whose scores of good and anomalous images lie so far apart."""
    rng = np.random.default_rng(seed)
    truth = np.array(labels)
    found = []
    for size, gap in error_by_size.items():
        for draw in range(1, 2 if size == max(error_by_size) else draws + 1):
            scores = rng.normal(size=len(truth)) + gap * truth
            auroc = float(roc_auc_score(truth, scores))
            found.append(CurvePoint(size, draw, auroc, scores=tuple(scores.tolist())))
    return found


def test_subsets_are_nested_and_the_first_draws_come_first():
    steps = plan(64, seed=3)
    sizes = [size for size, draw, _ in steps if draw == 1]
    assert sizes == [5, 10, 20, 50, 64] and [size for size, _, _ in steps[:5]] == sizes
    chosen = {(size, draw): set(positions) for size, draw, positions in steps}
    assert all(len(some) == size for (size, _), some in chosen.items())
    assert {size: sum(s == size for s, _ in chosen) for size in sizes} == {
        5: 5,
        10: 5,
        20: 3,
        50: 2,
        64: 1,
    }
    for size, draw in chosen:
        larger = [other for other in sizes if other > size and (other, draw) in chosen]
        assert all(chosen[size, draw] <= chosen[other, draw] for other in larger)
    assert chosen[5, 1] != chosen[5, 2]
    assert plan(64, seed=3) == steps and plan(64, seed=4) != steps
    assert [size for size, _, _ in plan(6, 0)] == [5, 6, 5]


def test_figures_of_a_size_are_means_with_their_range():
    some = [
        CurvePoint(5, 1, 0.8, None, 1.0, 2, 10, 1, 10),
        CurvePoint(5, 2, 0.9, None, None),
        CurvePoint(5, 3, reason="copies of one image"),
        CurvePoint(10, 1, 1.0, 0.5, 1.0, 0, 10, 1, 10),
    ]
    curve = conclude_curve(some, LABELS)
    five, ten = curve.sizes()
    assert five["fits"] == 2 and five["image_auroc"] == pytest.approx((0.85, 0.8, 0.9))
    assert five["aupro_30"] is None and five["false_alarms"] == (2, 2, 2)
    assert five["mistakes"] == (3, 3, 3) and ten["aupro_30"] == (0.5, 0.5, 0.5)
    told, last = curve.rows()
    assert (told["photographs"], told["fits"]) == ("5", "2")
    assert told["image_auroc"] == "0.850 (0.800–0.900)" and told["aupro_30"] == "–"
    assert last["aupro_30"] == "0.500" and last["missed"] == "1"


def test_a_gain_that_goes_on_is_told_with_its_interval():
    labels = [0] * 400 + [1] * 400
    curve = conclude_curve(points({10: 0.5, 20: 1.0, 40: 1.6}, labels=labels), labels)
    assert curve.outlook.startswith("More photographs would help")
    assert 0 < curve.low < curve.gain < curve.high
    # Of 20 and 40 alone: the errors fall by the same factor once more.
    now = next(one for one in curve.points if one.photographs == 40).image_auroc
    then = np.mean([one.image_auroc for one in curve.points if one.photographs == 20])
    assert curve.gain == pytest.approx((1 - now) * (1 - (1 - now) / (1 - then)))
    assert f"{curve.gain:+.3f}" in curve.outlook and "80 photographs" in curve.outlook


def test_what_was_looked_at_is_told_and_the_aupro_where_all_are_told_apart():
    labels = [0] * 12 + [1] * 9
    apart = [replace(one, aupro_30=0.25) for one in points({10: 99.0, 20: 99.0}, labels=labels)]
    apart[-1] = replace(apart[-1], aupro_30=0.75)
    outlook = conclude_curve(apart, labels).outlook
    assert "12 good and 9 anomalous test photographs" in outlook
    assert "the AUPRO went from 0.250 with 10 photographs to 0.750" in outlook
    first = [replace(one, aupro_30=None) for one in apart[:-1]]
    assert "AUPRO" not in conclude_curve([*first, apart[-1]], labels).outlook


@pytest.mark.parametrize(
    ("gaps", "labels", "begins"),
    [
        ({10: 1.4, 20: 1.5}, [0] * 12 + [1] * 12, "Not enough test photographs to tell: by"),
        ({10: 9.0, 20: 9.0}, LABELS, "Not enough test photographs to tell: with 20"),
        ({10: 3.0, 20: 3.0}, [0] * 1500 + [1] * 1500, "Another doubling would bring little"),
        ({20: 1.0, 23: 1.0}, LABELS, "The numbers of photographs that were tried lie too near"),
    ],
)
def test_what_cannot_be_told_is_not_told(gaps, labels, begins):
    curve = conclude_curve(points(gaps, labels=labels), labels)
    assert curve.outlook.startswith(begins)


def test_without_both_classes_or_any_model_nothing_is_told():
    failed = [CurvePoint(5, 1, reason="gone"), CurvePoint(10, 1, scores=(1.0,))]
    assert conclude_curve(failed, [0]).outlook.startswith("No figure tells")
    assert conclude_curve(failed, [0]).gain is None


def test_unsure_images_have_no_part_and_ties_count_half():
    labels = [0, 0, 1, 1, 1]
    before = CurvePoint(5, 1, 0.5, scores=(2.0, 1.0, 1.0, 2.0, None))
    last = CurvePoint(10, 1, 0.75, scores=(1.0, 2.0, 2.0, 3.0, None))
    curve = conclude_curve([before, last], labels)
    # One of the four pairs is a tie: an AUROC of 0.875, after one of 0.5.
    assert curve.gain == pytest.approx(0.125 * (1 - 0.125 / 0.5))
