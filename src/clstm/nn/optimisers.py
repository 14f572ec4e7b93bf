"""Optimisers and clipping: they change the flat arrays of layers in place and know nothing else of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _check

Array = NDArray[Any]


class Layer(Protocol):
    """What an optimiser needs of a layer."""

    flat_params: Array
    flat_grads: Array


def _trainable(layers: Iterable[Layer]) -> list[Layer]:
    """Return the layers as a list; each must offer flat arrays, and come once: it would be updated twice."""
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers: expected a list of layers, got {_check.describe(layers)}")
    given = list(layers)
    for layer in given:
        if not (hasattr(layer, "flat_params") and hasattr(layer, "flat_grads")):
            raise TypeError(
                f"layers: expected objects with flat_params and flat_grads, got {_check.describe(layer)}"
            )
    if len({id(layer) for layer in given}) != len(given):
        raise ValueError("layers: expected each layer once, got one twice")
    return given


class Adam:
    """Adam: steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_params` and `flat_grads`, such as `clstm.LSTM` and `Dense`.
    lr : float, default 1e-3
        Step size; the attribute may be changed between steps.
    betas : pair of floats in [0, 1), default (0.9, 0.999)
        Decay rates of the two running means.
    eps : float, default 1e-8
        Added to the root in the denominator.

    Notes
    -----
    Step t, for the gradient g of each parameter p::

        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g^2
        p = p - lr m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps)

    Source: D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    The first step has the length `lr`, whatever the gradient:

    >>> from clstm.nn import Adam, Dense
    >>> dense = Dense(1, 1, rng=0)
    >>> dense.params["weight"][...] = 3.0
    >>> dense.grads["weight"][...] = 700.0
    >>> Adam([dense], lr=0.5).step()
    >>> dense.params["weight"].round(6)
    array([[2.5]])
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.layers = _trainable(layers)
        self.lr = _check.positive("lr", lr)
        beta_1, beta_2 = _check.pair("betas", betas, "(beta_1, beta_2)")
        self.betas = (_check.fraction("betas[0]", beta_1), _check.fraction("betas[1]", beta_2))
        self.eps = _check.positive("eps", eps)
        self.t = 0
        self._means = [
            (np.zeros_like(layer.flat_params), np.zeros_like(layer.flat_params)) for layer in self.layers
        ]

    def step(self) -> None:
        """Change the parameters of every layer by its gradients, once."""
        self.t += 1
        beta_1, beta_2 = self.betas
        for layer, (m, v) in zip(self.layers, self._means, strict=True):
            g = layer.flat_grads
            m += (1.0 - beta_1) * (g - m)
            v += (1.0 - beta_2) * (g * g - v)
            root = np.sqrt(v / (1.0 - beta_2**self.t))
            layer.flat_params -= self.lr / (1.0 - beta_1**self.t) * m / (root + self.eps)


def clip_grad_norm(layers: Iterable[Layer], max_norm: float) -> float:
    """Scale the gradients of all layers together so that their Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_grads`, which are changed in place.
    max_norm : float above 0

    Returns
    -------
    float
        The norm before clipping, over all gradients of all layers.  Where it is not finite nothing is
        changed.

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
    given = _trainable(layers)
    max_norm = _check.positive("max_norm", max_norm)
    norm = float(
        np.sqrt(sum(float(np.sum(np.square(layer.flat_grads, dtype=np.float64))) for layer in given))
    )
    if max_norm < norm < np.inf:
        for layer in given:
            layer.flat_grads *= max_norm / norm
    return norm
