"""Series in every form that users have, checked and laid out alike; results in the form of what came.

Arrays, lists of them, pandas Series, wide and long frames become a list of `Series`; a `Layout` remembers
what they were.  Whatever is wrong is told with its place: step or time, column, series.  pandas is imported
only where its objects have come in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from . import times as _times

Array = NDArray[np.float64]

_FLOAT = np.dtype(np.float64)


class Series(NamedTuple):
    """One series: values to forecast, and what is known beside them.

    Attributes
    ----------
    name : hashable
        Position in a list, column of a wide frame, or value of the group.
    y : ndarray of shape (T, targets)
    past : ndarray of shape (T, P)
        Known up to now.
    future : ndarray of shape (T or more, F)
        Known ahead; rows from T on belong to the steps after the last of `y`.
    static : ndarray of shape (S,)
    times : pandas.Index or None
    """

    name: Any
    y: Array
    past: Array
    future: Array
    static: Array
    times: Any = None

    def part(self, begin: int, end: int) -> Series:
        """Return steps `begin` to `end`; what was known ahead beyond them stays known."""
        times = None if self.times is None else self.times[begin:end]
        return Series(
            self.name, self.y[begin:end], self.past[begin:end], self.future[begin:], self.static, times
        )


@dataclass(frozen=True)
class Columns:
    """Which columns of a long frame are what; `target` is None for every other form."""

    target: tuple[Any, ...] | None
    time: Any
    group: Any
    past: tuple[Any, ...]
    future: tuple[Any, ...]
    static: tuple[Any, ...]

    @classmethod
    def of(cls, target: Any, time: Any, group: Any, past: Any, future: Any, static: Any) -> Columns:
        """Take what users say: a name, or a list of names."""
        found = cls(
            None if target is None else _names("target", target),
            time,
            group,
            _names("past", past),
            _names("future", future),
            _names("static", static),
        )
        others = {"time": time, "group": group, "past": past, "future": future, "static": static}
        for name, value in others.items():
            if target is None and value is not None:
                raise ValueError(
                    f"{name}: expected None, for no target is named, got {_check.describe(value)}; "
                    "covariates of arrays are arguments of fit"
                )
        if found.target == ():
            raise ValueError("target: expected a column or several, got none")
        taken = [column for column in (*(found.target or ()), time, group) if column is not None]
        for column in (*found.past, *found.future, *found.static):
            if column in taken:
                raise ValueError(
                    f"past, future, static: expected no column that is target, time or group, got {column!r}"
                )
        return found


def _names(name: str, given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Sequence):
        return (given,)
    if len(set(given)) != len(given):
        raise ValueError(f"{name}: expected each column once, got {_check.listed(given)}")
    return tuple(given)


@dataclass(frozen=True)
class Layout:
    """The form of what came, which results take as well.

    Attributes
    ----------
    form : "array", "list", "series", "wide" or "long"
    flat : bool
        Whether each series has one target, without an axis of its own.
    targets : tuple
        Names of the columns of a long frame, or of a pandas Series.
    time, group : hashable
        Column of a long frame, or name of the index; None where there is none.
    """

    form: str
    flat: bool
    targets: tuple[Any, ...] = ()
    time: Any = None
    group: Any = None

    def result(
        self, names: Sequence[Any], times: Sequence[Any], values: Array, kinds: Sequence[str] = ()
    ) -> Any:
        """Return forecasts in the form of the series.

        Parameters
        ----------
        names, times : sequences
            Of each series; `times` are those of the forecast steps.
        values : ndarray of shape (series, horizon, targets), or (series, horizon, targets, kinds)
        kinds : sequence of str
            What the last axis holds, such as quantiles; in a frame each becomes a column, named
            ``<target>_<kind>``.
        """
        if self.form in ("array", "list"):
            values = values[:, :, 0] if self.flat else values
            return values if self.form == "list" else values[0]
        import pandas

        def labels(columns: Sequence[Any]) -> list[Any]:
            return [f"{column}_{kind}" for column in columns for kind in kinds] if kinds else list(columns)

        n, horizon = values.shape[:2]
        if self.form in ("series", "wide"):  # one target each: side by side
            columns = (
                ["y" if self.targets[0] is None else self.targets[0]] if self.form == "series" else names
            )
            beside = [
                pandas.DataFrame(values[k].reshape(horizon, -1), times[k].rename(self.time), labels([column]))
                for k, column in enumerate(columns)
            ]
            frame = pandas.concat(beside, axis=1)
            return frame.iloc[:, 0].rename(self.targets[0]) if self.form == "series" and not kinds else frame
        frames = []
        for k in range(n):
            frame = pandas.DataFrame(values[k].reshape(horizon, -1), columns=labels(self.targets))
            if times[k] is not None and self.time is None:
                frame.index = times[k]
            elif times[k] is not None:
                frame.insert(0, self.time, times[k])
            if self.group is not None:
                frame.insert(0, self.group, names[k])
            frames.append(frame)
        return pandas.concat(frames, ignore_index=self.time is not None or times[0] is None)


def lay_out(
    y: Any,
    columns: Columns,
    past: Any = None,
    future: Any = None,
    static: Any = None,
    *,
    ahead: int = 0,
    step: Any = None,
    label: str = "y",
) -> tuple[list[Series], Layout]:
    """Return series of any form as a list, with finite numbers and regular times, and their layout.

    Parameters
    ----------
    y : array_like of shape (T,) or (T, targets), list of such, pandas Series, wide or long DataFrame
        What a wide frame has no values of at first begins later.
    columns : Columns
        Of a long frame.
    past, future, static : array_like, DataFrame, or list of these
        Covariates of other forms: (T, P) and (T, F) for each series, frames by time; (series, S).  With
        `ahead` the rows of `future` go on so far, and a long frame has one of its own for what is ahead.
    ahead : int
        Steps beyond y for which `future` must be known.
    step : str or number, optional
        The step that times must have.
    label : str
        What messages call `y`.

    Raises
    ------
    ValueError, TypeError
        Something is missing, no number, not finite or irregular; its place is named.
    """
    pandas = sys.modules.get("pandas")
    if columns.target is not None:
        if pandas is None or not isinstance(y, pandas.DataFrame):
            raise TypeError(
                f"{label}: expected a DataFrame, for target names its columns, got {_check.describe(y)}"
            )
        if past is not None or static is not None or (future is not None and not ahead):
            raise ValueError("past, future, static: expected None, for a long frame has them as columns")
        found = _of_long(label, y, columns, step)
        layout = Layout("long", len(columns.target) == 1, columns.target, columns.time, columns.group)
        return (with_future(found, layout, columns, future, ahead, step) if ahead else found), layout
    if pandas is not None and isinstance(y, pandas.Series):
        found = _of_wide(label, y.to_frame("y"), past, future, static, ahead, step)
        return [found[0]._replace(name=0)], Layout("series", True, (y.name,), y.index.name)
    if pandas is not None and isinstance(y, pandas.DataFrame):
        return _of_wide(label, y, past, future, static, ahead, step), Layout("wide", True, (), y.index.name)
    return _of_arrays(label, y, past, future, static, ahead)


def with_future(
    series: Sequence[Series], layout: Layout, columns: Columns, future: Any, ahead: int, step: Any = None
) -> list[Series]:
    """Return series with what is known of the `ahead` steps after them.

    Parameters
    ----------
    future : array_like of shape (ahead or more, F), list of such, or DataFrame
        An array, or a frame looked up by time, for all series; a list has one for each; a frame with the
        columns of a long one.
    """
    count = series[0].future.shape[1]
    if not count:
        if future is not None:
            raise ValueError(
                "future: expected None, for training had no covariates that are known ahead, got some"
            )
        return list(series)
    if future is None:
        raise ValueError(
            f"future: expected {count} covariates for the {ahead} steps of the horizon, got None"
        )
    labels = ["future"] * len(series)
    if layout.form == "list":
        given = _listed("future", future, len(series))
        labels = [f"future[{n}]" for n in range(len(series))]
    elif layout.form == "long":
        parts = _parts("future", future, columns, columns.future)
        given = [_dated(parts.get(one.name), one, columns) for one in series]
    else:
        given = [future] * len(series)
    found = []
    for label, own, one in zip(labels, given, series, strict=True):
        times = (
            None
            if one.times is None
            else _times.following(one.times[-1], _times.step_of(one.times, step), ahead)
        )
        rows = _rows(label, own, ahead, times, more=True)
        if rows.shape[1] != count:
            raise ValueError(f"{label}: expected {count} columns, as in training, got {rows.shape[1]}")
        found.append(one._replace(future=np.concatenate([one.future[: len(one.y)], rows])))
    return found


# ----------------------------------------------------------------------------------------------------- arrays


def _numbers(name: str, value: Any) -> Array:
    """Return (steps, columns) of float64, finite."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked one; fill it first")
    given = _check.array(name, value, _FLOAT)
    given = given[:, None] if given.ndim == 1 else given
    if given.ndim != 2:
        raise ValueError(f"{name}: expected shape (steps,) or (steps, columns), got {given.shape}")
    bad = np.argwhere(~np.isfinite(given))
    if bad.size:
        step, column = bad[0]
        place = f"step {step}" + (f", column {column}" if given.shape[1] > 1 else "")
        raise ValueError(f"{name}: expected finite numbers, got {given[step, column]} at {place}")
    return given


