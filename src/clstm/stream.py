"""class Stream: one time step at a time with everything prepared, in microseconds; what `LSTM.stream` returns.

The weights are packed once and the state stays inside.  A step costs one call; arguments that are not exactly
right are checked and converted on a second, slower way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check

if TYPE_CHECKING:
    from .lstm import LSTM, StateLike

Array = NDArray[Any]


class Stream:
    """A unidirectional LSTM that is fed one time step at a time; made by `LSTM.stream`.

    The stream holds a snapshot of the parameters: changing them shows after `refresh`.  Its outputs have the
    bits that `LSTM.step`, and the whole sequence in one call, would give.  A stream belongs to one thread at
    a time.

    Attributes
    ----------
    state : pair of ndarray of shape (num_layers, B, H)
        ``(h, c)``, copies; assign to it to set the state.  Without the axis B for a stream of one row.

    Examples
    --------
    >>> lstm = clstm.LSTM(3, 5, rng=0)
    >>> stream = lstm.stream()
    >>> for x_t in np.ones((7, 3)):
    ...     h_t = stream.step(x_t)
    >>> np.array_equal(h_t, lstm(np.ones((7, 3)))[0][-1])
    True
    """

    def __init__(self, lstm: LSTM, batch_size: int | None, state: StateLike | None) -> None:
        if lstm.bidirectional:
            raise ValueError(
                "stream: expected a unidirectional LSTM; the reverse direction needs the whole sequence first"
            )
        self._lstm = lstm
        self._batched = batch_size is not None
        self._rows = 1 if batch_size is None else _check.integer("batch_size", batch_size, 1)
        self._first = lstm._state("state (h, c)", state, self._rows, self._batched, copy=True)
        self._out_shape = (self._rows, lstm.hidden_size) if self._batched else (lstm.hidden_size,)
        self._dtype = lstm.dtype
        self._engine = lstm._functions.Stream(
            lstm.num_layers,
            self._rows,
            lstm.input_size,
            lstm.hidden_size,
            lstm.dtype == np.float32,
            self._batched,
        )
        self._try_step = self._engine.try_step
        self.refresh()
        self.reset()

    def step(self, x_t: ArrayLike, out: Array | None = None) -> Array:
        """Feed one time step.

        Parameters
        ----------
        x_t : array_like of shape (B, I), or (I,) for a stream of one row
        out : ndarray of shape (B, H) or (H,), contiguous, of the layer's dtype, optional
            Where to write the result; nothing is allocated then.

        Returns
        -------
        ndarray of shape (B, H) or (H,)
            Hidden state of the last layer; `out` if it was given.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type; the state is as it was.
        RuntimeError
            Another thread is in the middle of a step of this stream.
        """
        result = np.empty(self._out_shape, self._dtype) if out is None else out
        if not self._try_step(x_t, result):
            self._checked_step(x_t, result)
        return result

    def _checked_step(self, x_t: ArrayLike, out: Array) -> None:
        """Say what is wrong with the arguments, or convert x_t."""
        x = _check.array("x_t", x_t, self._dtype)
        _check.shape("x_t", x, (*self._out_shape[:-1], self._lstm.input_size))
        if not isinstance(out, np.ndarray) or out.dtype != self._dtype:
            raise TypeError(f"out: expected an array of dtype {self._dtype}, got {_check.describe(out)}")
        _check.shape("out", out, self._out_shape)
        if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
            raise ValueError("out: expected a contiguous, writable array, got one that is not")
        if not self._try_step(np.ascontiguousarray(x), out):
            raise RuntimeError("stream: expected one thread at a time, got a step during another one")

    @property
    def state(self) -> tuple[Array, Array]:
        """Copies of the state ``(h, c)``, each (num_layers, B, H) or (num_layers, H)."""
        L, H = self._lstm.num_layers, self._lstm.hidden_size
        h, c = np.empty((L, self._rows, H), self._dtype), np.empty((L, self._rows, H), self._dtype)
        for k in range(L):
            for row in range(self._rows):
                self._engine.get_state(k, row, h[k, row], c[k, row])
        return (h, c) if self._batched else (h[:, 0], c[:, 0])

    @state.setter
    def state(self, state: StateLike) -> None:
        self._put(self._lstm._state("state (h, c)", state, self._rows, self._batched), range(self._rows))

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Go back to the state that the stream began with.

        Parameters
        ----------
        rows : int, array_like of int or of bool, optional
            Only these rows: those whose sequence has ended, for example.

        Raises
        ------
        IndexError
            There is no such row.
        """
        if rows is None:
            chosen: list[int] = list(range(self._rows))
        else:
            wanted = np.asarray(rows)
            try:
                if wanted.ndim > 1 or (wanted.ndim == 0 and wanted.dtype == bool):
                    raise IndexError
                chosen = np.atleast_1d(
                    np.arange(self._rows)[wanted if wanted.size else wanted.astype(np.intp)]
                ).tolist()
            except IndexError:
                raise IndexError(
                    f"rows: expected indices or a mask of {self._rows} rows, got {_check.describe(rows)}"
                ) from None
        self._put(self._first, chosen)

    def _put(self, state: tuple[Array, Array], rows: list[int] | range) -> None:
        h, c = state
        for k in range(self._lstm.num_layers):
            for row in rows:
                self._engine.put_state(k, row, h[k, row], c[k, row])

    def refresh(self) -> None:
        """Take the present parameters of the LSTM; the state stays."""
        for k, cell in enumerate(self._lstm._cells):
            self._engine.pack(k, *cell)
