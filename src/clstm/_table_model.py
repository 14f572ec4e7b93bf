"""class TableModel: a fitted estimator, and what it takes to use it on another table.

What the columns mean, how a CSV is written and what the training has seen are part of its file.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from . import _check, _tables, _tasks
from ._tables import Reading, Table
from ._tasks import Roles, Sequences, Series
from .parameters import Saved

Array = NDArray[Any]

ESTIMATORS = {"forecast": "LSTMForecaster", "classify": "LSTMClassifier", "regress": "LSTMRegressor"}


def new_estimator(task: str, **arguments: Any) -> Any:
    """Make the estimator of a task."""
    return getattr(estimators(), ESTIMATORS[task])(**arguments)


def estimators() -> Any:
    """Return the package `clstm.estimators`, which needs scikit-learn."""
    try:
        return importlib.import_module(".estimators", __package__)
    except ImportError as error:
        raise ImportError("models of tables need scikit-learn: pip install 'cython-lstm[cli]'") from error


class TableModel(Saved):
    """What `clstm train` makes of a table: an estimator and what it takes to use it on another table.

    Parameters
    ----------
    roles : Roles
        Which column is what.
    reading : Reading
        How the text of the table was taken, which is taken for the next one too.
    estimator : LSTMForecaster, LSTMClassifier or LSTMRegressor
        Fitted.
    coverage : float, optional
        Of the intervals of a forecast; without, there are none.
    seen : dict of str to str or int, optional
        Of a forecast the last time, or number of the row, that each group had in training; "" without groups.
    """

    file_class = "TableModel"

    def __init__(
        self,
        roles: Roles,
        reading: Reading,
        estimator: Any,
        coverage: float | None = None,
        seen: Mapping[str, str | int] | None = None,
    ) -> None:
        self.roles, self.reading, self.estimator = roles, reading, estimator
        self.coverage, self.seen = coverage, dict(seen or {})

    # -------------------------------------------------------------------------------------------------- files

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the arguments, as JSON has them, and the arrays."""
        own, tensors = self.estimator.file_content()
        arguments = {"roles": asdict(self.roles), "reading": asdict(self.reading), "estimator": own}
        return arguments | {"coverage": self.coverage, "seen": self.seen}, tensors

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,  # noqa: ARG003
    ) -> Self:
        """Make a model of what a file holds."""
        _check.entries("arguments", arguments, ("roles", "reading", "estimator", "coverage", "seen"), True)
        for name, kind in (("roles", Roles), ("reading", Reading)):
            _check.entries(name, arguments[name], [field.name for field in fields(kind)], True)
        roles = _roles(arguments["roles"])
        coverage = arguments["coverage"]
        if coverage is not None:
            _check.proper_fraction("coverage", coverage)
        for name in ("seen", "estimator"):
            _check.instance(name, arguments[name], dict)
        kind = getattr(estimators(), ESTIMATORS[_check.choice("task", roles.task, _tasks.TASKS)])
        estimator = kind.from_file(arguments["estimator"], shapes, read)
        return cls(roles, Reading(**arguments["reading"]), estimator, coverage, arguments["seen"])

    # ----------------------------------------------------------------------------------------------- using it

    def predict(self, data: Any = None) -> Any:
        """Forecast what follows each series, or answer for each sequence.

        Parameters
        ----------
        data : path of a CSV or Parquet file, pandas.DataFrame, or None
            None: go on from the ends of the series that the training had.

        Returns
        -------
        pandas.DataFrame
            The column of the groups if there is one.  Of a forecast that of the times, or the step from 1,
            and the target, with the limits ``target_lower`` and ``target_upper``.  Of a classifier the
            target, and the probability of each label as ``p_label``; of a regression the target.
        """
        forecasts = self.roles.task == "forecast"
        if data is None and forecasts and not self.roles.future:
            return self._forecast(None)
        table = self._table(data)
        if forecasts:
            series = _tasks.series(table, self.roles)
            _tasks.check_ahead(table, self.roles, series, self.estimator.horizon, self.estimator.input_steps)
            return self._forecast(series)
        return self._answers(_tasks.sequences(table, self.roles, with_target=False))

    def backtest(self, data: Any) -> tuple[Any, dict[str, Any]]:
        """Compare forecasts or answers with what is true.

        Parameters
        ----------
        data : path of a CSV or Parquet file, or pandas.DataFrame

        Returns
        -------
        pandas.DataFrame
            Of a forecast a row for each origin and step; else as `predict` returns it, with the truth as
            ``target_true``.
        dict
            Errors by name.
        """
        table = self._table(data)
        if self.roles.task == "forecast":
            return self._backtest(_tasks.series(table, self.roles))
        sequences = _tasks.sequences(table, self.roles, with_target=True)
        found = self._answers(sequences)
        found.insert(2, f"{self.roles.target}_true", sequences.y)
        return found, self.scores(sequences)

    def _table(self, data: Any) -> Table:
        """Take whatever holds a table, as the training did."""
        if isinstance(data, Table):
            return data
        if isinstance(data, str | os.PathLike):
            return _tables.read(data, self.reading)
        return _tables.of_frame(data, self.reading)

    def _forecast(self, data: Series | None) -> Any:
        """Forecast what follows the known rows."""
        roles, options = self.roles, {}
        if data is not None:
            options = {"last_window": self._ends(data.known)}
            if roles.future:
                options["future"] = data.future
        found = self.estimator.predict(**options)
        if self.coverage is not None:
            limits = self.estimator.predict_interval(**options, coverage=self.coverage)
            for limit in (f"{roles.target}_lower", f"{roles.target}_upper"):
                found[limit] = limits[limit].to_numpy()
        if roles.time is None:
            count = np.arange(len(found)) % self.estimator.horizon + 1
            found.insert(int(roles.group is not None), "step", count)
        return found

    def _ends(self, known: Any) -> Any:
        """Return the last rows of each group, as many as the estimator keeps of its own series."""
        most = self.estimator.max_steps or 2 * self.estimator.input_steps
        return known.tail(most) if self.roles.group is None else known.groupby(self.roles.group).tail(most)

    def _backtest(self, data: Series) -> tuple[Any, dict[str, Any]]:
        """Forecast from every known row, and tell apart what the training had seen."""
        options = {} if self.coverage is None else {"coverage": self.coverage}
        backtest = self.estimator.backtest(data.known, **options)
        found = backtest.to_frame()
        if self.coverage is None:
            found = found.drop(columns=["lower", "upper"], errors="ignore")
        names = list(data.lengths)
        which = np.repeat(backtest.series, backtest.forecast.shape[1])
        if self.roles.group is not None:
            groups = np.array([str(name) for name in backtest.names], object)[which]
            found = found.drop(columns="series", errors="ignore")
            found.insert(0, self.roles.group, groups)
            names = list(map(str, backtest.names))
        found["naive"] = backtest.naive.reshape(-1)
        found["seen"] = False
        for number, name in enumerate(names):
            if name in self.seen:
                own = which == number
                last = self.seen[name]
                found.loc[own, "seen"] = found.loc[own, "time"] <= (
                    np.datetime64(last) if isinstance(last, str) else last
                )
        parts = {"up to the end of training": found["seen"], "new": ~found["seen"]}
        scores = {part: errors(found[rows]) for part, rows in parts.items() if rows.any()}
        return found, {"horizon": self.estimator.horizon, "coverage": self.coverage, "parts": scores}

    def _answers(self, data: Sequences) -> Any:
        """Answer for each sequence."""
        columns = {self.roles.group: data.names}
        if self.roles.task == "classify":
            odds = self.estimator.predict_proba(data.x)
            columns[self.roles.target] = self.estimator.classes_[np.argmax(odds, axis=1)]
            columns |= {f"p_{label}": odds[:, n] for n, label in enumerate(self.estimator.classes_)}
        else:
            columns[self.roles.target] = self.estimator.predict(data.x)
        return _tables.pandas().DataFrame(columns)

    def scores(self, data: Sequences, rows: NDArray[np.intp] | None = None) -> dict[str, Any]:
        """Compare answers with what is true, and with one answer for all; of some sequences, or all."""
        assert data.y is not None
        own = slice(None) if rows is None else rows
        answers, truth = self._answers(data)[self.roles.target].to_numpy()[own], data.y[own]
        n = len(truth)
        if self.roles.task == "classify":
            commonest = np.unique(truth, return_counts=True)[1].max() / n
            return {
                "sequences": n,
                "accuracy": float(np.mean(answers == truth)),
                "accuracy_of_commonest": float(commonest),
            }
        return {
            "sequences": n,
            "rmse": _rms(answers - truth),
            "mae": float(np.mean(np.abs(answers - truth))),
            "rmse_of_mean": _rms(truth - truth.mean()),
        }


