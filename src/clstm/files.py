"""Files: named arrays, and the class and arguments that they belong to, as safetensors.

The classes themselves are not known here.  `read` looks at the header alone, so that its caller can compare
arguments and shapes before the data cost memory; `Contents.tensors` then reads the data.  Nothing is mapped,
since a file that another process truncates would end this one by SIGBUS, and nothing is believed: sizes are
compared before they are used, and a checksum covers what safetensors leaves open to damage.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from . import _check
from ._check import FileFormatError

if sys.platform != "win32":
    import fcntl

# The format that is written.  In format 1, of 0.1.0, the arguments of an LSTM stand in the record's place.
FORMAT = 2

_KEY = "clstm"  # of the record, in the metadata of the safetensors header
_RECORD = ("format", "version", "class", "arguments", "checksum")
_ARGUMENTS_1 = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "dtype",
    "forget_bias", "init",
)  # fmt: skip

# Bytes of a header: room for 150 000 tensors, a few seconds and at worst 0.5 GB to parse.
_LONGEST_HEADER = 1 << 24
# In files of others, of which a quick end is promised: 10 000 tensors, at worst 32 MB.
_LONGEST_FOREIGN_HEADER = 1 << 20
# Of lists and objects in the arguments: a model of models of layers needs three times two.
_DEEPEST_ARGUMENTS = 32
# Axes of an array in NumPy 1.
_MOST_AXES = 32

# NumPy has no bfloat16: its bits, under a name of their own.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": _FLOATS[0], "F64": _FLOATS[1], "BF16": BFLOAT16, "I8": np.dtype(np.int8),
}  # fmt: skip
# Bytes of a number, of what others write; of a dtype that is not here only the place is known.
_ITEMSIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_NO_SAFETENSORS = "not a safetensors file that NumPy can read ({})"
_TEMPORARY = re.compile(r"\.clstm-[0-9a-f]{16}\.tmp")


class Entry(NamedTuple):
    """A tensor in the header of a file."""

    dtype: str  # as safetensors calls it: F32, BF16 and so on
    shape: tuple[int, ...]
    place: tuple[int, int]  # bytes of the data, begin and end


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file says before its tensors are read.

    The file stays open until the object is collected, so that `tensors` belong to the same file even if it is
    replaced meanwhile.

    Attributes
    ----------
    path : str
    class_name : str
        "LSTM" for files of 0.1.0.
    arguments : dict
        JSON values.
    shapes : dict of tuple
        Shape of each tensor.
    dtypes : dict of dtype
        float32, float64, int8 or `BFLOAT16`, for each tensor.
    """

    path: str
    class_name: str
    arguments: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    _file: FileIO = field(repr=False)
    _head: bytes = field(repr=False)  # the bytes before the data
    _status: tuple[int, int] = field(repr=False)
    _version: str = field(repr=False)
    _checksum: str | None = field(repr=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, self._file.close)

    def expect(self, class_name: str, floats: bool = True) -> None:
        """Compare the class.

        Parameters
        ----------
        class_name : str
        floats : bool
            Whether the class has tensors of float32 and float64 alone.

        Raises
        ------
        FileFormatError
            The file holds an object of another class, or tensors that such an object has not.
        """
        if self.class_name != class_name:
            raise FileFormatError(
                self.path, f"expected a file of class {class_name}, got {_check.describe(self.class_name)}"
            )
        for name, dtype in self.dtypes.items() if floats else ():
            if dtype not in _FLOATS:
                raise FileFormatError(
                    self.path,
                    f"{_check.shorten(name)}: expected dtype float32 or float64, got {dtype_name(dtype)}",
                )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Read the data.

        Returns
        -------
        dict of ndarray
            Fresh arrays by name.

        Raises
        ------
        FileFormatError
            The data do not fit the checksum, or the file was changed after its header was read.
        """
        self._file.seek(0)
        content = _read(self._file, self._status[0])
        if _status(self._file) != self._status or not content.startswith(self._head):
            raise FileFormatError(self.path, "changed while it was read")
        with as_format_error(self.path, _NO_SAFETENSORS):
            tensors = _unpack(content)
        if self._checksum is not None and self._checksum != _checksum(
            self._version, self.class_name, self.arguments, tensors
        ):
            raise FileFormatError(self.path, "damaged: its contents do not fit its checksum")
        return {name: tensors[name] for name in self.shapes}


def read(path: str | os.PathLike[str]) -> Contents:
    """Read what a file says of its tensors.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Contents
        Class, arguments, shapes and dtypes; its method `tensors` reads the data.

    Raises
    ------
    FileFormatError
        The file was written neither by `write` nor by 0.1.0, it is damaged, or its format is newer than
        `FORMAT`.
    OSError
        The file cannot be opened.
    """
    path = os.fsdecode(path)
    file = FileIO(path, opener=_open_at_once)
    try:
        return _read_contents(path, file)
    except BaseException:
        file.close()
        raise


def write(
    path: str | os.PathLike[str],
    class_name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    version: str,
) -> None:
    """Write a file, whole or not at all.

    An existing file keeps its mode, and a symbolic link stays one: what it points to is replaced.

    Parameters
    ----------
    path : str or path-like
        Replaced if it exists, after the new content has reached the disk.
    class_name : str
        Of the object that the file is of.
    arguments : mapping
        JSON values to make the object with.
    tensors : mapping of ndarray
        float32, float64, int8 or `BFLOAT16`; they must not change until the call returns.
    version : str
        Of the package that writes.

    Raises
    ------
    OSError
        The file cannot be written; an old one is as it was.

    Examples
    --------
    >>> from clstm import files
    >>> files.write("a.safetensors", "Dense", {"bias": False}, {"weight": np.eye(2)}, "0.2.0")
    >>> contents = files.read("a.safetensors")
    >>> contents.class_name, contents.arguments, contents.shapes
    ('Dense', {'bias': False}, {'weight': (2, 2)})
    >>> contents.tensors()["weight"]
    array([[1., 0.],
           [0., 1.]])
    """
    replace(path, _pack(class_name, arguments, tensors, version))


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file by new content, whole or not at all.

    Parameters
    ----------
    path : str or path-like
        As for `write`.
    content : bytes

    Raises
    ------
    OSError
        The file cannot be written; an old one is as it was.
    """
    path = os.fsdecode(path)
    try:
        _replace(path, content)
    except OSError as error:  # whatever it names, the user knows this path
        raise OSError(error.errno, error.strerror, path) from None


