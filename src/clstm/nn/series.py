"""Series and sequences as arrays: windows of one, padding of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from .. import _check

Array = NDArray[Any]


def pad(sequences: Sequence[ArrayLike], batch_first: bool = False) -> tuple[Array, NDArray[np.intp]]:
    """Put sequences of unequal lengths into one array, with zeros behind the shorter ones.

    `fit` and `predict` take lists as they are; this is for calls of layers and models.

    Parameters
    ----------
    sequences : list of array_like of shape (T_i, ...)
        At least one, alike but for their lengths.  float32 and integers stay, all else becomes float64.
    batch_first : bool, default False
        As in `clstm.LSTM`, and in PyTorch's `pad_sequence`.

    Returns
    -------
    x : ndarray of shape (T, B, ...), or (B, T, ...)
    lengths : ndarray of int of shape (B,)
        For the argument of that name.

    Raises
    ------
    ValueError, TypeError
        There is none, their shapes or kinds differ, or one holds no real numbers.

    Examples
    --------
    >>> from clstm.nn import pad
    >>> x, lengths = pad([[1.0, 2.0, 3.0], [4.0]], batch_first=True)
    >>> x, lengths
    (array([[1., 2., 3.],
           [4., 0., 0.]]), array([3, 1]))
    """
    batch_first = _check.boolean("batch_first", batch_first)
    if isinstance(sequences, np.ndarray) or not isinstance(sequences, Sequence) or not len(sequences):
        raise TypeError(f"sequences: expected a list of arrays, got {_check.describe(sequences)}")
    given = [_check.as_array(f"sequences[{n}]", one, "numbers") for n, one in enumerate(sequences)]
    kept = given[0].dtype if given[0].dtype.kind in "iu" or given[0].dtype == np.float32 else np.dtype(float)
    for n, one in enumerate(given):
        if one.dtype.kind not in ("iu" if kept.kind in "iu" else "fiub"):
            what = "integers, as sequences[0] has" if kept.kind in "iu" else "real numbers"
            raise TypeError(f"sequences[{n}]: expected {what}, got dtype {one.dtype}")
        _check.shape(f"sequences[{n}]", one, ("T", *given[0].shape[1:]))
    lengths = np.array([len(one) for one in given], np.intp)
    x = np.zeros((len(given), int(lengths.max()), *given[0].shape[1:]), kept)
    for row, one in zip(x, given, strict=True):
        row[: len(one)] = one
    return (x if batch_first else np.ascontiguousarray(x.swapaxes(0, 1))), lengths


def windows(series: ArrayLike, input_steps: int, horizon: int = 1) -> tuple[Array, Array]:
    """Cut a series into every window of `input_steps` values and the `horizon` values that follow it.

    Parameters
    ----------
    series : array_like of shape (N,) or (N, F)
        One value, or F features, a time step.  float32 stays float32, everything else becomes float64.
    input_steps, horizon : int
        Lengths of the two parts of a window.

    Returns
    -------
    x : ndarray of shape (n, input_steps, F), read-only
        ``x[k]`` is ``series[k : k + input_steps]``, with F = 1 for a series of shape (N,): the layout of
        `batch_first`.
    y : ndarray of shape (n, horizon), or (n, horizon, F) for a series of shape (N, F), read-only
        ``y[k]`` is ``series[k + input_steps : k + input_steps + horizon]``.

    Both are views of one series with ``n = N - input_steps - horizon + 1``: no memory is needed, whatever the
    lengths.

    Raises
    ------
    ValueError, TypeError
        The series has another rank, is shorter than one window, or a length is not a positive integer.

    Examples
    --------
    >>> from clstm.nn import windows
    >>> x, y = windows([1.0, 2.0, 3.0, 4.0, 5.0], input_steps=3)
    >>> x[..., 0]
    array([[1., 2., 3.],
           [2., 3., 4.]])
    >>> y
    array([[4.],
           [5.]])
    """
    input_steps = _check.integer("input_steps", input_steps, 1)
    horizon = _check.integer("horizon", horizon, 1)
    dtype = np.dtype(np.float32 if getattr(series, "dtype", None) == np.float32 else np.float64)
    given = _check.array("series", series, dtype)
    if given.ndim != 1:
        _check.shape("series", given, ("N", "F"))
    if len(given) < input_steps + horizon:
        raise ValueError(
            f"series: expected at least input_steps + horizon = {input_steps + horizon} steps, "
            f"got {len(given)}"
        )
    features = given if given.ndim == 2 else given[:, None]
    both = sliding_window_view(features, input_steps + horizon, axis=0).swapaxes(1, 2)
    x, y = both[:, :input_steps], both[:, input_steps:]
    return x, (y if given.ndim == 2 else y[..., 0])
