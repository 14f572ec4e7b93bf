"""What the twins share: parameters under their own names, initial weights, single steps, sequences and back.

A class declares its gates, the order of [h; x], its scale and its read-out; all numbers are computed by the
`LSTM` underneath. Arrays of the twins are columns ``(n, B)``, those of the core are rows ``(B, n)``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check, _dispatch
from ..lstm import LSTM, Trace
from ..tape import Tape

Array = NDArray[Any]

FLOAT64 = np.dtype(np.float64)


def new_core(input_size: int, hidden_size: int, hidden_first: bool) -> LSTM:
    """Make an LSTM whose parameters are all 0."""
    flat = np.zeros((input_size + hidden_size + 1) * 4 * hidden_size)
    return LSTM.from_params(flat, input_size=input_size, hidden_size=hidden_size, hidden_first=hidden_first)


def block_of(core: LSTM, flat: Array) -> Array:
    """Return the block (D + H + 1, 4H) that a flat array of the core holds."""
    return flat.reshape(-1, 4 * core.hidden_size)


def gate_view(block: Array, gate: str, bias: bool) -> Array:
    """Return the weight (H, D + H) or the bias (H, 1) of a gate as a view of a block."""
    columns = block[:, LSTM.kind.block(gate, block.shape[1] // 4)]
    return (columns[-1:] if bias else columns[:-1]).T


class Storage(NamedTuple):
    """All parameters of a twin, or all gradients."""

    block: Array  # (D + H + 1, 4H)
    W_y: Array  # (O, H)
    b_y: Array  # (O, 1)


class Parameter:
    """A weight or a bias as an attribute: reads as a view of the storage, copies into it when assigned."""

    def __init__(self, part: str, bias: bool) -> None:
        self.part = part
        self.bias = bias

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def view(self, storage: Storage) -> Array:
        """Return the view of this parameter, or of its gradient."""
        if self.part == "y":
            return storage.b_y if self.bias else storage.W_y
        return gate_view(storage.block, self.part, self.bias)

    @overload
    def __get__(self, twin: None, owner: type) -> Self: ...
    @overload
    def __get__(self, twin: Twin, owner: type) -> Array: ...
    def __get__(self, twin: Twin | None, owner: type) -> Self | Array:
        return self if twin is None else self.view(twin._storage())

    def __set__(self, twin: Twin, value: ArrayLike) -> None:
        view = self.view(twin._storage())
        view[...] = _check.shaped(self.name, value, FLOAT64, view.shape)


def parameters(part: str) -> tuple[Parameter, Parameter]:
    """Declare weight and bias of a gate "i", "f", "g", "o", or of the read-out "y"."""
    return Parameter(part, False), Parameter(part, True)


class Record(NamedTuple):
    """What a forward pass left behind, in rows; its methods copy it out in columns."""

    x: Array  # (T, B, D)
    cell: Any  # a CellTape: y, c (T, B, H), gates (T, B, 4H)
    h_0: Array  # (1, B, H)
    c_0: Array  # (1, B, H)
    hidden_first: bool

    def gate(self, gate: str) -> Array:
        """Return the activations (T, H, B) of one gate."""
        return _as_columns(self.cell.gates[:, :, LSTM.kind.block(gate, self.h_0.shape[2])])

    def h(self) -> Array:
        """Return the hidden states (T + 1, H, B), the initial one first."""
        return _as_columns(np.concatenate([self.h_0, self.cell.y]))

    def c(self) -> Array:
        """Return the cells (T + 1, H, B), the initial one first."""
        return _as_columns(np.concatenate([self.c_0, self.cell.c]))

    def z(self) -> Array:
        """Return what the gate weights were multiplied with, (T, D + H, B)."""
        h_prev = np.concatenate([self.h_0, self.cell.y[:-1]])
        return _as_columns(
            np.concatenate([h_prev, self.x] if self.hidden_first else [self.x, h_prev], axis=2)
        )


def _as_columns(rows: Array) -> Array:
    """Copy (T, B, n) to (T, n, B)."""
    return np.array(rows.swapaxes(1, 2), order="C")


class Recorded:
    """An attribute read from the last forward pass when it is first asked for; later weights do not show."""

    def __init__(self, read: Callable[[Record], Any]) -> None:
        self.read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, twin: Twin | None, owner: type) -> Any:
        if twin is None:
            return self
        if twin._tape is None:
            raise AttributeError(f"{self.name}: expected a call of forward before it, got none")
        value = twin.__dict__[self.name] = self.read(
            twin._record()
        )  # found before this descriptor from now on
        return value


def recorded_gates(gates: str) -> list[Recorded]:
    """Declare the activations of some gates, by their letters."""
    return [Recorded(partial(Record.gate, gate=gate)) for gate in gates]


class Twin:
    """Base of the twins.  A subclass declares its parameters in the order in which they are drawn.

    It keeps the tape of its last forward pass: what a user does with the core leaves that alone.
    """

    _hidden_first: ClassVar[bool]
    _scale: ClassVar[float] = 1.0
    _draws_biases: ClassVar[bool] = False
    _step_names: ClassVar[tuple[str, str, str]] = ("x", "h_prev", "c_prev")
    _parameters: ClassVar[dict[str, Parameter]] = {}
    _lazy: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = vars(cls).items()
        cls._parameters = cls._parameters | {
            name: value for name, value in own if isinstance(value, Parameter)
        }
        cls._lazy = (*cls._lazy, *(name for name, value in own if isinstance(value, Recorded)))

    def _begin(self, core: LSTM, output_size: int = 0) -> None:
        """Stand on a core, make the read-out and draw the parameters that the class declares."""
        self._core = core
        self._attach()
        self._W_y, self._b_y = np.zeros((output_size, core.hidden_size)), np.zeros((output_size, 1))
        for parameter in self._parameters.values():
            if not parameter.bias or self._draws_biases:
                view = parameter.view(self._storage())
                view[...] = self._draw(view.shape)

    def _attach(self) -> None:
        """Make what runs on the arrays of the core."""
        self._tape: Tape | None = None
        self._functions = _dispatch.backend("auto", FLOAT64)
        # Runs a step over single float64 columns; None for whatever else comes.
        self._try_step = self._functions.Stream(self._core.cells, 1, "f", False).try_columns

    def _draw(self, shape: tuple[int, ...]) -> Array:
        return np.random.randn(*shape) * self._scale  # noqa: NPY002  # the generator that the original class draws from

    def _storage(self) -> Storage:
        return Storage(block_of(self._core, self._core.flat_params), self._W_y, self._b_y)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the tape and what is read from it."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_tape", "_functions", "_try_step", *self._lazy)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()

    @property
    def core(self) -> LSTM:
        """The `clstm.LSTM` underneath, on the same arrays: what changes here changes there."""
        return self._core

    def trace(self, x: ArrayLike) -> Trace:
        """Run a whole sequence from a zero state and return every gate and state of every step.

        Parameters
        ----------
        x : the sequence, as the class takes it

        Returns
        -------
        clstm.Trace
            Arrays ``i f g o c h`` of shape (1, T, B, H), as `clstm.plot` draws them; B is 1 for one sequence.
        """
        trace: Trace = self._core.trace(self._rows("x", x))
        return trace

    def _rows(self, name: str, value: ArrayLike) -> Array:
        """Return a sequence of columns as (T, B, D)."""
        return sequence(name, value, ("T", self._core.input_size, "B"))

    # -------------------------------------------------------------------------------------------- the passes

    def _step(self, x: Any, h_prev: Any, c_prev: Any) -> tuple[Array, Array]:
        """Check and convert what `_try_step` does not take, and run one time step over columns (D, B).

        The state comes back as two columns (H, B).
        """
        x_t, *state = self._step_rows(x, h_prev, c_prev)
        _, (h, c) = self._core.step(x_t, (state[0][None], state[1][None]))
        return h[0].T, c[0].T

    def _step_rows(self, x: Any, h_prev: Any, c_prev: Any) -> tuple[Array, Array, Array]:
        """Check the columns (D, B), (H, B), (H, B) of a time step and return them as rows."""
        core, names = self._core, self._step_names
        x_t = columns(names[0], x, core.input_size)
        h, c = (
            columns(name, v, core.hidden_size, len(x_t))
            for name, v in zip(names[1:], (h_prev, c_prev), strict=True)
        )
        return x_t, h, c

    def _forward(
        self, rows: Array, state: tuple[Array, Array] | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        """Run a sequence (T, B, D), keep the tape, and forget what was read from the one before."""
        result = self._core.forward(rows, state)
        self._tape = self._core.tape
        for name in self._lazy:
            self.__dict__.pop(name, None)
        return result

    def _record(self) -> Record:
        """Return what the last forward pass left behind."""
        tape = self._last_tape()
        ((layer,), (h_0, c_0)) = tape.layers, tape.state
        (left,) = layer.cells
        return Record(layer.x, left, h_0, c_0, self._hidden_first)

    def _last_tape(self) -> Tape:
        if self._tape is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        return self._tape

    def _backward(self, dy: Array | None = None, dh_n: Array | None = None) -> None:
        """Walk the last forward pass back from dy (T, B, H) or dh_n (B, H), into the core's gradients.

        No twin hands out a gradient by x, so none is computed.
        """
        tape = self._last_tape()
        dh, dc = self._core.zero_state(tape.shape[1])
        dy = None if dy is None else np.ascontiguousarray(dy)
        dfinal = (dh if dh_n is None else dh_n[None], dc)
        self._core.backward_steps(tape, dy, dfinal, input_gradient=False)

    def _read_out(self, h: Array) -> Array:
        """Map hidden states (..., H) to outputs (..., O)."""
        y: Array = h @ self._W_y.T + self._b_y.T
        return y

    def _gradients(self, *readout: Array) -> Storage:
        """Join the gradients of the core with those of the read-out, if there is one."""
        W_y, b_y = readout or (self._W_y, self._b_y)  # these are empty then
        return Storage(block_of(self._core, self._core.flat_grads), W_y, b_y)

    def named(self, gradients: Storage) -> dict[str, Array]:
        """Copy gradients out under the names of the parameters."""
        return {
            name: np.array(parameter.view(gradients), order="C")
            for name, parameter in self._parameters.items()
        }

    def _descend(self, gradients: Storage, lr: float, limit: float = np.inf) -> None:
        """Take a step of gradient descent in place, with every gradient clipped to [-limit, limit]."""
        for values, gradient in zip(self._storage(), gradients, strict=True):
            step = np.clip(gradient, -limit, limit)
            step *= lr
            values -= step


def columns(name: str, value: ArrayLike, features: int, B: int | str = "B") -> Array:
    """Return columns (features, B) as contiguous rows (B, features)."""
    return np.ascontiguousarray(_check.shaped(name, value, FLOAT64, (features, B)).T)


def sequence(name: str, value: ArrayLike, shape: tuple[int | str, ...], least: int = 1) -> Array:
    """Return a sequence of columns (T, n, B), or of vectors (T, n), as (T, B, n)."""
    given = _check.shaped(name, value, FLOAT64, shape)
    if len(given) < least:
        raise ValueError(f"{name}: expected at least {least} time step{'s' * (least > 1)}, got {len(given)}")
    return given[:, None] if given.ndim == 2 else given.swapaxes(1, 2)
