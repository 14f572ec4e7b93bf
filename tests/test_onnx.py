"""float32 equal to ONNX's LSTM: its node tests, and ONNX Runtime on random attributes; may be skipped.

There the blocks of the gates are i, o, f, c, those of the peepholes i, o, f; here i, f, g, o and i, f, o.
The weights of the node tests are constants, which no permutation changes: only the random ones can tell.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from conftest import LAYERS, assert_close

from clstm import cells

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
node_cases = pytest.importorskip("onnx.backend.test.case.node")
pytest.importorskip("onnx.backend.test.case.node.lstm")  # fills the list
pytest.importorskip("onnx.backend.test.case.node.rnn")

# All that ONNX names, by our names.
ACTIVATIONS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "hard_sigmoid": "HardSigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "elu": "Elu",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "affine": "Affine",
}
OURS = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
BLOCKS = {"LSTM": [0, 2, 3, 1], "RNN": [0]}  # where ours are among theirs
PEEPHOLES = [0, 2, 1]
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")


# ------------------------------------------------------------------------------------- a node, run by a layer


def our_activations(attributes):
    """Return (gates, candidate, cell) of a node's first direction."""
    names = attributes.get("activations", ["Sigmoid", "Tanh", "Tanh"])[:3]
    lists = {key: iter(attributes.get(f"activation_{key}", [])) for key in ("alpha", "beta")}
    specs = []
    for name in map(OURS.get, names):
        given = {key: next(lists[key], None) for key in cells.ACTIVATIONS[name]}
        specs.append((name, {key: value for key, value in given.items() if value is not None}))
    return tuple(specs)


def run_layer(operator, attributes, inputs, backend, dtype=np.float32):
    """Run what an ONNX node describes on a layer of ours; return its outputs by their names.

    The direction "reverse" alone is half of a layer with both, whose other half is all zeros.
    """
    H, layout = attributes["hidden_size"], attributes.get("layout", 0)
    direction = attributes.get("direction", "forward")
    options = {}
    if operator == "LSTM":
        options = {
            "activations": our_activations(attributes),
            "gate_clip": attributes.get("clip"),
            "coupled": bool(attributes.get("input_forget", 0)),
            "peepholes": "P" in inputs,
        }
    layer = LAYERS[operator.lower()](
        inputs["X"].shape[2], H, bidirectional=direction != "forward", bias="B" in inputs,
        batch_first=bool(layout), dtype=dtype, backend=backend, **options,
    )  # fmt: skip
    halves = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]
    layer.flat_params[...] = 0
    for n, half in enumerate(halves):
        suffix = "_l0_reverse" if half else "_l0"
        arrays = {"weight_ih": inputs["W"][n], "weight_hh": inputs["R"][n]}
        if "B" in inputs:
            arrays["bias"] = inputs["B"][n].reshape(2, -1).sum(axis=0)
        for name, array in arrays.items():
            blocks = array.reshape(-1, H, *array.shape[1:])[BLOCKS[operator]]
            layer.params[name + suffix] = blocks.reshape(array.shape)
        if "P" in inputs:
            layer.params["weight_peephole" + suffix] = inputs["P"][n].reshape(3, H)[PEEPHOLES]

    B = inputs["X"].shape[0 if layout else 1]
    state = np.zeros((2, layer.num_directions, B, H), dtype)
    for part, name in zip(state, ("initial_h", "initial_c"), strict=True):
        if name in inputs:
            part[halves] = inputs[name]
    y, final = layer(
        inputs["X"].astype(dtype),
        tuple(state) if operator == "LSTM" else state[0],
        inputs.get("sequence_lens"),
    )
    y = y.reshape(*y.shape[:2], -1, H)[:, :, halves]
    outputs = {"Y": y if layout else y.swapaxes(1, 2)}
    for name, part in zip(("Y_h", "Y_c"), final if operator == "LSTM" else (final,), strict=False):
        outputs[name] = part[halves].swapaxes(0, 1) if layout else part[halves]
    return outputs


# ------------------------------------------------------------------------------------------- ONNX's own tests


