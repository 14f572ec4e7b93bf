"""Streams of every kind of cell: bits, state, reset, refresh, what they take and refuse, memory, threads."""

import array
import copy
import gc
import pickle
import re
import threading
import weakref

import numpy as np
import pytest
from conftest import (
    LAYERS,
    as_tuple,
    assert_same_bits,
    build_layer,
    draw_inputs,
    functions_of,
    load_build,
    make_case,
    run_forward,
)

import clstm
from clstm import FileFormatError, files, reference

OTHER = {"float32": "float64", "float64": "float32"}


def step_all(stream, x):
    return np.stack([stream.step(x_t) for x_t in x])


def assert_states_same(got, expected):
    for name, value, wanted in zip("hc", as_tuple(got), as_tuple(expected), strict=False):
        assert_same_bits(value, wanted, name)
    assert len(as_tuple(got)) == len(as_tuple(expected))


def like(given, parts):
    """Return parts of a state as users have them: as a pair for an LSTM, for an RNN as an array."""
    return tuple(parts) if isinstance(given, tuple) else next(iter(parts))


# ----------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("num_layers", [1, 2, 5])
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1), (1, 3, 9), (2, 1, 17), (7, 5, 16), (13, 20, 33), (3, 2, 130)],
    ids="B{0[0]}-I{0[1]}-H{0[2]}".format,
)
def test_stream_has_the_bits_of_the_whole_sequence(kind, build, dtype, sizes, num_layers):
    B, I, H = sizes  # noqa: E741
    layer = build_layer(kind, I, H, num_layers, dtype=dtype, build=build)
    data = draw_inputs(layer, 6, B)
    expected, end = layer(data.x, data.state)
    stream = layer.stream(B, data.state)
    assert_states_same(stream.state, data.state)
    assert_same_bits(step_all(stream, data.x), expected)
    assert_states_same(stream.state, end)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_stream_of_one_row_has_no_axis_of_rows(kind, implementation, dtype, num_layers):
    layer = build_layer(kind, 3, 10, num_layers, dtype=dtype, build=implementation)
    data = draw_inputs(layer, 6, 1)
    x, state = data.x[:, 0], like(data.state, [part[:, 0] for part in as_tuple(data.state)])
    expected, end = layer(x, state)
    stream = layer.stream(state=state)
    got = step_all(stream, x)
    assert got.shape == (6, 10)
    assert_same_bits(got, expected)
    assert_states_same(stream.state, end)


def test_stream_of_the_definition_is_step_after_step(kind, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build="reference")
    x = draw_inputs(layer, 5, 4).x
    stream, state = layer.stream(4), None
    for x_t in x:
        h_t, state = layer.step(x_t, state)
        assert_same_bits(stream.step(x_t), h_t)
        assert_states_same(stream.state, state)


def test_streams_of_one_object_do_not_disturb_each_other(kind, build, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=build)
    x = draw_inputs(layer, 5, 2).x
    expected, _ = layer(x)
    streams = [layer.stream() for _ in range(2)]
    for x_t, y_t in zip(x, expected, strict=True):
        for row, stream in enumerate(streams):
            assert_same_bits(stream.step(x_t[row]), y_t[row])


def test_stream_changes_nothing_in_the_lstm(kind, implementation):
    layer = build_layer(kind, 3, 10, build=implementation)
    x = draw_inputs(layer, 3, 2).x
    y, _ = layer.forward(x)
    expected, _ = layer.backward(y)
    params = layer.flat_params.copy()
    x_before = x.copy()
    step_all(layer.stream(2), x)
    assert_same_bits(x, x_before)
    assert_same_bits(layer.flat_params, params)
    assert_same_bits(layer.backward(y)[0], expected)


def test_nan_stays_in_its_own_row(kind, implementation, dtype):
    layer = build_layer(kind, 3, 19, 2, dtype=dtype, build=implementation)
    x = draw_inputs(layer, 4, 11).x
    expected = step_all(layer.stream(11), x)
    for row in range(11):
        poisoned = x.copy()
        poisoned[1, row, 2] = np.nan
        stream, others = layer.stream(11), np.arange(11) != row
        got = step_all(stream, poisoned)
        assert_same_bits(got[:, others], expected[:, others])
        assert_same_bits(got[0], expected[0])
        assert np.isnan(got[1:, row]).all()
        stream.reset(row)
        assert_same_bits(stream.step(x[0])[row], expected[0, row])


