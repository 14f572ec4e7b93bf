"""clstm.plot: what is drawn where, and that nothing global is touched."""

import sys

import numpy as np
import pytest

import clstm
from clstm import plot

MONTHS = np.arange("2000-01", "2003-01", dtype="datetime64[M]")
TRUTH = np.arange(36.0)
FORECASTS = {"model": TRUTH[12:].reshape(2, 12) + 1, "naive": TRUTH[30:] - 1}

X = np.random.default_rng(0).standard_normal((7, 3, 2))  # (T, B, I)
LSTM_TRACE = clstm.LSTM(2, 5, 2, rng=0).trace(X)
RNN_TRACE = clstm.RNN(2, 5, rng=0).trace(X)
FLOWS = {
    "LSTM": clstm.gradient_flow(clstm.LSTM(2, 5, rng=0), X),
    "RNN": clstm.gradient_flow(clstm.RNN(2, 5, rng=0), X),
}


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
        (
            (MONTHS, TRUTH, {"a": np.ones((1, 2, 3))}),
            ValueError,
            r"predictions\['a'\]: expected shape \(k, horizon\), got",
        ),
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


def test_pictures_change_no_setting_and_leave_no_figure():
    matplotlib = pytest.importorskip("matplotlib")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = dict(matplotlib.rcParams)
    plot.forecast(MONTHS, TRUTH, FORECASTS)
    plot.losses([1.0, 0.5])
    plot.gates(LSTM_TRACE)
    plot.compare(LSTM_TRACE, RNN_TRACE)
    plot.gradient_flow(FLOWS)
    assert dict(matplotlib.rcParams) == before
    assert not pyplot.get_fignums()


# --------------------------------------------------------------------------------------------------- losses


