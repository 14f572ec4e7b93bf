"""class Stream: one time step at a time, everything prepared, in microseconds.

The weights are packed once and the state stays inside.  A step costs one call; arguments that are not exactly
right are checked and converted on a second, slower way.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _layouts
from ._dispatch import Backend, backend
from .cells import Cell, Kind, State

Array = NDArray[Any]


class Layer(Protocol):
    """What a stream needs of the layer that it runs."""

    kind: ClassVar[Kind]

    @property
    def cells(self) -> tuple[Cell, ...]: ...  # noqa: D102
    @property
    def functions(self) -> Backend: ...  # noqa: D102
    @property
    def backend(self) -> str: ...  # noqa: D102


class Stream:
    """A unidirectional LSTM or RNN that is fed one time step at a time; made by their method `stream`.

    The stream holds a snapshot of the parameters: changing them shows after `refresh`.  Its outputs have the
    bits that `step`, and the whole sequence in one call, would give.  A stream belongs to one thread at a
    time.  It can be pickled and copied, the layer and the snapshot with it.

    Attributes
    ----------
    state : pair of ndarray of shape (num_layers, B, H)
        ``(h, c)``, for an RNN the array ``h``; copies: assign to it to set the state.  Without the axis B for
        a stream of one row.  With a projection h is (num_layers, B, R).

    Examples
    --------
    >>> lstm = clstm.LSTM(3, 5, rng=0)
    >>> stream = lstm.stream()
    >>> for x_t in np.ones((7, 3)):
    ...     h_t = stream.step(x_t)
    >>> np.array_equal(h_t, lstm(np.ones((7, 3)))[0][-1])
    True
    """

    def __init__(self, layer: Layer, batch_size: int | None, state: Any) -> None:
        self._layer, self._backend = layer, layer.backend
        self._batched = batch_size is not None
        self._rows = 1 if batch_size is None else _check.integer("batch_size", batch_size, 1)
        W_x, W_h = layer.cells[0].W_x, layer.cells[-1].W_h
        self._dtype, self._input_size, self._output_size = W_h.dtype, len(W_x), len(W_h)
        first = self._parts_of(state)
        self._start(layer.cells)
        self._put(first, range(self._rows))

    def _start(self, cells: tuple[Cell, ...]) -> None:
        """Pack a snapshot of the weights; the state is zeros."""
        layer = self._layer  # whose backend may have been set to another one since
        functions = layer.functions if layer.backend == self._backend else backend(self._backend, self._dtype)
        self._snapshot = tuple(cell.astype(self._dtype) for cell in cells)
        self._engine = functions.Stream(self._snapshot, self._rows, "bf" if self._batched else "f", True)
        self._try_step = self._engine.try_step
        self._out_shape = (self._rows, self._output_size) if self._batched else (self._output_size,)

    def _parts_of(self, state: Any) -> State:
        cells, kind = self._layer.cells, self._layer.kind
        sizes = cells[0].state_sizes
        return _layouts.state_parts(
            "state", "{}", state, len(cells), self._rows, sizes, kind, self._dtype, self._batched
        )

    def _shapes(self) -> tuple[tuple[int, int, int], ...]:
        cells = self._layer.cells
        return tuple((len(cells), self._rows, n) for n in cells[0].state_sizes)

    def step(self, x_t: ArrayLike, out: Array | None = None) -> Array:
        """Feed one time step.

        Parameters
        ----------
        x_t : array_like of shape (B, I), or (I,) for a stream of one row
        out : ndarray of shape (B, R) or (R,), contiguous, of the layer's dtype, optional
            Where to write the result; nothing is allocated then.

        Returns
        -------
        ndarray of shape (B, R) or (R,)
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
        _check.shape("x_t", x, (*self._out_shape[:-1], self._input_size))
        if not isinstance(out, np.ndarray) or out.dtype != self._dtype:
            raise TypeError(f"out: expected an array of dtype {self._dtype}, got {_check.describe(out)}")
        _check.shape("out", out, self._out_shape)
        if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
            raise ValueError("out: expected a contiguous, writable array, got one that is not")
        if not self._try_step(np.ascontiguousarray(x), out):
            raise RuntimeError("stream: expected one thread at a time, got a step during another one")

    @property
    def state(self) -> Any:
        """Copies of the state, each (num_layers, B, H) or (num_layers, H)."""
        return _layouts.state_as_given(self._state(), self._batched)

    @state.setter
    def state(self, state: Any) -> None:
        self._put(self._parts_of(state), range(self._rows))

    def _state(self) -> State:
        parts = tuple(np.empty(shape, self._dtype) for shape in self._shapes())
        for k in range(len(self._snapshot)):
            for row in range(self._rows):
                self._engine.get_state(k, row, tuple(part[k, row] for part in parts))
        return parts

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Set the state to 0: `resets` of a whole sequence, one step at a time.

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
                index = wanted if wanted.size else wanted.astype(np.intp)
                chosen = np.atleast_1d(np.arange(self._rows)[index]).tolist()
            except IndexError:
                raise IndexError(
                    f"rows: expected indices or a mask of {self._rows} rows, got {_check.describe(rows)}"
                ) from None
        self._put(tuple(np.zeros(shape, self._dtype) for shape in self._shapes()), chosen)

    def _put(self, parts: State, rows: list[int] | range) -> None:
        for k in range(len(self._snapshot)):
            for row in rows:
                self._engine.put_state(k, row, tuple(part[k, row] for part in parts))

    def refresh(self) -> None:
        """Take the present parameters of the layer; the state stays."""
        if self._snapshot[0].options != self._layer.cells[0].options:  # zoneout has been set
            state = self._state()
            self._start(self._layer.cells)
            self._put(state, range(self._rows))
            return
        for own, present in zip(self._snapshot, self._layer.cells, strict=True):
            own.copy_in(present)
        self._engine.pack()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what the kernels hold, of which the state is kept."""
        kept = {name: value for name, value in vars(self).items() if name not in ("_engine", "_try_step")}
        return kept | {"state": self._state()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        state = kept.pop("state")
        self.__dict__.update(kept)
        self._start(self._snapshot)
        self._put(state, range(self._rows))
