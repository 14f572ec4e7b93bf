"""The tape as a value: any number at once, each used as often as one likes; owners, threads, memory."""

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import LAYERS, as_tuple, assert_close, assert_same_bits, build_layer, draw_inputs, unchanged

import clstm
from clstm.tape import Tape

I, H = 3, 5  # noqa: E741
ARGUMENTS = {"input_size": I, "hidden_size": H, "num_layers": 2, "bidirectional": True}


def make(kind, seed=0, **kwargs):
    return build_layer(kind, **ARGUMENTS, seed=seed, **kwargs)


def gradients(layer, d, tape=None):
    """Go back through a tape; return copies of all results."""
    dx, dfirst = layer.backward(d.dy, d.dstate, tape=tape)
    return [dx, *as_tuple(dfirst), layer.flat_grads.copy()]


def alone(kind, d, **kwargs):
    """Return what an undisturbed pair of forward and backward gives."""
    layer = make(kind, **kwargs)
    layer.forward(d.x, d.state, d.lengths)
    return gradients(layer, d)


def assert_all_same(got, expected):
    for value, wanted in zip(got, expected, strict=True):
        assert_same_bits(value, wanted)


def branches(layer, n=3):
    """Draw inputs of different sizes."""
    return [draw_inputs(layer, 4 + k, 2 + k, seed=k, ragged=k == 1) for k in range(n)]


# ---------------------------------------------------------------------------------------- any number at once


def test_there_is_no_tape_before_the_first_forward(kind, backend):
    layer = make(kind, backend=backend)
    assert layer.tape is None
    d = draw_inputs(layer, 4, 2)
    layer(d.x)
    layer.trace(d.x)
    assert layer.tape is None
    layer.forward(d.x)
    assert isinstance(layer.tape, Tape)
    assert clstm.Tape is Tape


def test_inference_leaves_the_tape_and_forward_leaves_another(kind, backend):
    layer = build_layer(kind, I, H, 2, backend=backend)
    d, other = draw_inputs(layer, 5, 3), draw_inputs(layer, 4, 2, seed=1)
    layer.forward(other.x)
    first = layer.tape
    layer.forward(d.x)
    tape, expected = layer.tape, layer.backward(d.dy)[0]
    assert tape is not first
    layer(other.x)
    layer.trace(other.x)
    layer.step(other.x[0])
    layer.stream(2).step(other.x[0])
    layer.backward(d.dy)
    assert layer.tape is tape
    assert_same_bits(layer.backward(d.dy)[0], expected)


def test_kept_tapes_give_the_bits_of_undisturbed_pairs(kind, dtype, backend):
    """In any order, each of them twice."""
    layer = make(kind, dtype=dtype, backend=backend, dropout=0.0)
    inputs = branches(layer)
    expected = [alone(kind, d, dtype=dtype, backend=backend) for d in inputs]
    tapes = []
    for d in inputs:
        layer.forward(d.x, d.state, d.lengths)
        tapes.append(layer.tape)
    for n in (0, 2, 1, 1, 0, 2):
        assert_all_same(gradients(layer, inputs[n], tapes[n]), expected[n])
        assert layer.tape is tapes[-1]
    assert_all_same(gradients(layer, inputs[-1]), expected[-1])


def test_tape_keeps_its_masks_of_dropout(kind, backend):
    layer, untouched = (make(kind, backend=backend, dropout=0.5) for _ in range(2))
    d = draw_inputs(layer, 5, 3)
    for each in (layer, untouched):
        each.forward(d.x, d.state)
    expected, tape = gradients(untouched, d), layer.tape
    layer.forward(d.x, d.state)
    assert not np.array_equal(gradients(layer, d)[-1], expected[-1])
    assert_all_same(gradients(layer, d, tape), expected)
    layer.dropout = 0.0  # for the passes that follow
    assert_all_same(gradients(layer, d, tape), expected)


