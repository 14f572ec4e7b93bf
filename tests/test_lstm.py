"""class LSTM on both backends: values, gradients, layouts, states, dropout, views, tape, trace, threads."""

import copy
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import (
    BACKENDS,
    TOLERANCES,
    assert_close,
    assert_same_bits,
    build_lstm,
    draw_inputs,
    oracle,
    snapshot,
)
from hypothesis import given
from hypothesis import strategies as st

import clstm

# num_layers, bidirectional, bias
SHAPES = [
    pytest.param((1, False, True), id="plain"),
    pytest.param((1, True, True), id="bidirectional"),
    pytest.param((3, False, True), id="stacked"),
    pytest.param((2, True, True), id="stacked-bidirectional"),
    pytest.param((2, True, False), id="no-bias"),
]
I, H = 3, 5  # noqa: E741


def make(shape=(2, True, True), seed=0, **kwargs):
    layers, bidirectional, bias = shape
    return build_lstm(I, H, layers, bidirectional=bidirectional, bias=bias, seed=seed, **kwargs)


def double(params):
    return {name: value.astype(np.float64) for name, value in params.items()}


def run_oracle(lstm, d, masks=None):
    state = (v.astype(np.float64) for v in d.state)
    x = d.x.astype(np.float64)
    return oracle(double(lstm.params), lstm.num_layers, lstm.bidirectional, x, *state, d.lengths, masks)


# ---------------------------------------------------------------------------------------- values, gradients


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_inference_agree_with_the_oracle(shape, ragged, dtype, backend):
    lstm = make(shape, dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 6, 4, ragged=ragged)
    expected_y, expected_h, expected_c = run_oracle(lstm, d)
    for call in (lstm, lstm.forward):
        y, (h_n, c_n) = call(d.x, d.state, d.lengths)
        assert {v.dtype.name for v in (y, h_n, c_n)} == {dtype}
        assert_close(y, expected_y, "forward", "y")
        assert_close(h_n, expected_h, "forward", "h_n")
        assert_close(c_n, expected_c, "forward", "c_n")
        assert (y[~d.is_real] == 0).all()


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("T", [1, 5])
def test_every_gradient_is_the_complex_step_derivative_of_the_oracle(shape, T, ragged, backend):
    """Along random directions of each parameter, of x, of h_0 and of c_0."""
    lstm = make(shape, backend=backend)
    d = draw_inputs(lstm, T, 3, ragged=ragged)
    lstm.forward(d.x, d.state, d.lengths)
    dx, (dh_0, dc_0) = lstm.backward(d.dy, d.dstate)
    values = double(lstm.params) | {
        "x": np.where(np.isnan(d.x), 0, d.x),
        "h_0": d.state[0],
        "c_0": d.state[1],
    }
    gradients = lstm.grads | {"x": dx, "h_0": dh_0, "c_0": dc_0}
    assert list(values) == list(gradients)
    dy, rng = np.where(np.isnan(d.dy), 0, d.dy), np.random.default_rng(3)
    for name, value in values.items():
        for _ in range(3):
            direction = rng.standard_normal(value.shape)
            moved = values | {name: value + 1e-30j * direction}
            x, h_0, c_0 = (moved.pop(key).astype(np.complex128) for key in ("x", "h_0", "c_0"))
            y, h_n, c_n = oracle(moved, lstm.num_layers, lstm.bidirectional, x, h_0, c_0, d.lengths)
            loss = (dy * y).sum() + (d.dstate[0] * h_n).sum() + (d.dstate[1] * c_n).sum()
            scale = np.abs(gradients[name]).max() * np.abs(direction).sum()
            error = abs((gradients[name] * direction).sum() - loss.imag / 1e-30)
            assert error <= TOLERANCES["complex step"]["float64"] * scale, name


@pytest.mark.parametrize("shape", SHAPES)
def test_backends_agree_on_everything(shape, dtype):
    by_backend = []
    for backend in BACKENDS:
        lstm = make(shape, dtype=dtype, backend=backend, dropout=0.4)
        d = draw_inputs(lstm, 7, 5, ragged=True)
        y, (h_n, c_n) = lstm.forward(d.x, d.state, d.lengths)
        dx, (dh_0, dc_0) = lstm.backward(d.dy, d.dstate)
        by_backend.append(((y, h_n, c_n), (dx, dh_0, dc_0, *lstm.grads.values())))
    (numpy_values, numpy_gradients), (auto_values, auto_gradients) = by_backend
    for got, expected in zip(auto_values, numpy_values, strict=True):
        assert_close(got, expected.astype(np.float64), "forward")
    for got, expected in zip(auto_gradients, numpy_gradients, strict=True):
        assert_close(got, expected.astype(np.float64), "backward")


