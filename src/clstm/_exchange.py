"""What `clstm inspect`, `clstm convert` and `clstm verify` do: files of any kind, told by their content."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _dispatch, _load, _originals
from ._check import FileFormatError, UsageError
from .interop import formats
from .interop.found import Found
from .interop.gates import Npz
from .lstm import LSTM

Array = NDArray[Any]
Path = str | os.PathLike[str]

# Of the input on which `verify` runs a layer: time steps, rows.
_STEPS, _ROWS = 16, 3
# Promised differences, of values up to 1; relative to the largest value above.
_OF_THE_DEFINITION = {"float64": 1e-12, "float32": 2e-6}
_OF_AN_ORIGINAL = {"float64": 1e-11, "float32": 1e-5}

# What a file is written as, and the suffixes of its name, the first one if nothing is said.
TARGETS = {"clstm": ".safetensors", "torch": ".safetensors", "onnx": ".onnx"}


class _Layer(NamedTuple):
    """An LSTM in a file, or why it cannot be read."""

    name: str
    lstm: Any  # LSTM, or None
    trouble: str | None = None


def target(path: Path, to: str | None) -> str:
    """Return what a file is to be written as, by `to` or else by its suffix."""
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    kinds = [kind for kind, own in TARGETS.items() if own == suffix]
    if not kinds:
        raise UsageError(
            f"OUT: expected a name that ends in .safetensors or .onnx, got {os.fsdecode(path)!r}"
        )
    if to is not None and to not in kinds:
        raise UsageError(f"--to {to}: expected a name that ends in {TARGETS[to]}, got {os.fsdecode(path)!r}")
    return to or kinds[0]


# ---------------------------------------------------------------------------------------------------- reading


def _find(path: Path, kind: formats.Format) -> list[_Layer]:
    """Return every LSTM in a file."""
    if kind == formats.OWN:
        return _own(_load.load(path))
    module = importlib.import_module(f".interop.{kind.reader}", __package__)
    return [_layer(found) for found in module.find(path)]


def _own(made: Any) -> list[_Layer]:
    """Return every LSTM in an object of this package."""
    if isinstance(made, LSTM):
        return [_Layer("", made)]
    for holder in ("estimator", "model_", "model"):  # of tables, of an estimator, of texts
        made = getattr(made, holder, made)
    layers = enumerate(getattr(made, "layers", ()))
    return [_Layer(f"layers.{n}", layer) for n, layer in layers if isinstance(layer, LSTM)]


def _layer(found: Found) -> _Layer:
    lstm = None if found.trouble else LSTM.from_params(found.params, **found.arguments)
    return _Layer(found.name, lstm, found.trouble)


def _read(path: Path, kind: formats.Format, name: str | None, keras: Mapping[str, Any]) -> tuple[str, LSTM]:
    """Return the LSTM of a name, or the only one, and its name."""
    given = {option: value for option, value in keras.items() if value is not None}
    if given and kind.reader != "keras":
        options = ", ".join(f"--{option.replace('_', '-')}" for option in given)
        raise UsageError(f"{options}: expected a file of Keras, got one of {kind.title}")
    if kind == formats.NPZ:
        raise FileFormatError(
            path, "arrays of NumPy, whose layout you must say in Python: clstm.LSTM.from_gates(path, ...)"
        )
    layers = _find(path, kind)
    several = len(layers) > 1 and kind.reader in ("keras", "onnx")
    joins = "; in Python a list of names joins them" if several else ""
    if name is None and len(layers) > 1:
        raise UsageError(
            f"expected --name to select one of {_listed(layers)}, which {os.fsdecode(path)!r} holds{joins}"
        )
    if name is not None and layers and name not in [layer.name for layer in layers]:
        raise UsageError(f"--name: expected one of {_listed(layers)}, got {name!r}{joins}")
    if kind == formats.OWN:
        if not layers:
            raise FileFormatError(path, "expected an LSTM in it, got none")
        return layers[0].name, layers[0].lstm
    name = layers[0].name if name is None and layers else name
    chosen = [layer.lstm for layer in layers if layer.name == name]
    if len(chosen) == 1 and chosen[0] is not None and not given:
        return name or "", chosen[0]
    if kind.reader == "torch":
        return name or "", LSTM.from_torch(path, name)
    if kind.reader == "onnx":
        return name or "", LSTM.from_onnx(path, name)
    try:
        return name or "", LSTM.from_keras(path, name, **given)
    except FileFormatError:
        raise
    except ValueError as error:  # of an option, which the message names
        raise UsageError(str(error)) from error


def _shown(name: str) -> str:
    """Return a name from a file as it can be shown in a terminal."""
    return name if name and name.isprintable() else repr(name)


def _place(path: Path, name: str) -> str:
    return f"{os.fsdecode(path)}, {_shown(name)}" if name else os.fsdecode(path)


def _listed(layers: list[_Layer]) -> str:
    return ", ".join(_shown(layer.name) for layer in layers[:20]) + (" and more" if len(layers) > 20 else "")


# --------------------------------------------------------------------------------------------------- commands


def inspect(path: Path, as_json: bool) -> int:
    """Print every LSTM in a file.

    Parameters
    ----------
    path : str or path-like
    as_json : bool
        One object instead of text.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    FileFormatError, OSError
        The file cannot be read.
    """
    kind = formats.tell(path)
    if kind == formats.NPZ:
        return _inspect_npz(path, as_json)
    layers = _find(path, kind)
    if as_json:
        listed = [
            {
                "name": layer.name,
                "arguments": None if layer.lstm is None else layer.lstm.file_content()[0],
                "trouble": layer.trouble,
            }
            for layer in layers
        ]
        print(json.dumps({"path": os.fsdecode(path), "format": kind.name, "lstms": listed}, indent=2))
        return 0
    print(f"{os.fsdecode(path)}: {kind.title}, {_count(len(layers), 'LSTM')}")
    width = max((len(_shown(layer.name)) for layer in layers), default=0)
    for layer in layers:
        told = repr(layer.lstm) if layer.trouble is None else f"cannot be read: {layer.trouble}"
        name = f"{_shown(layer.name):{width}}  " if layer.name else ""
        print(f"  {name}{told}")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' if number > 1 else ''}"


def _inspect_npz(path: Path, as_json: bool) -> int:
    """Print the arrays of a file that does not say what they are."""
    npz = Npz(path)
    arrays = {name: npz.header(name) for name in npz}
    if as_json:
        listed = {name: {"shape": shape, "dtype": str(dtype)} for name, (shape, dtype) in arrays.items()}
        print(
            json.dumps({"path": os.fsdecode(path), "format": "npz", "lstms": [], "arrays": listed}, indent=2)
        )
        return 0
    print(f"{os.fsdecode(path)}: NumPy, {_count(len(arrays), 'array')}")
    width = max((len(_shown(name)) for name in arrays), default=0)
    for name, (shape, dtype) in arrays.items():
        print(f"  {_shown(name):{width}}  {shape}, {dtype}")
    print("If they are an LSTM's, say in Python what is what: clstm.LSTM.from_gates(path, ...)")
    return 0


def convert(path: Path, out: Path, to: str | None, name: str | None, keras: Mapping[str, Any]) -> int:
    """Write an LSTM of a file into another file.

    Parameters
    ----------
    path, out : str or path-like
        `out` is replaced if it exists.
    to : {"clstm", "torch", "onnx"} or None
        None: by the suffix of `out`.
    name : str or None
        Of the LSTM, if there are several.
    keras : mapping
        Arguments of `from_keras` for files of weights alone, None where nothing is said.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    FileFormatError, OSError
        A file cannot be read, or written.
    UsageError
        The arguments do not fit the files.
    """
    kind = target(out, to)
    found, lstm = _read(path, formats.tell(path), name, keras)
    try:
        if kind == "clstm":
            lstm.save(out)
        elif kind == "torch":
            lstm.to_torch(out)
        else:
            lstm.to_onnx(out)
    except FileFormatError:
        raise
    except ValueError as error:  # an option that the other system has not
        raise FileFormatError(path, f"cannot be written for {kind}: {error}") from error
    print(f"{_place(path, found)} -> {os.fsdecode(out)}: {lstm!r}")
    return 0


def verify(path: Path, name: str | None, keras: Mapping[str, Any]) -> int:
    """Run an LSTM of a file on random input, here and in the system that wrote it.

    Parameters
    ----------
    path : str or path-like
    name : str or None
        Of the LSTM, if there are several.
    keras : mapping
        As for `convert`.

    Returns
    -------
    int
        The exit code: 1 if a difference is larger than promised.

    Raises
    ------
    FileFormatError, OSError
        The file cannot be read.
    UsageError
        The arguments do not fit the file.
    """
    kind = formats.tell(path)
    found, lstm = _read(path, kind, name, keras)
    x = np.random.default_rng(0).standard_normal((_STEPS, _ROWS, lstm.input_size)).astype(lstm.dtype)
    y = _run(lstm, x)
    definition = LSTM.from_params(
        {name: value.astype(np.float64) for name, value in lstm.params.items()},
        **lstm.file_content()[0] | {"dtype": np.float64, "backend": "numpy"},
    )
    print(f"{_place(path, found)}: {lstm!r}")
    print(f"on random input of {_STEPS} steps, {_ROWS} rows, {lstm.input_size} features:")
    good = _compare(
        f"definition in NumPy, kernels {_dispatch.isa}", y, _run(definition, x), _OF_THE_DEFINITION
    )
    if kind.reader is not None:
        try:
            title, original = _originals.run(kind, path, found, lstm, x)
        except _originals.NotComparedError as error:
            print(f"  not compared with another system: {error}")
        else:
            good &= _compare(title, y, original, _OF_AN_ORIGINAL)
    return 0 if good else 1


def _run(lstm: LSTM, x: Array) -> Array:
    """Return the outputs, time first."""
    y: Array = lstm(x.swapaxes(0, 1) if lstm.batch_first else x)[0]
    return y.swapaxes(0, 1) if lstm.batch_first else y


def _compare(title: str, y: Array, expected: Array, promises: dict[str, float]) -> bool:
    """Print the largest difference, and whether it is within the promise."""
    promised = promises[y.dtype.name]
    if y.shape != expected.shape:
        print(f"  {title}: another shape, {expected.shape} instead of {y.shape}")
        return False
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    difference = float(np.max(np.abs(y - expected), initial=0.0)) / scale
    good = difference <= promised
    print(f"  {title}: largest difference {difference:.1e}, {'within' if good else 'ABOVE'} {promised:.0e}")
    return good
