"""Arrays under any names, in any layout, as an LSTM and back: one array a gate, or one block of all four.

A user says the names and what stands where.  What the shapes tell need not be said, and where they leave two
readings nothing is guessed.  Sources are mappings, objects with attributes, and `.npz` files.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .._check import FileFormatError
from .contents import Archive, read_bytes
from .found import Found, regroup, regroup_to, stack

Array = NDArray[Any]
Name = str | Mapping[str, str]  # of a block, or a pattern with {gate}; or each gate's
Names = str | dict[str, str]  # of a block, or each gate's

_GATES, _PEEPHOLES = "ifgo", "ifo"
_MOST_AXES = 32
_CONCATS = ("xh", "hx", "1xh", "1hx", "xh1", "hx1")


class Layout(NamedTuple):
    """How a source calls its arrays and what stands where in them: see `clstm.LSTM.from_gates`."""

    weight: Name | None = None
    weight_ih: Name | None = None
    weight_hh: Name | None = None
    bias: Name | tuple[Name, ...] | None = None
    peepholes: Name | None = None
    gates: Sequence[str] = _GATES
    order: str | None = None
    concat: str | None = None
    transposed: bool | None = None
    forget_offset: float = 0.0

    def names(self) -> dict[str, Names]:
        """Check all arguments and return the names of the arrays, by argument; biases as "bias[0]", ..."""
        if (
            not isinstance(self.gates, Sequence)
            or not all(isinstance(gate, str) for gate in self.gates)
            or not len(self.gates) == len(set(self.gates)) == len(_GATES)
        ):
            raise ValueError(
                f"gates: expected four different names, of i, f, g and o, got {_check.describe(self.gates)}"
            )
        self._check_weights()
        given: dict[str, Any] = {name: getattr(self, name) for name in ("weight", "weight_ih", "weight_hh")}
        biases = self.bias if isinstance(self.bias, tuple) else (self.bias,)
        given |= {f"bias[{n}]" if len(biases) > 1 else "bias": name for n, name in enumerate(biases)}
        given["peepholes"] = self.peepholes
        names = {argument: self._expand(argument, n) for argument, n in given.items() if n is not None}
        if _check.real("forget_offset", self.forget_offset) and not self.has_bias:
            raise ValueError(f"forget_offset: expected 0 without a bias, got {self.forget_offset}")
        every = _every(names)
        if len(set(every)) < len(every):
            raise ValueError(f"expected each array under a name of its own, got {_check.listed(every)}")
        is_block = any(isinstance(n, str) for n in names.values())
        if is_block and (not isinstance(self.order, str) or sorted(self.order) != sorted(_GATES)):
            raise ValueError(
                "order: expected the letters i, f, g (the candidate) and o in the order of the gates in a "
                f"block, got {_check.describe(self.order)}"
            )
        if not is_block and self.order is not None:
            raise ValueError(
                f"order: expected None where no name stands for a block, got {_check.describe(self.order)}"
            )
        return names

    @property
    def has_bias(self) -> bool:
        """Whether a bias stands anywhere."""
        return self.bias not in (None, ()) or "1" in (self.concat or "")

    @property
    def block_order(self) -> str:
        """The order of the gates in a block."""
        return self.order or _GATES

    def _check_weights(self) -> None:
        if self.weight is None:
            if self.weight_ih is None or self.weight_hh is None:
                raise ValueError(
                    "weight: expected its name, or those of weight_ih and weight_hh, got neither"
                )
            if self.concat is not None:
                raise ValueError(f"concat: expected None without weight, got {_check.describe(self.concat)}")
        else:
            if self.weight_ih is not None or self.weight_hh is not None:
                raise ValueError("weight: expected its name, or those of weight_ih and weight_hh, got both")
            _check.choice("concat", self.concat, _CONCATS)
        if self.transposed is not None:
            _check.boolean("transposed", self.transposed)

    def _expand(self, argument: str, name: Any) -> Names:
        """Return the name of a block, or each gate's."""
        gates = _PEEPHOLES if argument == "peepholes" else _GATES
        if isinstance(name, str):
            if "{gate}" not in name:
                return name
            texts = zip(_GATES, self.gates, strict=True)
            return {gate: name.replace("{gate}", text) for gate, text in texts if gate in gates}
        _check.entries(argument, name, gates, True)
        for each in name.values():
            _check.instance(argument, each, str)
        return {gate: name[gate] for gate in gates}


