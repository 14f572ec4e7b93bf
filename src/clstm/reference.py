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
To compare with: no gates, no cell, and the weights are ``W_x (I, H)``, ``W_h (H, H)`` and ``bias (H,)``.  Forward::

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

__all__ = ["Stream", "backward", "forward", "rnn_backward", "rnn_forward", "sigmoid", "step"]

Array = NDArray[Any]
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


def _steps(lengths: NDArray[np.intp], reverse: bool) -> Iterator[tuple[Any, Rows, int]]:
    """Yield (time index, rows, step) for the steps in the order they are computed; one time index a row if they differ."""
    longest = int(lengths.max(initial=0))
    if np.all(lengths == longest):
        for s in range(longest):
            yield (longest - 1 - s if reverse else s), slice(None), s
        return
    for s in range(longest):
        rows = np.flatnonzero(s < lengths)
        yield (lengths[rows] - 1 - s if reverse else s), rows, s


def forward(
    x: Array,
    W_x: Array,
    W_h: Array,
    bias: Array,
    h_0: Array,
    c_0: Array,
    lengths: NDArray[np.intp],
    reverse: bool,
    y: Array,
    gates: Array | None,
    c: Array | None,
    h_n: Array,
    c_n: Array,
) -> None:
    """Run one layer in one direction over whole sequences.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    x : ndarray of shape (T, B, I)
    W_x, W_h, bias : ndarrays of shape (I, 4H), (H, 4H), (4H,)
    h_0, c_0 : ndarrays of shape (B, H)
        State before the first step.
    lengths : ndarray of shape (B,), dtype intp
        Number of real steps of each row, at most T.
    reverse : bool
        Walk each row from its last real step to its first.
    y : OUT, ndarray of shape (T, B, H)
        Hidden states at their time index; 0 on padding.
    gates, c : OUT, ndarrays of shape (T, B, 4H), (T, B, H), or None
        The tape that `backward` reads: i, f, g, o and the cell.  Padding is left as it is.  None: keep
        nothing.
    h_n, c_n : OUT, ndarrays of shape (B, H)
        State after each row's last step.

    Examples
    --------
    One unit that has learnt nothing yet, over two steps:

    >>> x, W_x, W_h, bias = np.ones((2, 1, 1)), np.ones((1, 4)), np.zeros((1, 4)), np.zeros(4)
    >>> y, state = np.empty((2, 1, 1)), np.zeros((1, 1))
    >>> h_n, c_n = np.empty((1, 1)), np.empty((1, 1))
    >>> forward(x, W_x, W_h, bias, state, state, np.array([2]), False, y, None, None, h_n, c_n)
    >>> y.ravel().round(4)
    array([0.3696, 0.5453])
    """
    y[...] = 0
    h_n[...] = h_0
    c_n[...] = c_0
    for t, rows, _ in _steps(lengths, reverse):
        z = x[t, rows] @ W_x + h_n[rows] @ W_h + bias  # 1
        z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)  # 2
        g = np.tanh(z_g)
        c_t = f * c_n[rows] + i * g  # 3
        h_t = o * np.tanh(c_t)  # 4
        c_n[rows], h_n[rows], y[t, rows] = c_t, h_t, h_t
        if gates is not None and c is not None:
            gates[t, rows] = np.concatenate([i, f, g, o], axis=-1)
            c[t, rows] = c_t


