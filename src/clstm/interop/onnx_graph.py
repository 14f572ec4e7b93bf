"""ONNX graphs: what stands in them, and the numbers of what is constant.

Nothing is run.  Initializers and Constant nodes are values, and so is what a few operators make of them that
only move numbers; every value is a view of the content as far as it can be one.  What a graph may cost in
all is counted.  A `ValueError` tells what is wrong; its reader knows of which file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._check import describe, listed
from .protobuf import Budget, Message

Array = NDArray[Any]

# Names of the domain of ONNX's own operators.
OWN_DOMAIN = ("", "ai.onnx")

_DEEPEST_GRAPHS = 32
DEEPEST_VALUES = 64  # operators in a row
_MOST_AXES = 32

# Types of tensors: NumPy's, and the field of data that are not raw.  bfloat16 is the upper half of float32.
_FLOAT, _INT32, _INT64, _BOOL, _FLOAT16, _DOUBLE, _BFLOAT16 = 1, 6, 7, 9, 10, 11, 16
_DTYPES = {
    _FLOAT: "<f4",
    _INT32: "<i4",
    _INT64: "<i8",
    _BOOL: "?",
    _FLOAT16: "<f2",
    _DOUBLE: "<f8",
    _BFLOAT16: "<u2",
}
_DATA = {_FLOAT: 4, _INT32: 5, _INT64: 7, _BOOL: 5, _FLOAT16: 5, _DOUBLE: 10, _BFLOAT16: 5}

# Attributes: the field of each kind of value, and the number of its type.
_VALUES = {"real": 2, "integer": 3, "text": 4, "tensor": 5, "reals": 7, "integers": 8, "texts": 9}
_TYPES = {"real": 1, "integer": 2, "text": 3, "tensor": 4, "reals": 6, "integers": 7, "texts": 8}
_ALL_VALUES = (*range(2, 12), 14, 15, 22, 23)

# Of these the first input holds the numbers and the others say which of them, or where.
_MOVES = (
    "Cast", "CastLike", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
_WITH_GRAPHS = ("If", "Loop", "Scan", "SequenceMap")


# ------------------------------------------------------------------------------------------------ the graphs


class Node(NamedTuple):
    """An operator with the names of its inputs and outputs."""

    op: str  # with its domain in front, if that is not ONNX's own
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Message, ...]


# What a name stands for: a tensor, a node's output, or one of these.
Source = Message | Node | str
_INPUT, _SPARSE = "input", "sparse"


class Graph:
    """A graph, or one inside a node, in which the names of the graphs around it are known too.

    Attributes
    ----------
    opset : int
        Version of ONNX's operators.
    budget : Budget
    nodes : list of Node
    """

    def __init__(self, message: Message, opset: int, budget: Budget, outer: Graph | None = None) -> None:
        self.opset = opset
        self.budget = budget
        self.outer = outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        if self.depth > _DEEPEST_GRAPHS:
            raise ValueError(f"expected graphs in at most {_DEEPEST_GRAPHS} graphs, got more")
        self.values: dict[str, Array] = {}
        self._message = message
        self._declared: dict[str, Message] | None = None
        self.nodes = [_node(each) for each in message.messages(1)]
        self.sources = self._named(message)
        self._inner = [
            Graph(graph, opset, budget, self)
            for node in self.nodes
            if node.op in _WITH_GRAPHS
            for attribute in node.attributes
            for graph in (*attribute.messages(6), *attribute.messages(11))
        ]

    def _named(self, message: Message) -> dict[str, Source]:
        """Return what each name stands for; of an input with an initializer that is its default."""
        tensors = by_name((tensor.text(8), tensor) for tensor in message.messages(5))
        sparse = ((value.text(8), _SPARSE) for each in message.messages(15) if (value := each.message(1)))
        inputs = ((name, _INPUT) for each in message.messages(11) if (name := each.text(1)) not in tensors)
        made = ((name, node) for node in self.nodes for name in node.outputs if name)
        return by_name(itertools.chain(tensors.items(), sparse, inputs, made))

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Yield every node, those of the graphs inside included."""
        for node in self.nodes:
            yield self, node
        for graph in self._inner:
            yield from graph.walk()

    def source(self, name: str) -> tuple[Graph, Source]:
        """Return what a name stands for, and the graph that it belongs to."""
        self.budget.step()
        graph: Graph | None = self
        while graph is not None:
            if name in graph.sources:
                return graph, graph.sources[name]
            graph = graph.outer
        raise ValueError(f"{describe(name)} is made by no node and is no initializer")

    def value(self, name: str, depth: int = 0) -> Array:
        """Return what is constant: an initializer, or computed from such by operators that move numbers."""
        graph, source = self.source(name)
        if name not in graph.values:
            graph.values[name] = _value(graph, name, source, depth)
        return graph.values[name]

    def origins(self, name: str) -> set[str]:
        """Return what a value depends on besides constants: on an "input", on the "shape" of one.

        As soon as it is an input the search ends.
        """
        found: set[str] = set()
        for graph, _, source, open_ends in self._search(name):
            if isinstance(source, Node):
                if source.op in ("Shape", "Size"):
                    found.add("shape")
                elif source.op in _WITH_GRAPHS or not (source.inputs or source.op == "Constant"):
                    return {_INPUT}  # drawn, or computed by a graph that only knows it by name
                else:
                    open_ends += [(graph, each) for each in source.inputs if each]
            elif source == _INPUT:
                return {_INPUT}
        return found

    def is_zero(self, name: str) -> bool:
        """Whether a value, of which only the shape depends on inputs, is zero for sure."""
        for graph, each, source, open_ends in self._search(name):
            if not isinstance(source, Node) or source.op == "Constant":
                if graph.value(each).any():
                    return False
            elif source.op == "ConstantOfShape":
                value = attributes_of(source, {"value": "tensor"}).get("value")
                if value is not None and array(value, self.budget).any():
                    return False
            elif source.op == "Concat" or (source.op in _MOVES and source.inputs):
                moved = source.inputs if source.op == "Concat" else source.inputs[:1]
                open_ends += [(graph, name) for name in moved]
            else:
                return False
        return True

    def shape(self, name: str) -> list[int]:
        """Return the shape that is declared of a value, with 0 for a size that is not; [] if none is."""
        self.budget.step()
        if self._declared is None:
            self._declared = {}  # and so it stays if they cannot be read
            values = (value for number in (11, 13) for value in self._message.messages(number))
            self._declared = by_name((value.text(1), value) for value in values)
        found = self._declared.get(name)
        for number in (2, 1, 2):  # the type, if it is that of a tensor, its shape
            found = None if found is None else found.message(number)
        dims = () if found is None else found.messages(1)
        return [max(0, dim.integer(1) or 0) for dim in dims]  # some write 0 or -1 where they do not know

    def _search(self, name: str) -> Iterator[tuple[Graph, str, Source, list[tuple[Graph, str]]]]:
        """Yield graph, name and source of a value and of all that its reader adds to the list."""
        seen = set()
        open_ends: list[tuple[Graph, str]] = [(self, name)]
        while open_ends:
            graph, each = open_ends.pop()
            graph, source = graph.source(each)
            if (graph, each) not in seen:
                seen.add((graph, each))
                yield graph, each, source, open_ends


