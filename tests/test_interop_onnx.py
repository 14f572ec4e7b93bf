"""LSTMs of ONNX models: read as they are or refused with the reason, and written so that runtimes agree.

Attributes and numbers are compared with ONNX Runtime on the random nodes of test_onnx.py, whose weights are
distinct, chains of layers with PyTorch's own exporter.  Hostile models are put together byte by byte.
"""

import io
import itertools
import re
import warnings

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_lstm, run_python
from test_onnx import ACTIVATIONS, INPUTS, OUTPUTS, SEEDS, node_and_expected, onnx, onnxruntime

import clstm
from clstm import FileFormatError
from clstm.interop import onnx as interop
from clstm.interop import onnx_write
from clstm.interop.onnx_graph import DEEPEST_VALUES

helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
RUNTIME = ("X", "sequence_lens", "initial_h", "initial_c")  # what a call is given
WEIGHTS = ("W", "R", "B", "P")
I, H = 3, 4  # noqa: E741


# ---------------------------------------------------------------------------------------------- making models


def make_model(nodes, tensors=(), inputs=("X",), opset=14, functions=()):
    """Make a model without any check; `tensors` are TensorProtos or arrays by name."""
    if isinstance(tensors, dict):
        tensors = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    graph = helper.make_graph(list(nodes), "graph", given, [], list(tensors))
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def draw_weights(directions=1, seed=0, dtype=np.float32, input_size=I, peepholes=False):
    rng = np.random.default_rng(seed)
    shapes = {"W": (4 * H, input_size), "R": (4 * H, H), "B": (8 * H,)}
    shapes |= {"P": (3 * H,)} if peepholes else {}
    return {name: rng.uniform(-1, 1, (directions, *shape)).astype(dtype) for name, shape in shapes.items()}


def lstm_node(inputs=("X", "W", "R", "B"), outputs=("Y",), name="lstm", **attributes):
    return helper.make_node("LSTM", list(inputs), list(outputs), name=name, **attributes)


def make_lstm(weights=None, opset=14, inputs=("X", "W", "R", "B"), **attributes):
    """Make a model of one node."""
    return make_model(
        [lstm_node(inputs, **attributes)],
        draw_weights() if weights is None else weights,
        [name for name in inputs if name in RUNTIME],
        opset,
    )


def our_params(weights):
    """Return the parameters of a layer of these weights, gate by gate."""
    params = {}
    for n, suffix in enumerate(("", "_reverse")[: len(weights["W"])]):
        i, o, f, c = (slice(k * H, (k + 1) * H) for k in range(4))
        for ours, theirs in (("weight_ih", weights["W"]), ("weight_hh", weights["R"])):
            params[f"{ours}_l0{suffix}"] = np.concatenate([theirs[n, gate] for gate in (i, f, c, o)])
        bias = weights["B"][n, : 4 * H] + weights["B"][n, 4 * H :]
        params[f"bias_l0{suffix}"] = np.concatenate([bias[gate] for gate in (i, f, c, o)])
    return params


def assert_has(lstm, params):
    got = lstm.state_dict()
    assert got.keys() == params.keys()
    for name, value in params.items():
        assert_same_bits(got[name], value, name)


def refuses(model, message, node=None):
    with pytest.raises(FileFormatError, match=message) as caught:
        clstm.LSTM.from_onnx(model, node)
    assert len(str(caught.value)) < 700
    return str(caught.value)


# ----------------------------------------------------------------------------------- random nodes, attributes


def stored_as_constants(weights):
    return [
        helper.make_node("Constant", [], [k], value=numpy_helper.from_array(v)) for k, v in weights.items()
    ]


def stored_in_pieces(weights):
    """Make every weight of pieces that stand in another order and shape, as exporters leave them."""
    nodes, tensors = [], {"1": [1], "0": [0], "end": [np.iinfo(np.int64).max]}
    for name, value in weights.items():
        half = value.shape[1] // 2
        exchanged = np.concatenate([value[:, half:], value[:, :half]], axis=1)
        tensors |= {f"{name} stored": exchanged[:, None], f"{name} half": [value.shape[1] - half]}
        nodes += [
            helper.make_node("Squeeze", [f"{name} stored", "1"], [f"{name} flat"]),
            helper.make_node("Slice", [f"{name} flat", f"{name} half", "end", "1"], [f"{name} first"]),
            helper.make_node("Slice", [f"{name} flat", "0", f"{name} half", "1"], [f"{name} second"]),
            helper.make_node("Concat", [f"{name} first", f"{name} second"], [f"{name} whole"], axis=1),
            helper.make_node("Identity", [f"{name} whole"], [name]),
        ]
    return nodes, [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]


def model_of(node, stored):
    """Make a model of a random node of test_onnx.py."""
    weights = {name: value for name, value in node.inputs.items() if name in WEIGHTS}
    names = [name if name in node.inputs else "" for name in INPUTS]
    nodes, tensors = [], weights
    if stored == "constants":
        nodes, tensors = stored_as_constants(weights), []
    elif stored == "pieces":
        nodes, tensors = stored_in_pieces(weights)
    nodes = [*nodes, lstm_node(names, OUTPUTS, **node.attributes)]
    return make_model(nodes, tensors, [name for name in node.inputs if name in RUNTIME])


def run_read(lstm, node):
    """Run a layer on the inputs of a node and return its outputs as ONNX shapes them."""
    state = np.zeros((2, lstm.num_directions, node.inputs["X"].shape[1], lstm.hidden_size), np.float32)
    for part, name in zip(state, ("initial_h", "initial_c"), strict=True):
        part[...] = node.inputs.get(name, 0)
    y, (h_n, c_n) = lstm(node.inputs["X"], tuple(state), node.inputs.get("sequence_lens"))
    y = y.reshape(*y.shape[:2], lstm.num_directions, -1).swapaxes(1, 2)
    return {"Y": y, "Y_h": h_n, "Y_c": c_n}


def assert_equals_onnxruntime(lstm, node, expected):
    got = run_read(lstm, node)
    for name in OUTPUTS:
        assert_close(got[name], expected[name], "onnx", name)


@pytest.mark.parametrize("stored", ["initializers", "constants", "pieces"])
@pytest.mark.parametrize("seed", SEEDS[:100])
def test_random_nodes_are_read_as_onnxruntime_runs_them(seed, stored):
    node, expected = node_and_expected(seed)
    assert_equals_onnxruntime(clstm.LSTM.from_onnx(model_of(node, stored)), node, expected)


@pytest.mark.parametrize("order", ["ofig", "fiog", "iogf", "gofi"])
def test_other_order_of_gates_is_noticed(monkeypatch, order):
    node, expected = node_and_expected(1)
    monkeypatch.setattr(interop, "ORDER", order)
    with pytest.raises(AssertionError, match="promised"):
        assert_equals_onnxruntime(clstm.LSTM.from_onnx(model_of(node, "initializers")), node, expected)


def test_other_order_of_peepholes_is_noticed(monkeypatch):
    seed = next(seed for seed in SEEDS if "P" in node_and_expected(seed)[0].inputs)
    node, expected = node_and_expected(seed)
    monkeypatch.setattr(interop, "PEEPHOLES", [0, 1, 2])
    with pytest.raises(AssertionError, match="promised"):
        assert_equals_onnxruntime(clstm.LSTM.from_onnx(model_of(node, "initializers")), node, expected)


@pytest.mark.parametrize("seed", SEEDS[:50])
def test_there_and_back_keeps_every_bit(seed):
    node, _ = node_and_expected(seed)
    read = clstm.LSTM.from_onnx(model_of(node, "initializers"))
    written = read.to_onnx()
    again = clstm.LSTM.from_onnx(written)
    assert repr(again) == repr(read)
    assert_same_bits(again.flat_params, read.flat_params)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    for name in WEIGHTS:
        if name not in node.inputs:
            assert f"{name}_l0" not in tensors
        elif name == "B":
            width = 4 * read.hidden_size
            both = node.inputs["B"][:, :width] + node.inputs["B"][:, width:]
            assert_same_bits(tensors["B_l0"][:, :width], both)
            assert not tensors["B_l0"][:, width:].any()
        else:
            assert_same_bits(tensors[f"{name}_l0"], node.inputs[name], name)


def test_layout_1_is_batch_first():
    weights = draw_weights(2)
    lstm = clstm.LSTM.from_onnx(make_lstm(weights, direction="bidirectional", layout=1))
    assert lstm.batch_first
    assert_has(lstm, our_params(weights))
    assert not clstm.LSTM.from_onnx(make_lstm(layout=0)).batch_first
    assert not clstm.LSTM.from_onnx(make_lstm(layout=1), batch_first=False).batch_first


