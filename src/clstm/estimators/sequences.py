"""Panels of sequences: whatever users have becomes one checked table of steps, cut by the sequences' lengths.

What is wrong is named by the words of the user's data: sequence and step, row and column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from .. import _check

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Panel:
    """Sequences of d features.

    Attributes
    ----------
    steps : ndarray of shape (steps of all sequences, d), float32 or float64
        Finite.
    lengths : ndarray of int of shape (n,)
        Steps of each sequence, at least one.
    name_column : callable
        From the number of a feature to what messages call it.
    labels : pandas.Index, optional
        What a long frame calls the sequences.
    """

    steps: Array
    lengths: NDArray[np.intp]
    name_column: Callable[[int], str]
    labels: Any = None

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return the panel of some of the sequences."""
        lengths = self.lengths[rows]
        shift = (np.cumsum(self.lengths) - self.lengths)[rows] - (np.cumsum(lengths) - lengths)
        places = np.repeat(shift, lengths) + np.arange(lengths.sum())
        return type(self)(self.steps[places], lengths, self.name_column)

    def sequences(self, steps: Array) -> Array | list[Array]:
        """Cut steps, of the shape of the panel's, into (n, T, d), or into a list if the lengths differ."""
        if (self.lengths == self.lengths[0]).all():
            return steps.reshape(len(self), -1, steps.shape[1])
        return np.split(steps, np.cumsum(self.lengths)[:-1])


# ------------------------------------------------------------------------------------------------- X, by kind


def is_frame(value: Any) -> bool:
    """Whether something is a pandas frame."""
    return hasattr(value, "columns") and hasattr(value, "index")


def is_long(X: Any) -> bool:
    """Whether X is a pandas frame whose index has several levels."""
    return is_frame(X) and X.index.nlevels > 1


def is_list(X: Any) -> bool:
    """Whether X is a list of sequences that are arrays or frames, or have unequal lengths."""
    if isinstance(X, np.ndarray):
        return X.ndim == 1 and X.dtype == object and all(np.ndim(sequence) > 0 for sequence in X)
    if not isinstance(X, list | tuple) or not all(isinstance(s, list | tuple) or np.ndim(s) > 0 for s in X):
        return False
    return any(hasattr(sequence, "shape") for sequence in X) or len(set(map(len, X))) > 1


def of_long(X: Any) -> Panel:
    """Read a long frame with the index (sequence, step); sequences keep the order of their first rows."""
    if X.index.nlevels != 2:
        raise ValueError(f"X: expected an index of two levels (sequence, step), got {X.index.nlevels}")
    steps = frame_values("X", X)
    codes, labels = X.index.get_level_values(0).factorize()
    if not len(codes):
        raise ValueError("X: expected at least one sequence, got a frame without rows")
    if (codes < 0).any():
        raise ValueError(
            f"X: expected a sequence in each row's index, got none in row {int(np.argmin(codes))}"
        )
    order = np.argsort(codes, kind="stable")
    codes, times = codes[order], X.index.get_level_values(1)[order]
    rising = np.asarray(times[1:] > times[:-1]) | (codes[1:] != codes[:-1])
    if not rising.all():
        later = int(np.argmin(rising)) + 1
        raise ValueError(
            f"X: expected steps that rise within each sequence, got {times[later]} after {times[later - 1]} "
            f"in sequence {labels[codes[later]]!r}"
        )

    def place(row: int, column: int) -> str:
        return f"sequence {labels[codes[row]]!r}, step {times[row]}, column {X.columns[column]!r}"

    steps = _finite("X", steps[order], place)
    return Panel(steps, np.bincount(codes), lambda column: f"column {X.columns[column]!r}", labels)


