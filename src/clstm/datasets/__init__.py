"""Small real data that ships with the package; README.md beside this file states source, licence and derivation."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MonthlySeries", "load_co2"]


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
    C. D. Keeling and T. P. Whorf, "Atmospheric CO2 concentrations derived from flask air samples at sites in the SIO
    network", in Trends: A Compendium of Data on Global Change, Carbon Dioxide Information Analysis Center, 2004.
    Public domain.

    Examples
    --------
    >>> from clstm.datasets import load_co2
    >>> co2 = load_co2()
    >>> co2.months[-1], co2.values[-1].round(1)
    (np.datetime64('2001-12'), np.float64(371.0))
    """
    text = resources.files(__package__).joinpath("co2.csv").read_text(encoding="ascii")
    rows = [line.split(",") for line in text.splitlines()[1:]]
    months, values, weeks = zip(*rows, strict=True)
    return MonthlySeries(np.array(values, np.float64), np.array(months, "datetime64[M]"), np.array(weeks, np.intp) == 0)
