"""Losses: each takes prediction and target and returns the loss and its derivative by the prediction.

`_Rows` has what they share: the layouts, the mask that lengths make, the weights, the mean.  A loss itself is
one small function on a block of rows that fits into the cache: it writes the derivative of each row's loss
and returns the losses.  Any function ``loss(prediction, target, weight)`` may take the place of one of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check

Array = NDArray[Any]
Loss = Callable[..., tuple[float, Array]]

# From prediction (n, O) and target (n, M) to losses (n, M); fills the derivative (n, O) of each by its row.
_OfRows = Callable[[Array, Array, Array], Array]

# Elements of a prediction that stay in the cache with what a loss needs beside them; no power of two, with
# which columns would lie on top of each other there.
_BLOCK = 30_000

_FEW_CLASSES = 64  # up to here sums over classes are faster in columns than in rows


def mse_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Compute the mean squared error over all elements, and its derivative.

    Parameters
    ----------
    prediction : array_like of any shape with at least one element
        float32 stays float32; everything else is computed in float64.  The last axis is that of the features;
        all others count rows (in an array of one axis each element is a row).
    target : array_like of the same shape
        Nothing is broadcast.
    weight : array_like, optional
        One number of at least 0 for each row, or for each element of the target: how much it counts.  The
        loss is ``sum(weight * losses) / sum(weight)``.
    lengths : array_like of int of shape (B,), optional
        Number of real steps of each sequence in arrays (T, B, ...).  Padding is not read and counts for
        nothing; its derivative is 0.
    batch_first : bool, default False
        With `lengths`, arrays are (B, T, ...).

    Returns
    -------
    loss : float
        Mean of ``(prediction - target)^2``, summed in float64.
    dprediction : ndarray of the shape and dtype of `prediction`
        Derivative of the loss by the prediction, ``2 (prediction - target) / n``.

    Raises
    ------
    ValueError, TypeError
        The shapes do not fit, there is nothing to average, a weight is negative or all are 0, or an argument
        holds no real numbers.

    Examples
    --------
    >>> from clstm.nn import mse_loss
    >>> mse_loss([1.0, 4.0], [1.0, 2.0])
    (2.0, array([0., 2.]))
    >>> mse_loss([1.0, 4.0], [1.0, 2.0], weight=[3.0, 1.0])
    (1.0, array([0., 1.]))

    Two sequences, the second of which has one step:

    >>> mse_loss([[1.0, 4.0], [4.0, 9.0]], [[1.0, 2.0], [4.0, 5.0]], lengths=[2, 1])
    (1.3333333333333333, array([[0.        , 1.33333333],
           [0.        , 0.        ]]))
    """
    rows = _Rows(prediction, lengths, batch_first)
    return rows.mean(_squared, rows.numbers(target), weight)


def l1_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Compute the mean absolute error over all elements, and its derivative, which is 0 where they agree.

    Parameters, returns and errors are those of `mse_loss`, with ``abs(prediction - target)``.

    Examples
    --------
    >>> from clstm.nn import l1_loss
    >>> l1_loss([1.0, 4.0], [1.0, 2.0])
    (1.0, array([0. , 0.5]))
    """
    rows = _Rows(prediction, lengths, batch_first)
    return rows.mean(_absolute, rows.numbers(target), weight)


def huber_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    delta: float = 1.0,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Compute the mean Huber loss over all elements: squared for small errors, absolute for large ones.

    Parameters, returns and errors are those of `mse_loss`, with ``e^2 / 2`` for an error e up to `delta` and
    ``delta (abs(e) - delta / 2)`` beyond.

    Parameters
    ----------
    delta : float above 0, default 1.0

    Notes
    -----
    Source: P. J. Huber, "Robust estimation of a location parameter", Annals of mathematical statistics 35,
    1964.

    Examples
    --------
    >>> from clstm.nn import huber_loss
    >>> huber_loss([1.5, 4.0], [1.0, 2.0])
    (0.8125, array([0.25, 0.5 ]))
    """
    rows = _Rows(prediction, lengths, batch_first)
    delta = _check.positive("delta", delta)
    return rows.mean(partial(_huber, delta=delta), rows.numbers(target), weight)