def test_gradients_of_two_inputs_through_one_layer_add_up(kind, dtype, backend):
    """Siamese: one layer, two inputs, one loss."""
    layer = make(kind, dtype=dtype, backend=backend)
    left, right = branches(layer, 2)
    tapes = []
    for d in (left, right):
        layer.forward(d.x, d.state, d.lengths)
        tapes.append(layer.tape)
    dx_left, _ = layer.backward(left.dy, left.dstate, tape=tapes[0])
    dx_right, _ = layer.backward(right.dy, right.dstate, accumulate=True, tape=tapes[1])
    expected_left, expected_right = (alone(kind, d, dtype=dtype, backend=backend) for d in (left, right))
    assert_same_bits(dx_left, expected_left[0])
    assert_same_bits(dx_right, expected_right[0])
    assert_same_bits(layer.flat_grads, expected_left[-1] + expected_right[-1])


def test_tape_belongs_to_its_layout_of_batches(kind, backend):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 4, 1)
    layer.forward(d.x[:, 0])
    one = layer.tape
    layer.forward(d.x)
    batched, _ = layer.backward(d.dy)
    assert_same_bits(layer.backward(d.dy[:, 0], tape=one)[0], batched[:, 0])
    with (
        unchanged(layer),
        pytest.raises(ValueError, match=r"^dy: expected shape \(4, 10\), got \(4, 1, 10\)$"),
    ):
        layer.backward(d.dy, tape=one)


def test_tape_belongs_to_its_order_of_axes(kind, backend):
    """As many rows as steps, so that no shape tells."""
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 4, 4)
    layer.forward(d.x, d.state)
    expected = gradients(layer, d)
    layer.batch_first = True  # for the passes that follow
    assert_all_same(gradients(layer, d), expected)


def test_tape_is_not_disturbed_by_changes_of_inputs_and_outputs(kind, dtype, backend):
    """Also in one layer without dropout, where y and its copy in the tape have one shape."""
    layer = build_layer(kind, I, H, dtype=dtype, backend=backend)
    d = draw_inputs(layer, 5, 3, ragged=True)
    lengths = d.lengths.astype(np.intp)
    layer.forward(d.x, d.state, lengths)
    expected = gradients(layer, d)
    y, final = layer.forward(d.x, d.state, lengths)
    for array in (d.x, *as_tuple(d.state), y, *as_tuple(final)):
        array[...] = np.nan
    lengths[...] = 1
    assert_all_same(gradients(layer, d), expected)


def test_backend_may_change_between_forward_and_backward(kind):
    layer = make(kind)
    d = draw_inputs(layer, 4, 3, ragged=True)
    layer.forward(d.x, d.state, d.lengths)
    expected = gradients(layer, d)
    layer.backend = "numpy"
    for got, wanted in zip(gradients(layer, d), expected, strict=True):
        assert_close(got, wanted, "backward")


@pytest.mark.parametrize("bad", ["shape", "lengths", "state", "type"])
def test_forward_that_raises_leaves_the_tape(kind, backend, bad):
    layer = make(kind, backend=backend, dropout=0.5)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x, d.state)
    expected = gradients(layer, d)
    arguments = {
        "shape": (d.x[:, :, :2],),
        "lengths": (d.x, d.state, [9, 9]),
        "state": (d.x, (d.x,)),
        "type": ("text",),
    }[bad]
    with unchanged(layer), pytest.raises((ValueError, TypeError)):
        layer.forward(*arguments)
    assert_all_same(gradients(layer, d), expected)


def test_forward_that_fails_half_way_leaves_the_tape(kind, monkeypatch):
    layer = build_layer(kind, I, H, 2, dropout=0.0)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x, d.state)
    tape, expected = layer.tape, gradients(layer, d)

    class Failing:
        """Runs the first layer and runs out of memory in the second."""

        def forward_all(self, passes, stacked):
            functions.forward_all(passes[:1], stacked)
            raise MemoryError

    functions = layer.functions
    with monkeypatch.context() as patched:
        patched.setattr(type(layer), "functions", Failing())
        with pytest.raises(MemoryError):
            layer.forward(d.x + 1, d.state)
    assert layer.tape is tape
    assert_all_same(gradients(layer, d), expected)