# ------------------------------------------------------------------------------------------------- out, x_t


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_out_is_what_is_returned(kind, implementation, dtype, batch_size):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=implementation)
    x = draw_inputs(layer, 3, batch_size or 1).x
    x = x if batch_size else x[:, 0]
    expected = step_all(layer.stream(batch_size), x)
    stream, out = layer.stream(batch_size), np.full_like(expected[0], np.nan)
    for x_t, y_t in zip(x, expected, strict=True):
        assert stream.step(x_t, out=out) is out
        assert_same_bits(out, y_t)
    first, second = stream.step(x[0]), stream.step(x[0])
    assert first is not out
    assert not np.shares_memory(first, second)
    assert_same_bits(out, expected[-1])


def test_out_may_be_part_of_a_larger_array(kind, implementation, dtype):
    layer = build_layer(kind, 3, 10, dtype=dtype, build=implementation)
    x = draw_inputs(layer, 5, 4).x
    y = np.full((7, 4, 10), np.nan, dtype)
    stream = layer.stream(4)
    for x_t, y_t in zip(x, y[1:], strict=False):
        stream.step(x_t, y_t)
    assert_same_bits(y[1:6], layer(x)[0])
    assert np.isnan(y[[0, 6]]).all()


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_output_may_overwrite_the_input(kind, implementation, dtype, batch_size, num_layers):
    layer = build_layer(kind, 10, 10, num_layers, dtype=dtype, build=implementation)
    x = draw_inputs(layer, 1, batch_size or 1).x[0]
    value = x.copy() if batch_size else x[0].copy()
    fed_back, apart = layer.stream(batch_size), layer.stream(batch_size)
    expected = value.copy()
    for _ in range(4):
        expected = apart.step(expected)
        assert fed_back.step(value, out=value) is value
        assert_same_bits(value, expected)


def test_output_may_overlap_the_input(kind, implementation, dtype):
    layer = build_layer(kind, 10, 10, dtype=dtype, build=implementation)
    x = draw_inputs(layer, 1, 5).x[0]
    expected = layer.stream(5).step(x)
    for shift in (0, 1, 13):
        memory = np.zeros(200, dtype)
        x_t, out = memory[20:70].reshape(5, 10), memory[20 + shift : 70 + shift].reshape(5, 10)
        x_t[...] = x
        assert_same_bits(layer.stream(5).step(x_t, out), expected)


def byte_swapped(x):
    return x.astype(x.dtype.newbyteorder())


def misaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    memory[...] = x
    return memory


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


ACCEPTED = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x.tolist())),
    "list of arrays": list,
    "other float": lambda x: x.astype(OTHER[x.dtype.name]),
    "half": lambda x: x.astype(np.float16),
    "long double": lambda x: x.astype(np.longdouble),
    "int": lambda x: x.astype(np.int64),
    "uint8": lambda x: x.astype(np.uint8),
    "bool": lambda x: x.astype(bool),
    "column order": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "read-only": read_only,
    "misaligned": misaligned,
    "byte-swapped": byte_swapped,
    "memoryview": memoryview,
    "masked array": np.ma.asarray,
    "matrix of another class": lambda x: x.view(np.recarray),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_input_is_converted(kind, implementation, dtype, name):
    layer = build_layer(kind, 3, 10, dtype=dtype, build=implementation)
    x = np.array([[1, 0, 2], [3, 1, 0]], dtype)
    given = ACCEPTED[name](x)
    before = pickle.dumps(given) if name != "memoryview" else None
    expected = layer.stream(2).step(np.ascontiguousarray(np.asarray(given), dtype))
    stream = layer.stream(2)
    assert_same_bits(stream.step(given), expected)
    assert before is None or pickle.dumps(given) == before


def test_input_of_one_row_is_converted(kind, implementation, dtype):
    layer = build_layer(kind, 3, 10, dtype=dtype, build=implementation)
    expected = layer.stream().step(np.array([1, 0, 2], dtype))
    for given in (
        [1, 0, 2],
        (1.0, 0.0, 2.0),
        range(0),
        array.array("d", [1, 0, 2]),
        array.array("f", [1, 0, 2]),
    ):
        if len(given) == 3:
            assert_same_bits(layer.stream().step(given), expected)


class Unusable:
    """Every way of looking at it fails."""

    def __getattr__(self, name):
        raise AttributeError(name)


