"""clstm.gradient_flow: the norms are those of the derivatives by definition; the layer stays as it was."""

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_layer, draw_inputs, unchanged

import clstm
from clstm import reference
from clstm.cells import CellTape, Schedule


def draw(kind, T, B, I, H):  # noqa: E741
    """Draw x, dy and a state."""
    rng = np.random.default_rng([T, B, I, H])
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    h_0, c_0 = rng.uniform(-1, 1, (2, 1, B, H))
    return x, dy, (h_0, c_0) if kind == "lstm" else h_0


def run_rest(layer, x, state):
    """Run the definition over what is left of a sequence, from a state that may be complex; returns y."""
    (cell,), shape = layer.cells, (len(x), *state[0].shape)
    left = CellTape(np.empty(shape, state[0].dtype))
    final = tuple(np.empty_like(part) for part in state)
    reference.forward(cell, x, state, Schedule(np.full(shape[1], len(x)), False), left, final)
    return left.y


def norms_by_definition(layer, x, dy, state):
    """Move each unit of h_t, and of c_t, by a complex step, run the rest, take the norms of the derivatives.

    The loss of each row is a sum of its own, so that one run serves all rows.
    """
    trace = layer.trace(x, state)
    is_lstm = isinstance(layer, clstm.LSTM)
    T, B, H = dy.shape
    dh, dc = (np.empty((T + 1, B, H)) for _ in range(2))
    for t, unit in np.ndindex(T + 1, H):
        moved = np.zeros(H, complex)
        moved[unit] = 1e-30j
        h = trace.h[0, t - 1] if t else (state[0] if is_lstm else state)[0]
        c = ((trace.c[0, t - 1] if t else state[1][0]) + 0j,) if is_lstm else ()
        seen = np.zeros(H) if t == 0 else dy[t - 1]  # nothing sees the initial state but what follows
        dh[t, :, unit] = (seen * (h + moved)).sum(axis=1).imag
        dh[t, :, unit] += (dy[t:] * run_rest(layer, x[t:], (h + moved, *c))).sum(axis=(0, 2)).imag
        if is_lstm:
            moved_c = c[0] + moved
            h = trace.o[0, t - 1] * np.tanh(moved_c) if t else h + 0j
            later = (dy[t:] * run_rest(layer, x[t:], (h, moved_c))).sum(axis=(0, 2))
            dc[t, :, unit] = (seen * h).sum(axis=1).imag + later.imag
    return [np.linalg.norm(part[::-1] / 1e-30, axis=2) for part in (dh, dc)]


@pytest.mark.parametrize(
    "sizes", [(5, 3, 2, 4), (1, 3, 2, 4), (4, 1, 3, 1)], ids="T{0[0]}-B{0[1]}-I{0[2]}-H{0[3]}".format
)
def test_norms_are_those_of_the_derivatives(kind, sizes, backend):
    layer = build_layer(kind, *sizes[2:], backend=backend)
    x, dy, state = draw(kind, *sizes)
    flow = clstm.gradient_flow(layer, x, dy, state)
    dh, dc = norms_by_definition(layer, x, dy, state)
    assert_close(flow.dh, dh, "complex step", "dh")
    if kind == "lstm":
        assert_close(flow.dc, dc, "complex step", "dc")
    else:
        assert flow.dc is None
    assert_same_bits(flow.distance, np.arange(sizes[0] + 1))


def test_without_dy_the_loss_is_the_scaled_sum_of_the_last_hidden_state(kind):
    layer = build_layer(kind, 2, 4)
    x, dy, state = draw(kind, 6, 3, 2, 4)
    dy[...] = 0
    dy[-1] = 1 / 2
    flow, expected = clstm.gradient_flow(layer, x, state=state), clstm.gradient_flow(layer, x, dy, state)
    assert_same_bits(flow.dh, expected.dh)
    assert_close(flow.dh[0], np.ones(3), "forward")


def test_the_oldest_entry_is_what_backward_returns_for_the_initial_state(kind):
    layer = build_layer(kind, 2, 4)
    x, dy, state = draw(kind, 6, 3, 2, 4)
    flow = clstm.gradient_flow(layer, x, dy, state)
    layer.forward(x, state)
    dstate = layer.backward(dy)[1]
    for got, expected in zip((flow.dh, flow.dc), dstate if kind == "lstm" else (dstate,), strict=False):
        assert_close(got[-1], np.linalg.norm(expected[0], axis=1), "backward")


def test_every_layout_gives_the_same(kind):
    layer, batch_first = build_layer(kind, 2, 4), build_layer(kind, 2, 4, batch_first=True)
    x, dy, state = draw(kind, 6, 3, 2, 4)
    expected = clstm.gradient_flow(layer, x, dy, state)
    assert_same_bits(
        clstm.gradient_flow(batch_first, x.swapaxes(0, 1), dy.swapaxes(0, 1), state).dh, expected.dh
    )
    own = tuple(part[:, 1] for part in state) if kind == "lstm" else state[:, 1]
    one = clstm.gradient_flow(layer, x[:, 1], dy[:, 1], own)
    assert_close(one.dh, expected.dh[:, 1], "backward")
    if kind == "lstm":
        assert_close(one.dc, expected.dc[:, 1], "backward")


