"""LSTMs of PyTorch: files of ``torch.save`` in both formats, safetensors, mappings of tensors, modules.

PyTorch is never imported.  What is found, by the names of ``torch.nn.LSTM`` and ``LSTMCell``, are `Lazy`
tensors: shape and dtype first, numbers after all names and shapes have been compared.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from .. import _check, files
from .._check import FileFormatError
from . import pickled
from .contents import Archive, read_bytes
from .formats import TORCH_BEFORE_ZIP
from .found import Found, check_biases, check_count, choose, refuse_options

if TYPE_CHECKING:
    from ..parameters import Parameters

Array = NDArray[Any]

# Bytes of a number by the storage's class; of those alone that are in _FLOATS anything is read.
_ITEMSIZES = {
    "Half": 2, "BFloat16": 2, "Float": 4, "Double": 8, "Byte": 1, "Char": 1, "Short": 2, "Int": 4, "Long": 8,
    "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1,
    "QUInt2x4": 1, "Untyped": 1,
}  # fmt: skip
_FLOATS = {"Half": "float16", "BFloat16": "bfloat16", "Float": "float32", "Double": "float64"}
_NUMPY_FLOATS = {"f2": "float16", "f4": "float32", "f8": "float64"}
_SAFETENSORS_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}

_MATRICES = ("weight_ih", "weight_hh")
_BIASES = ("bias_ih", "bias_hh")
_CELL = (*_MATRICES, *_BIASES)
_OF_AN_LSTM = re.compile(r"(?:parametrizations\.)?weight_(?:ih|hh)(?:[_.].*)?")
_REPARAMETRISED = re.compile(r"parametrizations\.|weight_\w+_(?:orig|mask|raw|[guv])$")
_NOT_THERE = (
    "reverse", "peepholes", "coupled", "activations", "gate_clip", "cell_clip", "layer_norm", "zoneout",
)  # fmt: skip
# By the rows of weight_hh in units of its columns.
_OTHERS = {1: "an RNN, not an LSTM", 3: "a GRU, not an LSTM"}

# Of a file: tensors of LSTMs, nested dicts, characters of a name, and the bytes of all LSTMs beyond
# four times the file, which only tensors that share their numbers could have.
_MOST_TENSORS = 20_000
_DEEPEST = 32
_LONGEST_NAME = 1000
_MOST_SHARED = 1 << 24

_SAVE = "save the weights alone: torch.save(model.state_dict(), path)"


@dataclass(frozen=True, slots=True)
class Lazy:
    """A tensor whose numbers have not been read."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]  # float32 or float64; the array may be read-only


def find(source: Any) -> list[Found]:
    """Return every LSTM in a source; one that cannot be converted has its `trouble` set.

    Parameters
    ----------
    source : str, path-like, mapping or torch.nn.Module
        As for `clstm.LSTM.from_torch`.

    Returns
    -------
    list of Found
        Their names are prefixes without the last dot, "" if there is none.

    Raises
    ------
    FileFormatError
        The source cannot be read.
    OSError
        The file cannot be opened.
    """
    return [found for found in _candidates(source)[1] if not _is_other(found)]


def read(source: Any, prefix: str | None = None) -> Found:
    """Return one LSTM of a source: see `clstm.LSTM.from_torch`."""
    if prefix is not None:
        _check.instance("prefix", prefix, str)
    path, candidates = _candidates(source)
    if prefix is None:
        lstms = [found for found in candidates if not _is_other(found)]
        return choose(path, lstms or candidates[:1], None, "prefix")
    name = prefix.removesuffix(".")
    if name not in [found.name for found in candidates]:
        ends = [found.name for found in candidates if found.name.endswith(f".{name}")]
        name = ends[0] if len(ends) == 1 else name
    return choose(path, candidates, name, "prefix")


