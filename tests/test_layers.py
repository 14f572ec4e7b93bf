"""LSTM and RNN on both backends: values, gradients, layouts, states, dropout, views, trace, threads."""

import copy
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import (
    BACKENDS,
    LAYERS,
    TOLERANCES,
    as_tuple,
    assert_close,
    assert_same_bits,
    build_layer,
    draw_inputs,
    locked,
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


def make(kind, shape=(2, True, True), seed=0, **kwargs):
    layers, bidirectional, bias = shape
    return build_layer(kind, I, H, layers, bidirectional=bidirectional, bias=bias, seed=seed, **kwargs)


def on_parts(change, state):
    """Change every array of a state as users have it."""
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def double(params):
    return {name: value.astype(np.float64) for name, value in params.items()}


def run_oracle(layer, d, masks=None, num_layers=None):
    """Run the oracle over the lowest layers, by default all; return y and the final state."""
    n = num_layers or layer.num_layers
    state = tuple(v[: n * layer.num_directions].astype(np.float64) for v in as_tuple(d.state))
    x, params = d.x.astype(np.float64), double(layer.params)
    return oracle(layer.kind.name, params, n, layer.bidirectional, x, state, d.lengths, masks)


def assert_same_state(got, expected):
    for part, wanted in zip(as_tuple(got), as_tuple(expected), strict=True):
        assert_same_bits(part, wanted)


def assert_state_close(got, expected):
    for part, wanted in zip(as_tuple(got), as_tuple(expected), strict=True):
        assert_close(part, wanted.astype(np.float64), "forward")


# ---------------------------------------------------------------------------------------- values, gradients


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_inference_agree_with_the_oracle(kind, shape, ragged, dtype, backend):
    layer = make(kind, shape, dtype=dtype, backend=backend)
    d = draw_inputs(layer, 6, 4, ragged=ragged)
    expected_y, expected_final = run_oracle(layer, d)
    for call in (layer, layer.forward):
        y, final = call(d.x, d.state, d.lengths)
        assert {v.dtype.name for v in (y, *as_tuple(final))} == {dtype}
        assert_close(y, expected_y, "forward", "y")
        assert_state_close(final, expected_final)
        assert (y[~d.is_real] == 0).all()


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("T", [1, 5])
def test_every_gradient_is_the_complex_step_derivative_of_the_oracle(kind, shape, T, ragged, backend):
    """Along random directions of each parameter, of x and of the initial state."""
    layer = make(kind, shape, backend=backend)
    d = draw_inputs(layer, T, 3, ragged=ragged)
    layer.forward(d.x, d.state, d.lengths)
    dx, dfirst = layer.backward(d.dy, d.dstate)
    of_state = [f"{name}_0" for name in layer.kind.states]
    values = double(layer.params) | {"x": np.where(np.isnan(d.x), 0, d.x)}
    values |= zip(of_state, as_tuple(d.state), strict=True)
    gradients = dict(layer.grads) | {"x": dx} | dict(zip(of_state, as_tuple(dfirst), strict=True))
    assert list(values) == list(gradients)
    dy, rng = np.where(np.isnan(d.dy), 0, d.dy), np.random.default_rng(3)
    for name, value in values.items():
        for _ in range(3):
            direction = rng.standard_normal(value.shape)
            moved = values | {name: value + 1e-30j * direction}
            x, *first = (moved.pop(key).astype(np.complex128) for key in ("x", *of_state))
            y, final = oracle(kind, moved, layer.num_layers, layer.bidirectional, x, first, d.lengths)
            loss = (dy * y).sum()
            loss += sum((given * v).sum() for given, v in zip(as_tuple(d.dstate), final, strict=True))
            scale = np.abs(gradients[name]).max() * np.abs(direction).sum()
            error = abs((gradients[name] * direction).sum() - loss.imag / 1e-30)
            assert error <= TOLERANCES["complex step"]["float64"] * scale, name


@pytest.mark.filterwarnings("ignore:dropout")  # of one layer
@pytest.mark.parametrize("shape", SHAPES)
def test_backends_agree_on_everything(kind, shape, dtype):
    by_backend = []
    for backend in BACKENDS:
        layer = make(kind, shape, dtype=dtype, backend=backend, dropout=0.4)
        d = draw_inputs(layer, 7, 5, ragged=True)
        y, final = layer.forward(d.x, d.state, d.lengths)
        dx, dfirst = layer.backward(d.dy, d.dstate)
        by_backend.append(((y, *as_tuple(final)), (dx, *as_tuple(dfirst), *layer.grads.values())))
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
    kind=st.sampled_from([*LAYERS]), T=st.integers(0, 5), B=st.integers(0, 5), layers=st.integers(1, 3),
    bidirectional=st.booleans(), batch_first=st.booleans(), backend=st.sampled_from(BACKENDS), data=st.data(),
)  # fmt: skip
def test_shapes_and_values_for_any_sizes(kind, T, B, layers, bidirectional, data, batch_first, backend):
    layer = make(kind, (layers, bidirectional, True), batch_first=batch_first, backend=backend)
    d = draw_inputs(layer, T, B)
    d.lengths = np.array(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)), int)
    turn = (lambda v: v.swapaxes(0, 1)) if batch_first else (lambda v: v)
    y, final = layer.forward(turn(d.x), d.state, d.lengths)
    expected_y, expected_final = run_oracle(layer, d)
    assert_close(turn(y), expected_y, "forward")
    assert_state_close(final, expected_final)
    dx, dfirst = layer.backward(turn(d.dy), d.dstate)
    assert dx.shape == turn(d.x).shape
    assert {part.shape for part in as_tuple(dfirst)} == {(layers * (1 + bidirectional), B, H)}


