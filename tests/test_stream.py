"""`LSTM.stream`: bits, state, reset, refresh, what it accepts and refuses, memory and threads."""

import array
import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from conftest import BUILDS, assert_same_bits, build_lstm, build_lstm_on, draw_inputs, load_build

import clstm

OTHER = {"float32": "float64", "float64": "float32"}


def step_all(stream, x):
    return np.stack([stream.step(x_t) for x_t in x])


def assert_states_same(got, expected):
    assert_same_bits(got[0], expected[0], "h")
    assert_same_bits(got[1], expected[1], "c")


# ----------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("num_layers", [1, 2, 5])
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1), (1, 3, 9), (2, 1, 17), (7, 5, 16), (13, 20, 33), (3, 2, 130)],
    ids="B{0[0]}-I{0[1]}-H{0[2]}".format,
)
def test_stream_has_the_bits_of_the_whole_sequence(build, dtype, sizes, num_layers):
    B, I, H = sizes  # noqa: E741
    lstm = build_lstm_on(build, I, H, num_layers, dtype=dtype)
    data = draw_inputs(lstm, 6, B)
    expected, end = lstm(data.x, data.state)
    stream = lstm.stream(B, data.state)
    assert_states_same(stream.state, data.state)
    assert_same_bits(step_all(stream, data.x), expected)
    assert_states_same(stream.state, end)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_stream_of_one_row_has_no_axis_of_rows(twin, dtype, num_layers):
    lstm = build_lstm_on(twin, 3, 10, num_layers, dtype=dtype)
    data = draw_inputs(lstm, 6, 1)
    x, state = data.x[:, 0], tuple(value[:, 0] for value in data.state)
    expected, end = lstm(x, state)
    stream = lstm.stream(state=state)
    got = step_all(stream, x)
    assert got.shape == (6, 10)
    assert_same_bits(got, expected)
    assert_states_same(stream.state, end)


def test_stream_of_the_definition_is_step_after_step(dtype):
    lstm = build_lstm_on("reference", 3, 10, 2, dtype=dtype)
    x = draw_inputs(lstm, 5, 4).x
    stream, state = lstm.stream(4), None
    for x_t in x:
        h_t, state = lstm.step(x_t, state)
        assert_same_bits(stream.step(x_t), h_t)
        assert_states_same(stream.state, state)


def test_streams_of_one_object_do_not_disturb_each_other(build, dtype):
    lstm = build_lstm_on(build, 3, 10, 2, dtype=dtype)
    x = draw_inputs(lstm, 5, 2).x
    expected, _ = lstm(x)
    streams = [lstm.stream() for _ in range(2)]
    for x_t, y_t in zip(x, expected, strict=True):
        for row, stream in enumerate(streams):
            assert_same_bits(stream.step(x_t[row]), y_t[row])


def test_stream_changes_nothing_in_the_lstm(twin):
    lstm = build_lstm_on(twin, 3, 10)
    x = draw_inputs(lstm, 3, 2).x
    y, _ = lstm.forward(x)
    expected, _ = lstm.backward(y)
    params = lstm.flat_params.copy()
    x_before = x.copy()
    step_all(lstm.stream(2), x)
    assert_same_bits(x, x_before)
    assert_same_bits(lstm.flat_params, params)
    assert_same_bits(lstm.backward(y)[0], expected)


def test_nan_stays_in_its_own_row(twin, dtype):
    lstm = build_lstm_on(twin, 3, 19, 2, dtype=dtype)
    x = draw_inputs(lstm, 4, 11).x
    expected = step_all(lstm.stream(11), x)
    for row in range(11):
        poisoned = x.copy()
        poisoned[1, row, 2] = np.nan
        stream, others = lstm.stream(11), np.arange(11) != row
        got = step_all(stream, poisoned)
        assert_same_bits(got[:, others], expected[:, others])
        assert_same_bits(got[0], expected[0])
        assert np.isnan(got[1:, row]).all()
        stream.reset(row)
        assert_same_bits(stream.step(x[0])[row], expected[0, row])


