"""The definition of the LSTM, and of the plain RNN: forward and backward in plain NumPy, one equation a line.

The compiled kernels offer the same functions and are tested against these.  NumPy is all that is needed, and
nothing here casts to float, so a complex step through `forward` yields exact derivatives.

Notation
--------
T, B, I, H = time steps, batch rows, inputs, hidden units.  One layer in one direction has the weights ``W_x
(I, 4H)``, ``W_h (H, 4H)`` and ``bias (4H,)``, whose columns are four blocks of H in the order i, f, g, o:
input gate, forget gate, candidate, output gate.  ``*`` is element-wise, ``@`` the matrix product, ``s`` the
sigmoid.

The forward pass, for one time step, from ``h_prev`` and ``c_prev``, all of shape (B, H)::

    1   z = x_t @ W_x + h_prev @ W_h + bias     (B, 4H)    pre-activations
    2   i, f, o = s(z_i), s(z_f), s(z_o)        (B, H)     gates, each in (0, 1)
        g       = tanh(z_g)                     (B, H)     candidate, in (-1, 1)
    3   c_t = f * c_prev + i * g                (B, H)     cell: keep some of the old, take some of the new
    4   h_t = o * tanh(c_t)                     (B, H)     hidden state, which is also the output y_t

The backward pass.  Write ``dv`` for the derivative of a scalar loss by ``v``; it has the shape of ``v``.  The
loss sees ``h_t`` in two ways, through the output ``y_t`` and through ``z`` of the step after, so both
contributions add up; the same
holds for ``c_t``.  Walking from the last step to the first, with the equation that each line differentiates::

    4'  dh_t  = dy_t + dz_next @ W_h.T                      (1, one step later, is where h_t went)
        do    = dh_t * tanh(c_t)
        dc_t  = dc_next * f_next + dh_t * o * (1 - tanh(c_t)^2)
    3'  di, dg, df = dc_t * g, dc_t * i, dc_t * c_prev
    2'  dz_i  = di * i * (1 - i)                            s' = s (1 - s); f and o alike
        dz_g  = dg * (1 - g^2)                              tanh' = 1 - tanh^2
    1'  dx_t  = dz @ W_x.T                                  (B, I)
        dW_x += x_t.T @ dz                                  (I, 4H)   a weight is used at every step: its
        dW_h += h_prev.T @ dz                               (H, 4H)   derivative is the sum over the steps,
        dbias += sum of dz over the rows                    (4H,)     the first one (h_prev = h_0) included

What is left after the first step, ``dz @ W_h.T`` and ``dc * f``, is the derivative by the initial state.  At
the last step there is no step after; the derivative by the final state ``(h_n, c_n)``, which the caller
gives, stands in its place. The factor ``f`` on the way of ``dc`` is the only thing between a loss and a cell
many steps back: with ``f`` near 1 the gradient neither vanishes nor explodes.  That is what the architecture
is for.

Rows of different lengths: row b takes part in its first ``lengths[b]`` steps, and its state passes by
unchanged afterwards.  In the reverse direction it starts at its own last real step.  What lies beyond is
padding: never read, and 0 in every output.

The plain RNN
-------------
To compare with: no gates, no cell; weights ``W_x (I, H)``, ``W_h (H, H)`` and ``bias (H,)``.  Forward::

    5   z   = x_t @ W_x + h_prev @ W_h + bias   (B, H)     pre-activations
    6   h_t = tanh(z)                           (B, H)     hidden state, which is also the output y_t

Backward, from the last step to the first, by the same argument: the loss sees ``h_t`` through ``y_t`` and
through ``z`` of the
step after::

    6'  dh_t  = dy_t + dz_next @ W_h.T                      (5, one step later, is where h_t went)
        dz    = dh_t * (1 - h_t^2)                          tanh' = 1 - tanh^2; nothing but y need be kept
    5'  dx_t  = dz @ W_x.T                                  (B, I)
        dW_x += x_t.T @ dz                                  (I, H)    sums over the steps, as in 1'
        dW_h += h_prev.T @ dz                               (H, H)
        dbias += sum of dz over the rows                    (H,)

Each step back multiplies the gradient by ``(1 - h_t^2)``, at most 1, and by ``W_h.T``: a product of as many
matrices as there
are steps, which vanishes or explodes.  There is no way around it as there is along the cell of an LSTM.

Sources
-------
S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997 (cell and gates); F. A.
Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM", Neural Computation
12(10), 2000 (the forget gate); J. L. Elman, "Finding structure in time", Cognitive Science 14(2), 1990 (the
plain RNN).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream", "backward", "forward", "sigmoid", "step"]

Array = NDArray[Any]
State = tuple[Array, ...]
Rows = slice | NDArray[np.intp]


def sigmoid(x: Array) -> Array:
    """Compute the logistic function ``1 / (1 + exp(-x))`` without overflow.

    Parameters
    ----------
    x : ndarray of any shape, real or complex

    Returns
    -------
    ndarray of the same shape and dtype
        Written as ``(1 + tanh(x / 2)) / 2``, which is the same function, is analytic and never overflows.

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    half = x.dtype.type(0.5)
    s: Array = half + half * np.tanh(half * x)
    return s