def foreign_tensors(path: object, content: bytes) -> dict[str, tuple[Entry, memoryview]]:
    """Find the tensors in a safetensors file that another package has written.

    Parameters
    ----------
    path
        For messages.
    content : bytes
        Of the whole file.

    Returns
    -------
    dict of tuple
        By name, what the header says, and the bytes, little-endian, in C order.

    Raises
    ------
    FileFormatError
        It is no safetensors file, or was written by `write`.
    """
    with as_format_error(path, _NO_SAFETENSORS):
        length = _header_length(content[:8], len(content), _LONGEST_FOREIGN_HEADER)
        entries, metadata = _parse_header(content[8 : 8 + length])
        table = _read_table(entries, len(content) - 8 - length, _ITEMSIZES, strict=False)
    if _KEY in metadata:
        raise FileFormatError(path, "expected a file of another package; clstm.load reads this one")
    data = memoryview(content)[8 + length :]
    return {name: (entry, data[slice(*entry.place)]) for name, entry in table.items()}


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return what messages call a dtype.

    Parameters
    ----------
    dtype : dtype
    """
    return "bfloat16" if dtype == BFLOAT16 else dtype.name


# -------------------------------------------------------------------------------- contents to bytes and back


def _pack(
    class_name: str, arguments: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], version: str
) -> bytes:
    """Return the content of a file."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(arguments), allow_nan=False))  # as it will be read
    _check_depth(plain)
    for name, value in tensors.items():
        if value.dtype not in _DTYPES.values():
            raise ValueError(
                f"{name}: expected dtype float32, float64, int8 or bfloat16, got {dtype_name(value.dtype)}"
            )
    dense = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    values = (FORMAT, version, class_name, plain, _checksum(version, class_name, plain, dense))
    text = json.dumps(dict(zip(_RECORD, values, strict=True)))
    halves = [name for name, value in dense.items() if value.dtype == BFLOAT16]
    known = dense | {name: dense[name].view(np.uint16) for name in halves}
    content = _as_bfloat16(safetensors.numpy.save(known, metadata={_KEY: text}), halves)
    length = int.from_bytes(content[:8], "little")
    if length > _LONGEST_HEADER:
        raise ValueError(
            f"arguments and names of tensors: expected at most {_LONGEST_HEADER} bytes of text, got {length}"
        )
    return content


def _as_bfloat16(content: bytes, names: list[str]) -> bytes:
    """Say in a header what some tensors of 16 bits are, which NumPy's side of the library cannot write."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name in names:
        header[name]["dtype"] = "BF16"
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :] if names else content


def _unpack(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file; the library names any trouble, at whatever length."""
    try:
        return {
            name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in safetensors.deserialize(content)  # type: ignore[no-untyped-call]
        }
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(_check.shorten(str(error))) from error