def test_reference_class_is_the_class_with_its_backend_fixed():
    lstm, same = clstm.reference.LSTM(I, H, 2, rng=4), clstm.LSTM(I, H, 2, rng=4, backend="numpy")
    assert_same_bits(lstm.flat_params, same.flat_params)
    d = draw_inputs(lstm, 3, 2)
    assert_same_bits(lstm(d.x)[0], same(d.x)[0])
    with pytest.raises(TypeError):
        clstm.reference.LSTM(I, H, backend="auto")


@given(
    T=st.integers(0, 5), B=st.integers(0, 5), layers=st.integers(1, 3), bidirectional=st.booleans(),
    batch_first=st.booleans(), backend=st.sampled_from(BACKENDS), data=st.data(),
)  # fmt: skip
def test_shapes_and_values_for_any_sizes(T, B, layers, bidirectional, data, batch_first, backend):
    lstm = make((layers, bidirectional, True), batch_first=batch_first, backend=backend)
    d = draw_inputs(lstm, T, B)
    d.lengths = np.array(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)), int)
    turn = (lambda v: v.swapaxes(0, 1)) if batch_first else (lambda v: v)
    y, (h_n, c_n) = lstm.forward(turn(d.x), d.state, d.lengths)
    for got, expected in zip((turn(y), h_n, c_n), run_oracle(lstm, d), strict=True):
        assert_close(got, expected, "forward")
    dx, (dh_0, dc_0) = lstm.backward(turn(d.dy), d.dstate)
    assert dx.shape == turn(d.x).shape
    assert dh_0.shape == dc_0.shape == (layers * (1 + bidirectional), B, H)


# -------------------------------------------------------------------------------------------------- layouts


def test_batch_first_is_the_same_with_two_axes_exchanged(dtype, backend):
    lstm, turned = make(dtype=dtype, backend=backend), make(dtype=dtype, backend=backend, batch_first=True)
    d = draw_inputs(lstm, 6, 4, ragged=True)
    y, state = lstm.forward(d.x, d.state, d.lengths)
    y_turned, state_turned = turned.forward(d.x.swapaxes(0, 1), d.state, d.lengths)
    assert_same_bits(y_turned, y.swapaxes(0, 1))
    assert_same_bits(turned(d.x.swapaxes(0, 1), d.state, d.lengths)[0], y.swapaxes(0, 1))
    for got, expected in zip(state_turned, state, strict=True):
        assert_same_bits(got, expected)  # states are never batch-first
    dx, dstate = lstm.backward(d.dy, d.dstate)
    dx_turned, dstate_turned = turned.backward(d.dy.swapaxes(0, 1), d.dstate)
    assert_same_bits(dx_turned, dx.swapaxes(0, 1))
    for got, expected in zip(dstate_turned, dstate, strict=True):
        assert_same_bits(got, expected)
    assert_same_bits(turned.flat_grads, lstm.flat_grads)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-major", "batch-first"])
def test_one_sequence_without_a_batch_axis(dtype, backend, batch_first):
    lstm = make(dtype=dtype, backend=backend, batch_first=batch_first)
    batched = make(dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 6, 1)
    y, state = batched.forward(d.x, d.state, [4])
    dx, dstate = batched.backward(d.dy, d.dstate)
    one_state, one_dstate = ([v[:, 0] for v in pair] for pair in (d.state, d.dstate))
    for call in (lstm, lstm.forward):
        got_y, got_state = call(d.x[:, 0], one_state, [4])
        assert_same_bits(got_y, y[:, 0])
        for got, expected in zip(got_state, state, strict=True):
            assert_same_bits(got, expected[:, 0])
    got_dx, got_dstate = lstm.backward(d.dy[:, 0], one_dstate)
    assert_same_bits(got_dx, dx[:, 0])
    for got, expected in zip(got_dstate, dstate, strict=True):
        assert_same_bits(got, expected[:, 0])


