"""Passes at once: two directions and stacked layers, whose chunks threads take as they become ready.

Sizes are such that a pass by itself is not shared among threads; `threads` lets a call begin when all of its
threads are there.
"""

import numpy as np
import pytest
from conftest import as_tuple, assert_same_bits, build_layer, draw_inputs, run_python, signals, threads

import clstm

THREADS = (2, 3, 5)
STRUCTURES = {
    "two directions": {"bidirectional": True},
    "two layers": {"num_layers": 2},
    "three layers": {"num_layers": 3},
    "two directions of two layers": {"num_layers": 2, "bidirectional": True},
    "two reverse layers": {"num_layers": 2, "reverse": True},
}
# T, B, I, H of enough work for threads; a kind with fewer gates needs more units.
SIZES = {
    "one row": {"lstm": (150, 1, 20, 48), "rnn": (190, 1, 20, 90)},
    "ragged rows": {"lstm": (90, 3, 20, 37), "rnn": (90, 3, 20, 80)},
}


def results(layer, data, resets=None):
    """Return all that a call, forward and backward give."""
    called, state = layer(data.x, data.state, data.lengths, resets)
    y, last = layer.forward(data.x, data.state, data.lengths, resets)
    dx, dstate = layer.backward(data.dy, data.dstate)
    trace = layer.trace(data.x, data.state, data.lengths, resets)
    return (
        called,
        *as_tuple(state),
        y,
        *as_tuple(last),
        dx,
        *as_tuple(dstate),
        layer.flat_grads.copy(),
        trace.h,
    )


def assert_no_bit_changes(layer, data, resets=None):
    with threads(1):
        expected = results(layer, data, resets)
    for n in THREADS:
        with threads(n):
            for got, value in zip(results(layer, data, resets), expected, strict=True):
                assert_same_bits(got, value, f"{n} threads")


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_passes_at_once_have_the_bits_of_one_after_the_other(kind, dtype, structure, name):
    T, B, I, H = SIZES[name][kind]  # noqa: E741
    layer = build_layer(kind, I, H, dtype=dtype, **STRUCTURES[structure])
    assert_no_bit_changes(layer, draw_inputs(layer, T, B, ragged=name == "ragged rows"))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_episodes_that_begin_within_passes_at_once_change_no_bit(kind, structure):
    T, B, I, H = SIZES["ragged rows"][kind]  # noqa: E741
    layer = build_layer(kind, I, H, **STRUCTURES[structure])
    resets = np.random.default_rng(3).random((T, B)) < 0.1
    assert_no_bit_changes(layer, draw_inputs(layer, T, B, ragged=True), resets)


@pytest.mark.parametrize(
    "options",
    [
        {"peepholes": True, "cell_clip": 0.5},
        {"proj_size": 20},
        {"layer_norm": True},
        {"zoneout": (0.1, 0.2), "recurrent_dropout": 0.2},
        {"coupled": True, "activations": ("hard_sigmoid", "softsign", "relu")},
    ],
    ids=str,
)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_options_have_the_same_bits_in_passes_at_once(structure, options):
    T, B, I, H = SIZES["one row"]["lstm"]  # noqa: E741
    drawn = []
    for n in (1, *THREADS):
        layer = clstm.LSTM(I, H, rng=0, **STRUCTURES[structure], **options)
        data = draw_inputs(layer, T, B)
        with threads(n):
            drawn.append(results(layer, data))
    for others in drawn[1:]:
        for got, expected in zip(others, drawn[0], strict=True):
            assert_same_bits(got, expected)


def test_dropout_between_layers_has_the_same_bits_on_any_number_of_threads():
    drawn = []
    for n in (1, *THREADS):
        layer = clstm.LSTM(20, 48, 3, rng=0, dropout=0.3, input_dropout=0.2)
        data = draw_inputs(layer, 150, 1)
        with threads(n):
            drawn.append(results(layer, data))
    for others in drawn[1:]:
        for got, expected in zip(others, drawn[0], strict=True):
            assert_same_bits(got, expected)


