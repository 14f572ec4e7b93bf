"""Data to try things on: a small real series and a drawn task.

README.md beside this file states the source and the licence of the series.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check

__all__ = ["MonthlySeries", "load_co2", "long_term_dependency"]


class MonthlySeries(NamedTuple):
    """A series of monthly values without gaps.

    Attributes
    ----------
    values : ndarray of shape (N,), float64
    months : ndarray of shape (N,), datetime64[M]
        Consecutive months.
    interpolated : ndarray of shape (N,), bool
        True where nothing was measured and the value stands between its neighbours.
    """

    values: NDArray[np.float64]
    months: NDArray[np.datetime64]
    interpolated: NDArray[np.bool_]


def load_co2() -> MonthlySeries:
    """Return the monthly mean concentration of carbon dioxide at Mauna Loa, March 1958 to December 2001.

    Returns
    -------
    MonthlySeries
        526 values in ppm (parts per million, by volume).  Fresh arrays at each call.

    Notes
    -----
    C. D. Keeling and T. P. Whorf, "Atmospheric CO2 concentrations derived from flask air samples at sites in
    the SIO network", in Trends: A Compendium of Data on Global Change, Carbon Dioxide Information Analysis
    Center, 2004. Public domain.

    Examples
    --------
    >>> from clstm.datasets import load_co2
    >>> co2 = load_co2()
    >>> print(co2.months[-1], co2.values[-1].round(1))
    2001-12 371.0
    """
    text = resources.files(__package__).joinpath("co2.csv").read_text(encoding="ascii")
    rows = [line.split(",") for line in text.splitlines()[1:]]
    months, values, weeks = zip(*rows, strict=True)
    return MonthlySeries(
        np.array(values, np.float64), np.array(months, "datetime64[M]"), np.array(weeks, np.intp) == 0
    )


def long_term_dependency(
    seq_length: int = 20,
    num_samples: int = 100,
    input_size: int = 10,
    *,
    noise: float = 0.1,
    rng: int | np.random.Generator | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Draw sequences whose first vector is all that matters, to be named after the last.

    Parameters
    ----------
    seq_length : int, default 20
        T, time steps of each sequence, at least 1.
    num_samples : int, default 100
        B, number of sequences.
    input_size : int, default 10
        I, number of features, and of classes.
    noise : float, default 0.1
        Standard deviation of everything after the first vector, not negative.
    rng : None, int or numpy.random.Generator
        Source of classes and noise.

    Returns
    -------
    x : ndarray of shape (T, B, I), float64
        ``x[0, b]`` is the one-hot vector of the class, all later ones are normal noise.
    classes : ndarray of shape (B,), intp
        0 to I - 1, all as likely: guessing is right once in I.

    Raises
    ------
    ValueError, TypeError
        An argument is out of range or has the wrong type.

    Examples
    --------
    >>> from clstm.datasets import long_term_dependency
    >>> x, classes = long_term_dependency(seq_length=15, num_samples=4, input_size=3, rng=0)
    >>> x.shape, classes
    ((15, 4, 3), array([2, 1, 1, 0]))
    >>> x[0, 0]
    array([0., 0., 1.])
    """
    T = _check.integer("seq_length", seq_length, 1)
    B = _check.integer("num_samples", num_samples, 0)
    I = _check.integer("input_size", input_size, 1)  # noqa: E741
    noise = _check.real("noise", noise)
    if noise < 0:
        raise ValueError(f"noise: expected at least 0, got {noise}")
    rng = _check.generator(rng)
    classes = rng.integers(0, I, B, np.intp)
    x = noise * rng.standard_normal((T, B, I))
    x[0] = np.eye(I)[classes]
    return x, classes
