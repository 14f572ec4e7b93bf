"""The options of LSTM and RNN as classes: what is drawn, settings, shapes, files, trace, gradient flow."""

import copy
import pickle
import re

import numpy as np
import pytest
from conftest import (
    ACTIVATIONS,
    OPTIONS,
    SPECS,
    TOGETHER,
    TOLERANCES,
    any_options,
    as_arguments,
    as_tuple,
    assert_close,
    assert_same_bits,
    build_layer,
    build_lstm,
    draw_inputs,
    snapshot,
    threads,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import clstm
from clstm import reference

I, H = 3, 7  # noqa: E741
DRAWN = {"input_dropout": 0.5, "recurrent_dropout": 0.4, "zoneout": (0.3, 0.2)}
EVERY = OPTIONS | TOGETHER | {"input dropout": {"input_dropout": 0.5}} | dict(list(ACTIVATIONS.items())[:4])


def make(name, *args, **kwargs):
    """Make two layers with the options of a name."""
    return build_lstm(I, H, *(args or (2,)), **as_arguments(EVERY[name], H), **kwargs)


def drawn_by(layer):
    """Return every mask on the tape of a layer, by layer, direction and name."""
    masks = {}
    for k, one in enumerate(layer.tape.layers):
        masks[k, "input"] = one.mask
        for d, cell in enumerate(one.cells):
            masks |= {(k, d, name): mask for name, mask in cell.masks._asdict().items()}
    return masks


def gradients(layer, d, tape=None):
    dx, dfirst = layer.backward(d.dy, d.dstate, tape=tape)
    return [dx, *as_tuple(dfirst), layer.flat_grads.copy()]


def assert_all_same(got, expected):
    for value, wanted in zip(got, expected, strict=True):
        assert_same_bits(value, wanted)


# ---------------------------------------------------------------------------------------------- both backends


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("name", EVERY)
def test_backends_agree_on_everything_with_options(dtype, name, bidirectional):
    results = []
    for backend in ("numpy", "auto"):
        layer = make(name, dtype=dtype, backend=backend, bidirectional=bidirectional)
        d = draw_inputs(layer, 5, 4, ragged=True)
        y, final = layer.forward(d.x, d.state, d.lengths, d.resets)
        inference, _ = layer(d.x, d.state, d.lengths, d.resets)
        results.append(((y, inference, *final), gradients(layer, d)))
    (expected, expected_gradients), (values, got_gradients) = results
    for got, wanted in zip(values, expected, strict=True):
        assert_close(got, wanted.astype(np.float64), "forward")
    for got, wanted in zip(got_gradients, expected_gradients, strict=True):
        assert_close(got, wanted.astype(np.float64), "backward")


@settings(max_examples=15)
@given(options=any_options(), input_dropout=st.sampled_from([0.0, 0.4]), data=st.data())
def test_gradients_of_any_options_are_those_of_central_differences(options, input_dropout, data):
    """Of a whole stack, with the masks drawn anew as they were; along one direction of everything."""
    options = options | {"activations": ("sigmoid", "tanh", "tanh"), "gate_clip": None, "cell_clip": None}
    rng = np.random.default_rng(11)
    layer = clstm.LSTM(
        I, H, 2, bidirectional=data.draw(st.booleans()), rng=rng, backend="numpy", dropout=0.2,
        input_dropout=input_dropout, **as_arguments(options, H),
    )  # fmt: skip
    d = draw_inputs(layer, 4, 3, ragged=True)
    x, dy = np.nan_to_num(d.x), np.nan_to_num(d.dy)
    start, directions = rng.bit_generator.state, np.random.default_rng(5)

    def loss(moved_x):
        rng.bit_generator.state = start
        y, final = layer.forward(moved_x, d.state, d.lengths, d.resets)
        return (y * dy).sum() + sum((part * given).sum() for part, given in zip(final, d.dstate, strict=True))

    loss(x)
    dx, _ = layer.backward(dy, d.dstate)
    grads, params = layer.flat_grads.copy(), layer.flat_params.copy()
    along_x, along_params = (directions.standard_normal(v.shape) for v in (x, params))
    claimed = (dx * along_x).sum() + (grads * along_params).sum()
    assume(
        abs(claimed) < 1e4
    )  # a layer norm of numbers that are nearly equal explodes, which no step resolves
    ends = []
    for distance in (1e-6, -1e-6):
        layer.flat_params[...] = params + distance * along_params
        ends.append(loss(x + distance * along_x))
    numeric = np.array((ends[0] - ends[1]) / 2e-6)
    assert_close(np.array(claimed), numeric, "central difference")


# ---------------------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "resets"])
def test_masks_are_the_same_on_every_backend_and_number_of_threads(kind, resets):
    drawn = {name: p for name, p in DRAWN.items() if kind == "lstm" or name != "zoneout"}
    masks, results = [], []
    for backend, n in (("numpy", 1), ("auto", 1), ("auto", 2), ("auto", 5)):
        layer = build_layer(kind, I, 40, 2, bidirectional=True, backend=backend, dropout=0.2, **drawn)
        d = draw_inputs(layer, 30, 20, ragged=True)
        with threads(n):
            y, _ = layer.forward(d.x, d.state, d.lengths, d.resets if resets else None)
            results.append([y, *gradients(layer, d)])
        masks.append(drawn_by(layer) | {"next": layer._rng.random(3)})
    for other in masks[1:]:
        assert other.keys() == masks[0].keys()
        for name, mask in masks[0].items():
            assert (mask is None) == (other[name] is None)
            if mask is not None:
                assert_same_bits(other[name], mask, str(name))
    for other in results[2:]:
        assert_all_same(other, results[1])


@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "resets"])
def test_dropout_of_input_and_state_holds_for_an_episode_and_is_new_for_the_next(kind, backend, resets):
    layer = build_layer(
        kind, 20, 24, 2, backend=backend, bidirectional=True, input_dropout=0.5, recurrent_dropout=0.25
    )
    d = draw_inputs(layer, 9, 4)
    begins = np.zeros((9, 4), bool)
    begins[[0, 3, 7], 1] = begins[5, 2] = True
    layer.forward(d.x, resets=begins if resets else None)
    starts = begins if resets else np.zeros_like(begins)
    number = np.cumsum(np.vstack([starts[:1] | True, starts[1:]]), axis=0)
    for name, mask in drawn_by(layer).items():
        if mask is None:
            continue
        p = 0.5 if "input" in name else 0.25
        assert set(np.unique(mask)) == {0, 1 / (1 - p)}
        for row in range(4):
            episodes = [mask[number[:, row] == n, row] for n in np.unique(number[:, row])]
            for episode in episodes:
                assert (episode == episode[0]).all()
            assert len({episode[0].tobytes() for episode in episodes}) == len(episodes)
        assert len({mask[0, row].tobytes() for row in range(4)}) == 4
        assert (mask.strides[0] == 0) == (not resets)  # no memory for steps that are alike


