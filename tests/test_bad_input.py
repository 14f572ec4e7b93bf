"""Bad input: each kind has its message (argument, expectation, what came), and the object stays as it was."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_bits, build_lstm, draw_inputs, unchanged

import clstm
from clstm import _check

I, H, T, B = 3, 5, 4, 2  # noqa: E741
x, h = np.zeros((T, B, I)), np.zeros((2, B, H))


def exactly(message):
    return f"^{re.escape(message)}$"


def make(**kwargs):
    """Make two layers, one direction, dropout between them, with a tape and gradients."""
    lstm = build_lstm(I, H, 2, dropout=0.5, **kwargs)
    d = draw_inputs(lstm, T, B)
    turn = (lambda v: v.swapaxes(0, 1)) if lstm.batch_first else (lambda v: v)
    lstm.forward(turn(d.x), d.state, d.lengths)
    lstm.backward(turn(d.dy), d.dstate)
    return lstm


def refuses(lstm, call, error, message):
    with unchanged(lstm), pytest.raises(error, match=exactly(message)):
        call(lstm)


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
def test_x_of_another_rank_size_or_kind(value, error, message, call, backend):
    refuses(make(backend=backend), lambda lstm: getattr(lstm, call)(value), error, message)


def test_x_of_another_size_batch_first(backend):
    lstm = make(backend=backend, batch_first=True)
    refuses(
        lstm, lambda lstm: lstm(np.zeros((B, T, 4))), ValueError, "x: expected shape (B, T, 3), got (2, 4, 4)"
    )
    refuses(
        lstm, lambda lstm: lstm(np.zeros(I)), ValueError, "x: expected shape (B, T, 3) or (T, 3), got (3,)"
    )


STATES = [
    (h, ValueError, "state: expected a pair (h_0, c_0), got array of shape (2, 2, 5) and dtype float64"),
    ("hc", ValueError, "state: expected a pair (h_0, c_0), got 'hc'"),
    (7, ValueError, "state: expected a pair (h_0, c_0), got 7"),
    ((h[:1], h), ValueError, "state[0]: expected shape (2, 2, 5), got (1, 2, 5)"),
    ((h, h[:, :1]), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 1, 5)"),
    ((h, h[:, 0]), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 5)"),
    ((h, h[:, :, :4]), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 2, 4)"),
    ((h.astype(complex), h), TypeError, "state[0]: expected real numbers, got dtype complex128"),
    ((h, h.astype(object)), TypeError, "state[1]: expected real numbers, got dtype object"),
    ((h, h.astype(str)), TypeError, "state[1]: expected real numbers, got dtype <U32"),
    ((h, "text"), TypeError, "state[1]: expected real numbers, got dtype <U4"),
]


@pytest.mark.parametrize("call", ["__call__", "forward", "trace"])
@pytest.mark.parametrize(("value", "error", "message"), STATES, ids=[message for _, _, message in STATES])
def test_state_of_another_shape_or_kind(value, error, message, call, backend):
    refuses(make(backend=backend), lambda lstm: getattr(lstm, call)(x, value), error, message)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_state_of_another_number_of_parts(count, backend):
    lstm = make(backend=backend)
    with unchanged(lstm), pytest.raises(ValueError, match=r"^state: expected a pair \(h_0, c_0\), got "):
        lstm.forward(x, (h,) * count)


def test_state_of_one_sequence_has_no_batch_axis(backend):
    message = "state[0]: expected shape (2, 5), got (2, 1, 5)"
    refuses(make(backend=backend), lambda lstm: lstm(x[:, 0], (h[:, :1], h[:, :1])), ValueError, message)


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
def test_lengths_out_of_range_or_of_another_count_or_kind(value, error, message, call, backend):
    refuses(make(backend=backend), lambda lstm: getattr(lstm, call)(x, lengths=value), error, message)


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
    ({"dstate": (None, None)}, ValueError, "dy, dstate: expected at least one of them, got None for both"),
    ({"dstate": (h, h[:1])}, ValueError, "dstate[1]: expected shape (2, 2, 5), got (1, 2, 5)"),
    ({"dstate": (h, h.astype(complex))}, TypeError, "dstate[1]: expected real numbers, got dtype complex128"),
    ({"dstate": "hc"}, ValueError, "dstate: expected a pair (dh_n, dc_n), got 'hc'"),
    ({"dy": np.zeros((T, B, H)), "accumulate": 1}, TypeError, "accumulate: expected True or False, got 1"),
]


@pytest.mark.parametrize(
    ("arguments", "error", "message"), BACKWARD, ids=[message for _, _, message in BACKWARD]
)
def test_derivatives_of_another_shape_or_kind(arguments, error, message, backend):
    refuses(make(backend=backend), lambda lstm: lstm.backward(**arguments), error, message)


def test_dy_of_another_shape_for_other_layouts(backend):
    lstm = make(backend=backend, batch_first=True)
    message = "dy: expected shape (2, 4, 5), got (4, 2, 5)"
    refuses(lstm, lambda lstm: lstm.backward(np.zeros((T, B, H))), ValueError, message)
    lstm.forward(x[:, 0])
    refuses(
        lstm,
        lambda lstm: lstm.backward(np.zeros((T, 1, H))),
        ValueError,
        "dy: expected shape (4, 5), got (4, 1, 5)",
    )


def test_backward_before_forward(backend):
    lstm = clstm.LSTM(I, H, backend=backend)
    message = "backward: expected a call of forward before it, got none"
    refuses(lstm, lambda lstm: lstm.backward(np.zeros((T, B, H))), RuntimeError, message)
    lstm(x)
    refuses(lstm, lambda lstm: lstm.backward(np.zeros((T, B, H))), RuntimeError, message)


def test_refused_calls_leave_the_next_ones_as_if_they_had_not_been(backend):
    lstm, untouched = make(backend=backend), make(backend=backend)
    d = draw_inputs(lstm, T, B)
    for call in (
        lambda: lstm.forward(x[:, :, :2]),
        lambda: lstm.forward(x, lengths=[9, 9]),
        lambda: lstm.backward(x),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    assert_same_bits(lstm.backward(d.dy)[0], untouched.backward(d.dy)[0])
    # The generator of dropout has not moved either.
    assert_same_bits(lstm.forward(d.x)[0], untouched.forward(d.x)[0])


STEPS = [
    ((np.zeros((B, 4)),), ValueError, "x_t: expected shape (B, 3), got (2, 4)"),
    ((np.zeros(4),), ValueError, "x_t: expected shape (3,), got (4,)"),
    ((x,), ValueError, "x_t: expected shape (B, 3), got (4, 2, 3)"),
    ((1.0,), ValueError, "x_t: expected shape (B, 3), got ()"),
    ((x[0].astype(complex),), TypeError, "x_t: expected real numbers, got dtype complex128"),
    ((x[0], (h, h[:, 0])), ValueError, "state[1]: expected shape (2, 2, 5), got (2, 5)"),
    ((x[0], h), ValueError, "state: expected a pair (h, c), got array of shape (2, 2, 5) and dtype float64"),
    ((x[0, 0], (h, h)), ValueError, "state[0]: expected shape (2, 5), got (2, 2, 5)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), STEPS, ids=[message for _, _, message in STEPS])
def test_step_of_another_shape_or_kind(arguments, error, message, backend):
    refuses(make(backend=backend), lambda lstm: lstm.step(*arguments), error, message)


def test_step_of_a_bidirectional_lstm(backend):
    lstm = clstm.LSTM(I, H, bidirectional=True, backend=backend)
    message = "step: expected a unidirectional LSTM; the reverse direction needs the whole sequence first"
    refuses(lstm, lambda lstm: lstm.step(x[0]), ValueError, message)


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
    ({"forget_bias": float("nan")}, ValueError, "forget_bias: expected a finite number, got nan"),
    ({"forget_bias": "1"}, TypeError, "forget_bias: expected a number, got '1'"),
    ({"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias: expected None without a bias, got 1.0"),
    ({"rng": -1}, ValueError, "rng: expected at least 0, got -1"),
    ({"rng": "seed"}, TypeError, "rng: expected an integer, got 'seed'"),
    ({"rng": 1.5}, TypeError, "rng: expected an integer, got 1.5"),
]


@pytest.mark.parametrize(
    ("arguments", "error", "message"), CONSTRUCTORS, ids=[message for _, _, message in CONSTRUCTORS]
)
def test_constructor_refuses(arguments, error, message):
    with pytest.raises(error, match=exactly(message)):
        clstm.LSTM(**{"input_size": I, "hidden_size": H} | arguments)


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        clstm.LSTM(I, H, 1, True)


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