def backward(
    dy: Array,
    dh_n: Array,
    dc_n: Array,
    x: Array,
    W_x: Array,
    W_h: Array,
    h_0: Array,
    c_0: Array,
    lengths: NDArray[np.intp],
    reverse: bool,
    y: Array,
    gates: Array,
    c: Array,
    dx: Array,
    dW_x: Array,
    dW_h: Array,
    dbias: Array,
    dh_0: Array,
    dc_0: Array,
) -> None:
    """Walk `forward` back: from the derivatives of a loss by the outputs to those by everything else.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    dy : ndarray of shape (T, B, H)
        Derivative of the loss by `y`, without what flows through later steps.  Padding is not read.
    dh_n, dc_n : ndarrays of shape (B, H)
        Derivatives by the final state.
    x, W_x, W_h, h_0, c_0, lengths, reverse : as given to `forward`
    y, gates, c : as `forward` left them
    dx : OUT, ndarray of shape (T, B, I)
        0 on padding.
    dW_x, dW_h, dbias : OUT, ndarrays of shape (I, 4H), (H, 4H), (4H,)
    dh_0, dc_0 : OUT, ndarrays of shape (B, H)
    """
    for out in (dx, dW_x, dW_h, dbias):
        out[...] = 0
    dh_0[...] = dh_n  # what the steps after the current one ask of h and of c
    dc_0[...] = dc_n
    for t, rows, s in reversed(list(_steps(lengths, reverse))):
        t_prev = t + 1 if reverse else t - 1
        h_prev = y[t_prev, rows] if s else h_0[rows]
        c_prev = c[t_prev, rows] if s else c_0[rows]
        i, f, g, o = np.split(gates[t, rows], 4, axis=-1)
        tanh_c = np.tanh(c[t, rows])

        dh = dy[t, rows] + dh_0[rows]  # 4'
        do = dh * tanh_c
        dc = dc_0[rows] + dh * o * (1 - tanh_c**2)
        di, dg, df = dc * g, dc * i, dc * c_prev  # 3'
        dz = np.concatenate(
            [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=-1
        )  # 2'

        dx[t, rows] = dz @ W_x.T  # 1'
        dW_x += x[t, rows].T @ dz
        dW_h += h_prev.T @ dz
        dbias += dz.sum(axis=0)
        dh_0[rows] = dz @ W_h.T
        dc_0[rows] = dc * f


def step(
    x: Array,
    W_x: Array,
    W_h: Array,
    bias: Array,
    h_prev: Array,
    c_prev: Array,
    h: Array,
    c: Array,
) -> None:
    """Run one layer over one time step: `forward` with T = 1, without a time axis and without lengths.

    Parameters
    ----------
    x : ndarray of shape (B, I)
    W_x, W_h, bias : ndarrays of shape (I, 4H), (H, 4H), (4H,)
    h_prev, c_prev : ndarrays of shape (B, H)
    h, c : OUT, ndarrays of shape (B, H)
    """
    lengths = np.ones(len(x), np.intp)
    y = np.empty_like(h)
    forward(x[None], W_x, W_h, bias, h_prev, c_prev, lengths, False, y[None], None, None, h, c)


def rnn_forward(
    x: Array,
    W_x: Array,
    W_h: Array,
    bias: Array,
    h_0: Array,
    lengths: NDArray[np.intp],
    y: Array,
    h_n: Array,
) -> None:
    """Run a plain RNN over whole sequences.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    x : ndarray of shape (T, B, I)
    W_x, W_h, bias : ndarrays of shape (I, H), (H, H), (H,)
    h_0 : ndarray of shape (B, H)
        State before the first step.
    lengths : ndarray of shape (B,), dtype intp
        Number of real steps of each row, at most T.
    y : OUT, ndarray of shape (T, B, H)
        Hidden states; 0 on padding.  All that `rnn_backward` needs.
    h_n : OUT, ndarray of shape (B, H)
        State after each row's last step.

    Examples
    --------
    One unit over two steps:

    >>> x, W, bias, h_0 = np.ones((2, 1, 1)), np.ones((1, 1)), np.zeros(1), np.zeros((1, 1))
    >>> y, h_n = np.empty((2, 1, 1)), np.empty((1, 1))
    >>> rnn_forward(x, W, W, bias, h_0, np.array([2]), y, h_n)
    >>> y.ravel().round(4)
    array([0.7616, 0.9427])
    """
    y[...] = 0
    h_n[...] = h_0
    for t, rows, _ in _steps(lengths, False):
        z = x[t, rows] @ W_x + h_n[rows] @ W_h + bias  # 5
        h_t = np.tanh(z)  # 6
        h_n[rows], y[t, rows] = h_t, h_t


def rnn_backward(
    dy: Array,
    dh_n: Array,
    x: Array,
    W_x: Array,
    W_h: Array,
    h_0: Array,
    lengths: NDArray[np.intp],
    y: Array,
    dx: Array,
    dW_x: Array,
    dW_h: Array,
    dbias: Array,
    dh_0: Array,
) -> None:
    """Walk `rnn_forward` back: from the derivatives of a loss by the outputs to those by everything else.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    dy : ndarray of shape (T, B, H)
        Derivative of the loss by `y`, without what flows through later steps.  Padding is not read.
    dh_n : ndarray of shape (B, H)
        Derivative by the final state.
    x, W_x, W_h, h_0, lengths : as given to `rnn_forward`
    y : as `rnn_forward` left it
    dx : OUT, ndarray of shape (T, B, I)
        0 on padding.
    dW_x, dW_h, dbias : OUT, ndarrays of shape (I, H), (H, H), (H,)
    dh_0 : OUT, ndarray of shape (B, H)
    """
    for out in (dx, dW_x, dW_h, dbias):
        out[...] = 0
    dh_0[...] = dh_n  # what the steps after the current one ask of h
    for t, rows, s in reversed(list(_steps(lengths, False))):
        h_prev = y[t - 1, rows] if s else h_0[rows]
        dh = dy[t, rows] + dh_0[rows]  # 6'
        dz = dh * (1 - y[t, rows] ** 2)

        dx[t, rows] = dz @ W_x.T  # 5'
        dW_x += x[t, rows].T @ dz
        dW_h += h_prev.T @ dz
        dbias += dz.sum(axis=0)
        dh_0[rows] = dz @ W_h.T


class Stream:
    """Weights and state of stacked layers, for `step` after `step`: what `clstm.Stream` is built on.

    Parameters
    ----------
    num_layers, rows, input_size, hidden_size : int
    single : bool
        float32 instead of float64.
    batched : bool
        Whether arrays have an axis of rows; without it there is one row.
    """

    def __init__(
        self, num_layers: int, rows: int, input_size: int, hidden_size: int, single: bool, batched: bool
    ) -> None:
        dtype = np.float32 if single else np.float64
        self._x_shape = (rows, input_size) if batched else (input_size,)
        self._out_shape = (rows, hidden_size) if batched else (hidden_size,)
        self._layers: list[tuple[Array, Array, Array]] = [()] * num_layers  # type: ignore[list-item]
        self._h = np.zeros((num_layers, rows, hidden_size), dtype)
        self._c = np.zeros_like(self._h)

    def pack(self, k: int, W_x: Array, W_h: Array, bias: Array) -> None:
        """Take a snapshot of the weights of layer k."""
        self._layers[k] = (W_x.copy(), W_h.copy(), bias.copy())

    def put_state(self, k: int, row: int, h: Array, c: Array) -> None:
        """Set the state of one row of layer k from arrays (H,)."""
        self._h[k, row], self._c[k, row] = h, c

    def get_state(self, k: int, row: int, h: Array, c: Array) -> None:
        """Copy the state of one row of layer k to arrays (H,)."""
        h[...], c[...] = self._h[k, row], self._c[k, row]

    def try_step(self, x: Any, out: Any) -> bool:
        """Step all layers from x (rows, I) to out (rows, H), without the axis of rows if not batched.

        Returns False, with nothing changed, if either is no contiguous array of that shape and of the
        stream's dtype.
        """
        for array, shape in ((x, self._x_shape), (out, self._out_shape)):
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != self._h.dtype:
                return False
            if not (array.flags.c_contiguous and array.flags.aligned):
                return False
        if not out.flags.writeable:
            return False
        below = np.asarray(x).reshape(-1, self._x_shape[-1])
        for weights, h, c in zip(self._layers, self._h, self._c, strict=True):
            step(below, *weights, h.copy(), c.copy(), h, c)
            below = h
        out[...] = below.reshape(out.shape)
        return True


def __getattr__(name: str) -> Any:
    """Offer `LSTM`, the class on top of these functions, without importing it for those who only read them."""
    if name == "LSTM":
        from .lstm import ReferenceLSTM

        return ReferenceLSTM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
