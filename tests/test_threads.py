"""Threads: how many, forks, interpreter exit, callers in many threads, signals in the middle of a call.

Calls that are to be interrupted would take minutes; their inputs are one step seen many times, which takes no
memory.  Nothing is timed: a call that looks for signals lets a handler run more than once, one that does not
lets it run once, when it is over.  A test that hangs is ended by a watchdog.
"""

import faulthandler
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import (
    LAYERS,
    as_tuple,
    assert_same_bits,
    build_layer,
    build_lstm,
    draw_inputs,
    run_python,
    signals,
    threads,
)

import clstm
from clstm import _dispatch, _threads
from clstm.cells import CellTape
from clstm.tape import LayerTape

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

HANGS = 120  # seconds; no test of this file comes near


@pytest.fixture(autouse=True)
def watchdog(pytestconfig):
    """End the run, with what every thread is doing, where a test hangs in a call that cannot be left."""
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        stderr = os.dup(2)
    faulthandler.dump_traceback_later(HANGS, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(stderr)


# ------------------------------------------------------------------------------------------ how many threads


def test_bounds_of_several_blocks_end_with_the_last_of_them():
    before = clstm.get_num_threads()
    clstm.set_num_threads(4)
    first, second = _threads.at_most(2), _threads.at_most(3)
    try:
        first.__enter__()
        assert clstm.get_num_threads() == 2
        second.__enter__()  # in another thread
        assert clstm.get_num_threads() == 2
        first.__exit__(None, None, None)
        assert clstm.get_num_threads() == 2
        second.__exit__(None, None, None)
        assert clstm.get_num_threads() == 4
    finally:
        clstm.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 64, np.int64(3)])
def test_number_of_threads_is_what_was_set(n):
    before = clstm.get_num_threads()
    try:
        assert clstm.set_num_threads(n) is None
        assert clstm.get_num_threads() == n
        assert type(clstm.get_num_threads()) is int
    finally:
        clstm.set_num_threads(before)


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n: expected at least 1, got 0"),
        (-1, ValueError, "n: expected at least 1, got -1"),
        (65, ValueError, "n: expected at most 64, got 65"),
        (2**70, ValueError, f"n: expected at most 64, got {2**70}"),
        (2.0, TypeError, r"n: expected an integer, got 2\.0"),
        (True, TypeError, "n: expected an integer, got True"),
        ("2", TypeError, "n: expected an integer, got '2'"),
        (None, TypeError, "n: expected an integer, got None"),
        (np.array([1, 2]), TypeError, "n: expected an integer, got array of shape"),
    ],
)
def test_impossible_number_of_threads_is_refused(n, error, message):
    before = clstm.get_num_threads()
    with pytest.raises(error, match="^" + message):
        clstm.set_num_threads(n)
    assert clstm.get_num_threads() == before


REPORT = "import clstm; print(clstm.get_num_threads())"


@pytest.mark.parametrize("given", ["1", "3", "64", "007"])
def test_environment_sets_the_number_of_threads(given):
    result = run_python(REPORT, CLSTM_NUM_THREADS=given)
    assert (result.returncode, result.stdout.strip()) == (0, str(int(given))), result.stderr


@pytest.mark.parametrize("given", ["0", "65", "-1", "two", "2.0", " ", "1,2", "+2", "\u00b2", "9" * 5000])
def test_impossible_number_of_threads_in_the_environment_fails_at_import(given):
    result = run_python("import clstm", CLSTM_NUM_THREADS=given, PYTHONUTF8="1")
    assert result.returncode != 0
    message = f"ImportError: CLSTM_NUM_THREADS: expected an integer in 1..64, got {given!r}"
    assert result.stderr.strip().splitlines()[-1] == message


@pytest.mark.parametrize("given", [None, ""], ids=["unset", "empty"])
def test_processors_that_the_process_may_use_set_the_number_of_threads(given):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs os.sched_setaffinity")
    available = sorted(os.sched_getaffinity(0))
    for processors in (available[:1], available[-1:], available):
        code = f"import os; os.sched_setaffinity(0, {processors!r}); {REPORT}"
        result = run_python(code, CLSTM_NUM_THREADS=given)
        assert (result.returncode, result.stdout.strip()) == (0, str(min(len(processors), 64))), result.stderr