# ------------------------------------------------------------------------------------------------- out, x_t


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_out_is_what_is_returned(twin, dtype, batch_size):
    lstm = build_lstm_on(twin, 3, 10, 2, dtype=dtype)
    x = draw_inputs(lstm, 3, batch_size or 1).x
    x = x if batch_size else x[:, 0]
    expected = step_all(lstm.stream(batch_size), x)
    stream, out = lstm.stream(batch_size), np.full_like(expected[0], np.nan)
    for x_t, y_t in zip(x, expected, strict=True):
        assert stream.step(x_t, out=out) is out
        assert_same_bits(out, y_t)
    first, second = stream.step(x[0]), stream.step(x[0])
    assert first is not out
    assert not np.shares_memory(first, second)
    assert_same_bits(out, expected[-1])


def test_out_may_be_part_of_a_larger_array(twin, dtype):
    lstm = build_lstm_on(twin, 3, 10, dtype=dtype)
    x = draw_inputs(lstm, 5, 4).x
    y = np.full((7, 4, 10), np.nan, dtype)
    stream = lstm.stream(4)
    for x_t, y_t in zip(x, y[1:], strict=False):
        stream.step(x_t, y_t)
    assert_same_bits(y[1:6], lstm(x)[0])
    assert np.isnan(y[[0, 6]]).all()


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_output_may_overwrite_the_input(twin, dtype, batch_size, num_layers):
    lstm = build_lstm_on(twin, 10, 10, num_layers, dtype=dtype)
    x = draw_inputs(lstm, 1, batch_size or 1).x[0]
    value = x.copy() if batch_size else x[0].copy()
    fed_back, apart = lstm.stream(batch_size), lstm.stream(batch_size)
    expected = value.copy()
    for _ in range(4):
        expected = apart.step(expected)
        assert fed_back.step(value, out=value) is value
        assert_same_bits(value, expected)


def test_output_may_overlap_the_input(twin, dtype):
    lstm = build_lstm_on(twin, 10, 10, dtype=dtype)
    x = draw_inputs(lstm, 1, 5).x[0]
    expected = lstm.stream(5).step(x)
    for shift in (0, 1, 13):
        memory = np.zeros(200, dtype)
        x_t, out = memory[20:70].reshape(5, 10), memory[20 + shift : 70 + shift].reshape(5, 10)
        x_t[...] = x
        assert_same_bits(lstm.stream(5).step(x_t, out), expected)


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
def test_input_is_converted(twin, dtype, name):
    lstm = build_lstm_on(twin, 3, 10, dtype=dtype)
    x = np.array([[1, 0, 2], [3, 1, 0]], dtype)
    given = ACCEPTED[name](x)
    before = pickle.dumps(given) if name != "memoryview" else None
    expected = lstm.stream(2).step(np.ascontiguousarray(np.asarray(given), dtype))
    stream = lstm.stream(2)
    assert_same_bits(stream.step(given), expected)
    assert before is None or pickle.dumps(given) == before


def test_input_of_one_row_is_converted(twin, dtype):
    lstm = build_lstm_on(twin, 3, 10, dtype=dtype)
    expected = lstm.stream().step(np.array([1, 0, 2], dtype))
    for given in (
        [1, 0, 2],
        (1.0, 0.0, 2.0),
        range(0),
        array.array("d", [1, 0, 2]),
        array.array("f", [1, 0, 2]),
    ):
        if len(given) == 3:
            assert_same_bits(lstm.stream().step(given), expected)


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
def test_wrong_arguments_are_refused_and_change_nothing(twin, dtype, argument, error, message, value):
    lstm = build_lstm_on(twin, 3, 10, 2, dtype=dtype)
    data = draw_inputs(lstm, 2, 2)
    stream = lstm.stream(2, data.state)
    stream.step(data.x[0])
    before, expected = stream.state, lstm(data.x, data.state)[0][1]
    out = value(dtype) if argument == "out" else np.full((2, 10), 7, dtype)
    out_before = np.array(out)
    with pytest.raises(error, match="^" + message):
        stream.step(value if argument == "x" else data.x[1], out)
    assert_states_same(stream.state, before)
    assert_same_bits(np.array(out), out_before)
    assert_same_bits(stream.step(data.x[1]), expected)