def of_list(X: Any) -> Panel:
    """Read a list of arrays (T_i, d) or (T_i,), or of frames."""
    parts = [_sequence(f"X[{number}]", sequence) for number, sequence in enumerate(X)]
    columns = X[0].columns if is_frame(X[0]) else None
    for number, part in enumerate(parts):
        if part.shape[1] != parts[0].shape[1]:
            raise ValueError(
                f"X[{number}]: expected {parts[0].shape[1]} features, as X[0] has, got {part.shape[1]}"
            )
        if columns is not None and is_frame(X[number]) and list(X[number].columns) != list(columns):
            raise ValueError(
                f"X[{number}]: expected the columns of X[0], {_check.listed(columns)}, "
                f"got {_check.listed(X[number].columns)}"
            )
    name = _column_name(columns)
    lengths = np.array([len(part) for part in parts], np.intp)
    steps = _finite("X", np.concatenate(parts), lambda row, column: f"{_place(lengths, row)}, {name(column)}")
    return Panel(steps, lengths, name)


def of_array(X: Any) -> Panel:
    """Read an array (n, T, d)."""
    values = _numbers("X", X)
    _check.shape("X", values, ("n", "T", "d"))
    if values.size == 0:
        raise ValueError(f"X: expected at least one sequence, step and feature, got shape {values.shape}")
    n, T, d = values.shape
    name = _column_name(None)
    lengths = np.full(n, T, np.intp)
    steps = _finite("X", values.reshape(-1, d), lambda row, column: f"{_place(lengths, row)}, {name(column)}")
    return Panel(steps, lengths, name)


def of_wide(X: Array, columns: Any = None) -> Panel:
    """Read a matrix (n, T) of numbers: sequences of one feature."""
    n, T = X.shape
    name = _column_name(columns)
    _finite("X", X, lambda row, column: f"row {row}, {name(column)}")
    return Panel(X.reshape(-1, 1), np.full(n, T, np.intp), lambda _: "all columns")


# ------------------------------------------------------------------------------------- what else is looked at


def refuse_masked(name: str, value: Any) -> None:
    """Refuse arrays whose mask would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array without a mask, got a masked one; fill it, or leave rows out"
        )


def frame_values(name: str, frame: Any) -> NDArray[np.float64]:
    """Return the numbers of a pandas frame; NaN where they are missing."""
    for column, dtype in frame.dtypes.items():
        if dtype.kind not in "fiub":
            raise TypeError(f"{name}: expected numbers, got {dtype} in column {column!r}")
    values: NDArray[np.float64] = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def weights(sample_weight: Any, n: int) -> NDArray[np.float64] | None:
    """Return the weights of n sequences, none of them negative, or None."""
    if sample_weight is None:
        return None
    refuse_masked("sample_weight", sample_weight)
    checked = _check.shaped("sample_weight", sample_weight, np.dtype(np.float64), (n,))
    wrong = ~(np.isfinite(checked) & (checked >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"sample_weight: expected finite numbers of at least 0, got {checked[row]} for sequence {row}"
        )
    if not checked.any():
        raise ValueError("sample_weight: expected a weight above zero, got zeros alone")
    return checked


def targets(y: Any) -> Array:
    """Return targets (n,) or (n, outputs), finite."""
    values = frame_values("y", y) if is_frame(y) else _numbers("y", _without_index(y))
    if values.ndim not in (1, 2):
        raise ValueError(f"y: expected shape (n,) or (n, outputs), got {values.shape}")
    if values.size == 0:
        raise ValueError(f"y: expected at least one target, got shape {values.shape}")
    matrix = values.reshape(len(values), -1)
    several = values.ndim == 2
    _finite("y", matrix, lambda row, column: f"row {row}" + (f", column {column}" if several else ""))
    return values


def labels(y: Any) -> Array:
    """Return labels (n,), of one type and none of them missing."""
    if hasattr(y, "isna") and y.isna().to_numpy().any():
        raise ValueError(f"y: expected a label in each row, got none in row {int(np.argmax(y.isna()))}")
    if isinstance(y, list | tuple) or _kind_of_dtype(y) == "O":
        kinds: dict[str, int] = {}  # of each type the first row
        for row, label in enumerate(y):
            kinds.setdefault(_kind(label), row)
        if "missing" in kinds:
            raise ValueError(f"y: expected a label in each row, got none in row {kinds['missing']}")
        if len(kinds) > 1:
            found = " and ".join(f"{kind} (row {row})" for kind, row in kinds.items())
            raise ValueError(f"y: expected labels of one type, got {found}")
        if "number" in kinds and hasattr(y, "dtype"):  # sklearn knows no objects but strings
            y = np.array(list(y))
    checked = column_or_1d(y, warn=True)
    if checked.dtype.kind == "f" and not np.isfinite(checked).all():
        row = int(np.argmin(np.isfinite(checked)))
        raise ValueError(f"y: expected a label in each row, got {checked[row]} in row {row}")
    check_classification_targets(checked)
    return checked


def same_order(y: Any, panel: Panel) -> None:
    """Compare the index of targets with the sequences of a long frame, where there are both."""
    index = getattr(y, "index", None)
    if panel.labels is None or not hasattr(index, "equals") or panel.labels.equals(index):
        return
    raise ValueError(
        "y: expected the sequences of X as its index, in the order of their first rows: "
        f"{_check.listed(list(panel.labels))}; got {_check.listed(list(y.index))}; "
        "y.to_numpy() is taken in the order that it has"
    )


# ---------------------------------------------------------------------------------------------------- helpers


def _kind(label: object) -> str:
    """Name the type of a label; all integers and floats are of one."""
    if label is None or (isinstance(label, float | np.floating) and label != label):
        return "missing"
    if isinstance(label, bool | np.bool_):
        return "bool"
    if isinstance(label, int | float | np.number):
        return "number"
    name = "str" if isinstance(label, str) else type(label).__name__
    return "missing" if name in {"NAType", "NaTType"} else name  # of pandas


def _kind_of_dtype(value: Any) -> str:
    """Return NumPy's letter for the kind of dtype of an array."""
    return str(getattr(getattr(value, "dtype", None), "kind", ""))