@pytest.mark.parametrize("case", node_cases._NodeTestCases, ids=lambda case: case.name)
def test_onnx_node_tests(case, backend):
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if "direction" in attributes:
        attributes["direction"] = attributes["direction"].decode()
    ((inputs, expected),) = case.data_sets
    given = dict(zip(filter(None, node.input), inputs, strict=True))
    got = run_layer(node.op_type, attributes, given, backend)
    for name, value in zip(filter(None, node.output), expected, strict=True):
        assert_close(got[name], value, "onnx", name)


def test_node_tests_of_the_lstm_are_six():
    names = {case.name for case in node_cases._NodeTestCases if case.model.graph.node[0].op_type == "LSTM"}
    kinds = ("defaults", "with_initial_bias", "with_peepholes", "batchwise", "reverse", "bidirectional")
    assert names == {f"test_lstm_{kind}" for kind in kinds}


# ----------------------------------------------------------------------------------------------- random nodes

# Where ONNX Runtime departs from the text, nodes are not drawn:
# - alphas and betas that are not given are those of the operators of the same name: 1 and 0 for Affine, 1 for
#   ThresholdedRelu, none for ScaledTanh.  It has 0 for all of these.
# - The state of a row of length 0 comes out as 0, even if an initial one was given.
# - It refuses layout 1.
# The text leaves open whether clip bounds C_t too, on its way to h.  ONNX Runtime does not, nor do we.
# What equals the threshold of ThresholdedRelu is kept by the text, not by the operator, ONNX Runtime or us.
NO_DEFAULTS = ("affine", "scaled_tanh", "thresholded_relu")


@dataclass(frozen=True)
class Node:
    """An LSTM node of ONNX and its inputs."""

    attributes: dict
    inputs: dict


def draw_activations(rng, attributes, directions):
    """Add activations: with all of their alphas and betas, with the first of them, or with none."""
    names = [str(name) for name in rng.choice(list(ACTIVATIONS), 3)]
    needed = {key: [n for n in names if key in cells.ACTIVATIONS[n]] for key in ("alpha", "beta")}
    ranges = {"alpha": (0.1, 1.2), "beta": (-0.3, 0.7)}
    attributes["activations"] = [ACTIVATIONS[name] for name in names] * directions
    for key, takers in needed.items():
        least = max((n + 1 for n, name in enumerate(takers) if name in NO_DEFAULTS), default=0)
        given = int(rng.integers(least, len(takers) + 1))
        if directions == 2 and given < len(takers):  # one list for both, so that some would be the second's
            given = 0 if least == 0 else len(takers)
        values = rng.uniform(*ranges[key], given).astype(np.float32)
        if given:
            attributes[f"activation_{key}"] = [float(value) for value in values] * directions


def draw_node(rng):
    """Draw attributes and inputs; everything that is optional is there or not."""
    T, B, I, H = (int(rng.integers(1, n)) for n in (9, 6, 6, 9))  # noqa: E741
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D = 1 + (direction == "bidirectional")

    def uniform(scale, *shape):
        return rng.uniform(-scale, scale, shape).astype(np.float32)

    inputs = {
        "X": rng.standard_normal((T, B, I)).astype(np.float32),
        "W": uniform(1 / np.sqrt(I), D, 4 * H, I),
        "R": uniform(1 / np.sqrt(H), D, 4 * H, H),
    }
    optional = {
        "B": uniform(0.5, D, 8 * H),
        "sequence_lens": rng.integers(1, T + 1, B).astype(np.int32),
        "initial_h": uniform(1.0, D, B, H),
        "initial_c": uniform(1.0, D, B, H),
        "P": uniform(0.5, D, 3 * H),
    }
    inputs |= {name: value for name, value in optional.items() if rng.integers(2)}
    attributes = {"hidden_size": H, "direction": direction}
    if rng.integers(4):
        draw_activations(rng, attributes, D)
    if rng.integers(2):
        attributes["clip"] = float(np.float32(rng.uniform(0.2, 1.5)))
    if rng.integers(2):
        attributes["input_forget"] = 1
    return Node(attributes, inputs)