def misaligned(v):
    room = np.empty(v.nbytes + 1, np.uint8)
    shifted = room[1:].view(v.dtype).reshape(v.shape)
    shifted[...] = v
    assert v.size == 0 or not shifted.flags.aligned
    return shifted


def every_second(v):
    wide = np.full([2 * n for n in v.shape], np.nan, v.dtype)
    wide[tuple(slice(None, None, 2) for _ in v.shape)] = v
    return wide[tuple(slice(None, None, 2) for _ in v.shape)]


def locked(v):
    v = v.copy()
    v.flags.writeable = False
    return v


LAYOUTS = {
    "list": lambda v: v.tolist(),
    "fortran": np.asfortranarray,
    "every-second": every_second,
    "backwards": lambda v: v[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "misaligned": misaligned,
    "byte-swapped": lambda v: v.astype(v.dtype.newbyteorder("S")),
    "read-only": locked,
    "other-float": lambda v: v.astype(np.float64 if v.dtype == np.float32 else np.longdouble),
    "transposed": lambda v: np.ascontiguousarray(v.transpose(2, 1, 0)).transpose(2, 1, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_memory_layout_gives_the_same_bits(dtype, backend, layout):
    lstm, change = make(dtype=dtype, backend=backend), LAYOUTS[layout]
    d = draw_inputs(lstm, 6, 4)
    expected = [
        *lstm.forward(d.x, d.state, d.lengths)[1],
        *lstm.backward(d.dy, d.dstate)[1],
        lstm.flat_grads.copy(),
    ]
    x, dy, *states = (change(v) for v in (d.x, d.dy, *d.state, *d.dstate))
    assert_same_bits(lstm(x, states[:2], d.lengths)[0], lstm(d.x, d.state)[0])
    got = [*lstm.forward(x, states[:2], d.lengths)[1], *lstm.backward(dy, states[2:])[1], lstm.flat_grads]
    for value, wanted in zip(got, expected, strict=True):
        assert_same_bits(value, wanted)


@pytest.mark.parametrize("kind", ["i1", "u2", "i4", "u8", "?", "f2", "list"])
def test_integers_are_accepted_as_input(dtype, backend, kind):
    lstm = make(dtype=dtype, backend=backend)
    x = np.random.default_rng(0).integers(0, 2, (4, 2, I))
    given_x = x.tolist() if kind == "list" else x.astype(kind)
    assert_same_bits(lstm(given_x)[0], lstm(x.astype(dtype))[0])


@pytest.mark.parametrize("kind", ["i1", "u1", "i4", "i8", "u8", ">i4", "list", "tuple"])
def test_lengths_of_every_integer_type_are_accepted(backend, kind):
    lstm = make(backend=backend)
    d = draw_inputs(lstm, 6, 4)
    lengths = np.array([3, 6, 0, 1])
    given_lengths = {"list": list, "tuple": tuple}.get(kind, lambda v: v.astype(kind))(lengths)
    assert_same_bits(lstm(d.x, lengths=given_lengths)[0], lstm(d.x, lengths=lengths)[0])


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0), (0, 0)], ids=["T=0", "B=0", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_time_and_no_rows_are_legal(shape, sizes, dtype, backend):
    lstm = make(shape, dtype=dtype, backend=backend)
    d = draw_inputs(lstm, *sizes)
    for lengths in (None, d.lengths, list(d.lengths)):
        y, (h_n, c_n) = lstm.forward(d.x, d.state, lengths)
        assert y.shape == d.dy.shape
        assert_same_bits(h_n, d.state[0])
        assert_same_bits(c_n, d.state[1])
        lstm.flat_grads[...] = 1
        dx, (dh_0, dc_0) = lstm.backward(d.dy, d.dstate)
        assert dx.shape == d.x.shape
        assert_same_bits(dh_0, d.dstate[0])
        assert_same_bits(dc_0, d.dstate[1])
        assert (lstm.flat_grads == 0).all()


# --------------------------------------------------------------------------------------------------- states


def test_no_state_means_zeros(dtype, backend):
    lstm = make(dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 4, 3)
    zeros = np.zeros_like(d.state[0])
    assert_same_bits(lstm(d.x)[0], lstm(d.x, (zeros, zeros))[0])


def test_state_carries_on_where_a_sequence_was_cut(dtype, backend):
    lstm = make((2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 8, 3)
    whole, (h_whole, c_whole) = lstm(d.x, d.state)
    first, state = lstm(d.x[:3], d.state)
    second, (h_n, c_n) = lstm(d.x[3:], state)
    assert_close(np.concatenate([first, second]), whole.astype(np.float64), "forward")
    assert_close(h_n, h_whole.astype(np.float64), "forward")
    assert_close(c_n, c_whole.astype(np.float64), "forward")


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one-row"])
@pytest.mark.parametrize("layers", [1, 3])
def test_steps_in_a_row_equal_the_sequence(dtype, backend, layers, batched):
    lstm = make((layers, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 5, 3 if batched else 1)
    x, state = (d.x, d.state) if batched else (d.x[:, 0], tuple(v[:, 0] for v in d.state))
    y, (h_n, c_n) = lstm(x, state)
    for t in range(len(x)):
        h_t, state = lstm.step(x[t], state)
        assert h_t.dtype == dtype
        assert_close(h_t, y[t].astype(np.float64), "forward", f"h_{t}")
    assert_close(state[0], h_n.astype(np.float64), "forward")
    assert_close(state[1], c_n.astype(np.float64), "forward")


def test_step_without_a_state_starts_from_zeros(dtype, backend):
    lstm = make((2, False, True), dtype=dtype, backend=backend)
    x = np.ones((4, I), dtype)
    assert_close(lstm.step(x)[0], lstm(x[None])[0][0].astype(np.float64), "forward")
    assert lstm.step(x[0])[0].shape == (H,)
    assert lstm.step(x[:0])[0].shape == (0, H)


def test_calls_share_no_memory_with_their_arguments_and_each_other(dtype, backend):
    lstm = make((2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 4, 3)
    y, state = lstm.forward(d.x, d.state)
    again, state_again = lstm.forward(d.x, d.state)
    dx, dstate = lstm.backward(d.dy, d.dstate)
    h_t, (h, c) = lstm.step(d.x[0], d.state)
    arrays = [d.x, d.dy, *d.state, *d.dstate, y, *state, again, *state_again, dx, *dstate, h_t, h, c]
    arrays += [lstm.flat_params, lstm.flat_grads]
    for n, first in enumerate(arrays):
        for second in arrays[:n]:
            assert not np.may_share_memory(first, second)
        assert first.flags.writeable


def test_inputs_are_never_modified(dtype, backend):
    lstm = make((2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 4, 3, ragged=True)
    d.lengths = d.lengths.astype(np.intp)
    before = copy.deepcopy(d)
    lstm(d.x, d.state, d.lengths)
    lstm.forward(d.x, d.state, d.lengths)
    lstm.backward(d.dy, d.dstate)
    lstm.trace(d.x, d.state, d.lengths)
    lstm.step(d.x[0], d.state)
    for name in ("x", "dy", "lengths"):
        assert_same_bits(getattr(d, name), getattr(before, name))
    for name in ("state", "dstate"):
        for got, expected in zip(getattr(d, name), getattr(before, name), strict=True):
            assert_same_bits(got, expected)


# ------------------------------------------------------------------------------------------------- backward


def test_parts_of_the_loss_add_up(backend):
    lstm = make(backend=backend)
    d = draw_inputs(lstm, 5, 3, ragged=True)
    lstm.forward(d.x, d.state, d.lengths)
    lstm.backward(d.dy, d.dstate)
    expected = lstm.flat_grads.copy()
    lstm.backward(d.dy)
    lstm.backward(dstate=(d.dstate[0], None), accumulate=True)
    lstm.backward(dstate=(None, d.dstate[1]), accumulate=True)
    assert_close(lstm.flat_grads, expected, "backward")


def test_backward_overwrites_and_accumulates_on_demand(dtype, backend):
    lstm = make(dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 5, 3)
    lstm.forward(d.x)
    first = lstm.backward(d.dy)
    once = lstm.flat_grads.copy()
    second = lstm.backward(d.dy)
    assert_same_bits(lstm.flat_grads, once)
    assert_same_bits(second[0], first[0])
    lstm.backward(d.dy, accumulate=True)
    assert_same_bits(lstm.flat_grads, once + once)


def test_tape_is_not_disturbed_by_changes_of_inputs_and_outputs(dtype, backend):
    lstm = make((1, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 5, 3, ragged=True)
    lengths = d.lengths.astype(np.intp)
    lstm.forward(d.x, d.state, lengths)
    expected = lstm.backward(d.dy, d.dstate)
    expected_grads = lstm.flat_grads.copy()
    y, (h_n, c_n) = lstm.forward(d.x, d.state, lengths)
    for array in (d.x, *d.state, y, h_n, c_n):
        array[...] = np.nan
    lengths[...] = 1
    got = lstm.backward(d.dy, d.dstate)
    assert_same_bits(got[0], expected[0])
    assert_same_bits(lstm.flat_grads, expected_grads)


def test_tape_belongs_to_the_last_forward_and_inference_leaves_it(dtype, backend):
    lstm = make((2, False, True), dtype=dtype, backend=backend)
    d, other = draw_inputs(lstm, 5, 3), draw_inputs(lstm, 4, 2, seed=1)
    lstm.forward(other.x)
    lstm.forward(d.x)
    expected = lstm.backward(d.dy)[0]
    lstm(other.x)
    lstm.trace(other.x)
    lstm.step(other.x[0])
    assert_same_bits(lstm.backward(d.dy)[0], expected)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-major", "batch-first"])
def test_nan_stays_in_its_own_row(dtype, backend, batch_first):
    lstm = make(dtype=dtype, backend=backend, batch_first=batch_first)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 4, I)).astype(dtype)
    dirty = x.copy()
    dirty[(2, 1) if batch_first else (1, 2)] = np.nan
    rows = (lambda v: v[[0, 1, 3]]) if batch_first else (lambda v: v[:, [0, 1, 3]])
    y, dirty_y = lstm.forward(x)[0], lstm.forward(dirty)[0]
    assert_same_bits(rows(dirty_y), rows(y))
    assert np.isnan(dirty_y).any()


# -------------------------------------------------------------------------------------------------- dropout


def pass_through(dropout, backend, rng):
    """Make two layers of one unit without state; y is 0 exactly where the value between them was dropped."""
    lstm = clstm.LSTM(1, 1, 2, dropout=dropout, backend=backend, rng=rng)
    lstm.flat_params[...] = 0
    lstm.params["weight_ih_l0"][...] = 1
    lstm.params["weight_ih_l1"][...] = 0.5
    return lstm


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_scales_the_rest(dropout, backend):
    lstm = pass_through(dropout, backend, 0)
    x = np.ones((1, 100_000, 1))
    y = lstm.forward(x)[0]
    dropped = y == 0
    assert abs(dropped.mean() - dropout) <= TOLERANCES["sample mean"]["float64"]
    # What is kept is multiplied with 1 / (1 - dropout): the mean stays.
    lstm.params["weight_ih_l1"] /= 1 - dropout
    assert_close(y[~dropped], lstm(x)[0][~dropped], "forward")


def test_inference_applies_no_dropout(dtype, backend):
    with_dropout, without = (make(dtype=dtype, backend=backend, dropout=p) for p in (0.5, 0.0))
    d = draw_inputs(without, 5, 3)
    before = snapshot(with_dropout)
    assert_same_bits(with_dropout(d.x)[0], without(d.x)[0])
    assert_same_bits(with_dropout.trace(d.x).h, without.trace(d.x).h)
    assert snapshot(with_dropout) == before


def test_dropout_leaves_input_and_output_alone(backend):
    lstm = make((1, True, True), backend=backend, dropout=0.9)
    d = draw_inputs(lstm, 5, 3)
    assert_same_bits(lstm.forward(d.x)[0], lstm(d.x)[0])


def test_dropout_repeats_with_the_seed_and_differs_from_call_to_call(dtype, backend):
    first, second = (make(dtype=dtype, backend=backend, dropout=0.5) for _ in range(2))
    d = draw_inputs(first, 5, 3)
    y = first.forward(d.x)[0]
    assert_same_bits(second.forward(d.x)[0], y)
    assert not np.array_equal(first.forward(d.x)[0], y)


def test_gradients_go_through_the_dropout_masks(backend):
    rng = np.random.default_rng(11)
    lstm = clstm.LSTM(I, H, 3, bidirectional=True, dropout=0.4, rng=rng, backend=backend)
    d = draw_inputs(lstm, 4, 3, ragged=True)
    x, dy = np.nan_to_num(d.x), np.nan_to_num(d.dy)
    start = rng.bit_generator.state

    def loss(moved_x):
        rng.bit_generator.state = start
        y, (h_n, c_n) = lstm.forward(moved_x, d.state, d.lengths)
        return (y * dy).sum() + (h_n * d.dstate[0]).sum() + (c_n * d.dstate[1]).sum()

    loss(x)
    dx, _ = lstm.backward(dy, d.dstate)
    gradients = {"x": dx} | {name: value.copy() for name, value in lstm.grads.items()}
    values = {"x": x} | lstm.params
    directions = np.random.default_rng(5)
    for name, value in values.items():
        direction = directions.standard_normal(value.shape)
        kept, ends = value.copy(), []
        for distance in (1e-6, -1e-6):
            value[...] = kept + distance * direction
            ends.append(loss(x))
        value[...] = kept
        numeric = np.array((ends[0] - ends[1]) / 2e-6)
        assert_close(np.array((gradients[name] * direction).sum()), numeric, "central difference", name)


# --------------------------------------------------------------------------------- parameters and gradients


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_have_pytorchs_names_and_shapes(shape):
    lstm = make(shape)
    layers, bidirectional, bias = shape
    expected = {}
    for k in range(layers):
        for suffix in ("", "_reverse")[: 1 + bidirectional]:
            expected[f"weight_ih_l{k}{suffix}"] = (4 * H, H * (1 + bidirectional) if k else I)
            expected[f"weight_hh_l{k}{suffix}"] = (4 * H, H)
            if bias:
                expected[f"bias_l{k}{suffix}"] = (4 * H,)
    for named in (lstm.params, lstm.grads):
        assert {name: value.shape for name, value in named.items()} == expected
        assert list(named) == list(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_params_and_grads_are_views_that_cover_one_flat_array(shape, dtype):
    lstm = make(shape, dtype=dtype)
    for flat, named in ((lstm.flat_params, lstm.params), (lstm.flat_grads, lstm.grads)):
        assert flat.flags.c_contiguous
        assert flat.ndim == 1
        assert flat.dtype == dtype
        assert flat.size == sum(value.size for value in named.values())
        flat[...] = -1
        for n, value in enumerate(named.values()):
            assert np.shares_memory(value, flat)
            assert (value == -1).all()
            value[...] = n
        counts = (
            np.unique_counts(flat) if hasattr(np, "unique_counts") else np.unique(flat, return_counts=True)
        )
        assert list(counts[1]) == [value.size for value in named.values()]


def test_changes_of_params_in_place_are_seen_by_every_call(dtype, backend):
    lstm, other = (make((2, False, True), dtype=dtype, backend=backend, seed=seed) for seed in (0, 1))
    d = draw_inputs(lstm, 5, 3)
    lstm(d.x)
    for name, value in other.params.items():
        lstm.params[name] -= lstm.params[name]
        lstm.params[name] += value
    assert_same_bits(lstm(d.x)[0], other(d.x)[0])
    assert_same_bits(lstm.step(d.x[0])[0], other.step(d.x[0])[0])
    assert_same_bits(lstm.trace(d.x).c, other.trace(d.x).c)
    lstm.forward(d.x)
    other.forward(d.x)
    assert_same_bits(lstm.backward(d.dy)[0], other.backward(d.dy)[0])
    lstm.params["bias_l0"][...] += 1
    assert not np.array_equal(lstm(d.x)[0], other(d.x)[0])


def test_gates_lie_in_the_order_input_forget_candidate_output():
    lstm = clstm.LSTM(1, 1, backend="numpy", rng=0)
    lstm.flat_params[...] = 0
    lstm.params["bias_l0"][...] = [1, 2, 3, 4]
    trace = lstm.trace(np.zeros((1, 1)))
    s = clstm.reference.sigmoid
    got = [float(v.item()) for v in (trace.i, trace.f, trace.g, trace.o)]
    expected = [s(np.float64(1)), s(np.float64(2)), np.tanh(3.0), s(np.float64(4))]
    assert_close(np.array(got), np.array(expected), "forward")


# ---------------------------------------------------------------------------------------------------- trace


@pytest.mark.parametrize("shape", SHAPES)
def test_trace_holds_the_gates_and_states_of_the_equations(shape, dtype, backend):
    lstm = make(shape, dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 6, 4, ragged=True)
    y, (h_n, c_n) = lstm(d.x, d.state, d.lengths)
    trace = lstm.trace(d.x, d.state, d.lengths)
    LD, D = lstm.num_layers * lstm.num_directions, lstm.num_directions
    for name in "ifgoch":
        value = getattr(trace, name)
        assert (value.shape, value.dtype) == ((LD, 6, 4, H), dtype)
        assert (value[:, ~d.is_real] == 0).all()
    assert_same_bits(np.concatenate(trace.h[-D:], axis=2), y)
    for n in range(LD):
        reverse, c_prev = lstm.bidirectional and n % 2 == 1, np.empty((6, 4, H), dtype)
        for b, length in enumerate(d.lengths):
            c = trace.c[n, :length, b]
            start = d.state[1][n, b][None]
            before = np.concatenate([c[1:], start] if reverse and length else [start, c[:-1]])
            c_prev[:length, b] = before[:length]
            if length:
                last = 0 if reverse else length - 1
                assert_same_bits(trace.h[n, last, b], h_n[n, b])
                assert_same_bits(trace.c[n, last, b], c_n[n, b])
        i, f, g, o, c, h = (getattr(trace, name)[n][d.is_real].astype(np.float64) for name in "ifgoch")
        kept = c_prev[d.is_real].astype(np.float64)
        assert_close(trace.c[n][d.is_real], f * kept + i * g, "forward", "c")
        assert_close(trace.h[n][d.is_real], o * np.tanh(c), "forward", "h")
        assert np.abs(h).max() <= 1


def test_trace_of_one_sequence_has_no_batch_axis(backend):
    lstm = make(backend=backend)
    d = draw_inputs(lstm, 6, 1)
    trace, batched = lstm.trace(d.x[:, 0]), lstm.trace(d.x)
    for name in "ifgoch":
        assert_same_bits(getattr(trace, name), getattr(batched, name)[:, :, 0])


def test_trace_is_time_major_also_when_sequences_are_not(backend):
    lstm, turned = make(backend=backend), make(backend=backend, batch_first=True)
    d = draw_inputs(lstm, 6, 2)
    assert_same_bits(turned.trace(d.x.swapaxes(0, 1)).h, lstm.trace(d.x).h)


# -------------------------------------------------------------------------------------------------- threads


def test_inference_from_several_threads_at_once(dtype, backend):
    lstm = make(dtype=dtype, backend=backend)
    inputs = [draw_inputs(lstm, 20, 1 + n, seed=n) for n in range(8)]
    expected = [lstm(d.x, d.state)[0] for d in inputs]
    before, gate = snapshot(lstm), threading.Barrier(4, timeout=60)

    def work(worker):
        gate.wait()
        for _ in range(5):
            for n in range(8):
                which = (n + worker) % 8
                got = lstm(inputs[which].x, inputs[which].state)[0]
                assert_same_bits(got, expected[which])
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert snapshot(lstm) == before


def test_objects_train_independently_in_several_threads(backend):
    def train(seed):
        lstm = make(seed=seed, backend=backend)
        d = draw_inputs(lstm, 10, 5, seed=seed)
        for _ in range(3):
            lstm.forward(d.x)
            lstm.backward(d.dy)
            lstm.flat_params -= 0.1 * lstm.flat_grads
        return lstm.flat_params

    expected = [train(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(train, range(4)), expected, strict=True):
            assert_same_bits(got, wanted)


def test_no_call_warns_or_prints(dtype, backend, capfd):
    lstm = make((2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 5, 3, ragged=True)
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        for x in (d.x, d.x * 1e4, d.x * np.nan, np.zeros_like(d.x)):
            lstm(x, lengths=d.lengths)
            lstm.forward(x, d.state, d.lengths)
            lstm.backward(d.dy, d.dstate)
            lstm.trace(x)
            lstm.step(x[0])
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------ initial weights


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
def test_glorot_initial_weights(dtype, bidirectional):
    inputs, units = 20, 64
    lstm = clstm.LSTM(inputs, units, 2, bidirectional=bidirectional, dtype=dtype, rng=1)
    for name, value in lstm.params.items():
        if name.startswith("weight_ih"):
            limit = np.sqrt(6 / (value.shape[1] + units))
            assert np.abs(value).max() <= np.asarray(limit, dtype)
            assert np.abs(value).max() > 0.98 * limit
            assert abs(value.mean()) <= TOLERANCES["sample mean"]["float64"]
        elif name.startswith("weight_hh"):
            for gate in np.split(value, 4):
                assert_close(gate @ gate.T, np.eye(units), "forward", name)
            blocks = [gate.tobytes() for gate in np.split(value, 4)]
            assert len(set(blocks)) == 4
        else:
            expected = np.zeros(4 * units)
            expected[units : 2 * units] = 1
            assert_same_bits(value, expected.astype(dtype))


def test_torch_initial_weights(dtype):
    units = 64
    lstm = clstm.LSTM(20, units, 2, bidirectional=True, dtype=dtype, rng=1, init="torch")
    limit = 1 / np.sqrt(units)
    for value in lstm.params.values():
        assert np.abs(value).max() <= np.asarray(limit, dtype)
        assert np.abs(value).max() > 0.95 * limit
    assert abs(lstm.flat_params.mean()) <= TOLERANCES["sample mean"]["float64"]


@pytest.mark.parametrize("init", ["glorot", "torch"])
def test_forget_bias_is_the_users(init):
    lstm = clstm.LSTM(I, H, 2, bidirectional=True, rng=1, init=init, forget_bias=2.5)
    for name, value in lstm.params.items():
        if name.startswith("bias"):
            assert (value[H : 2 * H] == 2.5).all()
            assert (np.delete(value, np.s_[H : 2 * H]) != 2.5).all()


def test_gradients_start_at_zero():
    assert (clstm.LSTM(I, H, 2).flat_grads == 0).all()


@pytest.mark.parametrize("init", ["glorot", "torch"])
def test_rng_makes_weights_reproducible(init):
    def params(rng):
        return clstm.LSTM(I, H, 2, rng=rng, init=init).flat_params

    assert_same_bits(params(3), params(3))
    assert_same_bits(params(np.random.default_rng(3)), params(3))
    assert_same_bits(params(np.int64(3)), params(3))
    assert not np.array_equal(params(3), params(4))
    assert not np.array_equal(params(None), params(None))
    shared = np.random.default_rng(3)
    assert not np.array_equal(params(shared), params(shared))


def test_weights_do_not_depend_on_the_backend_nor_on_numpys_global_state():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (clstm.LSTM(I, H, rng=3, backend=backend).flat_params for backend in BACKENDS)
    assert_same_bits(first, second)
    assert_same_bits(np.random.get_state()[1], before)  # noqa: NPY002


def test_sizes_of_any_integer_type_are_accepted():
    lstm = clstm.LSTM(np.int32(2), np.uint8(3), np.int64(1), dropout=np.float32(0.25), bidirectional=np.True_)
    assert all(type(v) is int for v in (lstm.input_size, lstm.hidden_size, lstm.num_layers))
    assert lstm.params["weight_ih_l0_reverse"].shape == (12, 2)


@pytest.mark.parametrize("dtype", ["float32", "f4", np.float32, np.dtype(np.float32)], ids=str)
def test_dtype_is_accepted_in_every_spelling(dtype):
    assert clstm.LSTM(I, H, dtype=dtype).flat_params.dtype == np.float32


def test_default_dtype_is_float64():
    assert clstm.LSTM(I, H).dtype == np.float64


def test_repr_tells_the_constructors_arguments_and_can_be_evaluated():
    lstm = clstm.LSTM(
        3, 5, 2, bidirectional=True, dropout=0.25, dtype="float32", batch_first=True, init="torch"
    )
    text = repr(lstm)
    for part in (
        "LSTM(3, 5",
        "num_layers=2",
        "bidirectional=True",
        "dropout=0.25",
        "float32",
        "batch_first=True",
        "'torch'",
    ):
        assert part in text
    assert repr(eval(text, {"LSTM": clstm.LSTM})) == text
    assert repr(clstm.reference.LSTM(1, 2)).startswith("ReferenceLSTM(1, 2")


def test_public_names():
    assert set(clstm.__all__) >= {"LSTM", "FileFormatError", "reference", "show_config", "__version__"}
    for name in clstm.__all__:
        assert hasattr(clstm, name)
