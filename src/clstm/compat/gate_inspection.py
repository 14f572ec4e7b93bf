"""Twin of classes for looking at gates: a cell and its cache, an LSTM and its gates, an RNN cell, a task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from ..cells import CellTape, Schedule
from ._twin import Array, Storage, Twin, columns, new_core, parameters, sequence

__all__ = ["LSTM", "LSTMCell", "VanillaRNNCell", "generate_long_term_dependency_data"]

Cache = tuple[Array, ...]


class CellGradients(NamedTuple):
    """What `LSTMCell.backward` returns."""

    dx: Array
    dh_prev: Array
    dc_prev: Array
    gradients: dict[str, Array]


class LSTMCell(Twin):
    """One time step of an LSTM, which hands back everything it computed.

    Parameters
    ----------
    input_size, hidden_size : int
        D, H.

    Attributes
    ----------
    Wf, Wi, Wc, Wo : ndarrays of shape (H, D + H)
        Weights of the gates on [x; h]; c is the candidate.
    bf, bi, bc, bo : ndarrays of shape (H, 1)
        All parameters are live: changed in place or assigned, they count at the next call.

    Notes
    -----
    Weights are drawn as N(0, 1) * 0.01 from ``np.random`` in the order Wf Wi Wc Wo, biases are 0.  Mended:
    1-D arguments are refused.  Added: columns side by side as a batch, `backward`.

    Examples
    --------
    >>> from clstm.compat.gate_inspection import LSTMCell
    >>> cell = LSTMCell(3, 5)
    >>> h, c, cache = cell.forward(np.ones((3, 1)), np.zeros((5, 1)), np.zeros((5, 1)))
    >>> f = cache[4]
    >>> f.shape
    (5, 1)
    """

    _hidden_first = False
    _scale = 0.01

    Wf, bf = parameters("f")
    Wi, bi = parameters("i")
    Wc, bc = parameters("g")
    Wo, bo = parameters("o")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self._begin(new_core(self.input_size, self.hidden_size, self._hidden_first))

    def forward(self, x: ArrayLike, h_prev: ArrayLike, c_prev: ArrayLike) -> tuple[Array, Array, Cache]:
        """Run one time step.

        Parameters
        ----------
        x : array_like of shape (D, 1), or (D, B) for B columns side by side
        h_prev, c_prev : array_like of shape (H, 1) or (H, B)

        Returns
        -------
        h_next, c_next : ndarrays of shape (H, 1) or (H, B)
        cache : tuple
            ``(x, h_prev, c_prev, concat, f, i, c_tilde, c_next, o, h_next)``.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        x_t, h, c = self._step_rows(x, h_prev, c_prev)
        self._forward(x_t[None], (h[None], c[None]))
        record = self._record()
        f, i, c_tilde, o = (record.gate(gate)[0] for gate in "figo")
        h_next, c_next = record.h()[1], record.c()[1]
        return h_next, c_next, (x_t.T, h.T, c.T, record.z()[0], f, i, c_tilde, c_next, o, h_next)

    def backward(self, dh_next: ArrayLike, dc_next: ArrayLike, cache: Cache) -> CellGradients:
        """Walk one time step back; no parameter changes.

        Parameters
        ----------
        dh_next, dc_next : array_like of shape (H, 1) or (H, B)
            Derivatives of a loss by the results of the step.
        cache : tuple
            As `forward` returned it.

        Returns
        -------
        dx, dh_prev, dc_prev : ndarrays of the shapes of the arguments of the step
        gradients : dict of str to ndarray
            By the names of the parameters, of their shapes; to be added up over the steps.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        x_t, *state = self._step_rows(*cache[:3])
        D, H, B = self.input_size, self.hidden_size, len(x_t)
        dh, dc = (columns(n, v, H, B) for n, v in (("dh_next", dh_next), ("dc_next", dc_next)))
        names = ("f", "i", "g", "c_next", "o", "h_next")
        left = {name: columns(f"cache: {name}", v, H, B) for name, v in zip(names, cache[4:], strict=True)}
        gates = np.concatenate([left[gate] for gate in self.core.kind.gates], axis=1)
        tape = CellTape(left["h_next"][None], gates[None], left["c_next"][None])

        (cell,), block = self.core.cells, np.empty((D + H + 1, 4 * H))
        dcell = cell._replace(W_x=block[:D], W_h=block[D:-1], bias=block[-1])
        dx, dstate = np.empty_like(x_t[None]), (np.empty_like(dh), np.empty_like(dc))
        self._functions.backward(
            cell, x_t[None], tuple(state), Schedule(np.ones(B, np.intp), False), tape,
            np.zeros_like(dh)[None], (dh, dc), dx, dcell, dstate,
        )  # fmt: skip
        gradients = self.named(Storage(block, self._W_y, self._b_y))
        return CellGradients(dx[0].T, dstate[0].T, dstate[1].T, gradients)

    def gradients(self, dh_next: ArrayLike, dc_next: ArrayLike, cache: Cache) -> dict[str, Array]:
        """Return the gradients by the parameters that `backward` returns."""
        return self.backward(dh_next, dc_next, cache).gradients


class LSTM(Twin):
    """LSTM over a sequence with a linear read-out at its end, which hands back all states and gates.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        D, H, O.

    Attributes
    ----------
    cell : LSTMCell
        Holds the parameters of the gates.
    hidden_size : int
    Why, by : ndarrays of shape (O, H), (O, 1)
        The read-out.  All parameters are live: changed in place or assigned, they count at the next call.

    Notes
    -----
    Why is drawn as N(0, 1) * 0.01 from ``np.random`` after the cell, `by` is 0.  Mended: 1-D inputs and an
    empty list are refused.  Added: `gradients` and `backward`.

    Examples
    --------
    >>> from clstm.compat.gate_inspection import LSTM
    >>> model = LSTM(3, 5, 2)
    >>> y, h_states, c_states, gate_values = model.forward([np.ones((3, 1))] * 7)
    >>> y.shape, len(h_states), gate_values["f"][0].shape
    ((2, 1), 7, (5, 1))
    """

    _hidden_first = False
    _scale = 0.01

    Why, by = parameters("y")

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        output_size = _check.integer("output_size", output_size, 1)
        self._cell = LSTMCell(input_size, hidden_size)
        self._begin(self._cell.core, output_size)

    @property
    def cell(self) -> LSTMCell:
        """The cell, on the same parameters."""
        return self._cell

    def _rows(self, name: str, value: ArrayLike) -> Array:
        return sequence(name, value, ("T", self.core.input_size, 1))

    def forward(self, inputs: ArrayLike) -> tuple[Array, list[Array], list[Array], dict[str, list[Array]]]:
        """Read a sequence from a zero state.

        Parameters
        ----------
        inputs : list of T >= 1 ndarrays of shape (D, 1), or array_like of shape (T, D, 1)

        Returns
        -------
        y : ndarray of shape (O, 1)
            Read off the last hidden state.
        h_states, c_states : lists of T ndarrays of shape (H, 1)
        gate_values : dict
            ``f``, ``i`` and ``o``: lists of T ndarrays of shape (H, 1).

        Raises
        ------
        ValueError, TypeError
            The sequence is empty, or has the wrong shape or type.
        """
        _, (h_n, _) = self._forward(self._rows("inputs", inputs))
        record = self._record()
        gate_values = {gate: list(record.gate(gate)) for gate in "fio"}
        return self._read_out(h_n[0]).T, list(record.h()[1:]), list(record.c()[1:]), gate_values

    def gradients(self, dy: ArrayLike) -> dict[str, Array]:
        """Compute the gradients of a loss through the last `forward`.

        Parameters
        ----------
        dy : array_like of shape (O, 1)
            Derivative of the loss by y.

        Returns
        -------
        dict of str to ndarray
            By the names of the parameters, those of the cell too, of their shapes.

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            The argument has the wrong shape or type.
        """
        gradients = self._differentiate(dy)
        return self._cell.named(gradients) | self.named(gradients)

    def backward(self, dy: ArrayLike, lr: float = 0.01) -> None:
        """Take one step of SGD in place.

        Parameters and errors are those of `gradients`, and the learning rate `lr`.
        """
        lr = _check.real("lr", lr)
        self._descend(self._differentiate(dy), lr)

    def _differentiate(self, dy: ArrayLike) -> Storage:
        d = columns("dy", dy, len(self._b_y), 1)
        self._backward(dh_n=d @ self._W_y)
        return self._gradients(d.T @ self._record().cell.y[-1], d.T)


class VanillaRNNCell:
    """One time step of a plain RNN, ``h_next = tanh(Wh @ [x; h] + bh)``, in NumPy; `clstm.RNN` trains one.

    Parameters
    ----------
    input_size, hidden_size : int
        D, H.

    Attributes
    ----------
    Wh, bh : ndarrays of shape (H, D + H), (H, 1)
        Wh is drawn as N(0, 1) * 0.01 from ``np.random``, bh is 0.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self.Wh = np.random.randn(hidden_size, input_size + hidden_size) * 0.01  # noqa: NPY002
        self.bh = np.zeros((hidden_size, 1))

    def forward(self, x: ArrayLike, h_prev: ArrayLike) -> Array:
        """Run one time step.

        Parameters
        ----------
        x : array_like of shape (D, 1), or (D, B) for B columns side by side
        h_prev : array_like of shape (H, 1) or (H, B)

        Returns
        -------
        ndarray of shape (H, 1) or (H, B)

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        x_t = columns("x", x, self.input_size)
        h = columns("h_prev", h_prev, self.hidden_size, len(x_t))
        h_next: Array = np.tanh(self.Wh @ np.concatenate([x_t.T, h.T]) + self.bh)
        return h_next


def generate_long_term_dependency_data(
    seq_length: int = 20, num_samples: int = 100, input_size: int = 10
) -> tuple[list[list[Array]], list[Array]]:
    """Draw sequences whose first vector is to be remembered until the end.

    Parameters
    ----------
    seq_length, num_samples, input_size : int
        T, the number of sequences, D.

    Returns
    -------
    X : list of num_samples lists of T ndarrays of shape (D, 1)
        A one-hot vector, then T - 1 vectors of N(0, 1) * 0.1.
    y : list of num_samples ndarrays of shape (D, 1)
        The one-hot vector again.

    Notes
    -----
    Everything comes from ``np.random``.  `clstm.datasets.long_term_dependency` draws the same kind of task as
    arrays, from a generator of its own.

    Examples
    --------
    >>> np.random.seed(42)
    >>> X, y = generate_long_term_dependency_data(seq_length=20, num_samples=3, input_size=4)
    >>> len(X), len(X[0]), X[0][1].shape, np.array_equal(X[0][0], y[0])
    (3, 20, (4, 1), True)
    """
    T = _check.integer("seq_length", seq_length, 1)
    D = _check.integer("input_size", input_size, 1)
    X, y = [], []
    for _ in range(_check.integer("num_samples", num_samples, 0)):
        first = np.zeros((D, 1))
        first[np.random.randint(D)] = 1.0  # noqa: NPY002
        X.append([first, *(np.random.randn(D, 1) * 0.1 for _ in range(T - 1))])  # noqa: NPY002
        y.append(first.copy())
    return X, y