# What every piece of code for a fresh interpreter begins with: calls that are shared by rows, and by units.
CALLS = """
import os, signal, sys, threading
import numpy as np
import clstm

many = clstm.LSTM(24, 16, dtype="float32", rng=0)
wide = clstm.LSTM(8, 300, dtype="float32", rng=0, init="torch")
x_many = np.random.default_rng(0).standard_normal((32, 64, 24))
x_wide = np.random.default_rng(0).standard_normal((16, 1, 8))

def results():
    values = []
    for lstm, x in ((many, x_many), (wide, x_wide)):
        y, _ = lstm.forward(x)
        dx, _ = lstm.backward(y)
        values += [y.tobytes(), dx.tobytes(), lstm.flat_grads.tobytes()]
    return values

def count():
    return len(os.listdir("/proc/self/task"))

clstm.set_num_threads(1)
expected = results()
"""


def assert_runs(code, *, timeout=60, **environment):
    result = run_python(CALLS + code, timeout=timeout, **environment)
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert result.stderr == ""
    return result.stdout.strip()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
def test_threads_start_with_the_first_call_that_needs_them():
    code = """
alone = count()
clstm.set_num_threads(3)
clstm.LSTM(2, 3)([[0.0, 1.0]])
assert count() == alone, "a short call started threads"
assert results() == expected
assert count() == alone + 2, count()
assert results() == expected
assert count() == alone + 2, count()
"""
    assert_runs(code)


# ---------------------------------------------------------------------------------------------------- forks


@forking
def test_child_of_a_fork_computes_with_threads_of_its_own():
    code = """
clstm.set_num_threads(2)
assert results() == expected
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        same = results() == expected
        clstm.set_num_threads(3)
        grandchild = os.fork()
        if grandchild == 0:
            signal.alarm(20)
            os._exit(0 if results() == expected else 1)
        same = same and os.waitpid(grandchild, 0)[1] == 0 and results() == expected
        os._exit(0 if same else 1)
    assert results() == expected
    assert os.waitpid(pid, 0)[1] == 0
"""
    assert_runs(code, PYTHONWARNINGS="ignore")


@forking
def test_child_exits_as_a_whole_interpreter():
    code = """
import multiprocessing
clstm.set_num_threads(2)
assert results() == expected
context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    jobs = [pool.apply_async(results) for _ in range(4)]
    assert results() == expected
    for job in jobs:
        assert job.get(timeout=40) == expected
    pool.close()
    pool.join()
process = context.Process(target=results)
process.start()
process.join(40)
assert process.exitcode == 0
"""
    assert_runs(code, PYTHONWARNINGS="ignore")


@forking
def test_fork_in_the_middle_of_another_threads_call():
    code = """
clstm.set_num_threads(2)
apart = clstm.LSTM(24, 16, dtype="float32", rng=0)
x_long = np.tile(x_many, (40, 1, 1))
done = threading.Event()

def work():
    while not done.is_set():
        apart(x_long)

thread = threading.Thread(target=work)
thread.start()
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os._exit(0 if results() == expected else 1)
    assert os.waitpid(pid, 0)[1] == 0
done.set()
thread.join()
assert results() == expected
"""
    assert_runs(code, PYTHONWARNINGS="ignore")


# ------------------------------------------------------------------------- whether sharing a call still pays


@pytest.mark.parametrize("size", [2, 3, 8])
def test_sharing_goes_on_while_it_has_saved_more_than_waiting_costs(size):
    gives_up = _dispatch.kernels.gives_up
    each = 0.01 * (size - 1) / size  # of 10 ms, what may be waited until nothing is saved
    assert not gives_up(size, 0.01, 0.9 * each, 0.9 * each, 0.0)
    assert gives_up(size, 0.01, 1.1 * each, 1.1 * each, 0.0)