WRONG_INPUT = [
    ("x", ValueError, r"x_t: expected shape \(2, 3\), got \(3,\)", np.zeros(3)),
    ("x", ValueError, r"x_t: expected shape \(2, 3\), got \(2, 4\)", np.zeros((2, 4))),
    ("x", ValueError, r"x_t: expected shape \(2, 3\), got \(3, 2\)", np.zeros((3, 2))),
    ("x", ValueError, r"x_t: expected shape \(2, 3\), got \(1, 2, 3\)", np.zeros((1, 2, 3))),
    ("x", ValueError, r"x_t: expected shape \(2, 3\), got \(\)", 1.0),
    ("x", ValueError, r"x_t: expected shape \(2, 3\), got \(0, 3\)", np.zeros((0, 3))),
    (
        "x",
        ValueError,
        "x_t: expected an array of numbers, got rows of different lengths",
        [[1, 2, 3], [1, 2]],
    ),
    ("x", TypeError, "x_t: expected real numbers, got dtype complex128", np.zeros((2, 3), complex)),
    ("x", TypeError, "x_t: expected real numbers, got dtype object", np.zeros((2, 3), object)),
    ("x", TypeError, "x_t: expected real numbers, got dtype object", None),
    ("x", TypeError, "x_t: expected real numbers, got dtype object", Unusable()),
    ("x", TypeError, "x_t: expected real numbers, got dtype <U", "abc"),
    (
        "x",
        TypeError,
        r"x_t: expected real numbers, got dtype \|S|x_t: expected real numbers, got dtype S",
        b"abcdefgh",
    ),
    ("x", TypeError, "x_t: expected real numbers, got dtype datetime64", np.zeros((2, 3), "M8[s]")),
    ("out", ValueError, r"out: expected shape \(2, 10\), got \(10,\)", lambda dtype: np.zeros(10, dtype)),
    (
        "out",
        ValueError,
        r"out: expected shape \(2, 10\), got \(2, 11\)",
        lambda dtype: np.zeros((2, 11), dtype),
    ),
    (
        "out",
        ValueError,
        r"out: expected shape \(2, 10\), got \(10, 2\)",
        lambda dtype: np.zeros((10, 2), dtype),
    ),
    ("out", TypeError, "out: expected an array of dtype", lambda dtype: np.zeros((2, 10), OTHER[dtype])),
    (
        "out",
        TypeError,
        "out: expected an array of dtype",
        lambda dtype: byte_swapped(np.zeros((2, 10), dtype)),
    ),
    ("out", TypeError, "out: expected an array of dtype", lambda _: np.zeros((2, 10), int)),
    ("out", TypeError, "out: expected an array of dtype", lambda _: [[0.0] * 10] * 2),
    ("out", TypeError, "out: expected an array of dtype", lambda _: "out"),
    ("out", TypeError, "out: expected an array of dtype", lambda _: 1.0),
    (
        "out",
        ValueError,
        "out: expected a contiguous, writable array",
        lambda dtype: np.zeros((10, 2), dtype).T,
    ),
    (
        "out",
        ValueError,
        "out: expected a contiguous, writable array",
        lambda dtype: np.zeros((2, 20), dtype)[:, ::2],
    ),
    (
        "out",
        ValueError,
        "out: expected a contiguous, writable array",
        lambda dtype: read_only(np.zeros((2, 10), dtype)),
    ),
    (
        "out",
        ValueError,
        "out: expected a contiguous, writable array",
        lambda dtype: misaligned(np.zeros((2, 10), dtype)),
    ),
]


@pytest.mark.parametrize(("argument", "error", "message", "value"), WRONG_INPUT)
def test_wrong_arguments_are_refused_and_change_nothing(
    kind, implementation, dtype, argument, error, message, value
):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=implementation)
    data = draw_inputs(layer, 2, 2)
    stream = layer.stream(2, data.state)
    stream.step(data.x[0])
    before, expected = stream.state, layer(data.x, data.state)[0][1]
    out = value(dtype) if argument == "out" else np.full((2, 10), 7, dtype)
    out_before = np.array(out)
    with pytest.raises(error, match="^" + message):
        stream.step(value if argument == "x" else data.x[1], out)
    assert_states_same(stream.state, before)
    assert_same_bits(np.array(out), out_before)
    assert_same_bits(stream.step(data.x[1]), expected)


def test_value_beyond_float32_is_refused(kind, implementation):
    stream = build_layer(kind, 3, 10, dtype="float32", build=implementation).stream()
    with pytest.raises(ValueError, match=r"^x_t: expected values that float32 can hold"):
        stream.step(np.array([1.0, 1e300, 0.0]))
    assert (as_tuple(stream.state)[0] == 0).all()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        b"bytes",
        object(),
        Unusable(),
        3,
        1.5,
        [],
        [1.0],
        {},
        range(3),
        np.float64(1),
        bytearray(24),
        memoryview(b"abc"),
    ],
)
def test_fast_path_declines_what_it_does_not_know(kind, implementation, dtype, value):
    """It returns None without an exception; nothing is written."""
    layer = build_layer(kind, 3, 10, dtype=dtype, build=implementation)
    stream = layer.stream()
    x, out = np.zeros(3, dtype), np.full(10, 7, dtype)
    assert stream._engine.try_step(value, out) is None
    if value is not None:
        assert stream._engine.try_step(x, value) is None
    assert (out == 7).all()
    assert (as_tuple(stream.state)[0] == 0).all()
    assert stream._engine.try_step(x, out) is out


