"""Denormal numbers: flushed to zero inside the kernels, untouched elsewhere, whichever way a call ends."""

import os
import threading

import numpy as np
import pytest
from conftest import (
    BACKWARD_RESULTS,
    BUILDS,
    assert_close,
    assert_same_bits,
    build_lstm,
    build_lstm_on,
    denormals,
    draw_inputs,
    functions_of,
    keeps_denormals,
    make_case,
    run,
    run_python,
    signals,
    threads,
)

from clstm import reference

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def use(lstm, T, B):
    """Call everything that computes; yield after each."""
    data = draw_inputs(lstm, T, B)
    x = data.x * lstm.dtype.type(np.finfo(lstm.dtype).tiny)  # denormals on the way in
    yield lstm(x, data.state)
    yield lstm.forward(x, data.state)
    yield lstm.backward(data.dy * lstm.dtype.type(np.finfo(lstm.dtype).tiny))
    yield lstm.trace(x)
    yield lstm.step(x[0])
    yield lstm.stream(B).step(x[0])
    yield lstm.stream(B).step(x[0].tolist())


# Short calls; calls that are shared by rows and by units.
SIZES = {
    "short": (2, 2, 3, 5),
    "rows": (32, 64, 24, 16),
    "units": (12, 1, 20, 300),
    "long stream": (2, 8, 20, 200),
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_calls_leave_denormals_to_the_caller(build, dtype, sizes, n):
    T, B, I, H = sizes  # noqa: E741
    lstm = build_lstm_on(build, I, H, dtype=dtype)
    assert keeps_denormals()
    with threads(n, build):
        for _ in use(lstm, T, B):
            assert keeps_denormals()


def test_import_leaves_denormals_to_the_process():
    result = run_python(
        "import numpy as np; import clstm; "
        "assert np.float32(1e-40) * np.float32(1) != 0; assert 1e-310 * 0.5 != 0"
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_calls_leave_denormals_to_every_thread(dtype):
    lstm = build_lstm(24, 16, dtype=dtype)
    answers = []

    def work():
        answers.append(keeps_denormals())
        answers.extend(keeps_denormals() for _ in use(build_lstm(24, 16, dtype=dtype), 32, 64))

    with threads(2):
        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        answers += [keeps_denormals() for _ in use(lstm, 32, 64)]
        for worker in workers:
            worker.join()
        late = threading.Thread(target=work)  # a thread begins with the environment of the one that starts it
        late.start()
        late.join()
    assert len(answers) == 4 * 8 + 7
    assert all(answers)


def test_refused_arguments_leave_denormals_to_the_caller(build, dtype):
    lstm = build_lstm_on(build, 3, 5, dtype=dtype)
    stream = lstm.stream(2)
    lstm.forward(np.ones((2, 2, 3)))
    functions = functions_of(build, dtype)
    for call in (
        lambda: lstm(np.ones((2, 2, 4))),
        lambda: lstm.forward("text"),
        lambda: lstm.backward(np.ones((2, 2, 4))),
        lambda: lstm.step(np.ones(4)),
        lambda: stream.step(np.ones((2, 4))),
        lambda: stream.step(np.ones((2, 3)), out=np.ones(3)),
        lambda: functions.step(*[None] * 8),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
        assert keeps_denormals()


def interrupted(lstm, T, handler):
    """Call an LSTM for minutes, with a handler for a signal that comes soon."""
    x = np.broadcast_to(np.ones(1, lstm.dtype), (T, 1, lstm.input_size))
    with pytest.raises(KeyboardInterrupt), signals(handler, 0.1):
        lstm(x)


@posix
@pytest.mark.parametrize("n", [1, 2])
def test_interrupted_call_leaves_denormals_to_the_caller(dtype, n):
    def handler(*_):
        raise KeyboardInterrupt

    with threads(n):
        interrupted(build_lstm(4, 600, dtype=dtype), 300_000, handler)
    assert keeps_denormals()


@posix
@pytest.mark.parametrize("n", [1, 2])
def test_signal_handler_in_the_middle_of_a_call_sees_denormals(dtype, n):
    """Whatever Python code runs there, and threads that it starts, are the caller's."""
    answers = []

    def look():
        answers.append(keeps_denormals())

    def handler(*_):
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        raise KeyboardInterrupt

    with threads(n):
        interrupted(build_lstm(4, 600, dtype=dtype), 300_000, handler)
    assert answers == [True, True]


# ----------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("sizes", [(600, 3, 4, 16), (600, 40, 4, 16)], ids=["one thread", "rows"])
def test_gradients_of_a_last_step_loss_are_right_and_hold_no_denormals(build, dtype, sizes, n):
    case = make_case(*sizes, dtype)
    T, _, _, H = case.sizes
    case.bias[
        H : 2 * H
    ] = -5  # forget quickly: the gradient passes through all denormals on its way to the first step
    case.dy[: T - 1], case.dh_n[...], case.dc_n[...] = 0, 0, 0
    with threads(n, build):
        got = run(functions_of(build, dtype), case)
    with np.errstate(under="ignore"):
        expected = run(reference, case.astype("float64"))
        in_numpy = expected["dx"] if dtype == "float64" else expected["dx"].astype(dtype)
    assert denormals(in_numpy) > 0
    for name in BACKWARD_RESULTS:
        assert denormals(got[name]) == 0, name
        if name in ("dh_0", "dc_0"):
            assert (got[name] == 0).all(), name
        else:
            assert_close(got[name], expected[name], "backward", name)
    assert (got["dx"][0] == 0).all()
    assert (got["dx"][-1] != 0).all()


def test_decaying_cell_ends_at_zero(build, dtype):
    lstm = build_lstm_on(build, 3, 17, dtype=dtype)
    lstm.flat_params[...] = 0
    lstm.params["bias_l0"][17:34] = -3
    c_0 = np.full((1, 2, 17), np.sqrt(np.finfo(dtype).tiny), dtype)
    x, state = np.zeros((500, 2, 3)), (np.zeros_like(c_0), c_0)
    y, (h_n, c_n) = lstm(x, state)
    stream = lstm.stream(2, state)
    streamed = np.stack([stream.step(x_t) for x_t in x])
    for value in (y, h_n, c_n, streamed):
        assert denormals(value) == 0
    assert (c_n == 0).all()
    assert (y[0] != 0).all()
    assert_same_bits(streamed, y)


def test_denormal_inputs_count_as_zero(build, dtype):
    lstm = build_lstm_on(build, 3, 17, dtype=dtype)
    tiny = np.full((4, 2, 3), np.finfo(dtype).smallest_subnormal, dtype)
    expected, _ = lstm(np.zeros((4, 2, 3)))
    assert_same_bits(lstm(tiny)[0], expected)
    assert_same_bits(lstm.step(tiny[0])[0], expected[0])
    assert_same_bits(lstm.stream(2).step(tiny[0]), expected[0])


@pytest.mark.parametrize("build", BUILDS)
def test_no_warning_comes_from_the_kernels(build, dtype):
    """Underflow, overflow and NaN inside leave no mark that NumPy would report."""
    lstm = build_lstm_on(build, 3, 17, 2, dtype=dtype)
    largest = np.finfo(dtype).max
    with np.errstate(all="raise"):
        for value in (0.0, 1e-30, np.finfo(dtype).smallest_subnormal, 1e30, largest, np.inf, -np.inf, np.nan):
            x = np.full((4, 2, 3), value, dtype)
            lstm(x)
            lstm.forward(x)
            lstm.backward(np.full((4, 2, 17), value, dtype))
            lstm.step(x[0])
            lstm.stream(2).step(x[0])
            assert np.float64(2) / np.float64(3) > 0  # NumPy looks at the flags here
