"""class Stream: one time step at a time, everything prepared, in microseconds.

The weights are packed once and the state stays inside.  A step costs one call; arguments that are not exactly
right are checked and converted on a second, slower way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _layouts, files
from ._dispatch import Backend, backend
from ._version import __version__
from .cells import Cell, Kind, State

Array = NDArray[Any]

_FILE_CLASS = "StreamState"


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
    kind : clstm.cells.Kind
        Of the cells.
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
        self.kind = layer.kind
        first_cell, last_cell = layer.cells[0], layer.cells[-1]
        self._dtype = first_cell.bias.dtype
        self._input_size, self._output_size = first_cell.input_size, last_cell.output_size
        first = self._parts_of(state)
        self._start(layer.cells)
        self._put(first)

    def _start(self, cells: tuple[Cell, ...]) -> None:
        """Pack a snapshot of the weights; the state is zeros."""
        layer = self._layer  # whose backend may have been set to another one since
        functions = layer.functions if layer.backend == self._backend else backend(self._backend, self._dtype)
        self._snapshot = tuple(cell.astype(self._dtype) for cell in cells)
        self._engine = functions.Stream(self._snapshot, self._rows, "bf" if self._batched else "f", True)
        self._try_step, self._try_reset = self._engine.try_step, self._engine.try_reset
        self._out_shape = (self._rows, self._output_size) if self._batched else (self._output_size,)

    def _parts_of(self, state: Any) -> State:
        cells, kind = self._layer.cells, self._layer.kind
        sizes = cells[0].state_sizes
        return _layouts.state_parts(
            "state", "{}", state, len(cells), self._rows, sizes, kind, self._dtype, self._batched
        )

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
        result: Array | None = self._try_step(x_t, out)
        return self._checked_step(x_t, out) if result is None else result

    def _checked_step(self, x_t: ArrayLike, out: Array | None) -> Array:
        """Say what is wrong with the arguments, or convert x_t."""
        x = _check.array("x_t", x_t, self._dtype)
        _check.shape("x_t", x, (*self._out_shape[:-1], self._input_size))
        if out is None:
            out = np.empty(self._out_shape, self._dtype)
        if not isinstance(out, np.ndarray) or out.dtype != self._dtype:
            raise TypeError(f"out: expected an array of dtype {self._dtype}, got {_check.describe(out)}")
        _check.shape("out", out, self._out_shape)
        if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
            raise ValueError("out: expected a contiguous, writable array, got one that is not")
        if self._try_step(np.ascontiguousarray(x), out) is None:
            raise RuntimeError("stream: expected one thread at a time, got a step during another one")
        return out

    @property
    def state(self) -> Any:
        """Copies of the state, each (num_layers, B, H) or (num_layers, H)."""
        return _layouts.state_as_given(self._state(), self._batched)

    @state.setter
    def state(self, state: Any) -> None:
        self._put(self._parts_of(state))

    def _state(self) -> State:
        shape, rows = (len(self._snapshot), self._rows), np.arange(self._rows)
        parts = tuple(np.empty((*shape, n), self._dtype) for n in self._snapshot[0].state_sizes)
        for k in range(len(self._snapshot)):
            self._engine.get_states(k, rows, tuple(part[k] for part in parts))
        return parts

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a safetensors file, whole or not at all: for a service that starts again.

        The weights are not part of it: save the layer for these.

        Parameters
        ----------
        path : str or path-like
            Replaced if it exists, after the new content has reached the disk.

        Raises
        ------
        OSError
            The file cannot be written.

        Examples
        --------
        >>> lstm = clstm.LSTM(3, 5, rng=0)
        >>> stream, later = lstm.stream(), lstm.stream()
        >>> y = stream.step(np.ones(3))
        >>> stream.save_state("state.safetensors")
        >>> later.load_state("state.safetensors")
        >>> np.array_equal(later.step(np.ones(3)), stream.step(np.ones(3)))
        True
        """
        save_states(path, [self])

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Take the state that `save_state` has written.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        FileFormatError
            The file was not written by `save_state` or has been damaged since, or its state has another kind,
            shape or dtype than that of this stream; the stream is as it was.
        OSError
            The file cannot be opened.
        """
        (self.state,) = read_states(path, [self])

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
        if self._try_reset(rows):
            return
        wanted = np.asarray(rows)
        try:
            if wanted.ndim > 1 or (wanted.ndim == 0 and wanted.dtype == bool):
                raise IndexError
            index = wanted if wanted.size else wanted.astype(np.intp)
            chosen = np.atleast_1d(np.arange(self._rows)[index])
        except IndexError:
            raise IndexError(
                f"rows: expected indices or a mask of {self._rows} rows, got {_check.describe(rows)}"
            ) from None
        self._try_reset(chosen)

    def _put(self, parts: State) -> None:
        rows = np.arange(self._rows)
        for k in range(len(self._snapshot)):
            self._engine.put_states(k, rows, tuple(part[k] for part in parts))

    def refresh(self) -> None:
        """Take the present parameters of the layer; the state stays."""
        if self._snapshot[0].options != self._layer.cells[0].options:  # zoneout has been set
            state = self._state()
            self._start(self._layer.cells)
            self._put(state)
            return
        for own, present in zip(self._snapshot, self._layer.cells, strict=True):
            own.copy_in(present)
        self._engine.pack()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what the kernels hold, of which the state is kept."""
        made = ["_engine", "_try_step", "_try_reset"]
        if self._snapshot[0] is self._layer.cells[0]:  # narrow weights, which do not change
            made.append("_snapshot")
        kept = {name: value for name, value in vars(self).items() if name not in made}
        return kept | {"state": self._state()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        state = kept.pop("state")
        self.__dict__.update(kept)
        self._start(kept.get("_snapshot", self._layer.cells))
        self._put(state)


def save_states(path: str | os.PathLike[str], streams: Sequence[Stream]) -> None:
    """Write the states of streams that belong together to one file.

    Parameters
    ----------
    path : str or path-like
    streams : sequence of Stream

    Raises
    ------
    OSError
        The file cannot be written.
    """
    arguments = {"kinds": [stream.kind.name for stream in streams]}
    files.write(path, _FILE_CLASS, arguments, _named_parts(streams), __version__)


def read_states(path: str | os.PathLike[str], streams: Sequence[Stream]) -> list[Any]:
    """Read what `save_states` has written for streams of the same kinds, shapes and dtypes.

    Parameters
    ----------
    path : str or path-like
    streams : sequence of Stream
        They are not changed.

    Returns
    -------
    list
        A state for each.

    Raises
    ------
    FileFormatError
        The file was not written by `save_states`, is damaged, or does not fit the streams.
    OSError
        The file cannot be opened.
    """
    contents = files.read(path)
    contents.expect(_FILE_CLASS)
    with files.as_format_error(contents.path):
        _check.entries("arguments", contents.arguments, ("kinds",), True)
        kinds = [stream.kind.name for stream in streams]
        if contents.arguments["kinds"] != kinds:
            raise ValueError(
                f"kinds: expected {_check.listed(kinds)}, got {_check.describe(contents.arguments['kinds'])}"
            )
        own = _named_parts(streams)
        _check.entries("tensors", contents.shapes, own, True)
        for name, part in own.items():
            shape, dtype = contents.shapes[name], contents.dtypes[name]
            if shape != part.shape or dtype != part.dtype:
                raise ValueError(
                    f"{name}: expected shape {part.shape} and dtype {part.dtype}, got {shape} and {dtype}"
                )
    tensors, states = contents.tensors(), []
    for n, stream in enumerate(streams):
        parts = tuple(tensors[f"{n}.{name}"] for name in stream.kind.states)
        states.append(parts if len(parts) > 1 else parts[0])
    return states


def _named_parts(streams: Sequence[Stream]) -> dict[str, Array]:
    """Return the parts of the states by number and name, such as "0.h"."""
    named: dict[str, Array] = {}
    for n, stream in enumerate(streams):
        parts = stream.state if len(stream.kind.states) > 1 else (stream.state,)
        named |= {f"{n}.{name}": part for name, part in zip(stream.kind.states, parts, strict=True)}
    return named