def write(lstm: Parameters, path: str | os.PathLike[str] | None = None) -> dict[str, Array]:
    """Return the state_dict of a layer: see `clstm.LSTM.to_torch`."""
    refuse_options(lstm, _NOT_THERE, "torch.nn.LSTM")
    state_dict = {}
    for name, value in lstm.state_dict().items():
        if name.startswith("bias_"):
            state_dict[name.replace("bias_", "bias_ih_")] = value
            state_dict[name.replace("bias_", "bias_hh_")] = np.zeros_like(value)
        else:
            state_dict[name] = value
    if path is not None:
        files.replace(path, safetensors.numpy.save(state_dict, metadata={"format": "pt"}))
    return state_dict


# ---------------------------------------------------------------------------------- from a source to LSTMs


def _candidates(source: Any) -> tuple[object, list[Found]]:
    """Return what messages call a source, and everything in it that has names of an LSTM."""
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        content = read_bytes(path)
        groups = _groups(path, _open(path, content))
        lazies = [lazy for tensors in groups.values() for lazy in tensors.values() if isinstance(lazy, Lazy)]
        floats = [lazy for lazy in lazies if lazy.dtype in _FLOATS.values()]
        if sum(math.prod(lazy.shape) * 4 for lazy in floats) > 4 * len(content) + _MOST_SHARED:
            raise FileFormatError(path, "its tensors share their numbers so often that they are refused")
        return path, [_convert(path, name, tensors) for name, tensors in groups.items()]
    if isinstance(source, Mapping):
        description = f"a {type(source).__name__} of tensors"
        return description, [_convert(description, *group) for group in _groups(description, source).items()]
    if not callable(getattr(source, "state_dict", None)) or not callable(
        getattr(source, "get_submodule", None)
    ):
        raise TypeError(
            "source: expected a path, a mapping of names to tensors, or a module of PyTorch, "
            f"got {_check.describe(source)}"
        )
    description = f"a module {type(source).__name__}"
    found = [_convert(description, *group) for group in _groups(description, source.state_dict()).items()]
    return description, [each._replace(arguments=_settings(source, each)) for each in found]


def _is_other(found: Found) -> bool:
    """Whether this is another kind of layer, which has the same names."""
    return found.trouble in _OTHERS.values()


def _settings(module: Any, found: Found) -> dict[str, Any]:
    """Add to what the weights of a module say what its attributes say."""
    own = module.get_submodule(found.name)
    settings = {name: getattr(own, name) for name in ("batch_first", "dropout") if hasattr(own, name)}
    return found.arguments | settings


def _groups(path: object, source: Any) -> dict[str, dict[str, Any]]:
    """Return, by prefix, everything that stands beside a weight of an LSTM."""
    groups: dict[str, dict[str, Any]] = {}
    tensors = 0
    for where, mapping in _mappings(path, source):
        keys = [key for key in mapping if isinstance(key, str)]
        prefixes = {prefix for prefix, name in map(_split, keys) if _OF_AN_LSTM.fullmatch(name)}
        names = {prefix: ".".join(part for part in (*where, prefix) if part) for prefix in prefixes}
        if any(len(name) > _LONGEST_NAME for name in names.values()):
            raise FileFormatError(path, f"expected names of at most {_LONGEST_NAME} characters")
        for key in keys if prefixes else ():
            prefix, name = _split(key)
            if prefix not in names:
                continue
            value = mapping[key]
            lazy = _as_lazy(value)
            if lazy is not None or _OF_AN_LSTM.fullmatch(name) or name.startswith(_BIASES):
                group = groups.setdefault(names[prefix], {})
                if name in group:
                    raise FileFormatError(path, f"expected each name once, got {_check.describe(name)} again")
                group[name] = value if lazy is None else lazy
                tensors += 1
                check_count(path, len(groups))
                if tensors > _MOST_TENSORS:
                    raise FileFormatError(
                        path, f"expected at most {_MOST_TENSORS} tensors of LSTMs, got more"
                    )
    for prefix, group in groups.items():
        inner = groups.get(f"{prefix}.module".lstrip("."), {})
        # fastai's WeightDropout has the weights; its module has what a dropout has made of them.
        inner |= {name: lazy for name, lazy in group.items() if name.endswith("_raw")}
    return groups


