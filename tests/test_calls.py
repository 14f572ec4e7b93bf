"""Short calls and steps: what is prepared for them has the bits, errors and manners of the long way."""

import copy
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from conftest import (
    LAYERS,
    as_tuple,
    assert_same_bits,
    build_layer,
    draw_inputs,
    load_build,
    make_case,
    run_python,
)

import clstm
from clstm import cells
from clstm.compat import accelerate
from clstm.compat.step_sequence import LSTM as Twin

SHAPES = [(1, 1), (3, 1), (1, 3), (4, 5)]  # T, B
PLAIN = ("lstm", "rnn")


def on_the_long_way(layer, *args, step=False):
    """Return what a layer computes without what is prepared."""
    prepared, layer._try_run = layer._try_run, lambda *_: None
    try:
        return (layer.step if step else layer)(*args)
    finally:
        layer._try_run = prepared


def assert_results_same(got, expected):
    assert_same_bits(got[0], expected[0], "y")
    assert len(as_tuple(got[1])) == len(as_tuple(expected[1]))
    for name, own, wanted in zip("hc", as_tuple(got[1]), as_tuple(expected[1]), strict=False):
        assert_same_bits(own, wanted, name)


def without_rows(x, state, axis):
    """Return the arguments of one sequence, which have no axis of rows."""
    parts = tuple(part[:, 0].copy() for part in as_tuple(state))
    return x.take(0, axis), parts if isinstance(state, tuple) else parts[0]


# ----------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("given", ["state", "zeros"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids="T{0[0]}-B{0[1]}".format)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 10), (20, 17)], ids="I{0[0]}-H{0[1]}".format)
def test_short_calls_have_the_bits_of_long_ones(kind, build, dtype, sizes, shape, num_layers, given):
    layer = build_layer(kind, *sizes, num_layers, dtype=dtype, build=build)
    data = draw_inputs(layer, *shape)
    state = data.state if given == "state" else None
    assert layer._try_run(data.x, state, True, False) is not None
    assert_results_same(layer(data.x, state), on_the_long_way(layer, data.x, state))
    assert_results_same(layer.step(data.x[0], state), on_the_long_way(layer, data.x[0], state, step=True))
    layer.batch_first = True
    by_rows = np.ascontiguousarray(data.x.swapaxes(0, 1))
    assert_results_same(layer(by_rows, state), on_the_long_way(layer, by_rows, state))
    if shape[1] == 1:
        x, alone = without_rows(data.x, data.state, 1)
        state = alone if given == "state" else None
        assert_results_same(layer(x, state), on_the_long_way(layer, x, state))
        assert_results_same(layer.step(x[0], state), on_the_long_way(layer, x[0], state, step=True))


def test_calls_on_both_sides_of_the_limit_agree(kind, build, dtype):
    """A call is one row after the other until packing the weights pays."""
    layer = build_layer(kind, 40, 40, dtype=dtype, build=build)
    x = draw_inputs(layer, 200, 1).x
    whole, ways = layer(x)[0], set()
    for T in (1, 3, 4, 10, 20, 30, 60, 200):
        ways.add(layer._try_run(x[:T], None, True, False) is None)
        assert_same_bits(layer(x[:T])[0], whole[:T])
    assert ways == {True, False}


def test_addresses_are_run_as_arrays(kind, build, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype, build=build)
    data = draw_inputs(layer, 2, 3)
    engine = load_build(build).Stream(layer.cells, 1, "f", True)
    addresses = [part.ctypes.data for part in (data.x, *as_tuple(data.state))]
    addresses += [0] * (3 - len(addresses))
    y, *state, tape = engine.try_addresses(data.x.shape, True, False, *addresses, False)
    assert tape == []
    expected = layer(data.x, data.state)
    assert_same_bits(y, expected[0])
    assert state[1] is None or kind == "lstm"
    for own, part in zip(state, as_tuple(expected[1]), strict=False):
        assert_same_bits(own, part)
    for shape in ((), (3,), (2, 3, 4), (1, 2, 3, 3), (0, 3, 3), (2, 0, 3)):
        assert engine.try_addresses(shape, True, False, *addresses, False) is None


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_tape_is_that_of_forward(build, dtype, batch_first):
    layer = build_layer("lstm", 3, 10, 2, dtype=dtype, build=build)
    data = draw_inputs(layer, 2, 3)
    engine = load_build(build).Stream(layer.cells, 1, "f", False)
    x = np.ascontiguousarray(data.x.swapaxes(0, 1)) if batch_first else data.x
    addresses = [part.ctypes.data for part in (x, *data.state)]
    y, *state, tape = engine.try_addresses(x.shape, True, batch_first, *addresses, True)
    expected, final = layer.forward(data.x, data.state)
    assert_results_same((y.swapaxes(0, 1) if batch_first else y, tuple(state)), (expected, final))
    wanted = [part for made in layer.tape.layers for part in (made.cells[0].y, *made.cells[0][1:3])]
    for own, part in zip(tape, wanted, strict=True):
        assert_same_bits(own, part)
    before = [part.copy() for part in tape]
    engine.try_addresses(x.shape, True, batch_first, *addresses[:1], 0, 0, False)
    engine.try_step(np.ones(3, dtype), None)
    for own, part in zip(tape, before, strict=True):
        assert_same_bits(own, part)


