"""QuantizedLSTM: the definition on every kernel build, the same bits, accuracy, files, errors."""

import copy
import itertools
import json
import pickle
import warnings

import numpy as np
import pytest
import safetensors
from conftest import (
    BUILDS,
    FORWARD_RESULTS,
    OPTIONS,
    TOLERANCES,
    as_arguments,
    assert_close,
    assert_refused,
    assert_same_bits,
    build_lstm,
    build_lstm_on,
    functions_of,
    load_build,
    quantized_on,
    threads,
)

import clstm
from clstm import _cpu, _narrow, cells, files, nn, reference
from clstm.datasets import load_co2, long_term_dependency

PRECISIONS = ("bfloat16", "int8")
ISAS = [
    (isa, dot) for isa in BUILDS for dot in (False, True)
    if not dot or load_build(isa).DOT_FEATURE in _cpu.features()
]  # fmt: skip
# T, B, I, H: one and odd numbers of everything, beside whole panels and several.
SIZES = [
    (1, 1, 1, 1),
    (5, 1, 3, 17),
    (4, 3, 5, 33),
    (3, 7, 2, 3),
    (6, 2, 16, 16),
    (3, 1, 129, 64),
    (30, 5, 7, 40),
]
# What inference has of the options, and a quantized layer with it.
KINDS_OF_CELL = {
    name: {key: value for key, value in option.items() if key not in ("recurrent_dropout", "drawn")}
    for name, option in OPTIONS.items() if name != "recurrent dropout"
} | {
    "together": {"peepholes": True, "layer_norm": True, "zoneout": (0.3, 0.4), "cell_clip": 0.6},
    "activations": {
        "activations": ("hard_sigmoid", "softplus", "softsign"), "coupled": True, "gate_clip": 0.9,
    },
}  # fmt: skip


@pytest.fixture(params=ISAS, ids=lambda way: f"{way[0]}{'-dot' if way[1] else ''}")
def way(request):
    """Every kernel build that this processor runs, with and without the instruction for bytes."""
    return request.param


def on(way, lstm, precision):
    """Quantize for one way of computing; x of these tests lies within -5..5."""
    isa, dot = way
    return quantized_on(isa, lstm, precision, dot=dot, **({"x_range": 5} if precision == "int8" else {}))


def results(layer, x, **arguments):
    y, (h_n, c_n) = layer(x, **arguments)
    return dict(zip(FORWARD_RESULTS, (y, h_n, c_n), strict=True))


def assert_same_results(got, expected):
    for name in expected:
        assert_same_bits(got[name], expected[name], name)


def inputs(layer, T, B, seed=0, ragged=True):
    """Draw x, a state within -1..1, lengths and resets for a layer of float32."""
    rng = np.random.default_rng([seed, T, B])
    D, L, R = layer.num_directions, layer.num_layers, layer.output_size
    x = np.clip(rng.standard_normal((T, B, layer.input_size)), -5, 5).astype(np.float32)
    state = tuple(rng.uniform(-1, 1, (L * D, B, n)).astype(np.float32) for n in (R, layer.hidden_size))
    lengths = rng.integers(0, T + 1, B) if ragged and B > 1 else np.full(B, T)
    return x, {"state": state, "lengths": lengths, "resets": rng.random((T, B)) < 0.2}


def is_bounded(option):
    """Whether int8 takes a layer with this option."""
    return "proj_size" not in option


# ------------------------------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize(("T", "B", "I", "H"), SIZES)
def test_bfloat16_has_the_bits_of_a_layer_with_rounded_weights(build, T, B, I, H):  # noqa: E741
    small = quantized_on(build, build_lstm(I, H, 2, bidirectional=True, dtype="float32"), "bfloat16")
    x, arguments = inputs(small, T, B)
    rounded = build_lstm_on(build, I, H, 2, bidirectional=True, dtype="float32")
    rounded.load_state_dict(small.weights())
    assert_same_results(results(small, x, **arguments), results(rounded, x, **arguments))


@pytest.mark.parametrize("name", KINDS_OF_CELL)
def test_bfloat16_with_options_has_the_bits_of_a_layer_with_rounded_weights(build, name):
    options = as_arguments(KINDS_OF_CELL[name], 19)
    small = quantized_on(build, build_lstm(5, 19, dtype="float32", **options), "bfloat16")
    x, arguments = inputs(small, 6, 3)
    rounded = build_lstm_on(build, 5, 19, dtype="float32", **options)
    rounded.load_state_dict(small.weights())
    assert_same_results(results(small, x, **arguments), results(rounded, x, **arguments))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("T", "B", "I", "H"), SIZES)