def _rows(name: str, given: Any, count: int, times: Any = None, *, more: bool = False) -> Array:
    """Return covariates (count, columns): of a frame by time, of an array, which may go on with `more`."""
    if given is None:
        return np.empty((count, 0))
    if hasattr(given, "columns"):
        if times is not None:
            own = _times.as_index(f"{name}: index", given.index)
            if not own.is_unique:
                raise ValueError(f"{name}: expected each time once, got {own[own.duplicated()][0]} twice")
            rows = own.get_indexer(times)
            if (rows < 0).any():
                missing = times[np.flatnonzero(rows < 0)[0]]
                raise ValueError(f"{name}: expected a row for each of {count} steps, got none for {missing}")
            given = given.iloc[rows]
        values = _table(given, given.columns, lambda n: f"row {given.index[n]}")
    else:
        values = _numbers(name, given)
    if len(values) < count or (len(values) > count and not more):
        raise ValueError(f"{name}: expected {count} steps{' or more' if more else ''}, got {len(values)}")
    return values[:count]


def _static(static: Any, count: int) -> Array:
    """Return (series, S)."""
    if static is None:
        return np.empty((count, 0))
    given = np.asarray(static)
    values = _numbers("static", given[None] if given.ndim == 1 and count == 1 else given)
    if len(values) != count:
        raise ValueError(f"static: expected {count} rows, one for each series, got {len(values)}")
    return values