@pytest.mark.parametrize("size", [0, 2, 4])
def test_fast_path_declines_other_sizes(kind, implementation, dtype, size):
    stream = build_layer(kind, 3, 10, dtype=dtype, build=implementation).stream(2)
    out = np.empty((2, 10), dtype)
    for shape in ((2, size), (size, 3), (2, 3, size), (size,), (6,), ()):
        if shape != (2, 3):
            assert stream._engine.try_step(np.zeros(shape, dtype), out) is None
    for shape in ((2, 9), (1, 10), (20,), ()):
        assert stream._engine.try_step(np.zeros((2, 3), dtype), np.zeros(shape, dtype)) is None


# ------------------------------------------------------------------------------------------ state and reset


def test_state_is_a_copy(kind, implementation, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=implementation)
    stream = layer.stream(2)
    stream.step(np.ones((2, 3)))
    first = as_tuple(stream.state)
    for value in first:
        assert value.shape == (2, 2, 10)
        assert value.dtype == dtype
    kept = tuple(value.copy() for value in first)
    for value in first:
        value[...] = 7
    assert_states_same(stream.state, kept)
    stream.step(np.ones((2, 3)))
    assert (first[0] == 7).all()


def test_states_that_were_given_are_copied(kind, implementation, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=implementation)
    given = draw_inputs(layer, 1, 2).state
    kept = tuple(value.copy() for value in as_tuple(given))
    stream = layer.stream(2, given)
    stream.step(np.ones((2, 3)))
    assert_states_same(given, kept)
    for value in as_tuple(given):
        value[...] = 7
    fresh = layer.stream(2, like(given, kept))
    fresh.step(np.ones((2, 3)))
    assert_states_same(stream.state, fresh.state)
    stream.state = given
    for value in as_tuple(given):
        value[...] = 5
    for value in as_tuple(stream.state):
        assert (value == 7).all()


def test_state_may_be_set_from_lists(kind, implementation, dtype):
    layer = build_layer(kind, 3, 2, dtype=dtype, build=implementation)
    stream = layer.stream()
    parts = ([[0.25, 0.5]], [[1, 2]])[: len(layer.kind.states)]
    stream.state = parts if kind == "lstm" else parts[0]
    assert_states_same(stream.state, tuple(np.array(part, dtype) for part in parts))
    stream.state = None
    assert_states_same(stream.state, tuple(np.zeros((1, 2), dtype) for _ in parts))


right = np.zeros((2, 3, 10))
WRONG_STATES = {
    "lstm": [
        (right, r"state: expected a pair \(h, c\), got array of shape"),
        ((right,), r"state: expected a pair \(h, c\)"),
        ((right, np.zeros((2, 3, 9))), r"state\[1\]: expected shape \(2, 3, 10\), got \(2, 3, 9\)"),
        ((right[0], right), r"state\[0\]: expected shape \(2, 3, 10\), got \(3, 10\)"),
        ((right, None), r"state\[1\]: expected real numbers, got dtype object"),
        ((right.astype(complex), right), r"state\[0\]: expected real numbers, got dtype complex128"),
    ],
    "rnn": [
        ((right, right), r"state: expected shape \(2, 3, 10\), got \(2, 2, 3, 10\)"),
        (np.zeros((2, 3, 9)), r"state: expected shape \(2, 3, 10\), got \(2, 3, 9\)"),
        (right[0], r"state: expected shape \(2, 3, 10\), got \(3, 10\)"),
        (right.astype(complex), r"state: expected real numbers, got dtype complex128"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "state", "message"), [(kind, *wrong) for kind, each in WRONG_STATES.items() for wrong in each]
)
def test_wrong_states_are_refused_and_change_nothing(kind, implementation, state, message):
    layer = build_layer(kind, 3, 10, 2, build=implementation)
    with pytest.raises((TypeError, ValueError), match="^" + message):
        layer.stream(3, state)
    stream = layer.stream(3)
    stream.step(np.ones((3, 3)))
    before = stream.state
    with pytest.raises((TypeError, ValueError), match="^" + message):
        stream.state = state
    assert_states_same(stream.state, before)


RESET = {
    "all": (None, [0, 1, 2, 3]),
    "int": (2, [2]),
    "negative": (-1, [3]),
    "numpy integer": (np.int32(1), [1]),
    "list": ([3, 0], [0, 3]),
    "twice": ([1, 1], [1]),
    "tuple": ((0, 2), [0, 2]),
    "array": (np.array([1, 2]), [1, 2]),
    "mask": (np.array([True, False, False, True]), [0, 3]),
    "list of bool": ([False, True, False, False], [1]),
    "mask of none": (np.zeros(4, bool), []),
    "no rows": ([], []),
    "no rows in an array": (np.flatnonzero(np.zeros(4)), []),
}


@pytest.mark.parametrize("name", RESET)
def test_reset_sets_rows_to_zero(kind, implementation, dtype, name):
    rows, expected_rows = RESET[name]
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=implementation)
    data = draw_inputs(layer, 4, 4)
    stream = layer.stream(4, data.state)
    step_all(stream, data.x[:3])
    expected = stream.state
    for value in as_tuple(expected):
        value[:, expected_rows] = 0
    assert stream.reset(rows) is None
    assert_states_same(stream.state, expected)
    assert_same_bits(stream.step(data.x[3]), layer.step(data.x[3], expected)[0])