def test_arguments_are_those_of_the_node():
    lstm = clstm.LSTM.from_onnx(
        make_lstm(
            draw_weights(peepholes=True),
            inputs=("X", "W", "R", "", "", "", "", "P"),
            direction="reverse",
            clip=0.5,
            input_forget=1,
            hidden_size=H,
            activations=["hardsigmoid", "Elu", "ThresholdedRelu"],
            activation_alpha=[0.25, 0.5],
            activation_beta=[0.75],
        ),
        dropout=0.5,
        backend="numpy",
    )
    assert (lstm.input_size, lstm.hidden_size, lstm.num_layers) == (I, H, 1)
    assert (lstm.bias, lstm.bidirectional, lstm.reverse) == (False, False, True)
    assert (lstm.peepholes, lstm.coupled, lstm.gate_clip) == (True, True, 0.5)
    assert lstm.activations == (
        ("hard_sigmoid", {"alpha": 0.25, "beta": 0.75}),
        ("elu", {"alpha": 0.5}),
        "thresholded_relu",
    )
    assert (lstm.dropout, lstm.backend, lstm.dtype) == (0.5, "numpy", np.float32)


def test_each_direction_takes_its_own_alphas():
    names = ["Elu", "Tanh", "LeakyRelu"] * 2
    make = lambda alphas: make_lstm(  # noqa: E731
        draw_weights(2), direction="bidirectional", activations=names, activation_alpha=alphas
    )
    lstm = clstm.LSTM.from_onnx(make([0.5, 0.25, 0.5, 0.25]))
    assert lstm.activations == (("elu", {"alpha": 0.5}), "tanh", ("leaky_relu", {"alpha": 0.25}))
    refuses(make([0.5, 0.25, 0.25, 0.5]), "activations: expected the same of both directions")
    refuses(make([0.5, 0.25]), "activations: expected the same of both directions")


@pytest.mark.parametrize(
    ("opset", "attributes"),
    [
        (1, {"output_sequence": 1}),
        (1, {"output_sequence": 0}),
        (6, {}),
        (7, {}),
        (14, {"layout": 0}),
        (22, {}),
    ],
)
def test_every_version_of_the_operator_is_read(opset, attributes):
    weights = draw_weights()
    assert_has(clstm.LSTM.from_onnx(make_lstm(weights, opset, **attributes)), our_params(weights))


def test_attributes_may_lack_their_type_or_a_value_that_is_zero():
    model = make_lstm(layout=0, clip=0.5)
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "clip":
            attribute.ClearField("type")
        else:
            attribute.ClearField("i")
    lstm = clstm.LSTM.from_onnx(model)
    assert (lstm.gate_clip, lstm.batch_first) == (0.5, False)


BAD_ATTRIBUTES = {
    "unknown": ({"peephole": 1}, "expected of attributes only activations, .*, got 'peephole'"),
    "layout of opset 7": ({"layout": 0, "opset": 7}, "LSTM of opset 7 has no attribute layout"),
    "output_sequence of opset 14": (
        {"output_sequence": 0},
        "LSTM of opset 14 has no attribute output_sequence",
    ),
    "layout": ({"layout": 2}, "layout: expected 0 or 1, got 2"),
    "input_forget": ({"input_forget": -1}, "input_forget: expected 0 or 1, got -1"),
    "direction": (
        {"direction": "back"},
        "direction: expected one of forward, reverse, bidirectional, got 'back'",
    ),
    "both": ({"direction": "bidirectional"}, r"R: expected shape \(2, 16, 4\), got \(1, 16, 4\)"),
    "hidden_size": ({"hidden_size": 5}, r"R: expected shape \(1, 20, 5\), got \(1, 16, 4\)"),
    "hidden_size of 0": ({"hidden_size": 0}, "hidden_size: expected at least 1, got 0"),
    "clip of 0": ({"clip": 0.0}, "clip: expected a number above 0, got 0.0"),
    "clip below 0": ({"clip": -1.0}, "clip: expected a number above 0, got -1.0"),
    "clip of infinity": ({"clip": np.inf}, "clip: expected finite numbers"),
    "clip as an integer": ({"clip": 1}, "clip: expected an attribute with one value, of kind real"),
    "two activations": ({"activations": ["Tanh", "Tanh"]}, "activations: expected 3 names, got 2"),
    "six activations": ({"activations": ["Tanh"] * 6}, "activations: expected 3 names, got 6"),
    "an activation": ({"activations": ["Sigmoid", "Tanh", "Gelu"]}, "activations: expected some of .*'Gelu'"),
    "identity": ({"activations": ["Sigmoid", "Tanh", "Identity"]}, "activations: .*, got 'Identity'"),
    "alphas that nobody takes": ({"activation_alpha": [0.5]}, "activation_alpha: expected fewer values"),
    "betas that nobody takes": (
        {"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_beta": [0.5, 0.5]},
        "activation_beta: expected fewer values for HardSigmoid, Tanh, Tanh, got 2",
    ),
    "NaN": ({"activations": ["Elu"] * 3, "activation_alpha": [np.nan]}, "activation_alpha: expected finite"),
    "no default": ({"activations": ["ScaledTanh"] * 3}, "ScaledTanh has no defaults, and lacks a value"),
}


@pytest.mark.parametrize("bad", BAD_ATTRIBUTES)
def test_attribute_that_is_not_understood_is_refused(bad):
    attributes, message = BAD_ATTRIBUTES[bad]
    assert refuses(make_lstm(**attributes), message).startswith("ModelProto: 'lstm': ")


def test_attribute_that_stands_twice_is_refused():
    model = make_lstm(clip=0.5)
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    refuses(model, "expected each attribute once, got 'clip' again")


def test_attribute_with_two_values_or_of_a_function_is_refused():
    model = make_lstm(clip=0.5)
    model.graph.node[0].attribute[0].i = 3
    refuses(model, "clip: expected an attribute with one value")
    model = make_lstm(clip=0.5)
    model.graph.node[0].attribute[0].ref_attr_name = "clip"
    refuses(model, "clip: expected an attribute with one value")


def test_names_of_activations_are_onnx_s():
    assert interop.NAMES == ACTIVATIONS


# -------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", ["W", "R", "B"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[..., :-1], "expected shape"),
        (lambda v: np.concatenate([v, v]), "expected shape"),
        (lambda v: v[0], "expected shape"),
        (lambda v: v.astype(np.float64), "W, R, B, P: expected floats of one type"),
    ],
)
def test_weights_that_do_not_fit_are_refused(name, change, message):
    weights = draw_weights()
    # What W is wide says how many inputs there are, so that only its height can be wrong.
    changed = weights[name][:, :-1] if name == "W" and message == "expected shape" else change(weights[name])
    refuses(make_lstm(weights | {name: changed}), f"'lstm': .*{message}")


@pytest.mark.parametrize(("dtype", "large"), [("f4", 3e38), ("f8", 1.7e308)])
def test_biases_whose_sum_is_infinite_are_refused(dtype, large):
    weights = {name: value.astype(dtype) for name, value in draw_weights().items()}
    refuses(make_lstm(weights | {"B": np.full_like(weights["B"], large)}), "expected biases whose sums are")


def test_infinite_biases_are_read_without_a_warning():
    weights = draw_weights()
    weights["B"][..., : 4 * H] = np.inf
    weights["B"][..., 4 * H :] = -np.inf
    assert np.isnan(clstm.LSTM.from_onnx(make_lstm(weights).SerializeToString()).params["bias_l0"]).all()


def test_weights_of_integers_none_or_without_units_are_refused():
    whole = {name: value.astype(np.int32) for name, value in draw_weights().items()}
    refuses(make_lstm(whole), "expected floats of one type, got int32")
    refuses(make_lstm(inputs=("X", "W", "")), "expected weights W and R, got none")
    refuses(make_lstm(inputs=("X",)), "expected weights W and R, got none")
    empty = {"W": np.zeros((1, 0, I), "f4"), "R": np.zeros((1, 0, 0), "f4"), "B": np.zeros((1, 0), "f4")}
    refuses(make_lstm(empty), "expected at least 1 input and 1 unit")
    refuses(make_lstm(draw_weights(input_size=0)), "expected at least 1 input and 1 unit")
    refuses(make_lstm(draw_weights(), inputs=("X", "W", "R", *[""] * 6)), "expected at most 8 inputs, got 9")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_and_storage_of_weights_is_read_exactly(dtype, raw):
    weights = {name: value.astype(np.float16) for name, value in draw_weights().items()}
    if dtype == "bfloat16":  # numbers that it holds
        bits = {name: value.astype(np.float32).view(np.uint32) >> 16 << 16 for name, value in weights.items()}
        weights = {name: value.view(np.float32) for name, value in bits.items()}
    kind = getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))
    tensors = []
    for name, value in weights.items():
        tensor = helper.make_tensor(name, kind, value.shape, value.astype(np.float64).ravel())
        if raw:
            short = value.view(np.uint32) >> 16 if dtype == "bfloat16" else value
            typed = short.astype(np.uint16) if dtype == "bfloat16" else value.astype(dtype)
            tensor = TensorProto(name=name, data_type=kind, dims=value.shape, raw_data=typed.tobytes())
        assert tensor.HasField("raw_data") == raw
        tensors.append(tensor)
    wide = np.float64 if dtype == "float64" else np.float32
    lstm = clstm.LSTM.from_onnx(make_lstm(tensors))
    assert_has(lstm, our_params({name: value.astype(wide) for name, value in weights.items()}))
    assert lstm.dtype == wide
    assert clstm.LSTM.from_onnx(make_lstm(tensors), dtype="float64").dtype == np.float64