# -------------------------------------------------------------------------------------------------- layouts


def test_batch_first_is_the_same_with_two_axes_exchanged(kind, dtype, backend):
    layer, turned = (make(kind, dtype=dtype, backend=backend, batch_first=first) for first in (False, True))
    d = draw_inputs(layer, 6, 4, ragged=True)
    y, state = layer.forward(d.x, d.state, d.lengths)
    y_turned, state_turned = turned.forward(d.x.swapaxes(0, 1), d.state, d.lengths)
    assert_same_bits(y_turned, y.swapaxes(0, 1))
    assert_same_bits(turned(d.x.swapaxes(0, 1), d.state, d.lengths)[0], y.swapaxes(0, 1))
    assert_same_state(state_turned, state)  # states are never batch-first
    dx, dstate = layer.backward(d.dy, d.dstate)
    dx_turned, dstate_turned = turned.backward(d.dy.swapaxes(0, 1), d.dstate)
    assert_same_bits(dx_turned, dx.swapaxes(0, 1))
    assert_same_state(dstate_turned, dstate)
    assert_same_bits(turned.flat_grads, layer.flat_grads)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-major", "batch-first"])
def test_one_sequence_without_a_batch_axis(kind, dtype, backend, batch_first):
    layer = make(kind, dtype=dtype, backend=backend, batch_first=batch_first)
    batched = make(kind, dtype=dtype, backend=backend)
    d = draw_inputs(layer, 6, 1)
    y, state = batched.forward(d.x, d.state, [4])
    dx, dstate = batched.backward(d.dy, d.dstate)
    one_state, one_dstate = (on_parts(lambda v: v[:, 0], whole) for whole in (d.state, d.dstate))
    for call in (layer, layer.forward):
        got_y, got_state = call(d.x[:, 0], one_state, [4])
        assert_same_bits(got_y, y[:, 0])
        assert_same_state(got_state, on_parts(lambda v: v[:, 0], state))
    got_dx, got_dstate = layer.backward(d.dy[:, 0], one_dstate)
    assert_same_bits(got_dx, dx[:, 0])
    assert_same_state(got_dstate, on_parts(lambda v: v[:, 0], dstate))
    assert_same_bits(layer.flat_grads, batched.flat_grads)


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
def test_every_memory_layout_gives_the_same_bits(kind, dtype, backend, layout):
    layer, change = make(kind, dtype=dtype, backend=backend), LAYOUTS[layout]
    d = draw_inputs(layer, 6, 4)

    def run(x, dy, state, dstate):
        y, final = layer.forward(x, state, d.lengths)
        dx, dfirst = layer.backward(dy, dstate)
        return [layer(x, state)[0], y, *as_tuple(final), dx, *as_tuple(dfirst), layer.flat_grads.copy()]

    expected = run(d.x, d.dy, d.state, d.dstate)
    state, dstate = (on_parts(change, whole) for whole in (d.state, d.dstate))
    for got, wanted in zip(run(change(d.x), change(d.dy), state, dstate), expected, strict=True):
        assert_same_bits(got, wanted)