def test_reset_of_a_stream_of_one_row(kind, implementation):
    layer = build_layer(kind, 3, 10, build=implementation)
    stream = layer.stream()
    for rows in (None, 0, [0], [True], -1):
        stream.step(np.ones(3))
        stream.reset(rows)
        assert (as_tuple(stream.state)[0] == 0).all()


def test_reset_goes_to_zero_whatever_state_was_given_or_set(kind, implementation):
    layer = build_layer(kind, 3, 10, build=implementation)
    given = like(layer.stream().state, [np.ones((1, 10))] * 2)
    set_later = layer.stream()
    set_later.state = given
    for stream in (set_later, layer.stream(state=given)):
        stream.reset()
        for part in as_tuple(stream.state):
            assert (part == 0).all()


@pytest.mark.parametrize(
    "rows",
    [
        4,
        -5,
        [0, 4],
        1.0,
        [0.5],
        "0",
        True,
        np.ones(3, bool),
        np.ones(5, bool),
        [[0, 1], [2, 3]],
        {},
        slice(2),
        2**70,
    ],
    ids=str,
)
def test_rows_that_are_none_are_refused_and_nothing_is_reset(kind, implementation, rows):
    stream = build_layer(kind, 3, 10, build=implementation).stream(4)
    stream.step(np.ones((4, 3)))
    before = stream.state
    with pytest.raises(IndexError, match=r"^rows: expected indices or a mask of 4 rows, got "):
        stream.reset(rows)
    assert_states_same(stream.state, before)


@pytest.mark.parametrize("projection", [0, 4])
def test_state_of_some_rows_of_many_is_set_and_the_others_stay(implementation, dtype, projection):
    rows, chosen = 50, np.array([49, 0, 7, 8, 31])
    layer = build_layer("lstm", 3, 10, 2, dtype=dtype, build=implementation, proj_size=projection)
    data = draw_inputs(layer, 2, rows)
    stream, expected = layer.stream(rows, data.state), [part.copy() for part in data.state]
    new = [np.random.default_rng(0).standard_normal(part[:, chosen].shape).astype(dtype) for part in expected]
    for k in range(2):
        stream._engine.put_states(k, chosen, tuple(part[k] for part in new))
    for part, value in zip(expected, new, strict=True):
        part[:, chosen] = value
    assert_states_same(stream.state, tuple(expected))
    for k in range(2):
        got = tuple(np.full_like(part[k], np.nan) for part in new)
        stream._engine.get_states(k, chosen, got)
        assert_states_same(got, tuple(part[k] for part in new))
    assert_same_bits(stream.step(data.x[0]), layer.step(data.x[0], tuple(expected))[0])


# -------------------------------------------------------------------------------------------- state in a file