def quantile_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Compute the mean quantile ("pinball") loss, which is least where the predictions are the quantiles.

    The other parameters, returns and errors are those of `mse_loss`.

    Parameters
    ----------
    prediction : array_like of shape (..., Q), (..., M, Q) or (..., M * Q)
        Q quantiles, side by side, of each element of the target.
    target : array_like of shape (...) or (..., M)
    quantiles : sequence of Q floats in (0, 1), default (0.1, 0.5, 0.9)

    Notes
    -----
    For an error ``e = target - prediction`` the loss at the quantile q is ``max(q e, (q - 1) e)``, averaged
    over the quantiles; at an error of 0 the derivative is that of neither side but between them,
    ``1 / 2 - q``.

    Source: R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46, 1978.

    Examples
    --------
    >>> from clstm.nn import quantile_loss
    >>> quantile_loss([[1.0, 6.0]], [3.0], quantiles=(0.25, 0.75))
    (0.625, array([[-0.125,  0.125]]))
    """
    rows = _Rows(prediction, lengths, batch_first, features=True)
    levels = np.array(_check.proper_fractions("quantiles", quantiles), rows.prediction.dtype)
    return rows.mean(partial(_pinball, quantiles=levels), rows.numbers(target, len(levels)), weight)


def cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Compute the mean cross-entropy of a softmax over classes, and its derivative.

    The other parameters are those of `mse_loss`.

    Parameters
    ----------
    prediction : array_like of shape (..., O) with at least one element
        Scores (logits) of O classes for each row.  float32 stays float32; everything else is computed in
        float64.
    target : array_like of int of shape (...)
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
        A shape is wrong, there is nothing to average, a class is out of range or no integer, a weight is
        negative or all are 0, or the prediction holds no real numbers.

    Examples
    --------
    >>> from clstm.nn import cross_entropy
    >>> loss, dprediction = cross_entropy([[0.0, 0.0]], [1])
    >>> round(loss, 4), dprediction
    (0.6931, array([[ 0.5, -0.5]]))
    """
    rows = _Rows(prediction, lengths, batch_first, features=True)
    return rows.mean(_softmax_entropy, rows.classes(target), weight)


def binary_cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Compute the mean cross-entropy of independent yes-or-no answers, and its derivative.

    The other parameters and the errors are those of `mse_loss`.

    Parameters
    ----------
    prediction : array_like of any shape with at least one element
        Scores (logits): ``sigmoid(prediction)`` is the probability of a yes.
    target : array_like of the same shape
        1 or True for yes, 0 or False for no, or a probability between them.

    Returns
    -------
    loss : float
        Mean of ``-target log(p) - (1 - target) log(1 - p)``, in nats, with ``p = sigmoid(prediction)``.
    dprediction : ndarray of the shape and dtype of `prediction`
        Derivative of the loss by the prediction, ``(p - target) / n``.

    Examples
    --------
    >>> from clstm.nn import binary_cross_entropy
    >>> loss, dprediction = binary_cross_entropy([0.0, 0.0], [1, 0])
    >>> round(loss, 4), dprediction
    (0.6931, array([-0.25,  0.25]))
    """
    rows = _Rows(prediction, lengths, batch_first)
    numbers = rows.numbers(target)
    low, high = numbers.min(), numbers.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"target: expected values in [0, 1], got {low:g} to {high:g}")
    return rows.mean(_sigmoid_entropy, numbers, weight)


def softmax(scores: ArrayLike) -> Array:
    """Turn scores of classes into probabilities that add up to 1.

    Parameters
    ----------
    scores : array_like of shape (..., O)
        float32 stays float32; everything else is computed in float64.

    Returns
    -------
    ndarray of shape (..., O)
        ``exp(scores) / sum(exp(scores))`` along the last axis.

    Raises
    ------
    ValueError, TypeError
        There is no axis, or no class, or the scores are no real numbers.

    Examples
    --------
    >>> from clstm.nn import softmax
    >>> softmax([[0.0, 0.0], [1000.0, 0.0]])
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    given = _check.array("scores", scores, _dtype_of(scores))
    if given.shape[-1:] in {(), (0,)}:
        raise ValueError(f"scores: expected shape (..., O) with at least one class, got {given.shape}")
    probabilities = np.empty_like(given)
    O = given.shape[-1]  # noqa: E741
    with np.errstate(invalid="ignore"):
        flat, out = given.reshape(-1, O), probabilities.reshape(-1, O)
        for rows in _blocks(flat):
            below = _below_the_largest(flat[rows])
            np.exp(below, out=below)
            below /= below.sum(axis=1, keepdims=True)
            out[rows] = below
    return probabilities


def sigmoid(scores: ArrayLike) -> Array:
    """Turn scores of yes-or-no answers into probabilities, each for itself.

    Parameters
    ----------
    scores : array_like of any shape
        float32 stays float32; everything else is computed in float64.

    Returns
    -------
    ndarray of the same shape
        ``1 / (1 + exp(-scores))``.

    Raises
    ------
    ValueError, TypeError
        The scores are no real numbers.

    Examples
    --------
    >>> from clstm.nn import sigmoid
    >>> sigmoid([0.0, -1000.0, 1000.0])
    array([0.5, 0. , 1. ])
    """
    given = _check.array("scores", scores, _dtype_of(scores))
    return _sigmoid(given, _exp_of_minus_abs(given), np.empty_like(given))


