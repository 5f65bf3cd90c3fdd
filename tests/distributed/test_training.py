"""Whole epochs on several processes against one process."""

from __future__ import annotations

import distributed_work as work
import pytest
import torch

CASES = {
    # 7 images in batches of at most 3 are 3 + 2 + 2: of three processes one has none at times.
    "fine": {"align": "fca+fa", "teacher": True, "number": 7, "batch_size": 3},
    "plain ICA": {"align": "ica", "teacher": False, "number": 5, "batch_size": 5},
    "all": {"align": "ica+fca+fa", "teacher": False, "number": 5, "batch_size": 4},
}


@pytest.mark.parametrize("name", CASES)
def test_parameters_and_figures_are_those_of_one_process(processes, name):
    expected, wanted = work.training(work.ONE, **CASES[name])
    start = work.training(work.ONE, **CASES[name], epochs=0)[1]
    for number in (2, 3):
        results = processes(number, "training", **CASES[name])
        for history, tensors in results:
            assert history == results[0][0]
            assert tensors.keys() == wanted.keys()
            for key, value in tensors.items():
                assert torch.equal(value, results[0][1][key]), key
        history, tensors = results[0]
        for found, figures in zip(history, expected, strict=True):
            # Means of float32 values of size 1, and what two steps make of their rounding.
            assert found == pytest.approx(figures, rel=1e-4, abs=1e-5)
        for key, value in tensors.items():
            moved = (wanted[key] - start[key]).abs().max() if key in start else 1.0
            error = (value - wanted[key]).abs().max()
            assert error <= 1e-3 * moved + 1e-6, (number, key)


def test_training_moves_the_parameters():
    """Else the comparison above would say nothing."""
    for options in CASES.values():
        after, before = (work.training(work.ONE, **options, epochs=n)[1] for n in (2, 0))
        moved = [key for key in before if not torch.equal(after[key], before[key])]
        assert len(moved) > len(before) / 3


def test_a_fit_in_python_on_five_processes(processes):
    """Seven images and three for the thresholds: some processes have none of these."""
    scores, threshold, about = work.fit(work.ONE, 7)
    for found, limit, described in processes(5, "fit", number=7):
        # Gaussians of few images pass the rounding on by their condition, at most 1e3 here.
        torch.testing.assert_close(found, scores, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(limit, threshold, rtol=1e-3, atol=1e-3)
        assert described["images"] == about["images"]
        assert described["alignment"]["summary"] == about["alignment"]["summary"]


def test_processes_that_were_given_different_things_are_told(processes):
    said = processes(5, "fit", number=7, seeds=[0, 0, 4, 0, 0])
    assert "seed 4, not 0" in said[2]
    assert all("process 2: " in text and "seed 4, not 0" in text for text in said[:2] + said[3:])