def test_every_layer_and_direction_has_masks_of_its_own(backend):
    layer = build_lstm(24, 24, 3, bidirectional=True, backend=backend, **DRAWN)
    layer.forward(draw_inputs(layer, 3, 2).x)
    masks = [mask.tobytes() for mask in drawn_by(layer).values()]
    assert len(masks) == 3 + 3 * 2 * 3 == len(set(masks))


def test_zoneout_is_drawn_for_each_step(backend):
    layer = build_lstm(I, 50, backend=backend, zoneout=(0.5, 0.5))
    layer.forward(np.zeros((4, 1, I)))
    for mask in layer.tape.layers[0].cells[0].masks[1:]:
        assert len({step.tobytes() for step in mask}) == 4
        assert set(np.unique(mask)) == {0, 1}


def test_masks_keep_the_mean(kind, dtype):
    layer = build_layer(kind, 100, 100, dtype=dtype, input_dropout=0.5, recurrent_dropout=0.5)
    layer.forward(np.zeros((1, 120, 100)))
    layer_tape = layer.tape.layers[0]
    for mask in (layer_tape.mask, layer_tape.cells[0].masks.recurrent):
        assert mask.dtype == dtype
        assert abs(mask.mean(dtype=np.float64) - 1) <= TOLERANCES["sample mean"]["float64"]
    if kind == "lstm":
        layer.zoneout = (0.3, 0.2)
        layer.forward(np.zeros((1, 120, 100)))
        for mask, p in zip(layer.tape.layers[0].cells[0].masks[1:], layer.zoneout, strict=True):
            assert abs(mask.mean(dtype=np.float64) - p) <= TOLERANCES["sample mean"]["float64"]