# -------------------------------------------------------------------------------------------- the two cells


def lstm_forward(z: Array, c_prev: Array) -> tuple[Array, State]:
    """Return the gates i, f, g, o side by side and (h_t, c_t): equations 2 to 4."""
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
    i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)  # 2
    g = np.tanh(z_g)
    c_t = f * c_prev + i * g  # 3
    h_t = o * np.tanh(c_t)  # 4
    return np.concatenate([i, f, g, o], axis=-1), (h_t, c_t)


def lstm_backward(dh: Array, dc_carry: Array, gates: Array, c_t: Array, c_prev: Array) -> tuple[Array, State]:
    """Return dz and what is handed to dc of the step before: equations 4' to 2'."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    tanh_c = np.tanh(c_t)
    do = dh * tanh_c  # 4'
    dc = dc_carry + dh * o * (1 - tanh_c**2)
    di, dg, df = dc * g, dc * i, dc * c_prev  # 3'
    dz = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)]  # 2'
    return np.concatenate(dz, axis=-1), (dc * f,)


def rnn_forward(z: Array) -> tuple[Array, State]:
    """Return h_t twice, as the one gate and as the state: equation 6."""
    h_t = np.tanh(z)  # 6
    return h_t, (h_t,)


def rnn_backward(dh: Array, h_t: Array) -> tuple[Array, State]:
    """Return dz: equation 6'."""
    return dh * (1 - h_t**2), ()  # 6'


FORWARD: dict[str, Any] = {"lstm": lstm_forward, "rnn": rnn_forward}
BACKWARD: dict[str, Any] = {"lstm": lstm_backward, "rnn": rnn_backward}


# --------------------------------------------------------------------------------------- the walk over time


def _steps(schedule: Any) -> Iterator[tuple[Any, Rows, int]]:
    """Yield (time index, rows, step) in the order of computation; one time index a row if they differ."""
    lengths, reverse = schedule.lengths, schedule.reverse
    longest = int(lengths.max(initial=0))
    if np.all(lengths == longest):
        for s in range(longest):
            yield (longest - 1 - s if reverse else s), slice(None), s
        return
    for s in range(longest):
        rows = np.flatnonzero(s < lengths)
        yield (lengths[rows] - 1 - s if reverse else s), rows, s


