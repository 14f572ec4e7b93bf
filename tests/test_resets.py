"""Resets: a sequence with them is its episodes one by one, and none of these sees another one.

Values have the same bits, on the definition too as long as its products have the same rows; gradients are
summed in another order.
"""

from dataclasses import replace

import numpy as np
import pytest
from conftest import (
    BACKENDS,
    BUILDS,
    KINDS,
    OPTIONS,
    TOGETHER,
    any_options,
    as_arguments,
    as_tuple,
    assert_close,
    assert_same_bits,
    build_layer,
    draw_inputs,
    functions_of,
    make_case,
    oracle,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

I, H = 3, 7  # noqa: E741
EACH_KIND = pytest.mark.parametrize("kind", KINDS)  # for hypothesis, which is given no fixture
LAYERED = [pytest.param(2, True, id="stacked-bidirectional"), pytest.param(3, False, id="stacked")]


def undrawn(options):
    """Return the arguments for some options, of which those that draw do not."""
    return as_arguments(options, H) | {"recurrent_dropout": 0.0}


def episodes_of(resets, length):
    """Return (start, end) of each episode of a row, in the order of time."""
    starts = sorted({0, *np.flatnonzero(resets[:length])})
    return list(zip(starts, [*starts[1:], length], strict=True)) if length else []


def first_of_piece(layer, state, row, piece, pieces, reset):
    """Return the state that a piece of a row begins with: the given one where none has been reset before."""
    D = layer.num_directions
    first = [part[:, row : row + 1].copy() for part in as_tuple(state)]
    for part in first:
        for d in range(D):
            given_to = len(pieces) - 1 if d else 0
            if piece != given_to or (d == 0 and reset):
                part[d::D] = 0
    return first


def like(state, parts):
    return tuple(parts) if isinstance(state, tuple) else parts[0]


def run_pieces(layer, d, resets, backward=False):
    """Run each episode of each row alone; return what one call would, and with `backward` the gradients."""
    y = np.zeros_like(d.dy)
    final = [part.copy() for part in as_tuple(d.state)]
    dx, dfirst = np.zeros_like(d.x), [part.copy() for part in as_tuple(d.dstate)]
    D, total = layer.num_directions, 0
    for row, length in enumerate(d.lengths):
        pieces = episodes_of(resets[:, row], length)
        for part in dfirst if pieces else ():
            part[:, row] = 0
        for n, (start, end) in enumerate(pieces):
            own, one = slice(start, end), slice(row, row + 1)
            first = like(d.state, first_of_piece(layer, d.state, row, n, pieces, resets[0, row]))
            call = layer.forward if backward else layer
            y[own, one], last = call(d.x[own, one], first)
            for direction, piece in ((0, len(pieces) - 1), (1, 0))[:D]:
                if n == piece:
                    for part, value in zip(final, as_tuple(last), strict=True):
                        part[direction::D, row] = value[direction::D, 0]
            if not backward:
                continue
            dlast = [part[:, one].copy() for part in as_tuple(d.dstate)]
            for direction, piece in ((0, len(pieces) - 1), (1, 0))[:D]:
                for part in dlast if n != piece else ():
                    part[direction::D] = 0
            dx[own, one], dbefore = layer.backward(d.dy[own, one], like(d.dstate, dlast))
            total = total + layer.flat_grads
            for direction, piece in ((0, 0), (1, len(pieces) - 1))[:D]:
                if n == piece and not (direction == 0 and resets[0, row]):
                    for part, value in zip(dfirst, as_tuple(dbefore), strict=True):
                        part[direction::D, row] = value[direction::D, 0]
    return y, final, dx, dfirst, total


# ---------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize(("num_layers", "bidirectional"), LAYERED)
@pytest.mark.parametrize("hidden", [1, 9, 33])
def test_resets_give_the_bits_of_the_pieces(kind, build, dtype, num_layers, bidirectional, hidden):
    layer = build_layer(kind, I, hidden, num_layers, bidirectional=bidirectional, dtype=dtype, build=build)
    d = draw_inputs(layer, 9, 6, ragged=True)
    y, final, *_ = run_pieces(layer, d, d.resets)
    for call in (layer, layer.forward):
        got, last = call(d.x, d.state, d.lengths, d.resets)
        assert_same_bits(got, y)
        for part, expected in zip(as_tuple(last), final, strict=True):
            assert_same_bits(part, expected)


@EACH_KIND
@settings(max_examples=30)
@given(
    build=st.sampled_from(BUILDS),
    options=any_options(),
    T=st.integers(1, 7),
    B=st.integers(1, 5),
    bidirectional=st.booleans(),
    data=st.data(),
)
def test_any_resets_with_any_options_give_the_bits_of_the_pieces(
    kind, build, options, T, B, bidirectional, data
):
    layer = build_layer(
        kind, I, H, 2, bidirectional=bidirectional, build=build, **undrawn(options) if kind == "lstm" else {}
    )
    d = draw_inputs(layer, T, B)
    d.lengths = np.array(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    rows = st.lists(st.booleans(), min_size=B, max_size=B)
    d.resets = np.array(data.draw(st.lists(rows, min_size=T, max_size=T)))
    y, final, *_ = run_pieces(layer, d, d.resets)
    y[~(np.arange(T)[:, None] < d.lengths)] = 0
    got, last = layer(d.x, d.state, d.lengths, d.resets)
    assert_same_bits(got, y)
    for part, expected in zip(as_tuple(last), final, strict=True):
        assert_same_bits(part, expected)


@pytest.mark.parametrize("name", [None, "layer norm", *TOGETHER])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
def test_resets_of_all_rows_give_the_bits_of_the_pieces(implementation, dtype, bidirectional, name):
    """On the definition too: the products of a piece have the rows of those of the whole."""
    options = undrawn((OPTIONS | TOGETHER)[name]) if name else {}
    layer = build_layer(
        "lstm", I, H, 2, bidirectional=bidirectional, dtype=dtype, build=implementation, **options
    )
    d = draw_inputs(layer, 7, 4)
    resets = np.zeros((7, 4), bool)
    resets[[2, 3, 6]] = True
    got, (h_n, c_n) = layer(d.x, d.state, resets=resets)
    D, pieces = layer.num_directions, [slice(0, 2), slice(2, 3), slice(3, 6), slice(6, 7)]
    for n, piece in enumerate(pieces):
        state = [part.copy() for part in d.state]
        for part in state:
            for direction in range(D):
                if n != (3 if direction else 0):
                    part[direction::D] = 0
        y, last = layer(d.x[piece], tuple(state))
        assert_same_bits(got[piece], y, f"piece {n}")
        for direction in range(D):
            if n == (0 if direction else 3):
                for part, value in zip((h_n, c_n), last, strict=True):
                    assert_same_bits(part[direction::D], value[direction::D], "final state")


@pytest.mark.parametrize("name", [None, *TOGETHER])
@pytest.mark.parametrize(("num_layers", "bidirectional"), LAYERED)
def test_gradients_with_resets_are_those_of_the_pieces(implementation, num_layers, bidirectional, name):
    options = undrawn(TOGETHER[name]) | {"zoneout": (0.0, 0.0)} if name else {}
    layer = build_layer(
        "lstm", I, H, num_layers, bidirectional=bidirectional, build=implementation, **options
    )
    d = draw_inputs(layer, 8, 4, ragged=True)
    assert_gradients_are_those_of_the_pieces(layer, d)


@pytest.mark.parametrize(("num_layers", "bidirectional"), LAYERED)
def test_gradients_of_an_rnn_with_resets_are_those_of_the_pieces(implementation, num_layers, bidirectional):
    layer = build_layer("rnn", I, H, num_layers, bidirectional=bidirectional, build=implementation)
    assert_gradients_are_those_of_the_pieces(layer, draw_inputs(layer, 8, 4, ragged=True))


def assert_gradients_are_those_of_the_pieces(layer, d):
    _, _, dx, dfirst, grads = run_pieces(layer, d, d.resets, backward=True)
    layer.forward(d.x, d.state, d.lengths, d.resets)
    got, dbefore = layer.backward(d.dy, d.dstate)
    assert_close(got, dx, "pieces", "dx")
    for part, expected in zip(as_tuple(dbefore), dfirst, strict=True):
        assert_close(part, expected, "pieces", "dstate")
    assert_close(layer.flat_grads, grads, "pieces", "grads")


@pytest.mark.parametrize(("num_layers", "bidirectional"), LAYERED)
def test_resets_agree_with_an_oracle_that_loops_over_rows(kind, dtype, backend, num_layers, bidirectional):
    layer = build_layer(
        kind, I, H, num_layers, bidirectional=bidirectional, dtype=dtype, backend=backend,
        **{"peepholes": True, "proj_size": 4} if kind == "lstm" else {},
    )  # fmt: skip
    d = draw_inputs(layer, 8, 4, ragged=True)
    params = {name: value.astype(np.float64) for name, value in layer.params.items()}
    state = tuple(part.astype(np.float64) for part in as_tuple(d.state))
    y, final = oracle(
        kind, params, num_layers, bidirectional, d.x.astype(np.float64), state, d.lengths, resets=d.resets
    )
    got, last = layer.forward(d.x, d.state, d.lengths, d.resets)
    assert_close(got, y, "forward", "y")
    for part, expected in zip(as_tuple(last), final, strict=True):
        assert_close(part, expected, "forward", "state")


# ------------------------------------------------------------------------------------- nothing leaks, layouts


@pytest.mark.parametrize("name", [None, *OPTIONS])
def test_an_output_never_depends_on_another_episode(implementation, dtype, name):
    """Neither do the derivatives by the input of another one."""
    options = undrawn(OPTIONS[name]) if name else {}
    layer = build_layer("lstm", I, H, 2, bidirectional=True, dtype=dtype, build=implementation, **options)
    d = draw_inputs(layer, 7, 3)
    resets = np.zeros((7, 3), bool)
    resets[[2, 5], 1] = True

    def passes(x):
        y, _ = layer(x, d.state, resets=resets)
        layer.zoneout = (0.0, 0.0)
        layer.forward(x, d.state, resets=resets)
        dx, _ = layer.backward(d.dy)
        layer.zoneout = options.get("zoneout", (0.0, 0.0))
        return y, dx

    expected = passes(d.x)
    for episode in (slice(0, 2), slice(2, 5), slice(5, 7)):
        x = d.x.copy()
        x[episode, 1] = np.nan
        seen = np.zeros((7, 3), bool)
        seen[episode, 1] = True
        for got, wanted in zip(passes(x), expected, strict=True):
            assert_same_bits(got[~seen], wanted[~seen])
        assert np.isnan(passes(x)[0][seen]).any(axis=-1).all()


def test_a_state_is_used_until_the_first_reset_only(kind, implementation, dtype):
    layer = build_layer(kind, I, H, 2, dtype=dtype, build=implementation)
    d = draw_inputs(layer, 5, 3)
    resets = np.zeros((5, 3), bool)
    resets[0, 0] = resets[3, 1] = True
    y, _ = layer(d.x, d.state, resets=resets)
    wrong = like(d.state, [np.full_like(part, np.nan) for part in as_tuple(d.state)])
    got, _ = layer(d.x, wrong, resets=resets)
    assert_same_bits(got[:, 0], y[:, 0])
    assert_same_bits(got[3:, 1], y[3:, 1])
    assert np.isnan(got[:3, 1]).all()
    assert np.isnan(got[:, 2]).all()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", [None, *TOGETHER])
def test_resets_that_are_nowhere_true_change_no_bit(implementation, dtype, reverse, name):
    options = TOGETHER[name] if name else None
    case = make_case(5, 4, 3, 9, dtype, reverse=reverse, lengths="ragged", options=options)
    never = replace(case, resets=np.zeros((5, 4), bool))
    functions = functions_of(implementation, dtype)
    expected = run(functions, case)
    for result, value in run(functions, never).items():
        assert_same_bits(value, expected[result], result)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-major", "batch-first"])
def test_resets_are_laid_out_as_x(kind, implementation, batch_first):
    layer, turned = (
        build_layer(kind, I, H, 2, build=implementation, batch_first=first) for first in (False, batch_first)
    )
    d = draw_inputs(layer, 6, 4, ragged=True)
    turn = (lambda v: v.swapaxes(0, 1)) if batch_first else (lambda v: v)
    expected, _ = layer(d.x, d.state, d.lengths, d.resets)
    trace = layer.trace(d.x, d.state, d.lengths, d.resets)
    assert_same_bits(trace.h[-1], expected)
    for resets in (turn(d.resets), turn(d.resets).tolist(), np.asfortranarray(turn(d.resets))):
        for call in (turned, turned.forward):
            assert_same_bits(turn(call(turn(d.x), d.state, d.lengths, resets)[0]), expected)
    before = turn(d.resets).copy()
    turned.forward(turn(d.x), d.state, d.lengths, before)
    before[...] = True  # the tape has a copy
    dx, _ = turned.backward(turn(d.dy))
    layer.forward(d.x, d.state, d.lengths, d.resets)
    assert_same_bits(turn(dx), layer.backward(d.dy)[0])


def test_one_sequence_has_resets_without_a_batch_axis(kind, backend, dtype):
    layer = build_layer(kind, I, H, 2, bidirectional=True, backend=backend, dtype=dtype)
    d = draw_inputs(layer, 6, 1)
    d.resets[3] = True
    expected, _ = layer.forward(d.x, resets=d.resets)
    dx, _ = layer.backward(d.dy)
    for resets in (d.resets[:, 0], d.resets[:, 0].tolist()):
        assert_same_bits(layer.forward(d.x[:, 0], resets=resets)[0], expected[:, 0])
        assert_same_bits(layer.backward(d.dy[:, 0])[0], dx[:, 0])


def test_no_time_and_no_rows_have_resets_too(kind, backend):
    layer = build_layer(kind, I, H, backend=backend)
    for T, B in ((0, 2), (3, 0), (0, 0)):
        for resets in (np.zeros((T, B), bool), np.zeros((T, B))):
            assert layer.forward(np.zeros((T, B, I)), resets=resets)[0].shape == (T, B, H)


# --------------------------------------------------------------------------------------------- steps, streams


@pytest.mark.parametrize("name", [None, *TOGETHER])
def test_stream_that_is_reset_has_the_bits_of_resets(implementation, dtype, name):
    options = undrawn(TOGETHER[name]) if name else {}
    layer = build_layer("lstm", I, H, 2, dtype=dtype, build=implementation, **options)
    d = draw_inputs(layer, 8, 4)
    expected, last = layer(d.x, d.state, resets=d.resets)
    stream, state = layer.stream(4, d.state), d.state
    for x_t, begins, y_t in zip(d.x, d.resets, expected, strict=True):
        stream.reset(begins)
        assert_same_bits(stream.step(x_t), y_t, "stream")
        state = tuple(np.where(begins[:, None], 0, part).astype(dtype) for part in state)
        h_t, state = layer.step(x_t, state)
        assert_same_bits(h_t, y_t, "step")
    for got in (stream.state, state):
        for part, wanted in zip(got, last, strict=True):
            assert_same_bits(part, wanted)


def test_stream_of_an_rnn_that_is_reset_has_the_bits_of_resets(implementation, dtype):
    layer = build_layer("rnn", I, H, 2, dtype=dtype, build=implementation)
    d = draw_inputs(layer, 8, 4)
    expected, _ = layer(d.x, d.state, resets=d.resets)
    stream = layer.stream(4, d.state)
    for x_t, begins, y_t in zip(d.x, d.resets, expected, strict=True):
        stream.reset(np.flatnonzero(begins))
        assert_same_bits(stream.step(x_t), y_t)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_with_resets_have_the_values_of_one_call(kind, backend):
    layer = build_layer(kind, I, H, 2, backend=backend)
    d = draw_inputs(layer, 9, 4)
    y, last = layer(d.x, d.state, resets=d.resets)
    state = d.state
    for piece in (slice(0, 4), slice(4, 5), slice(5, 9)):
        got, state = layer(d.x[piece], state, resets=d.resets[piece])
        assert_close(got, y[piece], "forward")
    for part, wanted in zip(as_tuple(state), as_tuple(last), strict=True):
        assert_close(part, wanted, "forward")
