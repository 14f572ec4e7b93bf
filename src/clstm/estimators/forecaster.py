"""class LSTMForecaster: the next values of series, from a causal model that forecasts at every step.

At each step the model sees the present and puts out the whole horizon, so that one pass over a series gives
the forecasts of all its origins: for training as for a backtest.  series.py knows the forms of data,
features.py what the model sees, conformal.py how wide intervals are.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from .. import _check, nn
from . import conformal, times
from ._base import ALONE, Run, SequenceEstimator, generator
from .backtest import Backtest, collect
from .features import Covariates, Recipe, Scale, is_relative, scale_of
from .series import Columns, Layout, Series, lay_out, with_future

Array = NDArray[Any]
T = TypeVar("T")

LOSSES = {"mse": nn.mse_loss, "l1": nn.l1_loss, "huber": nn.huber_loss}


class LSTMForecaster(SequenceEstimator):
    """Forecast the next `horizon` values of one series or of many, with one model for all.

    Parameters
    ----------
    horizon : int, default 1
        Steps that are forecast, all at once.
    input_steps : int, default 24
        Fewest values that a forecast is made from.
    max_steps : int, optional
        Most values that training makes a forecast from, and that are kept of the end of each series; twice
        `input_steps` by default.  A forecast may be made from more.
    season : int, optional
        Steps of a season, less than `input_steps`: 12 for months with a yearly one.  The model is then also
        shown what each step of the horizon was a season ago.
    relative : bool or "auto", default "auto"
        Forecast the change from the last value instead of the value, so that a level never seen before, of a
        series that rises, is nothing new.  "auto" does so if in training the last value forecast better than
        the mean.
    quantiles : sequence of float, optional
        Levels to forecast, rising, with 0.5 among them, which is then the point forecast.
    intervals : bool, default True
        Hold out the last `validation_fraction` of each series, train on what is before, and learn from the
        errors on that part how wide intervals have to be at each step.
    refit : bool, default True
        Afterwards train again on everything; widths stay.  With False the model is the one that they were
        measured on.  Has an effect with `intervals` or `early_stopping`.
    hidden_size : int, default 32
    num_layers : int, default 1
    cell : {"lstm", "rnn"}, default "lstm"
    dropout : float, default 0.0
        Share of the features that training sets to 0, between recurrent layers and before the read-out.
    loss : {"mse", "l1", "huber"}, optional
        What is minimised, on scaled values; "mse" by default.  With `quantiles` theirs is, and None expected.
    optimiser : {"adam", "adamw", "rmsprop", "sgd"} or callable, default "adam"
    learning_rate : float, default 3e-3
        At first; it falls to 0 over the epochs as a cosine does, but not with `early_stopping`.
    weight_decay : float, optional
        For "adamw" and "sgd" alone.
    max_epochs : int, default 40
    batch_size : int, default 16
        Pieces of series a step.
    max_norm : float or None, default 1.0
    early_stopping : bool, default False
        Stop when the loss on the part that is held out no longer falls; `refit` trains as many epochs as
        were best.
    validation_fraction : float, default 0.2
        Share of the origins of each series that is held out, the last ones.
    n_iter_no_change, tol : int, default 10; float, default 1e-4
        When `early_stopping` stops.
    target, time, group : column, optional
        Of long frames: what is forecast (a column or a list of them), when, and which series a row belongs
        to.
    past, future, static : column or list of columns, optional
        Of long frames: covariates known up to now, those known ahead, and those that belong to a series as
        a whole.
    dtype : {"float32", "float64"}, default "float32"
    random_state, n_jobs, verbose
        As in `LSTMRegressor`.

    Attributes
    ----------
    model_ : nn.SequenceModel
        What was trained; it takes scaled inputs.
    history_ : dict of list
        What `nn.SequenceModel.fit` recorded of each epoch, of the training in which a part was held out.
    held_out_ : Backtest or None
        Forecasts of what was held out, without intervals, by the model that had not seen it.
    relative_ : bool
        Whether forecasts are changes from the last value.
    n_targets_ : int
    series_names_ : list
        Of the series in training: positions, columns or values of the group.

    Notes
    -----
    **Series** are arrays (T,) or (T, targets), a list of such of any lengths, pandas Series, or frames.  A
    frame without `target` is *wide*: each column is a series, and may begin later than others.  A frame with
    `target` is *long*: a row for each step of each series; several columns in `target` are forecast together.
    A long frame without `time` takes rows as they come, unless its index has dates.  Times have to be regular
    (months and business days are) and in order.  Results have the form of the series they are for.

    **Scaling** is done inside, for each series from its own part of the training data.  A series that
    training has not seen is scaled by its first `input_steps` values.  Arrays and lists are told apart by
    their position, columns and groups by name; where training had one series, a single one is that one.

    **Intervals** are split-conformal with a width for each step: see `clstm.estimators.conformal`.  With
    `quantiles` they are conformalised quantile regression, of the pair whose coverage is nearest to what is
    asked.  Quantiles are sorted, so that they never cross.  As the errors of a series are not exchangeable
    and `refit` changes the model, look at the coverage that `backtest` measures.

    Examples
    --------
    >>> from clstm.datasets import load_co2
    >>> from clstm.estimators import LSTMForecaster
    >>> y = load_co2().values
    >>> forecaster = LSTMForecaster(horizon=12, season=12, max_epochs=10, random_state=0).fit(y[:-12])
    >>> forecaster.predict().shape, forecaster.predict_interval(coverage=0.8).shape
    ((12,), (12, 2))
    >>> forecaster.backtest(y, start=406).skill > 0.8
    True
    """

    file_class = "LSTMForecaster"

    # A causal model in scaled units; these are no arguments here.
    bidirectional = False
    scale = True

    _fitted_names = ("recipe", "columns", "layout", "targets", "names", "lengths", "step", "last")
    _array_names = (
        "scales", "y", "past", "future", "static", "covariates.past", "covariates.future",
        "covariates.static", "scores",
    )  # fmt: skip

    _scales: dict[Any, Scale]
    _ends: list[Series]
    _scores: Array | None

    def __init__(
        self,
        horizon: int = 1,
        input_steps: int = 24,
        *,
        max_steps: int | None = None,
        season: int | None = None,
        relative: Any = "auto",
        quantiles: Any = None,
        intervals: bool = True,
        refit: bool = True,
        hidden_size: int = 32,
        num_layers: int = 1,
        cell: str = "lstm",
        dropout: float = 0.0,
        loss: Any = None,
        optimiser: Any = "adam",
        learning_rate: float = 3e-3,
        weight_decay: float | None = None,
        max_epochs: int = 40,
        batch_size: int = 16,
        max_norm: float | None = 1.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        target: Any = None,
        time: Any = None,
        group: Any = None,
        past: Any = None,
        future: Any = None,
        static: Any = None,
        dtype: Any = "float32",
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.horizon = horizon
        self.input_steps = input_steps
        self.max_steps = max_steps
        self.season = season
        self.relative = relative
        self.quantiles = quantiles
        self.intervals = intervals
        self.refit = refit
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.dropout = dropout
        self.loss = loss
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.max_norm = max_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.target = target
        self.time = time
        self.group = group
        self.past = past
        self.future = future
        self.static = static
        self.dtype = dtype
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    # ----------------------------------------------------------------------------------------------- training

    def fit(
        self,
        y: Any,
        *,
        past: Any = None,
        future: Any = None,
        static: Any = None,
        checkpoint: Any = None,
        resume: bool = False,
        comm: Any = None,
    ) -> Self:
        """Train a new model on the series.

        Parameters
        ----------
        y : array_like of shape (T,) or (T, targets), list of such, pandas Series or DataFrame
            See the class.  Each series needs at least ``input_steps + horizon`` values; what is held out
            needs `horizon` more.
        past, future : array_like of shape (T, columns), or DataFrame with the times of `y`, optional
            Covariates; a list of them beside a list, and one for all columns beside a wide frame.  A long
            frame has them as columns.
        static : array_like of shape (columns,), or (series, columns), optional
        checkpoint : str or path-like, optional
            Folder for all that a resumed training needs, written after each epoch.
        resume : bool, default False
            Go on from `checkpoint`, if it holds one of a training with the same arguments on the same data;
            the bits are those of a training that was not interrupted.  A state of the optimiser for
            `partial_fit` is not kept.
        comm : MPI communicator, optional
            Ranks that share the batches.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            An argument or the data are not what they should be; nothing has been trained, and the forecaster
            is as it was.
        FloatingPointError
            Training came to numbers that are not finite; the forecaster is as it was.
        """
        with self._all_or_nothing():
            self._check_arguments()
            run = Run(checkpoint, resume, comm)
            holding_out = self.intervals or self.early_stopping
            series = self._read(y, past, future, static, 2 if holding_out else 1)
            ends = [self._split(one) if holding_out else len(one.y) for one in series]
            shown = [one.part(0, end) for one, end in zip(series, ends, strict=True)]
            rng = generator(self.random_state)
            self._begin_on(shown, rng, new=True)
            epochs = self._learn(shown, self.max_epochs, series if holding_out else None, run)
            if self.intervals:
                self._scores = self._score(series, ends)
            self.held_out_ = None
            if holding_out:
                origins = [
                    np.arange(end - 1, len(one.y) - self.horizon)
                    for one, end in zip(series, ends, strict=True)
                ]
                self.held_out_ = self._backtest(series, self._layout, origins, None, 0.0)
            if holding_out and self.refit:
                history = self.history_
                self._begin_on(series, generator(self.random_state))  # whatever the other training has drawn
                self._learn(series, epochs, run=run.part("refit"))
                self.history_ = history
            self._keep_ends(series)
        return self

    def partial_fit(self, y: Any, *, past: Any = None, future: Any = None, static: Any = None) -> Self:
        """Go through series once, on top of what was learnt before; forecasts go on from their ends.

        The first call makes the model and takes the scaling from its data; later ones keep both, and the
        state of the optimiser.  Series of other names join in.  Intervals stay as wide as `fit` made them.

        Parameters, returns and errors are those of `fit`; nothing is held out, and `early_stopping` has to be
        False.
        """
        with self._all_or_nothing():
            self._check_arguments()
            if self.early_stopping:
                raise ValueError("early_stopping: expected False for partial_fit, got True")
            if hasattr(self, "model_"):
                series, _ = self._given(y, past, future, static, 0)
                _check_lengths(series, self._recipe.input_steps, self._recipe.horizon, 1)
                if len(series) == len(self._ends) == 1:
                    series = [series[0]._replace(name=self._ends[0].name)]
                self._scales = {one.name: self._scale(one, series) for one in series} | self._scales
            else:
                series = self._read(y, past, future, static, 1)
                self._begin_on(series, generator(self.random_state), new=True)
            self._learn(series, None)
            self._keep_ends(series)
        return self

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.relative != "auto":
            _check.boolean("relative", self.relative)
        self._recipe_for(self.relative is not False)
        _check.boolean("intervals", self.intervals)
        _check.boolean("refit", self.refit)
        if self.loss is not None:
            _check.choice("loss", self.loss, tuple(LOSSES))
            if self.quantiles is not None:
                raise ValueError(f"loss: expected None with quantiles, got {self.loss!r}")

    def _read(self, y: Any, past: Any, future: Any, static: Any, horizons: int) -> list[Series]:
        """Take series to begin with, and their form."""
        self._named = Columns.of(self.target, self.time, self.group, self.past, self.future, self.static)
        series, self._layout = lay_out(y, self._named, past, future, static)
        _check_lengths(series, self.input_steps, self.horizon, horizons)
        self.n_targets_ = series[0].y.shape[1]
        return series

    def _split(self, one: Series) -> int:
        """Return how many values of a series come before the part that is held out."""
        origins = len(one.y) - self.horizon - self.input_steps + 1
        held_out = max(1, min(round(self.validation_fraction * origins), origins - self.horizon))
        return len(one.y) - self.horizon + 1 - held_out

    def _recipe_for(self, relative: bool) -> Recipe:
        longest = 2 * self.input_steps if self.max_steps is None else self.max_steps
        levels = () if self.quantiles is None else tuple(_check.proper_fractions("quantiles", self.quantiles))
        return Recipe(self.horizon, self.input_steps, longest, self.season, relative, levels)

    def _begin_on(self, series: Sequence[Series], rng: np.random.Generator, *, new: bool = False) -> None:
        """Make a new model, take the scaling from the series, and if all is new also the recipe."""
        if new:
            relative = is_relative(series, self.horizon) if self.relative == "auto" else self.relative
            self.relative_ = bool(relative)
            self._recipe = self._recipe_for(self.relative_)
            self._ends, self._scores = [], None
        named, recipe = self._named, self._recipe
        names = {"past": named.past, "future": named.future, "static": named.static}
        self._covariates = Covariates.of(series, names)
        self._scales = {one.name: scale_of(one, recipe) for one in series}
        inputs = recipe.inputs(series[0], self._scales[series[0].name], self._covariates).shape[1]
        outputs = recipe.horizon * self.n_targets_ * max(1, len(recipe.levels))
        self._begin(inputs, outputs, "each", rng)

    def _learn(
        self,
        series: Sequence[Series],
        epochs: int | None,
        longer: Sequence[Series] | None = None,
        run: Run = ALONE,
    ) -> int:
        """Train on series, for one epoch without a schedule if there are None.

        Stop early by the loss on what `longer` has after them; return the epochs that were best.
        """
        recipe, scales, covariates = self._recipe, self._scales, self._covariates
        x, y = recipe.pieces([(one, scales[one.name]) for one in series], covariates)
        validation = None
        if longer is not None:
            parts = []
            for one, whole in zip(series, longer, strict=True):
                begin = max(0, len(one.y) - recipe.max_steps)
                part = whole.part(begin, len(whole.y))
                parts.append(recipe.whole(part, scales[one.name], covariates, len(one.y) - 1 - begin))
            validation = [x for x, _ in parts], [y for _, y in parts]
        loss = LOSSES[self.loss or "mse"]
        if recipe.levels:
            loss = partial(nn.quantile_loss, quantiles=recipe.levels)
        self._train(
            _joined(x),
            _joined(y),
            partial(_counted, loss=loss),
            epochs=epochs or 1,
            validation_data=validation,
            schedule=nn.CosineDecay(epochs) if epochs and not self.early_stopping else None,
            run=run,
        )
        return (
            1 + int(np.argmin(self.history_["val_loss"]))
            if validation and self.early_stopping
            else epochs or 1
        )

    def _keep_ends(self, series: Sequence[Series]) -> None:
        """Keep the ends of series, from which `predict` goes on; others that are known stay."""
        ends = {one.name: one for one in self._ends}
        for one in series:
            ends[one.name] = one.part(max(0, len(one.y) - self._recipe.max_steps), len(one.y))
        self._ends = list(ends.values())
        self.series_names_ = list(ends)
        first = self._ends[0].times
        self._step = None if first is None else times.step_of(first)

    def _score(self, series: Sequence[Series], ends: Sequence[int]) -> Array:
        """Return scores (pairs, origins, horizon, targets) of forecasts of what follows `ends`, in units."""
        found = []
        for one, end, forecasts in zip(series, ends, self._run(series), strict=True):
            steps = np.arange(end - 1, len(one.y) - self._recipe.horizon)
            actual, own = self._recipe.ahead(one.y, steps), forecasts[steps - self._recipe.lost]
            pairs = [
                conformal.scores(actual, own[..., low], own[..., high])
                for low, high in conformal.pairs(self._recipe.levels)
            ]
            found.append(np.stack(pairs) / self._scale(one, series).spread)
        return np.concatenate(found, axis=1)

    # -------------------------------------------------------------------------------------------- forecasting

    def _scale(self, one: Series, among: Sequence[Series]) -> Scale:
        """Return the units of a series: those of training, or for a new one those of its beginning."""
        if len(self._scales) == 1 and len(among) == 1:
            return next(iter(self._scales.values()))
        if one.name in self._scales:
            return self._scales[one.name]
        return scale_of(one.part(0, self._recipe.input_steps), self._recipe)

    def _run(self, series: Sequence[Series]) -> list[Array]:
        """Return forecasts (steps, horizon, targets, levels) from step `lost` of each series on."""
        recipe, covariates = self._recipe, self._covariates
        scales = [self._scale(one, series) for one in series]
        inputs = [recipe.inputs(one, scale, covariates) for one, scale in zip(series, scales, strict=True)]
        found = []
        for one, scale, outputs in zip(series, scales, self._outputs(inputs), strict=True):
            steps = recipe.lost + np.arange(len(outputs))
            scaled = outputs.astype(np.float64).reshape(len(steps), recipe.horizon, self.n_targets_, -1)
            base = recipe.base(one.y, steps, scale)
            found.append(np.sort(base[..., None] + scaled * scale.spread[:, None], axis=-1))
        return found

    def _given(self, y: Any, past: Any, future: Any, static: Any, ahead: int) -> tuple[list[Series], Layout]:
        """Return series of a user's, checked against training."""
        label = "last_window" if ahead else "y"
        series, layout = lay_out(
            y, self._named, past, future, static, ahead=ahead, step=self._step, label=label
        )
        for what in ("y", "past", "future", "static"):
            name = label if what == "y" else what
            got, expected = (getattr(several[0], what).shape[-1] for several in (series, self._ends))
            if got != expected:
                raise ValueError(f"{name}: expected {expected} columns, as in training, got {got}")
        return series, layout

    def _ahead(
        self, last_window: Any, past: Any, future: Any, static: Any
    ) -> tuple[list[Series], Layout, Array]:
        """Forecast: series, layout, and (series, horizon, targets, levels)."""
        horizon = self._recipe.horizon
        if last_window is None:
            for name, value in (("past", past), ("static", static)):
                if value is not None:
                    raise ValueError(
                        f"{name}: expected None without last_window, got {_check.describe(value)}"
                    )
            layout = self._layout
            series = with_future(self._ends, layout, self._named, future, horizon, self._step)
        else:
            series, layout = self._given(last_window, past, future, static, horizon)
            _check_lengths(series, self._recipe.input_steps, horizon, 0, "last_window")
        return series, layout, np.stack([forecasts[-1] for forecasts in self._run(series)])

    def _result(
        self, series: Sequence[Series], layout: Layout, values: Array, kinds: Sequence[str] = ()
    ) -> Any:
        """Return forecasts in the form of the series, with the times that follow."""
        when = [
            None
            if one.times is None
            else times.following(one.times[-1], times.step_of(one.times, self._step), self._recipe.horizon)
            for one in series
        ]
        return layout.result([one.name for one in series], when, values, kinds)

    def predict(
        self, last_window: Any = None, *, past: Any = None, future: Any = None, static: Any = None
    ) -> Any:
        """Forecast the next `horizon` values.

        Parameters
        ----------
        last_window : as `y` of `fit`, optional
            The last values of each series, at least `input_steps`.  Without it forecasts go on from the end
            of the training series.
        past, static : as in `fit`, optional
            Covariates of `last_window`.
        future : array_like or DataFrame, optional
            Covariates known ahead.  Without `last_window` those of the steps that are forecast, (horizon, F)
            for each series; with it those of the window and then of these steps.  In frames the rows are
            looked up by time, and beside a long frame `future` is one that needs only what lies ahead.

        Returns
        -------
        ndarray of shape (horizon,), (horizon, targets), (series, horizon) or (series, horizon, targets)
            For series in pandas, their kind with the times that follow.

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ValueError, TypeError
            The data are not what they should be, or do not fit those of training.
        """
        check_is_fitted(self)
        series, layout, forecasts = self._ahead(last_window, past, future, static)
        return self._result(series, layout, forecasts[..., self._recipe.point])

    def predict_quantiles(
        self, last_window: Any = None, *, past: Any = None, future: Any = None, static: Any = None
    ) -> Any:
        """Forecast the `quantiles`.

        Parameters and errors are those of `predict`, but that the forecaster needs `quantiles`.

        Returns
        -------
        ndarray of the shape of `predict` and a last axis of quantiles, rising
            In pandas each is a column, such as ``sales_0.1``.
        """
        check_is_fitted(self)
        levels = self._recipe.levels
        if not levels:
            raise ValueError("quantiles: expected a forecaster that was fitted with some, got None")
        series, layout, forecasts = self._ahead(last_window, past, future, static)
        return self._result(series, layout, forecasts, [f"{level:g}" for level in levels])

    def predict_interval(
        self,
        last_window: Any = None,
        *,
        coverage: float = 0.9,
        past: Any = None,
        future: Any = None,
        static: Any = None,
    ) -> Any:
        """Forecast an interval for each of the next values.

        Parameters
        ----------
        coverage : float in (0, 1), default 0.9
            With what probability a value shall lie within its interval.
        last_window, past, future, static : optional
            As in `predict`.

        Returns
        -------
        ndarray of the shape of `predict` and a last axis (lower, upper)
            In pandas two columns, such as ``sales_lower`` and ``sales_upper``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ValueError, TypeError
            As in `predict`; training had ``intervals=False``; or too little was held out for the coverage.
        """
        check_is_fitted(self)
        width = self._width(_check.proper_fraction("coverage", coverage))
        series, layout, forecasts = self._ahead(last_window, past, future, static)
        limits = np.stack(
            [self._limits(own, width, one, series) for own, one in zip(forecasts, series, strict=True)]
        )
        return self._result(series, layout, limits, ("lower", "upper"))

    def _width(self, coverage: float) -> tuple[tuple[int, int], Array]:
        """Return a pair of levels, and by how much its limits move, (horizon, targets)."""
        if self._scores is None:
            raise ValueError("intervals: expected a forecaster that was fitted with intervals=True")
        levels = self._recipe.levels
        pairs = conformal.pairs(levels)
        nominal = [levels[high] - levels[low] if levels else 0.0 for low, high in pairs]
        nearest = int(np.argmin(np.abs(np.array(nominal) - coverage)))
        return pairs[nearest], conformal.widths(self._scores[nearest], coverage)

    def _limits(
        self, forecasts: Array, width: tuple[tuple[int, int], Array], one: Series, among: Sequence[Series]
    ) -> Array:
        """Return the limits (..., horizon, targets, 2) of forecasts of a series."""
        (low, high), widths = width
        scaled = widths * self._scale(one, among).spread
        return np.stack(conformal.widened(forecasts[..., low], forecasts[..., high], scaled), axis=-1)

    def backtest(
        self,
        y: Any,
        *,
        past: Any = None,
        future: Any = None,
        static: Any = None,
        start: Any = None,
        coverage: float | None = None,
    ) -> Backtest:
        """Forecast from every origin of the series in one pass, and compare with what came.

        Parameters
        ----------
        y, past, future, static
            As in `fit`.  Nothing is trained: to see how good forecasts are, give series that go on after
            those of training, and say where with `start`.
        start : int or time, optional
            The first step that is forecast: a position, or for series with times the time itself.  By
            default the first that has `input_steps` values before it.
        coverage : float in (0, 1), optional
            Of the intervals.  By default 0.9; there are none if what was held out does not allow for that.

        Returns
        -------
        Backtest
            Each of its forecasts is the one that `predict` makes from the values up to its origin.

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ValueError, TypeError
            The data are not what they should be, do not fit those of training, or no origin is left.
        """
        check_is_fitted(self)
        width, nominal = None, 0.9 if coverage is None else _check.proper_fraction("coverage", coverage)
        origins_held_out = 0 if self._scores is None else self._scores.shape[1]
        if coverage is not None or conformal.rank(origins_held_out, nominal) <= origins_held_out:
            width = self._width(nominal)
        series, layout = self._given(y, past, future, static, 0)
        recipe = self._recipe
        _check_lengths(series, recipe.input_steps, recipe.horizon, 1)
        origins = []
        for one in series:
            first = max(_position(start, one), recipe.input_steps) - 1
            origins.append(np.arange(first, len(one.y) - recipe.horizon))
        if not sum(map(len, origins)):
            raise ValueError(
                f"start: expected a step from which {recipe.horizon} values are left, "
                f"got {_check.describe(start)}"
            )
        return self._backtest(series, layout, origins, width, nominal)

    def _backtest(
        self,
        series: Sequence[Series],
        layout: Layout,
        origins: Sequence[NDArray[np.intp]],
        width: tuple[tuple[int, int], Array] | None,
        nominal: float,
    ) -> Backtest:
        """Forecast from some origins of each series, and compare with what came."""
        recipe = self._recipe
        runs = [own[steps - recipe.lost] for own, steps in zip(self._run(series), origins, strict=True)]
        limits = None
        if width is not None:
            limits = [self._limits(own, width, one, series) for own, one in zip(runs, series, strict=True)]
        known = list(zip(series, origins, strict=True))
        arrays = {
            "forecast": [own[..., recipe.point] for own in runs],
            "actual": [recipe.ahead(one.y, steps) for one, steps in known],
            "naive": [recipe.naive(one.y, steps) for one, steps in known],
            "lower": None if limits is None else [own[..., 0] for own in limits],
            "upper": None if limits is None else [own[..., 1] for own in limits],
            "quantiles": runs if recipe.levels else None,
            "_unit": [
                np.broadcast_to(self._scale(one, series).naive, own.shape[:3])
                for one, own in zip(series, runs, strict=True)
            ],
        }
        return collect(series, origins, arrays, layout, levels=recipe.levels, nominal=nominal)

    def score(
        self, y: Any, *, past: Any = None, future: Any = None, static: Any = None, start: Any = None
    ) -> float:
        """Return the `skill` of a `backtest`: 1 at best, 0 if naive forecasts are as good.

        Parameters and errors are those of `backtest`.
        """
        return self.backtest(y, past=past, future=future, static=static, start=start).skill

    # -------------------------------------------------------------------------------------------------- files

    def _fitted(self) -> tuple[dict[str, Any], dict[str, Array]]:
        ends = self._ends
        fitted = {
            "recipe": asdict(self._recipe),
            "columns": asdict(self._named),
            "layout": asdict(self._layout),
            "targets": self.n_targets_,
            "names": [_plain(one.name) for one in ends],
            "lengths": [len(one.y) for one in ends],
            "step": self._step,
            "last": None if self._step is None else [times.written(one.times[-1]) for one in ends],
        }
        tensors = {
            "scales": np.stack([np.stack(self._scales[one.name]) for one in ends]),
            "y": np.concatenate([one.y for one in ends]),
            "past": np.concatenate([one.past for one in ends]),
            "future": np.concatenate([one.future[: len(one.y)] for one in ends]),
            "static": np.stack([one.static for one in ends]),
            "covariates.past": self._covariates.past,
            "covariates.future": self._covariates.future,
            "covariates.static": self._covariates.static,
        }
        pairs = len(conformal.pairs(self._recipe.levels))
        none = np.empty((pairs, 0, self._recipe.horizon, self.n_targets_))
        return fitted, tensors | {"scores": none if self._scores is None else self._scores}

    def _restore(self, fitted: dict[str, Any], tensors: dict[str, Array]) -> None:
        self._recipe = _record(Recipe, "recipe", fitted["recipe"])
        self._named = _record(Columns, "columns", fitted["columns"])
        self._layout = _record(Layout, "layout", fitted["layout"])
        self.n_targets_ = targets = _check.integer("targets", fitted["targets"], 1)
        self.relative_, self._step = self._recipe.relative, fitted["step"]
        self.series_names_ = list(fitted["names"])
        lengths = [_check.integer("lengths", length, 1) for length in fitted["lengths"]]
        n, total = _check.integer("series", len(self.series_names_), 1), sum(lengths)
        parts = ["past", "future", "static"]

        def tensor(name: str, *shape: int | str) -> Array:
            return _check.shaped(name, tensors[name], np.dtype(np.float64), shape)

        self._covariates = Covariates(*(tensor(f"covariates.{what}", 2, "columns") for what in parts))
        counts = [getattr(self._covariates, what).shape[1] for what in parts]
        scales = tensor("scales", n, len(Scale._fields), targets)
        self._scales = {name: Scale(*own) for name, own in zip(self.series_names_, scales, strict=True)}
        y, past, future = (
            tensor("y", total, targets),
            tensor("past", total, counts[0]),
            tensor("future", total, counts[1]),
        )
        static = tensor("static", n, counts[2])
        pairs = len(conformal.pairs(self._recipe.levels))
        scores = tensor("scores", pairs, "origins", self._recipe.horizon, targets)
        self._scores = scores if scores.shape[1] else None
        last = [None] * n
        if self._step is not None:
            last = [times.read(time) for time in fitted["last"]]
        self._ends, begin = [], 0
        for name, length, time, own in zip(self.series_names_, lengths, last, static, strict=True):
            rows = slice(begin, begin + length)
            when = None if time is None else times.until(time, self._step, length)
            self._ends.append(Series(name, y[rows], past[rows], future[rows], own, when))
            begin += length
        inputs = self._recipe.inputs(self._ends[0], self._scale(self._ends[0], []), self._covariates)
        expected = inputs.shape[1], self._recipe.horizon * targets * max(1, len(self._recipe.levels)), "each"
        found = self.model_.input_size, self.model_.output_size, self.model_.readout
        if found != expected:
            raise ValueError(f"model: expected sizes and read-out {expected}, got {found}")