def forward(cell: Any, x: Array, state: State, schedule: Any, tape: Any, final: State) -> None:
    """Run one layer in one direction over whole sequences.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    cell : clstm.cells.Cell
        Its kind, and ``W_x (I, GH)``, ``W_h (H, GH)``, ``bias (GH,)``.
    x : ndarray of shape (T, B, I)
    state : tuple of ndarrays of shape (B, H)
        Before the first step: (h, c), or (h,) for an RNN.
    schedule : clstm.cells.Schedule
        ``lengths (B,)``, the real steps of each row; ``reverse``: walk each row from its last real step to
        its first.
    tape : OUT, clstm.cells.CellTape
        ``y (T, B, H)``: hidden states at their time index, 0 on padding.  ``gates (T, B, GH)`` and ``c (T, B,
        H)``, or None: what `backward` reads besides; padding is left as it is.
    final : OUT, tuple of ndarrays of shape (B, H)
        State after each row's last step.

    Examples
    --------
    One unit that has learnt nothing yet, over two steps:

    >>> from clstm.cells import LSTM, Cell, CellTape, Schedule
    >>> cell = Cell(LSTM, np.ones((1, 4)), np.zeros((1, 4)), np.zeros(4))
    >>> x, state, final = np.ones((2, 1, 1)), (np.zeros((1, 1)),) * 2, (np.empty((1, 1)), np.empty((1, 1)))
    >>> tape = CellTape(np.empty((2, 1, 1)))
    >>> forward(cell, x, state, Schedule(np.array([2]), False), tape, final)
    >>> tape.y.ravel().round(4)
    array([0.3696, 0.5453])
    """
    tape.y[...] = 0
    for part, first in zip(final, state, strict=True):
        part[...] = first
    for t, rows, _ in _steps(schedule):
        h_prev, *others = (part[rows] for part in final)
        z = x[t, rows] @ cell.W_x + h_prev @ cell.W_h + cell.bias  # 1 and 5
        gates, after = FORWARD[cell.kind.name](z, *others)
        for part, value in zip(final, after, strict=True):
            part[rows] = value
        tape.y[t, rows] = after[0]
        if tape.gates is not None:
            tape.gates[t, rows] = gates
        if tape.c is not None:
            tape.c[t, rows] = after[1]


def backward(
    cell: Any,
    x: Array,
    state: State,
    schedule: Any,
    tape: Any,
    dy: Array,
    dfinal: State,
    dx: Array,
    dcell: Any,
    dstate: State,
) -> None:
    """Walk `forward` back: from the derivatives of a loss by the outputs to those by everything else.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    cell, x, state, schedule : as given to `forward`
    tape : as `forward` left it
    dy : ndarray of shape (T, B, H)
        Derivative of the loss by y, without what flows through later steps.  Padding is not read.
    dfinal : tuple of ndarrays of shape (B, H)
        Derivatives by the final state.
    dx : OUT, ndarray of shape (T, B, I)
        0 on padding.
    dcell : OUT, clstm.cells.Cell
        Derivatives by the weights.
    dstate : OUT, tuple of ndarrays of shape (B, H)
    """
    for out in (dx, dcell.W_x, dcell.W_h, dcell.bias):
        out[...] = 0
    for part, last in zip(dstate, dfinal, strict=True):
        part[...] = last  # what the steps after the current one ask of h and of c
    for t, rows, s in reversed(list(_steps(schedule))):
        t_prev = t + 1 if schedule.reverse else t - 1
        h_prev = tape.y[t_prev, rows] if s else state[0][rows]
        left = [(tape.y if tape.gates is None else tape.gates)[t, rows]]
        if tape.c is not None:
            left += [tape.c[t, rows], tape.c[t_prev, rows] if s else state[1][rows]]

        dh = dy[t, rows] + dstate[0][rows]  # 4' and 6'
        dz, carries = BACKWARD[cell.kind.name](dh, *(part[rows] for part in dstate[1:]), *left)

        dx[t, rows] = dz @ cell.W_x.T  # 1' and 5'
        dcell.W_x[...] += x[t, rows].T @ dz
        dcell.W_h[...] += h_prev.T @ dz
        dcell.bias[...] += dz.sum(axis=0)
        for part, value in zip(dstate, (dz @ cell.W_h.T, *carries), strict=True):
            part[rows] = value


