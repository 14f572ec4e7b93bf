"""Times of a series: regular or refused, with the name of the first that is wrong; and those that follow.

Times are a pandas Index: dates with a `freq`, periods, or numbers in equal steps.  pandas knows the calendars
(months, business days, quarters); only data that bring times need it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from .. import _check

# Pieces of an irregular index vote for the step that it should have: so many, of these lengths.  Few days in
# a row do not tell business days from all days.
_PIECES, _SIZES = 1000, (8, 3)


def regular(name: str, values: Any, step: Any = None) -> Any:
    """Return times as an index in equal steps of a calendar.

    Parameters
    ----------
    name : str
        What messages call them.
    values : array_like
        Dates, periods, numbers, or texts that are ISO 8601 dates.
    step : str or number, optional
        The step that they must have, as `step_of` returns it; found in the values if not given.

    Returns
    -------
    pandas.DatetimeIndex with a `freq`, pandas.PeriodIndex, or pandas.Index of numbers

    Raises
    ------
    ValueError, TypeError
        The first time that is missing, doubled, out of order or off the step is named.

    Examples
    --------
    >>> from clstm.estimators.times import regular, step_of
    >>> step_of(regular("time", ["2001-01-31", "2001-02-28", "2001-03-31"]))
    'ME'
    """
    import pandas

    index = as_index(name, values)
    missing = np.flatnonzero(np.asarray(index.isna()))
    if missing.size:
        raise ValueError(f"{name}: expected a time at every step, got none at step {missing[0]}")
    whole = index.asi8 if hasattr(index, "asi8") else index.to_numpy()
    wrong = np.flatnonzero(~(whole[1:] > whole[:-1]))
    if wrong.size:
        before, after = index[wrong[0]], index[wrong[0] + 1]
        what = f"{_text(after)} twice" if before == after else f"{_text(after)} after {_text(before)}"
        raise ValueError(f"{name}: expected times in order, each once, got {what}, at step {wrong[0] + 1}")
    if isinstance(index, pandas.DatetimeIndex):
        return _on_calendar(name, index, step)
    if isinstance(index, pandas.PeriodIndex):
        if step is not None and index.freqstr != step:
            raise ValueError(f"{name}: expected periods of {step}, got {index.freqstr}")
        _compare(
            name, index, pandas.period_range(index[0], periods=len(index), freq=index.freq), index.freqstr
        )
        return index
    if step is None:
        step = float(np.median(np.diff(whole))) if len(whole) > 1 else 1.0
    off = np.flatnonzero(np.abs(np.diff(whole) - step) > 1e-6 * step)
    if off.size:
        raise ValueError(
            f"{name}: expected times in steps of {step:g}, got {_text(index[off[0] + 1])} after "
            f"{_text(index[off[0]])}, at step {off[0] + 1}"
        )
    return index


def step_of(index: Any, known: str | float | None = None) -> str | float:
    """Return the step of what `regular` has returned, unless known: the name of a frequency, or a number."""
    if known is not None:
        return known
    if hasattr(index, "freqstr"):
        return str(index.freqstr)
    return float(index[1] - index[0]) if len(index) > 1 else 1.0


def following(last: Any, step: Any, count: int) -> Any:
    """Return the next `count` times after `last`."""
    import pandas

    if isinstance(last, pandas.Period):
        return pandas.period_range(last, periods=count + 1, freq=last.freq)[1:]
    if isinstance(last, pandas.Timestamp):
        return pandas.date_range(last, periods=count + 1, freq=step)[1:]
    ahead = last + step * np.arange(1, count + 1)
    return pandas.Index(ahead).astype(type(last))


def until(last: Any, step: Any, count: int) -> Any:
    """Return the `count` times of which `last` is the last."""
    import pandas

    if isinstance(last, pandas.Period):
        return pandas.period_range(end=last, periods=count, freq=last.freq)
    if isinstance(last, pandas.Timestamp):
        return pandas.date_range(end=last, periods=count, freq=step)
    return pandas.Index(last - step * np.arange(count)[::-1]).astype(type(last))


def position(name: str, index: Any, time: Any) -> int:
    """Return the first step that is at a time, which may be a text, or after it."""
    import pandas

    try:
        if isinstance(index, pandas.PeriodIndex):
            return int(index.searchsorted(pandas.Period(time, index.freq)))
        if isinstance(index, pandas.DatetimeIndex):
            when = pandas.Timestamp(time)
            return int(index.searchsorted(when if when.tz or not index.tz else when.tz_localize(index.tz)))
        return int(index.searchsorted(time))
    except (ValueError, TypeError):
        raise ValueError(
            f"{name}: expected a step or a time such as {_text(index[0])}, got {_check.describe(time)}"
        ) from None


def written(time: Any) -> dict[str, str | float]:
    """Return a time as JSON has it; `read` is the way back."""
    import pandas

    if isinstance(time, pandas.Period):
        return {"period": str(time), "freq": time.freqstr}
    if isinstance(time, pandas.Timestamp):
        zone = {} if time.tz is None else {"zone": str(time.tz)}
        return {
            "date": time.tz_localize(None).isoformat() if zone else time.isoformat(),
            "unit": time.unit,
        } | zone
    return {"integer": int(time)} if isinstance(time, int | np.integer) else {"number": float(time)}


def read(record: Any) -> Any:
    """Return the time that `written` has described; anything else is a ValueError."""
    import pandas

    _check.instance("time", record, dict)
    try:
        if "period" in record:
            return pandas.Period(record["period"], freq=record["freq"])
        if "date" in record:
            time = pandas.Timestamp(record["date"]).as_unit(record["unit"])
            return time.tz_localize(record["zone"]) if "zone" in record else time
        return int(record["integer"]) if "integer" in record else float(record["number"])
    except (KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"time: expected a date, a period or a number, got {_check.describe(record)}"
        ) from error


def as_index(name: str, values: Any) -> Any:
    """Return times as an index, in whatever order."""
    import pandas

    index = pandas.Index(values)
    if isinstance(index, pandas.DatetimeIndex | pandas.PeriodIndex):
        return index
    if pandas.api.types.is_numeric_dtype(index.dtype) and not pandas.api.types.is_bool_dtype(index.dtype):
        return index
    if isinstance(index, pandas.MultiIndex) or pandas.api.types.is_timedelta64_dtype(index.dtype):
        raise TypeError(f"{name}: expected dates, periods or numbers, got {type(index).__name__}")
    dates = pandas.DatetimeIndex(pandas.to_datetime(index, format="ISO8601", errors="coerce"))
    wrong = np.flatnonzero(dates.isna() & ~index.isna())
    if wrong.size:
        raise ValueError(
            f"{name}: expected dates, periods, numbers or texts such as '2001-12-31', "
            f"got {_check.describe(index[wrong[0]])} at step {wrong[0]}; pandas.to_datetime reads others"
        )
    return dates


def _on_calendar(name: str, index: Any, step: Any) -> Any:
    """Give dates their frequency, or name the first that breaks it."""
    import pandas

    if step is None:
        step = _frequency(index)
    if step is None:
        step = _likely(index)
    expected = pandas.date_range(index[0], periods=len(index), freq=step)
    _compare(name, index, expected, expected.freqstr)
    return pandas.DatetimeIndex(index, freq=expected.freq)


def _likely(index: Any) -> Any:
    """Return the step that most of some dates have, though not all of them."""
    import pandas

    for size in _SIZES:
        begins = range(min(len(index) - size, _PIECES) + 1)
        votes = Counter(map(_frequency, (index[begin : begin + size] for begin in begins)))
        del votes[None]
        if votes:
            return votes.most_common(1)[0][0]
    return pandas.Timedelta(int(np.median(np.diff(index.asi8))), index.unit)


def _frequency(index: Any) -> Any:
    """Return the frequency of sorted dates, or None."""
    import pandas

    if len(index) < 3:
        return pandas.tseries.frequencies.to_offset(index[1] - index[0]) if len(index) == 2 else None
    try:
        return pandas.DatetimeIndex(index.to_numpy() if index.tz is None else index, freq="infer").freq
    except ValueError:
        return None


def _compare(name: str, index: Any, expected: Any, step: str) -> None:
    """Refuse an index that is not the expected one."""
    off = (
        np.flatnonzero(index.asi8 != expected.as_unit(index.unit).asi8)
        if hasattr(index, "unit")
        else (np.flatnonzero(index.asi8 != expected.asi8))
    )
    if off.size:
        n = int(off[0])
        after = f" after {_text(index[n - 1])}" if n else ""
        raise ValueError(
            f"{name}: expected times in steps of {step}, got {_text(index[n])}{after}, at step {n}, "
            f"where {_text(expected[n])} should be"
        )


def _text(time: Any) -> str:
    """Show a time in a message: a date without the hour if that is midnight."""
    return str(time).removesuffix(" 00:00:00")