# ----------------------------------------------------------------------------------------------- whose it is

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "from_params": lambda v: type(v).from_params(v.flat_params, **ARGUMENTS),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_tape_of_a_copy_is_refused_both_ways(kind, backend, duplicate):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x)
    other = duplicate(layer)
    assert other.tape is None
    other.forward(d.x)
    layer.backward(d.dy)
    other.backward(d.dy)
    for own, tape in ((layer, other.tape), (other, layer.tape)):
        with (
            unchanged(own),
            pytest.raises(ValueError, match=r"^tape: expected one that .*, got one of another layer$"),
        ):
            own.backward(d.dy, tape=tape)


def test_tape_of_another_layer_is_refused(kind, backend):
    layer, alike = make(kind, backend=backend), make(kind, backend=backend)
    larger = build_layer(kind, I, H + 1, 2, bidirectional=True, backend=backend)
    other_kind = make({"lstm": "rnn", "rnn": "lstm"}[kind], backend=backend)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x)
    layer.backward(d.dy)
    for other in (alike, larger, other_kind):
        other.forward(d.x)
        with unchanged(layer), pytest.raises(ValueError, match=r"^tape: .*, got one of another layer$"):
            layer.backward(d.dy, tape=other.tape)
    fresh = make(kind, backend=backend)
    with unchanged(fresh), pytest.raises(ValueError, match=r"^tape: .*, got one of another layer$"):
        fresh.backward(d.dy, tape=layer.tape)


@pytest.mark.parametrize("bad", [7, "tape", (), np.ones((4, 2, 3)), object()], ids=lambda v: type(v).__name__)
def test_what_is_no_tape_is_refused(kind, backend, bad):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x)
    with unchanged(layer), pytest.raises(TypeError, match=r"^tape: expected Tape, got "):
        layer.backward(d.dy, tape=bad)


def test_tape_is_read_only_and_shows_its_sizes(kind):
    layer = make(kind)
    layer.forward(np.ones((4, 2, I)))
    assert repr(layer.tape) == f"<Tape of 4 time steps of 2 rows of {I} inputs, 2 layers>"
    assert layer.tape.shape == (4, 2, I)
    with pytest.raises(AttributeError):
        layer.tape = None
    with pytest.raises(AttributeError):
        layer.tape.layers = ()


# --------------------------------------------------------------------------------------------------- threads


def test_each_thread_has_the_tape_of_its_own_forward(kind, dtype, backend):
    layer = make(kind, dtype=dtype, backend=backend)
    inputs = [draw_inputs(layer, 6, 1 + n, seed=n) for n in range(4)]
    expected = [alone(kind, d, dtype=dtype, backend=backend)[0] for d in inputs]
    gate = threading.Barrier(4, timeout=60)

    def work(n):
        d = inputs[n]
        for _ in range(10):
            gate.wait()
            layer.forward(d.x, d.state)
            gate.wait()  # by now the others have left theirs
            assert layer.tape.shape == d.x.shape
            assert_same_bits(layer.backward(d.dy, d.dstate, accumulate=True)[0], expected[n])
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_tapes_may_be_handed_from_thread_to_thread(kind, dtype, backend):
    layer = make(kind, dtype=dtype, backend=backend)
    inputs = [draw_inputs(layer, 6, 1 + n, seed=n) for n in range(6)]
    expected = [alone(kind, d, dtype=dtype, backend=backend)[0] for d in inputs]

    def forward(n):
        layer.forward(inputs[n].x, inputs[n].state)
        return layer.tape

    def backward(n, tape):
        return layer.backward(inputs[n].dy, inputs[n].dstate, tape=tape)[0]

    order = [*range(6)] * 4
    with ThreadPoolExecutor(3) as first, ThreadPoolExecutor(3) as second:
        tapes = [first.submit(forward, n) for n in order]
        results = [second.submit(backward, n, tape.result()) for n, tape in zip(order, tapes, strict=True)]
        for n, result in zip(order, results, strict=True):
            assert_same_bits(result.result(), expected[n])


def test_thread_without_a_forward_of_its_own_sees_the_last_tape(kind):
    layer = make(kind)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: layer.tape).result() is layer.tape
        assert_same_bits(pool.submit(layer.backward, d.dy).result()[0], layer.backward(d.dy)[0])