def _every(names: Mapping[str, Names]) -> list[str]:
    """Return the names of all arrays."""
    return [name for n in names.values() for name in ([n] if isinstance(n, str) else n.values())]


# ---------------------------------------------------------------------------------------------------- reading


def read(source: Any, layout: Layout, unused: str = "refuse") -> Found:
    """Find an LSTM in arrays.

    Parameters
    ----------
    source : mapping, object, path of a `.npz` file; or a tuple of two, or a list
        See `clstm.LSTM.from_gates`.
    layout : Layout
    unused : {"refuse", "ignore"}

    Returns
    -------
    Found

    Raises
    ------
    FileFormatError
        An array is missing, unused, or has another shape or dtype than the others ask for; or its shape can
        be read in two ways.
    ValueError, TypeError
        An argument makes no sense.
    OSError
        A file cannot be opened.
    """
    names = layout.names()
    _check.choice("unused", unused, ("refuse", "ignore"))
    layers = source if isinstance(source, list) else [source]
    if not layers:
        raise ValueError("source: expected at least one layer in the list, got none")
    found = [_read_layer(layer, layout, names, unused) for layer in layers]
    return stack(_describe(source), found)


def _describe(source: Any) -> str:
    """Return what stands for the path in a message."""
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _read_layer(source: Any, layout: Layout, names: dict[str, Names], unused: str) -> Found:
    """Read one layer, of one direction or of two."""
    if not isinstance(source, tuple) or hasattr(source, "_fields"):
        return _Cell(source, layout, names).read(unused)
    forward, reverse = (
        _Cell(each, layout, names).read(unused)
        for each in _check.pair("source", source, "(forward, reverse)")
    )
    if forward.arguments != reverse.arguments or _dtype(forward) != _dtype(reverse):
        raise FileFormatError(
            reverse.name,
            f"expected the sizes and dtype of the forward direction, {forward.arguments} and "
            f"{_dtype(forward)}, got {reverse.arguments} and {_dtype(reverse)}",
        )
    params = forward.params | {f"{name}_reverse": value for name, value in reverse.params.items()}
    return Found(forward.name, forward.arguments | {"bidirectional": True}, params)


def _dtype(found: Found) -> np.dtype[Any]:
    dtype: np.dtype[Any] = found.params["weight_ih_l0"].dtype
    return dtype