def _value(graph: Graph, name: str, source: Source, depth: int) -> Array:
    """Return the value of a source, which is `depth` operators away from what is asked for."""
    if depth > DEEPEST_VALUES:
        raise ValueError(
            f"{describe(name)} is computed from itself, or by more than {DEEPEST_VALUES} operators in a row"
        )
    if isinstance(source, Message):
        try:
            return array(source, graph.budget)
        except ValueError as error:
            raise ValueError(f"{describe(name)}: {error}") from None
    if isinstance(source, str):
        raise ValueError(
            f"{describe(name)}: expected a constant that is stored whole, got an {source} of the graph"
        )
    if source.op not in _COMPUTED or name != source.outputs[0]:
        raise ValueError(
            f"{describe(name)} is computed by {describe(source.op)}, which is not followed, as "
            f"{', '.join(_COMPUTED)} are"
        )
    given = [graph.value(each, depth + 1) if each else None for each in source.inputs]
    try:
        return _COMPUTED[source.op](graph, source, given)
    except (ValueError, IndexError, TypeError, OverflowError) as error:  # NumPy's, of sizes and axes
        raise ValueError(f"{describe(name)} cannot be computed by {source.op}: {error}") from None


def by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary of names that may not stand twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"expected each name once, got {describe(name)} again")
        found[name] = value
    return found


def _qualified(op: str, domain: str) -> str:
    return op if domain in OWN_DOMAIN else f"{domain}:{op}"


def _node(message: Message) -> Node:
    return Node(
        _qualified(message.text(4), message.text(7)),
        message.text(3),
        message.texts(1),
        message.texts(2),
        message.messages(5),
    )