def step(cell: Any, x: Array, state: State, final: State) -> None:
    """Run one layer over one time step: `forward` with T = 1, without a time axis and without lengths.

    Parameters
    ----------
    cell : clstm.cells.Cell
    x : ndarray of shape (B, I)
    state : tuple of ndarrays of shape (B, H)
    final : OUT, tuple of ndarrays of shape (B, H)
    """
    after = FORWARD[cell.kind.name](x @ cell.W_x + state[0] @ cell.W_h + cell.bias, *state[1:])[1]
    for part, value in zip(final, after, strict=True):
        part[...] = value


class Stream:
    """Stacked layers and their state, for one step after the other: what `clstm.Stream` stands on.

    Parameters
    ----------
    cells : sequence of clstm.cells.Cell
        One a layer.
    rows : int
    axes : {"f", "bf", "f1"}
        What arguments look like: (features,), (rows, features), or columns (features, 1).
    packed : bool
        Take snapshots of the weights, see `pack`; else they are read where they lie.
    """

    def __init__(self, cells: Any, rows: int, axes: str, packed: bool) -> None:
        self._given = self._cells = tuple(cells)
        self._rows, self._axes = rows, axes
        self._sizes = (len(cells[0].W_x), len(cells[-1].W_h))
        parts = [
            [np.zeros((rows, len(cell.W_h)), cell.W_h.dtype) for _ in cell.kind.states]
            for cell in self._given
        ]
        self._states = [tuple(state) for state in parts]
        if packed:
            self.pack()

    def pack(self) -> None:
        """Take a snapshot of the present weights of every layer."""
        self._cells = tuple(
            cell._replace(W_x=cell.W_x.copy(), W_h=cell.W_h.copy(), bias=cell.bias.copy())
            for cell in self._given
        )

    def put_state(self, k: int, row: int, state: State) -> None:
        """Set the state of one row of layer k from arrays (H,)."""
        for part, value in zip(self._states[k], state, strict=True):
            part[row] = value

    def get_state(self, k: int, row: int, state: State) -> None:
        """Copy the state of one row of layer k to arrays (H,)."""
        for value, part in zip(state, self._states[k], strict=True):
            value[...] = part[row]

    def _fits(self, array: Any, features: int) -> bool:
        """Tell whether an argument can be taken as it is."""
        shape = {"f": (features,), "bf": (self._rows, features), "f1": (features, 1)}[self._axes]
        fits = isinstance(array, np.ndarray) and array.shape == shape
        return (
            fits
            and array.dtype == self._given[0].W_x.dtype
            and array.flags.c_contiguous
            and array.flags.aligned
        )

    def try_step(self, x: Any, out: Any) -> bool:
        """Step all layers from x (rows, I) to out (rows, H), on the axes of this stream.

        Returns False, with nothing changed, if either is no contiguous array of that shape and of the
        stream's dtype.
        """
        if not (self._fits(x, self._sizes[0]) and self._fits(out, self._sizes[1]) and out.flags.writeable):
            return False
        below = np.asarray(x).reshape(-1, self._sizes[0])
        for cell, state in zip(self._cells, self._states, strict=True):
            step(cell, below, state, state)
            below = state[0]
        out[...] = below.reshape(out.shape)
        return True

    def try_step_from(self, x: Any, h_prev: Any, c_prev: Any, h: Any, c: Any) -> bool:
        """Step one LSTM layer of one row from a given state to h and c; the rest as for `try_step`."""
        others = all(self._fits(array, self._sizes[1]) for array in (h_prev, c_prev, h, c))
        if not (others and self._fits(x, self._sizes[0]) and h.flags.writeable and c.flags.writeable):
            return False
        self.put_state(0, 0, (h_prev.ravel(), c_prev.ravel()))
        self.try_step(x, h)
        self.get_state(0, 0, (h.reshape(-1), c.reshape(-1)))
        return True


LSTM: Any  # clstm.LSTM on these functions; lstm.py, which stands above this file, puts it here