def wrong_files(layer):
    """Files that hold no state of a stream of two rows of a layer, and why."""
    kind, dtype = layer.kind, layer.dtype.name
    own, other, last = (
        {"kinds": [kind.name]},
        {"lstm": "rnn", "rnn": "lstm"}[kind.name],
        f"0.{kind.states[-1]}",
    )
    right = {f"0.{name}": np.ones((2, 2, 10), dtype) for name in kind.states}
    without = {name: part for name, part in right.items() if name != last}
    yield "LSTM", own, right, "expected a file of class StreamState, got 'LSTM'"
    yield "StreamState", {}, right, "arguments: expected exactly kinds; missing: kinds"
    yield "StreamState", own | {"a": 1}, right, "unexpected: a"
    for kinds in ([other], [], [kind.name, kind.name], kind.name, None, [[]]):
        yield "StreamState", {"kinds": kinds}, right, f"kinds: expected {kind.name}, got "
    yield "StreamState", own, without, f"tensors: expected exactly 0.h.*; missing: {last}"
    yield "StreamState", own, right | {"1.h": right["0.h"]}, "unexpected: 1.h"
    for shape in ((1, 2, 10), (2, 3, 10), (2, 2, 11), (2, 20), (2, 2, 10, 1), (2, 0, 10)):
        expected = rf"{last}: expected shape \(2, 2, 10\) and dtype {dtype}, got \({shape[0]}, "
        yield "StreamState", own, right | {last: np.ones(shape, dtype)}, expected
    wrong = right[last].astype(OTHER[dtype])
    yield "StreamState", own, right | {last: wrong}, f"{last}: expected shape .*, got .* and {OTHER[dtype]}"


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_state_comes_back_from_a_file_bit_for_bit(kind, implementation, dtype, batch_size, tmp_path):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=implementation)
    x = draw_inputs(layer, 6, batch_size or 1).x
    x = x if batch_size else x[:, 0]
    stream, path = layer.stream(batch_size), tmp_path / "state"
    step_all(stream, x[:3])
    stream.save_state(path)
    expected = stream.state, step_all(stream, x[3:])
    later = layer.stream(batch_size)
    step_all(later, x[:1])
    for given in (path, str(path)):
        assert later.load_state(given) is None
        assert_states_same(later.state, expected[0])
        assert_same_bits(step_all(later, x[3:]), expected[1])


def test_state_with_a_projection_and_nan_comes_back_from_a_file(implementation, dtype, tmp_path):
    layer = build_layer("lstm", 3, 10, 2, dtype=dtype, build=implementation, proj_size=4)
    stream = layer.stream(2, draw_inputs(layer, 1, 2).state)
    h, c = stream.state
    h[0, 1, 2], c[1, 0, 3:5] = np.nan, (np.inf, -0.0)
    stream.state = h, c
    stream.save_state(tmp_path / "a")
    later = layer.stream(2)
    later.load_state(tmp_path / "a")
    assert_states_same(later.state, (h, c))


def test_file_of_another_state_is_refused_and_changes_nothing(kind, backend, dtype, tmp_path):
    layer = LAYERS[kind](3, 10, 2, dtype=dtype, backend=backend, rng=0)
    stream = layer.stream(2)
    stream.step(np.ones((2, 3)))
    before, path = stream.state, tmp_path / "a"
    for class_name, arguments, tensors, reason in wrong_files(layer):
        files.write(path, class_name, arguments, tensors, "0.0.0")
        with pytest.raises(FileFormatError, match=f"^{re.escape(str(path))}: .*{reason}"):
            stream.load_state(path)
        assert_states_same(stream.state, before)
    stream.save_state(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FileFormatError, match="damaged"):
        stream.load_state(path)
    assert_states_same(stream.state, before)
    with pytest.raises(FileNotFoundError):
        stream.load_state(tmp_path / "missing")


def test_load_says_what_reads_the_state_of_a_stream(kind, tmp_path):
    LAYERS[kind](3, 10, rng=0).stream(2).save_state(tmp_path / "a")
    with pytest.raises(FileFormatError, match=r"got a StreamState of a stream; its method load_state "):
        clstm.load(tmp_path / "a")


# ----------------------------------------------------------------------------------- parameters and refresh


def test_stream_is_a_snapshot_until_refresh(kind, implementation, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=implementation)
    x = draw_inputs(layer, 4, 2).x
    expected, _ = layer(x[:2])
    stream = layer.stream(2)
    assert_same_bits(stream.step(x[0]), expected[0])
    layer.params["weight_hh_l0"][...] *= 0.5
    layer.params["weight_ih_l1"][...] += 0.25
    layer.params["bias_l1"][...] -= 0.125
    assert_same_bits(stream.step(x[1]), expected[1])
    state = stream.state
    stream.refresh()
    assert_states_same(stream.state, state)
    assert_same_bits(stream.step(x[2]), layer.step(x[2], state)[0])
    layer.load_state_dict(build_layer(kind, 3, 10, 2, dtype=dtype, seed=5).state_dict())
    state = stream.state
    stream.refresh()
    assert_same_bits(stream.step(x[3]), layer.step(x[3], state)[0])


def test_stream_without_a_bias(kind, implementation, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, bias=False, build=implementation)
    x = draw_inputs(layer, 4, 2).x
    assert_same_bits(step_all(layer.stream(2), x), np.stack([layer(x[: t + 1])[0][t] for t in range(4)]))


