"""class Inference: what runs stacked cells over sequences and steps, for whatever their weights are made of.

All checks come first, all results are computed into fresh arrays.  One call of a backend computes one layer
in one direction over whole sequences, or several that can go on beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _dispatch, _layouts
from ._masks import NOTHING_DRAWN, Drawn
from .cells import Cell, CellTape, Kind, Masks, Options, Schedule, State, new_tape
from .parameters import Argument, Arguments
from .stream import Stream
from .tape import LayerTape

Array = NDArray[Any]
StateT = TypeVar("StateT")  # a state as users have it: (h, c), or h alone
Empty = Callable[[tuple[int, ...], np.dtype[Any]], Array]
NewTape = Callable[[Cell, Array, Empty, Masks], CellTape]
_at_least_1 = partial(_check.integer, low=1)


class Sizes(NamedTuple):
    """Numbers that each call needs, read once."""

    I: int  # noqa: E741
    R: int
    L: int
    D: int
    states: tuple[int, ...]  # of each part of the state
    dtype: np.dtype[Any]
    batch_first: bool
    directions: tuple[bool, ...]  # of each cell of a layer, whether it goes from the last step to the first


class Inference(Arguments, Generic[StateT]):
    """Base of what maps sequences to sequences."""

    kind: ClassVar[Kind]
    _cells: tuple[Cell, ...]
    _try_run: Callable[[Any, Any, bool, bool], Any]
    _trace: ClassVar[Callable[..., Any]]  # makes a trace of gates and states by their letters

    input_size = Argument(_at_least_1)
    hidden_size = Argument(_at_least_1)
    num_layers = Argument(_at_least_1)
    bias = Argument(_check.boolean)
    batch_first = Argument(_check.boolean, settable=True)
    bidirectional = Argument(_check.boolean)
    reverse = Argument(_check.boolean)
    backend = Argument(partial(_check.choice, allowed=("auto", "numpy")), settable=True, saved=False)

    @property
    def num_directions(self) -> int:
        """2 when bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Numbers of h in one direction: `hidden_size`, or the size of the projection."""
        return self.hidden_size

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The weights of each layer and direction as the kernels take them; the reverse one second."""
        return self._cells

    @property
    def functions(self) -> _dispatch.Backend:
        """What runs the cells: the kernels or the definition."""
        return self._functions

    def argument_changed(self) -> None:
        """Read anew what each call needs."""
        self._functions = _dispatch.backend(self.backend, self.dtype)
        self._sizes = Sizes(
            self.input_size,
            self.output_size,
            self.num_layers,
            self.num_directions,
            self._cells[0].state_sizes,
            self.dtype,
            self.batch_first,
            (False, True) if self.bidirectional else (self.reverse,),
        )
        options = self._options()
        self._cells = tuple(cell._replace(options=options) for cell in self._cells)
        # What runs short calls; other directions have nothing that is prepared, nor have options of weights
        # that may change.
        self._try_run, fixed = _decline, self._cells[0].narrow is not None
        if (fixed or options is None) and not any(self._sizes.directions):
            self._try_run = self.functions.Stream(self._cells, 1, "f", fixed).try_run

    def _options(self) -> Options | None:
        """Return what the cells have beside their equations, if anything."""
        return None

    def _extras(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return what lies behind the block of a cell: by field, the name of the parameter and the shape.

        The projection W_r is shown transposed, as PyTorch has it.
        """
        return {}

    def _check_together(self) -> None:
        if self.reverse and self.bidirectional:
            raise ValueError("reverse: expected False with bidirectional=True, which has both, got True")

    def _layer_input_size(self, layer: int) -> int:
        return self.num_directions * self.output_size if layer else self.input_size

    def _suffix(self, n: int) -> str:
        """Return what the names of the weights of cell n end with."""
        return f"l{n // self.num_directions}{'_reverse' if n % self.num_directions else ''}"

    # --------------------------------------------------------------------------------------------- arguments

    def _arguments_of_call(
        self, x: ArrayLike, state: Any, lengths: ArrayLike | None, resets: ArrayLike | None
    ) -> tuple[Array, State, Schedule, bool]:
        """Return x (T, B, I), the state, the schedule, and whether there was a batch axis."""
        I, _, _, _, _, dtype, batch_first, _ = self._sizes  # noqa: E741
        steps, batched = _layouts.time_major("x", x, I, dtype, batch_first)
        T, B, _ = steps.shape
        first = self._state("state", "{}_0", state, B, batched)
        begins = None if resets is None else _layouts.resets(resets, (T, B), batch_first, batched)
        return steps, first, Schedule(_check.lengths(lengths, T, B), False, begins), batched

    def _state(
        self, name: str, symbols: str, given: Any, B: int, batched: bool, *, partial: bool = False
    ) -> State:
        _, _, L, D, states, dtype, _, _ = self._sizes
        return _layouts.state_parts(
            name, symbols, given, L * D, B, states, self.kind, dtype, batched, partial=partial
        )

    # -------------------------------------------------------------------------------------------- the passes

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> tuple[Array, StateT]:
        """Run whole sequences without keeping anything; no dropout, and the expectation of zoneout.

        Parameters
        ----------
        x : array_like of shape (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence
        state : pair of array_like of shape (num_layers * num_directions, B, H), optional
            ``(h_0, c_0)``, for an RNN the array ``h_0``; zeros if omitted.  Without the axis B for one
            sequence.  With a projection, h has R = proj_size in the place of H everywhere.
        lengths : array_like of int of shape (B,), optional
            Number of real steps of each row, 0..T, in any order.  What lies beyond is never read.
        resets : array_like of bool of shape (T, B), laid out as `x`, optional
            True where an episode begins: before such a step the state of the row is 0, in every layer, and no
            gradient passes.  The reverse direction begins anew where it enters the episode before.  So no
            output depends on another episode; `state` is used until the first reset.

        Returns
        -------
        y : ndarray of shape (T, B, num_directions * R), laid out as `x`
            Hidden states of the last layer; 0 on padding.
        (h_n, c_n), or h_n : ndarrays of the shape of the state
            State after each row's last step.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type; the message names it.
        """
        if lengths is None and resets is None:
            self.look()
            found: tuple[Array, StateT] | None = self._try_run(x, state, True, self._sizes.batch_first)
            if found is not None:
                return found
        steps, first, schedule, batched = self._arguments_of_call(x, state, lengths, resets)
        y, final, _ = self._run(steps, first, schedule)
        return _layouts.as_given(y, self._sizes.batch_first, batched), _layouts.state_as_given(final, batched)

    def _run(
        self,
        x: Array,
        first: State,
        schedule: Schedule,
        drawn: Sequence[Drawn] = (),
        empty: Empty | None = None,
        new_tape: NewTape = new_tape,
    ) -> tuple[Array, State, tuple[LayerTape, ...]]:
        """Run all layers over x (T, B, I): y, final state and, given what makes its arrays, a tape."""
        T, B, _ = x.shape
        _, R, L, D, _, dtype, _, directions = self._sizes
        run, cells = self.functions.forward_all, self.cells
        final = tuple([np.empty(part.shape, dtype) for part in first])
        schedules = [schedule._replace(reverse=True) if back else schedule for back in directions]
        layers, below = [], x
        passes: list[tuple[Any, ...]] = []  # that have not been run
        for k in range(L):
            mask, masks = drawn[k] if drawn else NOTHING_DRAWN
            if k and (D > 1 or mask is not None):  # what is below must be there as a whole
                run(tuple(passes), D == 1)
                passes = []
            x_k = below if mask is None else below * mask
            y = (empty or np.empty)((T, B, D * R), dtype)
            tapes = []
            for d in range(D):
                n = k * D + d
                tape = CellTape(y if D == 1 else y[:, :, d * R : (d + 1) * R])
                if empty:
                    tape = new_tape(cells[n], tape.y, empty, masks[d])
                    tapes.append(tape)
                passes.append((cells[n], x_k, state_at(first, n), schedules[d], tape, state_at(final, n)))
            if empty:
                layers.append(LayerTape(x_k, mask, tuple(tapes)))
            below = y
        run(tuple(passes), D == 1)
        return below, final, tuple(layers)

    def zero_state(self, B: int) -> State:
        """Return the state of B rows before the first step."""
        return self._state("state", "{}_0", None, B, True)

    def run_steps(self, x: Array, first: State, schedule: Schedule) -> tuple[Array, State]:
        """Call: y (T, B, D R) and the final state."""
        y, final, _ = self._run(x, first, schedule)
        return y, final

    def step(self, x_t: ArrayLike, state: Any = None) -> tuple[Array, StateT]:
        """Run one time step, without dropout, with the expectation of zoneout.

        Parameters
        ----------
        x_t : array_like of shape (B, I), or (I,) for one row
        state : pair of array_like of shape (num_layers, B, H), optional
            ``(h, c)`` before the step, for an RNN the array ``h``; zeros if omitted.  Without the axis B for
            one row.

        Returns
        -------
        h_t : ndarray of shape (B, R) or (R,)
            Hidden state of the last layer.
        (h, c), or h : ndarrays of the shape of the state
            State after the step.

        Raises
        ------
        ValueError, TypeError
            The layer is bidirectional or reverse, or an argument has the wrong shape or type.
        """
        self.look()
        found: tuple[Array, StateT] | None = self._try_run(x_t, state, False, False)
        if found is not None:
            return found
        self._refuse_two_directions("step")
        x, batched = _layouts.one_step("x_t", x_t, self._sizes.I, self._sizes.dtype)
        before = self._state("state", "{}", state, len(x), batched)
        after = tuple([np.empty_like(part) for part in before])
        run = self.functions.step
        for k, cell in enumerate(self.cells):
            run(cell, x, state_at(before, k), state_at(after, k))
            x = after[0][k]
        return (x if batched else x[0]).copy(), _layouts.state_as_given(after, batched)

    def stream(self, batch_size: int | None = None, state: Any = None) -> Stream:
        """Prepare for single time steps: pack the weights once, keep the state inside.

        Parameters
        ----------
        batch_size : int, optional
            Rows of each step; without it a step takes ``(I,)`` and returns ``(H,)``.
        state : pair of array_like of shape (num_layers, B, H), optional
            ``(h, c)`` to begin with, for an RNN the array ``h``; zeros if omitted.  Without the axis B for a
            stream of one row.

        Returns
        -------
        Stream
            A snapshot of the parameters: changing them shows after `Stream.refresh`.

        Raises
        ------
        ValueError, TypeError
            The layer is bidirectional or reverse, or an argument has the wrong shape or type.
        """
        self._refuse_two_directions("stream")
        return Stream(self, batch_size, state)

    def _refuse_two_directions(self, method: str) -> None:
        if any(self._sizes.directions):
            raise ValueError(
                f"{method}: expected a unidirectional {self.kind.name.upper()}; "
                "the reverse direction needs the whole sequence first"
            )

    def trace(
        self,
        x: ArrayLike,
        state: Any = None,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> Any:
        """Run whole sequences and return every gate and state of every step; no dropout.

        Parameters and errors are those of calling the object.

        Returns
        -------
        Trace, or RNNTrace for an RNN
            Arrays of shape (num_layers * num_directions, T, B, H), by their letters.
        """
        steps, first, schedule, batched = self._arguments_of_call(x, state, lengths, resets)
        _, _, layers = self._run(steps, first, schedule, empty=np.zeros, new_tape=_trace_tape)
        tapes = [tape for layer in layers for tape in layer.cells]
        parts = {"h": np.stack([tape.y for tape in tapes])}
        if self.kind.gates != "h":
            gates = np.stack([tape.gates for tape in tapes if tape.gates is not None])
            parts |= zip(self.kind.gates, np.split(gates, len(self.kind.gates), axis=-1), strict=True)
        if "c" in self.kind.states:
            parts["c"] = np.stack([tape.c for tape in tapes if tape.c is not None])
        return self._trace(**{name: part if batched else part[:, :, 0] for name, part in parts.items()})


def _decline(x: Any, state: Any, timed: bool, batch_first: bool) -> Any:  # noqa: ARG001
    """Run nothing, where nothing is prepared."""
    return None


def _trace_tape(cell: Cell, y: Array, empty: Empty, masks: Masks) -> CellTape:
    """Return a tape with arrays for the gates after their activation, whatever the options."""
    return new_tape(cell._replace(options=None), y, empty, masks)


def state_at(state: State, n: int) -> State:
    """Return the state of one layer in one direction."""
    return (state[0][n], state[1][n]) if len(state) == 2 else (state[0][n],)
