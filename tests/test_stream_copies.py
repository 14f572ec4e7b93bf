"""Copies of streams: they go on with the same bits, apart from their original, on the same snapshot."""

import copy
import pickle

import numpy as np
import pytest
from conftest import as_tuple, assert_same_bits, build_layer, draw_inputs, run_python

import clstm

I, H = 3, 5  # noqa: E741
DUPLICATES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "pickle-2": lambda v: pickle.loads(pickle.dumps(v, 2)),
}


@pytest.fixture(params=DUPLICATES.values(), ids=DUPLICATES)
def duplicate(request):
    return request.param


@pytest.fixture(params=[None, 1, 3], ids=["one-row", "B=1", "B=3"])
def batch_size(request):
    return request.param


def make(kind, batch_size=None, layers=2, **kwargs):
    """Return a layer, a stream that has run three steps from a state, and the steps that follow."""
    layer = build_layer(kind, I, H, layers, **kwargs)
    d = draw_inputs(layer, 8, batch_size or 1)
    one = (lambda v: v[:, 0]) if batch_size is None else (lambda v: v)
    state = tuple(map(one, d.state)) if isinstance(d.state, tuple) else one(d.state)
    stream = layer.stream(batch_size, state)
    x = one(d.x)
    for x_t in x[:3]:
        stream.step(x_t)
    return layer, stream, x[3:]


def run(stream, x):
    return np.array([stream.step(x_t) for x_t in x])


def assert_same_state(got, expected):
    for part, wanted in zip(as_tuple(got), as_tuple(expected), strict=True):
        assert_same_bits(part, wanted)


def test_copy_goes_on_with_the_same_bits(kind, dtype, backend, batch_size, duplicate):
    _, stream, x = make(kind, batch_size, dtype=dtype, backend=backend)
    other = duplicate(stream)
    assert type(other) is clstm.Stream
    assert_same_state(other.state, stream.state)
    assert_same_bits(run(other, x), run(stream, x))
    assert_same_state(other.state, stream.state)


def test_original_is_not_disturbed_by_being_copied(kind, backend, batch_size, duplicate):
    _, stream, x = make(kind, batch_size, backend=backend)
    _, expected, _ = make(kind, batch_size, backend=backend)
    for x_t in x:
        duplicate(stream)
        assert_same_bits(stream.step(x_t), expected.step(x_t))


def test_states_are_independent(kind, backend, batch_size, duplicate):
    _, stream, x = make(kind, batch_size, backend=backend)
    other, before = duplicate(stream), stream.state
    expected = run(duplicate(stream), x)
    run(other, -x)
    assert_same_state(stream.state, before)
    other.state = None
    other.reset()
    assert_same_bits(run(stream, x), expected)


def test_copy_is_reset_to_zero_as_its_original(kind, backend, batch_size, duplicate):
    _, stream, x = make(kind, batch_size, backend=backend)
    other = duplicate(stream)
    run(other, x)
    for each in (other, stream):
        each.reset()
    assert not any(part.any() for part in as_tuple(other.state))
    assert_same_state(other.state, stream.state)
    assert_same_bits(run(other, x), run(stream, x))


def test_state_of_a_copy_can_be_set(kind, batch_size, duplicate):
    _, stream, x = make(kind, batch_size)
    start, first = stream.state, run(stream, x)
    other = duplicate(stream)
    other.state = start
    assert_same_bits(run(other, x), first)


def test_snapshot_is_kept_although_the_parameters_have_changed(kind, dtype, backend, batch_size, duplicate):
    layer, stream, x = make(kind, batch_size, dtype=dtype, backend=backend)
    expected = run(copy.deepcopy(stream), x)
    layer.flat_params = 0.5 * layer.flat_params
    other = duplicate(stream)
    assert_same_bits(run(other, x), expected)
    assert_same_bits(run(stream, x), expected)


def test_refresh_works_on_the_copy(kind, dtype, backend, batch_size, duplicate):
    layer, stream, x = make(kind, batch_size, dtype=dtype, backend=backend)
    layer.flat_params = 0.5 * layer.flat_params
    other, third = duplicate(stream), duplicate(stream)
    start = other.state
    other.refresh()
    assert_same_state(other.state, start)
    new = layer.stream(batch_size, start)
    assert_same_bits(run(other, x), run(new, x))
    # Neither the original nor another copy has been refreshed.
    old = run(stream, x)
    assert_same_bits(run(third, x), old)
    assert not np.array_equal(old, run(layer.stream(batch_size, start), x))


def test_shallow_copy_follows_the_same_layer_and_a_deep_one_its_own(kind):
    layer, stream, x = make(kind)
    shallow, deep = copy.copy(stream), copy.deepcopy(stream)
    start = stream.state
    layer.flat_params = 0.5 * layer.flat_params
    for each in (shallow, deep):
        each.refresh()
    changed, kept = layer.stream(state=start), build_layer(kind, I, H, 2).stream(state=start)
    assert_same_bits(run(shallow, x), run(changed, x))
    assert_same_bits(run(deep, x), run(kept, x))


def test_copies_of_copies(kind, duplicate):
    _, stream, x = make(kind)
    other = duplicate(duplicate(duplicate(stream)))
    assert_same_bits(run(other, x), run(stream, x))


def test_layer_and_stream_that_are_copied_together_stay_together(kind):
    layer, stream, x = make(kind)
    other_layer, other = copy.deepcopy((layer, stream))
    other_layer.flat_params = 0.5 * other_layer.flat_params
    start = other.state
    other.refresh()
    assert_same_bits(run(other, x), run(other_layer.stream(state=start), x))
    stream.refresh()
    assert_same_bits(run(stream, x), run(layer.stream(state=start), x))


def test_stream_can_be_sent_to_another_process(kind):
    """Where other kernels may be used; here the same ones, so that bits agree."""
    _, stream, x = make(kind, 3)
    sent = pickle.dumps((stream, x)).hex()
    code = (
        "import pickle, sys, numpy as np\n"
        "stream, x = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(np.array([stream.step(x_t) for x_t in x]).tobytes().hex())\n"
    )
    result = run_python(code, sent, CLSTM_ISA=clstm._dispatch.isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == run(stream, x).tobytes().hex()


def test_copy_of_a_copy_of_a_stream_refuses_bad_input_as_before(kind, duplicate):
    _, stream, x = make(kind, 3)
    other = duplicate(stream)
    start = other.state
    with pytest.raises(ValueError, match=r"^x_t: expected shape \(3, 3\), got \(2, 3\)$"):
        other.step(x[0][:2])
    with pytest.raises(TypeError, match=r"^out: expected an array of dtype float64"):
        other.step(x[0], out=np.empty((3, H), "f4"))
    assert_same_state(other.state, start)
    out = np.empty((3, H))
    assert other.step(x[0], out=out) is out


def test_copy_runs_where_its_original_does(kind, dtype, duplicate):
    """The backend is part of the snapshot."""
    layer, stream, x = make(kind, dtype=dtype)
    layer.backend = "numpy"
    assert_same_bits(run(duplicate(stream), x), run(stream, x))
