"""Forms of series: everything that users have becomes the same numbers, and what is wrong is named."""

import datetime

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits

pytest.importorskip("sklearn")
from clstm.estimators import conformal, times
from clstm.estimators.series import Columns, lay_out

ARRAYS = Columns.of(None, None, None, None, None, None)
LONG = Columns.of("y", "t", "g", ["p"], ["f"], ["s"])
Y = np.arange(6.0) ** 2


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas")


def long_frame(pandas, *, steps=(6, 5), freq="MS"):
    """Make two groups whose rows alternate as long as both have some."""
    frames = [
        pandas.DataFrame(
            {
                "g": name,
                "t": pandas.date_range("2001-01-31" if freq == "ME" else "2001-01-01", periods=T, freq=freq),
                "y": Y[:T] + k,
                "p": np.arange(T) + 10.0 * k,
                "f": np.arange(T) % 3,
                "s": float(k),
            }
        )
        for k, (name, T) in enumerate(zip("ab", steps, strict=True))
    ]
    return pandas.concat(frames).sort_index(kind="stable").reset_index(drop=True)


# ------------------------------------------------------------------------------------------------------ forms


def test_arrays_become_columns():
    (one,), layout = lay_out(Y, ARRAYS, past=Y[::-1], future=np.stack([Y, -Y], axis=1), static=[7.0])
    assert (layout.form, layout.flat) == ("array", True)
    assert_same_bits(one.y, Y[:, None])
    assert_same_bits(one.past, Y[::-1, None])
    assert_same_bits(one.future, np.stack([Y, -Y], axis=1))
    assert_same_bits(one.static, np.array([7.0]))
    (one,), layout = lay_out(Y.reshape(3, 2), ARRAYS)
    assert not layout.flat
    assert one.past.shape == (3, 0)


def test_lists_hold_series_of_any_lengths():
    found, layout = lay_out([Y, Y[:4]], ARRAYS, past=[Y, Y[:4]], static=[[1.0], [2.0]])
    assert layout.form == "list"
    assert [len(one.y) for one in found] == [6, 4]
    assert [one.name for one in found] == [0, 1]
    assert_same_bits(found[1].static, np.array([2.0]))


def test_wide_frames_hold_a_series_in_each_column(pandas):
    index = pandas.date_range("2001-01-01", periods=6, freq="D", name="day")
    frame = pandas.DataFrame({"a": Y, "b": np.where(Y < 4, np.nan, Y)}, index)
    (a, b), layout = lay_out(frame, ARRAYS, past=Y)
    assert (layout.form, layout.time) == ("wide", "day")
    assert_same_bits(a.y[:, 0], Y)
    assert_same_bits(b.y[:, 0], Y[2:])
    assert_same_bits(b.past[:, 0], Y[2:])
    assert b.times.equals(index[2:])


def test_long_frames_hold_a_series_in_each_group(pandas):
    (a, b), layout = lay_out(long_frame(pandas), LONG)
    assert layout.form == "long"
    assert [a.name, b.name] == ["a", "b"]
    assert_same_bits(b.y[:, 0], Y[:5] + 1)
    assert_same_bits(b.past[:, 0], np.arange(5) + 10.0)
    assert_same_bits(b.future[:, 0], np.arange(5) % 3.0)
    assert_same_bits(b.static, np.array([1.0]))
    assert times.step_of(a.times) == "MS"


def test_nullable_columns_are_numbers(pandas):
    frame = pandas.DataFrame({"y": pandas.array([1, 2, 4], "Int64")})
    (one,), _ = lay_out(frame, Columns.of("y", None, None, None, None, None))
    assert_same_bits(one.y[:, 0], np.array([1.0, 2.0, 4.0]))