def test_value_beyond_float32_is_refused(twin):
    stream = build_lstm_on(twin, 3, 10, dtype="float32").stream()
    with pytest.raises(ValueError, match=r"^x_t: expected values that float32 can hold"):
        stream.step(np.array([1.0, 1e300, 0.0]))
    assert (stream.state[0] == 0).all()


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
def test_fast_path_declines_what_it_does_not_know(twin, dtype, value):
    """It returns False without an exception; nothing is written."""
    lstm = build_lstm_on(twin, 3, 10, dtype=dtype)
    stream = lstm.stream()
    x, out = np.zeros(3, dtype), np.full(10, 7, dtype)
    assert stream._engine.try_step(value, out) is False
    assert stream._engine.try_step(x, value) is False
    assert (out == 7).all()
    assert (stream.state[0] == 0).all()
    assert stream._engine.try_step(x, out) is True


@pytest.mark.parametrize("size", [0, 2, 4])
def test_fast_path_declines_other_sizes(twin, dtype, size):
    stream = build_lstm_on(twin, 3, 10, dtype=dtype).stream(2)
    out = np.empty((2, 10), dtype)
    for shape in ((2, size), (size, 3), (2, 3, size), (size,), (6,), ()):
        if shape != (2, 3):
            assert stream._engine.try_step(np.zeros(shape, dtype), out) is False
    for shape in ((2, 9), (1, 10), (20,), ()):
        assert stream._engine.try_step(np.zeros((2, 3), dtype), np.zeros(shape, dtype)) is False


# ------------------------------------------------------------------------------------------ state and reset


def test_state_is_a_copy(twin, dtype):
    lstm = build_lstm_on(twin, 3, 10, 2, dtype=dtype)
    stream = lstm.stream(2)
    stream.step(np.ones((2, 3)))
    first = stream.state
    for value in first:
        assert value.shape == (2, 2, 10)
        assert value.dtype == dtype
    kept = [value.copy() for value in first]
    for value in first:
        value[...] = 7
    assert_states_same(stream.state, kept)
    stream.step(np.ones((2, 3)))
    assert (first[0] == 7).all()


def test_states_that_were_given_are_copied(twin, dtype):
    lstm = build_lstm_on(twin, 3, 10, 2, dtype=dtype)
    given = draw_inputs(lstm, 1, 2).state
    kept = [value.copy() for value in given]
    stream = lstm.stream(2, given)
    stream.step(np.ones((2, 3)))
    assert_states_same(given, kept)
    for value in given:
        value[...] = 7
    stream.reset()
    assert_states_same(stream.state, kept)
    stream.state = given
    for value in given:
        value[...] = 5
    assert (stream.state[0] == 7).all()


def test_state_may_be_set_from_lists(twin, dtype):
    lstm = build_lstm_on(twin, 3, 2, dtype=dtype)
    stream = lstm.stream()
    stream.state = ([[0.25, 0.5]], [[1, 2]])
    assert_states_same(stream.state, (np.array([[0.25, 0.5]], dtype), np.array([[1, 2]], dtype)))
    stream.state = None
    assert_states_same(stream.state, (np.zeros((1, 2), dtype), np.zeros((1, 2), dtype)))


WRONG_STATES = [
    (np.zeros((2, 3, 10)), r"state: expected a pair \(h, c\), got array of shape"),
    ((np.zeros((2, 3, 10)),), r"state: expected a pair \(h, c\)"),
    (
        (np.zeros((2, 3, 10)), np.zeros((2, 3, 9))),
        r"state\[1\]: expected shape \(2, 3, 10\), got \(2, 3, 9\)",
    ),
    ((np.zeros((3, 10)), np.zeros((2, 3, 10))), r"state\[0\]: expected shape \(2, 3, 10\), got \(3, 10\)"),
    ((np.zeros((2, 3, 10)), None), r"state\[1\]: expected real numbers, got dtype object"),
    (
        (np.zeros((2, 3, 10), complex), np.zeros((2, 3, 10))),
        r"state\[0\]: expected real numbers, got dtype complex128",
    ),
]