def _checksum(
    version: str, class_name: str, arguments: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> str:
    """Digest everything that a file says, in an order that does not depend on its layout.

    128 bits of BLAKE2b, which keep up with a disk: no two files are ever taken for each other, while of all
    damage that is longer than its 32 bits, a CRC lets one case in four billion pass.  It is no signature: who
    changes a file on purpose can change the checksum too.
    """
    ordered = sorted(tensors.items())
    table = [(name, dtype_name(value.dtype), value.shape) for name, value in ordered]
    text = json.dumps([FORMAT, version, class_name, arguments, table], sort_keys=True, allow_nan=False)
    digest = hashlib.blake2b(text.encode(), digest_size=16, usedforsecurity=False)
    for _, value in ordered:
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------- reading


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, without waiting for somebody to write into it if it is a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(file: FileIO, size: int) -> bytes:
    """Read `size` bytes, or what there is; the system hands over at most 2 GB at once."""
    parts = []
    try:
        while size and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from None
    return b"".join(parts)


def _status(file: FileIO) -> tuple[int, int]:
    """Return size and time of the last change."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


@contextmanager
def as_format_error(path: object, wording: str = "{}") -> Iterator[None]:
    """Turn what is wrong with the contents of a file into the one error of files.

    Parameters
    ----------
    path
        For the message.
    wording : str
        What the message makes of the reason.

    Raises
    ------
    FileFormatError
        The block has ended in a TypeError, ValueError or RecursionError.
    """
    try:
        yield
    except FileFormatError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(path, wording.format(error)) from error


def _read_contents(path: str, file: FileIO) -> Contents:
    """Read everything but the data, and compare the size of the data with the header's."""
    status = _status(file)
    size = status[0]
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise FileFormatError(path, "expected a regular file, got a FIFO or a device")
    with as_format_error(path, _NO_SAFETENSORS):
        head = _read_head(file, size)
        entries, metadata = _parse_header(head[8:])
    if _KEY not in metadata:
        raise FileFormatError(
            path, f"a safetensors file, but without the constructor's arguments under {_KEY!r}"
        )
    with as_format_error(path):
        _check.instance(_KEY, metadata[_KEY], str)
        version, class_name, arguments, checksum = _read_record(parse_json(metadata[_KEY]))
    with as_format_error(path, _NO_SAFETENSORS):
        itemsizes = {name: dtype.itemsize for name, dtype in _DTYPES.items()}
        table = _read_table(entries, size - len(head), itemsizes, strict=True)
    shapes = {name: entry.shape for name, entry in table.items()}
    dtypes = {name: _DTYPES[entry.dtype] for name, entry in table.items()}
    return Contents(path, class_name, arguments, shapes, dtypes, file, head, status, version, checksum)


def _read_head(file: FileIO, size: int) -> bytes:
    """Read the length of the header and the header."""
    start = _read(file, 8)
    length = _header_length(start, size, _LONGEST_HEADER)
    head = start + _read(file, length)
    if len(head) < 8 + length:
        raise ValueError("truncated while it was read")
    return head


def _header_length(start: bytes, size: int, longest: int) -> int:
    """Return the length that the first bytes of a file of a size say."""
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise ValueError(f"{size} bytes, too few for its header")
    if length > longest:
        raise ValueError(f"header: expected at most {longest} bytes, got {length}")
    return length


def _parse_header(text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the entries of tensors and the metadata."""
    entries = parse_json(text.decode())
    _check.instance("header", entries, dict)
    metadata = entries.pop("__metadata__", {})
    _check.instance("__metadata__", metadata, dict)
    return entries, metadata


def parse_json(text: str) -> Any:
    """Parse JSON that anybody may have written.

    Parameters
    ----------
    text : str

    Returns
    -------
    object
        Dicts, lists, strings, finite numbers, booleans and None.

    Raises
    ------
    ValueError
        It is no JSON, a name stands twice in an object, a number is none of a float's, or lists and objects
        are nested too deeply.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("expected lists and objects that are nested less deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, in which no name may stand twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"expected each name once, got {_check.describe(name)} again")
    return found


def _finite(text: str) -> float:
    """Return a number of JSON, which may be written larger than any float."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"expected numbers that a float can hold, got {_check.shorten(text)}")
    return number


def _refuse_constant(name: str) -> None:
    """Refuse NaN and infinities, which JSON has not and Python takes."""
    raise ValueError(f"expected numbers of JSON, got {name}")


def _read_record(record: Any) -> tuple[str, str, dict[str, Any], str | None]:
    """Return version, class, arguments and checksum of either format."""
    if not isinstance(record, dict) or "format" not in record:
        _check.entries("arguments", record, _ARGUMENTS_1, True)
        _check_depth(record)
        return "0.1.0", "LSTM", record, None
    number = _check.integer("format", record["format"], 2)
    version = record.get("version")
    if number > FORMAT:
        writer = f"clstm {_check.shorten(version)}" if isinstance(version, str) else "an unknown version"
        raise ValueError(
            f"format {_check.describe(number)}, written by {writer}; this version reads up to {FORMAT}"
        )
    _check.entries("metadata", record, _RECORD, True)
    for name, kind in zip(_RECORD[1:], (str, str, dict, str), strict=True):
        _check.instance(name, record[name], kind)
    _check_depth(record["arguments"])
    return record["version"], record["class"], record["arguments"], record["checksum"]


def _check_depth(arguments: dict[str, Any]) -> None:
    """Refuse arguments in which lists and objects are nested deeper than any class asks for."""
    level: list[Any] = [arguments]
    for _ in range(_DEEPEST_ARGUMENTS):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(
        f"arguments: expected at most {_DEEPEST_ARGUMENTS} levels of lists and objects, got more"
    )


def _read_table(
    entries: dict[str, Any], size: int, itemsizes: Mapping[str, int], *, strict: bool
) -> dict[str, Entry]:
    """Return what is said of tensors that lie one after the other in `size` bytes.

    Other dtypes than those of `itemsizes` are refused if it is strict.
    """
    table = {}
    for name, entry in entries.items():
        try:
            table[name] = _read_entry(entry, itemsizes, strict)
        except ValueError as error:
            raise ValueError(f"{_check.describe(name)}: {error}") from None
    position = 0
    for begin, end in sorted(entry.place for entry in table.values()):
        if begin != position:
            raise ValueError(f"expected a tensor at byte {position} of the data, got one at byte {begin}")
        position = end
    if position != size:
        raise ValueError(f"expected {position} bytes of data, got {size}")
    return table


def _read_entry(entry: Any, itemsizes: Mapping[str, int], strict: bool) -> Entry:
    """Return dtype, shape and place of one tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"expected dtype, shape and data_offsets, got {_check.describe(entry)}")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if strict:
        _check.choice("dtype", dtype, tuple(itemsizes))
    _check.instance("dtype", dtype, str)
    if not _are_sizes(shape):
        raise ValueError(f"expected a shape, got {_check.describe(shape)}")
    if not _are_sizes(place) or len(place) != 2:
        raise ValueError(f"expected two offsets, got {_check.describe(place)}")
    if dtype in itemsizes:
        needed = math.prod(shape) * itemsizes[dtype]
        if place[1] - place[0] != needed:
            raise ValueError(
                f"expected {_check.describe(needed)} bytes for its shape, got {place[1] - place[0]}"
            )
    elif place[0] > place[1]:
        raise ValueError(f"expected two offsets in order, got {_check.describe(place)}")
    return Entry(dtype, tuple(shape), (place[0], place[1]))


def _are_sizes(values: Any) -> bool:
    """Whether this is a list of a few integers that a size can be."""
    return (
        isinstance(values, list)
        and len(values) <= _MOST_AXES
        and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
    )


# ---------------------------------------------------------------------------------------------------- writing


def _replace(path: str, content: bytes) -> None:
    """Replace a file by new content, or leave it as it was."""
    old = _status_of_old(path)
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    _sweep(folder)
    descriptor, temporary = _create_temporary(folder, 0o666 if old is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()  # a file that is open cannot be renamed there
            elif old is not None:
                with suppress(PermissionError):  # only root gives files away
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            os.replace(temporary, target)  # with the lock still held
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if sys.platform != "win32":
        with suppress(PermissionError):  # a folder may be closed to reading
            _sync_folder(folder)


def _status_of_old(path: str) -> os.stat_result | None:
    """Return the status of the file to be replaced, None if there is none; whatever is no file is refused."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        if not path:
            raise
        if not os.path.basename(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        return None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "Expected a regular file, got a FIFO or a device")
    return old


def _create_temporary(folder: str, mode: int) -> tuple[int, str]:
    """Create and lock a file beside the target, under a short name: the target's may have any length.

    The kernel applies the umask; to read it, one would have to set it, for all threads.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = os.path.join(folder, f".clstm-{os.urandom(8).hex()}.tmp")
        descriptor = os.open(temporary, flags, mode)
        # Between the two calls somebody may have swept it.
        if _lock(descriptor) and os.path.exists(temporary):
            return descriptor, temporary
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock that tells `_sweep` of a live writer; the kernel frees it, however the process ends."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks, on which nothing is swept either
            return True
    return True


def _sweep(folder: str) -> None:
    """Remove what writers that were killed have left behind."""
    if sys.platform != "win32":
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with suppress(OSError):
                        _remove_if_unlocked(entry.path)


def _remove_if_unlocked(path: str) -> None:
    """Remove a file, unless a live writer holds its lock."""
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)


def _sync_folder(folder: str) -> None:
    """Let the new name itself reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