def _mappings(path: object, source: Any) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Go through the mappings in a source, in their order, each once; a list counts as one of its places."""
    seen: dict[int, Any] = {}  # the values too, so that no other gets the id
    pending: list[tuple[tuple[str, ...], Any]] = [((), source)]
    while pending:
        where, value = pending.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if len(where) > _DEEPEST:
            raise FileFormatError(path, f"expected dicts that are nested at most {_DEEPEST} deep")
        inner: list[tuple[Any, Any]]
        if isinstance(value, Mapping):
            yield where, value
            inner = list(value.items())
        else:
            inner = list(enumerate(value)) if isinstance(value, list | tuple) else []
        pending += [
            ((*where, str(key)), part)
            for key, part in reversed(inner)
            if isinstance(part, Mapping | list | tuple) and isinstance(key, str | int)
        ]


def _split(key: str) -> tuple[str, str]:
    """Split a key into a prefix and a name of an LSTM's tensor."""
    before, parametrised, after = f".{key}".partition(".parametrizations.")
    if parametrised:
        return before[1:], parametrised[1:] + after
    prefix, _, name = key.rpartition(".")
    return prefix, name


def _as_lazy(value: Any) -> Lazy | None:
    """Return a tensor or an array of whatever source, None for everything else."""
    if isinstance(value, Lazy):
        return value
    if isinstance(value, pickled.PickledArray):
        return Lazy(
            value.shape, _NUMPY_FLOATS.get(value.dtype, value.dtype), lambda: _as_native(value.read())
        )
    if isinstance(value, pickled.Opaque) or not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return None
    dtype = str(value.dtype).removeprefix("torch.")
    if isinstance(value, np.ndarray | np.generic):
        dtype = value.dtype.name
    return Lazy(tuple(value.shape), dtype, lambda: _as_native(_check.on_cpu(value)))


def _as_native(value: Any) -> Array:
    """Return numbers as float32 or float64 in the order of this machine; both are exact."""
    array: Array = np.asarray(value)
    return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32, copy=False)


class _TroubleError(ValueError):
    """Why something that has the names of an LSTM is none that can be read."""


def _convert(path: object, name: str, tensors: dict[str, Any]) -> Found:
    """Return an LSTM, or why it is none."""
    try:
        arguments, shapes = _sizes(tensors)
        params = {own: tensors[own].read() for own in shapes}
    except _TroubleError as error:
        return Found(name, {}, {}, str(error))
    except FileFormatError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise FileFormatError(path, f"{_check.describe(name)}: {error}") from error
    try:
        check_biases(params)
    except ValueError as error:
        return Found(name, {}, {}, str(error))
    return Found(name, arguments, params)


