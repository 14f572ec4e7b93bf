"""Twin of a class that runs one step at a time and reads an output off each: gates on [x; h]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from ._twin import Array, Storage, Twin, columns, new_core, parameters, sequence

__all__ = ["LSTM"]


class LSTM(Twin):
    """LSTM with a linear read-out at every step, one step a call.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        D, H, O.

    Attributes
    ----------
    Wf, Wi, Wc, Wo : ndarrays of shape (H, D + H)
        Weights of the gates on [x; h]; c is the candidate.
    Wf_bias, Wi_bias, Wc_bias, Wo_bias : ndarrays of shape (H, 1)
    Wy, Wy_bias : ndarrays of shape (O, H), (O, 1)
        The read-out.  All parameters are live: changed in place or assigned, they count at the next call.

    Notes
    -----
    Weights are drawn as N(0, 1) / sqrt(D + H), Wy as N(0, 1) / sqrt(H), from ``np.random`` in the order Wf Wi
    Wc Wo Wy; biases are 0.  Mended: 1-D arguments are refused, and nothing is printed unless `forward` is
    asked to.  Added: columns side by side as a batch, whole sequences, training.

    Examples
    --------
    >>> from clstm.compat.step_readout import LSTM
    >>> np.random.seed(42)
    >>> model = LSTM(3, 5, 2)
    >>> h = c = np.zeros((5, 1))
    >>> for x in np.ones((7, 3, 1)):
    ...     y, h, c = model.forward(x, h, c)
    >>> ys, h_n, c_n = model.forward_sequence(np.ones((7, 3, 1)))
    >>> bool(np.allclose(y, ys[-1], rtol=1e-14)), np.array_equal(h, h_n)
    (True, True)
    """

    _hidden_first = False

    Wf, Wf_bias = parameters("f")
    Wi, Wi_bias = parameters("i")
    Wc, Wc_bias = parameters("g")
    Wo, Wo_bias = parameters("o")
    Wy, Wy_bias = parameters("y")

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self.output_size = _check.integer("output_size", output_size, 1)
        self._begin(new_core(self.input_size, self.hidden_size, self._hidden_first), self.output_size)

    def _draw(self, shape: tuple[int, ...]) -> Array:
        drawn: Array = super()._draw(shape) / np.sqrt(shape[1])
        return drawn

    def forward(
        self, x: ArrayLike, h_prev: ArrayLike, c_prev: ArrayLike, verbose: bool = False
    ) -> tuple[Array, Array, Array]:
        """Run one time step.

        Parameters
        ----------
        x : array_like of shape (D, 1), or (D, B) for B columns side by side
        h_prev, c_prev : array_like of shape (H, 1) or (H, B)
        verbose : bool, default False
            Print the arrays of the step.

        Returns
        -------
        y : ndarray of shape (O, 1) or (O, B)
        h, c : ndarrays of shape (H, 1) or (H, B)

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        found = self._try_step(x, h_prev, c_prev)
        h, c = self._step(x, h_prev, c_prev) if found is None else found
        y = self._W_y.dot(h)
        y += self._b_y
        if verbose:
            self._print_step(x, h_prev, c_prev, y)
        return y, h, c

    def _print_step(self, x: Any, h_prev: Any, c_prev: Any, y: Array) -> None:
        x_t, h, c = self._step_rows(x, h_prev, c_prev)
        step = self.core.trace(x_t[None], (h[None], c[None]))
        names = {"x": x_t, "h_prev": h, "c_prev": c, "f": step.f, "i": step.i, "c_tilde": step.g, "o": step.o}
        for name, rows in (names | {"c": step.c, "h": step.h, "y": y.T}).items():
            print(f"{name}:\n{rows.reshape(len(x_t), -1).T}")

    def forward_sequence(
        self, x: ArrayLike, h_0: ArrayLike | None = None, c_0: ArrayLike | None = None
    ) -> tuple[Array, Array, Array]:
        """Run a whole sequence in one call, and keep what `gradients` and `backward` need.

        Parameters
        ----------
        x : array_like of shape (T, D, 1) or (T, D, B), T >= 1
            What `forward` would get step by step.
        h_0, c_0 : array_like of shape (H, 1) or (H, B), optional
            State before the first step, zeros if omitted.

        Returns
        -------
        y : ndarray of shape (T, O, 1) or (T, O, B)
            The outputs of all steps.
        h, c : ndarrays of shape (H, 1) or (H, B)
            The last state.

        Raises
        ------
        ValueError, TypeError
            The sequence is empty, or an argument has the wrong shape or type.
        """
        rows = self._rows("x", x)
        B = rows.shape[1]
        zeros = np.zeros((self.hidden_size, B))
        state = [
            columns(n, zeros if v is None else v, self.hidden_size, B)
            for n, v in (("h_0", h_0), ("c_0", c_0))
        ]
        y, (h, c) = self._forward(rows, (state[0][None], state[1][None]))
        return self._read_out(y).swapaxes(1, 2), h[0].T, c[0].T

    def gradients(self, dy: ArrayLike) -> dict[str, Array]:
        """Compute the gradients of a loss through the last `forward_sequence`.

        Parameters
        ----------
        dy : array_like of the shape of y
            Derivative of the loss by the output of every step.

        Returns
        -------
        dict of str to ndarray
            By the names of the parameters, of their shapes.

        Raises
        ------
        RuntimeError
            There was no `forward_sequence` before.
        ValueError, TypeError
            The argument has the wrong shape or type.
        """
        return self.named(self._differentiate(dy))

    def backward(self, dy: ArrayLike, lr: float = 0.01) -> None:
        """Take one step of SGD in place.

        Parameters and errors are those of `gradients`, and the learning rate `lr`.
        """
        lr = _check.real("lr", lr)
        self._descend(self._differentiate(dy), lr)

    def _differentiate(self, dy: ArrayLike) -> Storage:
        h = self._record().cell.y
        T, B, _ = h.shape
        d = sequence("dy", dy, (T, self.output_size, B))
        self._backward(d @ self._W_y)
        return self._gradients(np.tensordot(d, h, ((0, 1), (0, 1))), d.sum(axis=(0, 1))[:, None])