def test_one_long_wait_is_forgiven_where_sharing_has_paid_before():
    """A host that takes an idle processor away for some milliseconds, now and then."""
    gives_up = _dispatch.kernels.gives_up
    assert gives_up(2, 0.004, 0.004, 0.004, 0.0)
    assert not gives_up(2, 0.004, 0.004, 0.004, 0.005)


def test_short_waits_are_no_reason_to_give_up():
    assert not _dispatch.kernels.gives_up(2, 0.01, 0.009, 1e-5, 0.0)


# ----------------------------------------------------------------------------------------- interpreter exit


@pytest.mark.parametrize("n", [1, 2, 5])
def test_interpreter_exits_with_idle_threads(n):
    assert_runs(f"clstm.set_num_threads({n})\nassert results() == expected\n")


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("lstm", ["many", "wide"])
def test_interpreter_exits_in_the_middle_of_a_daemon_threads_call(lstm, n):
    code = f"""
clstm.set_num_threads({n})
x_long = np.broadcast_to(x_{lstm}[:1], (1_000_000 if {lstm!r} == "wide" else 100_000, *x_{lstm}.shape[1:]))
begun = threading.Event()

def work():
    begun.set()
    {lstm}(x_long)

threading.Thread(target=work, daemon=True).start()
begun.wait()
threading.Event().wait(0.1)
print("leaving")
"""
    assert assert_runs(code) == "leaving"


# ---------------------------------------------------------------------------------- callers in many threads


@pytest.mark.parametrize("sizes", [(32, 64, 24, 16), (12, 1, 20, 300)], ids=["rows", "units"])
def test_one_object_may_be_called_from_many_threads(kind, dtype, sizes):
    T, B, I, H = sizes  # noqa: E741
    layer = build_layer(kind, I, H, dtype=dtype)
    x = draw_inputs(layer, T, B).x
    with threads(1):
        expected, _ = layer(x)
        h_t, _ = layer.step(x[0])
    with threads(2), ThreadPoolExecutor(6) as executor:
        calls = list(executor.map(lambda _: layer(x)[0], range(12)))
        steps = list(executor.map(lambda _: layer.step(x[0])[0], range(12)))
    for got in calls:
        assert_same_bits(got, expected)
    for got in steps:
        assert_same_bits(got, h_t)


def train(layer, data):
    for _ in range(2):
        y, _ = layer.forward(data.x, data.state)
        dx, _ = layer.backward(data.dy, data.dstate)
    return y, dx, layer.flat_grads


@pytest.mark.parametrize("sizes", [(32, 64, 24, 16), (12, 1, 20, 300)], ids=["rows", "units"])
def test_each_thread_may_train_an_object_of_its_own(kind, dtype, sizes):
    T, B, I, H = sizes  # noqa: E741
    objects = [build_layer(kind, I, H, dtype=dtype) for _ in range(5)]
    data = draw_inputs(objects[0], T, B)
    with threads(1):
        expected = train(objects[0], data)
    with threads(2), ThreadPoolExecutor(4) as executor:
        for got in executor.map(lambda layer: train(layer, data), objects[1:]):
            for value, wanted in zip(got, expected, strict=True):
                assert_same_bits(value, wanted)


@pytest.mark.parametrize("sizes", [(32, 64, 24, 16), (12, 1, 20, 300)], ids=["rows", "units"])
def test_one_object_may_be_gone_back_through_in_many_threads(kind, dtype, sizes):
    T, B, I, H = sizes  # noqa: E741
    layer = build_layer(kind, I, H, dtype=dtype)
    inputs = [draw_inputs(layer, T, B, seed=seed) for seed in range(4)]
    with threads(1):
        expected = [train(build_layer(kind, I, H, dtype=dtype), data)[1] for data in inputs]
    with threads(2), ThreadPoolExecutor(4) as executor:
        for (_, dx, _), wanted in zip(
            executor.map(lambda data: train(layer, data), inputs), expected, strict=True
        ):
            assert_same_bits(dx, wanted)


