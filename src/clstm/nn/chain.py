"""class Chain: layers one after the other with a read-out, time-major and unchecked; what a model stands on.

Inside everything is (T, B, F).  A pass is one loop over the layers; what runs over time gets lengths and, in
pieces of a sequence, the state that the piece before has left.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check, _layouts, _load
from ..cells import Schedule, State
from ..layers import SequenceLayer
from ..parameters import Saved, under
from ..tape import Tape
from .batches import Rows, Sequences, sequences_of, validity
from .layer import Layer, check_layers, named_params, runs_over_time, sizes_of_all

Array = NDArray[Any]
States = tuple[State | None, ...]  # of each layer; None for those without


@dataclass(eq=False)
class Pass:
    """What a walk through the layers for training leaves for the way back."""

    x_shape: tuple[int, ...]
    lengths: Rows
    batched: bool
    batch_first: bool
    valid: NDArray[np.bool_] | None = None
    tapes: list[Tape | None] = field(default_factory=list)  # of each layer
    read: tuple[int, ...] = ()  # shape (T, B, F) that was read out


class Chain(Saved):
    """Base of `SequenceModel`."""

    def __init__(self, layers: Iterable[Layer], readout: str = "last") -> None:
        given = check_layers(layers)
        self._layers = tuple(given)
        self._readout = _check.choice("readout", readout, ("last", "each", "mean"))
        self._timed = tuple(map(runs_over_time, given))
        self._read_after = max(n for n, timed in enumerate(self._timed) if timed)
        # Who copies x unless told that it will not change.
        self._copying = tuple("copy" in inspect.signature(layer.forward).parameters for layer in given)
        self.dtype = next((layer.dtype for layer in given if hasattr(layer, "dtype")), np.dtype(float))
        self.takes_indices = bool(getattr(given[0], "takes_indices", False))
        first, self.output_size = sizes_of_all(given)
        self.input_size = None if self.takes_indices else first
        self._pass: Pass | None = None

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, in order."""
        return self._layers

    @property
    def readout(self) -> str:
        """What is read out of the last layer that runs over time."""
        return self._readout

    @property
    def batch_first(self) -> bool:
        """Whether the first axis of x is that of the sequences, as the recurrent layers have it."""
        return any(layer.batch_first for layer in self._layers if isinstance(layer, SequenceLayer))

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(map(repr, self._layers))}], readout={self._readout!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but what the last `forward` has left."""
        return self.__dict__ | {"_pass": None}

    # ------------------------------------------------------------------------------------------------ files

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters; names begin with the number of the layer, as in "0.bias_l0"."""
        return {
            f"{n}.{name}": value
            for n, layer in enumerate(self._layers)
            for name, value in named_params(layer).items()
        }

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike]) -> None:
        """Copy parameters in from a mapping of names to arrays; either all are taken or none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            As `state_dict` returns it.

        Raises
        ------
        ValueError, TypeError
            A name is missing or unexpected, or an entry has another shape or no real numbers.
        """
        own = self.state_dict()
        _check.entries("state_dict", state_dict, own, True)
        for name, value in own.items():
            _check.shaped(f"state_dict[{name!r}]", state_dict[name], value.dtype, value.shape)
        for n, layer in enumerate(self._layers):
            named = under(f"{n}.", state_dict)
            if hasattr(layer, "load_state_dict"):
                layer.load_state_dict(named)
            elif named:
                layer.flat_params[...] = named["flat_params"]

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return arguments and arrays of all layers; names begin with the number of the layer."""
        parts: list[dict[str, Any]] = []
        tensors: dict[str, Array] = {}
        for n, layer in enumerate(self._layers):
            if not hasattr(layer, "file_content"):
                raise TypeError(
                    f"layers[{n}]: expected a layer that can be saved (clstm.parameters.Saved), "
                    f"got {type(layer).__name__}"
                )
            arguments, named = layer.file_content()
            parts.append({"class": layer.file_class, "arguments": arguments})
            tensors |= {f"{n}.{name}": value for name, value in named.items()}
        return {"readout": self._readout, "layers": parts}, tensors

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Check the arguments of `load` that are not part of a file."""
        for name in options:
            if name not in ("backend", "classes"):
                raise TypeError(
                    f"{cls.__name__}.load: expected of its arguments only backend, classes, got {name}"
                )

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,
    ) -> Self:
        """Make a model of what a file holds.

        `options` are `backend`, for all recurrent layers, and `classes`, a list of the classes of layers that
        are not this package's.
        """
        _check.entries("arguments", arguments, ("readout", "layers"), True)
        _check.instance("layers", arguments["layers"], list)
        own = {layer.file_class: layer for layer in options.get("classes", ())}
        prefixes = tuple(f"{n}." for n in range(len(arguments["layers"])))
        stray = [name for name in shapes if not name.startswith(prefixes)]
        if stray:
            raise ValueError(
                f"tensors: expected names that begin with the number of a layer, got {_check.listed(stray)}"
            )
        made = []
        whole = cache(read)
        for n, part in enumerate(arguments["layers"]):
            _check.entries(f"layers[{n}]", part, ("class", "arguments"), True)
            _check.instance(f"layers[{n}] arguments", part["arguments"], dict)
            name = part["class"]
            found = own.get(name) if isinstance(name, str) else None
            kind = found or _load.class_of(name)
            given = {"backend": options["backend"]} if "backend" in options and not found else {}
            try:
                kind.check_options(given)
            except TypeError:  # it has no backend
                given = {}
            prefix = prefixes[n]
            made.append(
                kind.from_file(
                    part["arguments"], under(prefix, shapes), lambda p=prefix: under(p, whole()), **given
                )
            )
        return cls(made, arguments["readout"])

    # ------------------------------------------------------------------------------------------- the passes

    def convert(self, name: str, value: Any) -> Array:
        """Return x, or one sequence of it, as an array of what the first layer takes."""
        if self.takes_indices:
            return _check.whole_numbers(name, value).astype(np.intp, copy=False)
        return _check.array(name, value, self.dtype)

    @property
    def sequence_axes(self) -> tuple[int | str, ...]:
        """Axes of one sequence: T of integers, or T and I."""
        return ("T",) if self.takes_indices else ("T", self.input_size or "I")

    def steps_of(self, x: ArrayLike, lengths: ArrayLike | None) -> tuple[Array, Rows, bool]:
        """Return x as (T, B, ...), the lengths, and whether there was an axis of rows.

        Only recurrent layers leave padding alone, so that it is 0 for all others.
        """
        if self.takes_indices:
            given = self.convert("x", x)
            if given.ndim not in (1, 2):
                _check.shape("x", given, ("B", "T") if self.batch_first else ("T", "B"))
            batched = given.ndim == 2
            steps = _layouts.time_major_view(given, self.batch_first, batched)
        else:
            size = self.input_size or (np.shape(x) or (0,))[-1]
            steps, batched = _layouts.time_major("x", x, size, self.dtype, self.batch_first)
        T, B = steps.shape[:2]
        real = _check.lengths(lengths, T, B)
        valid = validity(real, T)
        if valid is not None and not isinstance(self._layers[0], SequenceLayer):
            steps = np.where(valid.reshape(T, B, *[1] * (steps.ndim - 2)), steps, steps.dtype.type(0))
        return steps, real, batched

    def sequences(self, name: str, x: Any, lengths: ArrayLike | None = None) -> Sequences:
        """Return x, an array or a list of sequences of unequal lengths, as sequences; NaN is refused."""
        found = sequences_of(name, x, self.convert, self.sequence_axes, self.batch_first, lengths)
        found.check_finite(name, lambda n, t: f"sequence {n}, step {t}")
        if hasattr(self._layers[0], "num_embeddings"):
            found.check_range(name, self._layers[0].num_embeddings - 1)
        return found

    def zero_states(self, B: int) -> States:
        """Return the states of B rows before the first step."""
        return tuple(
            layer.zero_state(B) if isinstance(layer, SequenceLayer) else None for layer in self._layers
        )

    def run_steps(self, x: Array, lengths: Rows, states: States) -> tuple[Array, States]:
        """Run the layers over x (T, B, ...) without keeping anything: prediction and final states."""
        return self._walk(x, lengths, states)

    def forward_steps(
        self, x: Array, lengths: Rows, states: States, batched: bool = True
    ) -> tuple[Array, States]:
        """Run the layers for training over x (T, B, ...), which must not change until `backward_steps`."""
        done = Pass(x.shape, lengths, batched, self.batch_first)
        prediction, final = self._walk(x, lengths, states, done)
        self._pass = done
        return prediction, final

    def forget(self) -> None:
        """Give back the memory that the last `forward_steps` has left."""
        self._pass = None

    def first_not_finite(self, x: Array, lengths: Rows, states: States) -> str:
        """Say which layer's parameters or output is the first that holds NaN or infinities, and when."""
        found: list[str] = []

        def watch(n: int, y: Array) -> None:
            name = f"layers[{n}] ({type(self._layers[n]).__name__})"
            if not found and not np.isfinite(self._layers[n].flat_params).all():
                found.append(f"the parameters of {name} are not")
            bad = np.flatnonzero(~np.isfinite(y).all(axis=tuple(range(1, y.ndim))))
            if not found and bad.size:
                when = f" at time step {bad[0]}" if y.ndim == 3 else ""
                found.append(f"the first that are not are put out by {name}{when}")

        with np.errstate(all="ignore"):
            self._walk(x, lengths, states, watch=watch)
        return found[0] if found else ""

    def _walk(
        self,
        x: Array,
        lengths: Rows,
        states: States,
        done: Pass | None = None,
        watch: Callable[[int, Array], None] | None = None,
    ) -> tuple[Array, States]:
        """Go through the layers; for training with what is to be filled for the way back."""
        T, B = x.shape[:2]
        valid = validity(lengths, T)
        schedule = Schedule(lengths, False, None)
        final: list[State | None] = []
        for n, layer in enumerate(self._layers):
            state, tape, parts = states[n], None, None
            if state is not None:
                x = _as_kernels_have_it(f"x of layers[{n}]", x, (T, B, layer.input_size), layer.dtype)
                if done is None:
                    x, parts = layer.run_steps(x, state, schedule)
                else:
                    x, parts, tape = layer.forward_steps(x, state, schedule)
            else:
                run = layer if done is None else layer.forward
                options: dict[str, Any] = {"lengths": lengths} if self._timed[n] else {}
                if done is not None and self._copying[n]:
                    options["copy"] = False
                x = run(x, **options)
            final.append(parts)
            if watch is not None:
                watch(n, x)
            if done is not None:
                done.tapes.append(tape)
            if n == self._read_after:
                if done is not None:
                    done.valid, done.read = valid, x.shape
                x = self._read_out(x, parts, layer, lengths, valid)
        if self._readout == "each" and valid is not None:
            x = np.where(valid[..., None], x, x.dtype.type(0))
        return x, tuple(final)

    def _read_out(
        self, y: Array, state: State | None, layer: Any, lengths: Rows, valid: NDArray[np.bool_] | None
    ) -> Array:
        """Return what the layers behind get of y (T, B, F)."""
        if self._readout == "each":
            return y
        if self._readout == "mean":
            real = y if valid is None or state is not None else np.where(valid[..., None], y, y.dtype.type(0))
            total: Array = real.sum(axis=0)
            mean: Array = total / np.maximum(lengths, 1)[:, None].astype(y.dtype)
            return mean
        if state is not None:
            h = state[0][-layer.num_directions :]
            return h[0] if len(h) == 1 else np.concatenate(tuple(h), axis=-1)
        last: Array = y[np.maximum(lengths - 1, 0), np.arange(y.shape[1])]
        return last

    def _read_back(self, d: Array, layer: Any, done: Pass) -> tuple[Array | None, Array | None]:
        """Return the derivatives by y (T, B, F) and by the final hidden states (D, B, R) of the layer."""
        T, B, F = done.read
        if self._readout == "each":
            return d, None
        if self._readout == "mean":
            share = d / np.maximum(done.lengths, 1)[:, None].astype(d.dtype)
            dy = np.broadcast_to(share, (T, B, F))
            if not isinstance(layer, SequenceLayer) and done.valid is not None:
                dy = np.where(done.valid[..., None], dy, dy.dtype.type(0))
            return dy, None
        if isinstance(layer, SequenceLayer):
            D = layer.num_directions
            return None, d[None] if D == 1 else np.stack(np.split(d, D, axis=-1))
        dy = np.zeros((T, B, F), d.dtype)
        dy[np.maximum(done.lengths - 1, 0), np.arange(B)] = d
        return dy, None

    def backward_steps(
        self, dprediction: Array, accumulate: bool = False, input_gradient: bool = True
    ) -> Any:
        """Go back through the last `forward_steps`: dx (T, B, ...), or None."""
        done = self._pass
        if done is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        d: Any = dprediction
        if self._readout == "each" and done.valid is not None:
            d = np.where(done.valid[..., None], d, d.dtype.type(0))
        for n in reversed(range(len(self._layers))):
            layer, tape, dh = self._layers[n], done.tapes[n], None
            if n == self._read_after:
                _check.shape(f"dy of layers[{n}]", d, done.read if self._readout == "each" else done.read[1:])
                d, dh = self._read_back(d, layer, done)
            if tape is None:
                d = layer.backward(d, accumulate=accumulate)
                continue
            dfinal = layer.zero_state(done.x_shape[1])
            if dh is not None:
                dfinal[0][-len(dh) :] = dh
            if d is not None:
                shape = (*done.x_shape[:2], layer.num_directions * layer.output_size)
                d = _as_kernels_have_it(f"dy of layers[{n}]", d, shape, layer.dtype)
            d, _ = layer.backward_steps(tape, d, dfinal, accumulate, input_gradient or n > 0)
        return d

    def refuse_whole_sequences(self, method: str) -> None:
        """Raise unless the model can go step by step."""
        for n, layer in enumerate(self._layers):
            if self._timed[n] and not isinstance(layer, SequenceLayer):
                raise ValueError(
                    f"{method}: expected recurrent layers alone over time, got {type(layer).__name__}"
                )
            if isinstance(layer, SequenceLayer) and (layer.bidirectional or layer.reverse):
                raise ValueError(
                    f"{method}: expected unidirectional layers, for the reverse direction needs the whole "
                    f"sequence first, got layers[{n}]"
                )
        if self._readout == "mean":
            raise ValueError(f'{method}: expected readout "last" or "each", got "mean"')


def _as_kernels_have_it(name: str, x: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return what a layer of whatever kind has made with contiguous rows of the dtype.

    Kernels believe every shape, so that another one would be read beyond its end.
    """
    _check.shape(name, x, shape)
    if x.dtype is dtype and x.strides[-1] == x.itemsize:
        return x
    return np.ascontiguousarray(x, dtype)