def _check_lengths(
    series: Sequence[Series], input_steps: int, horizon: int, horizons: int, label: str = "y"
) -> None:
    """Refuse series that are too short, with how long they have to be."""
    needed = input_steps + horizons * horizon
    for one in series:
        if len(one.y) < needed:
            parts = ("input_steps", "horizon", "horizon for what is held out")
            which = f" of series {one.name!r}" if len(series) > 1 else ""
            raise ValueError(
                f"{label}: expected at least {needed} values{which} ({' + '.join(parts[: 1 + horizons])}), "
                f"got {len(one.y)}"
            )


def _joined(blocks: list[Array]) -> Array | list[Array]:
    """Return blocks (n, L, ...) as one array, or as a list of sequences where their lengths differ."""
    if len({block.shape[1] for block in blocks}) == 1:
        return np.concatenate(blocks)
    return [piece for block in blocks for piece in block]


def _counted(prediction: ArrayLike, target: ArrayLike, *, loss: Any) -> tuple[float, Array]:
    """Compute a loss on the rows that count, which the last column of the target tells."""
    given, wanted = np.asarray(prediction), np.asarray(target)
    rows = wanted[:, -1] > 0
    derivative = np.zeros_like(given)
    value, derivative[rows] = loss(given[rows], wanted[rows, :-1])
    return value, derivative


def _position(start: Any, one: Series) -> int:
    """Return the step that `start` names in a series."""
    if start is None:
        return 0
    if one.times is None or isinstance(start, int | np.integer):
        return _check.integer("start", start, 0)
    return times.position("start", one.times, start)


def _record(kind: type[T], name: str, given: Any) -> T:
    """Make a value of its fields, which JSON has as lists where they are tuples."""
    _check.entries(name, given, inspect.signature(kind).parameters, True)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def _plain(name: Any) -> Any:
    """Return the name of a series as JSON has it."""
    plain = name.item() if isinstance(name, np.generic) else name
    if not isinstance(plain, str | int | float):
        raise TypeError(
            f"group: expected texts or numbers as names of series in a file, got {_check.describe(name)}"
        )
    return plain