def test_recurrent_dropout_of_one_row_is_a_layer_without_these_weights(kind, dtype, backend):
    layer = build_layer(kind, I, H, dtype=dtype, backend=backend, recurrent_dropout=0.5)
    d = draw_inputs(layer, 6, 1)
    y, final = layer.forward(d.x, d.state)
    mask = layer.tape.layers[0].cells[0].masks.recurrent[0, 0]
    plain = build_layer(kind, I, H, dtype=dtype, backend=backend)
    plain.params["weight_hh_l0"][...] *= mask
    expected, expected_final = plain(d.x, d.state)
    assert_close(y, expected.astype(np.float64), "forward")
    for part, wanted in zip(as_tuple(final), as_tuple(expected_final), strict=True):
        assert_close(part, wanted.astype(np.float64), "forward")
    dx, _ = layer.backward(d.dy)
    plain.forward(d.x, d.state)
    assert_close(dx, plain.backward(d.dy)[0].astype(np.float64), "backward")
    assert (layer.grads["weight_hh_l0"][:, mask == 0] == 0).all()


def test_input_dropout_of_a_sequence_is_a_layer_on_fewer_features(kind, dtype, backend):
    layer = build_layer(kind, I, H, dtype=dtype, backend=backend, input_dropout=0.5)
    d = draw_inputs(layer, 6, 4)
    y, _ = layer.forward(d.x, d.state)
    dx, _ = layer.backward(d.dy)
    mask = layer.tape.layers[0].mask
    plain = build_layer(kind, I, H, dtype=dtype, backend=backend)
    expected, _ = plain.forward(d.x * mask, d.state)
    assert_same_bits(y, expected)
    assert_same_bits(dx, plain.backward(d.dy)[0] * mask)


def mixed(plain, x, state, keep_h, keep_c):
    """Step a plain layer and keep shares of the state from before."""
    outputs = []
    for t, x_t in enumerate(x):
        _, new = plain.step(x_t, state)
        shares = [keep[t] if np.ndim(keep) else keep for keep in (keep_h, keep_c)]
        state = tuple(
            share * old + (1 - share) * part for share, old, part in zip(shares, state, new, strict=True)
        )
        outputs.append(state[0][0])
    return np.stack(outputs), state


@pytest.mark.parametrize("zoneout", [(0.3, 0.4), (0.3, 0.0), (0.0, 0.4)], ids=str)
def test_zoneout_keeps_values_in_training_and_their_expectation_elsewhere(backend, zoneout):
    layer, plain = (build_lstm(I, H, backend=backend, **more) for more in ({"zoneout": zoneout}, {}))
    d = draw_inputs(layer, 6, 4)
    y, final = layer.forward(d.x, d.state)
    _, keep_h, keep_c = layer.tape.layers[0].cells[0].masks
    assert (keep_h is None, keep_c is None) == (zoneout[0] == 0, zoneout[1] == 0)
    keep_h, keep_c = (0.0 if keep is None else keep for keep in (keep_h, keep_c))
    expected, state = mixed(plain, d.x, d.state, keep_h, keep_c)
    assert_close(y, expected, "forward")
    for part, wanted in zip(final, state, strict=True):
        assert_close(part, wanted, "forward")
    if zoneout[0]:
        kept = keep_h[1:].astype(bool)
        assert_same_bits(y[1:][kept], y[:-1][kept])
    expected, state = mixed(plain, d.x, d.state, *zoneout)
    assert_close(layer(d.x, d.state)[0], expected, "forward")
    assert_close(layer.trace(d.x, d.state).c[0, -1], state[1][0], "forward")
    stream, stepped = layer.stream(4, d.state), d.state
    for x_t, y_t in zip(d.x, expected, strict=True):
        assert_close(stream.step(x_t), y_t, "forward", "stream")
        h_t, stepped = layer.step(x_t, stepped)
        assert_close(h_t, y_t, "forward", "step")