def test_dropout_does_not_concern_a_stream(kind, implementation):
    layer = build_layer(kind, 3, 10, 2, dropout=0.5, build=implementation)
    x = draw_inputs(layer, 4, 2).x
    first, second = (step_all(layer.stream(2), x) for _ in range(2))
    assert_same_bits(first, second)


def test_bidirectional_layer_is_refused_with_the_reason(kind, backend):
    layer = LAYERS[kind](3, 10, bidirectional=True, backend=backend, rng=0)
    message = f"stream: expected a unidirectional {kind.upper()}; the reverse direction needs the whole"
    with pytest.raises(ValueError, match="^" + message):
        layer.stream()


@pytest.mark.parametrize(
    ("batch_size", "error", "message"),
    [
        (0, ValueError, "batch_size: expected at least 1, got 0"),
        (-3, ValueError, "batch_size: expected at least 1, got -3"),
        (2.0, TypeError, r"batch_size: expected an integer, got 2\.0"),
        (True, TypeError, "batch_size: expected an integer, got True"),
        ("2", TypeError, "batch_size: expected an integer, got '2'"),
    ],
)
def test_wrong_batch_size_is_refused(kind, backend, batch_size, error, message):
    with pytest.raises(error, match="^" + message):
        LAYERS[kind](3, 10, backend=backend, rng=0).stream(batch_size)


@pytest.mark.parametrize("batch_size", [2**40, 2**62, 2**70])
def test_impossible_batch_size_is_an_ordinary_exception(kind, backend, batch_size):
    layer = LAYERS[kind](3, 64, backend=backend, rng=0)
    with pytest.raises((MemoryError, ValueError, OverflowError)):
        layer.stream(batch_size)


# ------------------------------------------------------------------------------------------------- lifetime


def test_stream_outlives_its_lstm_and_needs_only_the_parameters(kind, implementation):
    layer = build_layer(kind, 3, 10, build=implementation)
    x = draw_inputs(layer, 4, 2).x
    expected, _ = layer(x)
    stream = layer.stream(2)
    del layer
    gc.collect()
    assert_same_bits(step_all(stream, x), expected)
    stream.refresh()


def test_streams_are_freed(kind, build):
    layer = build_layer(kind, 3, 70, 3, build=build)
    x = np.ones((8, 3))
    expected = layer.stream(8).step(x)
    for _ in range(300):
        assert layer.stream(8).step(x).tobytes() == expected.tobytes()
    stream = layer.stream(8)
    engine = weakref.ref(stream)
    del stream
    gc.collect()
    assert engine() is None


DUPLICATES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda stream: pickle.loads(pickle.dumps(stream)),
}


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_copy_of_a_stream_goes_on_where_it_was_on_its_own(kind, backend, dtype, batch_size, duplicate):
    layer = LAYERS[kind](3, 10, 2, backend=backend, dtype=dtype, rng=0)
    data = draw_inputs(layer, 5, batch_size or 1)
    x, parts = data.x, as_tuple(data.state)
    if batch_size is None:
        x, parts = x[:, 0], [part[:, 0] for part in parts]
    stream = layer.stream(batch_size, like(data.state, parts))
    expected = step_all(layer.stream(batch_size, like(data.state, parts)), x)
    step_all(stream, x[:2])
    before = stream.state
    layer.flat_params[...] *= 2  # the snapshot of the weights is copied, too
    other = duplicate(stream)
    assert_same_bits(step_all(other, x[2:]), expected[2:])
    assert_states_same(stream.state, before)
    assert_same_bits(step_all(stream, x[2:]), expected[2:])
    other.reset()
    assert_states_same(other.state, like(data.state, [np.zeros_like(part) for part in parts]))


# ------------------------------------------------------------------------------------ what a stream stands on


def stream_of(implementation):
    return reference.Stream if implementation == "reference" else load_build(implementation).Stream


def engine_of(implementation, case, axes, *, packed=True):
    """Make what a stream over the cell of a case stands on."""
    return stream_of(implementation)([case.cell], case.x.shape[1], axes, packed)


def test_engine_is_never_copied_or_made_without_memory(kind, build):
    """A copy of its pointers would be freed twice."""
    engine = build_layer(kind, 3, 10, build=build).stream()._engine
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(engine)
    with pytest.raises(TypeError):
        type(engine).__new__(type(engine))
    with pytest.raises(TypeError):
        type(engine)(1, 1, "f", True)


