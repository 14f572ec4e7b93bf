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
    error = _prediction(prediction)
    error = error - _check.shaped("target", target, error.dtype, error.shape)
    loss = float(np.mean(np.square(error, dtype=np.float64)))
    return loss, error * error.dtype.type(2.0 / error.size)


def cross_entropy(prediction: ArrayLike, target: ArrayLike) -> tuple[float, NDArray[Any]]:
    """Compute the mean cross-entropy of a softmax over classes, and its derivative.

    Parameters
    ----------
    prediction : array_like of shape (N, O) with at least one element
        Scores (logits) of O classes for each of N rows.  float32 stays float32; everything else is computed
        in float64.
    target : array_like of int of shape (N,)
        The right class of each row, 0 to O - 1.

    Returns
    -------
    loss : float
        Mean of ``-log softmax(prediction)[target]`` over the rows, in nats, summed in float64.  Guessing
        gives ``log(O)``.
    dprediction : ndarray of the shape and dtype of `prediction`
        Derivative of the loss by the prediction, ``(softmax(prediction) - onehot(target)) / N``.

    Raises
    ------
    ValueError, TypeError
        A shape is wrong, there is nothing to average, a class is out of range, or an argument holds no
        numbers of its kind.

    Examples
    --------
    >>> from clstm.nn import cross_entropy
    >>> loss, dprediction = cross_entropy([[0.0, 0.0]], [1])
    >>> round(loss, 4), dprediction
    (0.6931, array([[ 0.5, -0.5]]))
    """
    scores = _prediction(prediction)
    _check.shape("prediction", scores, ("N", "O"))
    N, O = scores.shape  # noqa: E741
    classes = _check.integers("target", target, N, O - 1)
    right = np.arange(N), classes
    below = scores - scores.max(axis=1, keepdims=True)  # at most 0, so that exp cannot overflow
    total = np.exp(below).sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - below[right], dtype=np.float64))
    dprediction = np.exp(below) / total
    dprediction[right] -= 1
    return loss, dprediction / scores.dtype.type(N)


def _prediction(value: ArrayLike) -> NDArray[Any]:
    """Return a prediction as an array of one element or more; float32 stays, all else becomes float64."""
    given = np.asarray(value)
    prediction = _check.array(
        "prediction", given, np.dtype(np.float32 if given.dtype == np.float32 else np.float64)
    )
    if prediction.size == 0:
        raise ValueError(f"prediction: expected at least one element, got shape {prediction.shape}")
    return prediction