def _listed(name: str, given: Any, count: int) -> list[Any]:
    """Return a list with something for each series."""
    if given is None:
        return [None] * count
    if not isinstance(given, list | tuple) or len(given) != count:
        raise ValueError(
            f"{name}: expected a list of {count} arrays, one for each series, got {_check.describe(given)}"
        )
    return list(given)


def _of_arrays(
    label: str, y: Any, past: Any, future: Any, static: Any, ahead: int
) -> tuple[list[Series], Layout]:
    several = isinstance(y, list | tuple) and any(np.ndim(one) for one in y)
    if not several:
        y, past, future = [y], [past], [future]
    count = len(y)
    pasts, futures = _listed("past", past, count), _listed("future", future, count)
    statics = _static(static, count)
    found: list[Series] = []
    for n in range(count):
        of = f"[{n}]" if several else ""
        values = _numbers(f"{label}{of}", y[n])
        one = Series(
            n,
            values,
            _rows(f"past{of}", pasts[n], len(values)),
            _rows(f"future{of}", futures[n], len(values) + ahead, more=ahead > 0),
            statics[n],
        )
        if not len(values):
            raise ValueError(f"{label}{of}: expected values, got none")
        found.append(one)
        for what in ("y", "past", "future"):
            first, own = (getattr(which, what).shape[1] for which in (found[0], one))
            if own != first:
                name = label if what == "y" else what
                raise ValueError(f"{name}{of}: expected {first} columns, as {name}[0] has, got {own}")
    return found, Layout("list" if several else "array", all(np.ndim(one) == 1 for one in y))


# ----------------------------------------------------------------------------------------------------- frames


def _table(frame: Any, names: Sequence[Any], place: Callable[[int], str]) -> Array:
    """Return columns of a frame as (rows, columns), finite; `place` names a row."""
    found = np.empty((len(frame), len(names)))
    for k, name in enumerate(names):
        column = frame[name]
        if column.ndim != 1:
            raise ValueError(f"column {name!r}: expected one of that name, got {column.shape[1]}")
        if getattr(column.dtype, "kind", "O") not in "fiub":
            raise TypeError(
                f"column {name!r}: expected numbers, got dtype {column.dtype}; texts and categories have to "
                "be made numbers first, as pandas.get_dummies does"
            )
        found[:, k] = column.to_numpy(_FLOAT, na_value=np.nan)
        bad = np.flatnonzero(~np.isfinite(found[:, k]))
        if bad.size:
            raise ValueError(
                f"column {name!r}: expected finite numbers, got {found[bad[0], k]} at {place(int(bad[0]))}"
            )
    return found