def attributes_of(node: Node, kinds: dict[str, str]) -> dict[str, Any]:
    """Return the attributes of a node, all of which must be among these."""
    found: dict[str, Any] = {}
    for attribute in node.attributes:
        name = attribute.text(1)
        if name not in kinds:
            raise ValueError(f"expected of attributes only {listed(kinds)}, got {describe(name)}")
        if name in found:
            raise ValueError(f"expected each attribute once, got {describe(name)} again")
        found[name] = _attribute(attribute, name, kinds[name])
    return found


def _attribute(attribute: Message, name: str, kind: str) -> Any:
    number, declared = _VALUES[kind], attribute.integer(20)
    others = [other for other in _ALL_VALUES if other != number and other in attribute]
    if 21 in attribute or others or declared not in (None, 0, _TYPES[kind]):
        raise ValueError(f"{name}: expected an attribute with one value, of kind {kind}")
    # A number or text that is 0 or empty may have been left out by a writer, who then gives the type.
    if number not in attribute and (not declared or kind == "tensor"):
        raise ValueError(f"{name}: expected a value, got none")
    if kind == "real":
        return _finite(name, [attribute.real(number) or 0.0])[0]
    if kind == "integer":
        return attribute.integer(number) or 0
    if kind == "text":
        return attribute.text(number)
    if kind == "tensor":
        return attribute.message(number)
    if kind == "reals":
        return _finite(name, few(attribute.numbers(number, "<f4")))
    return few(attribute.integers(number)) if kind == "integers" else attribute.texts(number)


def few(values: Array) -> list[Any]:
    """Return a list of values of which no operator here takes more than there are axes."""
    if values.ndim != 1 or values.size > _MOST_AXES:
        raise ValueError(f"expected a list of at most {_MOST_AXES} numbers, got {describe(values)}")
    listed_values: list[Any] = values.tolist()
    return listed_values


def _finite(name: str, values: list[float]) -> list[float]:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name}: expected finite numbers, got {describe(values)}")
    return values


# ---------------------------------------------------------------------------------------------- the constants


def array(tensor: Message, budget: Budget) -> Array:
    """Return the values of a tensor, as a view of the content if it can be one."""
    if 13 in tensor or tensor.integer(14):
        raise ValueError("its data are in another file, which is not opened; save the model as one file")
    if 3 in tensor:
        raise ValueError("it is a segment of a tensor, which is not read")
    kind = tensor.integer(2)
    if kind not in _DTYPES:
        raise ValueError(
            f"expected a tensor of float, double, float16, bfloat16, int32, int64 or bool, got type {kind}"
        )
    dims = few(tensor.integers(1))
    if any(size < 0 for size in dims):
        raise ValueError(f"expected sizes of 0 or more, got {describe(dims)}")
    typed = [number for number in (4, 5, 6, 7, 10, 11) if number in tensor]
    values = tensor.raw(9, _DTYPES[kind])
    if values is None:
        if typed not in ([], [_DATA[kind]]):
            raise ValueError(f"expected the data of its type, got those of field {typed[0]}")
        values = _typed_data(tensor, kind)
    elif typed:
        raise ValueError("expected its data once, got them twice")
    if math.prod(dims) != values.size:
        raise ValueError(f"expected {describe(math.prod(dims))} values for its shape, got {values.size}")
    if kind == _BFLOAT16:
        budget.take(4 * values.size)
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(dims)


def _typed_data(tensor: Message, kind: int) -> Array:
    """Return the values that do not stand as raw bytes."""
    number = _DATA[kind]
    if kind in (_FLOAT, _DOUBLE):
        return tensor.numbers(number, _DTYPES[kind])
    values = tensor.integers(number, "<u2" if kind in (_FLOAT16, _BFLOAT16) else "<i8")
    return values.view(_DTYPES[kind]) if kind == _FLOAT16 else values


def _constant(graph: Graph, node: Node, given: list[Array | None]) -> Array:  # noqa: ARG001
    kinds = {
        "value": "tensor",
        "value_float": "real",
        "value_floats": "reals",
        "value_int": "integer",
        "value_ints": "integers",
    }
    values = attributes_of(node, kinds)
    if len(values) != 1:
        raise ValueError(f"expected one of {', '.join(kinds)}, got {len(values)} values")
    ((name, value),) = values.items()
    if name == "value":
        return array(value, graph.budget)
    return np.array(value, "<f4" if "float" in name else "<i8")


def _identity(graph: Graph, node: Node, given: list[Array | None]) -> Array:  # noqa: ARG001
    attributes_of(node, {})
    return _data(given, 1)


