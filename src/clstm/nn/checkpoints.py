"""Checkpoints: trees of plain values as files, the states of generators, a folder that is never without one.

A tree is what the parts of a training run consist of.  It becomes JSON and float tensors, which is what
`files` writes whole or not at all; nothing is pickled, so that a file can do no more than be wrong.  What
reads a tree from a file checks each value before it is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check, files
from .._version import __version__

Array = NDArray[Any]

FILE_CLASS = "Checkpoint"
_LOG = logging.getLogger("clstm")

# ------------------------------------------------------------------------------------------- trees as files

# What stands for a value that JSON has not: an object with this name, under which its kind is.  Names of a
# tree's own that begin so get another one in front.
_MARK = "$"
_FIELDS = {
    "int": ("hex",),
    "float": ("hex",),
    "tuple": ("items",),
    "array": ("dtype", "tensor"),
    "scalar": ("dtype", "tensor"),
}
_INTEGER = re.compile("-?0x[0-9a-f]+")
_FLOAT = re.compile("[0-9a-f]{16}")
_DTYPES = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32",
        "float64",
    )
}  # fmt: skip
# Of dicts and lists in one another, so that the file has no more levels than `files` takes.
_DEEPEST = 24


def pack(tree: Any) -> tuple[dict[str, Any], dict[str, Array]]:
    """Take a tree apart into what `files.write` takes.

    Parameters
    ----------
    tree : object
        Dicts with text as names, lists, tuples, strings, integers of any size, floats, booleans, None, and
        arrays and scalars of NumPy of bool, of integers, of float32 or float64; in at most 24 levels, of
        which a tuple counts for two.

    Returns
    -------
    arguments : dict
        JSON values.
    tensors : dict of ndarray
        float32 and float64; they may share memory with the arrays of the tree.

    Raises
    ------
    TypeError, ValueError
        Something else is in the tree; the message says where.

    Notes
    -----
    Every value comes back with its type and its bits, NaN and infinities included.  Integers and booleans of
    arrays lie in the file as 64 bits each, under the name of float64.

    Examples
    --------
    >>> from clstm.nn import checkpoints
    >>> arguments, tensors = checkpoints.pack({"loss": [0.5, np.inf], "order": np.arange(3)})
    >>> checkpoints.unpack(arguments, tensors)
    {'loss': [0.5, inf], 'order': array([0, 1, 2])}
    """
    tensors: dict[str, Array] = {}
    return {"tree": _encode("tree", tree, tensors, 0)}, tensors


def unpack(arguments: Mapping[str, Any], tensors: Mapping[str, Array]) -> Any:
    """Put together again what `pack` has taken apart.

    Parameters
    ----------
    arguments : mapping
    tensors : mapping of ndarray
        Those of a file; arrays of floats in the tree may share their memory.

    Returns
    -------
    object
        The tree.

    Raises
    ------
    TypeError, ValueError
        These do not come from `pack`.
    """
    _check.entries("arguments", arguments, ("tree",), True)
    left = dict(tensors)
    tree = _decode("tree", arguments["tree"], left)
    if left:
        raise ValueError(f"tensors: expected each in one place of the tree; in none: {_check.listed(left)}")
    return tree


def digest(tree: Any) -> str:
    """Name a tree of plain values and arrays: the same for the same values alone."""
    arguments, tensors = pack(tree)
    found = hashlib.blake2b(json.dumps(arguments).encode(), digest_size=16, usedforsecurity=False)
    for array in tensors.values():
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _encode(place: str, value: Any, tensors: dict[str, Array], depth: int) -> Any:
    """Return a value as JSON has it, and add its arrays to the tensors."""
    if isinstance(value, np.ndarray | np.generic):
        return _encode_array(place, value, tensors)
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return value if -(1 << 63) <= value < 1 << 63 else {_MARK: "int", "hex": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {_MARK: "float", "hex": struct.pack(">d", value).hex()}
    if type(value) not in (dict, list, tuple):
        raise TypeError(
            f"{place}: expected a dict, list, tuple, string, number, boolean, None or array, "
            f"got {_check.describe(value)}"
        )
    if depth >= _DEEPEST:
        raise ValueError(f"{place}: expected at most {_DEEPEST} levels of dicts and lists, got more")
    if type(value) is list:
        return [_encode(f"{place}[{k}]", item, tensors, depth + 1) for k, item in enumerate(value)]
    if type(value) is tuple:
        return {_MARK: "tuple", "items": _encode(place, list(value), tensors, depth + 1)}
    encoded = {}
    for name, item in value.items():
        inner = f"{place}[{_check.describe(name)}]"
        if type(name) is not str:
            raise TypeError(f"{inner}: expected text as a name, got {_check.describe(name)}")
        encoded[_MARK + name if name.startswith(_MARK) else name] = _encode(inner, item, tensors, depth + 1)
    return encoded


def _encode_array(place: str, value: Array | np.generic, tensors: dict[str, Array]) -> dict[str, Any]:
    """Return what points to a new tensor, which holds an array or a scalar."""
    scalar = isinstance(value, np.generic)
    if value.dtype not in _DTYPES.values() or not (scalar or type(value) is np.ndarray):
        raise TypeError(
            f"{place}: expected a plain array of booleans, integers, float32 or float64, "
            f"got {type(value).__name__} of dtype {value.dtype}"
        )
    array = np.asarray(value)
    if array.dtype.kind != "f":
        array = np.ascontiguousarray(array, _wide(array.dtype)).view(np.float64).reshape(array.shape)
    name = str(len(tensors))
    tensors[name] = array
    return {_MARK: "scalar" if scalar else "array", "dtype": value.dtype.name, "tensor": name}


def _wide(dtype: np.dtype[Any]) -> type[np.int64 | np.uint64]:
    """Return the integers of 64 bits in which those of a dtype are kept."""
    return np.uint64 if dtype == np.uint64 else np.int64


def _decode(place: str, node: Any, left: dict[str, Array]) -> Any:
    """Return the value of a JSON value; the tensors that it needs are taken away."""
    if isinstance(node, list):
        return [_decode(f"{place}[{k}]", item, left) for k, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if _MARK in node:
        return _decode_marked(place, node, left)
    tree = {}
    for name, item in node.items():
        if name.startswith(_MARK) and not name.startswith(2 * _MARK):
            raise ValueError(f"{place}: expected no name that begins so, got {_check.describe(name)}")
        own = name[1:] if name.startswith(_MARK) else name
        tree[own] = _decode(f"{place}[{_check.describe(own)}]", item, left)
    return tree


def _decode_marked(place: str, node: dict[str, Any], left: dict[str, Array]) -> Any:
    """Return the value for which an object with a mark stands."""
    kind = _check.choice(f"{place}[{_MARK!r}]", node[_MARK], tuple(_FIELDS))
    _check.entries(place, node, (_MARK, *_FIELDS[kind]), True)
    if kind == "tuple":
        _check.instance(place, node["items"], list)
        return tuple(_decode(place, node["items"], left))
    if kind in ("array", "scalar"):
        array = _decode_array(place, node, left)
        if kind == "scalar":
            _check.shape(place, array, ())
        return array if kind == "array" else array[()]
    text = node["hex"]
    if not isinstance(text, str) or not (_INTEGER if kind == "int" else _FLOAT).fullmatch(text):
        raise ValueError(f"{place}: expected {kind} as hexadecimal digits, got {_check.describe(text)}")
    return int(text, 16) if kind == "int" else struct.unpack(">d", bytes.fromhex(text))[0]


def _decode_array(place: str, node: dict[str, Any], left: dict[str, Array]) -> Array:
    """Return the array of a tensor."""
    dtype = _DTYPES[_check.choice(f"{place}: dtype", node["dtype"], tuple(_DTYPES))]
    if not isinstance(node["tensor"], str) or node["tensor"] not in left:
        raise ValueError(
            f"{place}: expected the name of a tensor that is in no other place, "
            f"got {_check.describe(node['tensor'])}"
        )
    array = left.pop(node["tensor"])
    stored = dtype if dtype.kind == "f" else np.dtype(np.float64)
    if array.dtype != stored:
        raise TypeError(f"{place}: expected a tensor of dtype {stored} for {dtype}, got {array.dtype}")
    if dtype.kind == "f":
        return array
    wide = array.view(_wide(dtype))
    values = wide.astype(dtype)
    if not np.array_equal(values, wide):
        raise ValueError(f"{place}: expected integers that {dtype} can hold, got others")
    return values


# --------------------------------------------------------------------------------------- states of generators

# What the state of each generator consists of: a number stands for integers below it, a dtype and a size for
# an array.  NumPy takes a state as it is, and a position beyond an array would read memory of others.
_HALF = {"has_uint32": 2, "uinteger": 1 << 32}
_STATES: dict[str, dict[str, Any]] = {
    "PCG64": {"state": {"state": 1 << 128, "inc": 1 << 128}} | _HALF,
    "PCG64DXSM": {"state": {"state": 1 << 128, "inc": 1 << 128}} | _HALF,
    "MT19937": {"state": {"key": (np.dtype(np.uint32), 624), "pos": 625}},
    "Philox": {
        "state": {"counter": (np.dtype(np.uint64), 4), "key": (np.dtype(np.uint64), 2)},
        "buffer": (np.dtype(np.uint64), 4),
        "buffer_pos": 5,
    }
    | _HALF,
    "SFC64": {"state": {"state": (np.dtype(np.uint64), 4)}} | _HALF,
}


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of a generator as a tree that `pack` takes.

    Parameters
    ----------
    rng : numpy.random.Generator
        On PCG64, PCG64DXSM, MT19937, Philox or SFC64.

    Returns
    -------
    dict
        Everything that the next draws depend on.  What `rng.spawn` returns does not depend on it.

    Raises
    ------
    TypeError
        It stands on another bit generator.

    Examples
    --------
    >>> from clstm.nn import checkpoints
    >>> rng = np.random.default_rng(0)
    >>> other = checkpoints.make_generator(checkpoints.generator_state(rng))
    >>> bool(rng.random() == other.random())
    True
    """
    _class_of(rng)
    return dict(rng.bit_generator.state)