def test_kernels_agree_with_the_definition(way, precision, T, B, I, H):  # noqa: E741
    lstm = build_lstm(I, H, 2, bidirectional=True, dtype="float32")
    x, arguments = inputs(lstm, T, B)
    got = results(on(way, lstm, precision), x, **arguments)
    expected = results(on(("reference", False), lstm, precision), x, **arguments)
    for name in FORWARD_RESULTS:
        assert_close(got[name], expected[name], "int8 definition" if precision == "int8" else "forward", name)


@pytest.mark.parametrize("name", [name for name, option in KINDS_OF_CELL.items() if is_bounded(option)])
def test_int8_with_options_agrees_with_the_definition(way, name):
    lstm = build_lstm(5, 19, dtype="float32", **as_arguments(KINDS_OF_CELL[name], 19))
    x, arguments = inputs(lstm, 6, 3)
    got, expected = (results(on(one, lstm, "int8"), x, **arguments) for one in (way, ("reference", False)))
    for result in FORWARD_RESULTS:
        assert_close(got[result], expected[result], "int8 definition", result)


@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("depth", [1, 3, 66, 518, 1030])
def test_sums_of_int8_are_exact(way, depth, rows):
    """As large as they can be, too; z of a cell with options, which is left on its tape, shows them."""
    isa, dot = way
    rng, H, n = np.random.default_rng(depth), 5, reference.levels(depth)
    V_x = rng.integers(-127, 128, (depth, 4 * H)).astype(np.int8)
    V_x[:, :3] = [127, -127, 127]
    V_h = rng.integers(-127, 128, (H, 4 * H)).astype(np.int8)
    one = np.ones(4 * H, np.float32)
    narrow = cells.Narrow("int8", depth, H, one, one, float(n), (n, 1), cells.Held())
    options = cells.Options(coupled=True)
    cell = cells.Cell(cells.LSTM, _narrow.pack(V_x), _narrow.pack(V_h), 0 * one, options, narrow=narrow)
    x = rng.integers(-n, n + 1, (1, rows, depth)).astype(np.float32)
    x[:, 0] = n
    h_0 = rng.integers(-1, 2, (rows, H)).astype(np.float32)
    state = (h_0, np.zeros((rows, H), np.float32))
    tape = cells.CellTape(np.empty((1, rows, H), np.float32), z=np.empty((1, rows, 4 * H), np.float32))
    before = load_build(isa).use_dot(dot)
    schedule = cells.Schedule(np.ones(rows, np.intp), False)
    functions_of(isa, "float32").forward(cell, x, state, schedule, tape, tuple(map(np.empty_like, state)))
    load_build(isa).use_dot(before)
    sum_x, sum_h = x[0].astype(int) @ V_x.astype(int), h_0.astype(int) @ V_h.astype(int)
    assert np.abs(sum_x).max() < 2**31
    assert_same_bits(tape.z[0], sum_x.astype(np.float32) + sum_h.astype(np.float32))


def test_ways_of_one_build_have_the_same_bits():
    lstm = build_lstm(7, 40, 2, dtype="float32")
    x, arguments = inputs(lstm, 9, 4)
    for isa in {isa for isa, dot in ISAS if dot}:
        plain, dot = (results(on((isa, use), lstm, "int8"), x, **arguments) for use in (False, True))
        assert_same_results(dot, plain)


def test_bfloat16_is_rounded_to_nearest_with_ties_to_even():
    exact = np.array([0.0, -0.0, 1.0, -2.5, 2.0**-126, 2.0**-133, 3.0e38], np.float32)
    bits = exact.view(np.uint32)
    for upper in reference.bfloat16(exact), reference.bfloat16(exact.astype(float)):
        nearest = (upper.astype(np.uint32) << 16).view(np.float32)
        assert (np.abs(nearest - exact) <= np.abs(exact) * 2**-8 + 2.0**-134).all()
    half = bits[2] | np.array([0x7FFF, 0x8000, 0x8001, 0x17FFF, 0x18000, 0x18001], np.uint32)
    assert (reference.bfloat16(half.view(np.float32)) - 0x3F80).tolist() == [0, 0, 1, 1, 2, 2]


