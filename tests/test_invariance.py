"""The same bits: in any batch, in one call, in chunks, step by step or streamed, on any number of threads.

The promise holds for each kernel build by itself; between builds, and for the definition, there are the
tolerances.
"""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from conftest import (
    BACKWARD_RESULTS,
    BUILDS,
    DTYPES,
    FORWARD_RESULTS,
    assert_results_close,
    assert_same_bits,
    build_lstm,
    build_lstm_on,
    draw_inputs,
    functions_of,
    make_case,
    run,
    run_forward,
    threads,
)
from hypothesis import given
from hypothesis import strategies as st

THREADS = (2, 3, 5)
# T, B, I, H on both sides of every choice that the kernels make by size: packed or not, rows or units shared
# among threads.
SHARED = {
    "rows": ((32, 64, 24, 16), None),
    "ragged rows": ((40, 90, 24, 16), "ragged"),
    "rows in several chunks": ((7, 50, 7, 64), "ragged"),
    "units of one row": ((12, 1, 20, 300), None),
    "units of some rows": ((9, 3, 20, 300), "ragged"),
    "units of many rows": ((8, 9, 5, 272), "ragged"),
}


@cache
def shared_case(name, dtype, reverse):
    sizes, lengths = SHARED[name]
    return make_case(*sizes, dtype, reverse=reverse, lengths=lengths)


def rows_of(case, rows):
    """Select rows of a case, cut to the longest of them."""
    rows = np.asarray(rows, np.intp)
    T = case.lengths[rows].max(initial=0)
    sequences = {name: getattr(case, name)[:T, rows] for name in ("x", "dy")}
    return replace(
        case,
        **sequences,
        **{name: getattr(case, name)[rows] for name in ("h_0", "c_0", "lengths", "dh_n", "dc_n")},
    )


def assert_rows_same(functions, case, rows, whole):
    """Compare a forward pass over some rows with the same rows of the whole one."""
    part = rows_of(case, rows)
    got = run_forward(functions, part, tape=False)
    assert_same_bits(got["y"], whole["y"][: len(part.x), rows], f"y of rows {rows}")
    for name in ("h_n", "c_n"):
        assert_same_bits(got[name], whole[name][rows], f"{name} of rows {rows}")


# ------------------------------------------------------------------------------------ the batch a row is in


@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    T=st.integers(1, 7),
    B=st.integers(1, 17),
    I=st.integers(1, 9),
    H=st.sampled_from([1, 3, 8, 15, 16, 17, 33, 70]),
    reverse=st.booleans(),
    data=st.data(),
)
def test_row_has_the_same_bits_in_any_batch(build, dtype, T, B, I, H, reverse, data):  # noqa: E741
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    rows = data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=2 * B))
    case = make_case(T, B, I, H, dtype, reverse=reverse, lengths=lengths)
    functions = functions_of(build, dtype)
    assert_rows_same(functions, case, rows, run_forward(functions, case))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", SHARED)
def test_each_row_alone_has_the_bits_of_the_batch(build, dtype, name, reverse):
    case, functions = shared_case(name, dtype, reverse), functions_of(build, dtype)
    whole = run_forward(functions, case)
    _, B, _, _ = case.sizes
    for row in range(0, B, 1 + B // 8):
        assert_rows_same(functions, case, [row], whole)
    assert_rows_same(functions, case, np.random.default_rng(0).permutation(B), whole)


# --------------------------------------------------------------- one call, chunks, steps, streams, training


@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    B=st.integers(1, 9),
    I=st.integers(1, 9),
    H=st.sampled_from([1, 5, 8, 16, 19, 33, 70]),
    num_layers=st.integers(1, 3),
    chunks=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["call", "forward", "trace", "step", "stream"])),
        max_size=6,
    ),
)
def test_one_call_has_the_bits_of_any_chunks(build, dtype, B, I, H, num_layers, chunks):  # noqa: E741
    lstm = build_lstm_on(build, I, H, num_layers, dtype=dtype)
    data = draw_inputs(lstm, sum(steps for steps, _ in chunks), B)
    y, expected = lstm(data.x, data.state)
    state, stream, t = data.state, lstm.stream(B), 0
    for steps, way in chunks:
        x, t = data.x[t : t + steps], t + steps
        if way in ("call", "forward"):
            got, state = (lstm if way == "call" else lstm.forward)(x, state)
        elif way == "trace":
            trace = lstm.trace(x, state)
            got = trace.h[-1]
            if steps:
                state = (trace.h[:, -1], trace.c[:, -1])
        else:
            got = np.empty((steps, B, H), dtype)
            stream.state = state
            for x_t, h_t in zip(x, got, strict=True):
                if way == "step":
                    h_t[...], state = lstm.step(x_t, state)
                else:
                    stream.step(x_t, out=h_t)
            if way == "stream":
                state = stream.state
        assert_same_bits(got, y[t - steps : t], way)
    for value, wanted in zip(state, expected, strict=True):
        assert_same_bits(value, wanted, "state")