def set_generator_state(rng: np.random.Generator, tree: Any) -> None:
    """Let a generator go on from a state.

    Parameters
    ----------
    rng : numpy.random.Generator
        On the same bit generator as the one that the state is of.
    tree : dict
        As `generator_state` returns it; every value of it is checked.

    Raises
    ------
    TypeError
        `rng` is no generator that has such a state.
    ValueError
        The state is none, or that of another bit generator; `rng` is as it was.
    """
    name = _class_of(rng)
    checked = _check_state(tree)
    if checked["bit_generator"] != name:
        raise ValueError(f"generator: expected the state of a {name}, got that of a {tree['bit_generator']}")
    rng.bit_generator.state = checked


def make_generator(tree: Any) -> np.random.Generator:
    """Make a generator that goes on from a state.

    Parameters
    ----------
    tree : dict
        As `generator_state` returns it; every value of it is checked.

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    ValueError
        The state is none.
    """
    checked = _check_state(tree)
    bit_generator: np.random.BitGenerator = getattr(np.random, checked["bit_generator"])()
    bit_generator.state = checked
    return np.random.Generator(bit_generator)


def _class_of(rng: object) -> str:
    """Return the name of the bit generator of a generator."""
    if isinstance(rng, np.random.Generator):
        for name in _STATES:
            if type(rng.bit_generator) is getattr(np.random, name):
                return name
    raise TypeError(
        f"generator: expected a numpy.random.Generator on {', '.join(_STATES)}, got {_check.describe(rng)}"
    )


