"""class Backtest: forecasts from many origins beside what came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .series import Layout, Series

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Backtest:
    """Forecasts from every origin, and how good they were.

    Of several series the origins stand one series after the other.  Arrays have no axis of targets where
    series were given without one.

    Attributes
    ----------
    forecast, actual, naive : ndarrays of shape (origins, horizon) or (origins, horizon, targets)
        What was forecast, what came, and what the naive forecast would have been: the last value, or with a
        `season` that of one season before.
    lower, upper : ndarrays of the same shape, or None
        Limits of the intervals, where the forecaster was calibrated.
    quantiles : ndarray of shape (origins, horizon, Q) or (origins, horizon, targets, Q), or None
    levels : tuple of float
        The Q levels.
    nominal : float
        The coverage that was asked for.
    series : ndarray of int of shape (origins,)
        Which of the series; `names` has their names.
    origins : ndarray of int of shape (origins,)
        The last step that each forecast knows.
    names : tuple
    """

    forecast: Array
    actual: Array
    naive: Array
    lower: Array | None
    upper: Array | None
    quantiles: Array | None
    levels: tuple[float, ...]
    nominal: float
    series: NDArray[np.intp]
    origins: NDArray[np.intp]
    names: tuple[Any, ...]
    _unit: Array = field(repr=False)  # of MASE, as broad as `forecast`
    _times: tuple[Any, ...] = field(repr=False)  # of each series, or None
    _layout: Layout = field(repr=False)

    @property
    def error(self) -> Array:
        """What was forecast minus what came."""
        return self.forecast - self.actual

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, over everything."""
        return float(np.sqrt(np.mean(np.square(self.error))))

    @property
    def mae(self) -> float:
        """Mean absolute error, over everything."""
        return float(np.mean(np.abs(self.error)))

    @property
    def mase(self) -> float:
        """Mean absolute scaled error: below 1 is better than naive forecasts of one step were in training.

        R. J. Hyndman, A. B. Koehler, "Another look at measures of forecast accuracy", International Journal
        of Forecasting 22, 2006.  With a `season` the naive forecast is that of one season before.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.mean(np.abs(self.error) / self._unit))

    @property
    def skill(self) -> float:
        """Share of the naive forecasts' squared error that is gone: 1 at best, 0 where it is no better."""
        with np.errstate(divide="ignore", invalid="ignore"):
            naive = np.mean(np.square(self.naive - self.actual))
            return float(1.0 - np.mean(np.square(self.error)) / naive)

    @property
    def rmse_of_steps(self) -> Array:
        """Root of the mean squared error of each step of the horizon, (horizon,)."""
        steps: Array = np.sqrt(self._of_steps(np.square(self.error)))
        return steps

    @property
    def mae_of_steps(self) -> Array:
        """Mean absolute error of each step of the horizon, (horizon,)."""
        return self._of_steps(np.abs(self.error))

    @property
    def coverage(self) -> float | None:
        """Share of what came that lies in the intervals; None without."""
        covered = self._covered()
        return None if covered is None else float(np.mean(covered))

    @property
    def coverage_of_steps(self) -> Array | None:
        """The same for each step of the horizon, (horizon,)."""
        covered = self._covered()
        return None if covered is None else self._of_steps(covered)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers over everything by name, of what there is."""
        found = {"rmse": self.rmse, "mae": self.mae, "mase": self.mase, "skill": self.skill}
        return found if self.coverage is None else found | {"coverage": self.coverage}

    def _of_steps(self, values: Array) -> Array:
        steps: Array = values.mean(axis=tuple(axis for axis in range(values.ndim) if axis != 1))
        return steps

    def _covered(self) -> Array | None:
        if self.lower is None or self.upper is None:
            return None
        return ((self.lower <= self.actual) & (self.actual <= self.upper)).astype(float)

    def __len__(self) -> int:
        return len(self.forecast)

    def __repr__(self) -> str:
        naive = np.sqrt(np.mean(np.square(self.naive - self.actual)))
        several = f"{len(self.names)} series, " if len(self.names) > 1 else ""
        lines = [
            f"Backtest: {several}{len(self)} origins, {self.forecast.shape[1]} steps ahead",
            f"  RMSE {self.rmse:.4g} (naive {naive:.4g}), MAE {self.mae:.4g}, MASE {self.mase:.3g}",
            f"  RMSE at the first step {self.rmse_of_steps[0]:.4g}, at the last {self.rmse_of_steps[-1]:.4g}",
        ]
        if self.coverage is not None:
            lines.append(f"  intervals of {self.nominal:.0%} cover {self.coverage:.1%}")
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """Return a long pandas.DataFrame: a row for each origin, step ahead and target.

        Returns
        -------
        pandas.DataFrame
            Columns ``series`` and ``target`` where there are several, ``origin`` and ``time`` (of series with
            times, else their numbers), ``step`` from 1, ``forecast``, ``actual``, and, where there are some,
            ``lower``, ``upper`` and quantiles as ``q0.1``.

        Raises
        ------
        ImportError
            pandas is missing.
        """
        import pandas

        n, horizon = self.forecast.shape[:2]
        targets = 1 if self.forecast.ndim == 2 else self.forecast.shape[2]
        step = np.tile(np.repeat(np.arange(1, horizon + 1), targets), n)
        origin = np.repeat(self.origins, horizon * targets)
        which = np.repeat(self.series, horizon * targets)
        table: dict[str, Any] = {}
        if len(self.names) > 1:
            table["series"] = pandas.Index(self.names).take(which)
        table["origin"], table["time"] = origin, origin + step
        if self._times[0] is not None:
            for name in ("origin", "time"):
                picked = [own.take(table[name][which == k]) for k, own in enumerate(self._times)]
                table[name] = picked[0].append(picked[1:])
        table["step"] = step
        if targets > 1:
            names = self._layout.targets or range(targets)
            table["target"] = pandas.Index(names).take(np.tile(np.arange(targets), n * horizon))
        values = {"forecast": self.forecast, "actual": self.actual, "lower": self.lower, "upper": self.upper}
        table |= {name: value.reshape(-1) for name, value in values.items() if value is not None}
        if self.quantiles is not None:
            columns = self.quantiles.reshape(-1, len(self.levels)).T
            table |= {f"q{level:g}": column for level, column in zip(self.levels, columns, strict=True)}
        return pandas.DataFrame(table)


def collect(
    series: Sequence[Series],
    origins: Sequence[NDArray[np.intp]],
    parts: dict[str, list[Array] | None],
    layout: Layout,
    **rest: Any,
) -> Backtest:
    """Put the forecasts of all series one after the other; each array is (origins, horizon, targets, ...)."""

    def joined(arrays: list[Array] | None) -> Array | None:
        if arrays is None:
            return None
        whole: Array = np.concatenate(arrays)
        return whole[:, :, 0] if layout.flat else whole

    return Backtest(
        **{name: joined(arrays) for name, arrays in parts.items()},  # type: ignore[arg-type]
        series=np.repeat(np.arange(len(series)), [len(steps) for steps in origins]),
        origins=np.concatenate(origins),
        names=tuple(one.name for one in series),
        _times=tuple(one.times for one in series),
        _layout=layout,
        **rest,
    )