def test_losses_draws_a_line_for_each_history():
    pytest.importorskip("matplotlib")
    axes = plot.losses(
        {"slow": [1.0, 0.9, 0.8], "fast": [1.0, 0.1]}, title="Title", xlabel="update", ylabel="nats"
    )
    slow, fast = axes.get_lines()
    np.testing.assert_array_equal(slow.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(fast.get_xdata(), [1, 2])
    np.testing.assert_array_equal(fast.get_ydata(), [1.0, 0.1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["slow", "fast"]
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == ("Title", "update", "nats")


def test_losses_draws_one_history_without_a_legend_on_the_axes_given():
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    assert plot.losses((3, 2, 1), axes=axes) is axes
    assert len(axes.get_lines()) == 1
    assert axes.get_legend() is None


@pytest.mark.parametrize(
    ("history", "scale"),
    [
        ([1.0, 0.1], "log"),
        ([1.0, 0.11], "linear"),
        ([1.0, 0.0], "linear"),
        ([1.0, -0.01], "linear"),
        ([np.inf, 1.0, np.nan, 0.1], "log"),
        ({"a": [1.0, 0.9], "b": [0.1, 0.2]}, "log"),
    ],
)
def test_losses_is_logarithmic_where_that_makes_sense(history, scale):
    pytest.importorskip("matplotlib")
    axes = plot.losses(history)
    axes.figure.canvas.draw()
    assert axes.get_yscale() == scale


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ({}, ValueError, "history: expected at least one entry, got none"),
        ([], ValueError, "history: expected at least one finite loss, got none"),
        ({"a": [np.nan]}, ValueError, r"history\['a'\]: expected at least one finite loss"),
        (np.ones((2, 3)), ValueError, r"history: expected shape \(N,\), got \(2, 3\)"),
        ({"a": ["b"]}, TypeError, r"history\['a'\]: expected real numbers"),
    ],
)
def test_losses_refuses_bad_input(history, error, message):
    with pytest.raises(error, match=message):
        plot.losses(history)


# ------------------------------------------------------------------------------------------- gates, compare


def fields_of(figure):
    """Fields and colour bars of a figure of heat maps."""
    fields = [axes for axes in figure.axes if axes.get_images()]
    bars = [axes for axes in figure.axes if not axes.get_images()]
    figure.canvas.draw()
    return fields, bars


def test_gates_draws_each_part_of_the_layer_and_row():
    pytest.importorskip("matplotlib")
    figure = plot.gates(LSTM_TRACE, layer=1, row=2, title="Title")
    fields, bars = fields_of(figure)
    assert len(fields) == len(bars) == 6
    assert figure.get_suptitle() == "Title"
    for part, axes in zip("figoch", fields, strict=True):
        (image,) = axes.get_images()
        np.testing.assert_array_equal(image.get_array(), getattr(LSTM_TRACE, part)[1, :, 2].T, err_msg=part)
        assert image.get_extent() == [0.5, 7.5, 4.5, -0.5]
        assert image.get_interpolation() == "nearest"  # nothing between two units or steps
        assert image.colorbar.ax in bars
        # The bar stands to the right of its own field, at its height.
        field, bar = axes.get_position(), image.colorbar.ax.get_position()
        assert 0 < bar.x0 - field.x1 < field.width / 4
        assert field.y0 <= bar.y0 < bar.y1 <= field.y1


def test_gates_has_limits_and_titles_that_tell_what_they_mean():
    pytest.importorskip("matplotlib")
    fields, _ = fields_of(plot.gates(LSTM_TRACE))
    reach = np.abs(LSTM_TRACE.c[0, :, 0]).max()
    limits = {"f": (0, 1), "i": (0, 1), "g": (-1, 1), "o": (0, 1), "c": (-reach, reach), "h": (-1, 1)}
    words = {
        "f": ("erases", "keeps"),
        "i": ("writes",),
        "g": ("-1 to 1",),
        "o": ("hides", "shows"),
        "c": ("memory",),
        "h": ("-1",),
    }
    for part, axes in zip("figoch", fields, strict=True):
        assert axes.get_images()[0].get_clim() == limits[part]
        assert all(word in axes.get_title(loc="left") for word in words[part])


def test_gates_fields_share_one_time_axis():
    pytest.importorskip("matplotlib")
    fields, _ = fields_of(plot.gates(LSTM_TRACE))
    fields[0].set_xlim(2, 5)
    assert all(axes.get_xlim() == (2, 5) for axes in fields)


def test_gates_draws_the_first_steps_only_on_demand():
    pytest.importorskip("matplotlib")
    fields, _ = fields_of(plot.gates(LSTM_TRACE, steps=3))
    assert all(axes.get_images()[0].get_array().shape == (5, 3) for axes in fields)


def test_gates_draws_a_sequence_without_batch_axis():
    pytest.importorskip("matplotlib")
    one = clstm.Trace(*(getattr(LSTM_TRACE, part)[:, :, 1] for part in "ifgoch"))
    fields, _ = fields_of(plot.gates(one))
    np.testing.assert_array_equal(fields[0].get_images()[0].get_array(), LSTM_TRACE.f[0, :, 1].T)


def test_gates_draws_a_cell_of_zeros_or_with_a_nan():
    pytest.importorskip("matplotlib")
    parts = {part: getattr(LSTM_TRACE, part).copy() for part in "ifgoch"}
    parts["c"][...] = 0
    assert fields_of(plot.gates(clstm.Trace(**parts)))[0][4].get_images()[0].get_clim() == (-1, 1)
    parts["c"][0, 0, 0, :2] = np.nan, -3
    assert fields_of(plot.gates(clstm.Trace(**parts)))[0][4].get_images()[0].get_clim() == (-3, 3)


def test_compare_draws_cell_and_both_hidden_states():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    assert plot.compare(LSTM_TRACE, RNN_TRACE, layer=1, row=2, figure=figure) is figure
    fields, bars = fields_of(figure)
    assert len(fields) == len(bars) == 3
    drawn = (LSTM_TRACE.c[1, :, 2], LSTM_TRACE.h[1, :, 2], RNN_TRACE.h[0, :, 2])
    for axes, values, name in zip(fields, drawn, ("LSTM: cell", "LSTM: hidden", "RNN: hidden"), strict=True):
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), values.T)
        assert axes.get_title(loc="left").startswith(name)
    fields[0].set_xlim(2, 5)
    assert fields[2].get_xlim() == (2, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: plot.gates(np.ones(3)),
            TypeError,
            "trace: expected what the method trace returns, with an array f, got array",
        ),
        (
            lambda: plot.gates(RNN_TRACE),
            TypeError,
            "trace: expected what the method trace returns, with an array f",
        ),
        (lambda: plot.gates(LSTM_TRACE, layer=2), ValueError, "layer: expected at most 1, got 2"),
        (lambda: plot.gates(LSTM_TRACE, layer=-1), ValueError, "layer: expected at least 0, got -1"),
        (lambda: plot.gates(LSTM_TRACE, row=3), ValueError, "row: expected at most 2, got 3"),
        (lambda: plot.gates(LSTM_TRACE, row=1.0), TypeError, "row: expected an integer, got 1.0"),
        (lambda: plot.gates(LSTM_TRACE, steps=8), ValueError, "trace: expected at least 8 time steps, got 7"),
        (lambda: plot.gates(LSTM_TRACE, steps=0), ValueError, "steps: expected at least 1, got 0"),
        (
            lambda: plot.gates(clstm.LSTM(2, 3).trace(np.ones((0, 2)))),
            ValueError,
            "trace: expected at least 1 time steps, got 0",
        ),
        (
            lambda: plot.compare(RNN_TRACE, RNN_TRACE),
            TypeError,
            "lstm_trace: expected what the method trace returns",
        ),
        (
            lambda: plot.compare(LSTM_TRACE, None),
            TypeError,
            "rnn_trace: expected what the method trace returns.*got None",
        ),
        (
            lambda: plot.compare(LSTM_TRACE, clstm.RNN(2, 3).trace(np.ones((4, 3, 2)))),
            ValueError,
            "rnn_trace: expected 7 time steps, as in lstm_trace, got 4",
        ),
    ],
)
def test_bad_traces_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -------------------------------------------------------------------------------------------- gradient flow


