"""Bad input: each kind has its message (argument, expectation, what came), and the object stays as it was."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import LAYERS, assert_same_bits, build_layer, build_lstm, draw_inputs, unchanged

import clstm
from clstm import _check, cells

I, H, T, B = 3, 5, 4, 2  # noqa: E741
x, h = np.zeros((T, B, I)), np.zeros((2, B, H))


def exactly(message):
    return f"^{re.escape(message)}$"


def make(kind, **kwargs):
    """Make two layers, one direction, dropout between them, with a tape and gradients."""
    layer = build_layer(kind, I, H, 2, dropout=0.5, **kwargs)
    d = draw_inputs(layer, T, B)
    turn = (lambda v: v.swapaxes(0, 1)) if layer.batch_first else (lambda v: v)
    layer.forward(turn(d.x), d.state, d.lengths)
    layer.backward(turn(d.dy), d.dstate)
    return layer


def refuses(layer, call, error, message):
    with unchanged(layer), pytest.raises(error, match=exactly(message)):
        call(layer)


SEQUENCES = [
    (np.zeros(I), ValueError, "x: expected shape (T, B, 3) or (T, 3), got (3,)"),
    (np.zeros((1, T, B, I)), ValueError, "x: expected shape (T, B, 3) or (T, 3), got (1, 4, 2, 3)"),
    (np.zeros(()), ValueError, "x: expected shape (T, B, 3) or (T, 3), got ()"),
    (np.zeros((T, B, 4)), ValueError, "x: expected shape (T, B, 3), got (4, 2, 4)"),
    (np.zeros((T, 2)), ValueError, "x: expected shape (T, 3), got (4, 2)"),
    (np.zeros((T, B, I), complex), TypeError, "x: expected real numbers, got dtype complex128"),
    (np.zeros((T, B, I), object), TypeError, "x: expected real numbers, got dtype object"),
    (np.full((T, B, I), "1"), TypeError, "x: expected real numbers, got dtype <U1"),
    (np.zeros((T, B, I), "S3"), TypeError, "x: expected real numbers, got dtype |S3"),
    (np.zeros((T, B, I), "M8[s]"), TypeError, "x: expected real numbers, got dtype datetime64[s]"),
    (np.zeros((T, B, I), [("a", "f8")]), TypeError, "x: expected real numbers, got dtype [('a', '<f8')]"),
    (None, TypeError, "x: expected real numbers, got dtype object"),
    ("text", TypeError, "x: expected real numbers, got dtype <U4"),
    (
        [[1.0, 2.0, 3.0], [1.0, 2.0]],
        ValueError,
        "x: expected an array of numbers, got rows of different lengths",
    ),
]


@pytest.mark.parametrize("call", ["__call__", "forward", "trace"])
@pytest.mark.parametrize(
    ("value", "error", "message"), SEQUENCES, ids=[message for _, _, message in SEQUENCES]
)
def test_x_of_another_rank_size_or_kind(kind, value, error, message, call, backend):
    refuses(make(kind, backend=backend), lambda layer: getattr(layer, call)(value), error, message)


def test_x_of_another_size_batch_first(kind, backend):
    layer = make(kind, backend=backend, batch_first=True)
    message = "x: expected shape (B, T, 3), got (2, 4, 4)"
    refuses(layer, lambda layer: layer(np.zeros((B, T, 4))), ValueError, message)
    message = "x: expected shape (B, T, 3) or (T, 3), got (3,)"
    refuses(layer, lambda layer: layer(np.zeros(I)), ValueError, message)


STATES = [
    (
        "lstm",
        h,
        ValueError,
        "state: expected a pair (h_0, c_0), got array of shape (2, 2, 5) and dtype float64",
    ),
    ("lstm", "hc", ValueError, "state: expected a pair (h_0, c_0), got 'hc'"),
    ("lstm", 7, ValueError, "state: expected a pair (h_0, c_0), got 7"),
    ("lstm", (h[:1], h), ValueError, "state[0]: expected shape (2, 2, 5), got (1, 2, 5)"),
    ("lstm", (h, h[:, :1]), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 1, 5)"),
    ("lstm", (h, h[:, 0]), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 5)"),
    ("lstm", (h, h[:, :, :4]), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 2, 4)"),
    ("lstm", (h.astype(complex), h), TypeError, "state[0]: expected real numbers, got dtype complex128"),
    ("lstm", (h, h.astype(object)), TypeError, "state[1]: expected real numbers, got dtype object"),
    ("lstm", (h, h.astype(str)), TypeError, "state[1]: expected real numbers, got dtype <U32"),
    ("lstm", (h, "text"), TypeError, "state[1]: expected real numbers, got dtype <U4"),
    ("rnn", h[:1], ValueError, "state: expected shape (2, 2, 5), got (1, 2, 5)"),
    ("rnn", h[0], ValueError, "state: expected shape (2, 2, 5), got (2, 5)"),
    ("rnn", h[:, :, :4], ValueError, "state: expected shape (2, 2, 5), got (2, 2, 4)"),
    ("rnn", (h, h), ValueError, "state: expected shape (2, 2, 5), got (2, 2, 2, 5)"),
    ("rnn", h.astype(complex), TypeError, "state: expected real numbers, got dtype complex128"),
    ("rnn", "text", TypeError, "state: expected real numbers, got dtype <U4"),
]


@pytest.mark.parametrize("call", ["__call__", "forward", "trace"])
@pytest.mark.parametrize(
    ("kind", "value", "error", "message"), STATES, ids=[f"{kind}-{message}" for kind, _, _, message in STATES]
)
def test_state_of_another_shape_or_kind(kind, value, error, message, call, backend):
    refuses(make(kind, backend=backend), lambda layer: getattr(layer, call)(x, value), error, message)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_state_of_another_number_of_parts(count, backend):
    lstm = make("lstm", backend=backend)
    with unchanged(lstm), pytest.raises(ValueError, match=r"^state: expected a pair \(h_0, c_0\), got "):
        lstm.forward(x, (h,) * count)


@pytest.mark.parametrize(("kind", "named"), [("lstm", "state[0]"), ("rnn", "state")])
def test_state_of_one_sequence_has_no_batch_axis(kind, named, backend):
    one = h[:, :1]
    state = (one, one) if kind == "lstm" else one
    message = f"{named}: expected shape (2, 5), got (2, 1, 5)"
    refuses(make(kind, backend=backend), lambda layer: layer(x[:, 0], state), ValueError, message)


LENGTHS = [
    ([1, 5], ValueError, "lengths: expected values in 0..4, got 1..5"),
    ([-1, 2], ValueError, "lengths: expected values in 0..4, got -1..2"),
    (
        np.array([0, 2**64 - 1], "u8"),
        ValueError,
        "lengths: expected values in 0..4, got 0..18446744073709551615",
    ),
    ([4], ValueError, "lengths: expected shape (2,), got (1,)"),
    ([4, 4, 4], ValueError, "lengths: expected shape (2,), got (3,)"),
    ([[4, 4]], ValueError, "lengths: expected shape (2,), got (1, 2)"),
    (4, ValueError, "lengths: expected shape (2,), got ()"),
    ([], ValueError, "lengths: expected shape (2,), got (0,)"),
    ([4.0, 2.0], TypeError, "lengths: expected integers, got dtype float64"),
    ([True, False], TypeError, "lengths: expected integers, got dtype bool"),
    (["4", "2"], TypeError, "lengths: expected integers, got dtype <U1"),
    ([4, None], TypeError, "lengths: expected integers, got dtype object"),
    ([4, np.nan], TypeError, "lengths: expected integers, got dtype float64"),
]


@pytest.mark.parametrize("call", ["__call__", "forward", "trace"])
@pytest.mark.parametrize(("value", "error", "message"), LENGTHS, ids=[message for _, _, message in LENGTHS])
def test_lengths_out_of_range_or_of_another_count_or_kind(kind, value, error, message, call, backend):
    refuses(make(kind, backend=backend), lambda layer: getattr(layer, call)(x, lengths=value), error, message)


RESETS = [
    (np.zeros((T, B)), TypeError, "resets: expected booleans, got dtype float64"),
    (np.zeros((T, B), int), TypeError, "resets: expected booleans, got dtype int64"),
    ([[0, 1]] * T, TypeError, "resets: expected booleans, got dtype int64"),
    ("text", TypeError, "resets: expected booleans, got dtype <U4"),
    ([[True, None]] * T, TypeError, "resets: expected booleans, got dtype object"),
    (
        [[True], [True, False]],
        ValueError,
        "resets: expected an array of booleans, got rows of different lengths",
    ),
    (True, ValueError, "resets: expected shape (4, 2), got ()"),
    (np.ones((B, T), bool), ValueError, "resets: expected shape (4, 2), got (2, 4)"),
    (np.ones(T, bool), ValueError, "resets: expected shape (4, 2), got (4,)"),
    (np.zeros((T, B, 1), bool), ValueError, "resets: expected shape (4, 2), got (4, 2, 1)"),
    (np.zeros((T + 1, B), bool), ValueError, "resets: expected shape (4, 2), got (5, 2)"),
]


@pytest.mark.parametrize("call", ["__call__", "forward", "trace"])
@pytest.mark.parametrize(("value", "error", "message"), RESETS, ids=[message for _, _, message in RESETS])
def test_resets_of_another_shape_or_kind(kind, value, error, message, call, backend):
    refuses(make(kind, backend=backend), lambda layer: getattr(layer, call)(x, resets=value), error, message)


def test_resets_of_another_shape_for_other_layouts(kind, backend):
    layer = make(kind, backend=backend, batch_first=True)
    turned = x.swapaxes(0, 1)
    message = "resets: expected shape (2, 4), got (4, 2)"
    refuses(layer, lambda layer: layer(turned, resets=np.ones((T, B), bool)), ValueError, message)
    message = "resets: expected shape (4,), got (4, 1)"
    refuses(layer, lambda layer: layer(x[:, 0], resets=np.ones((T, 1), bool)), ValueError, message)


DY = "dy: expected shape (4, 2, 5), got "
BACKWARD = [
    ({"dy": np.zeros((T, B, H + 1))}, ValueError, DY + "(4, 2, 6)"),
    ({"dy": np.zeros((T + 1, B, H))}, ValueError, DY + "(5, 2, 5)"),
    ({"dy": np.zeros((B, T, H))}, ValueError, DY + "(2, 4, 5)"),
    ({"dy": np.zeros((T, H))}, ValueError, DY + "(4, 5)"),
    ({"dy": 1.0}, ValueError, DY + "()"),
    ({"dy": np.zeros((T, B, H), complex)}, TypeError, "dy: expected real numbers, got dtype complex128"),
    ({"dy": np.zeros((T, B, H), object)}, TypeError, "dy: expected real numbers, got dtype object"),
    ({}, ValueError, "dy, dstate: expected at least one of them, got None for both"),
    ({"dy": np.zeros((T, B, H)), "accumulate": 1}, TypeError, "accumulate: expected True or False, got 1"),
]
DSTATES = [
    (
        "lstm",
        {"dstate": (None, None)},
        ValueError,
        "dy, dstate: expected at least one of them, got None for both",
    ),
    ("lstm", {"dstate": (h, h[:1])}, ValueError, "dstate[1]: expected shape (2, 2, 5), got (1, 2, 5)"),
    (
        "lstm",
        {"dstate": (h, h.astype(complex))},
        TypeError,
        "dstate[1]: expected real numbers, got dtype complex128",
    ),
    ("lstm", {"dstate": "hc"}, ValueError, "dstate: expected a pair (dh_n, dc_n), got 'hc'"),
    ("rnn", {"dstate": h[0]}, ValueError, "dstate: expected shape (2, 2, 5), got (2, 5)"),
    ("rnn", {"dstate": (h, h)}, ValueError, "dstate: expected shape (2, 2, 5), got (2, 2, 2, 5)"),
    ("rnn", {"dstate": h.astype(complex)}, TypeError, "dstate: expected real numbers, got dtype complex128"),
]
BACKWARD = [(kind, *case) for case in BACKWARD for kind in LAYERS] + DSTATES


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    BACKWARD,
    ids=[f"{kind}-{message}" for kind, _, _, message in BACKWARD],
)
def test_derivatives_of_another_shape_or_kind(kind, arguments, error, message, backend):
    refuses(make(kind, backend=backend), lambda layer: layer.backward(**arguments), error, message)


def test_dy_of_another_shape_for_other_layouts(kind, backend):
    layer = make(kind, backend=backend, batch_first=True)
    message = "dy: expected shape (2, 4, 5), got (4, 2, 5)"
    refuses(layer, lambda layer: layer.backward(np.zeros((T, B, H))), ValueError, message)
    layer.forward(x[:, 0])
    message = "dy: expected shape (4, 5), got (4, 1, 5)"
    refuses(layer, lambda layer: layer.backward(np.zeros((T, 1, H))), ValueError, message)


def test_backward_before_forward(kind, backend):
    layer = LAYERS[kind](I, H, backend=backend)
    message = "backward: expected a call of forward before it, got none"
    refuses(layer, lambda layer: layer.backward(np.zeros((T, B, H))), RuntimeError, message)
    layer(x)
    refuses(layer, lambda layer: layer.backward(np.zeros((T, B, H))), RuntimeError, message)


def test_refused_calls_leave_the_next_ones_as_if_they_had_not_been(kind, backend):
    layer, untouched = make(kind, backend=backend), make(kind, backend=backend)
    d = draw_inputs(layer, T, B)
    for call in (
        lambda: layer.forward(x[:, :, :2]),
        lambda: layer.forward(x, lengths=[9, 9]),
        lambda: layer.backward(x),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    assert_same_bits(layer.backward(d.dy)[0], untouched.backward(d.dy)[0])
    # The generator of dropout has not moved either.
    assert_same_bits(layer.forward(d.x)[0], untouched.forward(d.x)[0])


STEPS = [
    ((np.zeros((B, 4)),), ValueError, "x_t: expected shape (B, 3), got (2, 4)"),
    ((np.zeros(4),), ValueError, "x_t: expected shape (3,), got (4,)"),
    ((x,), ValueError, "x_t: expected shape (B, 3), got (4, 2, 3)"),
    ((1.0,), ValueError, "x_t: expected shape (B, 3), got ()"),
    ((x[0].astype(complex),), TypeError, "x_t: expected real numbers, got dtype complex128"),
]
STEP_STATES = [
    ("lstm", (x[0], (h, h[:, 0])), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 5)"),
    (
        "lstm",
        (x[0], h),
        ValueError,
        "state: expected a pair (h, c), got array of shape (2, 2, 5) and dtype float64",
    ),
    ("lstm", (x[0, 0], (h, h)), ValueError, "state[0]: expected shape (2, 5), got (2, 2, 5)"),
    ("rnn", (x[0], h[:, 0]), ValueError, "state: expected shape (2, 2, 5), got (2, 5)"),
    ("rnn", (x[0, 0], h), ValueError, "state: expected shape (2, 5), got (2, 2, 5)"),
]
STEPS = [(kind, *case) for case in STEPS for kind in LAYERS] + STEP_STATES


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    STEPS,
    ids=[f"{kind}-{message}" for kind, _, _, message in STEPS],
)
def test_step_of_another_shape_or_kind(kind, arguments, error, message, backend):
    refuses(make(kind, backend=backend), lambda layer: layer.step(*arguments), error, message)


@pytest.mark.parametrize("call", ["step", "stream"])
def test_single_steps_of_a_bidirectional_layer(kind, call, backend):
    layer = LAYERS[kind](I, H, bidirectional=True, backend=backend)
    reason = "the reverse direction needs the whole sequence first"
    message = f"{call}: expected a unidirectional {kind.upper()}; {reason}"
    refuses(layer, lambda layer: getattr(layer, call)(*[x[0]] * (call == "step")), ValueError, message)


FLOATS = "dtype: expected float32 or float64, got "
CONSTRUCTORS = [
    ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
    ({"hidden_size": -3}, ValueError, "hidden_size: expected at least 1, got -3"),
    ({"hidden_size": 2.0}, TypeError, "hidden_size: expected an integer, got 2.0"),
    ({"hidden_size": "5"}, TypeError, "hidden_size: expected an integer, got '5'"),
    ({"hidden_size": True}, TypeError, "hidden_size: expected an integer, got True"),
    ({"hidden_size": None}, TypeError, "hidden_size: expected an integer, got None"),
    ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
    ({"num_layers": 0}, ValueError, "num_layers: expected at least 1, got 0"),
    ({"num_layers": 1.5}, TypeError, "num_layers: expected an integer, got 1.5"),
    ({"dropout": 1.0}, ValueError, "dropout: expected a number in [0, 1), got 1.0"),
    ({"dropout": -0.1}, ValueError, "dropout: expected a number in [0, 1), got -0.1"),
    ({"dropout": float("nan")}, ValueError, "dropout: expected a finite number, got nan"),
    ({"dropout": float("inf")}, ValueError, "dropout: expected a finite number, got inf"),
    ({"dropout": "0.5"}, TypeError, "dropout: expected a number, got '0.5'"),
    ({"dropout": None}, TypeError, "dropout: expected a number, got None"),
    ({"init": "xavier"}, ValueError, "init: expected one of 'glorot', 'torch', got 'xavier'"),
    ({"init": None}, ValueError, "init: expected one of 'glorot', 'torch', got None"),
    ({"backend": "cuda"}, ValueError, "backend: expected one of 'auto', 'numpy', got 'cuda'"),
    ({"dtype": np.float16}, ValueError, FLOATS + "<class 'numpy.float16'>"),
    ({"dtype": "complex128"}, ValueError, FLOATS + "'complex128'"),
    ({"dtype": int}, ValueError, FLOATS + "<class 'int'>"),
    (
        {"dtype": ">f8" if np.little_endian else "<f8"},
        ValueError,
        FLOATS + ("'>f8'" if np.little_endian else "'<f8'"),
    ),
    ({"dtype": "float99"}, TypeError, FLOATS + "'float99'"),
    ({"dtype": None}, ValueError, FLOATS + "None"),
    ({"bias": 1}, TypeError, "bias: expected True or False, got 1"),
    ({"batch_first": "no"}, TypeError, "batch_first: expected True or False, got 'no'"),
    ({"bidirectional": None}, TypeError, "bidirectional: expected True or False, got None"),
    ({"rng": -1}, ValueError, "rng: expected at least 0, got -1"),
    ({"rng": "seed"}, TypeError, "rng: expected an integer, got 'seed'"),
    ({"rng": 1.5}, TypeError, "rng: expected an integer, got 1.5"),
]
FORGET_BIASES = [
    ({"forget_bias": float("nan")}, ValueError, "forget_bias: expected a finite number, got nan"),
    ({"forget_bias": "1"}, TypeError, "forget_bias: expected a number, got '1'"),
    ({"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias: expected None without a bias, got 1.0"),
]


@pytest.mark.parametrize(
    ("arguments", "error", "message"), CONSTRUCTORS, ids=[message for _, _, message in CONSTRUCTORS]
)
def test_constructor_refuses(kind, arguments, error, message):
    with pytest.raises(error, match=exactly(message)):
        LAYERS[kind](**{"input_size": I, "hidden_size": H} | arguments)


@pytest.mark.parametrize(("arguments", "error", "message"), FORGET_BIASES)
def test_forget_bias_is_none_or_a_number_of_an_lstm_with_biases(arguments, error, message):
    with pytest.raises(error, match=exactly(message)):
        clstm.LSTM(I, H, **arguments)
    with pytest.raises(TypeError, match="forget_bias"):
        clstm.RNN(I, H, **arguments)


NAMES = ", ".join(map(repr, cells.ACTIVATIONS))
OPTIONS = [
    ({"proj_size": -1}, ValueError, "proj_size: expected at least 0, got -1"),
    ({"proj_size": 2.0}, TypeError, "proj_size: expected an integer, got 2.0"),
    ({"proj_size": True}, TypeError, "proj_size: expected an integer, got True"),
    ({"proj_size": 5}, ValueError, "proj_size: expected less than hidden_size, 5, got 5"),
    ({"proj_size": 6}, ValueError, "proj_size: expected less than hidden_size, 5, got 6"),
    ({"peepholes": 1}, TypeError, "peepholes: expected True or False, got 1"),
    ({"coupled": "yes"}, TypeError, "coupled: expected True or False, got 'yes'"),
    ({"layer_norm": None}, TypeError, "layer_norm: expected True or False, got None"),
    ({"gate_clip": 0.0}, ValueError, "gate_clip: expected a number above 0, got 0.0"),
    ({"gate_clip": -1}, ValueError, "gate_clip: expected a number above 0, got -1"),
    ({"gate_clip": float("inf")}, ValueError, "gate_clip: expected a finite number, got inf"),
    ({"cell_clip": 0}, ValueError, "cell_clip: expected a number above 0, got 0"),
    ({"cell_clip": "3"}, TypeError, "cell_clip: expected a number, got '3'"),
    ({"cell_clip": False}, TypeError, "cell_clip: expected a number, got False"),
    ({"zoneout": 0.1}, ValueError, "zoneout: expected a pair (p_h, p_c), got 0.1"),
    ({"zoneout": (0.1,)}, ValueError, "zoneout: expected a pair (p_h, p_c), got (0.1,)"),
    ({"zoneout": (0.1, 1.0)}, ValueError, "zoneout[1]: expected a number in [0, 1), got 1.0"),
    ({"zoneout": (-0.1, 0.0)}, ValueError, "zoneout[0]: expected a number in [0, 1), got -0.1"),
    ({"zoneout": ("0", 0.0)}, TypeError, "zoneout[0]: expected a number, got '0'"),
    (
        {"activations": "tanh"}, ValueError,
        "activations: expected three, (gates, candidate, cell), got 'tanh'",
    ),
    (
        {"activations": ("tanh", "tanh")}, ValueError,
        "activations: expected three, (gates, candidate, cell), got ('tanh', 'tanh')",
    ),
    (
        {"activations": ("sigmoid", "swish", "tanh")}, ValueError,
        f"activations[1]: expected one of {NAMES}, got 'swish'",
    ),
    (
        {"activations": (np.tanh, "tanh", "tanh")}, ValueError,
        "activations[0]: expected a pair (name, parameters), got <ufunc 'tanh'>",
    ),
    (
        {"activations": ("sigmoid", "tanh", ("tanh", {"alpha": 1.0}))}, ValueError,
        "activations[2]: expected no parameters for tanh, got {'alpha': 1.0}",
    ),
    (
        {"activations": (("hard_sigmoid", {"gamma": 1.0}), "tanh", "tanh")}, ValueError,
        "activations[0]: expected a dict with some of alpha, beta for hard_sigmoid, got {'gamma': 1.0}",
    ),
    (
        {"activations": (("elu", 0.5), "tanh", "tanh")}, ValueError,
        "activations[0]: expected a dict with some of alpha for elu, got 0.5",
    ),
    (
        {"activations": (("elu", {"alpha": "1"}), "tanh", "tanh")}, TypeError,
        "activations[0]['alpha']: expected a number, got '1'",
    ),
    (
        {"activations": (("elu", {"alpha": float("nan")}), "tanh", "tanh")}, ValueError,
        "activations[0]['alpha']: expected a finite number, got nan",
    ),
    (
        {"coupled": True, "layer_norm": True}, ValueError,
        "coupled: expected False with layer_norm=True, which would normalise the pre-activations of a forget "
        "gate that nobody reads, got True",
    ),
    (
        {"coupled": True, "forget_bias": 1.0}, ValueError,
        "forget_bias: expected None with coupled=True, where f = 1 - i, got 1.0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error", "message"), OPTIONS, ids=[message for _, _, message in OPTIONS]
)
def test_options_that_are_wrong_or_make_no_sense_together(arguments, error, message):
    with pytest.raises(error, match=exactly(message)):
        clstm.LSTM(I, H, **arguments)
    sizes = {"input_size": I, "hidden_size": H}
    flat = np.zeros(clstm.LSTM(I, H).flat_params.size)
    with pytest.raises(error, match=exactly(message)):
        clstm.LSTM.from_params(flat, **sizes | arguments)


DROPOUTS = [
    (1.0, ValueError, "expected a number in [0, 1), got 1.0"),
    (-0.1, ValueError, "expected a number in [0, 1), got -0.1"),
    (float("nan"), ValueError, "expected a finite number, got nan"),
    (None, TypeError, "expected a number, got None"),
    ((0.1, 0.1), TypeError, "expected a number, got (0.1, 0.1)"),
]


@pytest.mark.parametrize("name", ["dropout", "input_dropout", "recurrent_dropout"])
@pytest.mark.parametrize(("value", "error", "message"), DROPOUTS)
def test_probabilities_that_are_none_are_refused_when_made_and_when_set(kind, name, value, error, message):
    with pytest.raises(error, match=exactly(f"{name}: {message}")):
        LAYERS[kind](I, H, **{name: value})
    refuses(make(kind), lambda layer: setattr(layer, name, value), error, f"{name}: {message}")


def test_zoneout_that_is_no_pair_is_refused_when_set():
    for arguments, error, message in OPTIONS:
        if "zoneout" in arguments:
            value = arguments["zoneout"]
            refuses(make("lstm"), lambda layer, v=value: setattr(layer, "zoneout", v), error, message)


OF_AN_LSTM = {
    "forget_bias": (1.0, "a plain RNN has no forget gate"),
    "peepholes": (True, "a plain RNN has no cell that gates could see"),
    "coupled": (True, "a plain RNN has no gates that could be coupled"),
    "cell_clip": (1.0, "a plain RNN has no cell"),
    "zoneout": ((0.1, 0.1), "a plain RNN is regularised by `recurrent_dropout`"),
    "proj_size": (2, "a plain RNN is here to compare with, as h_t = tanh(z)"),
    "activations": (("tanh",) * 3, "a plain RNN is here to compare with, as h_t = tanh(z)"),
    "gate_clip": (1.0, "a plain RNN is here to compare with, as h_t = tanh(z)"),
    "layer_norm": (True, "a plain RNN is here to compare with, as h_t = tanh(z)"),
    "nonsense": (1, "nothing has one of this name"),
}


@pytest.mark.parametrize("name", OF_AN_LSTM)
def test_an_rnn_refuses_the_options_of_an_lstm_with_a_reason(name):
    value, reason = OF_AN_LSTM[name]
    with pytest.raises(TypeError, match=exactly(f"{name}: expected no such argument for an RNN; {reason}")):
        clstm.RNN(I, H, **{name: value})


PARAMETERS = [  # of a state_dict, made from one with every option
    ("weight_hr_l0", (3, 4), "params['weight_hr_l0']: expected shape (3, 5), got (3, 4)"),
    ("weight_hh_l0", (20, 5), "params['weight_hh_l0']: expected shape (20, 3), got (20, 5)"),
    ("weight_peephole_l0", (4, 5), "params['weight_peephole_l0']: expected shape (3, 5), got (4, 5)"),
    ("layer_norm_x_l0", (5,), "params['layer_norm_x_l0']: expected shape (20,), got (5,)"),
    ("layer_norm_c_l0", (5,), "params['layer_norm_c_l0']: expected shape (2, 5), got (5,)"),
]


@pytest.mark.parametrize(("name", "shape", "message"), PARAMETERS)
def test_arrays_of_options_of_another_shape(name, shape, message):
    lstm = build_lstm(I, H, proj_size=3, peepholes=True, layer_norm=True)
    changed = lstm.state_dict() | {name: np.zeros(shape)}
    with pytest.raises(ValueError, match=exactly(message)):
        clstm.LSTM.from_params(changed)
    as_loaded = message.replace("params", "state_dict")
    refuses(lstm, lambda lstm: lstm.load_state_dict(changed), ValueError, as_loaded)


@pytest.mark.parametrize("name", ["weight_hr_l0", "layer_norm_h_l0", "layer_norm_c_l0"])
def test_arrays_of_options_that_are_missing(name):
    state_dict = build_lstm(I, H, proj_size=3, peepholes=True, layer_norm=True).state_dict()
    del state_dict[name]
    with pytest.raises(ValueError, match=r"^params"):
        clstm.LSTM.from_params(state_dict)


def test_options_are_keywords(kind):
    with pytest.raises(TypeError, match="positional"):
        LAYERS[kind](I, H, 1, True)


def test_messages_do_not_print_whole_arguments():
    with pytest.raises(TypeError) as caught:
        clstm.LSTM(I, list(range(10_000)))
    assert len(str(caught.value)) < 120


BEYOND_FLOATS = 10**400


@pytest.mark.parametrize("name", ["dropout", "forget_bias"])
@pytest.mark.parametrize("value", [BEYOND_FLOATS, -BEYOND_FLOATS], ids=["positive", "negative"])
def test_integer_beyond_every_float_is_refused(name, value):
    message = f"{name}: expected a finite number, got {str(value)[:57]}..."
    with pytest.raises(ValueError, match=exactly(message)):
        clstm.LSTM(I, H, **{name: value})


@pytest.mark.parametrize("name", ["dropout", "forget_bias"])
def test_integer_beyond_every_float_is_refused_in_a_file(name, tmp_path):
    text = (Path(__file__).parent / "golden" / "lstm-0.1.0-stacked.safetensors").read_bytes()
    length = int.from_bytes(text[:8], "little")
    header = json.loads(text[8 : 8 + length])
    arguments = json.loads(header["__metadata__"]["clstm"]) | {name: BEYOND_FLOATS}
    header["__metadata__"]["clstm"] = json.dumps(arguments)
    changed = json.dumps(header).encode()
    path = tmp_path / "a"
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + text[8 + length :])
    with pytest.raises(clstm.FileFormatError, match=f"{name}: expected a finite number, got 1000"):
        clstm.LSTM.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": 10**5000}, "dropout: expected a finite number, got int too large to show"),
        ({"hidden_size": -(10**5000)}, "hidden_size: expected at least 1, got int too large to show"),
        ({"hidden_size": -(10**100)}, f"hidden_size: expected at least 1, got -1{'0' * 55}..."),
    ],
    ids=["dropout", "beyond-printing", "long"],
)
def test_messages_do_not_print_whole_integers(arguments, message):
    with pytest.raises(ValueError, match=exactly(message)):
        clstm.LSTM(**{"input_size": I, "hidden_size": H} | arguments)


def test_messages_list_the_first_of_many_names_and_shorten_each():
    many = {f"weight_{k}" + "x" * 1000: None for k in range(100_000)} | {3: None}
    lstm = build_lstm(I, H)
    with unchanged(lstm), pytest.raises(ValueError, match=r"^state_dict: ") as caught:
        lstm.load_state_dict(many)
    message = str(caught.value)
    assert message.startswith(
        "state_dict: expected exactly weight_ih_l0, weight_hh_l0, bias_l0; missing: weight_ih_l0, "
        "weight_hh_l0, bias_l0; unexpected: weight_0xxxx"
    )
    assert message.endswith("... and 99981 more")
    assert len(message) < 2000


def test_names_that_cannot_be_printed_are_shown_by_their_escapes():
    lstm = build_lstm(I, H)
    message = r"unexpected: 'line\nbreak', '\ud800', 3"
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        lstm.load_state_dict(dict(lstm.params) | {"line\nbreak": 0, "\ud800": 0, 3: 0})


def test_names_are_looked_up_and_not_compared_one_by_one():
    comparisons = []

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            comparisons.append(other)
            return str.__eq__(self, other)

    n = 500
    given = {Name(f"weight_{k}"): None for k in range(n)}
    with pytest.raises(ValueError, match=r"; missing: none; unexpected: more$"):
        _check.entries("arguments", given | {"more": None}, [f"weight_{k}" for k in range(n)], True)
    assert len(comparisons) <= 10 * n