def test_initializers_may_be_inputs_with_a_default():
    weights = draw_weights()
    model = make_model([lstm_node()], weights, ["X", *weights])
    assert_has(clstm.LSTM.from_onnx(model), our_params(weights))


BAD_TENSORS = {
    "too short": (lambda t: t.MergeFrom(TensorProto(dims=[7])), "expected 336 values for its shape, got 48"),
    "negative": (lambda t: t.dims.__setitem__(0, -1), r"expected sizes of 0 or more, got \[-1, 16, 3\]"),
    "huge": (lambda t: t.dims.extend([1 << 62] * 4), "values for its shape, got 48"),
    "many axes": (lambda t: t.dims.extend([1] * 1000), "expected a list of at most 32 numbers"),
    "other bytes": (lambda t: setattr(t, "raw_data", b"123"), "expected numbers of 4 bytes, got 3 bytes"),
    "twice": (lambda t: t.float_data.append(1.0), "expected its data once, got them twice"),
    "text": (
        lambda t: setattr(t, "data_type", TensorProto.STRING),
        "expected a tensor of float, .*, got type 8",
    ),
    "8 bits": (
        lambda t: setattr(t, "data_type", TensorProto.INT8),
        "expected a tensor of float, .*, got type 3",
    ),
    "no type": (lambda t: t.ClearField("data_type"), "expected a tensor of float, .*, got type None"),
    "segment": (lambda t: t.segment.MergeFrom(TensorProto.Segment(begin=0, end=1)), "segment of a tensor"),
    "data of another type": (
        lambda t: (t.ClearField("raw_data"), t.double_data.extend([0.0] * 48)),
        "expected the data of its type, got those of field 10",
    ),
    "external": (
        lambda t: t.external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/passwd")),
        "its data are in another file, which is not opened",
    ),
    "external without a place": (
        lambda t: setattr(t, "data_location", TensorProto.EXTERNAL),
        "its data are in another file, which is not opened",
    ),
}


@pytest.mark.parametrize("bad", BAD_TENSORS)
def test_tensor_that_is_not_what_it_says_is_refused(bad):
    change, message = BAD_TENSORS[bad]
    model = make_lstm()
    change(model.graph.initializer[0])
    refuses(model, f"'lstm': W: 'W': .*{message}")


def test_sparse_weights_are_refused():
    model = make_lstm({name: value for name, value in draw_weights().items() if name != "W"})
    values = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1], raw_data=b"0000")
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, dims=[1, 16, 3]))
    refuses(model, "W: 'W': expected a constant that is stored whole, got an? .*sparse")


def test_weights_that_the_model_is_given_or_computes_otherwise_are_refused():
    weights = draw_weights()
    given = make_model([lstm_node()], {k: v for k, v in weights.items() if k != "R"}, ["X", "R"])
    refuses(given, "R: 'R': expected a constant that is stored whole, got an? .*input")
    add = helper.make_node("Add", ["W", "W"], ["sum"])
    node = lstm_node(("X", "sum", "R"))
    refuses(
        make_model([add, node], weights), "W: 'sum' is computed by 'Add', which is not followed, as Cast, "
    )
    refuses(make_lstm(inputs=("X", "V", "R")), "W: 'V' is made by no node and is no initializer")
    dequantize = helper.make_node("DequantizeLinear", ["W", "scale"], ["whole"])
    node = lstm_node(("X", "whole", "R"))
    refuses(make_model([dequantize, node], weights), "'whole' is computed by 'DequantizeLinear'")