@pytest.mark.parametrize("call", ["__call__", "trace", "step", "stream"])
def test_nothing_is_drawn_outside_forward(backend, call):
    layer, plain = (build_lstm(I, H, 2, backend=backend, **more) for more in (DRAWN, {"zoneout": (0.3, 0.2)}))
    d, before = draw_inputs(layer, 3, 2), snapshot(layer)
    if call == "stream":
        got, expected = (each.stream(2, d.state).step(d.x[0]) for each in (layer, plain))
    elif call == "step":
        got, expected = (each.step(d.x[0], d.state)[0] for each in (layer, plain))
    elif call == "trace":
        got, expected = (each.trace(d.x, d.state).h for each in (layer, plain))
    else:
        got, expected = (each(d.x, d.state)[0] for each in (layer, plain))
    assert_same_bits(got, expected)
    assert snapshot(layer) == before


# --------------------------------------------------------------------------------------------------- settings


SETTINGS = {"dropout": 0.3, "input_dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": (0.2, 0.1)}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_drawn_can_be_set(backend, name):
    layer, other = (
        build_lstm(I, H, 2, backend=backend),
        build_lstm(I, H, 2, backend=backend, **{name: SETTINGS[name]}),
    )
    d = draw_inputs(layer, 4, 3)
    setattr(layer, name, SETTINGS[name])
    assert getattr(layer, name) == SETTINGS[name]
    for _ in range(2):
        assert_same_bits(layer.forward(d.x, d.state)[0], other.forward(d.x, d.state)[0])
        assert_all_same(gradients(layer, d), gradients(other, d))
    assert_same_bits(layer(d.x)[0], other(d.x)[0])
    assert_same_bits(layer.stream(3).step(d.x[0]), other.stream(3).step(d.x[0]))
    assert repr(layer) == repr(other)


@pytest.mark.parametrize(
    "before", [{}, DRAWN, DRAWN | {"peepholes": True}], ids=["plain", "drawn", "peepholes"]
)
def test_settings_do_not_disturb_a_tape(backend, before):
    layer, untouched = (build_lstm(I, H, 2, backend=backend, **before) for _ in range(2))
    d = draw_inputs(layer, 4, 3)
    for each in (layer, untouched):
        each.forward(d.x, d.state, d.lengths, d.resets)
    expected, tape = gradients(untouched, d), layer.tape
    for value in (0.0, 0.7):
        layer.dropout = layer.input_dropout = layer.recurrent_dropout = value
        layer.zoneout = (value, value)
        assert_all_same(gradients(layer, d, tape), expected)
        layer.forward(d.x)
        assert_all_same(gradients(layer, d, tape), expected)


@pytest.mark.parametrize(
    "name", ["proj_size", "peepholes", "coupled", "activations", "gate_clip", "cell_clip", "layer_norm"]
)
def test_what_shapes_the_cell_cannot_be_set(name):
    lstm = build_lstm(I, H)
    before = getattr(lstm, name)
    with pytest.raises(AttributeError, match=f"^{name}: expected no new value"):
        setattr(lstm, name, before)
    assert getattr(lstm, name) == before


# ----------------------------------------------------------------------------------------- parameters, shapes