def _cast(graph: Graph, node: Node, given: list[Array | None]) -> Array:
    data, kind = _data(given, 1), attributes_of(node, {"to": "integer", "saturate": "integer"}).get("to")
    if kind not in _DTYPES or kind == _BFLOAT16:
        raise ValueError(f"expected a cast to float, double, float16, int32, int64 or bool, got type {kind}")
    dtype = np.dtype(_DTYPES[kind])
    graph.budget.take(data.size * dtype.itemsize)
    with np.errstate(all="ignore"):
        return data.astype(dtype)


def _slice(graph: Graph, node: Node, given: list[Array | None]) -> Array:
    if graph.opset < 10:
        data = _data(given, 1)
        kinds = dict.fromkeys(("starts", "ends", "axes"), "integers")
        parts = attributes_of(node, kinds)
        starts, ends, axes = (parts.get(name) for name in kinds)
        steps = None
    else:
        data = _data(given, 5)
        attributes_of(node, {})
        starts, ends, axes, steps = (_whole(given, n) for n in range(1, 5))
    if starts is None or ends is None:
        raise ValueError("expected starts and ends")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("expected starts, ends, axes and steps of one length")
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if cut[axis] != slice(None):
            raise ValueError(f"expected each axis once, got {axis} again")
        cut[axis] = slice(start, end, step)  # which Python and ONNX clamp alike
    return data[tuple(cut)]


def _concat(graph: Graph, node: Node, given: list[Array | None]) -> Array:
    axis = attributes_of(node, {"axis": "integer"}).get("axis", 1 if graph.opset < 4 else None)
    parts = [part for part in given if part is not None]
    if axis is None or len(parts) < max(1, len(given)) or len({part.dtype for part in parts}) > 1:
        raise ValueError("expected an axis, and tensors of one type")
    graph.budget.take(sum(part.nbytes for part in parts))
    return np.concatenate(parts, axis)


def _reshape(graph: Graph, node: Node, given: list[Array | None]) -> Array:
    data = _data(given, 2)
    shape, zero = shape_of_reshape(graph, node, given)
    if not zero:
        shape = [data.shape[n] if size == 0 else size for n, size in enumerate(shape)]
    if not data.flags.c_contiguous:
        graph.budget.take(data.nbytes)
    return data.reshape(shape)


def shape_of_reshape(graph: Graph, node: Node, given: list[Array | None]) -> tuple[list[int], int]:
    """Return the sizes, and whether 0 is meant as such."""
    if graph.opset < 5:
        shape, zero = attributes_of(node, {"shape": "integers"}).get("shape"), 0
    else:
        shape, zero = _whole(given, 1), attributes_of(node, {"allowzero": "integer"}).get("allowzero", 0)
    if shape is None:
        raise ValueError("expected a shape")
    return shape, zero


def _transpose(graph: Graph, node: Node, given: list[Array | None]) -> Array:  # noqa: ARG001
    return np.transpose(_data(given, 1), attributes_of(node, {"perm": "integers"}).get("perm"))


def axes_of(graph: Graph, node: Node, given: list[Array | None]) -> list[int] | None:
    """Return the axes of Squeeze and Unsqueeze, which are an input since opset 13."""
    if graph.opset >= 13:
        attributes_of(node, {})
        return _whole(given, 1)
    axes: list[int] | None = attributes_of(node, {"axes": "integers"}).get("axes")
    return axes


def _squeeze(graph: Graph, node: Node, given: list[Array | None]) -> Array:
    axes = axes_of(graph, node, given)
    return np.squeeze(_data(given, 2), None if axes is None else tuple(axes))


def _unsqueeze(graph: Graph, node: Node, given: list[Array | None]) -> Array:
    axes = axes_of(graph, node, given)
    if axes is None:
        raise ValueError("expected axes")
    return np.expand_dims(_data(given, 2), tuple(axes))


def _data(given: list[Array | None], most: int) -> Array:
    """Return the first input of at most so many."""
    if not given or given[0] is None or len(given) > most:
        raise ValueError(f"expected 1 to {most} inputs, got {len(given)}")
    return given[0]


def _whole(given: list[Array | None], n: int) -> list[int] | None:
    """Return an input that is a list of integers, if it is there."""
    value = given[n] if n < len(given) else None
    if value is None:
        return None
    if value.dtype.kind != "i":
        raise ValueError(f"expected integers, got {describe(value)}")
    return few(value)


_COMPUTED = {
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "Identity": _identity,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