COMPUTED = {
    # name: (operator, attributes, further inputs, opsets, from the weight to what is stored)
    "Identity": ("Identity", {}, [], (1, 14), lambda v: v),
    "Cast": ("Cast", {"to": TensorProto.FLOAT}, [], (7, 14), lambda v: v.astype(np.float64)),
    "Transpose": ("Transpose", {"perm": [2, 0, 1]}, [], (1, 14), lambda v: v.transpose(1, 2, 0)),
    "Transpose without perm": ("Transpose", {}, [], (1, 14), lambda v: v.transpose(2, 1, 0)),
    "Reshape": ("Reshape", {}, [[0, -1, I]], (5, 14), lambda v: v.reshape(1, -1)),
    "Reshape of opset 1": ("Reshape", {"shape": [1, -1, I]}, [], (1,), lambda v: v.ravel()),
    "Reshape of zeros": ("Reshape", {"allowzero": 1}, [[1, 16, I]], (14,), lambda v: v.ravel()),
    "Squeeze": ("Squeeze", {}, [[0, -1]], (13, 14), lambda v: v[None, ..., None]),
    "Squeeze of opset 11": ("Squeeze", {"axes": [0]}, [], (1, 11), lambda v: v[None]),
    "Unsqueeze": ("Unsqueeze", {}, [[0]], (13, 14), lambda v: v[0]),
    "Unsqueeze of opset 11": ("Unsqueeze", {"axes": [0]}, [], (1, 11), lambda v: v[0]),
    "Slice": (
        "Slice", {}, [[1, 2], [99, -1], [1, 2]], (10, 14), lambda v: np.pad(v, ((0, 0), (1, 0), (2, 1))),
    ),
    "Slice backwards": (
        "Slice", {}, [[-1], [-(2**63)], [1], [-1]], (10, 14), lambda v: v[:, ::-1],
    ),
    "Slice with steps": (
        "Slice", {}, [[0], [2**63 - 1], [-1], [2]], (10, 14), lambda v: np.repeat(v, 2, axis=2),
    ),
    "Slice without axes": (
        "Slice", {}, [[0, 1], [1, 17]], (10, 14), lambda v: np.pad(v, ((0, 2), (1, 5), (0, 0))),
    ),
    "Slice of opset 9": (
        "Slice", {"axes": [2], "starts": [1], "ends": [-1]}, [], (1, 9),
        lambda v: np.pad(v, ((0, 0), (0, 0), (1, 1))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_weights_are_computed_as_onnx_says(name):
    op, attributes, more, opsets, back = COMPUTED[name]
    weights = draw_weights()
    tensors = weights | {"stored": np.ascontiguousarray(back(weights["W"]))}
    del tensors["W"]
    tensors |= {f"input {n}": np.array(value, np.int64) for n, value in enumerate(more)}
    node = helper.make_node(op, ["stored", *(f"input {n}" for n in range(len(more)))], ["W"], **attributes)
    for opset in opsets:
        model = make_model([node, lstm_node()], tensors, opset=opset)
        assert_has(clstm.LSTM.from_onnx(model), our_params(weights))


@pytest.mark.parametrize(("opset", "attributes"), [(14, {"axis": 1}), (14, {"axis": -2}), (1, {})])
def test_weights_are_concatenated(opset, attributes):
    weights = draw_weights()
    first, second = weights["W"][:, :5], weights["W"][:, 5:]
    tensors = {name: value for name, value in weights.items() if name != "W"}
    node = helper.make_node("Concat", ["first", "second"], ["W"], **attributes)
    model = make_model([node, lstm_node()], tensors | {"first": first, "second": second}, opset=opset)
    assert_has(clstm.LSTM.from_onnx(model), our_params(weights))


def test_constants_of_numbers_are_read():
    weights = {"W": np.full((1, 4, 1), 0.5, "f4"), "R": np.full((1, 4, 1), 0.25, "f4")}
    nodes = [
        helper.make_node("Constant", [], ["four"], value_floats=[0.5] * 4),
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 4, 1]),
        helper.make_node("Reshape", ["four", "shape"], ["W"]),
        lstm_node(("X", "W", "R")),
    ]
    lstm = clstm.LSTM.from_onnx(make_model(nodes, {"R": weights["R"]}))
    assert_same_bits(lstm.params["weight_ih_l0"], weights["W"][0])


BAD_NODES = {
    "Transpose": (("Transpose", ["W"], {"perm": [0, 1]}), "axes don't match"),
    "Transpose of axes twice": (("Transpose", ["W"], {"perm": [0, 0, 1]}), "repeated axis"),
    "Reshape": (("Reshape", ["W", "numbers"], {}), "cannot reshape array of size 48"),
    "Concat of types": (("Concat", ["W", "numbers"], {"axis": 0}), "tensors of one type"),
    "Concat without an axis": (("Concat", ["W", "W"], {}), "expected an axis"),
    "Concat of nothing": (("Concat", [], {"axis": 0}), "expected an axis"),
    "Concat of an empty name": (("Concat", ["W", ""], {"axis": 0}), "expected an axis"),
    "Squeeze": (("Squeeze", ["W", "ones"], {}), "duplicate value in .axis."),
    "Unsqueeze without axes": (("Unsqueeze", ["W"], {}), "expected axes"),
    "Slice without ends": (("Slice", ["W", "numbers"], {}), "expected starts and ends"),
    "Slice of an axis twice": (("Slice", ["W", "ones", "numbers", "ones"], {}), "expected each axis once"),
    "Slice with a step of 0": (("Slice", ["W", "one", "one", "one", "zero"], {}), "cannot be zero"),
    "Slice by floats": (("Slice", ["W", "R", "R"], {}), "expected integers, got array of shape"),
    "Cast": (("Cast", ["W"], {"to": TensorProto.STRING}), "expected a cast to float, .*, got type 8"),
    "Cast to nothing": (("Cast", ["W"], {}), "got type None"),
    "attribute": (("Identity", ["W"], {"axis": 0}), "expected of attributes only , got 'axis'"),
    "attribute of a newer version": (("Squeeze", ["W"], {"axes": [0]}), "got 'axes'"),
    "Identity of nothing": (("Identity", [], {}), "expected 1 to 1 inputs, got 0"),
    "Identity of two": (("Identity", ["W", "W"], {}), "expected 1 to 1 inputs, got 2"),
    "Constant of nothing": (("Constant", [], {}), "expected one of value, .*, got 0 values"),
    "Constant of two": (("Constant", [], {"value_int": 1, "value_float": 1.0}), "got 2 values"),
    "Constant of text": (("Constant", [], {"value_string": "x"}), "got 'value_string'"),
}


@pytest.mark.parametrize("bad", BAD_NODES)
def test_node_that_cannot_be_computed_is_refused(bad):
    (op, inputs, attributes), message = BAD_NODES[bad]
    numbers = {"numbers": [1, 5], "ones": [1, 1], "one": [1], "zero": [0]}
    tensors = draw_weights() | {name: np.array(value, np.int64) for name, value in numbers.items()}
    node = helper.make_node(op, inputs, ["V"], **attributes)
    refuses(make_model([node, lstm_node(("X", "V", "R", "B"))], tensors), f"W: 'V' cannot be .*{message}")


def test_output_besides_the_first_is_not_followed():
    node = helper.make_node("Identity", ["W"], ["first", "V"])
    refuses(
        make_model([node, lstm_node(("X", "V", "R", "B"))], draw_weights()),
        "W: 'V' is computed by 'Identity'",
    )


# ------------------------------------------------------------------------------------- what a call is given


def state_model(nodes, tensors, inputs=("X",), source="state", place="initial_h"):
    names = [name if name in (*"XWRB", place) else "" for name in INPUTS[:7]]
    names[INPUTS.index(place)] = source
    return make_model([*nodes, lstm_node(names)], draw_weights() | tensors, inputs)


def shaped_by_x(value):
    """Make a state of as many rows as X has of a constant, as exporters do."""
    return [
        helper.make_node("Shape", ["X"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["B of X"]),
        helper.make_node("Concat", ["one", "B of X", "H"], ["target"], axis=0),
        helper.make_node("Expand", ["row", "target"], ["state"]),
    ], {"one": np.array([1]), "H": np.array([H]), "row": np.full((1, 1, H), value, np.float32)}


@pytest.mark.parametrize("place", ["initial_h", "initial_c"])
def test_state_may_be_zero_or_come_from_the_inputs(place):
    params = our_params(draw_weights())
    zero = np.zeros((1, 2, H), np.float32)
    nodes, tensors = shaped_by_x(0.0)
    filled = helper.make_node("ConstantOfShape", ["target"], ["state"])
    moved = [
        helper.make_node("Slice", ["V", "one", "H"], ["W0"]),
        helper.make_node("Concat", ["W0"], ["state"], axis=0),
    ]
    for model in (
        state_model([], {"state": zero}, place=place),
        state_model([], {}, ("X", "state"), place=place),
        state_model(nodes, tensors, place=place),
        state_model([*nodes[:3], filled], tensors, place=place),
        state_model([*moved], tensors | {"V": zero}, place=place),
        state_model([helper.make_node("Tanh", ["X"], ["state"])], {}, place=place),
        state_model([helper.make_node("RandomNormal", [], ["state"], shape=[1, 2, H])], {}, place=place),
    ):
        assert_has(clstm.LSTM.from_onnx(model), params)


@pytest.mark.parametrize("place", ["initial_h", "initial_c"])
def test_learnt_state_is_refused_with_what_to_do(place):
    learnt = np.zeros((1, 2, H), np.float32)
    learnt[0, 1, 2] = 1e-30
    nodes, tensors = shaped_by_x(0.5)
    filled = helper.make_node(
        "ConstantOfShape", ["target"], ["state"], value=numpy_helper.from_array(learnt[0, 1, 2:3])
    )
    for model in (
        state_model([], {"state": learnt}, place=place),
        state_model(nodes, tensors, place=place),
        state_model([*nodes[:3], filled], tensors, place=place),
        state_model([helper.make_node("Tanh", ["V"], ["state"])], {"V": learnt}, place=place),
    ):
        message = refuses(model, f"{place}: expected zeros, or what is computed from the model's inputs")
        assert "hand in its value as state= in each call" in message


def test_lengths_come_from_the_inputs():
    params = our_params(draw_weights())
    names = ["X", "W", "R", "B", "lens"]
    shape = helper.make_node("Shape", ["X"], ["lens"])
    assert_has(clstm.LSTM.from_onnx(make_model([lstm_node(names)], draw_weights(), ["X", "lens"])), params)
    assert_has(clstm.LSTM.from_onnx(make_model([shape, lstm_node(names)], draw_weights())), params)
    constant = make_model([lstm_node(names)], draw_weights() | {"lens": np.array([3, 2], np.int32)})
    assert "as lengths= in each call" in refuses(constant, "sequence_lens: expected what is computed from")


# --------------------------------------------------------------------------------------- names and selection


def test_lstm_is_selected_by_its_name():
    a, b = draw_weights(seed=1), draw_weights(seed=2)
    tensors = {f"{name}{k}": value for k, weights in (("a", a), ("b", b)) for name, value in weights.items()}
    nodes = [
        lstm_node(("X", "Wa", "Ra", "Ba"), ("Ya",), "first"),
        lstm_node(("X", "Wb", "Rb", "Bb"), ("", "Yb"), ""),
    ]
    model = make_model(nodes, tensors)
    assert [found.name for found in interop.find(model)] == ["first", "Yb"]
    assert_has(clstm.LSTM.from_onnx(model, "first"), our_params(a))
    assert_has(clstm.LSTM.from_onnx(model, "Yb"), our_params(b))
    refuses(model, "expected node= to select one of its LSTMs: first, Yb; a list of names joins them")
    refuses(model, "node: expected one of first, Yb, got 'second'; a list of names joins them", "second")
    refuses(model, "node: expected one or several of first, Yb, got 'second'", ["first", "second"])
    with pytest.raises(ValueError, match="node: expected at least one name, got none"):
        clstm.LSTM.from_onnx(model, [])


def test_names_that_stand_again_are_numbered():
    nodes = [lstm_node(outputs=(f"Y{n}",), name="same") for n in range(3)]
    model = make_model(nodes, draw_weights())
    assert [found.name for found in interop.find(model)] == ["same#1", "same#2", "same#3"]
    assert_has(clstm.LSTM.from_onnx(model, "same#2"), our_params(draw_weights()))
    model.graph.node.append(lstm_node(outputs=("Y3",), name="same#2"))
    assert [found.name for found in interop.find(model)] == ["same#1", "same#2#", "same#3", "same#2"]


def test_trouble_of_another_lstm_is_none_of_this_one():
    nodes = [lstm_node(), lstm_node(("X", "V", "R"), ("Z",), "bad")]
    model = make_model(nodes, draw_weights())
    good, bad = interop.find(model)
    assert good.trouble is None
    assert "'V' is made by no node" in bad.trouble
    assert_has(clstm.LSTM.from_onnx(model, "lstm"), our_params(draw_weights()))
    refuses(model, "'bad': W: 'V' is made by no node", "bad")


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_lstm_inside_of_other_nodes_is_read_with_the_names_around_it(op):
    inner, outer = draw_weights(seed=1), draw_weights(seed=2)
    names = {"If": ("then_branch", "else_branch")}.get(op, ("body",))
    graphs = {}
    for n, name in enumerate(names):
        # W stands in both, the nearer one counts; R and B only outside.
        nodes = [
            helper.make_node("Identity", ["R"], [f"R of {name}"]),
            lstm_node(("X", "W", f"R of {name}", "B"), (f"Y{n}",), f"in {name}"),
        ]
        graphs[name] = helper.make_graph(nodes, name, [], [], [numpy_helper.from_array(inner["W"] + n, "W")])
    nested = helper.make_node(op, ["condition"], ["Z"], name="nested", **graphs)
    model = make_model([nested, lstm_node(name="outside")], outer, ("X", "condition"))
    assert [found.name for found in interop.find(model)] == [
        "outside",
        *(f"in {name}" for name in sorted(names)),
    ]
    for n, name in enumerate(names):
        expected = our_params(outer | {"W": inner["W"] + n})
        assert_has(clstm.LSTM.from_onnx(model, f"in {name}"), expected)
    assert_has(clstm.LSTM.from_onnx(model, "outside"), our_params(outer))


def test_weights_of_an_inner_graph_are_not_known_outside():
    graph = helper.make_graph([], "then", [], [], [numpy_helper.from_array(draw_weights()["W"], "V")])
    nested = helper.make_node("If", ["condition"], ["Z"], then_branch=graph)
    refuses(make_model([nested, lstm_node(("X", "V", "R"))], draw_weights()), "'V' is made by no node")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "no LSTM node$"),
        ([("GRU", ["X", "W", "R"])], "no LSTM node, but GRU$"),
        (
            [("Gemm", ["X", "W"]), ("Sigmoid", ["X"])],
            "no LSTM node: what it computes stands there as Gemm and so on",
        ),
        ([("MatMul", ["X", "W"])], "no LSTM node$"),
    ],
)
def test_model_without_an_lstm_says_what_there_is(nodes, message):
    made = [helper.make_node(op, inputs, [f"out {n}"]) for n, (op, inputs) in enumerate(nodes)]
    refuses(make_model(made, draw_weights()), message)
    assert interop.find(make_model(made, draw_weights())) == []