def _without_index(y: Any) -> Any:
    """Return the values of a pandas series; NaN where they are missing."""
    if not hasattr(y, "index") or not hasattr(y, "to_numpy") or _kind_of_dtype(y) not in set("fiub"):
        return y
    return y.to_numpy(dtype=np.float64, na_value=np.nan)


def _numbers(name: str, value: Any) -> Array:
    """Return float32 as it is, and all other real numbers as float64."""
    refuse_masked(name, value)
    given = _of_objects(value if isinstance(value, np.ndarray) else _check.on_cpu(value))
    single = str(getattr(given, "dtype", "")) in {"float32", "torch.float32"}
    return _check.array(name, given, np.dtype(np.float32 if single else np.float64))


def _of_objects(value: Any) -> Any:
    """Return an array or list of objects as numbers if that is what all of them are, and None as NaN."""
    if isinstance(value, list | tuple) and any(item is None for item in value):
        value = np.array(value, object)
    if _kind_of_dtype(value) != "O":
        return value
    objects = np.asarray(value)
    numbers = all(item is None or isinstance(item, Real) for item in objects.flat)
    return objects.astype(np.float64) if numbers else objects


def _sequence(name: str, value: Any) -> Array:
    """Return one sequence as (T, d)."""
    values = frame_values(name, value) if is_frame(value) else _numbers(name, value)
    if values.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape (T, d) or (T,), got {values.shape}")
    if values.size == 0:
        raise ValueError(f"{name}: expected at least one step and one feature, got shape {values.shape}")
    return values.reshape(len(values), -1)


def _finite(name: str, values: Array, place: Callable[[int, int], str]) -> Array:
    """Return values (rows, columns), all of which must be finite; `place` names a row and column."""
    finite = np.isfinite(values)
    if not finite.all():
        row, column = (int(number) for number in np.argwhere(~finite)[0])
        value = values[row, column]
        shown = "NaN" if np.isnan(value) else str(value)
        raise ValueError(f"{name}: expected finite numbers, got {shown} in {place(row, column)}")
    return values


def _place(lengths: NDArray[np.intp], row: int) -> str:
    """Name sequence and step of a row of all steps."""
    ends = np.cumsum(lengths)
    sequence = int(np.searchsorted(ends, row, side="right"))
    return f"sequence {sequence}, step {row - ends[sequence] + lengths[sequence]}"


def _column_name(columns: Any) -> Callable[[int], str]:
    """Return what names a column: by its label if there is one, else by its number."""
    if columns is None:
        return "column {}".format
    return lambda column: f"column {columns[column]!r}"