def test_levels_leave_sums_in_32_bits_and_activations_12():
    for depth in (1, 2, 517, 518, 519, 1000, 4129):
        assert 127 * depth * reference.levels(depth) < 2**31
        assert 4095 <= reference.levels(depth) <= 127 * 257
    assert reference.levels(4130) < 4095


@pytest.mark.parametrize("dtype", [np.uint16, np.int8])
@pytest.mark.parametrize(("rows", "H"), [(1, 1), (3, 5), (4, 16), (9, 33)])
def test_packed_weights_come_back(dtype, rows, H):
    info = np.iinfo(dtype)
    W = np.random.default_rng(0).integers(max(info.min, -127), info.max, (rows, 4 * H), dtype)
    words = _narrow.pack(W)
    assert words.ctypes.data % 64 == 0
    assert not words.flags.writeable
    assert_same_bits(_narrow.unpack(words, rows, H, np.dtype(dtype)), W)
    assert words[0, 0, 0, 0] & (2 ** (8 * W.itemsize) - 1) == int(W[0, 0]) + (128 if dtype == np.int8 else 0)


# ------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("I", "H"), [(3, 17), (40, 33)])
def test_row_has_the_same_bits_in_any_batch(way, precision, I, H):  # noqa: E741
    small = on(way, build_lstm(I, H, dtype="float32"), precision)
    x, arguments = inputs(small, 5, 31, ragged=False)
    state, resets = arguments["state"], arguments["resets"]
    whole = results(small, x, state=state, resets=resets)
    for rows in (slice(0, 1), slice(4, 6), slice(20, 31)):
        part = results(small, x[:, rows], state=tuple(p[:, rows] for p in state), resets=resets[:, rows])
        for name, value in part.items():
            assert_same_bits(value, whole[name][:, rows], name)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("B", [1, 4])