def test_operators_of_other_domains_are_no_lstms():
    model = make_lstm()
    model.graph.node[0].domain = "com.example"
    refuses(model, "no LSTM node; not looked into: com.example:LSTM")
    model.graph.node[0].domain = "ai.onnx"
    assert_has(clstm.LSTM.from_onnx(model), our_params(draw_weights()))
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.microsoft", "DynamicQuantizeLSTM"
    refuses(model, "'lstm': DynamicQuantizeLSTM has weights of 8 bits; export the model unquantised")


def test_function_in_the_name_of_onnx_is_refused():
    function = helper.make_function("", "LSTM", ["X"], ["Y"], [], [helper.make_opsetid("", 14)])
    refuses(make_model([lstm_node()], draw_weights(), functions=[function]), "an operator 'LSTM' of its own")
    other = helper.make_function("mine", "LSTM", ["X"], ["Y"], [], [helper.make_opsetid("", 14)])
    model = make_model([lstm_node()], draw_weights(), functions=[other])
    assert_has(clstm.LSTM.from_onnx(model), our_params(draw_weights()))


@pytest.mark.parametrize("twice", ["initializers", "outputs", "output and initializer", "output and input"])
def test_name_that_stands_twice_is_refused(twice):
    model = make_lstm()
    if twice == "initializers":
        model.graph.initializer.append(model.graph.initializer[0])
    elif twice == "outputs":
        model.graph.node.append(helper.make_node("Identity", ["X"], ["Y"]))
    else:
        model.graph.node.append(helper.make_node("Identity", ["X"], ["W" if "initializer" in twice else "X"]))
    refuses(model, "not an ONNX model that can be read .expected each name once, got '[WXY]' again")


# ----------------------------------------------------------------------------------------------------- chains


def chain(between, opset=14, directions=1, second=None, **attributes):
    """Make a model of two layers; `between` are operators from Y of the first to X of the second."""
    weights = [draw_weights(directions, 1), draw_weights(directions, 2, input_size=directions * H)]
    tensors = {f"{name}{k}": value for k in range(2) for name, value in weights[k].items()}
    nodes = [lstm_node(("X", "W0", "R0", "B0"), ("Y0",), "low", **attributes)]
    name = "Y0"
    for n, (op, more, given) in enumerate(between):
        inputs = [name, *(f"between {n} {k}" for k in range(len(more)))]
        tensors |= {f"between {n} {k}": np.array(value) for k, value in enumerate(more)}
        name = f"passed {n}"
        nodes.append(helper.make_node(op, inputs, [name], **given))
    attributes |= second or {}
    nodes.append(lstm_node((name, "W1", "R1", "B1"), ("Y1",), "high", **attributes))
    return make_model(nodes, tensors, opset=opset), weights


