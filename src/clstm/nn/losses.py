"""Losses: each takes prediction and target and returns the loss and its derivative by the prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check


def mse_loss(prediction: ArrayLike, target: ArrayLike) -> tuple[float, NDArray[Any]]:
    """Compute the mean squared error over all elements, and its derivative.

    Parameters
    ----------
    prediction : array_like of any shape with at least one element
        float32 stays float32; everything else is computed in float64.
    target : array_like of the same shape
        Nothing is broadcast.

    Returns
    -------
    loss : float
        Mean of ``(prediction - target)^2``, summed in float64.
    dprediction : ndarray of the shape and dtype of `prediction`
        Derivative of the loss by the prediction, ``2 (prediction - target) / n``.

    Raises
    ------
    ValueError, TypeError
        The shapes differ, there is nothing to average, or an argument holds no real numbers.

    Examples
    --------
    >>> from clstm.nn import mse_loss
    >>> mse_loss([1.0, 4.0], [1.0, 2.0])
    (2.0, array([0., 2.]))
    """
    given = np.asarray(prediction)
    dtype = np.dtype(np.float32 if given.dtype == np.float32 else np.float64)
    error = _check.array("prediction", given, dtype)
    if error.size == 0:
        raise ValueError(f"prediction: expected at least one element, got shape {error.shape}")
    error = error - _check.shaped("target", target, dtype, error.shape)
    loss = float(np.mean(np.square(error, dtype=np.float64)))
    return loss, error * dtype.type(2.0 / error.size)