def test_engine_refuses_cells_of_another_type_or_kind(kind, build, dtype):
    Stream, cell = load_build(build).Stream, make_case(1, 1, 10, 10, dtype, kind=kind).cell
    other = OTHER[dtype]
    for wrong in (
        cell._replace(bias=cell.bias.astype(other)),
        cell._replace(W_h=cell.W_h.astype(other)),
        cell._replace(bias=cell.bias[None]),
        cell.astype("longdouble"),
        cell._replace(kind=cell.kind._replace(name="gru")),
    ):
        for given in ([wrong], [cell, wrong], [wrong, cell]):
            with pytest.raises((TypeError, ValueError, KeyError)):
                Stream(given, 1, "f", True)
    with pytest.raises((TypeError, ValueError)):
        Stream([cell, cell.astype(other)], 1, "f", True)
    assert Stream([cell, cell], 1, "f", True).try_step(np.zeros(10, dtype), None) is not None


@pytest.mark.parametrize("packed", [False, True], ids=["as they lie", "packed"])
@pytest.mark.parametrize("axes", ["f", "bf"])
@pytest.mark.parametrize("sizes", [(1, 7), (9, 9), (3, 130)], ids="I{0[0]}-H{0[1]}".format)
def test_engine_steps_as_forward_on_all_axes(kind, implementation, dtype, sizes, axes, packed):
    I, H = sizes  # noqa: E741
    case = make_case(4, 3 if axes == "bf" else 1, I, H, dtype, kind=kind)
    rows = case.x.shape[1]
    engine = engine_of(implementation, case, axes, packed=packed)
    engine.put_states(0, np.arange(rows), case.state("{}_0"))
    expected = run_forward(functions_of(implementation, dtype), case)
    shape = {"f": (-1,), "bf": (rows, -1)}[axes]
    for x_t, y_t in zip(case.x, expected["y"], strict=True):
        out = np.full_like(y_t, np.nan).reshape(shape)
        assert engine.try_step(x_t.reshape(shape), out) is out
        assert_same_bits(out, y_t.reshape(shape))
    parts = tuple(np.full((rows, H), np.nan, dtype) for _ in case.kind.states)
    engine.get_states(0, np.arange(rows), parts)
    for name, part in zip(case.kind.states, parts, strict=True):
        assert_same_bits(part, expected[f"{name}_n"], name)


def test_engine_that_is_not_packed_reads_the_weights_where_they_lie(kind, implementation, dtype):
    case = make_case(1, 1, 3, 10, dtype, kind=kind)
    weights = case.cell.astype(dtype)
    Stream = stream_of(implementation)
    packed, live = Stream([weights], 1, "f", True), Stream([weights], 1, "f", False)
    results, x = {}, case.x[0, 0]
    for name, scale, pack in (("first", 1, False), ("changed", 0.5, False), ("packed", 1, True)):
        weights.bias[...] *= scale
        if pack:
            packed.pack()
        for engine in (packed, live):
            engine.put_states(0, np.zeros(1, np.intp), case.state("{}_0"))
            results[name, engine] = np.full(10, np.nan, dtype)
            assert engine.try_step(x, results[name, engine]) is not None
    assert_same_bits(results["first", packed], results["first", live])
    assert_same_bits(results["changed", packed], results["first", packed])
    assert (results["changed", live] != results["first", live]).all()
    assert_same_bits(results["packed", packed], results["changed", live])


# -------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("H", [16, 200], ids=["short steps", "long steps"])
def test_steps_from_two_threads_work_or_raise(kind, dtype, H):
    layer = build_layer(kind, 5, H, 2, dtype=dtype)
    stream, x, problems, done = layer.stream(8), np.ones((8, 5), dtype), [], []

    def work():
        out = np.empty((8, H), dtype)
        for _ in range(200):
            try:
                stream.step(x, out)
            except RuntimeError as error:
                if str(error) != "stream: expected one thread at a time, got a step during another one":
                    problems.append(error)
            else:
                done.append(np.isfinite(out).all() and (np.abs(out) <= 1).all())

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems
    assert done
    assert all(done)
    # As many steps as were not refused have been taken.
    again = layer.stream(8)
    for _ in done:
        again.step(x)
    assert_states_same(stream.state, again.state)


def test_streams_of_many_threads_have_the_bits_of_one(kind, dtype):
    layer = build_layer(kind, 5, 120, dtype=dtype)
    x = draw_inputs(layer, 30, 8).x
    expected, _ = layer(x)
    results = {}

    def work(n):
        results[n] = step_all(layer.stream(8), x)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for n in range(4):
        assert_same_bits(results[n], expected)


def test_state_may_be_set_from_read_only_arrays(kind, implementation, dtype):
    layer = build_layer(kind, 3, 10, dtype=dtype, build=implementation)
    data = draw_inputs(layer, 1, 2)
    stream = layer.stream(2)
    stream.state = like(data.state, [read_only(part) for part in as_tuple(data.state)])
    assert_states_same(stream.state, data.state)
