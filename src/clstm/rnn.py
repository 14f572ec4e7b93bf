"""class RNN: a plain tanh RNN on the interface of `clstm.LSTM`, to compare the two; one layer, one direction.

As in lstm.py: parameters are views of one flat array, and an exception leaves the object as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _check, _dispatch
from ._sequences import ArrayPool, Cell, SequenceLayer, draw_weights

Array = NDArray[Any]


class _Tape(NamedTuple):
    """Everything `RNN.backward` needs of the last `RNN.forward`."""

    x: Array  # (T, B, I)
    y: Array  # (T, B, H)
    h_0: Array
    lengths: NDArray[np.intp]
    batched: bool


@dataclass(frozen=True)
class RNNTrace:
    """Hidden states of every step, as `RNN.trace` returns them; laid out like `clstm.Trace`.

    Attributes
    ----------
    h : ndarray of shape (1, T, B, H)
        Hidden state after the step.

    Time is the second axis also for ``batch_first=True``; for one unbatched sequence the axis B is absent.
    Padding is 0.
    """

    h: Array


class RNN(SequenceLayer):
    """Plain recurrent network with tanh units (Elman 1990) on the CPU, forward and backward, to compare an LSTM with.

    Parameters
    ----------
    input_size, hidden_size : int
        Number of features of the input, number of hidden units.
    bias : bool, default True
    batch_first : bool, default False
        Sequences are ``(B, T, I)`` instead of ``(T, B, I)``.  States are never batch-first.
    dtype : float64 (default) or float32
        Of parameters, states and outputs.
    rng : None, int or numpy.random.Generator
        Source of the initial weights.
    init : {"glorot", "torch"}
        "glorot": Glorot-uniform input weights, orthogonal recurrent weights, bias 0.
        "torch": U(-1/sqrt(H), 1/sqrt(H)) for everything.
    backend : {"auto", "numpy"}
        "auto" runs the compiled kernels, "numpy" the definition in `clstm.reference`.

    Attributes
    ----------
    flat_params, flat_grads : ndarrays of shape (n,)
        All parameters and their gradients, each in one contiguous array; `params` and `grads` are views of
        them.
    params, grads : dict of str to ndarray
        ``weight_ih_l0 (H, I)``, ``weight_hh_l0 (H, H)`` and ``bias_l0 (H,)``.  The arrays are live: change
        them in place.

    Notes
    -----
    The equations, forward and backward, are in `clstm.reference`.  The state is the array ``h``, as in
    ``torch.nn.RNN``, where an LSTM has the pair ``(h, c)``.  A call computes on one thread.  Calling the
    object, `step` and `trace` change nothing in it, so any number of threads may do so at once; `forward` and
    `backward` keep a tape and belong to one thread at a time.

    Examples
    --------
    >>> import clstm, numpy as np
    >>> rnn = clstm.RNN(3, 5, rng=0)
    >>> y, h_n = rnn.forward(np.ones((7, 2, 3)))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    >>> dx, dh_0 = rnn.backward(np.ones_like(y))
    >>> rnn.grads["weight_hh_l0"].shape
    (5, 5)
    """

    flat_params: Array
    flat_grads: Array
    params: dict[str, Array]
    grads: dict[str, Array]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        init: str = "glorot",
        backend: str = "auto",
    ) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self.bias = _check.boolean("bias", bias)
        self.batch_first = _check.boolean("batch_first", batch_first)
        self.dtype = _check.float_dtype(dtype)
        self.init = _check.choice("init", init, ("glorot", "torch"))
        self.backend = _check.choice("backend", backend, ("auto", "numpy"))
        rng = _check.generator(rng)
        self.flat_params = np.zeros(
            (self.input_size + self.hidden_size + self.bias) * self.hidden_size, self.dtype
        )
        self.flat_grads = np.zeros_like(self.flat_params)
        self._lay_out()
        draw_weights(self._cell, self.init, rng, self.bias)

    def _lay_out(self) -> None:
        """Make the views of the flat arrays; there is no tape yet."""
        self._cell, self.params = self._views(self.flat_params)
        _, self.grads = self._views(self.flat_grads)
        self._functions = _dispatch.backend(self.backend, self.dtype)
        self._tape: _Tape | None = None
        self._pool = ArrayPool()

    def _views(self, flat: Array) -> tuple[Cell, dict[str, Array]]:
        """Cut a flat array, the block (I + H + 1, H) of rows [inputs; hidden units; bias], and name the parts."""
        I, H = self.input_size, self.hidden_size  # noqa: E741
        block = flat.reshape(-1, H)
        cell = Cell(block[:I], block[I : I + H], block[-1] if self.bias else np.zeros(H, flat.dtype))
        named = {"weight_ih_l0": cell.W_x.T, "weight_hh_l0": cell.W_h.T}
        return cell, named | {"bias_l0": cell.bias} if self.bias else named

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the views, which `__setstate__` makes anew, and the tape."""
        derived = ("_cell", "params", "grads", "_functions", "_tape", "_pool")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lay_out()

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("bias", "batch_first", "init"))
        return f"RNN({self.input_size}, {self.hidden_size}, {arguments}, dtype={self.dtype.name!r})"

    def _state(self, name: str, state: ArrayLike | None, B: int, batched: bool) -> Array:
        """Return a copy of a state argument, or of the derivative by one, as (B, H); None means zeros."""
        H = self.hidden_size
        if state is None:
            return np.zeros((B, H), self.dtype)
        return _check.shaped(name, state, self.dtype, (1, B, H) if batched else (1, H)).reshape(B, H).copy()

    def __call__(
        self, x: ArrayLike, state: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Run whole sequences without keeping anything.

        Parameters
        ----------
        x : array_like of shape (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence
        state : array_like of shape (1, B, H), optional
            ``h_0``, zeros if omitted.  Without the axis B for one sequence.
        lengths : array_like of int of shape (B,), optional
            Number of real steps of each row, 0..T, in any order.  What lies beyond is never read.

        Returns
        -------
        y : ndarray of shape (T, B, H), laid out as `x`
            Hidden states; 0 on padding.
        h_n : ndarray of the shape of the state
            State after each row's last step.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type; the message names it.
        """
        x_, batched = self._sequence("x", x, self.input_size)
        T, B, _ = x_.shape
        h_0 = self._state("state", state, B, batched)
        y, h_n = self._run(x_, h_0, _check.lengths(lengths, T, B))
        return self._public(y, batched), _public_state(h_n, batched)

    def forward(
        self, x: ArrayLike, state: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Run whole sequences and keep what `backward` needs.

        Parameters, returns and errors are those of calling the object.  The tape holds copies: changing `x`
        or `y` in place afterwards does not disturb `backward`, changing the parameters does.
        """
        x_, batched = self._sequence("x", x, self.input_size)
        T, B, _ = x_.shape
        h_0 = self._state("state", state, B, batched)
        lengths_ = _check.lengths(lengths, T, B).copy()
        own_x = self._pool.empty(x_.shape, self.dtype)
        own_x[...] = x_
        y, h_n = self._run(own_x, h_0, lengths_, self._pool.empty((T, B, self.hidden_size), self.dtype))
        result = np.array(self._public(y, batched), order="C")
        self._pool.replace([self._tape.x, self._tape.y] if self._tape else [])
        self._tape = _Tape(own_x, y, h_0, lengths_, batched)
        return result, _public_state(h_n, batched)

    def _run(
        self, x: Array, h_0: Array, lengths: NDArray[np.intp], y: Array | None = None
    ) -> tuple[Array, Array]:
        """Run over x (T, B, I) into y, or into a fresh array."""
        if y is None:
            y = np.empty((*x.shape[:2], self.hidden_size), self.dtype)
        h_n = np.empty_like(h_0)
        self._functions.rnn_forward(x, *self._cell, h_0, lengths, y, h_n)
        return y, h_n

    def backward(
        self, dy: ArrayLike | None = None, dstate: ArrayLike | None = None, accumulate: bool = False
    ) -> tuple[Array, Array]:
        """Back-propagate through the last `forward` and fill `grads`.

        Parameters
        ----------
        dy : array_like of the shape of y, optional
            Derivative of the loss by the output.  What stands on padding is not read.
        dstate : array_like of the shape of the state, optional
            ``dh_n``, derivative of the loss by the final state.
        accumulate : bool, default False
            Add to `grads` instead of overwriting them.

        Returns
        -------
        dx : ndarray of the shape of x
        dh_0 : ndarray of the shape of the state

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            An argument has the wrong shape or type, or both are None; the message names it.
        """
        tape = self._tape
        if tape is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        if dy is None and dstate is None:
            raise ValueError("dy, dstate: expected at least one of them, got None for both")
        accumulate = _check.boolean("accumulate", accumulate)
        dy_ = self._output_derivative(dy, tape.y.shape, tape.batched)
        dh_n = self._state("dstate", dstate, len(tape.h_0), tape.batched)

        fresh = np.empty_like(self.flat_grads)
        gradients, _ = self._views(fresh)
        dx, dh_0 = np.empty_like(tape.x), np.empty_like(dh_n)
        W_x, W_h, _ = self._cell
        self._functions.rnn_backward(
            dy_, dh_n, tape.x, W_x, W_h, tape.h_0, tape.lengths, tape.y, dx, *gradients, dh_0
        )

        if accumulate:
            self.flat_grads += fresh
        else:
            self.flat_grads[...] = fresh
        return np.ascontiguousarray(self._public(dx, tape.batched)), _public_state(dh_0, tape.batched)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[Array, Array]:
        """Run one time step.

        Parameters
        ----------
        x_t : array_like of shape (B, I), or (I,) for one row
        state : array_like of shape (1, B, H), optional
            ``h`` before the step, zeros if omitted.  Without the axis B for one row.

        Returns
        -------
        h_t : ndarray of shape (B, H) or (H,)
        h : ndarray of the shape of the state
            State after the step: the same numbers.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        x, batched = self._time_step(x_t)
        h_prev = self._state("state", state, len(x), batched)
        y, h = self._run(x[None], h_prev, np.ones(len(x), np.intp))
        return y[0] if batched else y[0, 0], _public_state(h, batched)

    def trace(
        self, x: ArrayLike, state: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> RNNTrace:
        """Run whole sequences and return the hidden state of every step.

        Parameters and errors are those of calling the object.

        Returns
        -------
        RNNTrace
            With `h` of shape (1, T, B, H).
        """
        x_, batched = self._sequence("x", x, self.input_size)
        T, B, _ = x_.shape
        h_0 = self._state("state", state, B, batched)
        y, _ = self._run(x_, h_0, _check.lengths(lengths, T, B))
        return RNNTrace(y[None] if batched else y[None, :, 0])


def _public_state(h: Array, batched: bool) -> Array:
    """Return a state (B, H) as users have it: (1, B, H), or (1, H) where they gave no batch axis."""
    return h[None] if batched else h
