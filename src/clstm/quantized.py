"""class QuantizedLSTM: an LSTM for inference whose weights take half or a quarter of the bytes of float32.

At batch 1 a step is the reading of the weights, so fewer bytes are more speed.  The weights are held once, in
the layout that the kernels read; the arithmetic is that of 1b and 1q in reference.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _narrow, files, reference
from .architecture import Architecture
from .cells import Cell, Held, Narrow
from .parameters import Argument

Array = NDArray[Any]

# Activations that never leave [-1, 1].
_BOUNDED = ("sigmoid", "tanh", "hard_sigmoid", "softsign")
# Numbers of h, or of x, of which a sum still has 12 bits for each: n of equation 1q is 4095 at least.
_DEEPEST = 4129
# What repr shows first, or as the type says; and what it does not show, beside None and False.
_SHOWN_FIRST = ("input_size", "hidden_size", "precision", "dtype")
_PLAIN = {
    "num_layers": 1, "bias": True, "activations": ("sigmoid", "tanh", "tanh"), "zoneout": (0.0, 0.0),
}  # fmt: skip


class Difference(NamedTuple):
    """How far h of two layers is apart, as `QuantizedLSTM.error` returns it.

    Attributes
    ----------
    largest, mean : float
        Of the absolute differences in all real steps.
    """

    largest: float
    mean: float


def _float32(name: str, value: Any) -> np.dtype[Any]:
    dtype = _check.float_dtype(name, value)
    if dtype != np.float32:
        raise ValueError(f"{name}: expected float32, in which a quantized layer computes, got {dtype}")
    return dtype


class QuantizedLSTM(Architecture):
    """An LSTM for inference with weights of bfloat16 or of 8 bits; made by `LSTM.quantize`.

    It computes in float32 and has what inference needs of `LSTM`: it is called with the same arguments, has
    `step`, `stream` and `trace`, and every option of the cell.  Weights cannot be changed.

    Parameters
    ----------
    lstm : LSTM
        float32 or float64; it stays as it is.
    precision : {"bfloat16", "int8"}
        "bfloat16": weights are rounded to 8 significant bits, everything else is float32.  A layer computes
        what an `LSTM` of float32 with the rounded weights does, to the bit.
        "int8": weights are integers of 8 bits with one scale for each column (each gate of each unit), x and
        h integers of 13 to 16 bits, and sums exact.  Not for a layer whose h may leave [-1, 1]: one with a
        projection, or gates or an outer activation that are not bounded by 1.
    x_range : float, optional
        With "int8" the largest absolute value that x is to have.  What lies beyond is held to it, counted,
        and told once.
    x : array_like with a last axis of input_size, optional
        Instead of `x_range`, sample data, whose largest absolute value it is.
    backend : {"auto", "numpy"}
        As for `LSTM`.

    Attributes
    ----------
    precision, x_range
        As given, or measured.
    held : int
        How many numbers of x lay beyond `x_range`, and of states beyond 1, in all calls and streams.
    nbytes : int
        Bytes of all weights, scales and biases, as they are held.

    `input_size`, `hidden_size` and the other arguments of the `LSTM` that inference needs are attributes,
    too; `batch_first` and `backend` can be set.

    Raises
    ------
    ValueError, TypeError
        The layer cannot be quantized so, or an argument is not what it should be; the message has the reason.

    Notes
    -----
    A projection's own weights stay float32.  Calling the object and `step` change nothing in it but `held`,
    so any number of threads may do so at once.

    Examples
    --------
    >>> lstm = clstm.LSTM(3, 50, dtype="float32", rng=0)
    >>> x = np.random.default_rng(0).standard_normal((7, 3))
    >>> small = lstm.quantize("int8", x=x)
    >>> small
    QuantizedLSTM(3, 50, 'int8', x_range=2.32503080368042)
    >>> y, (h_n, c_n) = small(x)
    >>> y.shape, small.error(lstm, x).largest < 0.01
    ((7, 50), True)
    """

    file_class = "QuantizedLSTM"
    floats_alone = False

    precision = Argument(partial(_check.choice, allowed=tuple(_narrow.STORED)))
    x_range = Argument(_check.optional(_check.positive))
    dtype = Argument(_float32)

    def __init__(
        self,
        lstm: Any,
        precision: str,
        *,
        x_range: float | None = None,
        x: ArrayLike | None = None,
        backend: str = "auto",
    ) -> None:
        if not isinstance(lstm, Architecture) or isinstance(lstm, QuantizedLSTM):
            raise TypeError(f"lstm: expected an LSTM with weights of floats, got {_check.describe(lstm)}")
        source: Any = lstm
        if x is not None:
            if x_range is not None:
                raise ValueError(f"x: expected None with x_range, got both, x_range={x_range}")
            x_range = _largest(x, lstm.input_size)
        given = {name: getattr(lstm, name) for name in self._table if hasattr(lstm, name)}
        own = {"precision": precision, "x_range": x_range, "dtype": np.float32, "backend": backend}
        self._set_up(given | own)
        self._lay_out(self._quantized(source.params))

    def _check_together(self) -> None:
        super()._check_together()
        if self.precision != "int8":
            if self.x_range is not None:
                raise ValueError(
                    f"x_range: expected None with {self.precision}, which takes any x, got {self.x_range}"
                )
            return
        gates, _, outer = self.activations
        for name, activation in (("activations[0]", gates), ("activations[2]", outer)):
            if not _is_bounded(activation):
                raise ValueError(
                    f"{name}: expected one that stays within -1..1 with int8, for h becomes integers that "
                    f"reach from -1 to 1, got {activation!r}; bfloat16 takes any"
                )
        if self.proj_size:
            raise ValueError(
                "proj_size: expected 0 with int8, for h becomes integers that reach from -1 to 1, and a "
                f"projection has no such bounds, got {self.proj_size}; bfloat16 takes any"
            )
        for name, size in (
            ("input_size", max(self._layer_input_size(k) for k in range(min(2, self.num_layers)))),
            ("hidden_size", self.hidden_size),
        ):
            if size > _DEEPEST:
                raise ValueError(
                    f"{name}: expected layers with at most {_DEEPEST} inputs and units with int8, of which "
                    f"sums are exact in 32 bits, got {size}; bfloat16 takes any"
                )
        if self.x_range is None:
            raise ValueError(
                "x_range: expected the largest absolute value that x is to have with int8, or sample data "
                "as x, got neither"
            )

    # ------------------------------------------------------------------------------------------- the weights

    def _quantized(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Return the arrays that are stored, by name, for the parameters of an LSTM."""
        named: dict[str, Array] = {}
        for name, value in params.items():
            if not _is_matrix(name):
                named[name] = _check.array(name, value, self.dtype, copy=True)
                continue
            if not np.isfinite(value).all():
                raise ValueError(f"{name}: expected finite weights, got others")
            if self.precision == "int8":
                V, named[name.replace("weight", "scale")] = reference.int8(value.T)
                named[name] = V.T
                continue
            with np.errstate(over="ignore"):
                named[name] = reference.bfloat16(value)
            if not np.isfinite(_widened(named[name])).all():
                raise ValueError(f"{name}: expected weights that bfloat16 can hold, got larger ones")
        return named

    def _expected(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return shape and dtype of the arrays that are stored, by name."""
        width, stored = 4 * self.hidden_size, _narrow.STORED[self.precision]
        expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for n in range(self.num_layers * self.num_directions):
            suffix = self._suffix(n)
            sizes = (("ih", self._layer_input_size(n // self.num_directions)), ("hh", self.output_size))
            for side, size in sizes:
                expected[f"weight_{side}_{suffix}"] = ((width, size), stored)
                if self.precision == "int8":
                    expected[f"scale_{side}_{suffix}"] = ((width,), self.dtype)
            if self.bias:
                expected[f"bias_{suffix}"] = ((width,), self.dtype)
            for field, (name, shape) in self._extras().items():
                expected[f"{name}_{suffix}"] = (shape[::-1] if field == "W_r" else shape, self.dtype)
        return expected

    def _lay_out(self, named: Mapping[str, Array]) -> None:
        """Take arrays as they are stored; matrices become words."""
        H, D, cells = self.hidden_size, self.num_directions, []
        self._held = Held()
        for n in range(self.num_layers * D):
            suffix = self._suffix(n)
            W_x, W_h = named[f"weight_ih_{suffix}"].T, named[f"weight_hh_{suffix}"].T
            narrow = Narrow(self.precision, len(W_x), len(W_h))
            if self.x_range is not None:
                x_range = self.x_range if n < D else 1.0
                narrow = narrow._replace(
                    scale_x=named[f"scale_ih_{suffix}"],
                    scale_h=named[f"scale_hh_{suffix}"],
                    x_range=x_range,
                    levels=(reference.levels(len(W_x)), reference.levels(len(W_h))),
                    held=self._held,
                )
            extras: dict[str, Any] = {}
            for field, (name, _) in self._extras().items():
                array = named[f"{name}_{suffix}"]
                extras[field] = np.ascontiguousarray(array.T if field == "W_r" else array)
            bias = named[f"bias_{suffix}"] if self.bias else np.zeros(4 * H, self.dtype)
            cells.append(Cell(self.kind, _narrow.pack(W_x), _narrow.pack(W_h), bias, **extras, narrow=narrow))
        self._cells = tuple(cells)
        self.argument_changed()

    def _stored(self) -> dict[str, Array]:
        """Return the arrays as `_lay_out` takes them."""
        named: dict[str, Array] = {}
        for n, cell in enumerate(self._cells):
            suffix, narrow = self._suffix(n), _narrow_of(cell)
            for side, words, rows, scale in (
                ("ih", cell.W_x, narrow.input_size, narrow.scale_x),
                ("hh", cell.W_h, narrow.output_size, narrow.scale_h),
            ):
                named[f"weight_{side}_{suffix}"] = _narrow.unpack(
                    words, rows, self.hidden_size, _narrow.STORED[self.precision]
                ).T
                if scale is not None:
                    named[f"scale_{side}_{suffix}"] = scale
            if self.bias:
                named[f"bias_{suffix}"] = cell.bias
            for field, (name, _) in self._extras().items():
                array = getattr(cell, field)
                named[f"{name}_{suffix}"] = array.T if field == "W_r" else array
        return named

    def weights(self) -> dict[str, Array]:
        """Return what the weights are worth, as arrays of float32 under the names of `LSTM.params`.

        Examples
        --------
        >>> lstm = clstm.LSTM(3, 5, dtype="float32", rng=0)
        >>> small = lstm.quantize("bfloat16")
        >>> rounded = clstm.LSTM.from_params(small.weights())
        >>> np.array_equal(small(np.ones((7, 3)))[0], rounded(np.ones((7, 3)))[0])
        True
        """
        stored, named = self._stored(), {}
        for name, value in stored.items():
            if not _is_matrix(name):
                named[name] = value.copy()
            elif self.precision == "int8":
                named[name] = value * stored[name.replace("weight", "scale")][:, None]
            else:
                named[name] = _widened(value)
        return {name: value for name, value in named.items() if not name.startswith("scale_")}

    @property
    def nbytes(self) -> int:
        """Bytes of everything that the layer holds in arrays."""
        arrays = [array for cell in self._cells for array in cell.arrays]
        for narrow in map(_narrow_of, self._cells):
            arrays += [scale for scale in (narrow.scale_x, narrow.scale_h) if scale is not None]
        return sum(array.nbytes for array in arrays)

    @property
    def held(self) -> int:
        """How many numbers of x lay beyond `x_range`, and of states beyond 1."""
        return int(self._held.count[0])

    # -------------------------------------------------------------------------------------------- the passes

    def _run(self, *arguments: Any, **others: Any) -> Any:
        results = super()._run(*arguments, **others)
        self._held.tell()
        return results

    def step(self, x_t: ArrayLike, state: Any = None) -> tuple[Array, tuple[Array, Array]]:
        """Run one time step; parameters, returns and errors are those of `LSTM.step`."""
        results = super().step(x_t, state)
        self._held.tell()
        return results

    def error(
        self,
        lstm: Any,
        x: ArrayLike,
        state: Any = None,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> Difference:
        """Compare the hidden states of the last layer with those of the layer that this one was made of.

        Parameters
        ----------
        lstm : LSTM
            Any layer with the same sizes, of float32 or float64.
        x, state, lengths, resets
            As for a call of this object.

        Returns
        -------
        Difference
            The largest and the mean absolute difference; 0 where there is not one step.

        Raises
        ------
        ValueError, TypeError
            The layers have other sizes, or an argument is not what it should be.

        Examples
        --------
        >>> lstm = clstm.LSTM(3, 5, dtype="float32", rng=0)
        >>> x = np.random.default_rng(0).standard_normal((7, 3))
        >>> lstm.quantize("int8", x_range=4).error(lstm, x).largest < 0.01
        True
        """
        if not isinstance(lstm, Architecture):
            raise TypeError(f"lstm: expected an LSTM, got {_check.describe(lstm)}")
        for name in ("input_size", "hidden_size", "num_layers", "bidirectional", "reverse", "proj_size"):
            own, its = getattr(self, name), getattr(lstm, name)
            if own != its:
                raise ValueError(f"lstm: expected {name}={own}, as this layer has, got {its}")
        steps, first, schedule, _ = self._arguments_of_call(x, state, lengths, resets)
        y, _ = self.run_steps(steps, first, schedule)
        others = tuple(part.astype(lstm.dtype) for part in first)
        expected, _ = lstm.run_steps(steps.astype(lstm.dtype), others, schedule)
        real = np.arange(len(steps))[:, None] < schedule.lengths
        apart = np.abs(y.astype(float) - expected)[real]
        return Difference(float(apart.max(initial=0.0)), float(apart.mean()) if apart.size else 0.0)

    # ----------------------------------------------------------------------------------- files, pickles, text

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the arguments, as JSON has them, and the arrays."""
        tensors = {
            name: np.ascontiguousarray(value).view(files.BFLOAT16) if value.dtype == np.uint16 else value
            for name, value in self._stored().items()
        }
        return self._saved_arguments(), tensors

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,
    ) -> Self:
        """Make an object of what a file holds; `read` gets the arrays, after all else is checked."""
        layer = cls._of_file(arguments, options)
        matrices = layer.num_layers * layer.num_directions * 2
        if sum(map(_is_matrix, shapes)) != matrices:  # before as many names are made
            raise ValueError(f"its arguments ask for {matrices} matrices, got {len(shapes)} tensors in all")
        expected = layer._expected()
        _check.entries("tensors", shapes, expected, True)
        for name, (shape, _) in expected.items():
            if shapes[name] != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {shapes[name]}")
        tensors = read()
        for name, (_, dtype) in expected.items():
            wanted, got = files.BFLOAT16 if dtype == np.uint16 else dtype, tensors[name].dtype
            if got != wanted:
                raise TypeError(
                    f"{name}: expected dtype {files.dtype_name(wanted)}, got {files.dtype_name(got)}"
                )
            if wanted == files.BFLOAT16:
                tensors[name] = tensors[name].view(np.uint16)
            elif wanted == np.int8 and (tensors[name] == -128).any():
                raise ValueError(f"{name}: expected integers in -127..127, got -128")
            elif name.startswith("scale_") and not np.isfinite(tensors[name]).all():
                raise ValueError(f"{name}: expected finite scales, got others")
        layer._lay_out(tensors)
        return layer

    def __getstate__(self) -> dict[str, Any]:
        """Return what the object is made of, and what users keep on it; the rest is made anew."""
        made = ("_cells", "_sizes", "_functions", "_try_run", "_held")
        kept = {name: value for name, value in self.__dict__.items() if name not in made}
        return kept | {"_arguments": dict(self._arguments), "stored": self._stored()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        stored = state.pop("stored")
        self.__dict__.update(state)
        self._lay_out(stored)

    def __repr__(self) -> str:
        shown = [str(self.input_size), str(self.hidden_size), repr(self.precision)]
        for name, argument in self._table.items():
            value = self._arguments[name]
            if argument.saved and name not in _SHOWN_FIRST and value not in (None, False, _PLAIN.get(name)):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _narrow_of(cell: Cell) -> Narrow:
    """Return what the weights of a cell of this class are."""
    return cell.narrow or Narrow("", 0, 0)


def _is_matrix(name: str) -> bool:
    """Whether a parameter is one of the large matrices, which are quantized."""
    return name.startswith(("weight_ih_", "weight_hh_"))


def _widened(bits: Array) -> NDArray[np.float32]:
    """Return numbers of bfloat16 as floats."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _is_bounded(activation: Any) -> bool:
    """Whether an activation, as users write it, stays within -1..1."""
    name, values = (activation, {}) if isinstance(activation, str) else activation
    return name in _BOUNDED or (name == "scaled_tanh" and abs(values.get("alpha", 1.0)) <= 1)


def _largest(x: ArrayLike, features: int) -> float:
    """Return the largest absolute value of sample data."""
    given = _check.array("x", x, np.dtype(np.float32))
    _check.shape("x", given.reshape(-1, *given.shape[-1:]), ("steps", features))
    largest = float(np.abs(given).max(initial=0.0))
    if not 0 < largest < math.inf:
        raise ValueError(
            f"x: expected sample data of finite numbers that are not all 0, got {largest} as their largest"
        )
    return largest