def test_covariates_in_frames_are_looked_up_by_time(pandas):
    y = pandas.Series(Y, pandas.date_range("2001-01-01", periods=6, freq="D"))
    known = pandas.DataFrame({"f": np.arange(20.0)}, pandas.date_range("2000-12-25", periods=20, freq="D"))
    (one,), _ = lay_out(y, ARRAYS, future=known[::-1], ahead=2)
    assert_same_bits(one.future[:, 0], np.arange(7.0, 15.0))
    with pytest.raises(
        ValueError, match=r"future: expected a row for each of 8 steps, got none for 2001-01-07"
    ):
        lay_out(y, ARRAYS, future=known[:13], ahead=2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": [1.0, np.nan, 2.0]}, ValueError, "y: expected finite numbers, got nan at step 1$"),
        ({"y": [[1.0, 2.0], [1.0, np.inf]]}, ValueError, "y.*: expected finite numbers, got inf at step 1"),
        (
            {"y": np.array([[1.0, 2.0], [1.0, -np.inf]])},
            ValueError,
            "y: expected finite numbers, got -inf at step 1, column 1",
        ),
        ({"y": [Y, [1.0, np.nan]]}, ValueError, r"y\[1\]: expected finite numbers, got nan at step 1"),
        ({"y": ["a", "b"]}, TypeError, "y: expected real numbers"),
        ({"y": np.ones((2, 2, 2))}, ValueError, r"y: expected shape \(steps,\) or \(steps, columns\), got"),
        ({"y": []}, ValueError, "y: expected values, got none"),
        ({"y": [Y, []]}, ValueError, r"y\[1\]: expected values, got none"),
        ({"y": np.ma.masked_equal(Y, 4)}, TypeError, "y: expected an array without a mask"),
        ({"y": [Y, Y.reshape(3, 2)]}, ValueError, r"y\[1\]: expected 1 columns, as y\[0\] has, got 2"),
        ({"y": Y, "past": Y[:5]}, ValueError, "past: expected 6 steps, got 5"),
        ({"y": Y, "past": [*Y[:5], np.nan]}, ValueError, "past: expected finite numbers, got nan at step 5"),
        ({"y": Y, "future": Y, "ahead": 3}, ValueError, "future: expected 9 steps or more, got 6"),
        ({"y": [Y, Y], "past": Y}, ValueError, "past: expected a list of 2 arrays, one for each series"),
        ({"y": [Y, Y], "static": [[1.0]]}, ValueError, "static: expected 2 rows, one for each series, got 1"),
        (
            {"y": Y, "columns": LONG},
            TypeError,
            "y: expected a DataFrame, for target names its columns, got array of shape",
        ),
    ],
)
def test_bad_arrays_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        lay_out(**({"columns": ARRAYS} | arguments))


def _with(name, row, value):
    def change(frame):
        frame = frame.astype({name: float if isinstance(value, float) else object})
        frame.loc[row, name] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            _with("y", 4, np.nan),
            ValueError,
            r"column 'y': expected finite numbers, got nan at 2001-03-01.*, g 'a'",
        ),
        (
            _with("p", 3, np.inf),
            ValueError,
            r"column 'p': expected finite numbers, got inf at 2001-02-01.*, g 'b'",
        ),
        (_with("f", 3, "red"), TypeError, "column 'f': expected numbers, got dtype object; .*get_dummies"),
        (
            _with("s", 4, 5.0),
            ValueError,
            "column 's': expected one value in each series, for it is static, got 5.0",
        ),
        (lambda frame: frame.drop(columns="y"), ValueError, "y: expected the columns .*; missing: y"),
        (lambda frame: frame.iloc[:0], ValueError, "y: expected rows, got none"),
        (_with("g", 3, None), ValueError, "column 'g': expected a value in every row, got none in row 3"),
        (
            lambda frame: frame.drop(index=4),
            ValueError,
            "column 't', g 'a': expected times in steps of MS, got 2001-04-01 after 2001-02-01, at step 2, "
            "where 2001-03-01 should be",
        ),
        (
            lambda frame: frame[::-1],
            ValueError,
            "column 't', g 'a': expected times in order, each once, got 2001-05-01 after",
        ),
    ],
)
def test_bad_long_frames_are_refused(pandas, change, error, message):
    frame = long_frame(pandas).astype({"g": object})
    with pytest.raises(error, match=message):
        lay_out(change(frame), LONG)


def test_series_of_different_steps_are_refused(pandas):
    frame = pandas.concat(
        [long_frame(pandas), long_frame(pandas, freq="ME").replace({"g": {"a": "c", "b": "d"}})]
    )
    with pytest.raises(ValueError, match="time: expected the same step in all series, got ME, MS"):
        lay_out(frame, LONG)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"time": "t"}, "time: expected None, for no target is named, got 't'"),
        ({"target": []}, "target: expected a column or several, got none"),
        ({"target": ["y", "y"]}, "target: expected each column once"),
        ({"target": "y", "past": "y"}, "expected no column that is target, time or group, got 'y'"),
    ],
)
def test_columns_that_make_no_sense_are_refused(named, message):
    names = dict.fromkeys(("target", "time", "group", "past", "future", "static")) | named
    with pytest.raises(ValueError, match=message):
        Columns.of(**names)


# ------------------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize("freq", ["MS", "ME", "B", "D", "W-SUN", "QS-OCT", "15min", "h"])
def test_regular_calendars_go_on(pandas, freq):
    whole = pandas.date_range("2001-01-01", periods=30, freq=freq)
    index = times.regular("time", whole[:20].to_numpy())
    assert times.following(index[-1], times.step_of(index), 10).equals(whole[20:])
    assert times.until(index[-1], times.step_of(index), 20).equals(index)
    assert times.read(times.written(index[-1])) == index[-1]


