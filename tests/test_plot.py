"""clstm.plot: what is drawn where, and that nothing global is touched."""

import sys

import numpy as np
import pytest

from clstm import plot

MONTHS = np.arange("2000-01", "2003-01", dtype="datetime64[M]")
TRUTH = np.arange(36.0)
FORECASTS = {"model": TRUTH[12:].reshape(2, 12) + 1, "naive": TRUTH[30:] - 1}


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'cython-lstm\[plot\]'"):
        plot.forecast(MONTHS, TRUTH, FORECASTS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((MONTHS, TRUTH[:5], {}), ValueError, r"truth: expected shape \(36,\), got \(5,\)"),
        ((MONTHS[None], TRUTH, {}), ValueError, r"times: expected shape \(N,\), got \(1, 36\)"),
        ((MONTHS, TRUTH, TRUTH), TypeError, "predictions: expected Mapping, got array of shape"),
        (
            (MONTHS, TRUTH, {"a": np.ones(37)}),
            ValueError,
            r"predictions\['a'\]: expected at most 36 values, one a time, got 37",
        ),
        ((MONTHS, TRUTH, {"a": np.ones((1, 2, 3))}), ValueError, r"predictions\['a'\]: expected shape \(k, horizon\), got"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        plot.forecast(*arguments)


def test_forecast_draws_each_series_at_its_times():
    matplotlib = pytest.importorskip("matplotlib")
    axes = plot.forecast(MONTHS, TRUTH, FORECASTS, title="Title", ylabel="ppm")
    drawn = [line for line in axes.get_lines() if len(line.get_xdata(orig=True)) > 2]
    assert [len(line.get_xdata()) for line in drawn] == [36, 12, 12, 6]
    starts = matplotlib.dates.num2date(np.array([line.get_xdata(orig=False)[0] for line in drawn]))
    assert [f"{start:%Y-%m}" for start in starts] == ["2000-01", "2001-01", "2002-01", "2002-07"]
    np.testing.assert_array_equal(drawn[2].get_ydata(), TRUTH[24:] + 1)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["observed", "model", "naive"]
    assert axes.get_ylabel() == "ppm"
    assert axes.get_title(loc="left") == "Title"


def test_forecast_uses_the_axes_that_it_is_given():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots(1, 2)
    assert plot.forecast(np.arange(36), TRUTH, FORECASTS, axes=axes[1]) is axes[1]
    assert not axes[0].get_lines()


def test_forecast_changes_no_setting_and_leaves_no_figure():
    matplotlib = pytest.importorskip("matplotlib")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = dict(matplotlib.rcParams)
    plot.forecast(MONTHS, TRUTH, FORECASTS)
    assert dict(matplotlib.rcParams) == before
    assert not pyplot.get_fignums()
