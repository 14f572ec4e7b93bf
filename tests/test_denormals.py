"""Denormal numbers: flushed to zero inside the kernels, untouched elsewhere, whichever way a call ends."""

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from conftest import (
    BACKWARD_RESULTS,
    as_tuple,
    assert_close,
    assert_same_bits,
    build_layer,
    denormals,
    draw_inputs,
    functions_of,
    keeps_denormals,
    make_case,
    run,
    run_python,
    signals,
    threads,
    unchanged,
)

from clstm import _dispatch, cells, reference

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def use(layer, T, B):
    """Call everything that computes; yield after each."""
    data = draw_inputs(layer, T, B)
    tiny = layer.dtype.type(np.finfo(layer.dtype).tiny)
    x = data.x * tiny  # denormals on the way in
    yield layer(x, data.state)
    yield layer.forward(x, data.state)
    yield layer.backward(data.dy * tiny)
    yield layer.trace(x)
    yield layer.step(x[0])
    yield layer.stream(B).step(x[0])
    yield layer.stream(B).step(x[0].tolist())


# Short calls; calls that are shared by rows and by units, of which a kind with fewer gates needs more.
SIZES = {
    "short": {"lstm": (2, 2, 3, 5), "rnn": (2, 2, 3, 5)},
    "rows": {"lstm": (32, 64, 24, 16), "rnn": (48, 64, 24, 32)},
    "units": {"lstm": (12, 1, 20, 300), "rnn": (30, 1, 20, 400)},
    "long stream": {"lstm": (2, 8, 20, 200), "rnn": (2, 8, 20, 200)},
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", SIZES)
def test_calls_leave_denormals_to_the_caller(kind, build, dtype, name, n):
    T, B, I, H = SIZES[name][kind]  # noqa: E741
    layer = build_layer(kind, I, H, dtype=dtype, build=build)
    assert keeps_denormals()
    with threads(n, build):
        for _ in use(layer, T, B):
            assert keeps_denormals()


def test_import_leaves_denormals_to_the_process(build):
    result = run_python(
        "import sys, importlib, numpy as np; import clstm; importlib.import_module(sys.argv[1]); "
        "assert np.float32(1e-40) * np.float32(1) != 0; assert 1e-310 * 0.5 != 0",
        _dispatch.BUILDS[build],
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_calls_leave_denormals_to_every_thread(kind, dtype):
    T, B, I, H = SIZES["rows"][kind]  # noqa: E741
    layer = build_layer(kind, I, H, dtype=dtype)
    answers = []

    def work():
        answers.append(keeps_denormals())
        answers.extend(keeps_denormals() for _ in use(build_layer(kind, I, H, dtype=dtype), T, B))

    with threads(2):
        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        answers += [keeps_denormals() for _ in use(layer, T, B)]
        for worker in workers:
            worker.join()
        late = threading.Thread(target=work)  # a thread begins with the environment of the one that starts it
        late.start()
        late.join()
    assert len(answers) == 4 * 8 + 7
    assert all(answers)


def test_refused_arguments_leave_denormals_to_the_caller(kind, build, dtype):
    layer = build_layer(kind, 3, 5, dtype=dtype, build=build)
    stream = layer.stream(2)
    layer.forward(np.ones((2, 2, 3)))
    functions = functions_of(build, dtype)
    for call in (
        lambda: layer(np.ones((2, 2, 4))),
        lambda: layer.forward("text"),
        lambda: layer.backward(np.ones((2, 2, 4))),
        lambda: layer.step(np.ones(4)),
        lambda: stream.step(np.ones((2, 4))),
        lambda: stream.step(np.ones((2, 3)), out=np.ones(3)),
        lambda: functions.step(layer.cells[0], np.ones((2, 3), dtype), None, None),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
        assert keeps_denormals()


def long_tape(tape, T):
    """Return a tape whose one step was seen T times, without memory."""

    def seen(array):
        return None if array is None else np.broadcast_to(array, (T, *array.shape[1:]))

    (layer,) = tape.layers
    directions = tuple(cells.CellTape(*map(seen, direction[:5])) for direction in layer.cells)
    return replace(
        tape,
        layers=(layer._replace(x=seen(layer.x), cells=directions),),
        schedule=tape.schedule._replace(lengths=np.full_like(tape.schedule.lengths, T)),
    )


@posix
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("call", ["__call__", "backward"])
def test_signal_handlers_within_a_call_see_denormals_and_may_end_it(kind, dtype, call, n):
    """Whatever Python code runs there, and threads that it starts, are the caller's.

    The timer starts anew at the end of a handler.  A call that does not look for signals lets the handler
    run once, when it is over, minutes later.
    """
    answers = []

    def look():
        answers.append(keeps_denormals())

    def handler(*_):
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        if len(answers) == 4:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    T = 300_000
    layer = build_layer(kind, 4, 600, dtype=dtype)
    x = np.ones((1, 1, 4), dtype)
    y, dstate = layer.forward(x)
    tape = long_tape(layer.tape, T)
    steps, dy = (np.broadcast_to(array, (T, *array.shape[1:])) for array in (x, y))
    with threads(n), unchanged(layer), pytest.raises(KeyboardInterrupt), signals(handler, 0.01):
        layer(steps) if call == "__call__" else layer.backward(dy, dstate, tape=tape)
    assert answers == [True] * 4
    assert keeps_denormals()


# ----------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("sizes", [(600, 3, 4, 16), (600, 40, 4, 16)], ids=["one thread", "rows"])
def test_gradients_of_a_last_step_loss_are_right_and_hold_no_denormals(kind, build, dtype, sizes, n):
    case = make_case(*sizes, dtype, kind=kind)
    T, _, _, H = case.sizes
    # The gradient passes through all denormals on its way to the first step.
    if kind == "lstm":
        case.bias[case.kind.block("f", H)] = -5
    else:
        case.W_h[...] *= np.asarray(0.3, dtype)
    case.dy[: T - 1], case.dh_n[...], case.dc_n[...] = 0, 0, 0
    with threads(n, build):
        got = run(functions_of(build, dtype), case)
    with np.errstate(under="ignore"):
        expected = run(reference, case.astype("float64"))
        in_numpy = expected["dx"] if dtype == "float64" else expected["dx"].astype(dtype)
    assert denormals(in_numpy) > 0
    for name in BACKWARD_RESULTS:
        if name not in expected:
            continue
        assert denormals(got[name]) == 0, name
        if name in ("dh_0", "dc_0"):
            assert (got[name] == 0).all(), name
        else:
            assert_close(got[name], expected[name], "backward", name)
    assert (got["dx"][0] == 0).all()
    assert (got["dx"][-1] != 0).all()


def test_decaying_state_ends_at_zero(kind, build, dtype):
    layer = build_layer(kind, 3, 17, dtype=dtype, build=build)
    layer.flat_params[...] = 0
    small = np.full((1, 2, 17), np.sqrt(np.finfo(dtype).tiny), dtype)
    if kind == "lstm":
        layer.params["bias_l0"][layer.kind.block("f", 17)] = -3
        state = (np.zeros_like(small), small)
    else:
        layer.params["weight_hh_l0"][...] = 0.1 * np.eye(17)
        state = small
    x = np.zeros((500, 2, 3))
    y, end = layer(x, state)
    stream = layer.stream(2, state)
    streamed = np.stack([stream.step(x_t) for x_t in x])
    for value in (y, *as_tuple(end), streamed):
        assert denormals(value) == 0
    assert (as_tuple(end)[-1] == 0).all()
    assert (y[0] != 0).all()
    assert_same_bits(streamed, y)


def test_denormal_inputs_count_as_zero(kind, build, dtype):
    layer = build_layer(kind, 3, 17, dtype=dtype, build=build)
    tiny = np.full((4, 2, 3), np.finfo(dtype).smallest_subnormal, dtype)
    expected, _ = layer(np.zeros((4, 2, 3)))
    assert_same_bits(layer(tiny)[0], expected)
    assert_same_bits(layer.step(tiny[0])[0], expected[0])
    assert_same_bits(layer.stream(2).step(tiny[0]), expected[0])


def test_no_warning_comes_from_the_kernels(kind, build, dtype):
    """Underflow, overflow and NaN inside leave no mark that NumPy would report."""
    layer = build_layer(kind, 3, 17, 2, dtype=dtype, build=build)
    largest = np.finfo(dtype).max
    with np.errstate(all="raise"):
        for value in (0.0, 1e-30, np.finfo(dtype).smallest_subnormal, 1e30, largest, np.inf, -np.inf, np.nan):
            x = np.full((4, 2, 3), value, dtype)
            layer(x)
            layer.forward(x)
            layer.backward(np.full((4, 2, 17), value, dtype))
            layer.trace(x)
            layer.step(x[0])
            layer.stream(2).step(x[0])
            assert np.float64(2) / np.float64(3) > 0  # NumPy looks at the flags here
