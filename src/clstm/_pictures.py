"""What `--plot` draws of a forecast, on `clstm.plot`; matplotlib is installed when this is called."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _check, plot
from ._tasks import Roles, Series

# Of many groups the first are drawn.
MOST_GROUPS = 6
# Horizons of a backtest, and of what is known before a forecast, that are drawn; more if they are short.
_WINDOWS, _BEFORE, _FEWEST_STEPS = 8, 4, 48

_NAIVE, _FORECAST = "naive", "forecast"


def forecast(roles: Roles, data: Series, found: Any, horizon: int, coverage: float | None) -> Any:
    """Draw what `TableModel.predict` found, behind the end of what is known; return the figure."""
    figure, fields = _figure(len(data.lengths))
    for axes, (name, known, ahead) in zip(fields, _groups(roles, data.known, found), strict=False):
        values = known[roles.target].to_numpy()[-max(_BEFORE * horizon, _FEWEST_STEPS) :]
        before = _times(roles, known, len(known))[-len(values) :]
        after = ahead[roles.time].to_numpy() if roles.time else before[-1] + 1 + np.arange(horizon)
        axes = plot.forecast(
            np.concatenate([before, after]),
            np.concatenate([values, np.full(horizon, np.nan)]),
            {_FORECAST: ahead[roles.target].to_numpy()},
            axes=axes,
            title=name or f"{roles.target}: the next {_check.counted(horizon, 'step')}",
            ylabel=roles.target,
        )
        if coverage is not None:
            lower, upper = (ahead[f"{roles.target}_{limit}"].to_numpy() for limit in ("lower", "upper"))
            _band(axes, after, lower, upper, coverage)
        if horizon == 1:  # a line of one point cannot be seen
            axes.plot(after, ahead[roles.target], "o", color=plot.STYLES[0][0])
    _place_legends(fields)
    return figure


def backtest(roles: Roles, data: Series, found: Any, horizon: int, coverage: float | None) -> Any:
    """Draw the last forecasts of `TableModel.backtest` that do not overlap; return the figure."""
    figure, fields = _figure(len(data.lengths))
    for axes, (name, known, rows) in zip(fields, _groups(roles, data.known, found), strict=False):
        origins = rows["origin"].unique()[::-1][::horizon][: max(_WINDOWS, _FEWEST_STEPS // horizon)][::-1]
        drawn = rows[rows["origin"].isin(origins)]
        shown = min(len(known), len(drawn) + horizon)
        times = _times(roles, known, len(known))[-shown:]
        shape = (-1, horizon) if horizon > 1 else -1  # a line of one point cannot be seen
        forecasts = {name: drawn[name].to_numpy().reshape(shape) for name in (_FORECAST, _NAIVE)}
        axes = plot.forecast(
            times,
            known[roles.target].to_numpy()[-shown:],
            forecasts,
            axes=axes,
            title=name or f"{roles.target}: {_check.counted(horizon, 'step')} at once",
            ylabel=roles.target,
        )
        if coverage is not None:
            lower, upper = (drawn[name].to_numpy() for name in ("lower", "upper"))
            ends, step = times[-len(drawn) :], horizon if horizon > 1 else len(drawn)
            for begin in range(0, len(drawn), step):
                window = slice(begin, begin + step)
                _band(axes, ends[window], lower[window], upper[window], coverage)
    _place_legends(fields)
    return figure


def _figure(groups: int) -> tuple[Any, list[Any]]:
    """Make a figure with a field for each group."""
    count = min(groups, MOST_GROUPS)
    made = importlib.import_module("matplotlib.figure").Figure(
        (10, 5 if count == 1 else 3 * count), layout="constrained"
    )
    return made, list(made.subplots(count, 1, squeeze=False)[:, 0])


def _groups(roles: Roles, known: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    """Return name, known rows and found rows of each group."""
    if roles.group is None:
        yield "", known, found
        return
    for name, rows in known.groupby(roles.group, sort=False):
        yield str(name), rows, found[found[roles.group].astype(str) == str(name)]


def _times(roles: Roles, known: Any, count: int) -> Any:
    return known[roles.time].to_numpy() if roles.time is not None else np.arange(1, count + 1)


def _band(axes: Any, times: Any, lower: Any, upper: Any, coverage: float) -> None:
    color, _ = plot.STYLES[0]
    width = 0 if len(times) > 1 else 3
    axes.fill_between(
        times, lower, upper, color=color, alpha=0.2, linewidth=width, label=f"{coverage:.0%} interval"
    )


def _place_legends(fields: list[Any]) -> None:
    """Leave the first field its legend, above what is drawn, each line once."""
    for axes in fields:
        axes.get_legend().remove()
    shown = dict(zip(*reversed(fields[0].get_legend_handles_labels()), strict=True))
    fields[0].legend(
        shown.values(),
        shown.keys(),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(shown),
        frameon=False,
    )