def test_gradient_flow_draws_the_mean_over_rows_by_distance():
    pytest.importorskip("matplotlib")
    figure = plot.gradient_flow(FLOWS, title="Title")
    figure.canvas.draw()
    hidden, cell = figure.axes
    assert [line.get_label() for line in hidden.get_lines()] == ["LSTM", "RNN"]
    assert [line.get_label() for line in cell.get_lines()] == ["LSTM"]
    assert [text.get_text() for text in hidden.get_legend().get_texts()] == ["LSTM", "RNN"]
    for axes, part in ((hidden, "dh"), (cell, "dc")):
        assert axes.get_yscale() == "log"
        np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), np.arange(8))
        np.testing.assert_array_equal(
            axes.get_lines()[0].get_ydata(), getattr(FLOWS["LSTM"], part).mean(axis=1)
        )
    assert hidden.get_ylim() == cell.get_ylim()
    assert figure.get_suptitle() == "Title"


def test_gradient_flow_leaves_a_gap_where_nothing_is_left():
    """Whole rows of zeros, and one sequence without a batch axis."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    flow = clstm.GradientFlow(np.arange(3), np.array([1.0, 0.0, 0.5]), np.zeros(3))
    assert plot.gradient_flow({"a": flow}, figure=figure) is figure
    figure.canvas.draw()
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), [1.0, np.nan, 0.5])


@pytest.mark.parametrize(
    ("flows", "error", "message"),
    [
        ([], TypeError, r"flows: expected Mapping, got \[\]"),
        ({}, ValueError, "flows: expected at least one entry, got none"),
        ({"a": 1}, TypeError, r"flows\['a'\]: expected what clstm.gradient_flow returns, got 1"),
    ],
)
def test_gradient_flow_refuses_bad_input(flows, error, message):
    with pytest.raises(error, match=message):
        plot.gradient_flow(flows)
