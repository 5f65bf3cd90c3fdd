"""Cumulative sums, and how often they raise a false alarm.

A CUSUM (Page, Biometrika 41, 1954) adds up what lies above an allowance and begins anew below 0:
``S = max(0, S + z - allowance)``. It is an alarm at its limit, and the change began where it last
left 0. The allowance is half of the shift that is found soonest.
"""

from __future__ import annotations

import math

ALLOWANCE = 0.5
"""Of standard normal values: a shift by one standard deviation is found soonest."""
# Mean overshoot of a normal random walk over both of its boundaries (Siegmund, 1985).
_OVERSHOOT = 1.166
_MOST_LIMIT = 1000.0


def corrected(limit: float) -> float:
    """The limit with the mean overshoot, as the formulas of Brownian motion take it."""
    return limit + _OVERSHOOT


def average_run_length(limit: float, allowance: float = ALLOWANCE) -> float:
    """Values until an alarm on average, of independent standard normal ones without a change.

    Siegmund's approximation (Sequential Analysis, 1985, 2.52), within a few percent of the exact
    Markov chain (Brook and Evans, Biometrika 59, 1972).

    Args:
        limit: where a sum is an alarm, above 0.
        allowance: what is taken off each value, above 0.
    """
    exponent = 2 * allowance * corrected(limit)
    return (math.expm1(exponent) - exponent) / (2 * allowance**2)


def limit_for(interval: float, allowance: float = ALLOWANCE) -> float:
    """The limit with so many values between two false alarms on average, the inverse of
    :func:`average_run_length`."""
    low, high = 0.0, 1.0
    while average_run_length(high, allowance) < interval and high < _MOST_LIMIT:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if average_run_length(middle, allowance) < interval:
            low = middle
        else:
            high = middle
    return high
