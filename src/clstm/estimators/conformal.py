"""Split-conformal intervals: how far forecasts were off where the model had not learnt, step by step.

A point forecast is an interval without width, so one formula serves points and quantiles.  It needs only the
forecasts of held-out origins, not the model.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def scores(actual: Array, lower: Array, upper: Array) -> Array:
    """Return how far values lie outside of intervals: above 0 outside, below 0 inside.

    Parameters
    ----------
    actual, lower, upper : ndarrays of one shape
        With a point forecast for both limits, the absolute error.

    Notes
    -----
    The score of conformalised quantile regression, ``max(lower - y, y - upper)``: Y. Romano, E. Patterson,
    E. Candès, "Conformalized quantile regression", NeurIPS 2019, equation 6.

    Examples
    --------
    >>> scores(np.array([1.0, 5.0]), np.array([2.0, 2.0]), np.array([4.0, 6.0]))
    array([ 1., -1.])
    """
    return np.maximum(lower - actual, actual - upper)


def widths(held_out: Array, coverage: float) -> Array:
    """Return by how much to widen intervals so that they cover a new value with the given probability.

    Parameters
    ----------
    held_out : ndarray of shape (n, ...)
        Scores of n held-out origins; each of the other places has a width of its own.
    coverage : float in (0, 1)

    Returns
    -------
    ndarray of shape (...)
        The k-th smallest score with ``k = ceil((n + 1) coverage)``.

    Raises
    ------
    ValueError
        There are too few origins for this coverage: k > n.

    Notes
    -----
    With exchangeable scores the coverage is at least the given one and, without ties, at most 1 / (n + 1)
    above.  V. Vovk, A. Gammerman, G. Shafer, "Algorithmic learning in a random world", 2005; J. Lei et al.,
    "Distribution-free predictive inference for regression", JASA 113, 2018, theorem 2.  The errors of a
    series are exchangeable only roughly, so that the coverage of a series has to be measured.

    Examples
    --------
    >>> scores = np.tile(np.arange(1.0, 10.0)[:, None], 2)
    >>> widths(scores, 0.9), widths(scores, 0.5)
    (array([9., 9.]), array([5., 5.]))
    """
    n = len(held_out)
    k = rank(n, coverage)
    if k > n:
        needed = math.ceil(coverage / (1.0 - coverage) - 1e-9)
        raise ValueError(
            f"coverage: expected at most {n / (n + 1):.4g}, for {n} origins were held out, got {coverage:g}, "
            f"which needs {needed}; raise validation_fraction"
        )
    smallest: Array = np.partition(held_out, k - 1, axis=0)[k - 1]
    return smallest


def rank(n: int, coverage: float) -> int:
    """Return which of n scores, from 1 for the smallest, has this coverage; above n none has.

    Examples
    --------
    >>> rank(9, 0.9), rank(8, 0.9)
    (9, 9)
    """
    return math.ceil((n + 1) * coverage - 1e-9)  # 10 * 0.9 is 9, whatever its last bit says


def widened(lower: Array, upper: Array, width: Array) -> tuple[Array, Array]:
    """Return the limits moved apart by `width`; where they would cross, both are halfway."""
    below, above = lower - width, upper + width
    crossed = below > above
    middle = (lower + upper) / 2
    return np.where(crossed, middle, below), np.where(crossed, middle, above)


def pairs(quantiles: tuple[float, ...]) -> list[tuple[int, int]]:
    """Return the positions of the limits that quantiles make, widest first; without any, the point itself.

    Examples
    --------
    >>> pairs((0.05, 0.25, 0.5, 0.75, 0.95)), pairs(())
    ([(0, 4), (1, 3)], [(0, 0)])
    """
    half = len(quantiles) // 2
    return [(k, len(quantiles) - 1 - k) for k in range(half)] or [(0, 0)]