def test_days_go_on_through_the_change_to_summer_time(pandas):
    whole = pandas.date_range("2001-03-20", periods=12, freq="D", tz="Europe/Berlin")
    index = times.regular("time", whole[:8])
    assert times.following(index[-1], times.step_of(index), 4).equals(whole[8:])
    assert times.read(times.written(index[-1])) == index[-1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 5, 7], [9, 11]),
        ([0.5, 1.0, 1.5], [2.0, 2.5]),
        (["2001-11-01", "2001-12-01", "2002-01-01"], ["2002-02-01", "2002-03-01"]),
        ([datetime.date(2001, 1, day) for day in (1, 2, 3)], ["2001-01-04", "2001-01-05"]),
        (np.arange("2001-10", "2002-01", dtype="datetime64[M]"), ["2002-01-01", "2002-02-01"]),
    ],
    ids=["integers", "floats", "texts", "dates", "datetime64"],
)
def test_what_times_may_be(pandas, values, expected):
    index = times.regular("time", values)
    found = times.following(index[-1], times.step_of(index), 2)
    assert list(found) == list(
        pandas.Index(expected) if isinstance(expected[0], int | float) else map(pandas.Timestamp, expected)
    )
    assert times.read(times.written(index[-1])) == index[-1]


def test_periods_go_on(pandas):
    whole = pandas.period_range("2001-01", periods=5, freq="M")
    index = times.regular("time", whole[:3])
    assert times.following(index[-1], times.step_of(index), 2).equals(whole[3:])
    assert times.until(index[-1], "M", 3).equals(index)
    assert times.read(times.written(index[-1])) == index[-1]
    with pytest.raises(
        ValueError, match="expected times in steps of M, got 2001-04 after 2001-02, at step 2"
    ):
        times.regular("time", whole.delete(2))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1, 2, 2, 3], ValueError, "time: expected times in order, each once, got 2 twice, at step 2"),
        ([1, 3, 2], ValueError, "time: expected times in order, each once, got 2 after 3, at step 2"),
        ([1, 2, 3, 5, 6], ValueError, "time: expected times in steps of 1, got 5 after 3, at step 3"),
        (["2001-01-01", None], ValueError, "time: expected a time at every step, got none at step 1"),
        (["2001-01-01", "soon"], ValueError, "got 'soon' at step 1; pandas.to_datetime reads others"),
        ([True, False], ValueError, "time: expected dates, periods, numbers or texts"),
        (
            ["2001-01-01", "2001-01-02", "2001-01-03", "2001-01-05", "2001-01-06", "2001-01-07"],
            ValueError,
            "time: expected times in steps of D, got 2001-01-05 after 2001-01-03, at step 3, "
            "where 2001-01-04 should be",
        ),
    ],
)
@pytest.mark.usefixtures("pandas")
def test_irregular_times_are_named(values, error, message):
    with pytest.raises(error, match=message):
        times.regular("time", values)


@pytest.mark.parametrize("kept", [29, 17, 0, 8], ids=str)
def test_the_first_gap_in_a_calendar_is_named(pandas, kept):
    whole = pandas.date_range("2001-01-01", periods=40, freq="MS")
    index = whole.delete([kept + 1, 35])
    expected = f"got {whole[kept + 2].date()} after {whole[kept].date()}, at step {kept + 1}"
    with pytest.raises(ValueError, match=f"steps of MS, {expected}"):
        times.regular("time", index)


# -------------------------------------------------------------------------------------------------- conformal


@pytest.mark.parametrize(("n", "coverage", "k"), [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.5, 50)])
def test_width_is_the_score_of_its_rank(n, coverage, k):
    scores = np.random.default_rng(0).permuted(np.tile(np.arange(1.0, n + 1)[:, None], (1, 3)), axis=0)
    assert_same_bits(conformal.widths(scores, coverage), np.full(3, float(k)))


def test_too_few_scores_for_a_coverage_are_refused():
    with pytest.raises(
        ValueError, match=r"coverage: expected at most 0.8889, for 8 origins.*got 0.9, which needs 9"
    ):
        conformal.widths(np.ones((8, 2)), 0.9)


def test_widths_cover_what_is_exchangeable():
    """Over many draws of 20 held-out scores and a new one: at least 0.8, and less than 1 / 21 above."""
    scores = np.random.default_rng(0).standard_normal((21, 40000))
    covered = np.mean(scores[-1] <= conformal.widths(scores[:-1], 0.8))
    exact = 17 / 21  # ceil(21 * 0.8) of 21 places that the new one takes with equal probability
    assert_close(covered, np.array(exact), "sample mean")


def test_widened_limits_never_cross():
    lower, upper = np.array([1.0, 1.0, 1.0]), np.array([3.0, 3.0, 3.0])
    below, above = conformal.widened(lower, upper, np.array([1.0, -0.5, -2.0]))
    assert_same_bits(below, np.array([0.0, 1.5, 2.0]))
    assert_same_bits(above, np.array([4.0, 2.5, 2.0]))