def test_gradients_accumulated_from_many_threads_are_all_there(kind):
    """Every gradient is 1, so that sums are exact; there are so many that NumPy lets other threads in."""

    class Ones:
        forward_all = staticmethod(make(kind).functions.forward_all)
        Stream = make(kind).functions.Stream

        @staticmethod
        def backward_all(passes, stacked):
            ((*_, dx, dcell, dfirst),) = passes
            assert stacked
            for part in (dx, *dcell.arrays, *dfirst):
                part[...] = 1

    layer = type("Counting", (LAYERS[kind],), {"functions": Ones})(I, 400, rng=0)
    layer.forward(np.ones((1, 1, I)))
    dy, tape = np.ones((1, 1, 400)), layer.tape
    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(layer.backward, dy, accumulate=True, tape=tape) for _ in range(100)]
        for each in work:
            each.result()
    assert (layer.flat_grads == 100).all()


# ---------------------------------------------------------------------------------------------------- memory


def arrays_of(tape):
    for layer in tape.layers:
        yield layer.x
        for cell in layer.cells:
            yield from (part for part in (*cell[:5], *cell.masks) if part is not None)


def root(array):
    """Return what owns the memory of an array."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def addresses(tape):
    return sorted(array.__array_interface__["data"][0] for array in arrays_of(tape))


def test_memory_is_used_again_when_nobody_holds_the_tape(kind, dtype):
    """Blocks may change places with each other and with the workspaces, but the pool keeps 48 at most."""
    layer = build_layer(kind, I, H, dtype=dtype)
    d = draw_inputs(layer, 40, 30)
    seen = []
    for _ in range(120):
        layer.forward(d.x)
        seen.append(set(addresses(layer.tape)))
    assert len(set.union(*seen)) <= 48 < 120
    kept = []
    for _ in range(30):
        layer.forward(d.x)
        kept.append(layer.tape)
    assert len(set.union(*(set(addresses(tape)) for tape in kept))) == 30 * len(seen[0])


def test_tape_is_gone_with_its_last_holder(kind, backend):
    layer = make(kind, backend=backend)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x)
    kept = layer.tape
    first, inner = weakref.ref(kept), weakref.ref(kept.layers[0].x)
    layer.forward(d.x)
    assert first() is kept
    del kept
    assert first() is inner() is None  # without the garbage collector
    last = weakref.ref(layer.tape)
    del layer
    gc.collect()
    assert last() is None


def test_tape_of_a_finished_thread_is_gone_after_the_next_forward(kind):
    layer = make(kind)
    d = draw_inputs(layer, 4, 2)
    thread = threading.Thread(target=layer.forward, args=(d.x,))
    thread.start()
    thread.join()
    tape = weakref.ref(layer.tape)
    layer.forward(d.x)
    assert tape() is None


@pytest.mark.parametrize("which", ["x", "y", "gates", "c"])
def test_memory_is_not_used_again_while_a_view_of_it_is_held(kind, dtype, which):
    layer = make(kind, dtype=dtype)
    d = draw_inputs(layer, 40, 30)
    layer.forward(d.x)
    cell = layer.tape.layers[1].cells[1]
    array = layer.tape.layers[1].x if which == "x" else getattr(cell, which)
    if array is None:
        assert kind == "rnn"
        return
    view = array[3:, ::2]
    before = view.copy()
    place = {array.__array_interface__["data"][0]}
    del cell, array
    for n in range(10):
        layer.forward(d.x + n)
        assert not place & set(addresses(layer.tape))
        assert all(root(other) is not root(view) for other in arrays_of(layer.tape))
    assert_same_bits(view, before)


def test_tape_survives_its_layer(kind):
    layer = make(kind)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x, d.state)
    tape = layer.tape
    values = [array.copy() for array in arrays_of(tape)]
    del layer
    gc.collect()
    other = make(kind, seed=1)
    for _ in range(5):
        other.forward(d.x)
    assert_all_same(arrays_of(tape), values)
