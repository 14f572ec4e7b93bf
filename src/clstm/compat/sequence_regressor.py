"""Twin of a class that predicts from the hidden state after `seq_len` steps: gates on [h; x], clipped SGD."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from ._twin import (
    FLOAT64,
    Array,
    Record,
    Recorded,
    Storage,
    Twin,
    columns,
    new_core,
    parameters,
    recorded_gates,
    sequence,
)

__all__ = ["LSTM"]


class LSTM(Twin):
    """LSTM with a linear read-out of the last hidden state, trained by SGD on ``0.5 (y_pred - y_true)^2``.

    Parameters
    ----------
    input_dim : int, default 1
        D, which is also the number of outputs O.
    hidden_dim : int, default 100
        H.
    seq_len : int, default 50
        T, the number of time steps that `forward` reads.

    Attributes
    ----------
    W_f, W_i, W_g, W_o : ndarrays of shape (H, D + H)
        Weights of the gates on [h; x]; g is the candidate.
    b_f, b_i, b_g, b_o : ndarrays of shape (H, 1)
    W_y, b_y : ndarrays of shape (O, H), (O, 1)
        The read-out.  All parameters are live: changed in place or assigned, they count at the next call.
    x, y_hat : the argument and the result of the last `forward`
    h, C, u : ndarrays of shape (T + 1, H, 1)
        Hidden states, cells and tanh of the cells; index 0 is the initial state.  These and the following
        belong to the last `forward`; they are made when they are first asked for.
    z : ndarray of shape (T, H + D, 1)
        What the gate weights were multiplied with.
    f, i, g, o : ndarrays of shape (T, H, 1)

    Notes
    -----
    Everything is drawn as N(0, 1) * 0.01 from ``np.random`` in the order W_f b_f W_i b_i W_g b_g W_o b_o W_y
    b_y, so that
    ``np.random.seed`` gives the weights of the original.  Mended: an `x` that is too short is refused.

    Examples
    --------
    >>> from clstm.compat.sequence_regressor import LSTM
    >>> np.random.seed(42)
    >>> model = LSTM(input_dim=1, hidden_dim=8, seq_len=20)
    >>> x = np.linspace(0, 1, 20).reshape(20, 1, 1)
    >>> for _ in range(200):
    ...     y_hat = model.forward(x)
    ...     model.backward(np.array([[0.7]]), y_hat, lr=0.1)
    >>> model.forward(x).round(3)
    array([[0.7]])
    """

    _hidden_first = True
    _scale = 0.01
    _draws_biases = True

    W_f, b_f = parameters("f")
    W_i, b_i = parameters("i")
    W_g, b_g = parameters("g")
    W_o, b_o = parameters("o")
    W_y, b_y = parameters("y")

    h, C = Recorded(Record.h), Recorded(Record.c)
    u = Recorded(lambda record: np.tanh(record.c()))
    z = Recorded(Record.z)
    f, i, g, o = recorded_gates("figo")

    def __init__(self, input_dim: int = 1, hidden_dim: int = 100, seq_len: int = 50) -> None:
        self.input_dim = self.output_dim = _check.integer("input_dim", input_dim, 1)
        self.hidden_dim = _check.integer("hidden_dim", hidden_dim, 1)
        self.seq_len = _check.integer("seq_len", seq_len, 1)
        self._begin(new_core(self.input_dim, self.hidden_dim, self._hidden_first), self.output_dim)

    def _rows(self, name: str, value: ArrayLike) -> Array:
        return sequence(name, value, ("T", self.input_dim, 1), self.seq_len)[: self.seq_len]

    def forward(self, x: ArrayLike) -> Array:
        """Read the first `seq_len` steps from a zero state and predict.

        Parameters
        ----------
        x : array_like of shape (T, D, 1), T >= seq_len

        Returns
        -------
        ndarray of shape (O, 1)

        Raises
        ------
        ValueError, TypeError
            `x` is shorter than `seq_len`, or has the wrong shape or type.
        """
        _, (h_n, _) = self._forward(self._rows("x", x))
        self.x = x
        self.y_hat = self._read_out(h_n[0]).T
        return self.y_hat

    def gradients(self, y_true: ArrayLike, y_pred: ArrayLike) -> dict[str, Array]:
        """Compute the gradients of ``0.5 (y_pred - y_true)^2`` through the last `forward`, without clipping.

        Parameters
        ----------
        y_true, y_pred : array_like of shape (O, 1), or one number if O is 1

        Returns
        -------
        dict of str to ndarray
            By the names of the parameters, of their shapes.

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        return self.named(self._differentiate(y_true, y_pred))

    def backward(self, y_true: ArrayLike, y_pred: ArrayLike, lr: float = 0.001) -> None:
        """Take one step of SGD in place, with every gradient clipped element-wise to [-5, 5].

        Parameters and errors are those of `gradients`, and the learning rate `lr`.
        """
        lr = _check.real("lr", lr)
        self._descend(self._differentiate(y_true, y_pred), lr, limit=5.0)

    def _differentiate(self, y_true: ArrayLike, y_pred: ArrayLike) -> Storage:
        dy = self._output("y_pred", y_pred) - self._output("y_true", y_true)
        self._backward(dh_n=dy @ self._W_y)
        return self._gradients(dy.T @ self._record().cell.y[-1], dy.T)

    def _output(self, name: str, value: ArrayLike) -> Array:
        """Return an output as a row (1, O); where there is one output, one number in any form will do."""
        given = _check.array(name, value, FLOAT64)
        return columns(
            name, given.reshape(1, 1) if given.size == self.output_dim == 1 else given, self.output_dim, 1
        )