def test_call_has_the_bits_of_chunks_steps_and_streams(way, precision, B):
    small = on(way, build_lstm(5, 33, 2, dtype="float32", peepholes=True), precision)
    x, arguments = inputs(small, 40, B, ragged=False)
    state = arguments["state"]
    y, final = small(x, state)
    first, half = small(x[:13], state)
    second, last = small(x[13:], half)
    assert_same_bits(np.concatenate([first, second]), y)
    stream, stepped = small.stream(B, state), state
    for t in range(len(x)):
        h_t, stepped = small.step(x[t], stepped)
        assert_same_bits(h_t, y[t])
        assert_same_bits(stream.step(x[t]), y[t])
    for parts in (last, stepped, stream.state):
        for part, expected in zip(parts, final, strict=True):
            assert_same_bits(part, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_results_have_the_same_bits_on_any_number_of_threads(way, precision, bidirectional):
    small = on(way, build_lstm(40, 70, 2, dtype="float32", bidirectional=bidirectional), precision)
    x, arguments = inputs(small, 30, 20)
    with threads(1, way[0]):
        expected = results(small, x, **arguments)
    with threads(3, way[0]):
        assert_same_results(results(small, x, **arguments), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("B", [1, 2])
def test_threads_that_share_units_change_no_bit_and_count_once(way, precision, B):
    small = on(way, build_lstm(40, 330, dtype="float32"), precision)
    x, arguments = inputs(small, 40, B, ragged=False)
    x[3, 0, 0] = 6
    for part in arguments["state"]:
        part[:, 0, :7] = 2
    found = []
    for number in (1, 2, 3):
        held = small.held
        with threads(number, way[0]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found.append((results(small, x, **arguments), small.held - held))
    for others, count in found[1:]:
        assert_same_results(others, found[0][0])
        assert count == found[0][1] == (8 if precision == "int8" else 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sequence_with_resets_is_its_episodes(way, precision):
    small = on(way, build_lstm(5, 33, bidirectional=True, dtype="float32"), precision)
    x, _ = inputs(small, 12, 1)
    resets = np.zeros((12, 1), bool)
    resets[[4, 9]] = True
    y, _ = small(x, resets=resets)
    for begin, end in itertools.pairwise((0, 4, 9, 12)):
        assert_same_bits(small(x[begin:end])[0], y[begin:end])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layouts_and_trace_belong_to_one_computation(precision):
    lstm = build_lstm(3, 17, 2, dtype="float32", batch_first=True, bidirectional=True)
    small = on((clstm.show_config()["build"], False), lstm, precision)
    x, _ = inputs(small, 6, 4)
    y, _ = small(x.swapaxes(0, 1))
    small.batch_first = False
    assert_same_bits(small(x)[0], np.ascontiguousarray(y.swapaxes(0, 1)))
    assert_same_bits(small(x[:, 2])[0], small(x[:, 2:3])[0][:, 0])
    trace = small.trace(x)
    assert_same_bits(np.concatenate(trace.h[2:], axis=-1), small(x)[0])
    assert trace.i.shape == trace.c.shape == (4, 6, 4, 17)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0)])
def test_nothing_to_compute_is_computed(precision, T, B):
    small = on((clstm.show_config()["build"], False), build_lstm(3, 5, dtype="float32"), precision)
    y, (h_n, c_n) = small(np.zeros((T, B, 3)))
    assert (y.shape, h_n.shape, c_n.shape) == ((T, B, 5), (1, B, 5), (1, B, 5))
    assert small.error(build_lstm(3, 5), np.zeros((T, B, 3))) == (0, 0)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("B", [1, 3])
def test_nan_stays_in_its_own_row(way, precision, B):
    small = on(way, build_lstm(5, 33, dtype="float32"), precision)
    x, _ = inputs(small, 6, B)
    clean = small(x)[0]
    x[2, 0, 4] = np.nan
    y, _ = small(x)
    assert_same_bits(y[:2], clean[:2])
    assert np.isnan(y[2:, 0]).all()
    assert_same_bits(y[:, 1:], clean[:, 1:])


# ------------------------------------------------------------------------------------------------ the range


@pytest.mark.parametrize("isa", [*BUILDS, "reference"])
def test_numbers_beyond_the_range_are_held_counted_and_told_once(isa):
    small = on((isa, False), build_lstm(3, 5, dtype="float32"), "int8")
    x = np.zeros((4, 2, 3), np.float32)
    x[1, 0, 0], x[2, 1] = 5.0, -5.0
    small(x)
    assert small.held == 0
    x[1, 0, 0], x[2, 1] = 7.0, [-np.inf, -6.0, 1e30]
    with pytest.warns(UserWarning, match="4 beyond it were held"):
        held, _ = small(x)
    assert small.held == 4
    x[2, 1] = [-5, -5, 5]
    x[1, 0, 0] = 5
    assert_same_bits(held, small(x)[0])
    state = (np.full((1, 2, 5), 1.5, np.float32), np.zeros((1, 2, 5), np.float32))
    small(x, state)  # a state, too; told no more
    assert small.held == 14


@pytest.mark.parametrize("isa", [*BUILDS, "reference"])
@pytest.mark.parametrize("method", ["stream", "step"])
def test_streams_and_steps_tell_of_numbers_beyond_the_range(isa, method):
    small = on((isa, False), build_lstm(3, 5, dtype="float32"), "int8")
    run = small.stream().step if method == "stream" else small.step
    with pytest.warns(UserWarning, match="1 beyond it were held"):
        run(np.array([0, 6, 0], np.float32))
    run(np.array([0, 6, 0], np.float32))
    small.stream(2).step(np.full((2, 3), -6, np.float32))
    assert small.held == 8


def test_padding_is_not_counted_and_sample_data_is_within_its_own_range():
    rng, lstm = np.random.default_rng(0), build_lstm(3, 5)
    for x in rng.standard_normal((20, 7, 4, 3)):
        small = lstm.quantize("int8", x=x)
        small(x)
        x[5:] = 1e9
        small(x, lengths=[5, 5, 4, 0])
        assert small.held == 0


# ------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", range(3))
def test_long_sequences_keep_to_the_promised_accuracy(precision, seed):
    lstm = clstm.LSTM(64, 256, dtype="float32", init="torch", rng=seed)
    x = np.random.default_rng(seed).standard_normal((250, 1, 64)).astype(np.float32)
    small = lstm.quantize(precision, **({"x": x} if precision == "int8" else {}))
    expected, _ = lstm(x)
    y, _ = small(x)
    assert np.abs(y - expected).max() <= TOLERANCES[precision]["float32"]
    error = small.error(lstm, x)
    assert error.largest == np.abs(y.astype(float) - expected).max()
    assert error.mean == np.abs(y.astype(float) - expected).mean()


@pytest.fixture(scope="module")
def forecaster():
    """The forecast of `clstm demo`, trained for a while: a layer, and the error of a layer in its place."""
    values = load_co2().values
    x, y = nn.windows(values, 24, 12)
    x, y = x - x[:, -1:], y - x[:, -1, :]
    rng = np.random.default_rng(0)
    layer, head = clstm.LSTM(1, 32, batch_first=True, rng=rng), nn.Dense(32, 12, rng=rng)
    nn.SequenceModel([layer, head]).fit(x[:-60], y[:-60], epochs=8, batch_size=32, lr=0.003, rng=rng)
    return layer, x, lambda one: np.sqrt(np.mean((head(np.asarray(one(x)[0][:, -1], float)) - y) ** 2))


@pytest.fixture(scope="module")
def classifier():
    """The same for sequences that name their class in the first step: the share that is told right."""
    rng = np.random.default_rng(0)
    x, classes = long_term_dependency(12, 1200, 4, noise=0.3, rng=rng)
    x = np.swapaxes(x, 0, 1)
    layer, head = clstm.LSTM(4, 24, batch_first=True, rng=rng), nn.Dense(24, 4, rng=rng)
    model = nn.SequenceModel([layer, head])
    model.fit(x[:400], classes[:400], epochs=10, batch_size=32, lr=0.01, loss="cross_entropy", rng=rng)
    return (
        layer,
        x,
        lambda one: np.mean(head(np.asarray(one(x)[0][:, -1], float)).argmax(axis=1)[400:] == classes[400:]),
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("trained", ["forecaster", "classifier"])
def test_trained_models_score_as_before(precision, trained, request):
    layer, x, score = request.getfixturevalue(trained)
    small = layer.quantize(precision, **({"x": x} if precision == "int8" else {}))
    assert score(layer) != 0
    assert_close(score(small), score(layer), f"{precision} score")


# --------------------------------------------------------------------------------- what it is, and what not


def test_layers_of_float64_are_quantized_and_stay_as_they_are():
    lstm = build_lstm(3, 17, dtype="float64", bias=False)
    before = lstm.state_dict()
    single = build_lstm(3, 17, dtype="float32", bias=False)
    single.flat_params = lstm.flat_params
    x, _ = inputs(single, 5, 2)
    assert_same_bits(lstm.quantize("bfloat16")(x)[0], single.quantize("bfloat16")(x)[0])
    assert lstm.quantize("int8", x_range=5)(x)[0].dtype == np.float32
    for name, value in lstm.state_dict().items():
        assert_same_bits(value, before[name])


def test_weights_take_half_and_a_quarter_of_the_bytes_and_nothing_else_is_held():
    lstm = build_lstm(64, 128, 2, dtype="float32")
    half, quarter = lstm.quantize("bfloat16"), lstm.quantize("int8", x_range=1)
    whole = lstm.flat_params.nbytes
    assert half.nbytes < 0.51 * whole
    assert quarter.nbytes < 0.27 * whole
    held = [value for value in vars(half).values() if isinstance(value, np.ndarray)]
    assert not held
    assert sum(array.nbytes for cell in half.cells for array in cell.arrays) == half.nbytes


@pytest.mark.parametrize("precision", PRECISIONS)
def test_there_is_nothing_to_train_with(precision):
    lstm = build_lstm(3, 5, dtype="float32")
    small = on((clstm.show_config()["build"], False), lstm, precision)
    for name in ("forward", "backward", "tape", "params", "grads", "flat_params", "load_state_dict", "rng"):
        assert hasattr(lstm, name)
        assert not hasattr(small, name)
    with pytest.raises(AttributeError, match=r"hidden_size: expected no new value"):
        small.hidden_size = 7


def test_kernels_do_not_go_back_through_narrow_weights(build):
    small = build_lstm(3, 5, dtype="float32").quantize("bfloat16")
    x, state = np.zeros((2, 1, 3), np.float32), (np.zeros((1, 5), np.float32),) * 2
    tape = cells.new_tape(small.cells[0], np.zeros((2, 1, 5), np.float32), np.zeros)
    schedule = cells.Schedule(np.array([2]), False)
    with pytest.raises(TypeError, match="expected weights of floats"):
        functions_of(build, "float32").backward(
            small.cells[0], x, state, schedule, tape, tape.y, state, None, None, state
        )
    with pytest.raises(TypeError, match="float32"):
        functions_of(build, "float64").step(
            small.cells[0].astype("float64")._replace(bias=np.zeros(20)), np.zeros((1, 3)),
            (np.zeros((1, 5)),) * 2, (np.zeros((1, 5)),) * 2,
        )  # fmt: skip


def test_repr_says_what_it_is():
    lstm = build_lstm(3, 5, 2, bidirectional=True, peepholes=True)
    assert repr(lstm.quantize("int8", x_range=2)) == (
        "QuantizedLSTM(3, 5, 'int8', x_range=2.0, num_layers=2, bidirectional=True, peepholes=True)"
    )
    assert repr(build_lstm(3, 5).quantize("bfloat16")) == "QuantizedLSTM(3, 5, 'bfloat16')"


# ------------------------------------------------------------------------------------------- files, pickles


def made(precision, name="together", **more):
    option = KINDS_OF_CELL[name] | more
    lstm = build_lstm(3, 19, 2, dtype="float32", bidirectional=True, **as_arguments(option, 19))
    return lstm.quantize(precision, **({"x_range": 5} if precision == "int8" else {}))


ROUND_TRIPS = {
    "file": lambda small, path: (small.save(path), clstm.load(path))[1],
    "file of the class": lambda small, path: (small.save(path), clstm.QuantizedLSTM.load(path))[1],
    "pickle": lambda small, path: pickle.loads(pickle.dumps(small)),
    "copy": lambda small, path: copy.copy(small),
    "deep copy": lambda small, path: copy.deepcopy(small),
}


@pytest.mark.parametrize("there_and_back", ROUND_TRIPS)
@pytest.mark.parametrize(
    ("precision", "name"), [("bfloat16", "together"), ("int8", "together"), ("bfloat16", "projection")]
)
def test_copies_compute_the_same_bits(precision, name, there_and_back, tmp_path):
    small = made(precision, name, bias=False)
    small.note = "kept"
    again = ROUND_TRIPS[there_and_back](small, tmp_path / "small.safetensors")
    x, arguments = inputs(small, 5, 3)
    assert_same_results(results(again, x, **arguments), results(small, x, **arguments))
    assert repr(again) == repr(small)
    assert again.nbytes == small.nbytes
    assert "file" in there_and_back or again.note == "kept"
    for cell in again.cells:
        assert cell.W_x.ctypes.data % 64 == 0


def test_streams_are_copied_without_their_weights_a_second_time():
    small = build_lstm(64, 128, dtype="float32").quantize("int8", x_range=5)
    stream = small.stream()
    x, _ = inputs(small, 6, 1)
    for x_t in x[:3, 0]:
        stream.step(x_t)
    assert len(pickle.dumps(stream)) < 1.2 * len(pickle.dumps(small))
    again = pickle.loads(pickle.dumps(stream))
    stream.refresh()
    for x_t in x[3:, 0]:
        assert_same_bits(again.step(x_t), stream.step(x_t))


@pytest.mark.parametrize(("precision", "stored"), [("bfloat16", "BF16"), ("int8", "I8")])
def test_files_have_the_dtypes_that_they_say(precision, stored, tmp_path):
    small = made(precision)
    small.save(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    tensors = dict(safetensors.deserialize(content))
    for name, shape in (("weight_ih_l1_reverse", [76, 38]), ("weight_hh_l0", [76, 19])):
        assert (tensors[name]["dtype"], tensors[name]["shape"]) == (stored, shape)
    assert tensors["bias_l0"]["dtype"] == "F32"
    floats = small.weights()["weight_hh_l0"]
    values = np.frombuffer(tensors["weight_hh_l0"]["data"], np.int8 if stored == "I8" else np.uint16)
    if stored == "I8":
        scale = np.frombuffer(tensors["scale_hh_l0"]["data"], np.float32)
        assert_same_bits(values.reshape(76, 19) * scale[:, None], floats)
    else:
        assert_same_bits((values.astype(np.uint32) << 16).view(np.float32).reshape(76, 19), floats)
    small.save(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content


def test_torch_reads_the_weights_of_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    small = made("bfloat16")
    small.save(tmp_path / "a")
    read = load_file(tmp_path / "a")
    assert read["weight_ih_l0"].dtype == torch.bfloat16
    assert_same_bits(
        read["weight_ih_l0"].float().numpy(), np.ascontiguousarray(small.weights()["weight_ih_l0"])
    )


def spoil(small, path, change, arguments=None):
    """Write a file that says something else."""
    said, tensors = small.file_content()
    files.write(path, "QuantizedLSTM", said | (arguments or {}), change(dict(tensors)), "0.2.0")


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def with_entry(name, make):
    return lambda tensors: tensors | {name: make(tensors.get(name))}


AN_ARRAY = np.ones(76, np.float32)
HOSTILE = {
    "no scale": ("int8", without("scale_hh_l0"), {}, "missing: scale_hh_l0"),
    "a scale too many": ("bfloat16", with_entry("scale_hh_l0", lambda _: AN_ARRAY), {}, "unexpected: scale"),
    "floats": ("int8", with_entry("weight_hh_l0", lambda W: W.astype("f4")), {}, "expected dtype int8"),
    "bytes": ("bfloat16", with_entry("weight_hh_l0", lambda W: W.view("i1")[:, ::2]), {}, "dtype bfloat16"),
    "halves": ("int8", with_entry("bias_l0", lambda b: b.view(files.BFLOAT16)[::2]), {}, "dtype float32"),
    "shape": ("int8", with_entry("weight_hh_l0", lambda W: W[:, :-1]), {}, "expected shape"),
    "-128": ("int8", with_entry("weight_hh_l0", lambda W: np.full_like(W, -128)), {}, "got -128"),
    "scale of NaN": ("int8", with_entry("scale_hh_l0", lambda s: s * np.nan), {}, "finite"),
    "no range": ("int8", dict, {"x_range": None}, "x_range"),
    "range of text": ("int8", dict, {"x_range": "1"}, "x_range"),
    "a range too many": ("bfloat16", dict, {"x_range": 1.0}, "x_range"),
    "precision": ("int8", dict, {"precision": "int4"}, "precision: expected one of 'bfloat16', 'int8'"),
    "dtype": ("int8", dict, {"dtype": "float64"}, "expected float32"),
    "argument": ("int8", dict, {"dropout": 0.5}, "dropout"),
    "sizes": ("bfloat16", dict, {"hidden_size": 10**9}, "expected shape"),
    "inputs": ("int8", dict, {"hidden_size": 2065}, "input_size: expected layers with at most 4129"),
    "units": ("int8", dict, {"hidden_size": 4130, "num_layers": 1}, "hidden_size: expected layers with at"),
    "layers": ("bfloat16", dict, {"num_layers": 10**15}, "matrices"),
    "unbounded": ("int8", dict, {"activations": ["relu", "tanh", "tanh"]}, r"activations\[0\]"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_file_that_does_not_fit_together_is_refused(name, tmp_path):
    precision, change, arguments, match = HOSTILE[name]
    spoil(made(precision), tmp_path / "a", change, arguments)
    assert_refused(clstm.load, tmp_path / "a", match)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_damaged_file_is_refused(precision, tmp_path):
    made(precision).save(tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    content[-3] ^= 4
    (tmp_path / "a").write_bytes(content)
    assert_refused(clstm.load, tmp_path / "a", "checksum")
    (tmp_path / "a").write_bytes(content[:-1])
    assert_refused(clstm.load, tmp_path / "a")


def test_other_classes_have_floats_alone(tmp_path):
    lstm = build_lstm(3, 5)
    arguments, tensors = lstm.file_content()
    tensors["weight_hh_l0"] = tensors["weight_hh_l0"].astype(np.int8)
    files.write(tmp_path / "a", "LSTM", arguments, tensors, "0.2.0")
    assert_refused(clstm.load, tmp_path / "a", "weight_hh_l0: expected dtype float32 or float64, got int8")
    made("int8").save(tmp_path / "b")
    assert_refused(clstm.LSTM.load, tmp_path / "b", "class LSTM")


def test_options_of_load_are_checked(tmp_path):
    made("int8").save(tmp_path / "a")
    assert clstm.load(tmp_path / "a", backend="numpy").backend == "numpy"
    with pytest.raises(TypeError, match="of its arguments only backend, got x_range"):
        clstm.load(tmp_path / "a", x_range=3)
    header = json.loads(safetensors_header(tmp_path / "a"))["__metadata__"]["clstm"]
    assert json.loads(header)["arguments"]["precision"] == "int8"


def safetensors_header(path):
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


# --------------------------------------------------------------------------------------------------- errors

RANGE = {"x_range": 1}
# Options of the layer, arguments of `quantize`, error.
WRONG = {
    "precision": ({}, ("int4", {}), "precision: expected one of 'bfloat16', 'int8', got 'int4'"),
    "no range": ({}, ("int8", {}), "x_range: expected the largest .* or sample data as x, got neither"),
    "both": ({}, ("int8", RANGE | {"x": [[1, 2, 3]]}), "x: expected None with x_range, got both"),
    "range of bfloat16": ({}, ("bfloat16", RANGE), "x_range: expected None with bfloat16"),
    "x of bfloat16": ({}, ("bfloat16", {"x": [[1, 2, 3]]}), "x_range: expected None with bfloat16"),
    "range 0": ({}, ("int8", {"x_range": 0}), "x_range: expected a number above 0, got 0"),
    "ranges": ({}, ("int8", {"x_range": [1, 2, 3]}), r"x_range: expected a number, got \[1, 2, 3\]"),
    "zeros": ({}, ("int8", {"x": np.zeros((4, 3))}), "x: expected sample data .* got 0.0"),
    "NaN": ({}, ("int8", {"x": np.full((4, 3), np.nan)}), "x: expected sample data .* got nan"),
    "features": ({}, ("int8", {"x": np.ones((4, 2))}), r"x: expected shape \(steps, 3\)"),
    "projection": ({"proj_size": 2}, ("int8", RANGE), "proj_size: expected 0 .* bfloat16 takes any"),
    "gates": (
        {"activations": ("relu", "tanh", "tanh")}, ("int8", RANGE),
        r"activations\[0\]: expected one that stays within -1..1 with int8.*got 'relu'; bfloat16 takes any",
    ),
    "outer": (
        {"activations": ("sigmoid", "relu", ("scaled_tanh", {"alpha": 1.5}))}, ("int8", RANGE),
        r"activations\[2\]: expected one that stays within -1..1 with int8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_quantized_is_refused_with_the_reason(name):
    options, (precision, named), match = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=match):
        build_lstm(3, 5, dtype="float32", **options).quantize(precision, **named)


def test_depths_whose_sums_would_overflow_are_refused():
    with pytest.raises(ValueError, match="input_size: expected layers with at most 4129"):
        clstm.LSTM(4130, 1, dtype="float32").quantize("int8", x_range=1)
    assert clstm.LSTM(4129, 1, dtype="float32").quantize("int8", x_range=1).input_size == 4129


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.4e38])
def test_weights_that_are_no_numbers_are_refused(precision, value):
    lstm = build_lstm(3, 5, dtype="float32")
    lstm.params["weight_hh_l0"][7, 2] = value
    if precision == "int8" and np.isfinite(value):
        return
    expected = r"weight_hh_l0: expected (finite weights|weights that bfloat16 can hold)"
    with pytest.raises(ValueError, match=expected):
        lstm.quantize(precision, **({"x_range": 1} if precision == "int8" else {}))


@pytest.mark.parametrize("thing", [3, clstm.RNN(3, 5), clstm.LSTM(3, 5, rng=0).quantize("bfloat16")])
def test_only_an_lstm_with_floats_is_quantized(thing):
    with pytest.raises(TypeError, match="lstm: expected an LSTM with weights of floats, got"):
        clstm.QuantizedLSTM(thing, "bfloat16")


def test_errors_of_calls_are_those_of_an_lstm():
    small = build_lstm(3, 5, 2, dtype="float32").quantize("bfloat16")
    with pytest.raises(ValueError, match=r"x: expected shape \(T, B, 3\), got \(4, 2, 2\)"):
        small(np.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match=r"state\[1\]: expected shape \(2, 2, 5\)"):
        small(np.zeros((4, 2, 3)), (np.zeros((2, 2, 5)), np.zeros((2, 2, 4))))
    with pytest.raises(ValueError, match="stream: expected a unidirectional LSTM"):
        build_lstm(3, 5, bidirectional=True).quantize("bfloat16").stream()
    with pytest.raises(ValueError, match="lstm: expected hidden_size=5, as this layer has, got 6"):
        small.error(build_lstm(3, 6, 2), np.zeros((4, 2, 3)))
    with pytest.raises(TypeError, match="lstm: expected an LSTM, got 3"):
        small.error(3, np.zeros((4, 2, 3)))


def test_inputs_are_not_changed_and_threads_may_call_at_once():
    small = build_lstm(3, 17, dtype="float32").quantize("int8", x_range=5)
    x, arguments = inputs(small, 6, 2)
    kept = copy.deepcopy((x, arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(x, **arguments)
    assert_same_bits(x, kept[0])
    for part, before in zip(arguments["state"], kept[1]["state"], strict=True):
        assert_same_bits(part, before)
