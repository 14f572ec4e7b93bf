"""Pickles read as data: an interpreter for a white list of opcodes that calls nothing and imports nothing.

What a pickle names is text here.  Where it asks for a call, a function of this package stands in for the few
names that checkpoints need; instances of classes become `Opaque`; any other call refuses the file.  Work and
memory are counted, for a pickle of a few bytes can ask for any amount of either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .._check import FileFormatError

Array = NDArray[Any]
Function = Callable[[tuple[Any, ...]], Any]  # from the arguments of a call to what stands for its result
Persistent = Callable[[Any], Any]  # from a persistent id to what stands for it

# Bytes of objects beyond the file itself, by the estimates below: an opcode makes a container, a number or an
# entry of the memo, or a view of bytes, the name of something to import, what stands for a call.
_MOST_MEMORY = 32_000_000
_OPCODE = 80
_BYTES = 160
_NAME = 240
_CALL = 480
# Bytes of an integer; the generators of random numbers have 16.
_LONGEST_INTEGER = 64

# Calls that stand beside the weights in many checkpoints, and of which nothing is needed.
_KEPT = frozenset(
    {
        "torch.device", "torch.Size", "torch.serialization._get_layout", "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_meta_tensor_no_storage",
        "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath",
        "pathlib._local.PosixPath", "pathlib._local.PurePosixPath", "pathlib._local.PureWindowsPath",
        "pathlib._local.WindowsPath", "pathlib.PureWindowsPath", "datetime.date", "datetime.datetime",
        "datetime.timedelta", "collections.Counter", "collections.deque", "copyreg._reconstructor",
        "copy_reg._reconstructor", "builtins.set", "builtins.frozenset", "builtins.range", "builtins.slice",
        "builtins.complex", "types.SimpleNamespace", "__builtin__.set", "__builtin__.frozenset",
        "__builtin__.slice",
    }
)  # fmt: skip


class Global(NamedTuple):
    """What a pickle would import."""

    name: str


class Opaque:
    """An object that a pickle describes and nobody makes.

    Attributes
    ----------
    name : str
        Of its class, or of what would have been called.
    state
        What the object would have been given, None if nothing.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None

    def __repr__(self) -> str:
        return self.name


class _Dtype:
    """A dtype of NumPy; only floating-point numbers are understood."""

    __slots__ = ("name", "order")

    def __init__(self, name: str) -> None:
        self.name = name
        self.order = ""

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|"):
            raise ValueError(f"expected the state of a dtype, got {kind_of(state)}")
        self.order = state[1]