def _check_state(tree: Any) -> dict[str, Any]:
    """Return a state that has been compared with what its generator's consists of."""
    try:
        _check.instance("generator", tree, dict)
        name = _check.choice("generator['bit_generator']", tree.get("bit_generator"), tuple(_STATES))
        checked: dict[str, Any] = _check_part("generator", tree, {"bit_generator": name} | _STATES[name])
    except TypeError as error:
        raise ValueError(str(error)) from error
    own = checked["state"]
    if "inc" in own and own["inc"] % 2 == 0:
        raise ValueError(f"generator['state']['inc']: expected an odd number, got {own['inc']}")
    if name == "MT19937" and not own["key"].any():
        raise ValueError("generator['state']['key']: expected a number that is not 0, got zeros")
    return checked


def _check_part(place: str, value: Any, expected: Any) -> Any:
    """Return part of a state, which must be as `_STATES` says."""
    if isinstance(expected, dict):
        _check.entries(place, value, expected, True)
        return {name: _check_part(f"{place}[{name!r}]", value[name], expected[name]) for name in expected}
    if isinstance(expected, tuple):
        dtype, size = expected
        if type(value) is not np.ndarray or value.dtype != dtype or value.shape != (size,):
            raise ValueError(
                f"{place}: expected an array of shape ({size},) and dtype {dtype}, "
                f"got {_check.describe(value)}"
            )
        return value
    if isinstance(expected, int):
        number = _check.integer(place, value, 0)
        if number >= expected:
            raise ValueError(f"{place}: expected an integer below {expected}, got {_check.describe(number)}")
        return number
    return value  # the name, which has been compared