def test_number_of_threads_may_change_in_the_middle_of_calls():
    lstm = build_lstm(24, 16)
    x = draw_inputs(lstm, 64, 64).x
    expected, _ = lstm(x)
    before = clstm.get_num_threads()
    try:
        with ThreadPoolExecutor(2) as executor:
            calls = [executor.submit(lstm, x) for _ in range(20)]
            for n in (1, 2, 5, 64, 3) * 10:
                clstm.set_num_threads(n)
            for call in calls:
                assert_same_bits(call.result()[0], expected)
    finally:
        clstm.set_num_threads(before)


# -------------------------------------------------------------------------------------------------- signals

# Sizes I, H, B: shared by units, with one row and with many, and by rows; and how many steps take minutes.
LONG = {"one row": (8, 1024, 1, 300_000), "units": (300, 300, 40, 60_000), "rows": (2000, 32, 200, 40_000)}


def long_layer(name, kind="lstm"):
    """Return a layer, one step of input, and how many of them take long: minutes for an LSTM."""
    I, H, B, T = LONG[name]  # noqa: E741
    layer = LAYERS[kind](I, H, dtype=np.float32, rng=0, init="torch")
    return layer, draw_inputs(layer, 1, B).x, T


def seen_often(array, times):
    """Repeat one step many times without memory."""
    return np.broadcast_to(array[:1], (times, *array.shape[1:]))


def long_tape(tape, times):
    """Return a tape for which the one step of this one was seen many times."""
    (layer,) = tape.layers
    (cell,) = layer.cells
    parts = (None if part is None else seen_often(part, times) for part in cell[:5])
    layers = (LayerTape(seen_often(layer.x, times), None, (CellTape(*parts),)),)
    schedule = tape.schedule._replace(lengths=np.full_like(tape.schedule.lengths, times))
    return replace(tape, layers=layers, schedule=schedule)


def assert_interrupted(call):
    """Interrupt a call that would take minutes, when a handler runs for the second time."""
    handled = []

    def handler(*_):
        handled.append(None)
        if len(handled) == 2:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    with pytest.raises(KeyboardInterrupt), signals(handler, 0.1):
        call()
    assert len(handled) == 2


def outcome(layer, x):
    y, state = layer.forward(x)
    dx, dstate = layer.backward(np.ones_like(y))
    return [y, *as_tuple(state), dx, *as_tuple(dstate), layer.flat_grads.copy()]


def assert_usable(layer, x, expected):
    for got, value in zip(outcome(layer, x), expected, strict=True):
        assert_same_bits(got, value)


