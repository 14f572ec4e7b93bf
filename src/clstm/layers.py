"""class SequenceLayer: stacked recurrent layers in one or two directions that learn, for every kind of cell.

What runs the cells is in inference.py; here they have parameters, gradients and tapes.  All checks come
first, all results are computed into fresh arrays, and only then does the object change: an exception leaves
it as it was.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _dispatch, _layouts
from ._masks import draw
from .cells import Cell, Schedule, State
from .inference import Inference, StateT, state_at
from .parameters import Argument, Parameters
from .tape import Tape

Array = NDArray[Any]
_HALF_A_BIAS = re.compile(r"bias_(ih|hh)_(l[0-9]+(?:_reverse)?)")


class SequenceLayer(Inference[StateT], Parameters):
    """Base of the layers that map sequences to sequences, and learn."""

    _derived = Parameters._derived | {  # noqa: SLF001
        *("_cells", "_draws", "_functions", "_try_run", "_sizes", "_identity", "_tapes", "_last_tape"),
    }
    dropout = Argument(_check.fraction, settable=True)
    input_dropout = Argument(_check.fraction, settable=True)
    recurrent_dropout = Argument(_check.fraction, settable=True)
    init = Argument(partial(_check.choice, allowed=("glorot", "torch")))
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

    def argument_changed(self) -> None:
        """Read anew what each call needs."""
        super().argument_changed()
        options = self._cells[0].options
        zoneout = () if options is None else options.zoneout
        self._draws = any((self.dropout, self.input_dropout, self.recurrent_dropout, *zoneout))

    def _begin(self, rng: np.random.Generator) -> None:
        self._rng = rng

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
            suffix = self._suffix(n)
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
                    cells[n], layer.x, state_at(tape.state, n), schedules[d], layer.cells[d],
                    d_above[:, :, d * R : (d + 1) * R], state_at(dfinal, n), dx_k[d], dcells[n],
                    state_at(dfirst, n),
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