def _roles(given: dict[str, Any]) -> Roles:
    """Return roles as a file has them."""
    names = {name: given[name] for name in ("past", "future", "static")}
    for name, value in names.items():
        _check.instance(name, value, list)
        for column in value:
            _check.instance(name, column, str)
    for name in ("task", "target", "group", "time"):
        if given[name] is not None or name in ("task", "target"):
            _check.instance(name, given[name], str)
    return Roles(**given | {name: tuple(value) for name, value in names.items()})


def errors(frame: Any) -> dict[str, float]:
    """Return how far forecasts are off, from the columns forecast, naive, actual and perhaps lower, upper."""
    error = (frame["forecast"] - frame["actual"]).to_numpy()
    found = {
        "values": len(frame),
        "rmse": _rms(error),
        "mae": float(np.mean(np.abs(error))),
        "rmse_of_naive": _rms((frame["naive"] - frame["actual"]).to_numpy()),
    }
    if "lower" in frame:
        inside = (frame["lower"] <= frame["actual"]) & (frame["actual"] <= frame["upper"])
        found["coverage"] = float(inside.mean())
    return found


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def show_scores(scores: Mapping[str, float]) -> str:
    """Return in words what `errors` or `TableModel.scores` found."""
    if "accuracy" in scores:
        simple, n = scores["accuracy_of_commonest"], _check.counted(int(scores["sequences"]), "sequence")
        return f"{scores['accuracy']:.1%} right (the commonest label alone {simple:.1%}), of {n}"
    naive, simple = (
        ("naive forecasts", scores["rmse_of_naive"])
        if "rmse_of_naive" in scores
        else ("their mean alone", scores["rmse_of_mean"])
    )
    number, noun = (
        (scores["values"], "forecast value") if "values" in scores else (scores["sequences"], "sequence")
    )
    inside = f", {scores['coverage']:.1%} inside the intervals" if "coverage" in scores else ""
    return (
        f"root mean square error {scores['rmse']:.4g} ({naive} {simple:.4g}), mean absolute error "
        f"{scores['mae']:.4g}, over {_check.counted(int(number), noun)}{inside}"
    )