def test_a_layer_without_bias_has_a_flow_too(kind):
    x, dy, state = draw(kind, 4, 3, 2, 4)
    with_zeros = build_layer(kind, 2, 4)
    with_zeros.params["bias_l0"][...] = 0
    without = type(with_zeros)(2, 4, bias=False)
    without.load_state_dict(with_zeros.state_dict(), strict=False)
    got, expected = (clstm.gradient_flow(layer, x, dy, state) for layer in (without, with_zeros))
    assert_same_bits(got.dh, expected.dh)


def test_float32_neither_rounds_nor_underflows():
    """One RNN unit at rest: 99 steps back, a 100th to the power of 99 is left."""
    rnn = clstm.RNN(1, 1, dtype=np.float32, rng=0)
    rnn.params["weight_hh_l0"][...] = 0.01
    flow = clstm.gradient_flow(rnn, np.zeros((99, 1)))
    weight = float(np.float32(0.01))
    assert flow.dh[-1] > 0
    assert_close(flow.dh / weight**flow.distance, np.ones(100), "backward")


def test_a_cell_keeps_what_the_forget_gate_lets_through():
    """One unit without weights: half of the gradient enters the cell, a step leaves sigmoid(bias) of it."""
    lstm = clstm.LSTM(1, 1, forget_bias=2.0, rng=0)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        lstm.params[name][...] = 0
    flow = clstm.gradient_flow(lstm, np.zeros((50, 1)))
    kept = reference.sigmoid(np.array(2.0))
    assert_close(flow.dc[:-1] / kept ** flow.distance[:-1], np.full(50, 0.5), "backward")
    assert_same_bits(flow.dh, np.eye(51)[0])


def test_weights_as_small_as_from_scratch_classes_draw_them_lose_nearly_all():
    """29 steps, weights of size 0.01, no bias: some ten orders of magnitude in an LSTM, forty in an RNN."""
    rng = np.random.default_rng(42)
    x = 0.1 * rng.standard_normal((30, 10))
    left = {}
    for layer in (clstm.LSTM(10, 16, bias=False), clstm.RNN(10, 16, bias=False)):
        layer.flat_params[...] = 0.01 * rng.standard_normal(layer.flat_params.size)
        left[type(layer).__name__] = clstm.gradient_flow(layer, x).dh[29]
    assert 1e-12 < left["LSTM"] < 1e-9
    assert 1e-45 < left["RNN"] < 1e-36


def test_the_layer_stays_as_it_was(kind):
    layer = build_layer(kind, 2, 4)
    inputs = draw_inputs(layer, 6, 3)
    layer.forward(inputs.x, inputs.state)
    layer.backward(inputs.dy)
    grads = layer.flat_grads.copy()
    with unchanged(layer):
        clstm.gradient_flow(layer, inputs.x[:4], inputs.dy[:4])
    layer.backward(inputs.dy)  # its own tape is still there
    assert_same_bits(layer.flat_grads, grads)


@pytest.mark.filterwarnings("ignore:dropout")  # of one layer
def test_nothing_is_drawn(kind):
    """Not from the layer's generator, nor for another layer."""
    layer = build_layer(kind, 2, 4, dropout=0.5)
    with unchanged(layer):
        clstm.gradient_flow(layer, np.ones((3, 2)))


@pytest.mark.parametrize(
    ("layer", "x", "kwargs", "error", "message"),
    [
        (
            np.ones(3),
            np.ones((5, 2)),
            {},
            TypeError,
            r"layer: expected LSTM or RNN, got array of shape \(3,\)",
        ),
        (clstm.LSTM(2, 3, 2), np.ones((5, 2)), {}, ValueError, "layer: expected one layer in one direction"),
        (
            clstm.LSTM(2, 3, bidirectional=True),
            np.ones((5, 2)),
            {},
            ValueError,
            "layer: expected one layer in one direction",
        ),
        (
            clstm.LSTM(2, 3),
            np.ones((0, 2)),
            {},
            ValueError,
            r"x: expected at least one time step, got shape \(0, 2\)",
        ),
        (
            clstm.RNN(2, 3),
            np.ones((5, 1, 4)),
            {},
            ValueError,
            r"x: expected shape \(T, B, 2\), got \(5, 1, 4\)",
        ),
        (
            clstm.LSTM(2, 3),
            np.ones((5, 2)),
            {"dy": np.ones((5, 4))},
            ValueError,
            r"dy: expected shape \(5, 3\), got \(5, 4\)",
        ),
        (clstm.LSTM(2, 3), np.ones((5, 2)), {"state": np.ones((1, 3))}, ValueError, "state: expected a pair"),
        (
            clstm.RNN(2, 3),
            np.ones((5, 2)),
            {"state": np.ones((1, 4))},
            ValueError,
            r"state: expected shape \(1, 3\)",
        ),
    ],
)
def test_bad_input_is_refused(layer, x, kwargs, error, message):
    with pytest.raises(error, match=message):
        clstm.gradient_flow(layer, x, **kwargs)