# ------------------------------------------------------------------------------------------------ the folder

_NAME = re.compile(r"checkpoint-([0-9]{12,})\.safetensors")


def holds_checkpoints(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is a folder with checkpoints, from which a run can go on.

    Parameters
    ----------
    path : str or path-like

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    return os.path.isdir(path) and bool(CheckpointFolder(path, 1).numbers())


class CheckpointFolder:
    """A folder of checkpoints, one file for each, of which the newest and the best are kept.

    Parameters
    ----------
    path : str or path-like
        Nothing is created before `begin`.
    keep : int
        How many of the newest are kept; the best is kept beside them.

    Attributes
    ----------
    path : str
    keep : int

    Notes
    -----
    Each file says of itself whether it was the best when it was written, so that the best needs no second
    file and no link: it is the newest that says so.  Files are removed after a new one has reached the disk,
    and whatever has another name is left alone.

    Examples
    --------
    >>> from clstm.nn.checkpoints import CheckpointFolder
    >>> folder = CheckpointFolder("run", keep=2)
    >>> folder.begin()
    >>> for update, best in ((10, True), (20, False), (30, False), (40, False)):
    ...     folder.write(update, {"weights": np.full(2, update)}, best)
    >>> folder.numbers()
    [10, 30, 40]
    >>> folder.newest()
    ({'weights': array([40, 40])}, 40)
    """

    def __init__(self, path: str | os.PathLike[str], keep: int) -> None:
        self.path = os.fsdecode(path)
        self.keep = _check.integer("keep", keep, 1)
        # Whether a checkpoint was the best when it was written, None if it cannot be read.
        self._was_best: dict[int, bool | None] = {}

    def begin(self) -> None:
        """Make the folder ready for a new run: create it, or refuse one that holds checkpoints.

        Raises
        ------
        FileExistsError
            It holds checkpoints, or is no folder.
        OSError
            It cannot be created, because the folder above it is missing for example.
        """
        if not os.path.isdir(self.path):
            os.mkdir(self.path)
        if self.numbers():
            raise FileExistsError(
                errno.EEXIST,
                "checkpoint: expected a folder without checkpoints, got one that holds some; go on from them "
                "with nn.resume, or take another folder",
                self.path,
            )

    def numbers(self) -> list[int]:
        """Return the numbers of updates of which there are files, in order.

        Raises
        ------
        OSError
            The folder cannot be read.
        """
        with os.scandir(self.path) as entries:
            found = [int(match[1]) for entry in entries if (match := _NAME.fullmatch(entry.name))]
        return sorted({number for number in found if os.path.isfile(self._file(number))})

    def write(self, update: int, tree: Any, best: bool) -> None:
        """Write a checkpoint, whole or not at all, then remove those that are no longer kept.

        Parameters
        ----------
        update : int
            Number of updates done, which names the file.
        tree : object
            As `pack` takes it.
        best : bool
            Whether this is the best so far.

        Raises
        ------
        OSError
            The file cannot be written; those before it are all there.
        TypeError, ValueError
            The tree holds what no file can.
        """
        update, best = _check.integer("update", update, 0), _check.boolean("best", best)
        arguments, tensors = pack(tree)
        record = {"update": update, "best": best} | arguments
        files.write(self._file(update), FILE_CLASS, record, tensors, __version__)
        self._was_best[update] = best
        self._prune(update)

    def newest(self) -> tuple[Any, int]:
        """Read the newest checkpoint, or the one before it if that is damaged, and so on.

        Returns
        -------
        tree : object
        update : int

        Raises
        ------
        FileFormatError
            None of them can be read.
        FileNotFoundError
            There is none.
        """
        numbers = self.numbers()
        if not numbers:
            raise FileNotFoundError(errno.ENOENT, "Expected checkpoints, found none", self.path)
        reasons = []
        for number in reversed(numbers):
            try:
                self._was_best[number], tree = self._read(number, whole=True)
            except (OSError, _check.FileFormatError) as error:
                self._was_best[number] = None
                reasons.append(error)
                _LOG.warning("checkpoint that cannot be read is passed over: %s", error)
            else:
                return tree, number
        raise _check.FileFormatError(
            self.path, f"none of {len(numbers)} checkpoints can be read; the newest: {reasons[0]}"
        ) from reasons[0]

    def _file(self, number: int) -> str:
        """Return the path of a checkpoint."""
        return os.path.join(self.path, f"checkpoint-{number:012d}.safetensors")

    def _read(self, number: int, *, whole: bool) -> tuple[bool, Any]:
        """Return whether a checkpoint was the best, and its tree if the whole of it is wanted."""
        contents = files.read(self._file(number))
        contents.expect(FILE_CLASS)
        with files.as_format_error(contents.path):
            _check.entries("arguments", contents.arguments, ("update", "best", "tree"), True)
            best = _check.boolean("best", contents.arguments["best"])
            if contents.arguments["update"] != number:
                told = _check.describe(contents.arguments["update"])
                raise ValueError(f"update: expected {number}, as its name says, got {told}")
            tree = unpack({"tree": contents.arguments["tree"]}, contents.tensors()) if whole else None
        return best, tree

    def _prune(self, update: int) -> None:
        """Remove what is neither among the newest, up to an update that has just been written, nor the best.

        Those of later updates were passed over by `newest`, or belong to another process: they count for
        nothing and stay.
        """
        numbers = [number for number in self.numbers() if number <= update]
        for number in numbers:
            if number not in self._was_best:
                try:
                    self._was_best[number], _ = self._read(number, whole=False)
                except (OSError, _check.FileFormatError):
                    self._was_best[number] = None
        readable = [number for number in numbers if self._was_best[number] is not None]
        kept = readable[-self.keep :] + [number for number in readable if self._was_best[number]][-1:]
        for number in numbers:
            if number not in kept:
                try:
                    os.unlink(self._file(number))
                except OSError as error:
                    _LOG.warning("checkpoint that is no longer needed stays: %s", error)