LOSSES: dict[str, Loss] = {
    "mse": mse_loss,
    "l1": l1_loss,
    "huber": huber_loss,
    "quantile": quantile_loss,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


# --------------------------------------------------------------------------------------- what a loss computes


def _squared(prediction: Array, target: Array, derivative: Array) -> Array:
    error = np.subtract(prediction, target, out=derivative)
    losses: Array = np.square(error)
    error *= 2
    return losses


def _absolute(prediction: Array, target: Array, derivative: Array) -> Array:
    error = prediction - target
    np.sign(error, out=derivative)
    losses: Array = np.abs(error, out=error)
    return losses


def _huber(prediction: Array, target: Array, derivative: Array, delta: float) -> Array:
    error = prediction - target
    limited = np.clip(error, -delta, delta, out=derivative)
    # e^2 / 2 and delta (abs(e) - delta / 2) are both limited (e - limited / 2)
    error -= 0.5 * limited
    error *= limited
    return error


def _pinball(prediction: Array, target: Array, derivative: Array, quantiles: Array) -> Array:
    shape = (*target.shape, len(quantiles))
    error = prediction.reshape(shape) - target[:, :, None]
    slope = np.sign(error, out=derivative.reshape(shape))
    slope *= 0.5
    slope += 0.5 - quantiles
    slope /= len(quantiles)
    error *= slope  # straight on both sides of 0, so that the value is slope times distance
    losses: Array = error.sum(axis=2)
    return losses


def _softmax_entropy(prediction: Array, target: Array, derivative: Array) -> Array:
    below = _below_the_largest(prediction)
    right = np.arange(len(below)), target[:, 0]
    losses = -below[right]
    np.exp(below, out=below)
    total = below.sum(axis=1)
    losses += np.log(total)
    below /= total[:, None]
    below[right] -= 1
    derivative[...] = below
    return np.expand_dims(losses, 1)


def _below_the_largest(scores: Array) -> Array:
    """Copy scores (n, O) and subtract the largest of each row, so that exp cannot overflow."""
    below = np.array(scores, order="F" if scores.shape[1] <= _FEW_CLASSES else "C")
    below -= below.max(axis=1, keepdims=True)
    return below


def _sigmoid_entropy(prediction: Array, target: Array, derivative: Array) -> Array:
    small = _exp_of_minus_abs(prediction)
    losses = np.maximum(prediction, 0)
    losses -= prediction * target
    losses += np.log1p(small)
    _sigmoid(prediction, small, derivative)
    derivative -= target
    return losses


def _exp_of_minus_abs(scores: Array) -> Array:
    """Return exp(-abs(scores)), which cannot overflow."""
    small = np.abs(scores)
    np.negative(small, out=small)
    return np.exp(small, out=small)


def _sigmoid(scores: Array, small: Array, out: Array) -> Array:
    """Compute the sigmoid from `small`, the exp of -abs(scores): 1 / (1 + small), or small / (1 + small)."""
    np.maximum(small, scores >= 0, out=out)  # 1 or small, which is at most 1
    out /= 1 + small
    return out


# ------------------------------------------------------------------------------------------ what they share


class _Rows:
    """The rows of a prediction that count, and the mean over them.

    Parameters
    ----------
    prediction, lengths, batch_first
        As for a loss.
    features : bool, default False
        Whether the prediction must have an axis of features beside those that count rows.

    Attributes
    ----------
    prediction : ndarray of shape (n, O)
        Without padding.
    """

    def __init__(
        self, prediction: ArrayLike, lengths: ArrayLike | None, batch_first: bool, features: bool = False
    ) -> None:
        whole = _check.array("prediction", prediction, _dtype_of(prediction))
        batch_first = _check.boolean("batch_first", batch_first)
        axes: tuple[str, ...] = () if lengths is None else ("B", "T") if batch_first else ("T", "B")
        if features:
            axes = (*(axes or ("N",)), "O")
        if whole.ndim < len(axes):
            _check.shape("prediction", whole, axes)
        if whole.size == 0:
            raise ValueError(f"prediction: expected at least one element, got shape {whole.shape}")
        self._whole = whole
        self._leading = whole.shape[: max(whole.ndim - 1, 1 if lengths is None else 2)]
        self._real = None if lengths is None else self._mask(lengths, batch_first)
        self.prediction = self._rows_of(whole)

    def _mask(self, lengths: ArrayLike, batch_first: bool) -> NDArray[np.bool_] | None:
        """Tell which rows are real; None if all are."""
        T, B = self._leading[1::-1] if batch_first else self._leading[:2]
        steps = _check.lengths(lengths, T, B)
        if steps.min() == T:
            return None
        if steps.max() == 0:
            raise ValueError("lengths: expected at least one real step, got 0 for every sequence")
        real = np.arange(T)[:, None] < steps
        repeated: NDArray[np.bool_] = np.repeat(real.T if batch_first else real, math.prod(self._leading[2:]))
        return repeated

    def _rows_of(self, array: Array) -> Array:
        """Turn the axes that count rows into one, and those behind it, and leave padding away."""
        rows = array.reshape(math.prod(self._leading), -1)
        return rows if self._real is None else rows[self._real]

    def numbers(self, target: ArrayLike, quantiles: int | None = None) -> Array:
        """Return the rows of a target that has the prediction's shape, or one element for so many of it."""
        given = _check.array("target", target, self._whole.dtype)
        shape = self._whole.shape
        expected = [shape]
        if quantiles is not None:
            if shape[-1] % quantiles:
                raise ValueError(
                    f"prediction: expected a last axis of {quantiles} quantiles for each element of the "
                    f"target, got shape {shape}"
                )
            expected = [(*shape[:-1], shape[-1] // quantiles)]
            expected += [shape[:-1]] if shape[-1] == quantiles else []
        if given.shape not in expected:
            labels = given.shape == shape[:-1] and np.asarray(target).dtype.kind in "iu"
            hint = "; for labels of classes there is cross_entropy" if labels and shape[-1] > 1 else ""
            raise ValueError(
                f"target: expected shape {' or '.join(map(str, expected))}, got {given.shape}{hint}"
            )
        return self._rows_of(given)

    def classes(self, target: ArrayLike) -> NDArray[np.intp]:
        """Return the rows (n, 1) of a target that has a class for each row."""
        given = _check.whole_numbers("target", target)
        _check.shape("target", given, self._leading)
        rows = self._rows_of(given)[:, 0]
        return _check.integers("target", rows, len(rows), self._whole.shape[-1] - 1)[:, None]

    def _weights(self, weight: ArrayLike, M: int) -> Array:
        """Return a weight (n, 1) for each row or (n, M) for each element of the target."""
        given = _check.array("weight", weight, np.dtype(np.float64))
        expected = self._leading, (*self._leading, M)
        if given.shape not in expected:
            raise ValueError(f"weight: expected shape {expected[0]} or {expected[1]}, got {given.shape}")
        rows = self._rows_of(given)
        low, high = rows.min(), rows.max()
        if not (low >= 0 and high < np.inf):
            raise ValueError(f"weight: expected finite numbers of at least 0, got {low:g} to {high:g}")
        if high == 0:
            raise ValueError("weight: expected a number above 0 among the weights, got only 0")
        return rows

    def mean(self, of_rows: _OfRows, target: Array, weight: ArrayLike | None) -> tuple[float, Array]:
        """Return the weighted mean of the losses and its derivative in the shape of the prediction."""
        M = target.shape[1]
        weights = None if weight is None else self._weights(weight, M)
        total = float(target.size if weights is None else weights.sum() * (M / weights.shape[1]))
        derivative = np.empty_like(self.prediction)
        value = 0.0
        with np.errstate(all="ignore"):  # whether the loss is finite is for the caller to find out
            for rows in _blocks(self.prediction):
                slopes = derivative[rows]
                losses = of_rows(self.prediction[rows], target[rows], slopes)
                if weights is None:
                    slopes *= 1 / total
                else:
                    losses = losses * weights[rows]
                    scale = (weights[rows] / total).astype(slopes.dtype)
                    slopes_by_target = slopes.reshape(len(slopes), M, -1)
                    slopes_by_target *= scale[:, :, None]
                value += float(losses.sum(dtype=np.float64))
        return value / total, self._in_place(derivative)

    def _in_place(self, rows: Array) -> Array:
        """Bring rows back into the shape of the prediction; padding gets 0."""
        if self._real is None:
            return rows.reshape(self._whole.shape)
        whole = np.zeros_like(self._whole)
        whole.reshape(len(self._real), -1)[self._real] = rows
        return whole


def _blocks(rows: Array) -> Iterator[slice]:
    """Cut rows (n, O) into blocks of at most `_BLOCK` elements, or of one row."""
    step = max(1, _BLOCK // rows.shape[1])
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _dtype_of(prediction: ArrayLike) -> np.dtype[Any]:
    """Return the dtype to compute in: float32 stays, all else becomes float64."""
    single = str(getattr(prediction, "dtype", None)) in {"float32", "torch.float32"}
    return np.dtype(np.float32 if single else np.float64)