def test_parameters_of_the_options_have_names_and_shapes():
    lstm = clstm.LSTM(I, H, 2, bidirectional=True, proj_size=4, peepholes=True, layer_norm=True, rng=0)
    expected = {}
    for k in range(2):
        for suffix in (f"l{k}", f"l{k}_reverse"):
            expected |= {
                f"weight_ih_{suffix}": (4 * H, 8 if k else I), f"weight_hh_{suffix}": (4 * H, 4),
                f"bias_{suffix}": (4 * H,), f"weight_peephole_{suffix}": (3, H),
                f"weight_hr_{suffix}": (4, H), f"layer_norm_x_{suffix}": (4 * H,),
                f"layer_norm_h_{suffix}": (4 * H,), f"layer_norm_c_{suffix}": (2, H),
            }  # fmt: skip
    for named in (lstm.params, lstm.grads):
        assert {name: value.shape for name, value in named.items()} == expected
    assert lstm.flat_params.size == sum(np.prod(shape) for shape in expected.values())
    for n, value in enumerate(lstm.params.values()):
        assert np.shares_memory(value, lstm.flat_params)
        value[...] = n
    assert list(np.unique(lstm.flat_params, return_counts=True)[1]) == [v.size for v in lstm.params.values()]


@pytest.mark.parametrize("init", ["glorot", "torch"])
def test_initial_values_of_the_options(init, dtype):
    lstm = clstm.LSTM(20, 64, 2, proj_size=24, peepholes=True, layer_norm=True, init=init, rng=1, dtype=dtype)
    for name, value in lstm.params.items():
        if name.startswith(("layer_norm_x", "layer_norm_h")):
            assert (value == 1).all(), name
        elif name.startswith("layer_norm_c"):
            assert (value[0] == 1).all(), name
            assert (value[1] == 0).all(), name
        elif name.startswith("weight_peephole") and init == "glorot":
            assert (value == 0).all(), name
        elif name.startswith("weight_hr") and init == "glorot":
            assert 0.9 * np.sqrt(6 / 88) < np.abs(value).max() <= np.asarray(np.sqrt(6 / 88), dtype)
        elif name.startswith("weight_hh") and init == "glorot":
            for gate in np.split(value, 4):  # (64, 24), of orthonormal columns
                assert_close(gate.T @ gate, np.eye(24), "forward", name)
        elif init == "torch":
            limit = np.asarray(1 / np.sqrt(64), dtype)
            assert 0.9 * limit < np.abs(value).max() <= limit


def test_shapes_of_states_with_a_projection(backend, dtype):
    layer = build_lstm(I, H, 2, proj_size=4, backend=backend, dtype=dtype)
    both = build_lstm(I, H, 2, proj_size=4, backend=backend, dtype=dtype, bidirectional=True)
    assert (layer.output_size, both.output_size, layer.proj_size) == (4, 4, 4)
    for each, D in ((layer, 1), (both, 2)):
        d = draw_inputs(each, 5, 3)
        states = [each(d.x)[1], each(d.x, d.state)[1], each.forward(d.x, d.state)[1]]
        y, _ = each.forward(d.x)
        assert y.shape == (5, 3, 4 * D)
        dx, dfirst = each.backward(d.dy, d.dstate)
        assert dx.shape == d.x.shape
        for h, c in (*states, dfirst):
            assert (h.shape, c.shape) == ((2 * D, 3, 4), (2 * D, 3, H))
        one = tuple(part[:, 0] for part in d.state)
        y, (h, c) = each.forward(d.x[:, 0], one)
        assert (y.shape, h.shape, c.shape) == ((5, 4 * D), (2 * D, 4), (2 * D, H))
        trace = each.trace(d.x, d.state)
        assert (trace.h.shape, trace.c.shape, trace.o.shape) == ((2 * D, 5, 3, 4), *[(2 * D, 5, 3, H)] * 2)
    d = draw_inputs(layer, 5, 3)
    h_t, (h, c) = layer.step(d.x[0], d.state)
    assert (h_t.shape, h.shape, c.shape) == ((3, 4), (2, 3, 4), (2, 3, H))
    stream = layer.stream(3, d.state)
    assert stream.step(d.x[0]).shape == (3, 4)
    assert [part.shape for part in stream.state] == [(2, 3, 4), (2, 3, H)]
    stream.state = d.state
    assert_same_bits(stream.state[0], d.state[0])
    single = layer.stream(state=tuple(part[:, 0] for part in d.state))
    assert single.step(d.x[0, 0]).shape == (4,)
    message = r"^state\[0\]: expected shape \(2, 3, 4\), got \(2, 3, 7\)"
    with pytest.raises(ValueError, match=message):
        layer(d.x, (d.state[1], d.state[1]))