def is_well_posed(node):
    """Tell whether rounding stays small: no threshold lies near a jump's argument, and no state explodes."""
    names = [OURS[name] for name in node.attributes.get("activations", [])]
    takers = [name for name in names if "alpha" in cells.ACTIVATIONS[name]]

    def run(by):
        alphas = zip(node.attributes.get("activation_alpha", []), takers, strict=False)
        moved = [alpha + by * (name == "thresholded_relu") for alpha, name in alphas]
        return run_layer(
            "LSTM", node.attributes | {"activation_alpha": moved}, node.inputs, "numpy", np.float64
        )

    below, above = run(-1e-4), run(1e-4)
    return all(
        np.array_equal(below[name], above[name]) and np.abs(above[name]).max() < 20 for name in OUTPUTS
    )


def run_onnxruntime(node):
    """Run a node on ONNX Runtime; return its outputs by their names."""
    types = dict.fromkeys(INPUTS + OUTPUTS, onnx.TensorProto.FLOAT) | {
        "sequence_lens": onnx.TensorProto.INT32
    }
    made = onnx.helper.make_node(
        "LSTM", [name if name in node.inputs else "" for name in INPUTS], OUTPUTS, **node.attributes
    )
    given = [onnx.helper.make_tensor_value_info(n, types[n], v.shape) for n, v in node.inputs.items()]
    wanted = [onnx.helper.make_tensor_value_info(n, types[n], None) for n in OUTPUTS]
    graph = onnx.helper.make_graph([made], "lstm", given, wanted)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip(OUTPUTS, session.run(OUTPUTS, node.inputs), strict=True))


@cache
def node_and_expected(seed):
    """Draw a node and run ONNX Runtime on it; tests share both, which are not to be changed."""
    rng = np.random.default_rng(seed)
    node = draw_node(rng)
    while not is_well_posed(node):
        node = draw_node(rng)
    return node, run_onnxruntime(node)


def assert_equals_onnxruntime(node, expected, backend):
    got = run_layer("LSTM", node.attributes, node.inputs, backend)
    for name in OUTPUTS:
        assert_close(got[name], expected[name], "onnx", name)


SEEDS = range(300)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_nodes_equal_onnxruntime(backend, seed):
    assert_equals_onnxruntime(*node_and_expected(seed), backend)


def test_random_nodes_hold_everything():
    nodes = [node_and_expected(seed)[0] for seed in SEEDS]
    activations = {
        (place, OURS[name])
        for node in nodes
        for place, name in enumerate(node.attributes.get("activations", [])[:3])
    }
    assert activations == {(place, name) for place in range(3) for name in ACTIVATIONS}
    defaults = {
        name
        for node in nodes
        for name, given in our_activations(node.attributes)
        if given.keys() < cells.ACTIVATIONS[name].keys()
    }
    assert defaults == {
        name for name, given in cells.ACTIVATIONS.items() if given and name not in NO_DEFAULTS
    }
    assert {node.attributes["direction"] for node in nodes} == {"forward", "reverse", "bidirectional"}
    for name in INPUTS[3:]:
        assert {name in node.inputs for node in nodes} == {False, True}
    for name in ("activations", "activation_alpha", "activation_beta", "clip", "input_forget"):
        assert {name in node.attributes for node in nodes} == {False, True}
    assert any(
        node.inputs["sequence_lens"].min() < len(node.inputs["X"])
        for node in nodes
        if "sequence_lens" in node.inputs
    )


@pytest.mark.parametrize("name", ["W", "R", "B", "P"])
def test_a_permutation_of_gates_is_noticed(name):
    seed = next(s for s in SEEDS if {"B", "P"} <= node_and_expected(s)[0].inputs.keys())
    node, expected = node_and_expected(seed)
    array = node.inputs[name]
    blocks = np.split(array, array.shape[1] // node.attributes["hidden_size"], axis=1)
    blocks[0], blocks[1] = blocks[1], blocks[0]
    permuted = replace(node, inputs=node.inputs | {name: np.concatenate(blocks, axis=1)})
    with pytest.raises(AssertionError, match="promised"):
        assert_equals_onnxruntime(permuted, expected, "numpy")