@pytest.mark.parametrize(("state", "message"), WRONG_STATES)
def test_wrong_states_are_refused_and_change_nothing(twin, state, message):
    lstm = build_lstm_on(twin, 3, 10, 2)
    with pytest.raises((TypeError, ValueError), match="^" + message):
        lstm.stream(3, state)
    stream = lstm.stream(3)
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
def test_reset_goes_back_to_the_beginning(twin, dtype, name):
    rows, expected_rows = RESET[name]
    lstm = build_lstm_on(twin, 3, 10, 2, dtype=dtype)
    data = draw_inputs(lstm, 4, 4)
    stream = lstm.stream(4, data.state)
    step_all(stream, data.x[:3])
    expected = [value.copy() for value in stream.state]
    for value, first in zip(expected, data.state, strict=True):
        value[:, expected_rows] = first[:, expected_rows]
    assert stream.reset(rows) is None
    assert_states_same(stream.state, expected)
    assert_same_bits(stream.step(data.x[3]), lstm.step(data.x[3], tuple(expected))[0])


def test_reset_of_a_stream_of_one_row(twin):
    lstm = build_lstm_on(twin, 3, 10)
    stream = lstm.stream()
    for rows in (None, 0, [0], [True], -1):
        stream.step(np.ones(3))
        stream.reset(rows)
        assert (stream.state[0] == 0).all()


def test_state_that_is_set_is_not_what_reset_goes_back_to(twin):
    lstm = build_lstm_on(twin, 3, 10)
    stream = lstm.stream()
    stream.state = (np.ones((1, 10)), np.ones((1, 10)))
    stream.reset()
    assert (stream.state[0] == 0).all()


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
def test_rows_that_are_none_are_refused_and_nothing_is_reset(twin, rows):
    stream = build_lstm_on(twin, 3, 10).stream(4)
    stream.step(np.ones((4, 3)))
    before = stream.state
    with pytest.raises(IndexError, match=r"^rows: expected indices or a mask of 4 rows, got "):
        stream.reset(rows)
    assert_states_same(stream.state, before)


# ----------------------------------------------------------------------------------- parameters and refresh


def test_stream_is_a_snapshot_until_refresh(twin, dtype):
    lstm = build_lstm_on(twin, 3, 10, 2, dtype=dtype)
    x = draw_inputs(lstm, 4, 2).x
    expected, _ = lstm(x[:2])
    stream = lstm.stream(2)
    assert_same_bits(stream.step(x[0]), expected[0])
    lstm.params["weight_hh_l0"][...] *= 0.5
    lstm.params["weight_ih_l1"][...] += 0.25
    lstm.params["bias_l1"][...] -= 0.125
    assert_same_bits(stream.step(x[1]), expected[1])
    state = stream.state
    stream.refresh()
    assert_states_same(stream.state, state)
    assert_same_bits(stream.step(x[2]), lstm.step(x[2], state)[0])
    lstm.load_state_dict(build_lstm(3, 10, 2, dtype=dtype, seed=5).state_dict())
    state = stream.state
    stream.refresh()
    assert_same_bits(stream.step(x[3]), lstm.step(x[3], state)[0])


def test_stream_without_a_bias(twin, dtype):
    lstm = build_lstm_on(twin, 3, 10, 2, dtype=dtype, bias=False)
    x = draw_inputs(lstm, 4, 2).x
    assert_same_bits(step_all(lstm.stream(2), x), np.stack([lstm(x[: t + 1])[0][t] for t in range(4)]))