# --------------------------------------------------------------------------------------- copies, files, dicts


@pytest.mark.parametrize("name", EVERY)
def test_every_option_survives_pickle_copies_files_and_dictionaries(name, dtype, tmp_path):
    layer = make(name, dtype=dtype, bidirectional=True)
    d = draw_inputs(layer, 4, 3)
    layer.save(tmp_path / "lstm")
    not_in_params = ("activations", "gate_clip", "cell_clip", "coupled", *DRAWN)
    arguments = {name: getattr(layer, name) for name in not_in_params}
    others = [
        pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), clstm.LSTM.load(tmp_path / "lstm"),
        clstm.load(tmp_path / "lstm"), clstm.LSTM.from_params(layer.state_dict(), **arguments),
        eval(repr(layer), {"LSTM": clstm.LSTM}),
        clstm.LSTM.from_params(
            layer.flat_params.copy(), input_size=I, hidden_size=H, num_layers=2, bidirectional=True,
            proj_size=layer.proj_size, peepholes=layer.peepholes, layer_norm=layer.layer_norm, **arguments,
        ),
    ]  # fmt: skip
    others[5].load_state_dict(layer.state_dict())
    expected, _ = layer(d.x, d.state, d.lengths, d.resets)
    for other in others:
        assert repr(other) == repr(layer)
        assert_same_bits(other.flat_params, layer.flat_params)
        assert_same_bits(other(d.x, d.state, d.lengths, d.resets)[0], expected)
        other._rng, layer_rng = np.random.default_rng(3), layer._rng
        layer._rng = np.random.default_rng(3)
        assert_same_bits(other.forward(d.x)[0], layer.forward(d.x)[0])
        assert_all_same(gradients(other, d), gradients(layer, d))
        layer._rng = layer_rng


def test_streams_with_options_can_be_pickled_and_copied(backend):
    for name in TOGETHER:
        layer = make(name, backend=backend)
        d = draw_inputs(layer, 4, 3)
        stream = layer.stream(3, d.state)
        stream.step(d.x[0])
        others = [pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)]
        for x_t in d.x[1:]:
            expected = stream.step(x_t)
            for other in others:
                assert_same_bits(other.step(x_t), expected)


def test_activations_can_be_written_in_several_ways():
    defaults = ("sigmoid", ("tanh", {}), "tanh")
    assert clstm.LSTM(I, H, activations=defaults).activations == ("sigmoid", "tanh", "tanh")
    assert clstm.LSTM(I, H, activations=["sigmoid", ["tanh", {}], "tanh"]).cells[0].options is None
    spelled = ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5})
    for spec in ("hard_sigmoid", ("hard_sigmoid", {}), ["hard_sigmoid", {"beta": 0.5}], spelled):
        lstm = clstm.LSTM(I, H, activations=(spec, "tanh", "tanh"))
        assert lstm.activations == ("hard_sigmoid", "tanh", "tanh")
        assert lstm.cells[0].options.activations[0] == ("hard_sigmoid", 0.2, 0.5)
    keras3 = clstm.LSTM(I, H, activations=(("hard_sigmoid", {"alpha": 1 / 6}), "tanh", "tanh"))
    assert keras3.activations[0] == ("hard_sigmoid", {"alpha": 1 / 6, "beta": 0.5})


@pytest.mark.parametrize("name", SPECS)
def test_an_activation_sets_its_own_place_only(name, backend):
    for place in range(3):
        activations = ["sigmoid", "tanh", "tanh"]
        activations[place] = SPECS[name]
        lstm = build_lstm(I, H, backend=backend, activations=tuple(activations))
        trace = lstm.trace(draw_inputs(lstm, 1, 2).x)
        gates, candidate, cell = lstm.activations
        z = dict(zip("ifgo", np.split(pre_activations_of(lstm), 4, axis=-1), strict=True))
        for letter in "ifo":
            assert_close(getattr(trace, letter)[0, 0], apply(gates, z[letter]), "forward", letter)
        assert_close(trace.g[0, 0], apply(candidate, z["g"]), "forward", "g")
        assert_close(trace.h[0, 0], trace.o[0, 0] * apply(cell, trace.c[0, 0]), "forward", "h")