BOTH = {"direction": "bidirectional"}
TURN = ("Transpose", [], {"perm": [0, 2, 1, 3]})
CHAINS = {
    "Squeeze": ([("Squeeze", [[1]], {})], {}),
    "Squeeze of a negative axis": ([("Squeeze", [[-3]], {})], {}),
    "Squeeze of opset 11": ([("Squeeze", [], {"axes": [1]})], {"opset": 11}),
    "Transpose, Reshape": ([TURN, ("Reshape", [[0, 0, -1]], {})], {}),
    "Transpose, Squeeze": ([TURN, ("Squeeze", [[2]], {})], {}),
    "Dropout, Identity": ([("Squeeze", [[1]], {}), ("Dropout", [], {}), ("Identity", [], {})], {}),
    "Dropout that is told not to train": ([("Squeeze", [[1]], {}), ("Dropout", [0.5, False], {})], {}),
    "Dropout of opset 6": ([("Squeeze", [], {"axes": [1]}), ("Dropout", [], {"is_test": 1})], {"opset": 6}),
    "there and back": (
        [("Squeeze", [[1]], {}), *[("Transpose", [], {"perm": [1, 0, 2]})] * 2], {},
    ),
    "both directions": ([TURN, ("Reshape", [[0, 0, -1]], {})], {"directions": 2, **BOTH}),
    "both directions, size": ([TURN, ("Reshape", [[0, 0, 2 * H]], {})], {"directions": 2, **BOTH}),
    "layout 1": ([("Squeeze", [[2]], {})], {"layout": 1}),
    "both directions, layout 1": ([("Reshape", [[0, 0, -1]], {})], {"directions": 2, "layout": 1, **BOTH}),
    "reverse": ([("Squeeze", [[1]], {})], {"direction": "reverse"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chain_of_layers_is_one_lstm(name):
    between, options = CHAINS[name]
    model, weights = chain(between, **options)
    expected = our_params(weights[0])
    expected |= {key.replace("_l0", "_l1"): value for key, value in our_params(weights[1]).items()}
    (found,) = interop.find(model)
    assert found.name == "low, high"
    for node in (None, "low, high", ["low", "high"]):
        lstm = clstm.LSTM.from_onnx(model, node)
        assert_has(lstm, expected)
        assert lstm.num_layers == 2
    assert_has(clstm.LSTM.from_onnx(model, "low"), our_params(weights[0]))
    assert_has(clstm.LSTM.from_onnx(model, "high"), our_params(weights[1]))


NO_CHAINS = {
    "batch and time exchanged": ([("Squeeze", [[1]], {}), ("Transpose", [], {"perm": [1, 0, 2]})], {}),
    "another axis squeezed": ([("Squeeze", [[0]], {})], {}),
    "directions not brought together": ([("Reshape", [[0, 0, -1]], {})], {"directions": 2, **BOTH}),
    "all axes squeezed": ([("Squeeze", [], {})], {}),
    "zeros are sizes": ([TURN, ("Reshape", [[0, 0, -1]], {"allowzero": 1})], {}),
    "reshaped to numbers": ([TURN, ("Reshape", [[5, 2, -1]], {})], {}),
    "another operator": ([("Squeeze", [[1]], {}), ("Relu", [], {})], {}),
    "Dropout that trains": ([("Squeeze", [[1]], {}), ("Dropout", [0.5, True], {})], {}),
    "Dropout of opset 6": ([("Squeeze", [], {"axes": [1]}), ("Dropout", [], {})], {"opset": 6}),
    "other attributes": ([("Squeeze", [[1]], {})], {"second": {"clip": 0.5}}),
    "other directions": ([("Squeeze", [[1]], {})], {"second": {"direction": "reverse"}}),
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_lstms_that_are_no_chain_stay_two(name):
    between, options = NO_CHAINS[name]
    model, weights = chain(between, **options)
    assert [found.name for found in interop.find(model)] == ["low", "high"]
    refuses(model, "expected node= to select one of its LSTMs: low, high")
    assert_has(clstm.LSTM.from_onnx(model, "high"), our_params(weights[1]))


def reshaped(sizes, declared, **options):
    """Make a chain with a Reshape to numbers; `declared` are shapes of values of its graph by name."""
    options = {"directions": 2, **BOTH} | options
    turned = [] if options.get("layout") else [options.pop("turn", TURN)]
    model, weights = chain([*turned, ("Reshape", [sizes], options.pop("given", {}))], **options)
    for name, shape in declared:
        place = next((each for each in model.graph.input if each.name == name), None)
        place = model.graph.value_info.add() if place is None else place
        place.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model, weights


PROVEN = {
    "by X": ([5, 2, 2 * H], [("X", (5, 2, I))], {}),
    "by Y": ([5, 2, 2 * H], [("Y0", (5, 2, 2, H))], {}),
    "by what is reshaped": ([5, 2, 2 * H], [("passed 0", (5, 2, 2, H))], {}),
    "by each in part": ([5, 2, 2 * H], [("X", (5, "B", None)), ("Y0", (None, None, 2, None))], {}),
    "by all": ([5, 2, 2 * H], [("X", (5, 2, I)), ("Y0", (5, 2, 2, H)), ("passed 0", (5, 2, 2, H))], {}),
    "beside what is unknown": ([5, 2, 2 * H], [("X", (5, 2, I)), ("Y0", (0, -1, -1, 0))], {}),
    "width left open": ([5, 2, -1], [("X", (5, 2, I))], {}),
    "rows left open": ([5, -1, 2 * H], [("X", (5, "B", I))], {"given": {"allowzero": 1}}),
    "steps left open": ([-1, 2, 2 * H], [("X", ("T", 2, I))], {}),
    "rows left open, steps kept": ([0, -1, 2 * H], [], {}),
    "one direction": ([5, 2, H], [("X", (5, 2, I))], {"directions": 1, "direction": "forward"}),
    "layout 1": ([2, 5, 2 * H], [("X", (2, 5, I))], {"layout": 1}),
}


@pytest.mark.parametrize("name", PROVEN)
def test_reshape_to_numbers_joins_layers_where_declared_shapes_prove_it(name):
    sizes, declared, options = PROVEN[name]
    model, weights = reshaped(sizes, declared, **options)
    assert [found.name for found in interop.find(model)] == ["low, high"]
    expected = {
        key.replace("_l0", f"_l{k}"): v for k in range(2) for key, v in our_params(weights[k]).items()
    }
    assert_has(clstm.LSTM.from_onnx(model), expected)


X = ("X", (5, 2, I))
UNPROVEN = {
    "nothing declared": ([5, 2, 2 * H], [], {}),
    "letters declared": ([5, 2, 2 * H], [("X", ("T", "B", I))], {}),
    "no shape declared": ([5, 2, 2 * H], [("X", None), ("Y0", ())], {}),
    "rows not declared": ([5, 2, 2 * H], [("X", (5, "B", I))], {}),
    "rows not declared, width left open": ([5, 2, -1], [("X", (5, "B", I))], {}),
    "other sizes": ([10, 1, 2 * H], [X], {}),
    "sizes exchanged": ([2, 5, 2 * H], [X], {}),
    "another width": ([5, 4, H], [X], {}),
    "two left open": ([-1, -1, 2 * H], [X], {}),
    "zeros are sizes": ([0, 2, 2 * H], [X], {"given": {"allowzero": 1}}),
    "more axes": ([5, 2, 2, H, 1], [X], {}),
    "other steps in Y": ([5, 2, 2 * H], [X, ("Y0", (6, 2, 2, H))], {}),
    "other rows in what is reshaped": ([5, 2, 2 * H], [X, ("passed 0", (5, 3, 2, H))], {}),
    "other units in Y": ([5, 2, 2 * H], [X, ("Y0", (5, 2, 2, H + 1))], {}),
    "other inputs in X": ([5, 2, 2 * H], [("X", (5, 2, I + 1))], {}),
    "fewer axes in Y": ([5, 2, 2 * H], [X, ("Y0", (5, 2, 2))], {}),
    "declared twice": ([5, 2, 2 * H], [X, ("Y0", (5, 2, 2, H)), ("Y0", (5, 2, 2, H))], {}),
    "directions not brought together": ([5, 2, 2 * H], [X], {"turn": ("Identity", [], {})}),
    "axes of one size exchanged": (
        [5, 5, 2 * H], [("X", (5, 5, I))], {"turn": ("Transpose", [], {"perm": [2, 0, 1, 3]})},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPROVEN)
def test_reshape_to_numbers_leaves_lstms_apart_where_nothing_proves_it(name):
    sizes, declared, options = UNPROVEN[name]
    model, _ = reshaped(sizes, declared, **options)
    assert [found.name for found in interop.find(model)] == ["low", "high"]


def test_reshape_that_keeps_its_axes_asks_for_no_declared_shapes():
    model, _ = reshaped([0, 0, -1], [X, ("Y0", (6, 3, 2, H))])
    assert [found.name for found in interop.find(model)] == ["low, high"]


def test_layers_that_are_listed_must_fit():
    model, _ = chain([("Squeeze", [[1]], {})], second={"clip": 0.5})
    refuses(
        model,
        "'high': expected the gate_clip of the layer below .gate_clip=None., got gate_clip=0.5",
        ["low", "high"],
    )
    refuses(model, "'low': expected 4 inputs, the outputs of the layer below, got 3", ["low", "low"])


def test_lstm_of_another_width_than_the_outputs_below_is_no_layer_of_a_chain():
    model, _ = chain([("Squeeze", [[1]], {})])
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "W1")
    tensor.CopyFrom(numpy_helper.from_array(draw_weights()["W"], "W1"))
    assert [found.name for found in interop.find(model)] == ["low", "high"]


def test_lstm_that_two_read_is_no_layer_of_a_chain():
    model, _ = chain([("Squeeze", [[1]], {})])
    third = lstm_node(("passed 0", "W1", "R1", "B1"), ("Y2",), "third")
    model.graph.node.append(third)
    assert [found.name for found in interop.find(model)] == ["low", "high", "third"]


def test_lstms_of_other_lengths_are_no_chain():
    model, _ = chain([("Squeeze", [[1]], {})])
    model.graph.input.append(helper.make_tensor_value_info("lens", TensorProto.INT32, None))
    low, high = (node for node in model.graph.node if node.op_type == "LSTM")
    low.input.append("lens")
    assert len(interop.find(model)) == 2
    high.input.append("lens")
    assert len(interop.find(model)) == 1


# ---------------------------------------------------------------------------------------- PyTorch's exporter

EXPORTS = {
    "defaults": {},
    "nothing folded": {"do_constant_folding": False},
    "opset 9": {"opset_version": 9, "do_constant_folding": False},
    "opset 11": {"opset_version": 11},
    "dynamic": {"input_names": ["x"], "dynamic_axes": {"x": [0, 1]}, "do_constant_folding": False},
}
MODULES = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"num_layers": 2, "bidirectional": True},
    "batch first": {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    "no bias": {"num_layers": 2, "bias": False},
}


def export(torch, module, *args, **options):
    """Return what PyTorch exports; it warns of itself."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), args, file, **{"dynamo": False, **options})
    return file.getvalue()


def params_of_torch(module):
    params = {name: value.detach().numpy() for name, value in module.named_parameters()}
    for name in [name for name in params if name.startswith("bias_ih")]:
        params[name.replace("bias_ih", "bias")] = params.pop(name) + params.pop(name.replace("_ih", "_hh"))
    return params


@pytest.mark.parametrize("how", EXPORTS)
@pytest.mark.parametrize("kind", MODULES)
def test_torch_export_is_one_lstm(kind, how):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.LSTM(I, H, **MODULES[kind])
    x = torch.randn(5, 2, I)
    content = export(torch, module, x, **EXPORTS[how])
    lstm = clstm.LSTM.from_onnx(content, batch_first=module.batch_first)
    assert_has(lstm, params_of_torch(module))
    assert_close(lstm(x.numpy())[0], module(x)[0].detach().numpy(), "onnx")
    assert len(interop.find(content)) == 1


@pytest.mark.parametrize("kind", MODULES)
def test_export_of_torch_s_newer_exporter_is_one_lstm(kind):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    module = torch.nn.LSTM(I, H, **MODULES[kind])
    content = export(torch, module, torch.randn(5, 2, I), dynamo=True, external_data=False, verbose=False)
    assert_has(clstm.LSTM.from_onnx(content), params_of_torch(module))


def test_export_of_torch_s_newer_exporter_with_free_sizes_is_joined_by_a_list():
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    module = torch.nn.LSTM(I, H, 2)
    free = {"dynamic_shapes": ({0: torch.export.Dim("T"), 1: torch.export.Dim("B")},)}
    options = {"dynamo": True, "external_data": False, "verbose": False, **free}
    content = export(torch, module, torch.randn(5, 2, I), **options)
    names = [found.name for found in interop.find(content)]
    refuses(content, f"{', '.join(names)}; a list of names joins them")
    assert_has(clstm.LSTM.from_onnx(content, names), params_of_torch(module))


def test_torch_export_with_lengths_and_a_state_is_read():
    torch = pytest.importorskip("torch")

    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.LSTM(I, H, 2, bidirectional=True)

        def forward(self, x, lengths, h, c):
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
            return torch.nn.utils.rnn.pad_packed_sequence(self.rnn(packed, (h, c))[0])[0]

    module = Packed()
    x, state, lengths = torch.randn(5, 2, I), torch.randn(2, 4, 2, H), torch.tensor([5, 3])
    names = {"input_names": ["x", "lengths", "h", "c"], "dynamic_axes": {"x": [0, 1], "h": [1], "c": [1]}}
    lstm = clstm.LSTM.from_onnx(export(torch, module, x, lengths, *state, **names))
    y = lstm(x.numpy(), tuple(state.numpy()), lengths.numpy())[0]
    assert_close(y, module(x, lengths, *state).detach().numpy(), "onnx")


def test_torch_export_with_a_learnt_state_is_refused():
    torch = pytest.importorskip("torch")

    class Learnt(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.state = torch.nn.LSTM(I, H), torch.nn.Parameter(torch.randn(2, 1, 1, H))

        def forward(self, x):
            return self.rnn(x, tuple(self.state.expand(2, 1, x.shape[1], H)))[0]

    content = export(torch, Learnt(), torch.randn(5, 2, I), input_names=["x"], dynamic_axes={"x": [0, 1]})
    refuses(content, "initial_h: expected zeros")


# ---------------------------------------------------------------------------------------------------- writing

WRITTEN = {
    "plain": {},
    "stacked": {"num_layers": 3},
    "both directions": {"num_layers": 2, "bidirectional": True},
    "batch first": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "reverse": {"num_layers": 2, "reverse": True},
    "no bias": {"bias": False, "num_layers": 2},
    "options": {
        "num_layers": 2, "bidirectional": True, "peepholes": True, "coupled": True, "gate_clip": 0.75,
    },
    "activations": {"activations": (("hard_sigmoid", {"alpha": 0.25}), ("elu", {"alpha": 0.5}), "identity")},
    "activations of both": {
        "bidirectional": True, "num_layers": 2,
        "activations": (
            "softsign", ("scaled_tanh", {"alpha": 1.25, "beta": 0.75}), ("affine", {"alpha": 0.5}),
        ),
    },
    "default alphas": {"activations": ("sigmoid", "thresholded_relu", "leaky_relu")},
    "training": {"dropout": 0.5, "num_layers": 2, "input_dropout": 0.25, "recurrent_dropout": 0.25},
}  # fmt: skip


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    content = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", WRITTEN)
def test_onnxruntime_computes_what_the_layer_does(kind, tmp_path):
    lstm = build_lstm(I, H, dtype="float32", **WRITTEN[kind])
    path = str(tmp_path / "model.onnx")
    model = lstm.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    session = session_of(path)
    assert [given.name for given in session.get_inputs()] == ["x"]
    rng = np.random.default_rng(0)
    for T, B, stated, lengths in itertools.product((1, 2, 7), (1, 2, 3), (False, True), (False, True)):
        x = rng.standard_normal((B, T, I) if lstm.batch_first else (T, B, I)).astype(np.float32)
        state = rng.uniform(-1, 1, (2, lstm.num_layers * lstm.num_directions, B, H)).astype(np.float32)
        real = rng.integers(1, T + 1, B).astype(np.int32)
        given = {"x": x} | ({"h_0": state[0], "c_0": state[1]} if stated else {})
        given |= {"lengths": real} if lengths else {}
        y, (h_n, c_n) = lstm(x, tuple(state) if stated else None, real if lengths else None)
        expected = {"y": y, "h_n": h_n, "c_n": c_n}
        for name, got in zip(expected, session.run(list(expected), given), strict=True):
            assert_close(got, expected[name], "onnx", name)
    read = clstm.LSTM.from_onnx(path, batch_first=lstm.batch_first)
    assert_same_bits(read.flat_params, lstm.flat_params)
    assert_same_bits(read(x)[0], lstm(x)[0])
    assert (tmp_path / "model.onnx").read_bytes() == model.SerializeToString()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert model.producer_name == "clstm"


def test_written_gates_in_another_order_are_noticed(monkeypatch):
    lstm, x = build_lstm(I, H, dtype="float32"), np.ones((3, 2, I), np.float32)
    monkeypatch.setattr(onnx_write, "ORDER", "oifg")
    (y,) = session_of(lstm.to_onnx()).run(["y"], {"x": x})
    with pytest.raises(AssertionError, match="promised"):
        assert_close(y, lstm(x)[0], "onnx")


def test_float64_is_written_as_such():
    reference = pytest.importorskip("onnx.reference")
    lstm = build_lstm(I, H, 2)
    model = lstm.to_onnx()
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal((5, 2, I))
    y, h_n, c_n = reference.ReferenceEvaluator(model).run(None, {"x": x} | unstated(lstm, 5, 2))
    expected, state = lstm(x)
    for got, wanted in ((y, expected), (h_n, state[0]), (c_n, state[1])):
        assert_close(got, wanted, "onnx")
    read = clstm.LSTM.from_onnx(model)
    assert repr(read) == repr(lstm)
    assert_same_bits(read.flat_params, lstm.flat_params)


def unstated(lstm, T, B):
    """Return what a model is given where a runtime knows no defaults."""
    state = np.zeros((lstm.num_layers * lstm.num_directions, B, H))
    return {"h_0": state, "c_0": state, "lengths": np.full(B, T, np.int32)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proj_size": 2}, "proj_size: expected 0, for ONNX's LSTM has nothing else, got 2"),
        ({"cell_clip": 0.5}, "cell_clip: expected None, for ONNX's LSTM has nothing else, got 0.5"),
        ({"layer_norm": True}, "layer_norm: expected False, for ONNX's LSTM has nothing else, got True"),
        (
            {"zoneout": (0.0, 0.5)},
            r"zoneout: expected \(0.0, 0.0\), for ONNX's LSTM has nothing else, got \(0.0, 0.5\)",
        ),
        (
            {"gate_clip": 0.7},
            "gate_clip: expected a number of 32 bits for ONNX's attribute, got 0.7",
        ),
        (
            {"activations": ("sigmoid", ("elu", {"alpha": 0.7}), "tanh")},
            "activations: alpha of elu: expected a number of 32 bits",
        ),
    ],
)
def test_option_that_the_operator_has_not_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{message}"):
        clstm.LSTM(I, H, rng=0, **options).to_onnx(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_file_that_cannot_be_written_is_an_os_error(tmp_path):
    path = tmp_path / "missing" / "a.onnx"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        clstm.LSTM(I, H, rng=0).to_onnx(path)


# ----------------------------------------------------------------------------------------- sources, libraries


def test_path_bytes_and_model_are_read_alike(tmp_path):
    model, params = make_lstm(), our_params(draw_weights())
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    for source in (path, str(path), path.read_bytes(), model):
        assert_has(clstm.LSTM.from_onnx(source), params)
    with pytest.raises(FileNotFoundError):
        clstm.LSTM.from_onnx(tmp_path / "missing")
    for wrong in (3, None, model.graph, [path]):
        with pytest.raises(TypeError, match=r"source: expected a path, bytes or an onnx\.ModelProto, got "):
            clstm.LSTM.from_onnx(wrong)
    with pytest.raises(TypeError, match=r"bidirectional: expected one of rng, .*; all else is in the source"):
        clstm.LSTM.from_onnx(path, bidirectional=True)


def test_reading_needs_no_library(tmp_path):
    make = make_lstm().SerializeToString()
    (tmp_path / "a.onnx").write_bytes(make)
    code = """
import sys
sys.modules["onnx"] = sys.modules["google.protobuf"] = None
import clstm
print(clstm.LSTM.from_onnx(sys.argv[1]))
try:
    clstm.LSTM(2, 3).to_onnx(sys.argv[1])
except ImportError as error:
    print(error)
"""
    done = run_python(code, str(tmp_path / "a.onnx"))
    assert done.stdout.splitlines() == [
        "LSTM(3, 4, dtype='float32')",
        "to_onnx needs the package onnx: pip install 'cython-lstm[onnx]'",
    ], done.stderr
    assert (tmp_path / "a.onnx").read_bytes() == make


# ---------------------------------------------------------------------------------------------- hostile files


def varint(value):
    value &= (1 << 64) - 1
    parts = []
    while True:
        parts.append(value & 127 | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(parts)


def field(number, value):
    """Encode a field of a message: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def raw_node(op, inputs=(), outputs=(), *attributes):
    named = [*((1, name) for name in inputs), *((2, name) for name in outputs), (4, op)]
    return field(1, b"".join(itertools.starmap(field, [*named, *((5, each) for each in attributes)])))


def raw_tensor(name, dims, raw=b"", kind=TensorProto.FLOAT, data=b""):
    sizes = b"".join(field(1, size) for size in dims)
    return field(5, sizes + field(2, kind) + field(8, name) + (data or field(9, raw)))


def raw_model(*parts):
    return field(1, 8) + field(8, field(2, 14)) + field(7, b"".join([*parts, field(11, field(1, b"X"))]))


LAST = raw_node(b"LSTM", [b"X", b"W", b"W"], [b"Y"])
AXIS_0 = field(1, b"axis") + field(3, 0) + field(20, 2)


def raw_lstm(attribute):
    return raw_model(raw_node(b"LSTM", [b"X"], [b"Y"], attribute))


def packed_tensor(kind, number):
    """Make W of integers that take a byte each in the file."""
    return raw_tensor(b"W", [8_000_000], kind=kind, data=field(number, bytes(8_000_000)))


def many(count, make):
    return b"".join(make(n) for n in range(count))


def concat_bomb(size):
    doubled = many(40, lambda n: raw_node(b"Concat", [b"%d" % n] * 2, [b"%d" % (n + 1)], AXIS_0))
    return raw_model(
        raw_tensor(b"0", [size], bytes(4 * size)), doubled, raw_node(b"Identity", [b"40"], [b"W"]), LAST
    )


def deep(depth):
    graph = LAST
    for _ in range(depth):
        graph = raw_node(b"If", [b"c"], [b"z"], field(1, b"then_branch") + field(6, graph) + field(20, 5))
    return raw_model(graph)


def row(count):
    """Make W of so many Identities in a row."""
    links = many(count, lambda n: raw_node(b"Identity", [b"%d" % n], [b"%d" % (n + 1)]))
    node = raw_node(b"LSTM", [b"X", b"%d" % count, b"%d" % count], [b"Y"])
    return raw_model(raw_tensor(b"0", [1, 4, 1], bytes(16)), links, node)


def declared_stack(names):
    """Make 1000 LSTMs with a Reshape between each two, and values of these names."""
    links = many(
        1000,
        lambda n: (
            raw_node(b"LSTM", [b"%d" % n, b"W", b"W"], [b"Y%d" % n])
            + raw_node(b"Reshape", [b"Y%d" % n, b"shape"], [b"%d" % (n + 1)])
        ),
    )
    sizes = raw_tensor(b"shape", [3], np.array([5, 2, 1]).tobytes(), TensorProto.INT64)
    values = b"".join(field(13, field(1, name)) for name in names)
    return raw_model(raw_tensor(b"W", [1, 4, 1], bytes(16)), sizes, links, values, field(11, field(1, b"0")))


HOSTILE = {
    "empty": (lambda: b"", "it has no graph"),
    "text": (lambda: b"this is no model", "not an ONNX model"),
    "a graph twice": (lambda: raw_model(LAST) * 2, "expected field 7 once, got it 2 times"),
    "groups": (lambda: b"\x0b\x0c", "field 1 has the unknown type 3"),
    "endless number": (lambda: b"\x08" + b"\xff" * 1000, "a number in it is wrong"),
    "graph as a number": (lambda: field(7, 3), "field 7 has another type than expected"),
    "no text": (lambda: raw_model(raw_node(b"\xff\xfe")), "can't decode"),
    "size beyond the end": (lambda: b"\x3a\xff\xff\xff\xff\x0f", "truncated"),
    "empty nodes": (lambda: raw_model(b"\x0a\x00" * 2_000_000), "more fields and nodes than"),
    "nodes": (lambda: raw_model(many(59_000, lambda n: field(1, field(2, b"%d" % n)))), "no LSTM"),
    "tensors": (lambda: raw_model(many(59_000, lambda n: field(5, field(8, b"%d" % n)))), "no LSTM"),
    "one field again and again": (lambda: field(1, 8) * 4_000_000, "more fields and nodes than"),
    "LSTMs": (
        lambda: raw_model(many(9000, lambda n: raw_node(b"LSTM", [b"X"], [b"%d" % n]))), "at most 1000 LSTMs",
    ),
    "Concat of itself": (lambda: concat_bomb(1), "much larger than the file"),
    "large Concat of itself": (lambda: concat_bomb(1 << 20), "much larger than the file"),
    "graph in itself": (lambda: deep(3000), "expected graphs in at most 32 graphs, got more"),
    "value of itself": (
        lambda: raw_model(raw_node(b"Identity", [b"W"], [b"W"]), LAST), "is computed from itself",
    ),
    "values of each other": (
        lambda: raw_model(raw_node(b"Identity", [b"V"], [b"W"]), raw_node(b"Cast", [b"W"], [b"V"]), LAST),
        "is computed from itself",
    ),
    "values in a row": (lambda: row(20_000), f"by more than {DEEPEST_VALUES} operators in a row"),
    "states of each other": (
        lambda: raw_model(
            raw_node(b"Add", [b"b", b"b"], [b"a"]), raw_node(b"Add", [b"a", b"a"], [b"b"]),
            raw_node(b"LSTM", [b"X", b"W", b"W", b"", b"", b"a"], [b"Y"]),
        ),
        "initial_h: expected zeros",
    ),
    "sizes": (lambda: raw_model(raw_tensor(b"W", [1 << 62] * 3), LAST), "values for its shape, got 0"),
    "sizes of nothing": (lambda: raw_model(raw_tensor(b"W", [1 << 62, 0, 1 << 62]), LAST), "'Y': "),
    "packed integers": (
        lambda: raw_model(packed_tensor(TensorProto.INT64, 7), LAST),
        "much larger than the file",
    ),
    "packed float16": (
        lambda: raw_model(packed_tensor(TensorProto.FLOAT16, 5), LAST),
        "'Y': R: expected shape",
    ),
    "packed sizes": (
        lambda: raw_model(field(5, field(1, bytes(8_000_000)) + field(2, 1) + field(8, b"W")), LAST),
        "much larger than the file|at most 32 numbers",
    ),
    "values": (lambda: declared_stack([b"v%d" % n for n in range(40_000)]), "select one of"),
    "values without a name": (lambda: declared_stack([b""] * 80_000), "select one of"),
    "number without an end": (
        lambda: raw_model(field(5, field(1, b"\xff" * 100_000) + field(2, 1) + field(8, b"W")), LAST),
        "a number in it is wrong",
    ),
    "long name": (
        lambda: raw_model(raw_node(b"LSTM", [b"X" * 20_000_000], [b"Y"])), "names of at most 65536 bytes",
    ),
    "long names": (
        lambda: raw_model(many(300, lambda n: raw_node(b"A" * 65_000, [], [b"%d" % n])), LAST), "'Y': W: ",
    ),
    "activations": (
        lambda: raw_lstm(field(1, b"activations") + field(9, b"Tanh") * 50_000),
        "activations: expected 3 names, got 50000",
    ),
    "alphas": (
        lambda: raw_lstm(field(1, b"activation_alpha") + field(7, bytes(40_000_000))),
        "at most 32 numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_model_ends_at_once_and_in_little_memory(name, tmp_path):
    make, message = HOSTILE[name]
    content = make()
    (tmp_path / "a.onnx").write_bytes(content)
    done = run_python(MEASURE, str(tmp_path / "a.onnx"))
    assert not done.returncode, done.stderr
    error, seconds, megabytes = done.stdout.splitlines()
    assert re.search(message, error), error
    assert error.startswith(str(tmp_path / "a.onnx"))
    assert len(error) < len(str(tmp_path)) + 500
    assert float(seconds) < 5
    assert float(megabytes) < len(content) / 2**20 + 64


# Prints the error and what it took.  What a process had at most at a time only Linux tells of it alone.
MEASURE = """
import sys, time
import clstm
from clstm.interop import onnx
def most():
    if sys.platform != "linux":
        return 0
    with open("/proc/self/status") as status:
        return int(status.read().partition("VmHWM:")[2].split()[0]) / 1024
before, start = most(), time.perf_counter()
try:
    clstm.LSTM.from_onnx(sys.argv[1])
except clstm.FileFormatError as error:
    print(error)
print(time.perf_counter() - start, most() - before, sep="\\n")
"""


@pytest.fixture(scope="module")
def content():
    """A model with everything: two directions, a chain, computed weights, inner graphs."""
    between, options = CHAINS["both directions"]
    model, _ = chain(between, **options)
    graph = helper.make_graph([lstm_node(("X", "W", "R", "B"), ("Z",), "inner")], "then", [], [])
    model.graph.node.append(helper.make_node("If", ["X"], ["Q"], then_branch=graph))
    pieces, tensors = stored_in_pieces(draw_weights())
    model.graph.node.extend(pieces)
    model.graph.initializer.extend(tensors)
    return model.SerializeToString()


def either_is_read_or_refused(content):
    for node in ("low, high", "inner", None):
        try:
            clstm.LSTM.from_onnx(content, node)
        except FileFormatError as error:
            assert len(str(error)) < 700  # noqa: PT017


def test_everything_is_read(content):
    assert [found.name for found in interop.find(content)] == ["low, high", "inner"]
    assert all(found.trouble is None for found in interop.find(content))


def test_truncated_model_is_refused(content):
    for size in range(0, len(content), 7):
        either_is_read_or_refused(content[:size])
    refuses(content[:-1], "not an ONNX model that can be read")


def test_model_with_a_flipped_bit_is_read_or_refused(content):
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 8 * len(content), 500):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        either_is_read_or_refused(bytes(damaged))


def test_model_of_shuffled_pieces_is_read_or_refused(content):
    rng = np.random.default_rng(1)
    for _ in range(500):
        start, stop, place = np.sort(rng.integers(0, len(content), 3))
        either_is_read_or_refused(content[:start] + content[stop:place] + content[start:stop])


def test_external_data_are_not_opened(tmp_path):
    model = make_lstm()
    path = tmp_path / "a.onnx"
    onnx.save(model, path, save_as_external_data=True, location="data", size_threshold=0)
    assert (tmp_path / "data").exists()
    code = """
import sys
opened = []
sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "open" else None)
import clstm
from clstm.interop import onnx
del opened[:]
try:
    clstm.LSTM.from_onnx(sys.argv[1])
except clstm.FileFormatError as error:
    print(error, set(opened) == {sys.argv[1]})
"""
    done = run_python(code, str(path))
    assert done.stdout.endswith(
        "'W': its data are in another file, which is not opened; save the model as one file True\n"
    ), done
