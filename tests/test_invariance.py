"""The same bits: in any batch, in one call, in chunks, step by step or streamed, on any number of threads.

The promise holds for each kind of cell and each kernel build by itself; between builds, and for the
definition, there are the tolerances.
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
    KINDS,
    TOGETHER,
    any_options,
    as_arguments,
    as_tuple,
    assert_results_close,
    assert_same_bits,
    build_layer,
    case_of_any_options,
    draw_inputs,
    functions_of,
    make_case,
    run,
    run_forward,
    threads,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clstm import cells

THREADS = (2, 3, 5)
EACH_KIND = pytest.mark.parametrize("kind", KINDS)  # for hypothesis, which is given no fixture
# T, B, I, H on both sides of every choice that the kernels make by size: packed or not, rows or units shared
# among threads.  All are large enough for threads; a kind with fewer gates needs more units.
SHARED = {
    "lstm": {
        "rows": ((32, 64, 24, 16), None),
        "ragged rows": ((40, 90, 24, 16), "ragged"),
        "rows in several chunks": ((7, 130, 7, 64), "ragged"),
        "units of one row": ((12, 1, 20, 300), None),
        "units of some rows": ((9, 3, 20, 300), "ragged"),
        "units of many rows": ((8, 9, 5, 272), "ragged"),
    },
    "rnn": {
        "rows": ((48, 64, 24, 32), None),
        "ragged rows": ((70, 90, 24, 32), "ragged"),
        "rows in several chunks": ((20, 130, 7, 64), "ragged"),
        "units of one row": ((30, 1, 20, 400), None),
        "units of some rows": ((20, 3, 20, 400), "ragged"),
        "units of many rows": ((16, 9, 5, 300), "ragged"),
    },
}
NAMES = tuple(SHARED["lstm"])


@cache
def shared_case(kind, name, dtype, reverse):
    sizes, lengths = SHARED[kind][name]
    return make_case(*sizes, dtype, kind=kind, reverse=reverse, lengths=lengths)


def rows_of(case, rows):
    """Select rows of a case, cut to the longest of them."""
    rows = np.asarray(rows, np.intp)
    T = case.lengths[rows].max(initial=0)
    sequences = {name: getattr(case, name)[:T, rows] for name in ("x", "dy")}
    if case.resets is not None:
        sequences["resets"] = case.resets[:T, rows]
    masks = cells.Masks(*(None if mask is None else mask[:T, rows] for mask in case.masks))
    return replace(
        case,
        masks=masks,
        **sequences,
        **{name: getattr(case, name)[rows] for name in ("h_0", "c_0", "lengths", "dh_n", "dc_n")},
    )


def assert_rows_same(functions, case, rows, whole):
    """Compare a forward pass over some rows with the same rows of the whole one."""
    part = rows_of(case, rows)
    got = run_forward(functions, part, tape=False)
    assert_same_bits(got["y"], whole["y"][: len(part.x), rows], f"y of rows {rows}")
    for name in (f"{part}_n" for part in case.kind.states):
        assert_same_bits(got[name], whole[name][rows], f"{name} of rows {rows}")


# ------------------------------------------------------------------------------------ the batch a row is in


@EACH_KIND
@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    T=st.integers(1, 9),
    B=st.integers(1, 25),
    I=st.integers(1, 9),
    H=st.sampled_from([1, 3, 5, 8, 15, 16, 17, 19, 33, 70, 130]),
    reverse=st.booleans(),
    data=st.data(),
)
def test_row_has_the_same_bits_in_any_batch(kind, build, dtype, T, B, I, H, reverse, data):  # noqa: E741
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    rows = data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=2 * B))
    case = make_case(T, B, I, H, dtype, kind=kind, reverse=reverse, lengths=lengths)
    functions = functions_of(build, dtype)
    assert_rows_same(functions, case, rows, run_forward(functions, case))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", NAMES)
def test_each_row_alone_has_the_bits_of_the_batch(kind, build, dtype, name, reverse):
    case, functions = shared_case(kind, name, dtype, reverse), functions_of(build, dtype)
    whole = run_forward(functions, case)
    _, B, _, _ = case.sizes
    for row in range(0, B, 1 + B // 8):
        assert_rows_same(functions, case, [row], whole)
    assert_rows_same(functions, case, np.random.default_rng(0).permutation(B), whole)


@settings(max_examples=40)
@given(build=st.sampled_from(BUILDS), dtype=st.sampled_from(DTYPES), options=any_options(), data=st.data())
def test_row_has_the_same_bits_in_any_batch_with_any_options(build, dtype, options, data):
    case = case_of_any_options(data, options, least_rows=1, most=(5, 20, 5, 36), dtype=dtype)
    B = len(case.lengths)
    rows = data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=2 * B))
    functions = functions_of(build, dtype)
    assert_rows_same(functions, case, rows, run_forward(functions, case))


# --------------------------------------------------------------- one call, chunks, steps, streams, training


@EACH_KIND
@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    B=st.integers(1, 9),
    I=st.integers(1, 9),
    H=st.sampled_from([1, 5, 8, 16, 19, 33, 70, 130]),
    num_layers=st.integers(1, 3),
    chunks=st.lists(
        st.tuples(st.integers(0, 25), st.sampled_from(["call", "forward", "trace", "step", "stream"])),
        max_size=6,
    ),
)
def test_one_call_has_the_bits_of_any_chunks(kind, build, dtype, B, I, H, num_layers, chunks):  # noqa: E741
    layer = build_layer(kind, I, H, num_layers, dtype=dtype, build=build)
    data = draw_inputs(layer, sum(steps for steps, _ in chunks), B)
    y, expected = layer(data.x, data.state)
    state, stream, t = data.state, layer.stream(B), 0
    for steps, way in chunks:
        x, t = data.x[t : t + steps], t + steps
        if way in ("call", "forward"):
            got, state = (layer if way == "call" else layer.forward)(x, state)
        elif way == "trace":
            trace = layer.trace(x, state)
            got = trace.h[-1]
            if steps:
                state = (trace.h[:, -1], trace.c[:, -1]) if kind == "lstm" else trace.h[:, -1]
        else:
            got = np.empty((steps, B, H), dtype)
            stream.state = state
            for x_t, h_t in zip(x, got, strict=True):
                if way == "step":
                    h_t[...], state = layer.step(x_t, state)
                else:
                    stream.step(x_t, out=h_t)
            if way == "stream":
                state = stream.state
        assert_same_bits(got, y[t - steps : t], way)
    for value, wanted in zip(as_tuple(state), as_tuple(expected), strict=True):
        assert_same_bits(value, wanted, "state")


@EACH_KIND
@settings(max_examples=30)
@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    B=st.integers(1, 6),
    H=st.sampled_from([2, 8, 19, 33]),
    options=any_options(),
    chunks=st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(["call", "trace", "step", "stream"])), max_size=5
    ),
)
def test_one_call_with_options_and_resets_has_the_bits_of_any_chunks(
    kind, build, dtype, B, H, options, chunks
):
    """Where nothing is drawn; a chunk that begins an episode is one that is reset at its first step."""
    arguments = as_arguments(options, H) if kind == "lstm" else {}
    layer = build_layer(kind, 3, H, 2, dtype=dtype, build=build, **arguments)
    data = draw_inputs(layer, sum(steps for steps, _ in chunks), B)
    y, expected = layer(data.x, data.state, resets=data.resets)
    state, stream, t = data.state, layer.stream(B), 0
    for steps, way in chunks:
        own, t = slice(t, t + steps), t + steps
        if way == "call":
            got, state = layer(data.x[own], state, resets=data.resets[own])
        elif way == "trace":
            trace = layer.trace(data.x[own], state, resets=data.resets[own])
            got = trace.h[-1]
            if steps:
                state = (trace.h[:, -1], trace.c[:, -1]) if kind == "lstm" else trace.h[:, -1]
        else:
            got, stream.state = np.empty_like(y[own]), state
            for x_t, begins, h_t in zip(data.x[own], data.resets[own], got, strict=True):
                if way == "step":
                    parts = [part.copy() for part in as_tuple(state)]
                    for part in parts:
                        part[:, begins] = 0
                    h_t[...], state = layer.step(x_t, tuple(parts) if kind == "lstm" else parts[0])
                else:
                    stream.reset(begins)
                    stream.step(x_t, out=h_t)
            state = stream.state if way == "stream" else state
        assert_same_bits(got, y[own], way)
    for value, wanted in zip(as_tuple(state), as_tuple(expected), strict=True):
        assert_same_bits(value, wanted, "state")


@EACH_KIND
@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    T=st.integers(1, 12),
    B=st.integers(1, 9),
    H=st.sampled_from([1, 8, 19, 33]),
    data=st.data(),
)
def test_chunks_of_unequal_rows_have_the_bits_of_one_call(kind, build, dtype, T, B, H, data):
    lengths = np.array(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    cuts = sorted({0, T, *data.draw(st.lists(st.integers(0, T), max_size=4))})
    layer = build_layer(kind, 3, H, 2, dtype=dtype, build=build)
    inputs = draw_inputs(layer, T, B)
    y, expected = layer(inputs.x, inputs.state, lengths)
    state = inputs.state
    for start, end in pairwise(cuts):
        got, state = layer(inputs.x[start:end], state, np.clip(lengths - start, 0, end - start))
        assert_same_bits(got, y[start:end])
    for value, wanted in zip(as_tuple(state), as_tuple(expected), strict=True):
        assert_same_bits(value, wanted, "state")


@pytest.mark.parametrize("H", [1, 16, 33, 130])
def test_sequence_without_a_batch_has_the_bits_of_a_batch_of_one(kind, build, dtype, H):
    layer = build_layer(kind, 4, H, 2, dtype=dtype, build=build)
    x = draw_inputs(layer, 6, 3).x
    y, end = layer(x)
    for row in range(3):
        alone, state = layer(x[:, row])
        assert_same_bits(alone, y[:, row])
        stream, stepped = layer.stream(), None
        for t, x_t in enumerate(x[:, row]):
            assert_same_bits(stream.step(x_t), y[t, row], "stream")
            h_t, stepped = layer.step(x_t, stepped)
            assert_same_bits(h_t, y[t, row], "step")
        for got in (state, stepped, stream.state):
            for value, wanted in zip(as_tuple(got), as_tuple(end), strict=True):
                assert_same_bits(value, wanted[:, row], "state")


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "bidirectional"])
@pytest.mark.parametrize("B", [1, 5, 23])
def test_forward_has_the_bits_of_inference(kind, build, dtype, B, bidirectional):
    layer = build_layer(kind, 6, 19, 2, dtype=dtype, bidirectional=bidirectional, build=build)
    data = draw_inputs(layer, 9, B, ragged=True)
    inference, training = (method(data.x, data.state, data.lengths) for method in (layer, layer.forward))
    assert_same_bits(training[0], inference[0])
    for value, wanted in zip(as_tuple(training[1]), as_tuple(inference[1]), strict=True):
        assert_same_bits(value, wanted)


def test_memory_layout_of_the_input_changes_no_bit(kind, build, dtype):
    layer = build_layer(kind, 6, 19, dtype=dtype, build=build)
    x = draw_inputs(layer, 5, 7).x
    expected, _ = layer(x)
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    shifted[...] = x
    layouts = (
        np.asfortranarray(x),
        x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        np.repeat(x, 2, axis=2)[..., ::2],
        shifted,
    )
    for value in layouts:
        assert_same_bits(layer(value)[0], expected)


# ------------------------------------------------------------------------------------ the number of threads


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", NAMES)
def test_results_and_gradients_have_the_same_bits_on_any_number_of_threads(kind, build, dtype, name, reverse):
    case, functions = shared_case(kind, name, dtype, reverse), functions_of(build, dtype)
    with threads(1, build):
        expected = run(functions, case)
    for n in THREADS:
        with threads(n, build):
            got = run(functions, case)
        for result, value in expected.items():
            assert_same_bits(got[result], value, f"{result} on {n} threads")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("options", TOGETHER)
@pytest.mark.parametrize("name", ["ragged rows", "units of some rows", "units of many rows"])
def test_options_have_the_same_bits_on_any_number_of_threads(build, dtype, name, options, reverse):
    sizes, lengths = SHARED["lstm"][name]
    case = make_case(
        *sizes, dtype, reverse=reverse, lengths=lengths, options=TOGETHER[options], resets="random"
    )
    functions = functions_of(build, dtype)
    with threads(1, build):
        expected = run(functions, case)
    for n in (2, 5):
        with threads(n, build):
            got = run(functions, case)
        for result, value in expected.items():
            assert_same_bits(got[result], value, f"{result} on {n} threads")


@pytest.mark.parametrize("name", ["ragged rows", "units of some rows"])
def test_threads_that_crowd_the_processors_change_no_bit(kind, dtype, name):
    """With far more threads than processors, calls go on with fewer of them in their middle."""
    case, functions = shared_case(kind, name, dtype, False), functions_of(BUILDS[0], dtype)
    with threads(1):
        expected = run(functions, case)
    for n in (2, 64, 7, 13, 64, 2):
        with threads(n):
            got = run(functions, case)
        for result in expected.keys() & {*FORWARD_RESULTS, *BACKWARD_RESULTS}:
            assert_same_bits(got[result], expected[result], f"{result} on {n} threads")


WHOLE_STACKS = {
    "rows": {"lstm": (100, 60, 24, 16), "rnn": (100, 60, 24, 32)},
    "units": {"lstm": (30, 2, 20, 220), "rnn": (40, 2, 20, 420)},
}


@pytest.mark.parametrize("name", WHOLE_STACKS)
def test_gradients_of_a_whole_stack_have_the_same_bits_from_run_to_run(kind, dtype, name):
    T, B, I, H = WHOLE_STACKS[name][kind]  # noqa: E741
    layer = build_layer(kind, I, H, 2, dtype=dtype, bidirectional=True)
    data = draw_inputs(layer, T, B, ragged=True)
    results = []
    for n in (1, 2, 2, 3, 5, 1):
        with threads(n):
            y, state = layer.forward(data.x, data.state, data.lengths)
            dx, dstate = layer.backward(data.dy, data.dstate)
        results.append((y, *as_tuple(state), dx, *as_tuple(dstate), layer.flat_grads.copy()))
    for got in results[1:]:
        for value, expected in zip(got, results[0], strict=True):
            assert_same_bits(value, expected)


@pytest.mark.parametrize("name", ["ragged rows", "units of many rows"])
def test_builds_agree_within_the_tolerance_on_several_threads(kind, dtype, name):
    case = shared_case(kind, name, dtype, False)
    with threads(1, "baseline"):
        expected = run(functions_of("baseline", "float64"), case.astype("float64"))
    for build in BUILDS:
        with threads(2, build):
            assert_results_close(run(functions_of(build, dtype), case), expected)
