"""Clipping: what keeps a large gradient from throwing the parameters away, by norm or by value."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from .. import _check
from .flat import PIECE, Trainable, pieces, trainable


def clip_grad_norm(layers: Iterable[Trainable], max_norm: float) -> float:
    """Scale the gradients of all layers together so that their Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_params` and `flat_grads`; the gradients are changed in place.
    max_norm : float above 0

    Returns
    -------
    float
        The norm before clipping, over all gradients of all layers, summed in float64.  Where it is not finite
        nothing is changed.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Notes
    -----
    Source: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML
    2013.

    Examples
    --------
    >>> from clstm.nn import Dense, clip_grad_norm
    >>> dense = Dense(1, 1)
    >>> dense.flat_grads[...] = 3.0, 4.0
    >>> clip_grad_norm([dense], 1.0), dense.flat_grads.round(6)
    (5.0, array([0.6, 0.8]))
    """
    given = trainable(layers)
    max_norm = _check.positive("max_norm", max_norm)
    squares = np.empty(min(PIECE, max(layer.flat_grads.size for layer in given)))
    total = 0.0
    with np.errstate(over="ignore"):  # a gradient that is too large for its square is as good as infinite
        for layer in given:
            for (g,) in pieces(layer.flat_grads):
                total += float(np.square(g, out=squares[: g.size], dtype=np.float64).sum())
    norm = math.sqrt(total)
    if max_norm < norm < math.inf:
        for layer in given:
            np.multiply(layer.flat_grads, max_norm / norm, out=layer.flat_grads)
    return norm


def clip_grad_value(layers: Iterable[Trainable], max_value: float) -> None:
    """Limit every gradient to -`max_value` ... `max_value`.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_params` and `flat_grads`; the gradients are changed in place.  NaN stays NaN.
    max_value : float above 0

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Examples
    --------
    >>> from clstm.nn import Dense, clip_grad_value
    >>> dense = Dense(1, 1)
    >>> dense.flat_grads[...] = 3.0, -0.5
    >>> clip_grad_value([dense], 1.0)
    >>> dense.flat_grads
    array([ 1. , -0.5])
    """
    given = trainable(layers)
    max_value = _check.positive("max_value", max_value)
    for layer in given:
        np.clip(layer.flat_grads, -max_value, max_value, out=layer.flat_grads)