class PickledArray:
    """An array of NumPy in a pickle, made when it is read.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
        As NumPy abbreviates it: "f4" and so on.
    """

    __slots__ = ("_data", "_order", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype = "unknown"
        self.fortran = False
        self._order = ""
        self._data: Any = None

    def set_state(self, state: Any) -> None:
        """Take shape, dtype, order and bytes, as NumPy leaves them."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError(f"expected the state of an array, got {kind_of(state)}")
        self.fill(state[1], state[2], state[4], state[3] is True)

    def fill(self, shape: Any, dtype: Any, data: Any, fortran: bool) -> PickledArray:
        """Take what makes up an array."""
        if not are_sizes(shape) or not isinstance(dtype, _Dtype):
            raise ValueError(
                f"expected shape and dtype of an array, got {kind_of(shape)} and {kind_of(dtype)}"
            )
        itemsize = {"f2": 2, "f4": 4, "f8": 8}.get(dtype.name)
        if itemsize is not None:
            needed = math.prod(shape) * itemsize
            if not isinstance(data, bytes | memoryview | str) or len(data) != needed:
                raise ValueError(f"expected {_check.describe(needed)} bytes for an array of shape {shape}")
            self._data = data
        self.shape, self.dtype, self._order, self.fortran = shape, dtype.name, dtype.order, fortran
        return self

    def read(self) -> Array:
        """Return the array, which cannot be written to."""
        if self._data is None:
            raise ValueError(f"expected an array of floating-point numbers, got dtype {self.dtype}")
        data = self._data.encode("latin-1") if isinstance(self._data, str) else self._data
        dtype = np.dtype((self._order or "<") + self.dtype)
        flat = np.frombuffer(data, dtype) if len(data) else np.zeros(0, dtype)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


class Pickle(NamedTuple):
    """What a pickle holds."""

    value: Any  # of dicts, lists, tuples, text, bytes (memoryview), numbers and what stands for all else
    end: int  # position behind it
    objects: tuple[Opaque, ...]


def are_sizes(values: Any) -> bool:
    """Whether this is a tuple of a few integers that a size can be."""
    return (
        isinstance(values, tuple)
        and len(values) <= 32
        and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
    )


def read(
    path: object,
    content: bytes,
    position: int = 0,
    functions: Mapping[str, Function] | None = None,
    persistent: Persistent | None = None,
) -> Pickle:
    """Read one pickle; nothing in it is called, imported or opened.

    Parameters
    ----------
    path
        For messages.
    content : bytes
    position : int, default 0
        Where the pickle begins.
    functions : mapping, optional
        By the name of what a pickle would call, what is done instead; it raises ValueError on arguments that
        it does not expect.
    persistent : callable, optional
        What stands for an object that is kept outside of the pickle.

    Raises
    ------
    FileFormatError
        It is truncated, not of protocol 2 to 5, uses an opcode that no checkpoint needs, would call a
        function that is not known to be harmless, or asks for more memory than its weights could need.

    Examples
    --------
    >>> import pickle
    >>> from clstm.interop import pickled
    >>> pickled.read("text", pickle.dumps({"a": [1, 2.5], "b": ("x", None)})).value
    {'a': [1, 2.5], 'b': ('x', None)}
    """
    machine = _Machine(content, position, functions or {}, persistent)
    try:
        value = machine.run()
    except ValueError as error:
        raise FileFormatError(path, f"pickle, before byte {machine.position}: {error}") from error
    return Pickle(value, machine.position, tuple(machine.objects))


class _Machine:
    """The stack machine of a pickle."""

    def __init__(
        self, content: bytes, position: int, functions: Mapping[str, Function], persistent: Persistent | None
    ) -> None:
        self.position = position
        self.objects: list[Opaque] = []
        self._content = memoryview(content)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._spent = 0
        self._persistent = persistent
        self._encoded: dict[int, tuple[str, bytes]] = {}  # by the id of the text, which is kept with it
        self._functions = {
            "collections.OrderedDict": self._dictionary,
            "collections.defaultdict": lambda args: self._dictionary(args[1:]),
            "_codecs.encode": self._encode,
            "builtins.bytes": _no_bytes,
            "__builtin__.bytes": _no_bytes,
            **_NUMPY,
            **functions,
        }

    def run(self) -> Any:
        """Interpret until the opcode STOP; return what it leaves."""
        content, size = self._content, len(self._content)
        while True:
            self.spend(_OPCODE)
            if self.position >= size:
                raise ValueError("expected the opcode STOP at its end")
            code = content[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                value = self.pop()
                if self._stack or self._marks:
                    raise ValueError("expected one object at its end")
                return value
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise ValueError(f"opcode {bytes([code])!r} is none that a file of weights needs")
            operation(self)

    def spend(self, memory: int) -> None:
        self._spent += memory
        if self._spent > _MOST_MEMORY:
            raise ValueError(
                "holds more objects than are read from a file that is not trusted; save the weights alone"
            )

    # ----------------------------------------------------------------------------------- bytes and the stack

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self._content):
            raise ValueError(f"expected {size} more bytes, got {len(self._content) - self.position}")
        taken = self._content[self.position : end]
        self.position = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        start = self.position
        line = bytes(self._content[start : start + 1000]).partition(b"\n")[0]
        self.take(len(line) + 1)
        return line.decode()

    def pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("takes more from its stack than it has put there")
        return self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("expected a mark on its stack")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def peek(self) -> Any:
        self._stack.append(self.pop())
        return self._stack[-1]

    # ---------------------------------------------------------------------------------------------- opcodes

    def check_protocol(self) -> None:
        if not 2 <= (version := self.number(1)) <= 5:
            raise ValueError(f"expected protocol 2 to 5, got {version}")

    def check_frame(self) -> None:
        if (size := self.number(8)) > len(self._content) - self.position:
            raise ValueError(f"expected a frame of {size} bytes, got fewer")

    def push_integer(self, size: int, signed: bool) -> None:
        if size > _LONGEST_INTEGER:
            raise ValueError(f"expected an integer of at most {_LONGEST_INTEGER} bytes, got {size}")
        self.push(int.from_bytes(self.take(size), "little", signed=signed))

    def push_float(self) -> None:
        self.push(np.frombuffer(self.take(8), ">f8").item())

    def push_text(self, size: int) -> None:
        raw = self.take(size)
        if size and np.frombuffer(raw, np.uint8).max() > 0xC3:  # characters that take two or four bytes each
            self.spend(4 * size)
        self.push(str(raw, "utf-8", "surrogatepass"))

    def push_bytes(self, size: int) -> None:
        self.spend(_BYTES)
        self.push(self.take(size))

    def set_mark(self) -> None:
        self._marks.append(len(self._stack))

    def push_tuple(self, size: int) -> None:
        if len(self._stack) - (self._marks[-1] if self._marks else 0) < size:
            raise ValueError("takes more from its stack than it has put there")
        last = tuple(self._stack[-size:])
        self._stack[-size:] = [last]

    def extend(self, items: list[Any]) -> None:
        target = self.peek()
        if isinstance(target, list):
            target += items
        elif not isinstance(target, Opaque):
            raise ValueError(f"expected a list, got {kind_of(target)}")

    def set_items(self, items: list[Any]) -> None:
        target = self.peek()
        if len(items) % 2:
            raise ValueError("expected pairs of keys and values")
        if isinstance(target, dict):
            self._fill(target, zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Opaque):
            raise ValueError(f"expected a dict, got {kind_of(target)}")

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def push_dict(self) -> None:
        items = self.pop_to_mark()
        self.push({})
        self.set_items(items)

    def _fill(self, target: dict[Any, Any], pairs: Any) -> None:
        for key, value in pairs:
            # Other keys are not hashed: nested tuples could exhaust the stack, chosen numbers the patience.
            if isinstance(key, str) or (type(key) is int and abs(key) < 1 << 32):
                if key in target:
                    raise ValueError(f"expected each key of a dict once, got {_check.describe(key)} again")
                target[key] = value
            else:
                target[Opaque("a key")] = value

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > 1000:
            raise ValueError("expected the name of something to import")
        self.spend(_NAME)
        self.push(Global(f"{module}.{name}"))

    def push_global_of_stack(self) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(module, name)

    def reduce(self) -> None:
        args, called = self.pop(), self.pop()
        if not isinstance(called, Global) or not isinstance(args, tuple):
            raise ValueError(f"expected a function to call, got {kind_of(called)}")
        self.push(self.call(called.name, args))

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """Return what stands for the result of a call."""
        function = self._functions.get(name)
        if function is not None:
            self.spend(_CALL)
            return function(args)
        if name not in _KEPT:
            raise ValueError(
                f"would call {_check.shorten(name)}, which is not done; save the weights alone: "
                "torch.save(model.state_dict(), path)"
            )
        return self._object(args[0].name if name.endswith("_reconstructor") and _is_class(args) else name)

    def _object(self, name: str) -> Opaque:
        made = Opaque(name)
        self.objects.append(made)
        return made

    def push_instance(self, arguments: int) -> None:
        for _ in range(arguments):
            self.pop()
        cls = self.pop()
        if not isinstance(cls, Global):
            raise ValueError(f"expected a class, got {kind_of(cls)}")
        self.push(self._object(cls.name))

    def build(self) -> None:
        state, target = self.pop(), self.peek()
        if isinstance(target, _Dtype | PickledArray):
            target.set_state(state)
        elif isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict):  # attributes of an OrderedDict: the versions of modules
            raise ValueError(f"expected an object that has a state, got {kind_of(target)}")

    def push_persistent(self) -> None:
        if self._persistent is None:
            raise ValueError("expected everything inside the pickle, got a persistent id")
        self.push(self._persistent(self.pop()))

    def put(self, index: int) -> None:
        self.memo[index] = self.peek()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"expected an object that was kept as number {index}")
        self.push(self.memo[index])

    # -------------------------------------------------------------------- what stands for harmless functions

    def _dictionary(self, args: tuple[Any, ...]) -> dict[Any, Any]:
        pairs = args[0] if args else []
        if len(args) > 1 or not isinstance(pairs, list | tuple):
            raise ValueError(f"expected the items of a dict, got {kind_of(args)}")
        self.spend(_OPCODE * len(pairs))
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError("expected pairs of keys and values")
        made: dict[Any, Any] = {}
        self._fill(made, pairs)
        return made

    def _encode(self, args: tuple[Any, ...]) -> bytes:
        """Return bytes that protocol 2 keeps as text; each text is encoded once, however often it stands."""
        if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
            raise ValueError(f"expected text for bytes, got {kind_of(args)}")
        text: str = args[0]
        if id(text) not in self._encoded:
            self._encoded[id(text)] = text, text.encode("latin-1")
        return self._encoded[id(text)][1]


def kind_of(value: Any) -> str:
    """Name what a value is; to show it could take forever, for a part may stand in it any number of times."""
    return _check.shorten(value.name) if isinstance(value, Global | Opaque) else type(value).__name__


def _is_class(args: tuple[Any, ...]) -> bool:
    """Whether a call is told a class first."""
    return bool(args) and isinstance(args[0], Global)


def _no_bytes(args: tuple[Any, ...]) -> bytes:
    """Return what protocol 2 has for bytes that are empty."""
    if args:
        raise ValueError("expected bytes without arguments, got some")
    return b""


def _new_dtype(args: tuple[Any, ...]) -> _Dtype:
    if not args or not isinstance(args[0], str) or len(args[0]) > 100:
        raise ValueError(f"expected a dtype, got {kind_of(args)}")
    return _Dtype(args[0])


def _new_array(args: tuple[Any, ...]) -> PickledArray | Opaque:
    if not _is_class(args):
        raise ValueError(f"expected a class of array, got {kind_of(args)}")
    return PickledArray() if args[0].name == "numpy.ndarray" else Opaque(args[0].name)


def _from_buffer(args: tuple[Any, ...]) -> PickledArray:
    if len(args) != 4 or args[3] not in ("C", "F"):
        raise ValueError(f"expected an array, got {kind_of(args)}")
    return PickledArray().fill(args[2], args[1], args[0], args[3] == "F")


def _scalar(args: tuple[Any, ...]) -> PickledArray:
    if len(args) != 2:
        raise ValueError(f"expected a scalar, got {kind_of(args)}")
    return PickledArray().fill((), *args, False)


_NUMPY: dict[str, Function] = {
    "numpy.dtype": _new_dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": _new_array,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _from_buffer,
        }.items()
    },
}

_M = _Machine
_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    code[0]: operation
    for code, operation in {
        b"\x80": _M.check_protocol,
        b"\x95": _M.check_frame,
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        b"J": lambda m: m.push_integer(4, True),
        b"K": lambda m: m.push_integer(1, False),
        b"M": lambda m: m.push_integer(2, False),
        b"\x8a": lambda m: m.push_integer(m.number(1), True),
        b"\x8b": lambda m: m.push_integer(m.number(4), True),
        b"G": _M.push_float,
        b"X": lambda m: m.push_text(m.number(4)),
        b"\x8c": lambda m: m.push_text(m.number(1)),
        b"\x8d": lambda m: m.push_text(m.number(8)),
        # Strings of Python 2, which may be text or bytes.
        b"T": lambda m: m.push(str(m.take(m.number(4)), "latin-1")),
        b"U": lambda m: m.push(str(m.take(m.number(1)), "latin-1")),
        b"B": lambda m: m.push_bytes(m.number(4)),
        b"C": lambda m: m.push_bytes(m.number(1)),
        b"\x8e": lambda m: m.push_bytes(m.number(8)),
        b"\x96": lambda m: m.push_bytes(m.number(8)),
        b"]": lambda m: m.push([]),
        b"a": lambda m: m.extend([m.pop()]),
        b"e": lambda m: m.extend(m.pop_to_mark()),
        b"l": lambda m: m.push(m.pop_to_mark()),
        b")": lambda m: m.push(()),
        b"\x85": lambda m: m.push_tuple(1),
        b"\x86": lambda m: m.push_tuple(2),
        b"\x87": lambda m: m.push_tuple(3),
        b"t": lambda m: m.push(tuple(m.pop_to_mark())),
        b"}": lambda m: m.push({}),
        b"s": _M.set_item,
        b"u": lambda m: m.set_items(m.pop_to_mark()),
        b"d": _M.push_dict,
        # Sets, as lists: nothing in them is hashed.
        b"\x8f": lambda m: m.push([]),
        b"\x90": lambda m: m.extend(m.pop_to_mark()),
        b"\x91": lambda m: m.push(m.pop_to_mark()),
        b"(": _M.set_mark,
        b"0": _M.pop,
        b"1": _M.pop_to_mark,
        b"2": lambda m: m.push(m.peek()),
        b"c": lambda m: m.push_global(m.line(), m.line()),
        b"\x93": _M.push_global_of_stack,
        b"R": _M.reduce,
        b"\x81": lambda m: m.push_instance(1),
        b"\x92": lambda m: m.push_instance(2),
        b"b": _M.build,
        b"Q": _M.push_persistent,
        b"q": lambda m: m.put(m.number(1)),
        b"r": lambda m: m.put(m.number(4)),
        b"\x94": lambda m: m.put(len(m.memo)),
        b"h": lambda m: m.get(m.number(1)),
        b"j": lambda m: m.get(m.number(4)),
    }.items()
}