def _sizes(tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Compare names, dtypes and shapes; return arguments of an LSTM and the shapes, in PyTorch's order.

    Names of an `LSTMCell` are changed in `tensors` into those of an LSTM.
    """
    shapes_hh = [t.shape for name, t in tensors.items() if isinstance(t, Lazy) and "weight_hh" in name]
    gates = {s[0] // s[1] for s in shapes_hh if len(s) == 2 and s[1] and s[0] % s[1] == 0}
    if 4 not in gates and (others := gates & _OTHERS.keys()):
        raise _TroubleError(_OTHERS[max(others)])
    for name in tensors:
        if _REPARAMETRISED.match(name):
            raise _TroubleError(
                f"{_check.shorten(name)}: expected plain weights, got reparametrised ones; in PyTorch call "
                "prune.remove, remove_weight_norm or remove_parametrizations first"
            )
    if "weight_ih" in tensors and "weight_ih_l0" not in tensors:
        for name in _CELL:
            if name in tensors:
                tensors[f"{name}_l0"] = tensors.pop(name)
    layers = 1
    while f"weight_ih_l{layers}" in tensors:
        layers += 1
    kinds = list(_MATRICES)
    if bias := any(name.startswith(_BIASES) for name in tensors):
        kinds += _BIASES
    if projected := "weight_hr_l0" in tensors:
        kinds += ["weight_hr"]
    suffixes = ["", "_reverse"] if "weight_ih_l0_reverse" in tensors else [""]
    names = [f"{kind}_l{k}{suffix}" for k in range(layers) for suffix in suffixes for kind in kinds]
    try:
        _check.entries("tensors", tensors, names, True)
    except ValueError as error:
        raise _TroubleError(str(error)) from None
    for name in names:
        if not isinstance(tensors[name], Lazy):
            raise _TroubleError(f"{name}: expected a tensor, got {pickled.kind_of(tensors[name])}")
        if tensors[name].dtype not in _FLOATS.values():
            dtype = _check.shorten(tensors[name].dtype)
            raise _TroubleError(f"{name}: expected dtype {', '.join(_FLOATS.values())}, got {dtype}")
        if len(tensors[name].shape) != 1 + (not name.startswith(_BIASES)) or 0 in tensors[name].shape:
            raise _TroubleError(f"{name}: expected another shape than {tensors[name].shape}")
    columns = tensors["weight_hh_l0"].shape[1]
    H = tensors["weight_hr_l0"].shape[1] if projected else columns
    if projected and columns >= H:
        raise _TroubleError(f"weight_hr_l0: expected fewer rows than columns, got {(columns, H)}")
    arguments = {
        "input_size": tensors["weight_ih_l0"].shape[1],
        "hidden_size": H,
        "num_layers": layers,
        "bias": bias,
        "bidirectional": len(suffixes) == 2,
        "proj_size": columns if projected else 0,
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        inputs = arguments["input_size"] if "_l0" in name else len(suffixes) * columns
        kind = name.partition("_l")[0]
        shapes[name] = {
            "weight_ih": (4 * H, inputs), "weight_hh": (4 * H, columns), "weight_hr": (columns, H),
        }.get(kind, (4 * H,))  # fmt: skip
        if tensors[name].shape != shapes[name]:
            raise _TroubleError(f"{name}: expected shape {shapes[name]}, got {tensors[name].shape}")
    return arguments, shapes


# ----------------------------------------------------------------------------------- from bytes to tensors


def _open(path: str, content: bytes) -> Any:
    """Return what a file holds: dicts, lists, lazy tensors; the content tells the format, not the name."""
    if content.startswith(b"PK\x03\x04"):
        return _open_zip(path, content)
    if content.startswith(TORCH_BEFORE_ZIP):
        return _open_legacy(path, content)
    if content[257:262] == b"ustar":
        raise FileFormatError(path, f"a tar file of PyTorch before 0.2; load it with PyTorch and {_SAVE}")
    if content[8:9] == b"{":
        return {
            name: _from_safetensors(entry, data)
            for name, (entry, data) in files.foreign_tensors(path, content).items()
        }
    if content.startswith(b"\x80"):
        read = _unpickle(path, content, 0, None)
        if read.end != len(content):
            raise FileFormatError(path, f"expected one pickle of {read.end} bytes, got {len(content)}")
        return read.value
    raise FileFormatError(
        path, "expected a file of torch.save, a safetensors file or a pickle of protocol 2 to 5"
    )


def _from_safetensors(entry: files.Entry, data: memoryview) -> Lazy:
    dtype = _SAFETENSORS_FLOATS.get(entry.dtype, entry.dtype)
    return Lazy(entry.shape, dtype, lambda: _view(data, dtype, "<", 0, entry.shape, None))


def _view(
    data: bytes | memoryview,
    dtype: str,
    order: str,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
) -> Array:
    """Return an array on bytes; offset and strides count numbers, and have been compared with the bytes."""
    stored = np.dtype({"bfloat16": "u2", "float16": "f2", "float32": "f4", "float64": "f8"}[dtype])
    stored = stored.newbyteorder(order)  # type: ignore[arg-type]
    places = None if strides is None else [stride * stored.itemsize for stride in strides]
    array: Array = np.ndarray(shape, stored, data, offset * stored.itemsize, places)
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return _as_native(array)


class _Storage(NamedTuple):
    """A row of numbers that tensors share."""

    kind: str  # as in _ITEMSIZES
    key: str
    numel: int
    start: int  # of a view of another one, in numbers


class _Storages:
    """The storages of a file, by what its pickle says of them and what `fetch` gets of their bytes."""

    def __init__(self, order: str, fetch: Callable[[str], bytes | memoryview]) -> None:
        self._order = order
        self._fetch = fetch
        self._fetched: dict[str, bytes | memoryview] = {}
        self.declared: dict[str, tuple[str, int]] = {}  # kind and count of numbers, by key
        self.functions: dict[str, pickled.Function] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_of_bytes,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._tensor._rebuild_from_type_v2": self._of_type,
        }

    def persistent(self, given: Any) -> Any:
        """Return the storage that a persistent id stands for."""
        match given:
            case ("module", pickled.Global() as cls, *_):
                return cls
            case ("storage", pickled.Global(name), str(key), _, int(numel), *view):
                pass
            case _:
                raise ValueError("expected a persistent id of a storage")
        kind = name.rpartition(".")[2].removesuffix("Storage")
        if not name.startswith("torch.") or kind not in _ITEMSIZES:
            raise ValueError(f"expected a class of storages, got {_check.shorten(name)}")
        start, length = 0, numel
        match view:
            case [] | [None]:
                pass
            case [(_, int(start), int(length))]:
                pass
            case _:
                raise ValueError("expected a persistent id of a storage")
        if min(numel, start, length) < 0 or start + length > numel:
            raise ValueError(f"storage {_check.shorten(key)}: expected a part of its {numel} numbers")
        if self.declared.setdefault(key, (kind, numel)) != (kind, numel):
            raise ValueError(f"storage {_check.shorten(key)}: expected one class and size, got two")
        return _Storage(kind, key, length, start)

    def _tensor(self, args: tuple[Any, ...]) -> Any:
        if len(args) < 4 or not isinstance(args[0], _Storage):
            raise ValueError("expected a storage, an offset, a size and strides of a tensor")
        if len(args) > 6 and args[6]:  # of numbers whose sign or conjugate is to be taken
            return pickled.Opaque("a tensor with metadata")
        return self._lazy(args[0], args[0].kind, *args[1:4])

    def _tensor_of_bytes(self, args: tuple[Any, ...]) -> Any:
        if len(args) < 7 or not isinstance(args[0], _Storage) or not isinstance(args[6], pickled.Global):
            raise ValueError("expected a storage, an offset, a size, strides and a dtype of a tensor")
        return pickled.Opaque(args[6].name)

    def _lazy(self, storage: _Storage, kind: str, offset: Any, size: Any, stride: Any) -> Lazy:
        """Compare a view with its storage, so that it has no number twice and none that is not there."""
        sizes_and_strides = pickled.are_sizes(size) and pickled.are_sizes(stride) and len(size) == len(stride)
        if not sizes_and_strides or not pickled.are_sizes((offset,)):
            raise ValueError("expected an offset, a size and strides of a tensor, none of them negative")
        steps = tuple(step if n > 1 else 0 for n, step in zip(size, stride, strict=True))
        last = offset + sum((n - 1) * step for n, step in zip(size, steps, strict=True))
        if math.prod(size) > storage.numel or (math.prod(size) and last >= storage.numel):
            raise ValueError(
                f"expected a tensor in the {storage.numel} numbers of storage {_check.shorten(storage.key)}, "
                "got one that is larger"
            )
        dtype = _FLOATS.get(kind, kind)

        def read() -> Array:
            return _view(self._bytes(storage), dtype, self._order, storage.start + offset, size, steps)

        return Lazy(size, dtype, read)

    def _parameter(self, args: tuple[Any, ...]) -> Any:
        if not args:
            raise ValueError("expected a tensor of a parameter")
        return args[0]

    def _of_type(self, args: tuple[Any, ...]) -> Any:
        match args:
            case (pickled.Global(function), pickled.Global(), tuple(arguments), *_) if (
                function in self.functions and function != "torch._tensor._rebuild_from_type_v2"
            ):
                return self.functions[function](arguments)
        raise ValueError("expected a tensor of a known kind")

    def size(self, key: str) -> int:
        """Return how many bytes a storage should have."""
        kind, numel = self.declared[key]
        return numel * _ITEMSIZES[kind]

    def _bytes(self, storage: _Storage) -> bytes | memoryview:
        if storage.key not in self._fetched:
            self._fetched[storage.key] = self._fetch(storage.key)
        data, size = self._fetched[storage.key], self.size(storage.key)
        if len(data) != size:
            key = _check.shorten(storage.key)
            raise ValueError(f"storage {key}: expected {size} bytes, got {len(data)}")
        return data


def _unpickle(path: str, content: bytes, position: int, storages: _Storages | None) -> pickled.Pickle:
    """Read a pickle, and refuse modules."""
    read = (
        pickled.read(path, content, position)
        if storages is None
        else pickled.read(path, content, position, storages.functions, storages.persistent)
    )
    modules = [made for made in read.objects if isinstance(made.state, dict) and "_parameters" in made.state]
    if any(module.state["_parameters"] for module in modules):  # losses and the like have none
        outermost = _check.shorten(modules[0].name)
        raise FileFormatError(
            path, f"holds a whole module, {outermost}, which only its code could make; {_SAVE}"
        )
    return read


def _open_zip(path: str, content: bytes) -> Any:
    archive = Archive(path, content)
    roots = [name.removesuffix("data.pkl") for name in archive.names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise FileFormatError(path, f"expected one data.pkl in the archive of torch.save, got {len(roots)}")
    root = roots[0]
    if f"{root}constants.pkl" in archive.names:
        raise FileFormatError(
            path,
            "a TorchScript archive; torch.jit.load(path).state_dict() is a mapping that from_torch takes",
        )
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.names else b"little"
    if order not in (b"little", b"big"):
        raise FileFormatError(path, f"byteorder: expected little or big, got {_check.describe(order)}")
    storages = _Storages("<" if order == b"little" else ">", lambda key: archive.read(f"{root}data/{key}"))
    data = archive.read(f"{root}data.pkl")
    if len(data) > len(content):
        raise FileFormatError(path, f"data.pkl: expected {len(content)} bytes at most, got {len(data)}")
    read = _unpickle(path, data, 0, storages)
    if read.end != len(data):
        raise FileFormatError(path, f"data.pkl: expected {read.end} bytes, got {len(data)}")
    return read.value


def _open_legacy(path: str, content: bytes) -> Any:
    """Read five pickles, then for each storage the count of its numbers, and these."""
    position = len(TORCH_BEFORE_ZIP)
    before = []
    for _ in range(2):
        read = pickled.read(path, content, position)
        before.append(read.value)
        position = read.end
    if before[0] != 1001 or not isinstance(before[1], dict):
        raise FileFormatError(path, "expected protocol 1001 of torch.save")
    places: dict[str, memoryview] = {}
    # Whatever machine has written them, the numbers are little-endian.
    storages = _Storages("<", places.__getitem__)
    read = _unpickle(path, content, position, storages)
    keys = pickled.read(path, content, read.end)
    position = keys.end
    if (
        not isinstance(keys.value, list)
        or not all(isinstance(key, str) for key in keys.value)
        or sorted(keys.value) != sorted(storages.declared)
    ):
        raise FileFormatError(path, "expected a list of the keys of its storages")
    view = memoryview(content)
    for key in keys.value:
        count = int.from_bytes(view[position : position + 8], "little")
        start, position = position + 8, position + 8 + storages.size(key)
        if count != storages.declared[key][1] or position > len(content):
            raise FileFormatError(
                path,
                f"storage {_check.shorten(key)}: expected {storages.declared[key][1]} numbers in "
                f"{storages.size(key)} bytes, got {count} in {max(len(content) - start, 0)}",
            )
        places[key] = view[start:position]
    if position != len(content):
        raise FileFormatError(path, f"expected {position} bytes, got {len(content)}")
    return read.value
