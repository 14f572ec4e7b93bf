"""LSTMForecaster: the past alone makes a forecast, in every form of data; bits, intervals, files, errors."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits

import clstm
from clstm.datasets import load_co2

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from clstm.estimators import LSTMForecaster, conformal
from clstm.nn.checkpoints import CheckpointFolder

HORIZON, STEPS, T = 3, 7, 60
SMALL = {"horizon": HORIZON, "input_steps": STEPS, "hidden_size": 3, "max_epochs": 2, "random_state": 0}
QUANTILES = (0.1, 0.5, 0.9)


def build(**arguments):
    """Make a small forecaster that is quick to train."""
    return LSTMForecaster(**SMALL | arguments)


def draw(T=T, columns=None, seed=0):
    """Draw a random walk (T,), or several side by side (T, columns)."""
    return np.cumsum(
        np.random.default_rng(seed).standard_normal(T if columns is None else (T, columns)), axis=0
    )


CASES = {  # arguments of the constructor, and of fit
    "relative": ({"relative": True}, {"y": draw()}),
    "level": ({"relative": False}, {"y": draw()}),
    "season": ({"season": 4}, {"y": draw()}),
    "level and season": ({"relative": False, "season": 2}, {"y": draw()}),
    "one step": ({"horizon": 1}, {"y": draw()}),
    "targets": ({}, {"y": draw(columns=2)}),
    "quantiles": ({"quantiles": QUANTILES}, {"y": draw(columns=2)}),
    "double": ({"dtype": "float64"}, {"y": draw()}),
    "layers, rnn": ({"num_layers": 2, "cell": "rnn", "dropout": 0.5}, {"y": draw()}),
    "past": ({}, {"y": draw(), "past": draw(columns=2, seed=1)}),
    "future": ({}, {"y": draw(), "future": draw(columns=2, seed=1)}),
    "series": (
        {},
        {
            "y": [draw(), draw(30, seed=1), draw(25, seed=2)],
            "past": [draw(seed=3), draw(30, seed=4), draw(25, seed=5)],
            "future": [draw(seed=6), draw(30, seed=7), draw(25, seed=8)],
            "static": [[0.0], [1.0], [3.0]],
        },
    ),
}


def until(data, end, ahead):
    """Return what is known `end` steps into the data of a case."""
    part = {name: data[name] for name in ("static",) if name in data}
    for name in ("y", "past", "future"):
        if name in data:
            stop = end + ahead if name == "future" else end
            cut = [a[:stop] for a in data[name]] if isinstance(data["y"], list) else data[name][:stop]
            part[name] = cut
    part["last_window"] = part.pop("y")
    return part


# -------------------------------------------------------------------------------- forecasts and their origins


@pytest.mark.parametrize("case", CASES)
def test_backtest_is_what_predict_says_at_each_origin(case):
    """In one pass over the series, to the bit."""
    arguments, data = CASES[case]
    forecaster = build(**arguments).fit(**data)
    found = forecaster.backtest(**data)
    several = isinstance(data["y"], list)
    lengths = [len(y) for y in data["y"]] if several else [len(data["y"])]
    assert len(found) == sum(length - STEPS - forecaster.horizon + 1 for length in lengths)
    for n, length in enumerate(lengths):
        rows = np.flatnonzero(found.series == n)
        assert_same_bits(found.origins[rows], np.arange(STEPS - 1, length - forecaster.horizon))
    for end in (STEPS, 12, min(lengths) - forecaster.horizon):
        known = until(data, end, forecaster.horizon)
        rows = np.flatnonzero(found.origins == end - 1)
        rows = rows if several else rows[0]
        assert_same_bits(found.forecast[rows], forecaster.predict(**known))
        limits = forecaster.predict_interval(**known)
        assert_same_bits(found.lower[rows], limits[..., 0])
        assert_same_bits(found.upper[rows], limits[..., 1])
        if forecaster.quantiles:
            assert_same_bits(found.quantiles[rows], forecaster.predict_quantiles(**known))


@pytest.mark.parametrize("case", CASES)
def test_the_future_changes_no_forecast_before_it(case):
    arguments, data = CASES[case]
    forecaster = build(**arguments).fit(**data)
    before, end = forecaster.backtest(**data), 15

    def changed(name, values):
        values = values.copy()
        values[end + (forecaster.horizon if name == "future" else 0) :] += 7.0
        return values

    other = {
        name: value
        if name == "static"
        else [changed(name, one) for one in value]
        if isinstance(value, list)
        else changed(name, value)
        for name, value in data.items()
    }
    after = forecaster.backtest(**other)
    known = before.origins < end
    assert_same_bits(after.forecast[known], before.forecast[known])
    assert_same_bits(after.upper[known], before.upper[known])
    assert (after.forecast[~known] != before.forecast[~known]).any()


@pytest.mark.parametrize("case", CASES)
def test_forecasts_from_the_end_of_training_are_those_from_its_last_values(case):
    arguments, data = CASES[case]
    forecaster = build(**arguments).fit(**data)
    several, horizon = isinstance(data["y"], list), forecaster.horizon
    ahead = {}
    if "future" in data:
        rows = draw(horizon, None if several else 2, seed=9)
        ahead["future"] = [rows] * len(data["y"]) if several else rows
    window = {}
    for name, value in data.items():
        parts = value if several else [value]
        if name == "static":
            window[name] = value
            continue
        parts = [part[-2 * STEPS :] for part in parts]
        if name == "future":
            parts = [np.concatenate([part, rows]) for part in parts]
        window["last_window" if name == "y" else name] = parts if several else parts[0]
    assert_same_bits(forecaster.predict(**ahead), forecaster.predict(**window))


def test_shapes_of_forecasts():
    assert build().fit(draw()).predict().shape == (HORIZON,)
    assert build().fit(draw(columns=1)).predict().shape == (HORIZON, 1)
    two = build(quantiles=QUANTILES).fit([draw(columns=2), draw(columns=2, seed=1)])
    assert two.predict().shape == (2, HORIZON, 2)
    assert two.predict_quantiles().shape == (2, HORIZON, 2, 3)
    assert two.predict_interval(coverage=0.5).shape == (2, HORIZON, 2, 2)
    assert two.backtest(draw(columns=2)).forecast.shape == (T - STEPS - HORIZON + 1, HORIZON, 2)


# ---------------------------------------------------------------------------------------------------- scaling


@pytest.mark.parametrize("relative", [True, False])
def test_forecasts_follow_the_unit(relative):
    """A power of two changes no rounding: neither training nor intervals know the unit."""
    y = draw()
    one, other = (build(relative=relative).fit(unit * y) for unit in (1.0, 64.0))
    assert_same_bits(64.0 * one.predict(), other.predict())
    assert_same_bits(64.0 * one.predict_interval(coverage=0.5), other.predict_interval(coverage=0.5))


def test_relative_forecasts_follow_the_level():
    y = np.round(draw() * 8)
    one, other = (build(relative=True).fit(y + level) for level in (0.0, 512.0))
    assert_close(other.predict() - 512.0, one.predict(), "forward", "forecast", scale=512.0)


def test_a_walk_is_relative_and_noise_is_not():
    assert build().fit(draw(200)).relative_
    assert not build().fit(np.diff(draw(200))).relative_


def test_a_new_series_is_scaled_by_its_beginning():
    forecaster = build(relative=False).fit([draw(), draw(seed=1)])
    new = draw(seed=2)
    first, second, found = forecaster.predict([draw(), draw(seed=1), new])
    shifted = forecaster.predict([draw(), draw(seed=1), 4.0 * new])
    assert_same_bits(shifted, np.stack([first, second, 4.0 * found]))


def test_training_series_are_scaled_alone():
    """A series a thousand times as large is learnt as well as the other."""
    y = np.sin(np.arange(80) / 3)
    forecaster = build(max_epochs=30, hidden_size=8, relative=True).fit([y, 1024.0 * y])
    small, large = forecaster.predict()
    assert_same_bits(1024.0 * small, large)


# ----------------------------------------------------------------------------- intervals and what is held out


def test_what_is_held_out_has_no_part_in_training():
    y = draw()
    other = y.copy()
    other[-12:] += 5.0  # 20 % of 51 origins: 10 forecasts of 3 steps
    one, two = (build(refit=False, relative=True).fit(values) for values in (y, other))
    for first, second in zip(one.model_.layers, two.model_.layers, strict=True):
        assert_same_bits(first.flat_params, second.flat_params)
    assert_same_bits(one.predict(y[:20]), two.predict(y[:20]))
    assert (one.predict_interval(y[:20], coverage=0.5) != two.predict_interval(y[:20], coverage=0.5)).all()


@pytest.mark.parametrize("refit", [True, False])
def test_forecasts_of_what_was_held_out_are_those_of_the_model_before_the_refit(refit):
    series = [draw(), draw(30, seed=1)]
    held_out = build(refit=refit).fit(series).held_out_
    found = build(refit=False).fit(series).backtest(series)
    begins = [min(held_out.origins[held_out.series == k]) for k in range(2)]
    same = found.origins >= np.array(begins)[found.series]
    assert_same_bits(held_out.forecast, found.forecast[same])
    assert held_out.lower is None
    assert build(intervals=False).fit(series).held_out_ is None


@pytest.mark.parametrize("early_stopping", [True, False])
def test_fit_goes_on_from_a_checkpoint_to_the_same_bits(early_stopping, tmp_path, monkeypatch):
    arguments = {"early_stopping": early_stopping, "max_epochs": 4, "n_iter_no_change": 2, "dropout": 0.3}
    whole = build(**arguments).fit(draw())
    write, written = CheckpointFolder.write, []

    def stop(folder, update, tree, best):
        write(folder, update, tree, best)
        written.append(folder.path)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointFolder, "write", stop)
    folder = tmp_path / "run"
    for resume in [False, *[True] * 20]:
        with contextlib.suppress(KeyboardInterrupt):
            found = build(**arguments).fit(draw(), checkpoint=folder, resume=resume)
            break
    assert set(written) == {str(folder), str(folder / "refit")}
    assert_same_bits(found.predict(), whole.predict())
    assert_same_bits(found.predict_interval(coverage=0.5), whole.predict_interval(coverage=0.5))
    assert found.history_["val_loss"] == whole.history_["val_loss"]


@pytest.mark.parametrize("quantiles", [None, QUANTILES])
def test_intervals_cover_the_share_of_what_was_held_out_that_their_rank_says(quantiles):
    """19 origins: the interval of 0.9 covers 18 of them at each step, that of 0.5 covers 10."""
    y = draw(STEPS + HORIZON + 94)
    forecaster = build(refit=False, quantiles=quantiles).fit(y)
    for coverage, covered in ((0.9, 18), (0.5, 10)):
        found = forecaster.backtest(y, start=len(y) - HORIZON - 18, coverage=coverage)
        assert len(found) == 19
        assert_same_bits(found.coverage_of_steps, np.full(HORIZON, covered / 19))


def test_intervals_without_a_refit_are_the_conformal_ones():
    y = draw()
    forecaster = build(refit=False).fit(y)
    held_out = forecaster.backtest(y, start=T - HORIZON - 9)
    width = conformal.widths(np.abs(held_out.error), 0.8)
    point = forecaster.predict()
    assert_close(
        forecaster.predict_interval(coverage=0.8), np.stack([point - width, point + width], -1), "forward"
    )


def test_quantiles_never_cross_and_0_5_is_the_point():
    forecaster = build(quantiles=(0.2, 0.4, 0.5, 0.8)).fit(draw())
    found = forecaster.backtest(draw())
    assert (np.diff(found.quantiles, axis=-1) >= 0).all()
    assert_same_bits(found.forecast, found.quantiles[..., 2])


def test_refit_uses_what_was_held_out_and_keeps_the_relative_widths():
    y = draw()
    one, two = (build(refit=refit, relative=True).fit(y) for refit in (True, False))
    assert (one.predict() != two.predict()).any()
    assert (np.diff(one.predict_interval(coverage=0.5)) > 0).all()


def test_early_stopping_keeps_the_best_epochs():
    forecaster = build(early_stopping=True, max_epochs=30, n_iter_no_change=2, refit=False).fit(draw())
    losses = forecaster.history_["val_loss"]
    best = int(np.argmin(losses)) + 1
    refitted = build(early_stopping=True, max_epochs=30, n_iter_no_change=2).fit(draw())
    assert refitted.n_iter_ == best
    assert len(losses) <= best + 2


# ----------------------------------------------------------------------------------------------------- errors


def test_metrics_are_their_formulas():
    y = draw()
    forecaster = build(season=2).fit(y)
    found = forecaster.backtest(y, start=50)
    assert len(found) == 8
    error = found.forecast - np.stack([y[o + 1 : o + 4] for o in found.origins])
    naive = np.stack([y[[o - 1, o, o - 1]] - y[o + 1 : o + 4] for o in found.origins])
    expected = {
        "rmse": np.sqrt(np.mean(error**2)),
        "mae": np.abs(error).mean(),
        "mase": np.abs(error).mean() / np.abs(y[2:] - y[:-2]).mean(),
        "skill": 1 - (error**2).sum() / (naive**2).sum(),
        "coverage": np.mean((found.lower <= found.actual) & (found.actual <= found.upper)),
    }
    assert found.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(np.array(found.metrics[name]), np.array(value), "forward", name)
    assert_close(found.rmse_of_steps, np.sqrt((error**2).mean(axis=0)), "forward")
    assert_close(found.mae_of_steps, np.abs(error).mean(axis=0), "forward")
    assert forecaster.score(y, start=50) == found.skill
    assert repr(found).startswith("Backtest: 8 origins, 3 steps ahead\n  RMSE ")
    assert "intervals of 90% cover" in repr(found)


def test_without_intervals_there_are_none():
    forecaster = build(intervals=False).fit(draw())
    found = forecaster.backtest(draw())
    assert found.lower is found.upper is found.coverage is found.coverage_of_steps is None
    assert "cover" not in repr(found)
    with pytest.raises(
        ValueError, match="intervals: expected a forecaster that was fitted with intervals=True"
    ):
        forecaster.predict_interval()
    with pytest.raises(ValueError, match="quantiles: expected a forecaster that was fitted with some"):
        forecaster.predict_quantiles()


# --------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("seed", range(3))
def test_forecasts_of_co2_beat_naive_ones(seed):
    """By far: a seasonal naive forecast is off by 1.75 ppm, and by 0.83 with the mean growth of training."""
    y = load_co2().values
    split = 406
    forecaster = LSTMForecaster(12, season=12, intervals=False, max_epochs=15, random_state=seed)
    found = forecaster.fit(y[:split]).backtest(y, start=split)
    drift = found.naive + np.mean(y[12:split] - y[: split - 12])
    assert found.rmse < 0.9 * np.sqrt(np.mean((drift - found.actual) ** 2))
    assert found.skill > 0.8


@pytest.mark.parametrize("kind", ["past", "future", "static"])
def test_covariates_are_made_use_of(kind):
    """They decide the next value up to noise, so that forecasts get worse than naive ones with others."""
    rng = np.random.default_rng(0)
    cause, noise = rng.standard_normal((10, 60)), 0.1 * rng.standard_normal((10, 60))
    if kind == "static":  # each series begins with noise, and then rises or falls as the covariate says
        y, given = np.cumsum(np.where(np.arange(60) < 30, 0, np.sign(cause[:, :1])), axis=1), cause[:, :1]
    else:
        y, given = np.roll(cause, kind == "past", axis=1), cause
    forecaster = LSTMForecaster(
        1,
        4,
        hidden_size=8,
        max_epochs=20,
        learning_rate=0.02,
        intervals=False,
        relative=False,
        random_state=0,
    )
    data = {"y": list(y + noise), kind: list(given)}
    assert forecaster.fit(**data).score(**data) > 0.5
    assert forecaster.score(**data | {kind: list(-given)}) < 0


# ------------------------------------------------------------------------------------ scikit-learn's contract


def test_the_same_seed_gives_the_same_bits():
    data = CASES["series"][1]
    one, two, three = (build(n_jobs=n_jobs).fit(**data) for n_jobs in (None, 2, 1))
    ahead = {"future": [draw(HORIZON)] * 3}
    for other in (two, three):
        for a, b in zip(one.model_.layers, other.model_.layers, strict=True):
            assert_same_bits(a.flat_params, b.flat_params)
        assert_same_bits(other.predict(**ahead), one.predict(**ahead))
    assert (build(random_state=1).fit(**data).predict(**ahead) != one.predict(**ahead)).any()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["file", "pickle", "copy", "clone"])
def test_copies_forecast_the_same(case, way, tmp_path):
    arguments, data = CASES[case]
    forecaster = build(**arguments).fit(**data)
    ahead = {}
    if "future" in data:
        ahead["future"] = [draw(HORIZON)] * 3 if case == "series" else draw(HORIZON, 2)
    if way == "file":
        forecaster.save(tmp_path / "model")
        other = clstm.load(tmp_path / "model")
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(forecaster))
    elif way == "copy":
        other = copy.deepcopy(forecaster)
    else:
        other = clone(forecaster).fit(**data)
    assert type(other) is LSTMForecaster
    assert_same_bits(other.predict(**ahead), forecaster.predict(**ahead))
    assert_same_bits(
        other.predict_interval(coverage=0.6, **ahead), forecaster.predict_interval(coverage=0.6, **ahead)
    )
    assert other.get_params().keys() == forecaster.get_params().keys()
    assert other.history_ == forecaster.history_ or way == "clone"
    assert repr(other.backtest(**data)) == repr(forecaster.backtest(**data))


def test_grid_search_over_pieces_of_a_series():
    search = GridSearchCV(build(intervals=False), {"hidden_size": [2, 3]}, cv=TimeSeriesSplit(2))
    search.fit(draw(60))
    assert search.best_estimator_.predict().shape == (HORIZON,)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_partial_fit_goes_on_from_the_new_end():
    y = draw(60)
    forecaster = build(intervals=False).partial_fit(y[:30])
    weights = forecaster.model_.layers[0].flat_params.copy()
    before = forecaster.predict(y[:30])
    forecaster.partial_fit(y)
    assert forecaster.n_iter_ == 2
    assert (forecaster.model_.layers[0].flat_params != weights).any()
    assert (forecaster.predict(y[:30]) != before).any()
    assert_same_bits(forecaster.predict(), forecaster.predict(y[-2 * STEPS :]))
    with pytest.raises(ValueError, match="early_stopping: expected False for partial_fit, got True"):
        forecaster.set_params(early_stopping=True).partial_fit(y)


def test_arguments_set_later_wait_for_the_next_fit():
    forecaster = build().fit(draw())
    before = forecaster.predict()
    forecaster.set_params(horizon=5, input_steps=9, season=4, relative=False)
    assert_same_bits(forecaster.predict(), before)


def test_an_error_leaves_the_forecaster_as_it_was():
    forecaster = build().fit(draw())
    before = forecaster.predict()
    with pytest.raises(ValueError, match="y: expected finite numbers"):
        forecaster.fit([1.0, np.nan])
    with pytest.raises(
        ValueError, match=r"past: expected covariates that vary, got 1\.0 throughout in column 1"
    ):
        forecaster.fit(draw(), past=np.stack([draw(), np.ones(T)], axis=1))
    assert_same_bits(forecaster.predict(), before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"horizon": 0}, ValueError, "horizon: expected at least 1, got 0"),
        ({"input_steps": 2.5}, TypeError, "input_steps: expected an integer, got 2.5"),
        (
            {"input_steps": 1},
            ValueError,
            "input_steps: expected more than 1, a change needs two values, got 1",
        ),
        ({"season": 7}, ValueError, "input_steps: expected more than 7, the steps of a season, got 7"),
        ({"season": 1}, ValueError, "season: expected at least 2, got 1"),
        ({"max_steps": 6}, ValueError, "max_steps: expected at least 7, got 6"),
        ({"relative": "yes"}, TypeError, "relative: expected True or False, got 'yes'"),
        (
            {"quantiles": [0.1, 0.9]},
            ValueError,
            r"quantiles: expected rising levels with 0.5 among them, got \[0.1",
        ),
        ({"quantiles": [0.5, 0.1]}, ValueError, "quantiles: expected rising levels with 0.5 among them"),
        ({"quantiles": [0.5, 1.0]}, ValueError, r"quantiles\[1\]: expected a number in \(0, 1\), got 1.0"),
        ({"quantiles": [0.5], "loss": "l1"}, ValueError, "loss: expected None with quantiles, got 'l1'"),
        ({"loss": "mape"}, ValueError, "loss: expected one of 'mse', 'l1', 'huber', got 'mape'"),
        ({"intervals": 1}, TypeError, "intervals: expected True or False, got 1"),
        ({"refit": None}, TypeError, "refit: expected True or False, got None"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction: expected a number in \(0, 1\)"),
        ({"time": "t"}, ValueError, "time: expected None, for no target is named"),
        ({"target": "y"}, TypeError, "y: expected a DataFrame, for target names its columns"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        build(**arguments).fit(draw())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"y": draw(STEPS + 2 * HORIZON - 1)},
            r"at least 13 values \(input_steps \+ horizon \+ horizon for what is held out\), got 12",
        ),
        ({"y": [draw(), draw(9)]}, r"y: expected at least 13 values of series 1 \(input_steps"),
        ({"y": np.full(T, 3.5)}, "y: expected values that vary, got 3.5 throughout in series 0"),
        (
            {"y": np.stack([draw(), np.ones(T)], axis=1)},
            "y: expected values that vary, got 1.0 throughout in series 0, target 1",
        ),
        (
            {"y": draw(), "static": [1.0]},
            "static: expected covariates that vary, got 1.0 throughout in column 0",
        ),
    ],
)
def test_data_that_cannot_be_learnt_from_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        build().fit(**data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.predict(draw(6)), r"last_window: expected at least 7 values \(input_steps\), got 6"),
        (lambda f: f.predict(draw(9, 2)), "last_window: expected 1 columns, as in training, got 2"),
        (lambda f: f.predict(draw(9), past=draw(9)), "past: expected 0 columns, as in training, got 1"),
        (lambda f: f.predict(past=draw(9)), "past: expected None without last_window, got array of shape"),
        (lambda f: f.predict(future=draw(3)), "future: expected None, for training had no covariates"),
        (lambda f: f.predict_interval(coverage=1.0), r"coverage: expected a number in \(0, 1\), got 1.0"),
        (
            lambda f: f.backtest(draw(), coverage=0.95),
            r"coverage: expected at most 0.9091, for 10 origins were held out, got 0.95, which needs 19",
        ),
        (
            lambda f: f.backtest(draw(9)),
            r"y: expected at least 10 values \(input_steps \+ horizon\)",
        ),
        (
            lambda f: f.backtest(draw(), start=58),
            "start: expected a step from which 3 values are left",
        ),
        (lambda f: f.backtest(draw(), start=-1), "start: expected at least 0, got -1"),
    ],
)
def test_what_does_not_fit_training_is_refused(call, message):
    forecaster = build().fit(draw())
    with pytest.raises(ValueError, match=message):
        call(forecaster)


def test_future_covariates_have_to_cover_the_horizon():
    forecaster = build().fit(draw(), future=draw(seed=1))
    with pytest.raises(
        ValueError, match="future: expected 1 covariates for the 3 steps of the horizon, got None"
    ):
        forecaster.predict()
    with pytest.raises(ValueError, match="future: expected 3 steps or more, got 2"):
        forecaster.predict(future=draw(2))
    with pytest.raises(ValueError, match="future: expected 1 columns, as in training, got 2"):
        forecaster.predict(future=draw(3, 2))
    with pytest.raises(ValueError, match="future: expected 13 steps or more, got 12"):
        forecaster.predict(draw(10), future=draw(12))


@pytest.mark.parametrize(
    "method", ["predict", "predict_quantiles", "predict_interval", "backtest", "score", "save"]
)
def test_nothing_works_before_fit(method, tmp_path):
    arguments = {"save": (tmp_path / "model",), "backtest": (draw(),), "score": (draw(),)}.get(method, ())
    with pytest.raises(NotFittedError):
        getattr(build(), method)(*arguments)


# ----------------------------------------------------------------------------------------------------- pandas


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas")


def months(pandas, count=T, begin="2001-01-01"):
    return pandas.date_range(begin, periods=count, freq="MS")


def test_every_form_gives_the_same_forecasts(pandas):
    a, b = draw(), draw(seed=1)
    index = months(pandas)
    wide = pandas.DataFrame({"a": a, "b": b}, index)
    long = wide.rename_axis("month").reset_index().melt("month", var_name="shop", value_name="sales")
    expected = build().fit([a, b]).predict()
    found = build().fit(wide).predict()
    assert_same_bits(found.to_numpy().T, expected)
    assert found.index.equals(months(pandas, HORIZON, "2006-01-01"))
    assert list(found.columns) == ["a", "b"]

    forecaster = build(target="sales", time="month", group="shop").fit(long)
    found = forecaster.predict()
    assert list(found.columns) == ["shop", "month", "sales"]
    assert_same_bits(found["sales"].to_numpy().reshape(2, HORIZON), expected)
    assert list(found["shop"]) == ["a"] * HORIZON + ["b"] * HORIZON
    assert list(found["month"][:HORIZON]) == list(months(pandas, HORIZON, "2006-01-01"))
    window = long[long["shop"] == "b"]
    assert_same_bits(forecaster.predict(window)["sales"].to_numpy(), build().fit([a, b]).predict([a, b])[1])

    one = build().fit(pandas.Series(a, index, name="sales"))
    assert_same_bits(one.predict().to_numpy(), build().fit(a).predict())
    assert one.predict().name == "sales"
    assert list(one.predict_interval(coverage=0.5).columns) == ["sales_lower", "sales_upper"]


def test_targets_of_a_frame_are_forecast_together(pandas):
    y = draw(columns=2)
    frame = pandas.DataFrame(y, months(pandas), columns=["a", "b"])
    found = build(target=["a", "b"], quantiles=QUANTILES).fit(frame)
    assert_same_bits(found.predict().to_numpy(), build(quantiles=QUANTILES).fit(y).predict())
    names = [f"{target}_{level}" for target in "ab" for level in QUANTILES]
    assert list(found.predict_quantiles().columns) == names
    assert found.predict().index.equals(months(pandas, HORIZON, "2006-01-01"))


def test_covariates_of_a_long_frame(pandas, tmp_path):
    data = CASES["series"][1]
    index = months(pandas, T + HORIZON)
    ahead = [draw(HORIZON, seed=20 + n) for n in range(3)]
    rows, known = [], []
    for n, name in enumerate("abc"):
        length = len(data["y"][n])
        columns = {"shop": name, "month": index[:length], "y": data["y"][n], "p": data["past"][n]}
        rows.append(pandas.DataFrame(columns | {"f": data["future"][n], "s": data["static"][n][0]}))
        later = {"shop": name, "month": index[length : length + HORIZON], "f": ahead[n]}
        known.append(pandas.DataFrame(later))
    frame, future = pandas.concat(rows), pandas.concat(known)[::-1]
    named = {"target": "y", "time": "month", "group": "shop", "past": "p", "future": ["f"], "static": "s"}
    forecaster = build(**named).fit(frame)
    expected = build().fit(**data).predict(future=ahead)
    found = forecaster.predict(future=future)
    assert_same_bits(found["y"].to_numpy().reshape(3, HORIZON), expected)
    window = frame.groupby("shop").tail(2 * STEPS)
    assert forecaster.predict(window, future=future).equals(found)
    forecaster.save(tmp_path / "model")
    assert clstm.load(tmp_path / "model").predict(future=future).equals(found)
    with pytest.raises(
        ValueError, match="future: expected a row for each of 3 steps, got none for 2003-07-01"
    ):
        forecaster.predict(future=future[future["month"] != "2003-07-01"])
    with pytest.raises(ValueError, match="future: expected rows for each series, got none for shop 'b'"):
        forecaster.predict(future=future[future["shop"] != "b"])


@pytest.mark.parametrize("form", ["series", "wide", "periods", "numbers", "zone"])
def test_frames_forecast_the_same_from_a_file(pandas, form, tmp_path):
    index = {
        "series": months(pandas),
        "wide": pandas.date_range("2001-01-01", periods=T, freq="B", name="day"),
        "periods": pandas.period_range("2001-01", periods=T, freq="M"),
        "numbers": pandas.RangeIndex(100, 100 + 2 * T, 2),
        "zone": pandas.date_range("2001-03-01", periods=T, freq="D", tz="Europe/Berlin"),
    }[form]
    y = (
        pandas.DataFrame({"a": draw(), "b": draw(seed=1)}, index)
        if form == "wide"
        else pandas.Series(draw(), index)
    )
    forecaster = build().fit(y)
    forecaster.save(tmp_path / "model")
    expected, found = forecaster.predict(), clstm.load(tmp_path / "model").predict()
    assert found.equals(expected)
    assert found.index.equals(expected.index)
    assert found.index[0] > y.index[-1]
    assert len(found.index) == HORIZON


def test_backtest_of_frames_has_times(pandas):
    a, b = draw(), draw(30, seed=1)
    index = months(pandas)
    wide = pandas.DataFrame({"a": a, "b": np.concatenate([np.full(30, np.nan), b])}, index)
    forecaster = build(quantiles=QUANTILES).fit(wide)
    found = forecaster.backtest(wide, start="2004-01", coverage=0.5)
    assert repr(found).startswith("Backtest: 2 series, 43 origins, 3 steps ahead")
    frame = found.to_frame()
    assert list(frame.columns) == [
        "series", "origin", "time", "step", "forecast", "actual", "lower", "upper", "q0.1", "q0.5", "q0.9"
    ]  # fmt: skip
    assert len(frame) == 43 * HORIZON
    row = frame.iloc[-1]
    assert (row["series"], row["step"]) == ("b", HORIZON)
    assert row["time"] == index[-1]
    assert row["origin"] == index[-1 - HORIZON]
    assert row["actual"] == b[-1]
    assert frame["time"].min() == index[36]
    assert (frame["forecast"] == frame["q0.5"]).all()


def test_backtest_of_arrays_counts_steps(pandas):
    found = build().fit(draw(columns=2)).backtest(draw(columns=2), start=20, coverage=0.5).to_frame()
    assert list(found.columns) == ["origin", "time", "step", "target", "forecast", "actual", "lower", "upper"]
    assert isinstance(found, pandas.DataFrame)
    assert_same_bits(found["actual"].to_numpy()[:6], draw(columns=2)[20:23].reshape(-1))
    assert list(found["time"][:6]) == [20, 20, 21, 21, 22, 22]
    assert list(found["target"][:4]) == [0, 1, 0, 1]


def test_times_come_with_the_window_if_training_had_none(pandas):
    found = build().fit(draw()).predict(pandas.Series(draw(), months(pandas)))
    assert found.index.equals(months(pandas, HORIZON, "2006-01-01"))


def test_times_of_a_window_are_checked_against_training(pandas):
    forecaster = build().fit(pandas.Series(draw(), months(pandas)))
    days = pandas.Series(draw(9), pandas.date_range("2001-01-01", periods=9))
    with pytest.raises(
        ValueError, match="last_window: index: expected times in steps of MS, got 2001-01-02 after 2001-01-01"
    ):
        forecaster.predict(days)
    with pytest.raises(ValueError, match="start: expected a step or a time such as 2001-01-01, got 'later'"):
        forecaster.backtest(pandas.Series(draw(), months(pandas)), start="later", coverage=0.5)