def _of_wide(
    label: str, frame: Any, past: Any, future: Any, static: Any, ahead: int, step: Any
) -> list[Series]:
    if 0 in frame.shape:
        raise ValueError(f"{label}: expected rows and columns, got shape {frame.shape}")
    if not frame.columns.is_unique:
        raise ValueError(f"{label}: expected each column once, got {_check.listed(frame.columns)}")
    index = _times.regular(f"{label}: index", frame.index, step)
    T = len(index)
    longer = index
    if ahead:
        longer = index.append(_times.following(index[-1], _times.step_of(index, step), ahead))
    pasts = _rows("past", past, T, index)
    futures = _rows("future", future, T + ahead, longer, more=ahead > 0)
    statics = _static(static, frame.shape[1])
    found = []
    for n, name in enumerate(frame.columns):
        missing = np.asarray(frame[name].isna())
        if missing.all():
            raise ValueError(f"column {name!r}: expected values, got none")
        begin = int(np.argmin(missing))
        values = _table(frame.iloc[begin:], [name], index[begin:].__getitem__)
        found.append(Series(name, values, pasts[begin:], futures[begin:], statics[n], index[begin:]))
    return found


def _of_long(label: str, frame: Any, columns: Columns, step: Any) -> list[Series]:
    found = []
    targets = columns.target or ()
    for name, part in _parts(
        label, frame, columns, (*targets, *columns.past, *columns.future, *columns.static)
    ).items():
        of = "" if columns.group is None else f", {columns.group} {name!r}"
        index = None
        if columns.time is not None:
            index = _times.regular(f"column {columns.time!r}{of}", part[columns.time], step)
        elif _is_dated(part):
            index = _times.regular(f"{label}: index{of}", part.index, step)

        def place(n: int, index: Any = index, of: str = of) -> str:
            return f"step {n}{of}" if index is None else f"{index[n]}{of}"

        y, past, future, static = (
            _table(part, names, place) for names in (targets, columns.past, columns.future, columns.static)
        )
        changes = np.argwhere(static != static[:1])
        if changes.size:
            n, k = changes[0]
            raise ValueError(
                f"column {columns.static[k]!r}: expected one value in each series, for it is static, "
                f"got {static[n, k]} after {static[0, k]} at {place(int(n))}"
            )
        found.append(Series(name, y, past, future, static[0], index))
    steps = {None if one.times is None else _times.step_of(one.times) for one in found if len(one.y) > 1}
    if len(steps) > 1:
        raise ValueError(
            f"time: expected the same step in all series, got {_check.listed(sorted(map(str, steps)))}"
        )
    return found


def _is_dated(frame: Any) -> bool:
    import pandas

    return isinstance(frame.index, pandas.DatetimeIndex | pandas.PeriodIndex)


def _parts(name: str, frame: Any, columns: Columns, wanted: Sequence[Any]) -> dict[Any, Any]:
    """Return the rows of each group, in the order in which groups appear; every column must be there."""
    if not hasattr(frame, "columns"):
        raise TypeError(f"{name}: expected a DataFrame, as in training, got {_check.describe(frame)}")
    needed = [column for column in (columns.time, columns.group, *wanted) if column is not None]
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{name}: expected the columns {_check.listed(needed)}; missing: {_check.listed(missing)}"
        )
    if not len(frame):
        raise ValueError(f"{name}: expected rows, got none")
    if columns.group is None:
        return {0: frame}
    unnamed = np.flatnonzero(np.asarray(frame[columns.group].isna()))
    if unnamed.size:
        raise ValueError(
            f"column {columns.group!r}: expected a value in every row, got none in row {unnamed[0]}"
        )
    return dict(iter(frame.groupby(columns.group, sort=False, observed=True)))


def _dated(part: Any, one: Series, columns: Columns) -> Any:
    """Return what is known ahead of a series of a long frame, under its times."""
    if part is None:
        raise ValueError(f"future: expected rows for each series, got none for {columns.group} {one.name!r}")
    known = part[list(columns.future)]
    return known if columns.time is None else known.set_axis(part[columns.time], axis=0)