@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    T=st.integers(1, 8),
    B=st.integers(1, 9),
    H=st.sampled_from([1, 8, 19, 33]),
    data=st.data(),
)
def test_chunks_of_unequal_rows_have_the_bits_of_one_call(build, dtype, T, B, H, data):
    lengths = np.array(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    cuts = sorted({0, T, *data.draw(st.lists(st.integers(0, T), max_size=4))})
    lstm = build_lstm_on(build, 3, H, 2, dtype=dtype)
    inputs = draw_inputs(lstm, T, B)
    y, expected = lstm(inputs.x, inputs.state, lengths)
    state = inputs.state
    for start, end in pairwise(cuts):
        got, state = lstm(inputs.x[start:end], state, np.clip(lengths - start, 0, end - start))
        assert_same_bits(got, y[start:end])
    for value, wanted in zip(state, expected, strict=True):
        assert_same_bits(value, wanted, "state")


@pytest.mark.parametrize("H", [1, 16, 33, 130])
def test_sequence_without_a_batch_has_the_bits_of_a_batch_of_one(build, dtype, H):
    lstm = build_lstm_on(build, 4, H, 2, dtype=dtype)
    x = draw_inputs(lstm, 6, 3).x
    y, (h_n, c_n) = lstm(x)
    for row in range(3):
        alone, state = lstm(x[:, row])
        assert_same_bits(alone, y[:, row])
        stream, stepped = lstm.stream(), None
        for t, x_t in enumerate(x[:, row]):
            assert_same_bits(stream.step(x_t), y[t, row], "stream")
            h_t, stepped = lstm.step(x_t, stepped)
            assert_same_bits(h_t, y[t, row], "step")
        for got in (state, stepped, stream.state):
            assert_same_bits(got[0], h_n[:, row], "h_n")
            assert_same_bits(got[1], c_n[:, row], "c_n")


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "bidirectional"])
@pytest.mark.parametrize("B", [1, 5, 23])
def test_forward_has_the_bits_of_inference(build, dtype, B, bidirectional):
    lstm = build_lstm_on(build, 6, 19, 2, dtype=dtype, bidirectional=bidirectional)
    data = draw_inputs(lstm, 9, B, ragged=True)
    inference, training = (method(data.x, data.state, data.lengths) for method in (lstm, lstm.forward))
    assert_same_bits(training[0], inference[0])
    for n in range(2):
        assert_same_bits(training[1][n], inference[1][n])


def test_memory_layout_of_the_input_changes_no_bit(build, dtype):
    lstm = build_lstm_on(build, 6, 19, dtype=dtype)
    x = draw_inputs(lstm, 5, 7).x
    expected, _ = lstm(x)
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    shifted[...] = x
    layouts = (
        np.asfortranarray(x),
        x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        np.repeat(x, 2, axis=2)[..., ::2],
        shifted,
    )
    for value in layouts:
        assert_same_bits(lstm(value)[0], expected)


# ------------------------------------------------------------------------------------ the number of threads


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", SHARED)
def test_results_and_gradients_have_the_same_bits_on_any_number_of_threads(build, dtype, name, reverse):
    case, functions = shared_case(name, dtype, reverse), functions_of(build, dtype)
    with threads(1, build):
        expected = run(functions, case)
    for n in THREADS:
        with threads(n, build):
            got = run(functions, case)
        for result, value in expected.items():
            assert_same_bits(got[result], value, f"{result} on {n} threads")


@pytest.mark.parametrize("name", ["ragged rows", "units of some rows"])
def test_threads_that_crowd_the_processors_change_no_bit(dtype, name):
    """With far more threads than processors, calls go on with fewer of them in their middle."""
    case, functions = shared_case(name, dtype, False), functions_of(BUILDS[0], dtype)
    with threads(1):
        expected = run(functions, case)
    for n in (2, 64, 7, 13, 64, 2):
        with threads(n):
            got = run(functions, case)
        for result in (*FORWARD_RESULTS, *BACKWARD_RESULTS):
            assert_same_bits(got[result], expected[result], f"{result} on {n} threads")


@pytest.mark.parametrize("sizes", [(30, 40, 24, 16), (8, 2, 20, 150)], ids=["rows", "units"])
def test_gradients_of_a_whole_stack_have_the_same_bits_from_run_to_run(dtype, sizes):
    T, B, I, H = sizes  # noqa: E741
    lstm = build_lstm(I, H, 2, dtype=dtype, bidirectional=True)
    data = draw_inputs(lstm, T, B, ragged=True)
    results = []
    for n in (1, 2, 2, 3, 5, 1):
        with threads(n):
            y, state = lstm.forward(data.x, data.state, data.lengths)
            dx, dstate = lstm.backward(data.dy, data.dstate)
        results.append((y, *state, dx, *dstate, lstm.flat_grads.copy()))
    for got in results[1:]:
        for value, expected in zip(got, results[0], strict=True):
            assert_same_bits(value, expected)


@pytest.mark.parametrize("name", ["ragged rows", "units of many rows"])
def test_builds_agree_within_the_tolerance_on_several_threads(dtype, name):
    case = shared_case(name, dtype, False)
    with threads(1, "baseline"):
        expected = run(functions_of("baseline", "float64"), case.astype("float64"))
    for build in BUILDS:
        with threads(2, build):
            assert_results_close(run(functions_of(build, dtype), case), expected)