@posix
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_ends_a_forward_pass_and_leaves_the_object_as_it_was(kind, name, n):
    layer, x, T = long_layer(name, kind)
    expected = outcome(layer, x)
    tape, content = layer.tape, {k: v for k, v in vars(layer).items() if not isinstance(v, np.ndarray)}
    params, grads = layer.flat_params.copy(), layer.flat_grads.copy()
    with threads(n):
        assert_interrupted(lambda: layer(seen_often(x, T)))
        if name != "rows":  # there the copy that `forward` takes of x would be large
            assert_interrupted(lambda: layer.forward(seen_often(x, T // 10)))
    for key, value in content.items():
        assert vars(layer)[key] is value, key
    assert layer.tape is tape
    assert_same_bits(layer.flat_params, params)
    assert_same_bits(layer.flat_grads, grads)
    with threads(n):
        assert_usable(layer, x, expected)


@posix
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_ends_a_backward_pass_and_leaves_the_object_as_it_was(kind, name, n):
    layer, x, T = long_layer(name, kind)
    T //= 10  # the derivative by x takes memory
    expected = outcome(layer, x)
    y, _ = layer.forward(x)
    params, grads = layer.flat_params.copy(), layer.flat_grads.copy()
    tape, many = layer.tape, long_tape(layer.tape, T)
    with threads(n):
        for accumulate in (False, True):
            assert_interrupted(lambda: layer.backward(seen_often(y, T), accumulate=accumulate, tape=many))  # noqa: B023
    assert layer.tape is tape
    assert_same_bits(layer.flat_params, params)
    assert_same_bits(layer.flat_grads, grads)
    with threads(n):
        assert_usable(layer, x, expected)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@posix
def test_real_ctrl_c_from_outside(dtype):
    """It is pressed twice; Python's own handler takes the second."""
    lstm = clstm.LSTM(8, 700, dtype=dtype, rng=0, init="torch")
    x = draw_inputs(lstm, 1, 1).x
    handled = []

    def handler(*arguments):
        handled.append(None)
        if len(handled) == 2:
            signal.default_int_handler(*arguments)
        again.start()

    first, again = threading.Timer(0.1, press_ctrl_c), threading.Timer(0.05, press_ctrl_c)
    before = signal.signal(signal.SIGINT, handler)
    try:
        first.start()
        with threads(2), pytest.raises(KeyboardInterrupt):
            lstm(seen_often(x, 300_000))
    finally:
        for timer in (first, again):
            if timer.ident is not None:
                timer.join()
        signal.signal(signal.SIGINT, before)
    assert len(handled) == 2


@posix
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", LONG)
def test_handler_that_does_not_raise_changes_nothing(name, n):
    lstm, x, T = long_layer(name)
    x = seen_often(x, T // 600)
    with threads(n):
        expected, _ = lstm(x)
        calls = []
        with signals(lambda *_: calls.append(None), 0.01, 0.01):
            for _ in range(100):
                assert_same_bits(lstm(x)[0], expected)
                if len(calls) >= 3:
                    break
    assert len(calls) >= 3, f"the handler ran {len(calls)} times in 100 calls"


@posix
@pytest.mark.parametrize("n", [1, 2])
def test_handler_may_use_the_same_object(n):
    lstm, x, T = long_layer("one row")
    short, expected = seen_often(x, 20), lstm(seen_often(x, 20))[0]
    results = []

    def handler(*_):
        results.append(lstm(short)[0])
        if len(results) == 3:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    with threads(n), pytest.raises(KeyboardInterrupt), signals(handler, 0.05):
        lstm(seen_often(x, T))
    for got in results:
        assert_same_bits(got, expected)


@posix
def test_first_of_several_exceptions_is_the_one_that_is_raised():
    """Signals that come while a call is being ended wait until it has ended."""
    lstm, x, T = long_layer("rows")
    raised = []

    def handler(*_):
        raised.append(KeyboardInterrupt(len(raised)))
        if len(raised) == 1:
            raise raised[0]

    with threads(2), signals(handler, 0.1, 0.005), pytest.raises(KeyboardInterrupt) as caught:
        lstm(seen_often(x, T))
    assert caught.value is raised[0]


@posix
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs os.sched_setaffinity")
@pytest.mark.parametrize("call", ["many", "wide"])
def test_ctrl_c_ends_calls_whose_threads_share_one_processor(call):
    code = f"""
os.sched_setaffinity(0, {{sorted(os.sched_getaffinity(0))[0]}})
signal.signal(signal.SIGALRM, signal.default_int_handler)
clstm.set_num_threads(2)
one_step = np.zeros((1, *x_{call}.shape[1:]), "float32")
x_long = np.broadcast_to(one_step, (200_000, *one_step.shape[1:]))
for _ in range(5):
    signal.setitimer(signal.ITIMER_REAL, 0.06)
    try:
        {call}(x_long)
    except KeyboardInterrupt:
        print("ended")
assert results() == expected
"""
    assert assert_runs(code).split() == ["ended"] * 5


@posix
def test_call_in_another_thread_leaves_signals_to_the_main_thread():
    lstm, x, T = long_layer("one row")
    x = seen_often(x, T // 2000)
    expected, _ = lstm(x)
    handled_in = []
    with threads(2), signals(lambda *_: handled_in.append(threading.current_thread()), 0.01, 0.01):
        with ThreadPoolExecutor(2) as executor:
            for future in [executor.submit(lstm, x) for _ in range(4)]:
                assert_same_bits(future.result()[0], expected)
        for _ in range(1000):
            if handled_in:
                break
            time.sleep(0.01)
    assert set(handled_in) == {threading.main_thread()}, "by which thread the signals were handled"
