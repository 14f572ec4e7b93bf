"""Twin of a class that hands back its last hidden state: gates on [h; x], the caller's loss, plain SGD."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .. import _check, reference
from ._twin import FLOAT64, Array, Record, Recorded, Storage, Twin, columns, new_core, parameters, sequence

__all__ = ["LSTM", "dsigmoid", "dtanh", "sigmoid"]


def sigmoid(x: ArrayLike) -> Array:
    """Compute ``1 / (1 + exp(-x))``; no value overflows.

    Examples
    --------
    >>> sigmoid([-1000.0, 0.0, 1000.0])
    array([0. , 0.5, 1. ])
    """
    return reference.sigmoid(np.asarray(x, FLOAT64))


def dsigmoid(y: ArrayLike) -> Array:
    """Compute the derivative of the sigmoid from its value y."""
    y = np.asarray(y, FLOAT64)
    derivative: Array = y * (1 - y)
    return derivative


def dtanh(y: ArrayLike) -> Array:
    """Compute the derivative of tanh from its value y."""
    derivative: Array = 1 - np.asarray(y, FLOAT64) ** 2
    return derivative


def _steps(record: Record) -> list[tuple[Array, ...]]:
    """Return (f, i, g, o, c, h, c_prev, h_prev, z) of each step."""
    h, c = record.h(), record.c()
    gates = [record.gate(gate) for gate in "figo"]
    return list(zip(*gates, c[1:], h[1:], c[:-1], h[:-1], record.z(), strict=True))


class LSTM(Twin):
    """LSTM that reads a sequence and returns the last hidden state.

    Parameters
    ----------
    input_size, hidden_size : int
        D, H.

    Attributes
    ----------
    Wf, Wi, Wg, Wo : ndarrays of shape (H, D + H)
        Weights of the gates on [h; x]; g is the candidate.
    bf, bi, bg, bo : ndarrays of shape (H, 1)
        All parameters are live: changed in place or assigned, they count at the next call.
    cache : list of tuple
        ``(f, i, g, o, c, h, c_prev, h_prev, z)`` of each step of the last `forward`, columns; made when first
        asked for.

    Notes
    -----
    Weights are drawn as N(0, 1) * 0.1 from ``np.random`` in the order Wf Wi Wg Wo, biases are 0.  Mended: the
    original returns from inside its time loop and so reads the first step alone; here all are read.  An empty
    sequence is refused.

    Examples
    --------
    >>> from clstm.compat.last_state import LSTM
    >>> np.random.seed(42)
    >>> model = LSTM(3, 5)
    >>> inputs = np.random.randn(7, 3)
    >>> target = np.full((5, 1), 0.5)
    >>> for _ in range(300):
    ...     h = model.forward(inputs)
    ...     model.backward(h - target, lr=0.5)
    >>> bool(np.abs(model.forward(inputs) - target).max() < 0.01)
    True
    """

    _hidden_first = True
    _scale = 0.1

    Wf, bf = parameters("f")
    Wi, bi = parameters("i")
    Wg, bg = parameters("g")
    Wo, bo = parameters("o")

    cache = Recorded(_steps)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self._begin(new_core(self.input_size, self.hidden_size, self._hidden_first))

    def _rows(self, name: str, value: ArrayLike) -> Array:
        given = _check.array(name, value, FLOAT64)
        return sequence(name, given, ("T", self.input_size) if given.ndim == 2 else ("T", self.input_size, 1))

    def forward(self, inputs: ArrayLike) -> Array:
        """Read a sequence from a zero state.

        Parameters
        ----------
        inputs : array_like of shape (T, D) or (T, D, 1), T >= 1

        Returns
        -------
        ndarray of shape (H, 1)
            The last hidden state.

        Raises
        ------
        ValueError, TypeError
            The sequence is empty, or has the wrong shape or type.
        """
        _, (h_n, _) = self._forward(self._rows("inputs", inputs))
        h_T: Array = h_n[0].T
        return h_T

    def gradients(self, dL_dh: ArrayLike) -> dict[str, Array]:
        """Compute the gradients of a loss through the last `forward`.

        Parameters
        ----------
        dL_dh : array_like of shape (H, 1)
            Derivative of the loss by the last hidden state.

        Returns
        -------
        dict of str to ndarray
            By the names of the parameters, of their shapes.

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            The argument has the wrong shape or type.
        """
        return self.named(self._differentiate(dL_dh))

    def backward(self, dL_dh: ArrayLike, lr: float = 0.01) -> None:
        """Take one step of SGD in place.

        Parameters and errors are those of `gradients`, and the learning rate `lr`.
        """
        lr = _check.real("lr", lr)
        self._descend(self._differentiate(dL_dh), lr)

    def _differentiate(self, dL_dh: ArrayLike) -> Storage:
        self._record()
        self._backward(dh_n=columns("dL_dh", dL_dh, self.hidden_size, 1))
        return self._gradients()
