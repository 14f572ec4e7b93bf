"""What a table asks for: which column is what, what is to be learnt, and the checked data of it.

A target that is the same in all rows of each group makes each group one sequence with one answer: a class
where it is text, else a number.  Any other target is a series of numbers, to be forecast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _check, _tables
from ._check import UsageError
from ._tables import Table

Array = NDArray[Any]

TASKS = ("forecast", "classify", "regress")

_ALL_BUT_LAST, _ALL_BUT_FIRST = slice(None, -1), slice(1, None)

# Steps of the shortest usual period, by the name of a step of one such unit.
_SEASONS = {"M": 12, "Q": 4, "W": 52, "D": 7, "B": 5, "h": 24, "min": 60, "s": 60}
# Of steps of so many minutes that a day has at most as many of them, the day is the season.
_MOST_OF_A_DAY, _MINUTES_OF_A_DAY = 144, 1440
# So many different whole numbers may be meant as classes.
_MOST_CLASSES = 20
# Numbers that may be dates without their dashes.
_DATES = 19000101, 21001231
# Steps of a forecast where there is no season, and into how many parts a short series is cut at least.
_USUAL_HORIZON, _HORIZONS, _WINDOWS = 12, 6, 3


@dataclass(frozen=True)
class Roles:
    """Which column of a table is what, and the task."""

    task: str
    target: str
    group: str | None = None
    time: str | None = None
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    @property
    def covariates(self) -> tuple[str, ...]:
        """All columns of numbers but the target."""
        return (*self.past, *self.future, *self.static)


@dataclass(frozen=True)
class Wishes:
    """What a user says of a table; None where that is nothing."""

    target: str
    group: str | None = None
    time: str | None = None
    task: str | None = None
    past: tuple[str, ...] | None = None
    future: tuple[str, ...] | None = None
    static: tuple[str, ...] | None = None

    def roles(self, task: str, past: tuple[str, ...] = ()) -> Roles:
        """Return the roles for a task, with the columns of the past if the user names none."""
        future, static = self.future or (), self.static or ()
        return Roles(task, self.target, self.group, self.time, self.past or past, future, static)


class Series(NamedTuple):
    """The checked data of a forecast."""

    known: Any  # pandas.DataFrame of group, time, target and covariates
    future: Any  # the same of the rows at the ends of the groups that have no target
    lengths: dict[str, int]  # how many known rows each group has; {"": n} without groups


class Sequences(NamedTuple):
    """The checked data of a classifier or a regression."""

    names: list[str]
    x: Any  # pandas.DataFrame with the index (group, step), of the columns
    y: Array | None  # one a sequence: text or float64


# ------------------------------------------------------------------------------------------------ the task


def decide(table: Table, wishes: Wishes) -> tuple[Roles, str]:
    """Return the roles of the columns and, in words, why the task is what it is.

    Raises
    ------
    UsageError
        The wishes contradict each other.
    FileFormatError
        A column is missing or does not hold what its role or the task needs.
    """
    taken = _take_columns(table, wishes)
    target, group, task = wishes.target, wishes.group, wishes.task
    if group is None:
        if task in ("classify", "regress"):
            raise UsageError(f"--task {task}: expected --group COL, the column that tells sequences apart")
        return _decide_forecast(table, wishes)
    names, rows = _tables.groups(table, group)
    if len(names) == len(table):
        raise table.error(
            f"--group: each of the {len(names):,} values of column {_check.describe(group)} has one row; "
            "series and sequences have several"
        )
    filled = ~table.missing(target)
    texts = table.frame[target].astype(str).to_numpy(object)
    differing = _first_difference(texts, [own[filled[own]] for own in rows if filled[own].any()])
    if task == "forecast" or (task is None and differing is not None):
        return _decide_forecast(table, wishes)
    if differing is not None:
        raise _not_constant(table, target, differing, f"for --task {task} each group has one answer")
    numeric = table.is_numeric(target)
    found = task or ("regress" if numeric else "classify")
    what = "a classifier of sequences" if found == "classify" else "a regression on sequences"
    if wishes.future or wishes.static:
        raise UsageError(
            f"{'--future' if wishes.future else '--static'}: only a forecast has such columns, and this is "
            f"{what}; name all its columns with --past"
        )
    why = (
        f"{_check.describe(target)} is {'a number' if numeric else 'text'} and the same in all rows of each "
        f"{_check.describe(group)}: {what}"
    )
    if task is None and numeric:
        values = np.unique(table.numbers(target, gaps=True))
        if len(values) <= _MOST_CLASSES and np.array_equal(values, values.round()):
            why += f" (--task classify would take its {len(values)} values as classes)"
    return wishes.roles(found, () if wishes.past else _features(table, taken)), why


def _take_columns(table: Table, wishes: Wishes) -> set[str]:
    """Return the columns that are spoken for, each once."""
    options = {
        "--target": (wishes.target,), "--group": (wishes.group,), "--time": (wishes.time,),
        "--past": wishes.past, "--future": wishes.future, "--static": wishes.static,
    }  # fmt: skip
    taken: dict[str, str] = {}
    for option, names in options.items():
        for name in names or ():
            if name is None:
                continue
            table.require([name], option)
            if name in taken:
                raise UsageError(f"{option}: column {_check.describe(name)} is that of {taken[name]}")
            taken[name] = option
    return set(taken)


def _decide_forecast(table: Table, wishes: Wishes) -> tuple[Roles, str]:
    """Return the roles of a forecast, whose target has to be a number."""
    target = wishes.target
    if not table.is_numeric(target):
        first = int(np.argmin(table.missing(target)))
        if wishes.task == "forecast" or table.holds_a_number(target):
            table.numbers(target, gaps=True)  # tells which cell is none
        remedy = (
            "a classifier needs --group, the column that tells sequences apart"
            if wishes.group is None
            else "a classifier needs one answer for each group"
        )
        got = _check.describe(str(table.frame[target].iloc[first]))
        raise table.wrong(target, first, f"got {got}; a forecast needs numbers, and {remedy}")
    return wishes.roles("forecast"), f"{_check.describe(target)} is a number that changes: a forecast"


def _first_difference(values: Array, rows: Sequence[Array]) -> tuple[int, int] | None:
    """Return the first row, and the first of its group, that have not the same value."""
    found = [
        (int(group[0]), int(group[np.argmax(differs)]))
        for group in rows
        if (differs := values[group] != values[group[0]]).any()
    ]
    return min(found, key=lambda pair: pair[1]) if found else None


def _not_constant(table: Table, column: str, rows: tuple[int, int], why: str) -> _check.FileFormatError:
    """Make the error of a column that is not the same in all rows of a group."""
    before, row = rows
    expected, got = (_check.describe(str(table.frame[column].iloc[n])) for n in rows)
    return table.wrong(column, row, f"expected {expected} as in {table.place(before)}, {why}; got {got}")


def _features(table: Table, taken: set[str]) -> tuple[str, ...]:
    """Return the columns of numbers that are not spoken for and not the same everywhere."""
    free = [name for name in table.columns if name not in taken and table.is_numeric(name)]
    found = tuple(name for name in free if table.frame[name].nunique(dropna=False) > 1)
    if not found:
        raise table.error("expected columns of numbers beside the target, got none")
    return found


def unused(table: Table, roles: Roles) -> list[str]:
    """Return the columns that have no role."""
    used = {roles.target, roles.group, roles.time, *roles.covariates}
    return [name for name in table.columns if name not in used]


def dates_among(table: Table, names: Sequence[str]) -> str | None:
    """Return the first of these columns that holds dates."""
    for name in names:
        if not table.is_numeric(name):
            try:
                table.times(name)
            except _check.FileFormatError:
                continue
            return name
    return None


# ------------------------------------------------------------------------------------------------ the data


def series(table: Table, roles: Roles) -> Series:
    """Check and return the data of a forecast."""
    _require(table, roles)
    names, rows = _tables.groups(table, roles.group)
    known = _known(table, roles.target, rows)
    is_known = np.zeros(len(table), bool)
    for group, count in zip(rows, known, strict=True):
        is_known[group[:count]] = True
    columns: dict[str, Any] = {}
    if roles.group is not None:
        columns[roles.group] = table.labels(roles.group)
    if roles.time is not None:
        columns[roles.time] = table.times(roles.time)
        _check_rising(table, roles.time, columns[roles.time], rows)
    columns[roles.target] = table.numbers(roles.target, gaps=True)
    for name in roles.past:
        columns[name] = table.numbers(name, gaps=~is_known)
    for name in (*roles.future, *roles.static):
        columns[name] = table.numbers(name)
    for name in roles.static:
        differing = _first_difference(columns[name], rows)
        if differing is not None:
            raise _not_constant(table, name, differing, "for --static columns are the same within a group")
    frame = _tables.pandas().DataFrame(columns)
    return Series(frame[is_known], frame[~is_known], dict(zip(names, known, strict=True)))


def sequences(table: Table, roles: Roles, *, with_target: bool) -> Sequences:
    """Check and return the data of a classifier or a regression."""
    _require(table, roles, with_target=with_target)
    names, rows = _tables.groups(table, roles.group)
    group = table.labels(roles.group) if roles.group is not None else np.full(len(table), "")
    steps = np.arange(len(table))
    if roles.time is not None:
        steps = table.times(roles.time)
        _check_rising(table, roles.time, steps, rows)
    columns = {name: table.numbers(name) for name in roles.past}
    x = _tables.pandas().DataFrame(columns, index=[group, steps])
    if not with_target:
        return Sequences(names, x, None)
    labels = table.labels(roles.target)
    differing = _first_difference(labels, rows)
    if differing is not None:
        raise _not_constant(table, roles.target, differing, "for each group has one answer")
    first = np.array([own[0] for own in rows])
    return Sequences(names, x, (labels if roles.task == "classify" else table.numbers(roles.target))[first])


def _require(table: Table, roles: Roles, *, with_target: bool = True) -> None:
    """Refuse a table without a column that has a role."""
    named = (roles.target if with_target else None, roles.group, roles.time, *roles.covariates)
    table.require([name for name in named if name is not None])


def _known(table: Table, target: str, rows: Sequence[Array]) -> list[int]:
    """Return how many rows of each group have a target; those without must be its last."""
    empty = table.missing(target)
    known = []
    for group in rows:
        gaps = empty[group]
        count = 0 if gaps.all() else len(group) - int(np.argmin(gaps[::-1]))
        if gaps[:count].any():
            row = int(group[np.argmax(gaps)])
            raise table.wrong(
                target, row, "expected a number, got an empty cell, with values below it; fill it first"
            )
        known.append(count)
    return known


def check_varies(table: Table, columns: Mapping[str, Any]) -> None:
    """Refuse columns that say nothing: the same value in all rows."""
    for name, values in columns.items():
        found = np.unique(np.asarray(values))
        if len(found) <= 1:
            value = f"{_check.describe(found.tolist()[0])} in all rows" if len(found) else "none"
            raise table.error(f"column {_check.describe(name)}: expected values that differ, got {value}")


def _check_rising(table: Table, column: str, times: Array, rows: Sequence[Array]) -> None:
    """Refuse a time that is not later than the one before it in the same group."""
    before, after = (
        np.concatenate([group[part] for group in rows]) for part in (_ALL_BUT_LAST, _ALL_BUT_FIRST)
    )
    back = times[after] <= times[before]
    if not back.any():
        return
    first = int(np.argmin(np.where(back, after, len(times))))
    row, previous = int(after[first]), int(before[first])
    shown, earlier = (_check.describe(str(table.frame[column].iloc[n])) for n in (row, previous))
    if times[row] == times[previous]:
        remedy = "" if len(rows) > 1 else "; if the table holds several series, say --group"
        raise table.wrong(column, row, f"got {shown} again, as in {table.place(previous)}{remedy}")
    raise table.wrong(
        column, row, f"got {shown} after {earlier} in {table.place(previous)}; sort the table by time"
    )


def check_ahead(table: Table, roles: Roles, data: Series, horizon: int, input_steps: int) -> None:
    """Refuse groups with less than a forecast needs: known rows, and rows of the future for its columns."""
    ahead = dict.fromkeys(data.lengths, len(data.future))
    if roles.group is not None:
        ahead = dict.fromkeys(data.lengths, 0) | data.future.groupby(roles.group).size().to_dict()
    for name, known in data.lengths.items():
        of = f" in group {_check.describe(name)}" if name else ""
        if known < input_steps:
            raise table.error(f"expected at least {input_steps} rows with a target{of}, got {known}")
        if roles.future and ahead[name] < horizon:
            raise table.error(
                f"expected {_check.counted(horizon, 'row')} with an empty {_check.describe(roles.target)} at "
                f"the end{of}, with the future of {_check.listed(roles.future)}, got {ahead[name]}"
            )


# ------------------------------------------------------------------------------------------ times and spans


def step_of(table: Table, roles: Roles, data: Series) -> str | float:
    """Return the step between the times of the longest group, as pandas names it, or 1 without times."""
    if roles.time is None:
        return 1.0
    from .estimators import times

    frame = data.known
    if roles.group is not None:
        longest = max(data.lengths, key=data.lengths.__getitem__)
        frame = frame[frame[roles.group] == longest]
    try:
        return times.step_of(times.regular(f"column {_check.describe(roles.time)}", frame[roles.time]))
    except ValueError as error:
        is_date = frame[roles.time].dtype.kind in "if" and frame[roles.time].between(*_DATES).all()
        remedy = "; if these numbers are dates, say such as --time-format %Y%m%d" if is_date else ""
        raise table.error(f"{error}{remedy}") from error


def last_times(roles: Roles, data: Series) -> dict[str, str | int]:
    """Return the last known time of each group, or the number of its last row."""
    if roles.time is None:
        return {name: count - 1 for name, count in data.lengths.items()}
    if roles.group is None:
        last = {"": data.known[roles.time].iloc[-1]}
    else:
        last = data.known.groupby(roles.group, sort=False)[roles.time].last().to_dict()
    return {name: time.isoformat() if hasattr(time, "isoformat") else time for name, time in last.items()}


def season(step: str | float) -> int:
    """Return how many steps the shortest usual period of a calendar has, 1 where there is none.

    Parameters
    ----------
    step : str or number
        As pandas names it: "MS", "2h", "W-SUN"; or the difference of numbers.
    """
    if not isinstance(step, str):
        return 1
    offset = _tables.pandas().tseries.frequencies.to_offset(step)
    name, size = offset.rule_code.partition("-")[0], int(offset.n)
    unit = name if name in _SEASONS else name.removeprefix("B").rstrip("SE")
    if unit == "min" and _MINUTES_OF_A_DAY // size <= _MOST_OF_A_DAY:
        return _MINUTES_OF_A_DAY // size
    return max(_SEASONS.get(unit, 1) // size, 1)


def spans(
    table: Table, lengths: dict[str, int], period: int, horizon: int | None, input_steps: int | None
) -> tuple[int, int]:
    """Return how far a forecast goes and how far it looks back, where the user does not say.

    A season and two; less where series are short, 12 and 24 where there is no season.
    """
    name, shortest = min(lengths.items(), key=lambda item: item[1])
    usual = period if period > 1 else _USUAL_HORIZON
    ahead = horizon or max(1, min(usual, shortest // _HORIZONS))
    back = input_steps or max(2, min(2 * max(period, ahead), shortest // _WINDOWS))
    needed = back + 2 * ahead
    if shortest < needed:
        of = f" in group {_check.describe(name)}" if name else ""
        raise table.error(
            f"expected at least {needed} rows with a target{of}, got {shortest}: {back} to look back "
            f"(--input-steps), {ahead} to forecast (--horizon) and as many to hold out"
        )
    return ahead, back
