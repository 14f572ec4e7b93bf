"""class SequenceLayer: stacked recurrent layers in one or two directions, for every kind of cell.

All checks come first, all results are computed into fresh arrays, and only then does the object change: an
exception leaves it as it was.  One call of a backend computes one layer in one direction over whole
sequences.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _dispatch, _layouts
from ._masks import NOTHING_DRAWN, Drawn, draw
from .cells import Cell, CellTape, Kind, Masks, Options, Schedule, State, new_tape
from .parameters import Argument, Parameters
from .stream import Stream
from .tape import LayerTape, Tape

Array = NDArray[Any]
StateT = TypeVar("StateT")  # a state as users have it: (h, c), or h alone
Empty = Callable[[tuple[int, ...], np.dtype[Any]], Array]
NewTape = Callable[[Cell, Array, Empty, Masks], CellTape]
_HALF_A_BIAS = re.compile(r"bias_(ih|hh)_(l[0-9]+(?:_reverse)?)")
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


class SequenceLayer(Parameters, Generic[StateT]):
    """Base of the layers that map sequences to sequences."""

    _derived = Parameters._derived | {  # noqa: SLF001
        *("_cells", "_draws", "_functions", "_try_run", "_sizes", "_identity", "_tapes", "_last_tape"),
    }
    kind: ClassVar[Kind]
    _cells: tuple[Cell, ...]
    _try_run: Callable[[Any, Any, bool, bool], Any]
    _trace: ClassVar[Callable[..., Any]]  # makes a trace of gates and states by their letters

    input_size = Argument(_at_least_1)
    hidden_size = Argument(_at_least_1)
    num_layers = Argument(_at_least_1)
    bias = Argument(_check.boolean)
    batch_first = Argument(_check.boolean, settable=True)
    dropout = Argument(_check.fraction, settable=True)
    input_dropout = Argument(_check.fraction, settable=True)
    recurrent_dropout = Argument(_check.fraction, settable=True)
    bidirectional = Argument(_check.boolean)
    reverse = Argument(_check.boolean)
    init = Argument(partial(_check.choice, allowed=("glorot", "torch")))
    backend = Argument(partial(_check.choice, allowed=("auto", "numpy")), settable=True, saved=False)
    # Whether the rows of a block are [hidden units; inputs; bias], for `from_params` on the arrays of others.
    hidden_first = Argument(_check.boolean, saved=False, default=False)

    def __init__(self, rng: int | np.random.Generator | None, **arguments: Any) -> None:
        self._set_up(arguments)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                "dropout: expected 0 with num_layers=1, for it acts between layers, "
                f"got {self.dropout}; nothing is dropped",
                stacklevel=3,
            )
        self._begin(_check.generator(rng))
        self._lay_out(np.zeros(self._num_params(), self.dtype))
        self._initialise()

    # -------------------------------------------------------------------------------------------- parameters

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
        """The weights of each layer and direction as the kernels take them, live; the reverse one second."""
        self.look()
        return self._cells

    @property
    def rng(self) -> np.random.Generator:
        """The generator that every dropout and zoneout is drawn from."""
        return self._rng

    @rng.setter
    def rng(self, value: np.random.Generator) -> None:
        _check.instance("rng", value, np.random.Generator)
        self._rng = value

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
        # What runs short calls; cells with options and other directions have nothing that is prepared.
        self._try_run = _decline
        if options is None and not any(self._sizes.directions):
            self._try_run = self.functions.Stream(self._cells, 1, "f", False).try_run
        zoneout = () if options is None else options.zoneout
        self._draws = any((self.dropout, self.input_dropout, self.recurrent_dropout, *zoneout))

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

    def _begin(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def _layer_input_size(self, layer: int) -> int:
        return self.num_directions * self.output_size if layer else self.input_size

    def _num_params(self) -> int:
        D, R, further = self.num_directions, self.output_size, self.num_layers - 1
        rows = self.input_size + R + self.bias + further * (D * R + R + self.bias)
        behind = sum(math.prod(shape) for _, shape in self._extras().values())
        return D * (rows * len(self.kind.gates) * self.hidden_size + self.num_layers * behind)

    def _num_arrays(self) -> int:
        return self.num_layers * self.num_directions * (2 + self.bias + len(self._extras()))

    @classmethod
    def _sizes_of(cls, params: Mapping[str, ArrayLike]) -> dict[str, Any]:
        shapes = [np.shape(params.get(name, ())) for name in ("weight_ih_l0", "weight_hh_l0")]
        if [len(shape) for shape in shapes] != [2, 2]:
            raise ValueError(
                f"params: expected matrices weight_ih_l0 and weight_hh_l0, got {_check.listed(params)}"
            )
        return {
            "input_size": shapes[0][1],
            "hidden_size": shapes[1][1],
            "num_layers": sum(name.startswith("weight_ih_l") and name[11:].isdecimal() for name in params),
            "bias": "bias_l0" in params,
            "bidirectional": "weight_ih_l0_reverse" in params,
        }

    @classmethod
    def _translated(cls, label: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add PyTorch's two biases, and get tensors from wherever they are."""
        translated = {}
        for name, value in given.items():
            match = _HALF_A_BIAS.fullmatch(name) if isinstance(name, str) else None
            if match is None:
                translated[name] = _check.on_cpu(value)
                continue
            half, suffix = match.groups()
            own, first, second = (f"bias_{part}{suffix}" for part in ("", "ih_", "hh_"))
            if own in given or first not in given or second not in given:
                missing = "none" if own in given else own
                raise ValueError(
                    f"{label}: expected {own}, or {first} and {second}, whose sum it is; "
                    f"missing: {missing}; unexpected: {name}"
                )
            if half == "ih":
                # In float64, so that what a layer of float32 gets is rounded once.
                parts = [
                    _check.array(f"{label}[{part!r}]", given[part], np.dtype(float))
                    for part in (first, second)
                ]
                _check.shape(f"{label}[{second!r}]", parts[1], parts[0].shape)
                with np.errstate(invalid="ignore"):  # of infinities, as NaN comes without a warning, too
                    translated[own] = parts[0] + parts[1]
        return translated

    def _cells_of(self, flat: Array) -> tuple[Cell, ...]:
        """Cut a flat array into blocks (I_k + R + 1, GH), rows [inputs; h; bias], and what follows them."""
        R, D = self.output_size, self.num_directions
        width = len(self.kind.gates) * self.hidden_size
        behind = self._extras()
        cells, start = [], 0
        for n in range(self.num_layers * D):
            I_k = self._layer_input_size(n // D)
            rows = I_k + R + self.bias
            block = flat[start : start + rows * width].reshape(rows, width)
            start += block.size
            W_x, W_h = (
                (block[R : R + I_k], block[:R]) if self.hidden_first else (block[:I_k], block[I_k : I_k + R])
            )
            bias = block[-1] if self.bias else np.zeros(width, flat.dtype)
            extras: dict[str, Any] = {}
            for field, (_, shape) in behind.items():
                extras[field] = flat[start : start + math.prod(shape)].reshape(shape)
                start += math.prod(shape)
            cells.append(Cell(self.kind, W_x, W_h, bias, **extras))
        return tuple(cells)

    def _named_views(self, flat: Array) -> dict[str, Array]:
        named = {}
        for n, cell in enumerate(self._cells_of(flat)):
            suffix = f"l{n // self.num_directions}{'_reverse' if n % self.num_directions else ''}"
            named[f"weight_ih_{suffix}"] = cell.W_x.T
            named[f"weight_hh_{suffix}"] = cell.W_h.T
            if self.bias:
                named[f"bias_{suffix}"] = cell.bias
            for field, (name, _) in self._extras().items():
                array = getattr(cell, field)
                named[f"{name}_{suffix}"] = array.T if field == "W_r" else array
        return named

    def _lay_out(self, flat_params: Array, flat_grads: Array | None = None) -> None:
        super()._lay_out(flat_params, flat_grads)
        self._cells = self._cells_of(flat_params)
        self.argument_changed()
        self._identity = object()  # of the storage that a tape belongs to
        self._tapes = threading.local()
        self._last_tape: Tape | None = None

    def _initialise(self) -> None:
        """Draw the weights; biases stay 0 but for "torch"."""
        rng, H, R = self._rng, self.hidden_size, self.output_size
        for cell in self._cells:
            weights = [cell.W_x, cell.W_h, cell.bias] if self.bias else [cell.W_x, cell.W_h]
            if self.init == "torch":
                for part in (*weights, cell.peepholes, cell.W_r):
                    if part is not None:
                        part[...] = rng.uniform(-1.0, 1.0, part.shape) / np.sqrt(H)
            else:
                limit = np.sqrt(6.0 / (len(cell.W_x) + H))
                cell.W_x[...] = rng.uniform(-limit, limit, cell.W_x.shape)
                for gate in self.kind.gates:
                    q, r = np.linalg.qr(rng.standard_normal((H, R)))
                    orthogonal = q * np.sign(np.diag(r))
                    cell.W_h[:, self.kind.block(gate, H)] = orthogonal if R == H else orthogonal.T
                if cell.W_r is not None:
                    limit = np.sqrt(6.0 / (H + R))
                    cell.W_r[...] = rng.uniform(-limit, limit, cell.W_r.shape)
            for gain in (cell.norm_x, cell.norm_h):
                if gain is not None:
                    gain[...] = 1.0
            if cell.norm_c is not None:
                cell.norm_c[0] = 1.0

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

    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> tuple[Array, StateT]:
        """Run whole sequences, apply every dropout and zoneout, and keep what `backward` needs, as `tape`.

        Parameters, returns and errors are those of calling the object.  The tape holds copies: changing `x`
        or `y` in place afterwards does not disturb `backward`, changing the parameters does.
        """
        steps, first, schedule, batched = self._arguments_of_call(x, state, lengths, resets)
        own = _dispatch.empty(steps.shape, self.dtype)
        own[...] = steps
        y, final, tape = self.forward_steps(
            own, tuple(part.copy() for part in first), schedule.copy(), batched, self._sizes.batch_first
        )
        result = np.array(_layouts.as_given(y, self._sizes.batch_first, batched), order="C")
        self._tapes.tape = self._last_tape = tape
        return result, _layouts.state_as_given(final, batched)

    @property
    def tape(self) -> Tape | None:
        """What the last `forward` in this thread, or else in any, has left; None before the first.

        A value: keep it, and hand it to ``backward(..., tape=tape)`` after other forward passes, as often as
        you like, until the parameters change.
        """
        tape: Tape | None = getattr(self._tapes, "tape", self._last_tape)
        return tape

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
                passes.append((cells[n], x_k, _part(first, n), schedules[d], tape, _part(final, n)))
            if empty:
                layers.append(LayerTape(x_k, mask, tuple(tapes)))
            below = y
        run(tuple(passes), D == 1)
        return below, final, tuple(layers)

    def backward(
        self,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        accumulate: bool = False,
        tape: Tape | None = None,
    ) -> tuple[Array, StateT]:
        """Back-propagate through a `forward` and fill `grads`.

        Parameters
        ----------
        dy : array_like of the shape of y, optional
            Derivative of the loss by the output.  What stands on padding is not read.
        dstate : pair of array_like of the shape of the state, optional
            ``(dh_n, dc_n)``, derivatives of the loss by the final state, of which either may be None; for an
            RNN the array ``dh_n``.
        accumulate : bool, default False
            Add to `grads` instead of overwriting them.
        tape : Tape, optional
            Which `forward` to go back through, while the parameters are those that it saw; by default the
            last one.

        Returns
        -------
        dx : ndarray of the shape of x
        (dh_0, dc_0), or dh_0 : ndarrays of the shape of the state

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            An argument has the wrong shape or type, dy and dstate are None, or the tape belongs to another
            layer; the message names it.
        """
        tape = self._tape_of(tape)
        if dy is None and (
            dstate is None or (isinstance(dstate, tuple | list) and all(v is None for v in dstate))
        ):
            raise ValueError("dy, dstate: expected at least one of them, got None for both")
        accumulate = _check.boolean("accumulate", accumulate)
        T, B, _ = tape.shape
        _, R, _, D, _, dtype, _, _ = self._sizes
        d_above = (
            None
            if dy is None
            else _layouts.derivative(dy, (T, B, D * R), dtype, tape.batch_first, tape.batched)
        )
        dfinal = self._state("dstate", "d{}_n", dstate, B, tape.batched, partial=len(self.kind.states) > 1)
        d_below, dfirst = self.backward_steps(tape, d_above, dfinal, accumulate)
        dx = np.ascontiguousarray(_layouts.as_given(d_below, tape.batch_first, tape.batched))
        return dx, _layouts.state_as_given(dfirst, tape.batched)

    # ---------------------------------------------------------------------- the same for models of layers
    #
    # Arrays are time-major and of the layer's dtype, states are their parts; nothing is checked or copied.

    def zero_state(self, B: int) -> State:
        """Return the state of B rows before the first step."""
        return self._state("state", "{}_0", None, B, True)

    def run_steps(self, x: Array, first: State, schedule: Schedule) -> tuple[Array, State]:
        """Call: y (T, B, D R) and the final state."""
        y, final, _ = self._run(x, first, schedule)
        return y, final

    def forward_steps(
        self,
        x: Array,
        first: State,
        schedule: Schedule,
        batched: bool = True,
        batch_first: bool = False,
    ) -> tuple[Array, State, Tape]:
        """Forward: y, the final state and a tape on these very arrays, which must not change."""
        drawn = draw(self, self._rng, schedule, x.shape[:2]) if self._draws else ()
        y, final, layers = self._run(x, first, schedule, drawn, _dispatch.empty)
        options = self._cells[0].options
        return y, final, Tape(self._identity, layers, first, schedule, options, batched, batch_first)

    def backward_steps(
        self,
        tape: Tape,
        dy: Array | None,
        dfinal: State,
        accumulate: bool = False,
        input_gradient: bool = True,
    ) -> tuple[Any, State]:
        """Backward: dx, which costs nothing and is None without `input_gradient`, and dstate."""
        T, B, _ = tape.shape
        _, R, L, D, _, dtype, _, directions = self._sizes
        d_above: Any = np.broadcast_to(np.zeros(D * R, dtype), (T, B, D * R)) if dy is None else dy
        run, cells = self.functions.backward_all, self.cells
        if cells[0].options is not tape.options:
            cells = tuple(cell._replace(options=tape.options) for cell in cells)
        schedules = [tape.schedule._replace(reverse=back) for back in directions]
        fresh = _dispatch.empty(self._flat_grads.shape, dtype)
        dcells = self._cells_of(fresh)
        dfirst = tuple([np.empty_like(part) for part in dfinal])
        passes: list[tuple[Any, ...]] = []  # that have not been walked back
        for k in reversed(range(L)):
            layer = tape.layers[k]
            dx_k = [np.empty_like(layer.x, order="C") if k or input_gradient else None for _ in range(D)]
            for d in range(D):
                n = k * D + d
                passes.append((
                    cells[n], layer.x, _part(tape.state, n), schedules[d], layer.cells[d],
                    d_above[:, :, d * R : (d + 1) * R], _part(dfinal, n), dx_k[d], dcells[n],
                    _part(dfirst, n),
                ))  # fmt: skip
            d_above = dx_k[0]
            if k == 0 or D > 1 or layer.mask is not None:  # what is above must be there as a whole
                run(tuple(passes), D == 1)
                passes = []
                if D > 1 and d_above is not None:
                    d_above += dx_k[1]
                if layer.mask is not None and d_above is not None:
                    d_above = d_above * layer.mask
        self._take_gradients(fresh, accumulate)
        return d_above, dfirst

    def _tape_of(self, given: Tape | None) -> Tape:
        """Return a tape of this layer: the given one, or that of the last forward."""
        tape = self.tape if given is None else given
        if tape is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        _check.instance("tape", tape, Tape)
        if tape.owner is not self._identity:
            raise ValueError(
                "tape: expected one that `forward` of this layer has left, got one of another layer"
            )
        return tape

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
            run(cell, x, _part(before, k), _part(after, k))
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


def _part(state: State, n: int) -> State:
    """Return the state of one layer in one direction."""
    return (state[0][n], state[1][n]) if len(state) == 2 else (state[0][n],)