class _Cell:
    """One layer in one direction, while it is read."""

    def __init__(self, source: Any, layout: Layout, names: dict[str, Names]) -> None:
        if source is None or isinstance(source, bytes | int | float):  # whose attributes are no arrays
            raise TypeError(
                "source: expected a mapping of names to arrays, an object that has them as attributes, or a "
                f"path, got {_check.describe(source)}"
            )
        self.path = _describe(source)
        self.layout, self.names = layout, names
        self.holder = Npz(source) if isinstance(source, str | os.PathLike) else source
        self.first: tuple[str, np.dtype[Any]] | None = None  # name and dtype of the first array

    def read(self, unused: str) -> Found:
        """Return the layer."""
        layout = self.layout
        biases = {name: self._vector(name, _GATES) for name in self.names if name.startswith("bias")}
        sizes = {name: len(bias) // 4 for name, bias in biases.items()}
        peepholes = self._vector("peepholes", _PEEPHOLES) if "peepholes" in self.names else None
        if peepholes is not None:
            sizes["peepholes"] = len(peepholes) // 3
        known = next(iter(sizes.items()), None)
        if layout.concat is not None:
            with_bias = len(layout.concat) - 2
            weight = self._matrix(
                "weight", known, lambda H, width: width > H + with_bias, f"I + H{' + 1' * with_bias}"
            )
            H = len(weight) // 4
            parts = _split(weight, layout.concat, H)
        else:
            W_hh = self._matrix("weight_hh", known, lambda H, width: width == H, "H")
            H = len(W_hh) // 4
            W_ih = self._matrix("weight_ih", ("weight_hh", H), lambda _, width: width > 0, "I")
            parts = {"x": W_ih, "h": W_hh}
        for name, size in sizes.items():
            if size != H:
                raise self._error(f"{name}: expected {H} numbers a gate, got {size}")
        if unused == "refuse" and isinstance(self.holder, Mapping):
            self._check_unused(self.holder)
        params = {"weight_ih_l0": parts["x"], "weight_hh_l0": parts["h"]}
        if layout.has_bias:
            rows = [parts["1"][:, 0]] if "1" in parts else []
            bias = np.sum([*rows, *biases.values()], axis=0)
            bias[H : 2 * H] += bias.dtype.type(layout.forget_offset)
            params["bias_l0"] = bias
        if peepholes is not None:
            params["weight_peephole_l0"] = peepholes.reshape(3, H)
        arguments = {
            "input_size": parts["x"].shape[1],
            "hidden_size": H,
            "bias": layout.has_bias,
            "peepholes": peepholes is not None,
        }
        return Found(self.path, arguments, params)

    def _error(self, reason: str) -> FileFormatError:
        return FileFormatError(self.path, reason)

    def _array(self, name: str) -> Array:
        """Return an array by its name, of the dtype of the first one."""
        value = _look_up(self.holder, name)
        if value is _ABSENT:
            raise self._error(
                f"expected an array {_check.describe(name)}, got none of this name{self._others()}"
            )
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._error(f"{name}: expected an array, got {_check.describe(value)} ({error})") from error
        if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
            raise self._error(f"{name}: expected float32 or float64, got {_check.describe(array)}")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        self.first = self.first or (name, array.dtype)
        if array.dtype != self.first[1]:
            raise self._error(f"{name}: expected {self.first[1]} like {self.first[0]}, got {array.dtype}")
        return array

    def _others(self) -> str:
        """List what there is in the place of something missing."""
        return (
            f"; there are {_check.listed([*_leaves(self.holder)])}"
            if isinstance(self.holder, Mapping)
            else ""
        )

    def _arrays(self, argument: str) -> tuple[str, list[Array]]:
        """Return what an argument stands for, a block or an array for each gate, and what to call it."""
        names = self.names[argument]
        if isinstance(names, str):
            return names, [self._array(names)]
        return _check.listed(names.values()), [self._array(name) for name in names.values()]

    def _vector(self, argument: str, gates: str) -> Array:
        """Return biases or peepholes as one array, in our order of gates."""
        label, arrays = self._arrays(argument)
        for array in arrays:
            if array.ndim > 2 or max(array.shape, default=0) != array.size or not array.size:
                raise self._error(f"{label}: expected shape (H,), (H, 1) or (1, H) a gate, got {array.shape}")
        flat = [array.reshape(-1) for array in arrays]
        if len(flat) == 1 and flat[0].size % len(gates) == 0:
            order = "".join(gate for gate in self.layout.block_order if gate in gates)
            return regroup(flat[0], order)
        if len({len(array) for array in flat}) > 1 or len(flat) == 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise self._error(f"{label}: expected {len(gates)} gates of the same size, got {shapes}")
        return np.concatenate(flat)

    def _matrix(
        self, argument: str, known: tuple[str, int] | None, fits: Callable[[int, int], bool], columns: str
    ) -> Array:
        """Return weights as (4H, columns), in our order of gates.

        `known` is something whose size is known to be H; `fits` tells from H and the number of columns
        whether a reading makes sense.
        """
        label, arrays = self._arrays(argument)
        shape, gates = arrays[0].shape, 4 // len(arrays)
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1 or len(shape) != 2:
            listed = ", ".join(str(array.shape) for array in arrays)
            raise self._error(f"{label}: expected matrices of one shape, got {listed}")
        readings = []
        for transposed in (False, True):
            rows, width = shape[::-1] if transposed else shape
            H, rest = divmod(rows, gates)
            if not rest and H > 0 and fits(H, width) and (known is None or known[1] == H):
                readings.append(transposed)
        if self.layout.transposed is not None:
            readings = [reading for reading in readings if reading == self.layout.transposed]
        if not readings:
            expected = f"({'' if gates == 1 else '4 '}H, {columns})"
            expected = {
                None: f"{expected} or its transpose",
                False: expected,
                True: f"the transpose of {expected}",
            }[self.layout.transposed]
            as_known = "" if known is None else f" with H = {known[1]} as in {known[0]}"
            raise self._error(f"{label}: expected shape {expected}{as_known}, got {shape}")
        if len(readings) > 1:
            raise self._error(
                f"{label}: expected transposed= to be said, for shape {shape} can be read in two ways: False "
                "where the source computes W @ x, True where it computes x @ W"
            )
        oriented = [array.T if readings[0] else array for array in arrays]
        return regroup(oriented[0], self.layout.block_order) if gates == 4 else np.concatenate(oriented)

    def _check_unused(self, holder: Mapping[Any, Any]) -> None:
        """Refuse arrays of a mapping that no argument names."""
        used = set(_every(self.names))
        more = [name for name in _leaves(holder) if name not in used]
        if more:
            raise self._error(
                f"expected every array to be named by an argument, got also {_check.listed(more)}; "
                "unused='ignore' passes over them"
            )


_ABSENT = object()


def _look_up(holder: Any, name: str) -> Any:
    """Return what a name leads to: an entry or an attribute, or after a dot what is inside one."""
    is_mapping = isinstance(holder, Mapping)
    if is_mapping and name in holder:
        return holder[name]
    head, dot, rest = name.partition(".")
    if not dot:
        return _ABSENT if is_mapping else getattr(holder, name, _ABSENT)
    inner = _look_up(holder, head)
    return _ABSENT if inner is _ABSENT else _look_up(inner, rest)


def _leaves(holder: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of all arrays in a mapping and in the mappings inside."""
    if isinstance(holder, Npz):
        yield from holder
        return
    for key, value in holder.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) or hasattr(value, "shape"):
            yield f"{prefix}{key}"


def _split(weight: Array, concat: str, H: int) -> dict[str, Array]:
    """Cut the columns of a weight that multiplies x, h and perhaps 1."""
    sizes = {"h": H, "1": 1, "x": weight.shape[1] - H - len(concat) + 2}
    ends = np.cumsum([sizes[part] for part in concat])
    return dict(zip(concat, np.split(weight, ends[:-1], axis=1), strict=True))


class Npz(Mapping[str, Array]):
    """The arrays of a `.npz` file by name, each read and checked when it is asked for.

    Parameters
    ----------
    path : str or path-like
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fsdecode(path)
        self._archive = Archive(self._path, read_bytes(path))

    def __iter__(self) -> Iterator[str]:
        return (name.removesuffix(".npy") for name in self._archive.names if name.endswith(".npy"))

    def __len__(self) -> int:
        return len([*self])

    def __contains__(self, name: object) -> bool:
        return f"{name}.npy" in self._archive.names

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of an array."""
        return self._parse(name)[:2]

    def __getitem__(self, name: str) -> Array:
        if name not in self:
            raise KeyError(name)
        shape, dtype, is_fortran, data = self._parse(name)
        label = _check.describe(name)
        if dtype.kind not in "fiub":
            raise FileFormatError(self._path, f"{label}: expected real numbers, got dtype {dtype}")
        needed = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or len(shape) > _MOST_AXES or len(data) != needed:
            raise FileFormatError(
                self._path,
                f"{label}: expected the bytes of shape {_check.describe(shape)} and dtype {dtype}, "
                f"got {len(data)}",
            )
        return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")

    def _parse(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, memoryview]:
        """Return shape, dtype and order of an array, and its bytes; nothing is allocated for it."""
        content = self._archive.read(f"{name}.npy")
        file = io.BytesIO(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of headers from Python 2
                version = np.lib.format.read_magic(file)
                if version not in _HEADERS:
                    raise ValueError(f"format {version}")
                shape, is_fortran, dtype = _HEADERS[version](file)
        except Exception as error:  # a parser of Python's own reads the header
            raise FileFormatError(
                self._path, f"{_check.describe(name)}: not an array of NumPy ({_check.shorten(str(error))})"
            ) from error
        return shape, dtype, is_fortran, memoryview(content)[file.tell() :]


_HEADERS: dict[Any, Callable[[io.BytesIO], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


# ---------------------------------------------------------------------------------------------------- writing


def write(params: Mapping[str, Array], layout: Layout, column: bool = False) -> Any:
    """Lay out the parameters of an LSTM as a source has them; the inverse of `read`.

    Parameters
    ----------
    params : mapping of str to ndarray
        As `clstm.LSTM.params`.
    layout : Layout
    column : bool, default False
        Biases a gate and peepholes a gate are ``(H, 1)``.

    Returns
    -------
    dict, tuple of two dicts or list of them
        Fresh arrays, as `read` takes them.

    Raises
    ------
    ValueError, TypeError
        An argument makes no sense, or there are parameters that the layout has no place for.
    """
    names = layout.names()
    _check.boolean("column", column)
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in params else ("",)
    layers = []
    for k in itertools.count():
        if f"weight_ih_l{k}" not in params:
            break
        cells = [_write_cell(params, f"_l{k}{suffix}", layout, names, column) for suffix in suffixes]
        layers.append(cells[0] if len(cells) == 1 else tuple(cells))
    return layers[0] if len(layers) == 1 else layers


def _write_cell(
    params: Mapping[str, Array], suffix: str, layout: Layout, names: dict[str, Names], column: bool
) -> dict[str, Array]:
    """Lay out one layer in one direction."""
    own = {name.removesuffix(suffix): value for name, value in params.items() if name.endswith(suffix)}
    W_ih, W_hh = own.pop("weight_ih"), own.pop("weight_hh")
    bias, peepholes = own.pop("bias", None), own.pop("weight_peephole", None)
    if own:
        raise ValueError(f"expected an LSTM without {_check.listed(own)}, for which gates have no place")
    for argument, value, has in (
        ("bias", bias, layout.has_bias),
        ("peepholes", peepholes, layout.peepholes is not None),
    ):
        if has and value is None:
            raise ValueError(f"{argument}: expected None for an LSTM without, got a name")
        if value is not None and not has:
            raise ValueError(f"{argument}: expected a name for an LSTM that has it, got None")
    parts = {"x": W_ih, "h": W_hh}
    values: dict[str, Array] = {"weight_ih": W_ih, "weight_hh": W_hh}
    if bias is not None:
        H = len(bias) // 4
        bias = bias.copy()
        bias[H : 2 * H] -= bias.dtype.type(layout.forget_offset)
        parts["1"] = bias[:, None]
        values |= {name: np.zeros_like(bias) for name in names if name.startswith("bias")}
        first = next((name for name in names if name.startswith("bias")), None)
        if first is not None and "1" not in (layout.concat or ""):
            values[first] = bias
    if layout.concat is not None:
        values["weight"] = np.concatenate([parts[part] for part in layout.concat], axis=1)
    if peepholes is not None:
        values["peepholes"] = peepholes.reshape(-1)
    written = {}
    for argument, name in names.items():
        value = values[argument]
        gates = _PEEPHOLES if argument == "peepholes" else _GATES
        if isinstance(name, str):
            pieces = {name: regroup_to(value, "".join(gate for gate in layout.block_order if gate in gates))}
        else:
            pieces = dict(zip(name.values(), np.split(value, len(gates)), strict=True))
        for key, piece in pieces.items():
            if piece.ndim == 2:
                piece = piece.T if layout.transposed else piece
            elif column:
                piece = piece[:, None]
            written[key] = piece.copy(order="C")
    return written
