"""Limits and run lengths of cumulative sums, held against the exact Markov chain."""

from statistics import NormalDist

import numpy as np
import pytest

from fastalign.drift.cusum import ALLOWANCE, average_run_length, limit_for


def exact_run_length(limit, allowance, states=400):
    """The average run length from 0 by the Markov chain of Brook and Evans (1972): the sum in
    cells, 0 with all below it."""
    width = 2 * limit / (2 * states - 1)
    below = NormalDist(0, 1).cdf
    edges = [below((k + 0.5) * width + allowance) for k in range(-states - 1, states)]
    moves = np.empty((states, states))
    for start in range(states):
        moves[start, 0] = edges[states + 1 - start]
        for end in range(1, states):
            moves[start, end] = edges[states + 1 + end - start] - edges[states + end - start]
    return np.linalg.solve(np.eye(states) - moves, np.ones(states))[0]


@pytest.mark.parametrize("limit", [3.0, 4.0, 5.0])
@pytest.mark.parametrize("allowance", [0.25, ALLOWANCE, 1.0])
def test_run_lengths_are_those_of_the_exact_chain(limit, allowance):
    exact = exact_run_length(limit, allowance, 150)
    assert average_run_length(limit, allowance) == pytest.approx(exact, rel=0.06)


def test_the_chain_itself_gives_what_is_published():
    # Of two sums with allowance 0.5, one for each direction, in textbooks of process control.
    assert exact_run_length(4.0, 0.5) / 2 == pytest.approx(168, rel=0.005)
    assert exact_run_length(5.0, 0.5) / 2 == pytest.approx(465, rel=0.005)


@pytest.mark.parametrize("interval", [100, 10_000, 1_800_000, 1e9])
def test_a_limit_has_the_interval_that_it_was_asked_for(interval):
    limit = limit_for(interval)
    assert average_run_length(limit) == pytest.approx(interval, rel=1e-6)