def pre_activations_of(lstm):
    """Return z of the first step from the state 0."""
    x = draw_inputs(lstm, 1, 2).x
    return x[0] @ lstm.params["weight_ih_l0"].T + lstm.params["bias_l0"]


def apply(spec, x):
    name, values = (spec, {}) if isinstance(spec, str) else spec
    values = clstm.cells.ACTIVATIONS[name] | values
    return reference.function(clstm.cells.Activation(name, **values), x)


# --------------------------------------------------------------------------------------- trace, gradient flow


def normalised(v):
    return (v - v.mean(axis=-1, keepdims=True)) / np.sqrt(v.var(axis=-1, keepdims=True) + 1e-5)


def hidden_of(lstm, o, c, h_prev):
    """Compute h_t from o, the new cell and h_prev by the formulas of the options."""
    if lstm.layer_norm:
        gain, shift = lstm.params["layer_norm_c_l0"]
        c = gain * normalised_complex(c) + shift
    h = o * apply(lstm.activations[2], c)
    if lstm.proj_size:
        h = h @ lstm.params["weight_hr_l0"].T
    return lstm.zoneout[0] * h_prev + (1 - lstm.zoneout[0]) * h


def normalised_complex(v):
    """N, where a complex step goes through it."""
    centred = v - v.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("name", [name for name in EVERY if "dropout" not in name])
def test_trace_holds_the_gates_and_cells_of_the_formulas(name, dtype, backend):
    lstm = make(name, 1, dtype=dtype, backend=backend)
    d = draw_inputs(lstm, 5, 3)
    y, (_, c_n) = lstm(d.x, d.state, resets=d.resets)
    trace = lstm.trace(d.x, d.state, resets=d.resets)
    assert_same_bits(trace.h[0], y)
    assert_same_bits(trace.c[0, -1], c_n[0])
    i, f, g, o, c, h = (getattr(trace, letter)[0].astype(np.float64) for letter in "ifgoch")
    before = []
    for after, first in ((h, d.state[0]), (c, d.state[1])):
        part = np.concatenate([first.astype(np.float64), after[:-1]])
        part[d.resets] = 0
        before.append(part)
    if lstm.coupled:
        assert_close(trace.f[0], 1 - i, "forward", "f")
    c_new = f * before[1] + i * g
    if lstm.cell_clip:
        c_new = np.clip(c_new, -lstm.cell_clip, lstm.cell_clip)
    p_c = lstm.zoneout[1]
    assert_close(trace.c[0], p_c * before[1] + (1 - p_c) * c_new, "forward", "c")
    assert_close(trace.h[0], hidden_of(lstm, o, c_new, before[0]), "forward", "h")