def test_dropout_does_not_concern_a_stream(twin):
    lstm = build_lstm_on(twin, 3, 10, 2, dropout=0.5)
    x = draw_inputs(lstm, 4, 2).x
    first, second = (step_all(lstm.stream(2), x) for _ in range(2))
    assert_same_bits(first, second)


def test_bidirectional_layer_is_refused_with_the_reason(backend):
    lstm = clstm.LSTM(3, 10, bidirectional=True, backend=backend, rng=0)
    with pytest.raises(
        ValueError, match=r"^stream: expected a unidirectional LSTM; the reverse direction needs the whole"
    ):
        lstm.stream()


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
def test_wrong_batch_size_is_refused(backend, batch_size, error, message):
    with pytest.raises(error, match="^" + message):
        clstm.LSTM(3, 10, backend=backend, rng=0).stream(batch_size)


@pytest.mark.parametrize("batch_size", [2**40, 2**62, 2**70])
def test_impossible_batch_size_is_an_ordinary_exception(backend, batch_size):
    lstm = clstm.LSTM(3, 64, backend=backend, rng=0)
    with pytest.raises((MemoryError, ValueError, OverflowError)):
        lstm.stream(batch_size)


# ------------------------------------------------------------------------------------------------- lifetime


def test_stream_outlives_its_lstm_and_needs_only_the_parameters(twin):
    lstm = build_lstm_on(twin, 3, 10)
    x = draw_inputs(lstm, 4, 2).x
    expected, _ = lstm(x)
    stream = lstm.stream(2)
    del lstm
    gc.collect()
    assert_same_bits(step_all(stream, x), expected)
    stream.refresh()


def test_streams_are_freed(build):
    lstm = build_lstm_on(build, 3, 70, 3)
    x = np.ones((8, 3))
    expected = lstm.stream(8).step(x)
    for _ in range(300):
        assert lstm.stream(8).step(x).tobytes() == expected.tobytes()
    stream = lstm.stream(8)
    engine = weakref.ref(stream)
    del stream
    gc.collect()
    assert engine() is None


def test_engine_is_never_copied_or_made_without_memory(build):
    """A copy of its pointers would be freed twice."""
    engine = build_lstm_on(build, 3, 10).stream()._engine
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(engine)
    with pytest.raises(TypeError):
        type(engine).__new__(type(engine))
    with pytest.raises(TypeError):
        type(engine)(1, 1, 3, "10", True, False)


def test_engine_refuses_weights_of_another_type(build, dtype):
    lstm = build_lstm_on(build, 3, 10, dtype=dtype)
    stream = lstm.stream()
    expected = stream.step(np.ones(3))
    stream.reset()
    W_x, W_h, bias = lstm._cells[0]
    other = OTHER[dtype]
    for wrong in ((W_x.astype(other), W_h, bias), (W_x, W_h, bias.astype(other)), (W_x, W_h, bias[None])):
        with pytest.raises((TypeError, ValueError)):
            stream._engine.pack(0, *wrong)
    assert_same_bits(stream.step(np.ones(3)), expected)


def test_every_build_has_the_engine_that_the_definition_describes():
    expected = {name for name in vars(clstm.reference.Stream) if not name.startswith("_")}
    for build in BUILDS:
        assert expected == {name for name in vars(load_build(build).Stream) if not name.startswith("_")}


# -------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("H", [16, 200], ids=["short steps", "long steps"])
def test_steps_from_two_threads_work_or_raise(dtype, H):
    lstm = build_lstm(5, H, 2, dtype=dtype)
    stream, x, problems, done = lstm.stream(8), np.ones((8, 5), dtype), [], []

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
    again = lstm.stream(8)
    for _ in done:
        again.step(x)
    assert_states_same(stream.state, again.state)


def test_streams_of_many_threads_have_the_bits_of_one(dtype):
    lstm = build_lstm(5, 120, dtype=dtype)
    x = draw_inputs(lstm, 30, 8).x
    expected, _ = lstm(x)
    results = {}

    def work(n):
        results[n] = step_all(lstm.stream(8), x)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for n in range(4):
        assert_same_bits(results[n], expected)
