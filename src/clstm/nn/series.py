"""Windows over a series: what a model sees, and what it shall say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from .. import _check

Array = NDArray[Any]


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