@pytest.mark.parametrize(
    "name",
    [
        "peepholes", "projection", "coupled", "gate clip", "cell clip", "layer norm", "expected zoneout",
        "zoneout of h", "zoneout of c", "all but coupled", "all but layer norm",
    ],
)  # fmt: skip
def test_gradient_flow_is_the_derivative_by_every_state(name, backend):
    """A state is moved by a complex step, h_t with c_t where it is seen through h_t, and the rest is run."""
    lstm = make(name, 1, backend=backend)
    (cell,) = lstm.cells
    T, B, R = 4, 2, lstm.output_size
    d = draw_inputs(lstm, T, B)
    flow = clstm.gradient_flow(lstm, d.x, d.dy, d.state)
    trace = lstm.trace(d.x, d.state)
    norms = {"h": np.zeros((T + 1, B, R)), "c": np.zeros((T + 1, B, H))}
    states = {
        part: np.concatenate([first, getattr(trace, part)[0]])
        for part, first in zip("hc", d.state, strict=True)
    }

    def loss(t, h, c):
        """Return the losses of the rows, of the output of step t and of all later ones, from a state."""
        total = (d.dy[t - 1] * h).sum(axis=1) if t else 0
        state = (h.astype(complex), c.astype(complex))
        for later in range(t, T):
            after = tuple(np.empty_like(part) for part in state)
            reference.step(cell, d.x[later], state, after)
            total = total + (d.dy[later] * after[0]).sum(axis=1)
            state = after
        return total

    for t in range(T + 1):
        h, c = states["h"][t], states["c"][t]
        for unit in range(R):
            moved = h + 1e-30j * (np.arange(R) == unit)
            norms["h"][t, :, unit] = loss(t, moved, c).imag / 1e-30
        for unit in range(H):
            step = 1e-30j * (np.arange(H) == unit)
            moved_h = h
            if t and not lstm.zoneout[1]:  # else h_t sees the cell before zoneout
                o = trace.o[0, t - 1] + 0j
                if lstm.peepholes:
                    gate = cell.options.activations[0]
                    z_o = pre_activation_of_o(lstm, d, trace, states, t)
                    o = reference.function(gate, z_o + lstm.params["weight_peephole_l0"][2] * step)
                moved_h = hidden_of(lstm, o, c + step, states["h"][t - 1])
            norms["c"][t, :, unit] = loss(t, moved_h, c + step).imag / 1e-30
    assert_close(flow.dh, np.linalg.norm(norms["h"], axis=2)[::-1], "complex step", "dh")
    assert_close(flow.dc, np.linalg.norm(norms["c"], axis=2)[::-1], "complex step", "dc")


def pre_activation_of_o(lstm, d, trace, states, t):
    """Return z_o of step t - 1, the term of its peephole included."""
    params, own = lstm.params, slice(3 * H, 4 * H)
    of_x, of_h = d.x[t - 1] @ params["weight_ih_l0"].T, states["h"][t - 1] @ params["weight_hh_l0"].T
    if lstm.layer_norm:
        of_x, of_h = (
            params[f"layer_norm_{letter}_l0"] * normalised(v) for letter, v in (("x", of_x), ("h", of_h))
        )
    z = (of_x + of_h + params["bias_l0"])[:, own]
    return z + params["weight_peephole_l0"][2] * trace.c[0, t - 1]


@pytest.mark.parametrize("name", TOGETHER)
def test_gradcheck_accepts_every_option(name, backend):
    lstm = make(name, 1, backend=backend)
    lstm.recurrent_dropout, lstm.zoneout = 0.0, (0.0, 0.0)  # a loss is the same number each time
    d = draw_inputs(lstm, 3, 2)

    def loss(model, x):
        return float((model(x, d.state)[0] * d.dy[: len(x)]).sum())

    def gradients(model, x):
        model.forward(x, d.state)
        dx, _ = model.backward(d.dy[: len(x)])
        return {"x": dx} | dict(model.grads)

    assert clstm.gradcheck(lstm, loss, gradients, d.x, entries=20).ok


def test_a_stream_takes_a_new_zoneout_when_it_is_refreshed(backend):
    layer = build_lstm(3, 5, backend=backend)
    x, stream = np.random.default_rng(0).standard_normal((3, 3)), layer.stream()
    _, state = layer.step(x[0])
    stream.step(x[0])
    for zoneout in ((0.5, 0.25), (0.0, 0.0)):
        layer.zoneout = zoneout
        stream.refresh()
        h, state = layer.step(x[1], state)
        assert_same_bits(stream.step(x[1]), h)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"gate_clip": 1e39}, "gate_clip"),
        ({"cell_clip": 1e39}, "cell_clip"),
        ({"activations": ("sigmoid", "tanh", ("elu", {"alpha": -1e39}))}, "activations[2]['alpha']"),
    ],
)
def test_numbers_that_float32_cannot_hold_are_refused(options, name):
    clstm.LSTM(3, 5, **options)
    with pytest.raises(ValueError, match=f"^{re.escape(name)}: expected a number that float32 can hold"):
        clstm.LSTM(3, 5, dtype=np.float32, **options)
