"""class LSTM: parameters, state and the calls that users make, on top of one kernel call a layer and direction.

Parameters live in one flat array; every layout that users see is a view of it.  All checks come first
(_check.py), all results are computed into fresh arrays, and only then does the object change: an exception
leaves it as it was.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _check, _dispatch
from ._check import FileFormatError
from ._sequences import ArrayPool, Cell, SequenceLayer, draw_weights
from .stream import Stream

Array = NDArray[Any]
State = tuple[Array, Array]
StateLike = tuple[ArrayLike, ArrayLike]
PartialState = tuple[ArrayLike | None, ArrayLike | None]


# The constructor's arguments that are part of a file.
_SAVED = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "dtype",
    "forget_bias",
    "init",
)


class _Direction(NamedTuple):
    """What one direction of a layer left behind for the backward pass."""

    y: Array  # (T, B, H)
    gates: Array  # (T, B, 4H)
    c: Array  # (T, B, H)


class _Layer(NamedTuple):
    """What one layer left behind."""

    x: Array  # (T, B, I_k), after dropout
    directions: list[_Direction]


class _Tape(NamedTuple):
    """Everything `LSTM.backward` needs of the last `LSTM.forward`."""

    arrays: list[Array]  # all that may be used again when this tape is dropped
    layers: list[_Layer]
    masks: list[Array | None]  # what each layer's input was multiplied by
    h_0: Array
    c_0: Array
    lengths: NDArray[np.intp]
    batched: bool


@dataclass(frozen=True)
class Trace:
    """Gates and states of every step, as `LSTM.trace` returns them.

    Attributes
    ----------
    i, f, g, o : ndarrays of shape (num_layers * num_directions, T, B, H)
        Input gate, forget gate, candidate and output gate, after their activation.
    c, h : ndarrays of the same shape
        Cell and hidden state after the step.

    Time is the second axis also for ``batch_first=True``; for one unbatched sequence the axis B is absent.
    Layer 0 forward, layer 0 reverse, layer 1 forward, ...  The reverse direction is stored at the original
    time index.  Padding is 0.
    """

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


class LSTM(SequenceLayer):
    """Long short-term memory network on the CPU, forward and backward.

    Parameters
    ----------
    input_size, hidden_size : int
        Number of features of the input, number of hidden units of each layer and direction.
    num_layers : int, default 1
        Stacked layers; each further one reads the hidden states of the one below.
    bias : bool, default True
    batch_first : bool, default False
        Sequences are ``(B, T, I)`` instead of ``(T, B, I)``.  States are never batch-first.
    dropout : float in [0, 1), default 0.0
        Probability with which `forward` zeroes each value that goes from one layer to the next.
    bidirectional : bool, default False
        Adds a second direction to each layer; outputs are concatenated, forward first.
    dtype : float64 (default) or float32
        Of parameters, states and outputs.  float32 is about twice as fast.
    rng : None, int or numpy.random.Generator
        Source of the initial weights and of dropout.
    forget_bias : float, optional
        Initial bias of the forget gate.  The default is 1 with ``init="glorot"`` and no change with
        ``init="torch"``.
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
        ``weight_ih_l{k}{suf} (4H, I_k)``, ``weight_hh_l{k}{suf} (4H, H)`` and ``bias_l{k}{suf} (4H,)`` with
        suf = "" or
        "_reverse"; blocks of H rows in the order i, f, g, o.  The arrays are live: change them in place.

    Notes
    -----
    The equations, forward and backward, are in `clstm.reference`.  Calling the object and `step` change
    nothing in it, so any number of threads may do so at once; `forward` and `backward` keep a tape and belong
    to one thread at a time.  The memory of the tape before is kept for the next one, up to 256 MB.

    Examples
    --------
    >>> import clstm, numpy as np
    >>> lstm = clstm.LSTM(3, 5, rng=0)
    >>> x = np.ones((7, 2, 3))
    >>> y, (h_n, c_n) = lstm.forward(x)
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    >>> dx, (dh_0, dc_0) = lstm.backward(np.ones_like(y))
    >>> lstm.grads["weight_hh_l0"].shape
    (20, 5)
    """

    flat_params: Array
    flat_grads: Array
    params: dict[str, Array]
    grads: dict[str, Array]
    _default_backend = "auto"
    _hidden_first = False  # whether the rows of a block are [hidden units; inputs; bias]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        forget_bias: float | None = None,
        init: str = "glorot",
        backend: str = "auto",
    ) -> None:
        self._configure(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            forget_bias,
            init,
            backend,
        )
        self._rng = _check.generator(rng)
        self._lay_out(np.zeros(self._num_params(), self.dtype))
        self._initialise()

    def _configure(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: DTypeLike,
        forget_bias: float | None,
        init: str,
        backend: str,
    ) -> None:
        """Check and keep the constructor's arguments."""
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self.num_layers = _check.integer("num_layers", num_layers, 1)
        self.bias = _check.boolean("bias", bias)
        self.batch_first = _check.boolean("batch_first", batch_first)
        self.dropout = _check.fraction("dropout", dropout)
        self.bidirectional = _check.boolean("bidirectional", bidirectional)
        self.dtype = _check.float_dtype(dtype)
        self.forget_bias = None if forget_bias is None else _check.real("forget_bias", forget_bias)
        self.init = _check.choice("init", init, ("glorot", "torch"))
        self.backend = _check.choice("backend", backend, ("auto", "numpy"))
        if self.forget_bias is not None and not self.bias:
            raise ValueError(f"forget_bias: expected None without a bias, got {self.forget_bias}")

    # -------------------------------------------------------------------------------------------- parameters

    @property
    def num_directions(self) -> int:
        """2 when bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def _layer_input_size(self, layer: int) -> int:
        return self.num_directions * self.hidden_size if layer else self.input_size

    def _num_params(self) -> int:
        D, H, further = self.num_directions, self.hidden_size, self.num_layers - 1
        rows = self.input_size + H + self.bias + further * (D * H + H + self.bias)
        return rows * D * 4 * H

    def _views(self, flat: Array) -> tuple[list[Cell], dict[str, Array]]:
        """Cut a flat array into blocks (I_k + H + 1, 4H), rows [inputs; hidden units; bias], and name their parts."""
        H = self.hidden_size
        cells, named, start = [], {}, 0
        for k in range(self.num_layers):
            I_k = self._layer_input_size(k)
            for suffix in ("", "_reverse")[: self.num_directions]:
                rows = I_k + H + self.bias
                block = flat[start : start + rows * 4 * H].reshape(rows, 4 * H)
                start += block.size
                W_x, W_h = block[:I_k], block[I_k : I_k + H]
                if self._hidden_first:
                    W_h, W_x = block[:H], block[H : H + I_k]
                cell = Cell(W_x, W_h, block[-1] if self.bias else np.zeros(4 * H, flat.dtype))
                cells.append(cell)
                named[f"weight_ih_l{k}{suffix}"] = cell.W_x.T
                named[f"weight_hh_l{k}{suffix}"] = cell.W_h.T
                if self.bias:
                    named[f"bias_l{k}{suffix}"] = cell.bias
        return cells, named

    def _lay_out(self, flat_params: Array, flat_grads: Array | None = None) -> None:
        """Take flat arrays as parameters and gradients and make every view of them; there is no tape yet."""
        self.flat_params = flat_params
        self.flat_grads = np.zeros_like(flat_params) if flat_grads is None else flat_grads
        self._tape: _Tape | None = None
        self._pool = ArrayPool()
        self._fresh: Array | None = None  # where a backward pass computes gradients, until all are there
        self._cells, self.params = self._views(self.flat_params)
        _, self.grads = self._views(self.flat_grads)
        self._functions = _dispatch.backend(self.backend, self.dtype)

    def _initialise(self) -> None:
        H = self.hidden_size
        forget_bias = 1.0 if self.forget_bias is None and self.init == "glorot" else self.forget_bias
        for cell in self._cells:
            draw_weights(cell, self.init, self._rng, self.bias)
            if self.bias and forget_bias is not None:
                cell.bias[H : 2 * H] = forget_bias

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and constructor arguments to a safetensors file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            Replaced if it exists, after the new content has reached the disk.
        """
        arguments = {name: getattr(self, name) for name in _SAVED} | {"dtype": self.dtype.name}
        content = safetensors.numpy.save(self.state_dict(), metadata={"clstm": json.dumps(arguments)})
        _write_atomically(os.fsdecode(path), content)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str | None = None) -> Self:
        """Read what `save` has written.

        Parameters
        ----------
        path : str or path-like
        backend : {"auto", "numpy"}, optional
            As in the constructor; it is not part of the file.

        Raises
        ------
        FileFormatError
            The file is no safetensors file, was not written by `save`, or its tensors do not fit its
            arguments.
        OSError
            The file cannot be opened.
        """
        path = os.fsdecode(path)
        with open(
            path, "rb"
        ):  # a file that cannot be opened is an OSError, told apart from an ill-formed one
            pass
        try:
            with safetensors.safe_open(path, framework="numpy") as archive:
                metadata = archive.metadata() or {}
                tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
            raise FileFormatError(path, f"not a safetensors file that NumPy can read ({error})") from error
        if "clstm" not in metadata:
            raise FileFormatError(
                path, "a safetensors file, but without the constructor's arguments under 'clstm'"
            )
        lstm = cls.__new__(cls)
        try:
            arguments = json.loads(metadata["clstm"])
            _check.entries("arguments", arguments, _SAVED, True)
            lstm._configure(**arguments, backend=cls._default_backend if backend is None else backend)
            found = sum(value.size for value in tensors.values())
            if lstm._num_params() != found:  # before anything of the declared size is allocated
                raise ValueError(
                    f"its arguments ask for {lstm._num_params()} parameters, its tensors hold {found}"
                )
            lstm._rng = np.random.default_rng()
            lstm._lay_out(np.zeros(found, lstm.dtype))
            for name, value in tensors.items():
                if value.dtype != lstm.dtype:
                    raise TypeError(f"{name}: expected dtype {lstm.dtype}, got {value.dtype}")
            lstm.load_state_dict(tensors)
        except (TypeError, ValueError, RecursionError) as error:
            raise FileFormatError(path, str(error)) from error
        return lstm

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the views, which `__setstate__` makes anew, and the tape."""
        derived = ("_cells", "params", "grads", "_functions", "_tape", "_pool", "_fresh")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lay_out(self.flat_params, self.flat_grads)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in _SAVED[2:] if name != "dtype")
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}, {arguments}, dtype={self.dtype.name!r})"

    # --------------------------------------------------------------------------------------------- arguments

    def _state(
        self, names: str, state: PartialState | None, B: int, batched: bool, *, copy: bool = False
    ) -> State:
        """Return a state argument as two contiguous (num_layers * num_directions, B, H); None means zeros.

        Only of the derivative by a state may one half alone be None.
        """
        LD, H = self.num_layers * self.num_directions, self.hidden_size
        if state is None:
            return np.zeros((LD, B, H), self.dtype), np.zeros((LD, B, H), self.dtype)
        label, parts = names.split(" ", 1)
        h, c = (
            np.zeros((LD, B, H), self.dtype)
            if value is None and label == "dstate"
            else _check.shaped(
                f"{label}[{n}]", value, self.dtype, (LD, B, H) if batched else (LD, H)
            ).reshape(LD, B, H)
            for n, value in enumerate(_check.pair(label, state, parts))
        )
        return (h.copy(), c.copy()) if copy else (np.ascontiguousarray(h), np.ascontiguousarray(c))

    # -------------------------------------------------------------------------------------------- the passes

    def __call__(
        self, x: ArrayLike, state: StateLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Run whole sequences without keeping anything; no dropout.

        Parameters
        ----------
        x : array_like of shape (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence
        state : pair of array_like of shape (num_layers * num_directions, B, H), optional
            ``(h_0, c_0)``, zeros if omitted.  Without the axis B for one sequence.
        lengths : array_like of int of shape (B,), optional
            Number of real steps of each row, 0..T, in any order.  What lies beyond is never read.

        Returns
        -------
        y : ndarray of shape (T, B, num_directions * H), laid out as `x`
            Hidden states of the last layer; 0 on padding.
        (h_n, c_n) : ndarrays of the shape of the state
            State after each row's last step.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type; the message names it.
        """
        x_, batched = self._sequence("x", x, self.input_size)
        T, B, _ = x_.shape
        h_0, c_0 = self._state("state (h_0, c_0)", state, B, batched)
        y, h_n, c_n, _ = self._run(x_, h_0, c_0, _check.lengths(lengths, T, B))
        return self._public(y, batched), _unbatch(h_n, c_n, batched)

    def forward(
        self, x: ArrayLike, state: StateLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Run whole sequences, apply dropout, and keep what `backward` needs.

        Parameters, returns and errors are those of calling the object.  The tape holds copies: changing `x`
        or `y` in place afterwards does not disturb `backward`, changing the parameters does.
        """
        x_, batched = self._sequence("x", x, self.input_size)
        T, B, _ = x_.shape
        h_0, c_0 = self._state("state (h_0, c_0)", state, B, batched, copy=True)
        lengths_ = _check.lengths(lengths, T, B).copy()
        masks = [self._dropout_mask(T, B) if k else None for k in range(self.num_layers)]
        arrays: list[Array] = []

        def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
            arrays.append(self._pool.empty(shape, dtype))
            return arrays[-1]

        own_x = empty(x_.shape, self.dtype)
        own_x[...] = x_
        y, h_n, c_n, layers = self._run(own_x, h_0, c_0, lengths_, masks, empty)
        result = np.array(self._public(y, batched), order="C")
        self._pool.replace(self._tape.arrays if self._tape else [])
        self._tape = _Tape(arrays, layers, masks, h_0, c_0, lengths_, batched)
        return result, _unbatch(h_n, c_n, batched)

    def _dropout_mask(self, T: int, B: int) -> Array | None:
        """Draw 0 with probability `dropout`, else what keeps the mean."""
        if self.dropout == 0.0:
            return None
        kept = self._rng.random((T, B, self.num_directions * self.hidden_size)) >= self.dropout
        mask: Array = kept.astype(self.dtype) / self.dtype.type(1.0 - self.dropout)
        return mask

    def _run(
        self,
        x: Array,
        h_0: Array,
        c_0: Array,
        lengths: NDArray[np.intp],
        masks: Sequence[Array | None] = (),
        tape_array: Callable[[tuple[int, ...], np.dtype[Any]], Array] | None = None,
    ) -> tuple[Array, Array, Array, list[_Layer]]:
        """Run all layers over x (T, B, I); given what makes the arrays of a tape, the last result is the tape."""
        T, B, _ = x.shape
        H, D = self.hidden_size, self.num_directions
        h_n, c_n = np.empty_like(h_0), np.empty_like(c_0)
        layers, below = [], x
        for k in range(self.num_layers):
            mask = masks[k] if masks else None
            x_k = below if mask is None else below * mask
            y = (tape_array or np.empty)((T, B, D * H), self.dtype)
            directions = []
            for d in range(D):
                n = k * D + d
                y_d, gates, c = y[:, :, d * H : (d + 1) * H], None, None
                if tape_array:
                    gates, c = tape_array((T, B, 4 * H), self.dtype), tape_array((T, B, H), self.dtype)
                    directions.append(_Direction(y_d, gates, c))
                self._functions.forward(
                    x_k, *self._cells[n], h_0[n], c_0[n], lengths, d == 1, y_d, gates, c, h_n[n], c_n[n]
                )
            layers.append(_Layer(x_k, directions))
            below = y
        return below, h_n, c_n, layers

    def backward(
        self, dy: ArrayLike | None = None, dstate: PartialState | None = None, accumulate: bool = False
    ) -> tuple[Array, State]:
        """Back-propagate through the last `forward` and fill `grads`.

        Parameters
        ----------
        dy : array_like of the shape of y, optional
            Derivative of the loss by the output.  What stands on padding is not read.
        dstate : pair of array_like of the shape of the state, optional
            ``(dh_n, dc_n)``, derivatives of the loss by the final state; either may be None.
        accumulate : bool, default False
            Add to `grads` instead of overwriting them.

        Returns
        -------
        dx : ndarray of the shape of x
        (dh_0, dc_0) : ndarrays of the shape of the state

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            An argument has the wrong shape or type, or all are None; the message names it.
        """
        tape = self._tape
        if tape is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        if dy is None and (dstate is None or all(value is None for value in dstate)):
            raise ValueError("dy, dstate: expected at least one of them, got None for both")
        accumulate = _check.boolean("accumulate", accumulate)
        T, B, _ = tape.layers[0].x.shape
        H, D = self.hidden_size, self.num_directions
        d_above = self._output_derivative(dy, (T, B, D * H), tape.batched)
        dh_n, dc_n = self._state("dstate (dh_n, dc_n)", dstate, B, tape.batched)

        if self._fresh is None:
            self._fresh = np.empty_like(self.flat_grads)
        cells, _ = self._views(self._fresh)
        dh_0, dc_0 = np.empty_like(dh_n), np.empty_like(dc_n)
        for k in reversed(range(self.num_layers)):
            x_k, directions = tape.layers[k]
            dx_k = np.empty_like(x_k, order="C")
            for d in range(D):
                n = k * D + d
                dx_d = np.empty_like(dx_k) if d else dx_k
                y_d, gates, c = directions[d]
                W_x, W_h, _ = self._cells[n]
                self._functions.backward(
                    d_above[:, :, d * H : (d + 1) * H], dh_n[n], dc_n[n],
                    x_k, W_x, W_h, tape.h_0[n], tape.c_0[n], tape.lengths, d == 1, y_d, gates, c,
                    dx_d, *cells[n], dh_0[n], dc_0[n],
                )  # fmt: skip
                if d:
                    dx_k += dx_d
            mask = tape.masks[k]
            d_above = dx_k if mask is None else dx_k * mask

        if accumulate:
            self.flat_grads += self._fresh
        else:
            self.flat_grads[...] = self._fresh
        return np.ascontiguousarray(self._public(d_above, tape.batched)), _unbatch(dh_0, dc_0, tape.batched)

    def step(self, x_t: ArrayLike, state: StateLike | None = None) -> tuple[Array, State]:
        """Run one time step, without dropout.

        Parameters
        ----------
        x_t : array_like of shape (B, I), or (I,) for one row
        state : pair of array_like of shape (num_layers, B, H), optional
            ``(h, c)`` before the step, zeros if omitted.  Without the axis B for one row.

        Returns
        -------
        h_t : ndarray of shape (B, H) or (H,)
            Hidden state of the last layer.
        (h, c) : ndarrays of the shape of the state
            State after the step.

        Raises
        ------
        ValueError, TypeError
            The layer is bidirectional, or an argument has the wrong shape or type.
        """
        if self.bidirectional:
            raise ValueError(
                "step: expected a unidirectional LSTM; the reverse direction needs the whole sequence first"
            )
        x, batched = self._time_step(x_t)
        h_prev, c_prev = self._state("state (h, c)", state, len(x), batched)
        h, c = np.empty_like(h_prev), np.empty_like(c_prev)
        for k, cell in enumerate(self._cells):
            self._functions.step(x, *cell, h_prev[k], c_prev[k], h[k], c[k])
            x = h[k]
        return (x if batched else x[0]).copy(), _unbatch(h, c, batched)

    def stream(self, batch_size: int | None = None, state: StateLike | None = None) -> Stream:
        """Prepare for single time steps: pack the weights once, keep the state inside.

        Parameters
        ----------
        batch_size : int, optional
            Rows of each step; without it a step takes ``(I,)`` and returns ``(H,)``.
        state : pair of array_like of shape (num_layers, B, H), optional
            ``(h, c)`` to begin with, zeros if omitted.  Without the axis B for a stream of one row.

        Returns
        -------
        Stream
            A snapshot of the parameters: changing them shows after `Stream.refresh`.

        Raises
        ------
        ValueError, TypeError
            The layer is bidirectional, or an argument has the wrong shape or type.
        """
        return Stream(self, batch_size, state)

    def trace(self, x: ArrayLike, state: StateLike | None = None, lengths: ArrayLike | None = None) -> Trace:
        """Run whole sequences and return every gate and state of every step; no dropout.

        Parameters and errors are those of calling the object.

        Returns
        -------
        Trace
            Arrays ``i f g o c h`` of shape (num_layers * num_directions, T, B, H).
        """
        x_, batched = self._sequence("x", x, self.input_size)
        T, B, _ = x_.shape
        h_0, c_0 = self._state("state (h_0, c_0)", state, B, batched)
        layers = self._run(x_, h_0, c_0, _check.lengths(lengths, T, B), tape_array=np.zeros)[3]
        tapes = [direction for layer in layers for direction in layer.directions]
        gates = np.stack([tape.gates for tape in tapes])
        parts = [
            *np.split(gates, 4, axis=-1),
            np.stack([tape.c for tape in tapes]),
            np.stack([tape.y for tape in tapes]),
        ]
        return Trace(*(part if batched else part[:, :, 0] for part in parts))


class ReferenceLSTM(LSTM):
    """`clstm.LSTM` with ``backend="numpy"`` fixed: the same class on the definition in `clstm.reference`.

    Takes the constructor arguments of `clstm.LSTM` except `backend`.
    """

    _default_backend = "numpy"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, backend=self._default_backend)


def _unbatch(h: Array, c: Array, batched: bool) -> State:
    """Drop the batch axis of a state where the user gave none."""
    return (h, c) if batched else (h[:, 0], c[:, 0])


def _write_atomically(path: str, content: bytes) -> None:
    """Replace a file by new content, or leave it as it was."""
    folder = os.path.dirname(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path), suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # what open() would have given it; mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if os.name == "posix":  # the new name itself must reach the disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
