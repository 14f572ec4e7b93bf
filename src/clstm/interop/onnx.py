"""ONNX: LSTM nodes of a model with the weights that its graph holds or computes.

Models are read without any library, and no other file is opened.  A graph is not run: of its nodes those are
computed that weights come from, if they only move numbers.  ONNX has its blocks of gates in the order i, o,
f, c, its peepholes in the order i, o, f, and two biases, which are added.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .._check import FileFormatError, describe, listed
from ..cells import ACTIVATIONS
from . import contents
from .found import Found, check_biases, check_count, choose, regroup, stack
from .onnx_graph import (
    DEEPEST_VALUES,
    OWN_DOMAIN,
    Graph,
    Node,
    attributes_of,
    axes_of,
    by_name,
    shape_of_reshape,
)
from .protobuf import Budget, Message

Array = NDArray[Any]

ORDER = "iofg"  # ONNX calls g c
PEEPHOLES = [0, 2, 1]  # i, o, f to i, f, o and back
_DIRECTIONS = ("forward", "reverse", "bidirectional")
NAMES = {ours: "".join(map(str.capitalize, ours.split("_"))) for ours in ACTIVATIONS if ours != "identity"}
_OURS = {theirs.lower(): ours for ours, theirs in NAMES.items()}  # ONNX Runtime takes any case

# What a model may cost: fields and nodes, of which one of 10 000 nodes has about 100 000; bytes, to begin
# with, and for each byte of the model.
_STEPS = 120_000
_MEMORY, _COPIES = 24 << 20, 5
_LSTM = {
    "activations": "texts",
    "activation_alpha": "reals",
    "activation_beta": "reals",
    "clip": "real",
    "direction": "text",
    "hidden_size": "integer",
    "input_forget": "integer",
    "layout": "integer",
    "output_sequence": "integer",
}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


# ------------------------------------------------------------------------------------------------- the nodes


class _Arrays(NamedTuple):
    """The weights of a node: its inputs of these names, or None."""

    W: Array
    R: Array
    B: Array | None
    P: Array | None


def _found(graph: Graph, node: Node, name: str) -> Found:
    """Return what a node says, or why it cannot be read."""
    if node.op != "LSTM":
        return Found(
            name, {}, {}, f"{node.op.rpartition(':')[2]} has weights of 8 bits; export the model unquantised"
        )
    try:
        return _lstm(graph, node, name)
    except ValueError as error:
        return Found(name, {}, {}, str(error))


def _lstm(graph: Graph, node: Node, name: str) -> Found:
    attributes = attributes_of(node, _LSTM)
    for wrong, known in (("layout", graph.opset >= 14), ("output_sequence", graph.opset < 7)):
        if wrong in attributes and not known:
            raise ValueError(f"LSTM of opset {graph.opset} has no attribute {wrong}")
    for flag in ("input_forget", "layout", "output_sequence"):
        if attributes.get(flag, 0) not in (0, 1):
            raise ValueError(f"{flag}: expected 0 or 1, got {attributes[flag]}")
    direction = attributes.get("direction", "forward")
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: expected one of {', '.join(_DIRECTIONS)}, got {describe(direction)}")
    directions = 1 + (direction == "bidirectional")
    clip = attributes.get("clip")
    if clip is not None and clip <= 0:
        raise ValueError(f"clip: expected a number above 0, got {clip}")
    activations = _activations(attributes, directions)
    if len(node.inputs) > len(INPUTS):
        raise ValueError(f"expected at most {len(INPUTS)} inputs, got {len(node.inputs)}")
    _check_state(graph, node)
    arrays = _weights(graph, node, directions, attributes.get("hidden_size"))
    H, size = arrays.R.shape[2], arrays.W.shape[2]
    params: dict[str, Array] = {}
    for n in range(directions):
        suffix = "_l0_reverse" if n else "_l0"
        params["weight_ih" + suffix] = _regrouped(arrays.W[n], graph.budget)
        params["weight_hh" + suffix] = _regrouped(arrays.R[n], graph.budget)
        if arrays.B is not None:
            biases = _plain(arrays.B[n].reshape(2, 4 * H), graph.budget)
            for half, bias in zip(("ih", "hh"), biases, strict=True):
                params[f"bias_{half}{suffix}"] = regroup(bias, ORDER)
        if arrays.P is not None:
            peepholes = arrays.P[n].reshape(3, H)[PEEPHOLES]
            params["weight_peephole" + suffix] = _plain(peepholes, graph.budget)
    check_biases(params)
    arguments = {
        "input_size": size,
        "hidden_size": H,
        "bias": arrays.B is not None,
        "bidirectional": directions == 2,
        "reverse": direction == "reverse",
        "batch_first": bool(attributes.get("layout", 0)),
        "peepholes": arrays.P is not None,
        "coupled": bool(attributes.get("input_forget", 0)),
        "activations": activations,
        "gate_clip": clip,
    }
    return Found(name, arguments, params)


def _regrouped(array: Array, budget: Budget) -> Array:
    """Return the blocks of gates in our order."""
    budget.take(array.nbytes)
    return _plain(regroup(array, ORDER), budget)


def _plain(array: Array, budget: Budget) -> Array:
    """Return a native float32 or float64 array; what is shorter becomes float32, exactly."""
    dtype = np.dtype(np.float64 if array.dtype.itemsize == 8 else np.float32)
    budget.take(array.size * dtype.itemsize)
    return array.astype(dtype, copy=False)


def _input(node: Node, name: str) -> str:
    """Return the name of what stands at an input, "" if nothing does."""
    n = INPUTS.index(name)
    return node.inputs[n] if n < len(node.inputs) else ""


def _weights(graph: Graph, node: Node, directions: int, hidden_size: int | None) -> _Arrays:
    """Return the weights, all of shapes that fit each other and the attributes."""
    values: dict[str, Array | None] = {}
    for name in _Arrays._fields:
        source = _input(node, name)
        try:
            values[name] = graph.value(source) if source else None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    W, R = values["W"], values["R"]
    if W is None or R is None:
        raise ValueError("expected weights W and R, got none")
    if hidden_size is not None and hidden_size < 1:
        raise ValueError(f"hidden_size: expected at least 1, got {hidden_size}")
    H: int | str = "H" if R.ndim != 3 else R.shape[2]
    H = H if hidden_size is None else hidden_size
    width: int | str = "4 H" if isinstance(H, str) else 4 * H
    _check.shape("R", R, (directions, width, H))
    _check.shape("W", W, (directions, width, "I"))
    if not W.size or not R.size:
        raise ValueError("W, R: expected at least 1 input and 1 unit, got none")
    sizes = {"B": 8 * R.shape[2], "P": 3 * R.shape[2]}
    for name, size in sizes.items():
        optional = values[name]
        if optional is not None:
            _check.shape(name, optional, (directions, size))
    dtypes = {value.dtype for value in values.values() if value is not None}
    if len(dtypes) > 1 or W.dtype.kind != "f":
        raise ValueError(f"W, R, B, P: expected floats of one type, got {', '.join(map(str, dtypes))}")
    return _Arrays(W, R, values["B"], values["P"])


def _check_state(graph: Graph, node: Node) -> None:
    """Refuse what a call is given here, but a model has in it: a state to begin with, lengths."""
    for name in ("initial_h", "initial_c"):
        source = _input(node, name)
        if source and "input" not in graph.origins(source) and not graph.is_zero(source):
            raise ValueError(
                f"{name}: expected zeros, or what is computed from the model's inputs, got the constant "
                f"{describe(source)}, which is no parameter of an LSTM here; remove this input of the node, "
                "and hand in its value as state= in each call"
            )
    source = _input(node, "sequence_lens")
    if source and not graph.origins(source):
        raise ValueError(
            f"sequence_lens: expected what is computed from the model's inputs, got the constant "
            f"{describe(source)}; remove this input of the node, and hand in its value as lengths= in each "
            "call"
        )


def _activations(attributes: dict[str, Any], directions: int) -> tuple[Any, ...]:
    """Return (gates, candidate, cell), the same of both directions."""
    names = attributes.get("activations", ["Sigmoid", "Tanh", "Tanh"] * directions)
    if len(names) != 3 * directions:
        raise ValueError(f"activations: expected {3 * directions} names, got {len(names)}")
    lists = {key: attributes.get(f"activation_{key}", []) for key in ("alpha", "beta")}
    left = {key: iter(values) for key, values in lists.items()}
    specs: list[Any] = []
    for theirs in names:
        if theirs.lower() not in _OURS:
            raise ValueError(
                f"activations: expected some of {', '.join(NAMES.values())}, got {describe(theirs)}"
            )
        ours = _OURS[theirs.lower()]
        values = {key: next(left[key], None) for key in ACTIVATIONS[ours]}
        if ours == "scaled_tanh" and None in values.values():
            raise ValueError(
                "activation_alpha, activation_beta: ScaledTanh has no defaults, and lacks a value"
            )
        specs.append((ours, {key: _known(ours, key, value) for key, value in values.items()}))
    for key, values in lists.items():
        if next(left[key], None) is not None:
            raise ValueError(
                f"activation_{key}: expected fewer values for {listed(names)}, got {len(values)}"
            )
    if specs[:3] != specs[-3:]:
        raise ValueError(f"activations: expected the same of both directions, got {listed(names)}")
    return tuple(specs[:3])


def _known(name: str, key: str, value: float | None) -> float:
    """Return an alpha or beta, which has 32 bits, or the default for one that is not given, or is its 32."""
    default = ACTIVATIONS[name][key]
    return default if value is None or value == float(np.float32(default)) else value


# ------------------------------------------------------------------------------------------------ the chains

# An axis is what lies along it: T, B, D (directions), H, I; "DH" if two are joined, "" if its size is 1.
_PASSING = ("Dropout", "Identity", "Reshape", "Squeeze", "Transpose")
_Passed = list[tuple[str, list[str]]]  # values with their axes


def _below(graph: Graph, node: Node) -> tuple[Node, list[Node]] | None:
    """Return the LSTM whose Y this one reads, and the nodes between them from there on."""
    path: list[Node] = []
    name = _input(node, "X")
    while name and len(path) < DEEPEST_VALUES:
        owner, maker = graph.source(name)
        if owner is not graph or not isinstance(maker, Node) or name != maker.outputs[0]:
            return None
        if maker.op == "LSTM":
            return maker, path[::-1]
        path.append(maker)
        name = maker.inputs[0] if maker.op in _PASSING and maker.inputs else ""
    return None


def _feeds(graph: Graph, source: str, lower: Found, path: list[Node], upper: Found) -> bool:
    """Whether the upper LSTM is one like the lower, of `source`, and reads what a layer of ours hands on."""
    if {**upper.arguments, "input_size": 0} != {**lower.arguments, "input_size": 0}:
        return False
    D, H = 1 + lower.arguments["bidirectional"], lower.arguments["hidden_size"]
    sizes = {"": 1, "I": lower.arguments["input_size"], "D": D, "H": H, "DH": D * H}
    features = "DH" if D == 2 else "H"
    if lower.arguments["batch_first"]:
        axes, wanted = ["B", "T", features[:-1], "H"], ["B", "T", features]
    else:
        axes, wanted = ["T", features[:-1], "B", "H"], ["T", "B", features]
    passed: _Passed = [(source, [*wanted[:2], "I"])]
    for node in path:
        passed.append((node.inputs[0], axes))
        axes = _passed(graph, node, passed, sizes)
    return axes == wanted and upper.arguments["input_size"] == D * H


def _passed(graph: Graph, node: Node, passed: _Passed, sizes: dict[str, int]) -> list[str]:
    """Return the axes of what a node makes; [] if it is not known, or not the numbers of its input.

    The input is the last of the values that have been passed.
    """
    axes = passed[-1][1]
    given = [None, *(graph.value(name) if name else None for name in node.inputs[1:])]
    if node.op == "Dropout":
        training = given[2] if len(given) > 2 else None
        idle = training is None or not training.any()
        if graph.opset < 7:
            idle = bool(attributes_of(node, {"ratio": "real", "is_test": "integer"}).get("is_test"))
        return axes if idle else []
    if node.op == "Transpose":
        order = attributes_of(node, {"perm": "integers"}).get("perm", [*range(len(axes))][::-1])
        return [axes[n] for n in order] if sorted(order) == [*range(len(axes))] else []
    if node.op == "Squeeze":
        gone = axes_of(graph, node, given) or []
        if not gone or not all(-len(axes) <= n < len(axes) for n in gone):
            return []
        places = {n % len(axes) for n in gone}
        return [axis for n, axis in enumerate(axes) if n not in places]
    if node.op == "Reshape":
        # Exporters leave the first axes as they are and join the others.
        shape, zero = shape_of_reshape(graph, node, given)
        kept = len(shape) - 1
        if not 0 <= kept < len(axes) or 0 in shape[0 if zero else kept :] or shape.count(-1) > 1:
            return []
        if any(size > 0 for size in shape[:kept]):
            sizes = _with_declared(graph, passed, sizes)
        axes = [*axes[:kept], "".join(axes[kept:])]
        # The one size that is left open follows from the others.
        same = [size in (0, -1, sizes.get(axis)) for size, axis in zip(shape, axes, strict=True)]
        return axes if all(same) else []
    return axes


def _with_declared(graph: Graph, passed: _Passed, sizes: dict[str, int]) -> dict[str, int]:
    """Return the sizes of axes, with those that the graph declares of values."""
    sizes = dict(sizes)
    for name, axes in passed:
        shape = graph.shape(name)
        for axis, size in zip(axes, shape, strict=True) if shape else ():
            if size and sizes.setdefault(axis, size) != size:
                raise ValueError(f"{describe(name)}: expected the size {sizes[axis]}, got {size}")
    return sizes


# -------------------------------------------------------------------------------------------------- reading


class _Model:
    """A model, with the places of its LSTM nodes by name."""

    def __init__(self, source: Any) -> None:
        self.label, content = _content(source)
        try:
            self._graph = _parse(content)
        except ValueError as error:
            raise FileFormatError(self.label, f"not an ONNX model that can be read ({error})") from error
        places = [
            (graph, node)
            for graph, node in self._graph.walk()
            if node.op == "LSTM" or node.op.endswith(":DynamicQuantizeLSTM")
        ]
        check_count(self.label, len(places))
        names = [node.name or next(filter(None, node.outputs), "LSTM") for _, node in places]
        taken, counted = Counter(names), Counter[str]()
        self._places: dict[str, tuple[Graph, Node]] = {}
        for name, place in zip(names, places, strict=True):
            counted[name] += 1
            label = name if taken[name] == 1 else f"{name}#{counted[name]}"
            while label != name and (label in taken or label in self._places):
                label += "#"
            self._places[label] = place
        self._names = {id(node): name for name, (_, node) in self._places.items()}

    @property
    def names(self) -> list[str]:
        """Names of the nodes."""
        return list(self._places)

    def node(self, name: str) -> Found:
        """Return one node, whatever it feeds."""
        if name not in self._places:
            raise FileFormatError(
                self.label,
                f"node: expected one or several of {listed(self._places)}, got {describe(name)}",
            )
        return choose(self.label, [_found(*self._places[name], name)], None, "node")

    def all(self) -> list[Found]:
        """Return every LSTM, with the nodes of a chain as one."""
        found = {name: _found(*place, name) for name, place in self._places.items()}
        links = [(lower, upper) for upper in found if (lower := self._lower(upper, found)) is not None]
        readers = Counter(lower for lower, _ in links)
        above = {lower: upper for lower, upper in links if readers[lower] == 1}
        upper = set(above.values())
        return [self._stack(name, found, above) for name in found if name not in upper]

    def _stack(self, name: str, found: dict[str, Found], above: dict[str, str]) -> Found:
        """Join a node and those above it."""
        layers = [found[name]]
        while layers[-1].name in above:
            layers.append(found[above[layers[-1].name]])
        return stack(self.label, layers) if len(layers) > 1 else layers[0]

    def _lower(self, name: str, found: dict[str, Found]) -> str | None:
        """Return the name of the LSTM that hands its output to this one, as to the next layer of a stack."""
        graph, node = self._places[name]
        try:
            below = _below(graph, node)
            if below is None:
                return None
            lower, path = below
            other = self._names[id(lower)]
            good = found[name].trouble is None and found[other].trouble is None
            same = _input(node, "sequence_lens") == _input(lower, "sequence_lens")
            source = _input(lower, "X")
            return other if good and same and _feeds(graph, source, found[other], path, found[name]) else None
        except (ValueError, IndexError):  # of a graph that is not what an exporter writes
            return None

    def why_none(self) -> str:
        """Tell what there is instead of an LSTM."""
        ops = {node.op for _, node in self._graph.walk()}
        others = sorted(ops & {"GRU", "RNN"})
        if others:
            return f"no LSTM node, but {', '.join(others)}"
        products = sorted(ops & {"Gemm", "MatMul", "Einsum", "MatMulInteger", "QLinearMatMul"})
        if products and ops & {"Sigmoid", "Tanh", "HardSigmoid"}:
            return (
                f"no LSTM node: what it computes stands there as {', '.join(products)} and so on, step by "
                "step; export it so that the LSTM stays one node"
            )
        if any(":" in op for op in ops):
            return f"no LSTM node; not looked into: {listed(sorted(op for op in ops if ':' in op))}"
        return "no LSTM node"


def _content(source: Any) -> tuple[object, bytes]:
    """Return what messages call the source, and the bytes of the model."""
    if isinstance(source, bytes):
        return "ONNX model in bytes", source
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source), contents.read_bytes(source)
    if type(source).__name__ != "ModelProto":
        raise TypeError(f"source: expected a path, bytes or an onnx.ModelProto, got {describe(source)}")
    try:
        content: bytes = source.SerializeToString()
    except Exception as error:  # of 2 GB and more; the class depends on the version of protobuf
        raise FileFormatError("ModelProto", f"it cannot be serialised: {error}") from error
    return "ModelProto", content


def _parse(content: bytes) -> Graph:
    """Return the main graph of a model."""
    budget = Budget(_STEPS, _MEMORY + _COPIES * len(content))
    model = Message(content, budget)
    graph = model.message(7)
    if graph is None:
        raise ValueError("it has no graph")
    domains = ((each.text(1), each.integer(2)) for each in model.messages(8))
    versions = by_name(("" if name in OWN_DOMAIN else name, version) for name, version in domains)
    opset = versions.get("", 1)  # the first models have none
    if not isinstance(opset, int) or opset < 1:
        raise ValueError(f"expected a version of the operators, got {opset}")
    for function in model.messages(25):
        if function.text(10) in OWN_DOMAIN:
            raise ValueError(f"it has an operator {describe(function.text(1))} of its own in ONNX's name")
    return Graph(graph, opset, budget)


def find(source: Any) -> list[Found]:
    """Return every LSTM of a model.

    Parameters
    ----------
    source : str, path-like, bytes or onnx.ModelProto

    Returns
    -------
    list of Found
        In the order of the graph, then those inside of If, Loop and Scan; those in the model's local
        functions are not looked for.  Nodes of which each reads the output of the one before, as the layers
        of a torch export do, are one `Found`, whose name is "<first>, <second>, ...".  A node without a name
        has that of its first output; a name that stands several times gets "#1", "#2".

    Raises
    ------
    FileFormatError
        It is no ONNX model, or a graph with a name twice, or needs more than a second to be read.
    """
    return _Model(source).all()


def read(source: Any, node: str | list[str] | None = None) -> Found:
    """Return one LSTM of a model.

    Parameters
    ----------
    source : str, path-like, bytes or onnx.ModelProto
    node : str or list of str, optional
        A name as `find` has it; that of a single node, though it is one of a chain; or several of them, whose
        nodes become layers in this order.  Can be left out if there is but one LSTM or chain.

    Returns
    -------
    Found

    Raises
    ------
    FileFormatError
        There is no such LSTM, or it cannot be read; the message says why.
    """
    model = _Model(source)
    if isinstance(node, list | tuple):
        if not node:
            raise ValueError("node: expected at least one name, got none")
        return stack(model.label, [model.node(name) for name in node])
    if node is not None and node in model.names:
        return model.node(node)
    found = model.all()
    if not found:
        raise FileFormatError(model.label, model.why_none())
    return choose(model.label, found, node, "node")