# ------------------------------------------------------------------------------------ what goes the long way


@pytest.mark.parametrize(
    "options",
    [
        {"peepholes": True},
        {"proj_size": 4},
        {"layer_norm": True},
        {"coupled": True},
        {"zoneout": (0.1, 0.2)},
        {"cell_clip": 0.5},
        {"bidirectional": True},
        {"reverse": True},
        {"backend": "numpy"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_not_prepared_goes_the_long_way(dtype, options):
    layer = build_layer("lstm", 3, 10, dtype=dtype, **options)
    data = draw_inputs(layer, 2, 1)
    assert layer._try_run(data.x, None, True, False) is None
    assert_results_same(layer(data.x, data.state), on_the_long_way(layer, data.x, data.state))
    if not (layer.bidirectional or layer.reverse):
        x_t = data.x[0]
        assert_results_same(layer.step(x_t, data.state), on_the_long_way(layer, x_t, data.state, step=True))


def test_set_arguments_count_at_the_next_call(build, dtype):
    layer = build_layer("lstm", 3, 10, dtype=dtype, build=build)
    x = draw_inputs(layer, 1, 1).x
    before = layer(x)[0]
    layer.zoneout = (0.5, 0.5)
    kept = layer(x)[0]
    assert not np.array_equal(kept, before)
    assert_same_bits(kept, on_the_long_way(layer, x)[0])
    layer.zoneout = (0.0, 0.0)
    assert_same_bits(layer(x)[0], before)


def test_the_definition_computes_where_it_is_asked_to(dtype):
    layer = build_layer("lstm", 3, 10, dtype=dtype)
    x = draw_inputs(layer, 1, 1).x
    layer.backend = "numpy"
    assert_same_bits(layer(x)[0], clstm.reference.LSTM.from_params(layer.state_dict())(x)[0])
    assert layer._try_run(x, None, True, False) is None


def misaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    memory[...] = x
    return memory


ODD = {
    "list": lambda a: a.tolist(),
    "other float": lambda a: a.astype(np.float32 if a.dtype == np.float64 else np.float64),
    "int": lambda a: np.ones(a.shape, int),
    "column order": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "masked array": np.ma.asarray,
    "another class": lambda a: a.view(np.recarray),
    "memoryview": memoryview,
    "dtype of its own": lambda a: pickle.loads(pickle.dumps(a)),
    "read-only": lambda a: np.broadcast_to(a, a.shape),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arguments_are_converted(kind, dtype, name):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype)
    data = draw_inputs(layer, 2, 3)
    odd = ODD[name](data.x)
    assert_results_same(layer(odd, data.state), on_the_long_way(layer, odd, data.state))
    odd = ODD[name](data.x[0])
    assert_results_same(layer.step(odd, data.state), on_the_long_way(layer, odd, data.state, step=True))
    parts = tuple(ODD[name](part) for part in as_tuple(data.state))
    for state in (parts, list(parts)) if kind == "lstm" else parts:
        assert_results_same(layer(data.x, state), on_the_long_way(layer, data.x, state))


WRONG = [None, "text", 1.5, [], {}, object(), np.zeros(3), np.zeros((2, 4)), np.zeros(()), np.zeros((2,) * 4)]
WRONG += [np.zeros((2, 1, 10)), np.zeros((2, 1, 3), complex), np.zeros((1, 10)), (np.zeros((2, 1, 10)),) * 3]
WRONG += [(np.zeros((2, 1, 10)), None), (np.zeros((2, 1, 10)), np.zeros((2, 1, 9))), (np.zeros((2, 10)),) * 2]


def outcome(call, *args, **kwargs):
    """Return what a call returns or raises, as something to compare."""
    try:
        y, state = call(*args, **kwargs)
    except Exception as error:  # noqa: BLE001
        return type(error), str(error)
    return y.tobytes(), [part.tobytes() for part in as_tuple(state)]


@pytest.mark.parametrize("step", [False, True], ids=["call", "step"])
@pytest.mark.parametrize("position", [0, 1])
def test_wrong_arguments_are_the_errors_of_the_long_way(kind, dtype, position, step):
    layer, failed = build_layer(kind, 3, 10, 2, dtype=dtype), 0
    x = np.ones((1, 3) if step else (2, 1, 3), dtype)
    for value in WRONG:
        given = (value,) if position == 0 else (x, value)
        expected = outcome(on_the_long_way, layer, *given, step=step)
        assert outcome(layer.step if step else layer, *given) == expected
        failed += isinstance(expected[0], type)
    assert failed > len(WRONG) // 2


# ----------------------------------------------------------------------------------- weights, as they are now


def test_changed_weights_count_at_the_next_call(kind, build, dtype, tmp_path):
    layer = build_layer(kind, 3, 10, dtype=dtype, build=build)
    other = build_layer(kind, 3, 10, dtype=dtype, build=build, seed=1)
    x = draw_inputs(layer, 1, 1).x
    other.save(tmp_path / "other")

    def assign(layer):
        layer.params["bias_l0"] = np.ones_like(layer.params["bias_l0"])

    def scale(layer):
        layer.flat_params *= 0.5

    def load(layer):
        layer.load_state_dict(other.state_dict())

    def replace(layer):
        layer.flat_params = other.flat_params * 2

    for change in (assign, scale, load, replace):
        before = layer(x)
        change(layer)
        after = layer(x)
        assert not np.array_equal(before[0], after[0])
        assert_results_same(after, on_the_long_way(layer, x))
        assert_results_same(layer.step(x[0]), on_the_long_way(layer, x[0], step=True))
    assert_results_same(type(other).load(tmp_path / "other")(x), other(x))


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_have_weights_of_their_own_or_share_them(kind, dtype, duplicate):
    layer = LAYERS[kind](3, 10, dtype=dtype, rng=0)
    x = draw_inputs(layer, 1, 1).x
    twin = duplicate(layer)
    shared = np.shares_memory(twin.flat_params, layer.flat_params)
    assert_results_same(twin(x), layer(x))
    before = layer(x)
    twin.flat_params *= 0.5
    assert_results_same(twin(x), on_the_long_way(twin, x))
    assert np.array_equal(layer(x)[0], before[0]) is not shared


def test_rebound_arrays_of_an_accelerated_object_count_at_the_next_call():
    class Mine:
        def __init__(self):
            rng = np.random.default_rng(0)
            for gate in "ifgo":
                setattr(self, "W" + gate, rng.standard_normal((5, 8)))
                setattr(self, "b" + gate, np.zeros((5, 1)))

    mine, x = Mine(), np.ones((1, 3))
    lstm = accelerate(mine, gates={gate: ("W" + gate, "b" + gate) for gate in "ifgo"}, concat="xh")
    for bias in (1.0, 2.0):
        before = lstm(x), lstm.step(x[0])
        mine.bo = np.full((5, 1), bias)
        assert not np.array_equal(lstm.step(x[0])[0], before[1][0])
        mine.bo = np.full((5, 1), bias + 0.5)
        assert not np.array_equal(lstm(x)[0], before[0][0])
        assert_results_same(lstm(x), on_the_long_way(lstm, x))


# ----------------------------------------------------------------------------------------- memory and threads


def test_results_are_nobody_elses(kind, dtype):
    layer = build_layer(kind, 3, 10, dtype=dtype)
    data = draw_inputs(layer, 1, 1)
    given = data.x, *as_tuple(data.state)
    before = [part.copy() for part in given]
    y, state = layer(data.x, data.state)
    arrays, kept = [y, *as_tuple(state)], [part.copy() for part in (y, *as_tuple(state))]
    h_t, after = layer.step(data.x[0], state)
    arrays += [h_t, *as_tuple(after)]
    for n, array in enumerate(arrays):
        assert array.flags.owndata
        assert array.flags.writeable
        assert not any(np.shares_memory(array, other) for other in (*arrays[:n], *given))
    for array, expected in zip((*given, *arrays), (*before, *kept), strict=False):
        assert_same_bits(array, expected)


def test_calls_leave_no_memory_and_no_references(kind, dtype):
    layer = build_layer(kind, 3, 10, 2, dtype=dtype)
    data = draw_inputs(layer, 1, 1)
    held = (data.x, data.state, layer.dtype, *as_tuple(data.state))
    wrong = np.zeros(10, dtype)

    def work(n):
        for _ in range(n):
            layer(data.x, data.state)
            layer.step(data.x[0])
            layer._try_run(wrong, data.state, True, False)
            layer._try_run(data.x, wrong, True, False)

    work(100)
    counts = [sys.getrefcount(value) for value in held]
    tracemalloc.start()
    work(100)
    before = tracemalloc.get_traced_memory()[0]
    work(3000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert [sys.getrefcount(value) for value in held] == counts
    assert grown < 3000  # less than a byte a call


@pytest.mark.parametrize("H", [16, 120], ids=["short steps", "long steps"])
def test_any_number_of_threads_may_call_at_once(kind, dtype, H):
    """Whoever comes while another thread is in a step goes the long way."""
    layer = build_layer(kind, 5, H, dtype=dtype)
    data = draw_inputs(layer, 60, 1)
    expected = [layer(x_t[None], data.state)[0] for x_t in data.x]
    problems = []

    def work():
        for _ in range(5):
            for x_t, y_t in zip(data.x, expected, strict=True):
                called, stepped = layer(x_t[None], data.state)[0], layer.step(x_t, data.state)[0]
                if not (np.array_equal(called, y_t) and np.array_equal(stepped, y_t[0])):
                    problems.append(x_t)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems


def test_arrays_that_lie_otherwise_are_read_by_their_buffers():
    """As if a NumPy to come had other fields: a stream goes on, and calls go the long way."""
    code = """
import numpy as np
class Other:
    __array_interface__ = {"data": (0, False)}
    def __getitem__(self, index):
        return self
zeros, np.zeros = np.zeros, lambda shape: Other()
from clstm import _dispatch
np.zeros = zeros
import clstm
lstm, x = clstm.LSTM(3, 5, rng=0), np.ones((4, 3))
stream = lstm.stream()
assert lstm._try_run(x, None, True, False) is None
y, state = lstm(x)
assert np.array_equal(y, [stream.step(x_t) for x_t in x])
assert stream._try_step(x[0], None) is not None
stream.reset([0])
h, _ = lstm.step(x[0])
assert np.array_equal(h, y[0]) and np.array_equal(stream.step(x[0]), h)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------- columns, for the twins


@pytest.mark.parametrize("H", [1, 9, 33])
def test_columns_are_steps_of_rows(build, dtype, H):
    case = make_case(1, 1, 5, H, dtype)
    engine = load_build(build).Stream([case.cell], 1, "f", False)
    x, h, c = case.x[0].T.copy(), *(part.T.copy() for part in case.state("{}_0"))
    after = engine.try_columns(x, h, c)
    addresses = [part.ctypes.data for part in (x, h, c)]
    _, *expected, _ = engine.try_addresses((5,), False, False, *addresses, False)
    for got, wanted in zip(after, expected, strict=True):
        assert got.shape == (H, 1)
        assert_same_bits(got[:, 0], wanted[0])


@pytest.mark.parametrize("position", range(3))
def test_columns_of_another_kind_are_declined(build, dtype, position):
    case = make_case(1, 1, 3, 10, dtype)
    engine = load_build(build).Stream([case.cell], 1, "f", False)
    right = [np.ones((n, 1), dtype) for n in (3, 10, 10)]
    wrong = [None, "text", 1.5, right[position].tolist(), right[position][:-1].copy(), right[position][:, 0]]
    wrong += [ODD[name](right[position]) for name in ("other float", "byte-swapped", "another class")]
    wrong += [right[position][::-1], misaligned(right[position]), np.ones((len(right[position]), 2), dtype)]
    for value in wrong:
        given = list(right)
        given[position] = value
        assert engine.try_columns(*given) is None
    assert engine.try_columns(*right) is not None


def test_twins_step_on_what_is_prepared():
    np.random.seed(0)  # noqa: NPY002  # the generator that twins draw from
    twin = Twin(3, 5)
    x, h, C = np.ones((3, 1)), np.zeros((5, 1)), np.ones((5, 1))
    prepared = twin.forward(x, h, C)
    twin._try_step = lambda *_: None
    for own, expected in zip(prepared, twin.forward(x, h, C), strict=True):
        assert_same_bits(own, expected)


def test_every_kind_that_has_no_options_is_prepared():
    assert set(PLAIN) == {kind.name for kind in vars(cells).values() if isinstance(kind, cells.Kind)}
    for kind in PLAIN:
        layer = LAYERS[kind](3, 5, rng=0)
        assert layer._try_run(np.ones((1, 3)), None, True, False) is not None
