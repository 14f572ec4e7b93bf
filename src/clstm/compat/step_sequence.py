"""Twin of a class with one step a call and a method for whole sequences: gates on [h; x], no read-out."""

from __future__ import annotations

from numpy.typing import ArrayLike

from .. import _check
from ._twin import Array, Storage, Twin, new_core, parameters, sequence

__all__ = ["LSTM"]


class LSTM(Twin):
    """LSTM without a read-out, by steps or by sequences.

    Parameters
    ----------
    input_size, hidden_size : int
        D, H.

    Attributes
    ----------
    Wf, Wi, WC, Wo : ndarrays of shape (H, D + H)
        Weights of the gates on [h; x]; C is the candidate.
    bf, bi, bC, bo : ndarrays of shape (H, 1)
        All parameters are live: changed in place or assigned, they count at the next call.

    Notes
    -----
    Weights are drawn as N(0, 1) from ``np.random`` in the order Wf Wi WC Wo, biases are 0.  Mended: 1-D
    arguments and an empty sequence are refused.  Added: columns side by side as a batch, training.

    Examples
    --------
    >>> from clstm.compat.step_sequence import LSTM
    >>> np.random.seed(42)
    >>> model = LSTM(3, 5)
    >>> h = C = np.zeros((5, 1))
    >>> for x in np.ones((7, 3, 1)):
    ...     h, C = model.forward(x, h, C)
    >>> np.array_equal(model.forward_sequence(np.ones((7, 3)))[-1], h[:, 0])
    True
    """

    _hidden_first = True
    _step_names = ("x", "h_prev", "C_prev")

    Wf, bf = parameters("f")
    Wi, bi = parameters("i")
    WC, bC = parameters("g")
    Wo, bo = parameters("o")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self._begin(new_core(self.input_size, self.hidden_size, self._hidden_first))

    def _rows(self, name: str, value: ArrayLike) -> Array:
        return sequence(name, value, ("T", self.input_size))

    def forward(self, x: ArrayLike, h_prev: ArrayLike, C_prev: ArrayLike) -> tuple[Array, Array]:
        """Run one time step.

        Parameters
        ----------
        x : array_like of shape (D, 1), or (D, B) for B columns side by side
        h_prev, C_prev : array_like of shape (H, 1) or (H, B)

        Returns
        -------
        h, C : ndarrays of shape (H, 1) or (H, B)

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        found = self._try_step(x, h_prev, C_prev)
        return self._step(x, h_prev, C_prev) if found is None else found

    def forward_sequence(self, X: ArrayLike) -> Array:
        """Run a whole sequence from a zero state, and keep what `gradients` and `backward` need.

        Parameters
        ----------
        X : array_like of shape (T, D), T >= 1

        Returns
        -------
        ndarray of shape (T, H)
            Hidden state after every step.

        Raises
        ------
        ValueError, TypeError
            The sequence is empty, or has the wrong shape or type.
        """
        return self._forward(self._rows("X", X))[0][:, 0]

    def gradients(self, dh: ArrayLike) -> dict[str, Array]:
        """Compute the gradients of a loss through the last `forward_sequence`.

        Parameters
        ----------
        dh : array_like of shape (T, H)
            Derivative of the loss by the hidden state of every step, as `forward_sequence` returned them.

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
        return self.named(self._differentiate(dh))

    def backward(self, dh: ArrayLike, lr: float = 0.01) -> None:
        """Take one step of SGD in place.

        Parameters and errors are those of `gradients`, and the learning rate `lr`.
        """
        lr = _check.real("lr", lr)
        self._descend(self._differentiate(dh), lr)

    def _differentiate(self, dh: ArrayLike) -> Storage:
        self._backward(sequence("dh", dh, self._record().cell.y.shape[::2]))
        return self._gradients()