@pytest.mark.parametrize(
    "structure", [{"bidirectional": True}, {"num_layers": 3}, {"num_layers": 2, "dropout": 0.3}], ids=str
)
def test_modules_of_pytorch_have_the_same_bits_in_passes_at_once(structure):
    torch = pytest.importorskip("torch")
    from clstm.torch import convert  # needs torch

    def run(n):
        torch.manual_seed(0)
        module = torch.nn.LSTM(20, 48, **structure)
        assert convert(module) == 1
        x = torch.randn(150, 1, 20, requires_grad=True)
        with threads(n):
            y, (h, c) = module(x)
            (y.square().sum() + h.sum() + c.sum()).backward()
        return [y, h, c, x.grad, *(p.grad for p in module.parameters())]

    expected = run(1)
    for n in THREADS:
        for got, value in zip(run(n), expected, strict=True):
            assert torch.equal(got, value)


class Stop(Exception):
    pass


@pytest.mark.parametrize("structure", ["two directions", "three layers"])
@pytest.mark.parametrize("training", [False, True])
def test_exception_of_a_signal_handler_ends_passes_at_once(structure, training):
    layer = clstm.LSTM(64, 64, dtype=np.float32, rng=0, **STRUCTURES[structure])
    data = draw_inputs(layer, 20_000, 1)
    grads = layer.flat_grads.copy()

    def stop(*_):
        raise Stop

    def run_until_stopped():
        while True:
            layer.backward(data.dy) if training else layer(data.x)

    with threads(2):
        if training:
            layer.forward(data.x)
        with pytest.raises(Stop), signals(stop, 0.02):
            run_until_stopped()
        short = draw_inputs(layer, 150, 1)
        again = layer(short.x)[0]
    if not training:
        assert_same_bits(layer.flat_grads, grads)
    with threads(1):
        assert_same_bits(layer(short.x)[0], again)


def test_memory_of_passes_at_once_does_not_grow_with_the_steps():
    """The chunks of a long pass are as short as those of any other, for caches and signals."""
    code = """
import resource, sys
import clstm, numpy as np
clstm.set_num_threads(int(sys.argv[1]))
layer = clstm.LSTM(16, 16, 3, dtype="float32", rng=0)
layer(np.broadcast_to(np.float32(0.1), (1_000_000, 1, 16)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    pytest.importorskip("resource")
    alone, together = (run_python(code, str(n)) for n in (1, 2))
    assert (alone.stderr, together.stderr) == ("", "")
    assert int(together.stdout) < 1.2 * int(alone.stdout)


def test_threads_that_come_late_change_no_bit():
    """A thread that sleeps takes part from where the others are when it is awake."""
    code = """
import time
import clstm, numpy as np
rng = np.random.default_rng(0)
for T, B, H, further in (
    (60, 64, 32, {}), (20, 1, 300, {}), (300, 1, 64, {"bidirectional": True}), (300, 1, 64, {"num_layers": 3})
):
    layer = clstm.LSTM(16, H, dtype="float32", rng=0, **further)
    x = rng.standard_normal((T, B, 16)).astype(np.float32)
    dy = rng.standard_normal((T, B, H * layer.num_directions)).astype(np.float32)
    def results():
        y, _ = layer.forward(x)
        dx, _ = layer.backward(dy)
        return y, dx, layer.flat_grads.copy()
    clstm.set_num_threads(1)
    expected = results()
    for n in (2, 3, 2, 3, 2, 3):
        clstm.set_num_threads(n)
        time.sleep(0.005)
        for got, value in zip(results(), expected, strict=True):
            assert np.array_equal(got, value)
    a, b = rng.standard_normal((2, 700, 700))
    dense = clstm.nn.Dense(700, 700, rng=0)
    clstm.set_num_threads(1)
    expected = dense(a)
    for n in (2, 3):
        clstm.set_num_threads(n)
        time.sleep(0.005)
        assert np.array_equal(dense(a), expected)
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")