@pytest.mark.parametrize("numbers", ["i1", "u2", "i4", "u8", "?", "f2", "list"])
def test_integers_are_accepted_as_input(kind, dtype, backend, numbers):
    layer = make(kind, dtype=dtype, backend=backend)
    x = np.random.default_rng(0).integers(0, 2, (4, 2, I))
    given_x = x.tolist() if numbers == "list" else x.astype(numbers)
    assert_same_bits(layer(given_x)[0], layer(x.astype(dtype))[0])


@pytest.mark.parametrize("numbers", ["i1", "u1", "i4", "i8", "u8", ">i4", "list", "tuple"])
def test_lengths_of_every_integer_type_are_accepted(kind, backend, numbers):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 6, 4)
    lengths = np.array([3, 6, 0, 1])
    given_lengths = {"list": list, "tuple": tuple}.get(numbers, lambda v: v.astype(numbers))(lengths)
    assert_same_bits(layer(d.x, lengths=given_lengths)[0], layer(d.x, lengths=lengths)[0])


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0), (0, 0)], ids=["T=0", "B=0", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_time_and_no_rows_are_legal(kind, shape, sizes, dtype, backend):
    layer = make(kind, shape, dtype=dtype, backend=backend)
    d = draw_inputs(layer, *sizes)
    for lengths in (None, d.lengths, list(d.lengths)):
        y, final = layer.forward(d.x, d.state, lengths)
        assert y.shape == d.dy.shape
        assert_same_state(final, d.state)
        layer.flat_grads[...] = 1
        dx, dfirst = layer.backward(d.dy, d.dstate)
        assert dx.shape == d.x.shape
        assert_same_state(dfirst, d.dstate)
        assert (layer.flat_grads == 0).all()


# --------------------------------------------------------------------------------------------------- states


def test_no_state_means_zeros(kind, dtype, backend):
    layer = make(kind, dtype=dtype, backend=backend)
    d = draw_inputs(layer, 4, 3)
    assert_same_bits(layer(d.x)[0], layer(d.x, on_parts(np.zeros_like, d.state))[0])


def test_state_carries_on_where_a_sequence_was_cut(kind, dtype, backend):
    layer = make(kind, (2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(layer, 8, 3)
    whole, whole_state = layer(d.x, d.state)
    first, state = layer(d.x[:3], d.state)
    second, final = layer(d.x[3:], state)
    assert_close(np.concatenate([first, second]), whole.astype(np.float64), "forward")
    assert_state_close(final, whole_state)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one-row"])
@pytest.mark.parametrize("layers", [1, 3])
def test_steps_in_a_row_equal_the_sequence(kind, dtype, backend, layers, batched):
    layer = make(kind, (layers, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(layer, 5, 3 if batched else 1)
    x, state = (d.x, d.state) if batched else (d.x[:, 0], on_parts(lambda v: v[:, 0], d.state))
    y, final = layer(x, state)
    for t in range(len(x)):
        h_t, state = layer.step(x[t], state)
        assert h_t.dtype == dtype
        assert_close(h_t, y[t].astype(np.float64), "forward", f"h_{t}")
    assert_state_close(state, final)


def test_step_without_a_state_starts_from_zeros(kind, dtype, backend):
    layer = make(kind, (2, False, True), dtype=dtype, backend=backend)
    x = np.ones((4, I), dtype)
    assert_close(layer.step(x)[0], layer(x[None])[0][0].astype(np.float64), "forward")
    assert layer.step(x[0])[0].shape == (H,)
    assert layer.step(x[:0])[0].shape == (0, H)


def test_calls_share_no_memory_with_their_arguments_and_each_other(kind, dtype, backend):
    layer = make(kind, (2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(layer, 4, 3)
    calls = [layer.forward(d.x, d.state) for _ in range(2)]
    calls += [layer.backward(d.dy, d.dstate), layer.step(d.x[0], d.state), (d.x, d.state), (d.dy, d.dstate)]
    arrays = [array for first, state in calls for array in (first, *as_tuple(state))]
    arrays += [layer.flat_params, layer.flat_grads]
    for n, first in enumerate(arrays):
        for second in arrays[:n]:
            assert not np.may_share_memory(first, second)
        assert first.flags.writeable


def test_inputs_are_never_modified(kind, dtype, backend):
    layer = make(kind, (2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(layer, 4, 3, ragged=True)
    d.lengths = d.lengths.astype(np.intp)
    before = copy.deepcopy(d)
    layer(d.x, d.state, d.lengths)
    layer.forward(d.x, d.state, d.lengths)
    layer.backward(d.dy, d.dstate)
    layer.trace(d.x, d.state, d.lengths)
    layer.step(d.x[0], d.state)
    for name in ("x", "dy", "lengths"):
        assert_same_bits(getattr(d, name), getattr(before, name))
    for name in ("state", "dstate"):
        assert_same_state(getattr(d, name), getattr(before, name))


# ------------------------------------------------------------------------------------------------- backward


def test_parts_of_the_loss_add_up(kind, backend):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 5, 3, ragged=True)
    layer.forward(d.x, d.state, d.lengths)
    layer.backward(d.dy, d.dstate)
    expected = layer.flat_grads.copy()
    layer.backward(d.dy)
    if kind == "rnn":
        layer.backward(dstate=d.dstate, accumulate=True)
    else:
        layer.backward(dstate=(d.dstate[0], None), accumulate=True)
        layer.backward(dstate=(None, d.dstate[1]), accumulate=True)
    assert_close(layer.flat_grads, expected, "backward")


@pytest.mark.parametrize("missing", ["dy", "dstate"])
def test_missing_derivative_counts_as_zero(kind, backend, missing):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 4, 3)
    layer.forward(d.x, d.state)
    given_ = {"dy": d.dy, "dstate": d.dstate}
    expected = layer.backward(**given_ | {missing: on_parts(np.zeros_like, given_[missing])})
    grads = layer.flat_grads.copy()
    for got in (
        layer.backward(**given_ | {missing: None}),
        layer.backward(**{k: v for k, v in given_.items() if k != missing}),
    ):
        assert_same_bits(got[0], expected[0])
        assert_same_state(got[1], expected[1])
        assert_same_bits(layer.flat_grads, grads)


def test_backward_overwrites_and_accumulates_on_demand(kind, dtype, backend):
    layer = make(kind, dtype=dtype, backend=backend)
    d = draw_inputs(layer, 5, 3)
    layer.forward(d.x)
    first = layer.backward(d.dy)
    once = layer.flat_grads.copy()
    second = layer.backward(d.dy)
    assert_same_bits(layer.flat_grads, once)
    assert_same_bits(second[0], first[0])
    layer.backward(d.dy, accumulate=True)
    assert_same_bits(layer.flat_grads, once + once)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-major", "batch-first"])
def test_nan_stays_in_its_own_row(kind, dtype, backend, batch_first):
    layer = make(kind, dtype=dtype, backend=backend, batch_first=batch_first)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 4, I)).astype(dtype)
    dirty = x.copy()
    dirty[(2, 1) if batch_first else (1, 2)] = np.nan
    rows = (lambda v: v[[0, 1, 3]]) if batch_first else (lambda v: v[:, [0, 1, 3]])
    y, dirty_y = layer.forward(x)[0], layer.forward(dirty)[0]
    assert_same_bits(rows(dirty_y), rows(y))
    assert np.isnan(dirty_y).any()


# -------------------------------------------------------------------------------------------------- dropout


def pass_through(kind, dropout, backend, rng):
    """Make two layers of one unit without state; y is 0 exactly where the value between them was dropped."""
    layer = LAYERS[kind](1, 1, 2, dropout=dropout, backend=backend, rng=rng)
    layer.flat_params[...] = 0
    layer.params["weight_ih_l0"][...] = 1
    layer.params["weight_ih_l1"][...] = 0.5
    return layer


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_scales_the_rest(kind, dropout, backend):
    layer = pass_through(kind, dropout, backend, 0)
    x = np.ones((1, 100_000, 1))
    y = layer.forward(x)[0]
    dropped = y == 0
    assert abs(dropped.mean() - dropout) <= TOLERANCES["sample mean"]["float64"]
    # What is kept is multiplied with 1 / (1 - dropout): the mean stays.
    layer.params["weight_ih_l1"] /= 1 - dropout
    assert_close(y[~dropped], layer(x)[0][~dropped], "forward")


def test_forward_multiplies_what_goes_from_layer_to_layer_with_masks(kind, dtype, backend):
    layer = make(kind, (3, True, True), dtype=dtype, backend=backend, dropout=0.4)
    d = draw_inputs(layer, 5, 4, ragged=True)
    y, final = layer.forward(d.x, d.state, d.lengths)
    masks = [part.mask for part in layer.tape.layers]
    assert masks[0] is None
    for mask in masks[1:]:
        assert_close(np.unique(mask), np.array([0, 1 / 0.6]), "forward")
    assert not np.array_equal(masks[1], masks[2])
    expected_y, expected_final = run_oracle(layer, d, masks)
    assert_close(y, expected_y, "forward")
    assert_state_close(final, expected_final)


def test_inference_applies_no_dropout(kind, dtype, backend):
    with_dropout, without = (make(kind, dtype=dtype, backend=backend, dropout=p) for p in (0.5, 0.0))
    d = draw_inputs(without, 5, 3)
    before = snapshot(with_dropout)
    assert_same_bits(with_dropout(d.x)[0], without(d.x)[0])
    assert_same_bits(with_dropout.trace(d.x).h, without.trace(d.x).h)
    assert snapshot(with_dropout) == before


def test_dropout_of_one_layer_drops_nothing_and_says_so(kind, backend):
    with pytest.warns(
        UserWarning, match="dropout: expected 0 with num_layers=1, .* got 0.9; nothing is dropped"
    ):
        layer = make(kind, (1, True, True), backend=backend, dropout=0.9)
    d = draw_inputs(layer, 5, 3)
    assert_same_bits(layer.forward(d.x)[0], layer(d.x)[0])


def test_dropout_repeats_with_the_seed_and_differs_from_call_to_call(kind, dtype, backend):
    first, second = (make(kind, dtype=dtype, backend=backend, dropout=0.5) for _ in range(2))
    d = draw_inputs(first, 5, 3)
    y = first.forward(d.x)[0]
    assert_same_bits(second.forward(d.x)[0], y)
    assert not np.array_equal(first.forward(d.x)[0], y)


def test_gradients_go_through_the_dropout_masks(kind, backend):
    rng = np.random.default_rng(11)
    layer = LAYERS[kind](I, H, 3, bidirectional=True, dropout=0.4, rng=rng, backend=backend)
    d = draw_inputs(layer, 4, 3, ragged=True)
    x, dy = np.nan_to_num(d.x), np.nan_to_num(d.dy)
    start = rng.bit_generator.state

    def loss(moved_x):
        rng.bit_generator.state = start
        y, final = layer.forward(moved_x, d.state, d.lengths)
        of_state = zip(as_tuple(final), as_tuple(d.dstate), strict=True)
        return (y * dy).sum() + sum((part * given).sum() for part, given in of_state)

    loss(x)
    dx, _ = layer.backward(dy, d.dstate)
    gradients = {"x": dx} | {name: value.copy() for name, value in layer.grads.items()}
    values = {"x": x} | dict(layer.params)
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
def test_parameters_have_pytorchs_names_and_shapes(kind, shape):
    layer = make(kind, shape)
    layers, bidirectional, bias = shape
    rows = {"lstm": 4 * H, "rnn": H}[kind]
    expected = {}
    for k in range(layers):
        for suffix in ("", "_reverse")[: 1 + bidirectional]:
            expected[f"weight_ih_l{k}{suffix}"] = (rows, H * (1 + bidirectional) if k else I)
            expected[f"weight_hh_l{k}{suffix}"] = (rows, H)
            if bias:
                expected[f"bias_l{k}{suffix}"] = (rows,)
    for named in (layer.params, layer.grads):
        assert {name: value.shape for name, value in named.items()} == expected
        assert list(named) == list(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_params_and_grads_are_views_that_cover_one_flat_array(kind, shape, dtype):
    layer = make(kind, shape, dtype=dtype)
    for flat, named in ((layer.flat_params, layer.params), (layer.flat_grads, layer.grads)):
        assert flat.flags.c_contiguous
        assert flat.ndim == 1
        assert flat.dtype == dtype
        assert flat.size == sum(value.size for value in named.values())
        flat[...] = -1
        for n, value in enumerate(named.values()):
            assert np.shares_memory(value, flat)
            assert (value == -1).all()
            value[...] = n
        assert list(np.unique(flat, return_counts=True)[1]) == [value.size for value in named.values()]


def test_changes_of_params_in_place_are_seen_by_every_call(kind, dtype, backend):
    layer, other = (make(kind, (2, False, True), dtype=dtype, backend=backend, seed=seed) for seed in (0, 1))
    d = draw_inputs(layer, 5, 3)
    layer(d.x)
    for name, value in other.params.items():
        layer.params[name] -= layer.params[name]
        layer.params[name] += value
    assert_same_bits(layer(d.x)[0], other(d.x)[0])
    assert_same_bits(layer.step(d.x[0])[0], other.step(d.x[0])[0])
    assert_same_bits(layer.trace(d.x).h, other.trace(d.x).h)
    layer.forward(d.x)
    other.forward(d.x)
    assert_same_bits(layer.backward(d.dy)[0], other.backward(d.dy)[0])
    layer.params["bias_l0"][...] += 1
    assert not np.array_equal(layer(d.x)[0], other(d.x)[0])


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

LETTERS = {"lstm": "ifgoch", "rnn": "h"}


@pytest.mark.parametrize("shape", SHAPES)
def test_trace_holds_what_every_layer_and_direction_has_computed(kind, shape, dtype, backend):
    layer = make(kind, shape, dtype=dtype, backend=backend)
    d = draw_inputs(layer, 6, 4, ragged=True)
    y, final = layer(d.x, d.state, d.lengths)
    trace = layer.trace(d.x, d.state, d.lengths)
    L, D = layer.num_layers, layer.num_directions
    assert sorted(vars(trace)) == sorted(LETTERS[kind])
    for name in LETTERS[kind]:
        value = getattr(trace, name)
        assert (value.shape, value.dtype) == ((L * D, 6, 4, H), dtype)
        assert (value[:, ~d.is_real] == 0).all()
    assert_same_bits(np.concatenate(trace.h[-D:], axis=2), y)
    for k in range(L):
        expected, _ = run_oracle(layer, d, num_layers=k + 1)
        assert_close(
            np.concatenate(trace.h[k * D : (k + 1) * D], axis=2), expected, "forward", f"h of layer {k}"
        )
    for n in range(L * D):
        for b, length in enumerate(d.lengths):
            last = 0 if n % D else length - 1
            for name, part in zip(layer.kind.states, as_tuple(final), strict=True):
                if length:
                    assert_same_bits(getattr(trace, name)[n, last, b], part[n, b])


@pytest.mark.parametrize("shape", SHAPES)
def test_trace_of_an_lstm_holds_the_gates_of_the_equations(shape, dtype, backend):
    lstm = make("lstm", shape, dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 6, 4, ragged=True)
    trace = lstm.trace(d.x, d.state, d.lengths)
    for n in range(lstm.num_layers * lstm.num_directions):
        reverse, c_prev = lstm.bidirectional and n % 2 == 1, np.empty((6, 4, H), dtype)
        for b, length in enumerate(d.lengths):
            c = trace.c[n, :length, b]
            start = d.state[1][n, b][None]
            before = np.concatenate([c[1:], start] if reverse and length else [start, c[:-1]])
            c_prev[:length, b] = before[:length]
        i, f, g, o, c, h = (getattr(trace, name)[n][d.is_real].astype(np.float64) for name in "ifgoch")
        kept = c_prev[d.is_real].astype(np.float64)
        assert_close(trace.c[n][d.is_real], f * kept + i * g, "forward", "c")
        assert_close(trace.h[n][d.is_real], o * np.tanh(c), "forward", "h")
        assert np.abs(h).max() <= 1


def test_trace_of_one_sequence_has_no_batch_axis(kind, backend):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 6, 1)
    trace, batched = layer.trace(d.x[:, 0]), layer.trace(d.x)
    for name in LETTERS[kind]:
        assert_same_bits(getattr(trace, name), getattr(batched, name)[:, :, 0])


def test_trace_is_time_major_also_when_sequences_are_not(kind, backend):
    layer, turned = make(kind, backend=backend), make(kind, backend=backend, batch_first=True)
    d = draw_inputs(layer, 6, 2)
    assert_same_bits(turned.trace(d.x.swapaxes(0, 1)).h, layer.trace(d.x).h)


# -------------------------------------------------------------------------------------------------- threads


def test_inference_from_several_threads_at_once(kind, dtype, backend):
    layer = make(kind, dtype=dtype, backend=backend)
    inputs = [draw_inputs(layer, 20, 1 + n, seed=n) for n in range(8)]
    expected = [layer(d.x, d.state)[0] for d in inputs]
    before, gate = snapshot(layer), threading.Barrier(4, timeout=60)

    def work(worker):
        gate.wait()
        for _ in range(5):
            for n in range(8):
                which = (n + worker) % 8
                got = layer(inputs[which].x, inputs[which].state)[0]
                assert_same_bits(got, expected[which])
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert snapshot(layer) == before


def test_objects_train_independently_in_several_threads(kind, backend):
    def train(seed):
        layer = make(kind, seed=seed, backend=backend)
        d = draw_inputs(layer, 10, 5, seed=seed)
        for _ in range(3):
            layer.forward(d.x)
            layer.backward(d.dy)
            layer.flat_params -= 0.1 * layer.flat_grads
        return layer.flat_params

    expected = [train(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(train, range(4)), expected, strict=True):
            assert_same_bits(got, wanted)


def test_no_call_warns_or_prints(kind, dtype, backend, capfd):
    layer = make(kind, (2, False, True), dtype=dtype, backend=backend)
    d = draw_inputs(layer, 5, 3, ragged=True)
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        for x in (d.x, d.x * 1e4, d.x * np.nan, np.zeros_like(d.x)):
            layer(x, lengths=d.lengths)
            layer.forward(x, d.state, d.lengths)
            layer.backward(d.dy, d.dstate)
            layer.trace(x)
            layer.step(x[0])
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------ initial weights


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
def test_glorot_initial_weights(kind, dtype, bidirectional):
    inputs, units, gates = 20, 64, {"lstm": 4, "rnn": 1}[kind]
    layer = LAYERS[kind](inputs, units, 2, bidirectional=bidirectional, dtype=dtype, rng=1)
    for name, value in layer.params.items():
        if name.startswith("weight_ih"):
            limit = np.sqrt(6 / (value.shape[1] + units))
            assert np.abs(value).max() <= np.asarray(limit, dtype)
            assert np.abs(value).max() > 0.98 * limit
            assert abs(value.mean()) <= TOLERANCES["sample mean"]["float64"]
        elif name.startswith("weight_hh"):
            for gate in np.split(value, gates):
                assert_close(gate @ gate.T, np.eye(units), "forward", name)
            blocks = [gate.tobytes() for gate in np.split(value, gates)]
            assert len(set(blocks)) == gates
        else:
            expected = np.zeros(gates * units)
            if kind == "lstm":
                expected[units : 2 * units] = 1
            assert_same_bits(value, expected.astype(dtype))


def test_torch_initial_weights(kind, dtype):
    units = 64
    layer = LAYERS[kind](20, units, 2, bidirectional=True, dtype=dtype, rng=1, init="torch")
    limit = 1 / np.sqrt(units)
    for value in layer.params.values():
        assert np.abs(value).max() <= np.asarray(limit, dtype)
        assert np.abs(value).max() > 0.9 * limit
        assert (value != 0).all()
    assert abs(layer.flat_params.mean()) <= TOLERANCES["sample mean"]["float64"]


@pytest.mark.parametrize("init", ["glorot", "torch"])
def test_forget_bias_is_the_users(init):
    lstm = clstm.LSTM(I, H, 2, bidirectional=True, rng=1, init=init, forget_bias=2.5)
    for name, value in lstm.params.items():
        if name.startswith("bias"):
            assert (value[H : 2 * H] == 2.5).all()
            assert (np.delete(value, np.s_[H : 2 * H]) != 2.5).all()


def test_gradients_start_at_zero(kind):
    assert (LAYERS[kind](I, H, 2).flat_grads == 0).all()


@pytest.mark.parametrize("init", ["glorot", "torch"])
def test_rng_makes_weights_reproducible(kind, init):
    def params(rng):
        return LAYERS[kind](I, H, 2, rng=rng, init=init).flat_params

    assert_same_bits(params(3), params(3))
    assert_same_bits(params(np.random.default_rng(3)), params(3))
    assert_same_bits(params(np.int64(3)), params(3))
    assert not np.array_equal(params(3), params(4))
    assert not np.array_equal(params(None), params(None))
    shared = np.random.default_rng(3)
    assert not np.array_equal(params(shared), params(shared))


def test_weights_do_not_depend_on_the_backend_nor_on_numpys_global_state(kind):
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (LAYERS[kind](I, H, rng=3, backend=backend).flat_params for backend in BACKENDS)
    assert_same_bits(first, second)
    assert_same_bits(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.filterwarnings("ignore:dropout")
def test_sizes_of_any_integer_type_are_accepted(kind):
    layer = LAYERS[kind](
        np.int32(2), np.uint8(3), np.int64(1), dropout=np.float32(0.25), bidirectional=np.True_
    )
    assert all(type(v) is int for v in (layer.input_size, layer.hidden_size, layer.num_layers))
    assert layer.params["weight_ih_l0_reverse"].shape[1] == 2


@pytest.mark.parametrize("dtype", ["float32", "f4", np.float32, np.dtype(np.float32)], ids=str)
def test_dtype_is_accepted_in_every_spelling(kind, dtype):
    assert LAYERS[kind](I, H, dtype=dtype).flat_params.dtype == np.float32


def test_default_dtype_is_float64(kind):
    assert LAYERS[kind](I, H).dtype == np.float64


def test_repr_tells_the_constructors_arguments_and_can_be_evaluated(kind):
    arguments = {
        "num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.25, "bidirectional": True,
        "init": "torch", "dtype": "float32",
    }  # fmt: skip
    text = repr(LAYERS[kind](3, 5, **arguments))
    assert text.startswith(f"{kind.upper()}(3, 5, ")
    for name, value in arguments.items():
        assert f"{name}={value!r}" in text
    assert not any(name in text for name in ("forget_bias", "zoneout", "backend"))  # what has its default
    assert repr(eval(text, {kind.upper(): LAYERS[kind]})) == text


def test_repr_of_the_reference_class():
    assert repr(clstm.reference.LSTM(1, 2)).startswith("ReferenceLSTM(1, 2")


def test_public_names():
    names = {"LSTM", "RNN", "FileFormatError", "Tape", "load", "reference", "show_config", "__version__"}
    assert set(clstm.__all__) >= names
    for name in clstm.__all__:
        assert hasattr(clstm, name)
