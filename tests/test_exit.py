"""The interpreter ends while daemon threads are in the middle of calls."""

import ctypes

import pytest
from conftest import run_python

# A function that the C library calls after Python is gone holds the process open for a second.  A step takes
# some tenths of a second, so that a thread sleeps through the end of the interpreter, and whatever it then
# asks of Python it asks too late.  Thread n ends its call after n + 2 steps, some in that second.
CODE = """
import ctypes, sys, threading
import numpy as np
import clstm

kind, threads = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None)
after_python = getattr(libc, "__cxa_atexit")
assert after_python(ctypes.cast(libc.sleep, ctypes.c_void_p), ctypes.c_void_p(1), None) == 0

clstm.set_num_threads(threads)
layer = getattr(clstm, kind)(1, 200 if kind == "LSTM" else 400, dtype="float32", rng=0)
begun = threading.Semaphore(0)

def work(steps):
    x = np.broadcast_to(np.float32(1), (steps, 10_000, 1))
    begun.release()
    layer(x)

for n in range(3):
    threading.Thread(target=work, args=(n + 2,), daemon=True).start()
for n in range(3):
    begun.acquire()
threading.Event().wait(0.1)
print("leaving", flush=True)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "__cxa_atexit"), reason="needs __cxa_atexit")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_daemon_threads_in_a_call_outlive_the_interpreter(kind, threads):
    for _ in range(3):
        result = run_python(CODE, kind, str(threads))
        assert (result.returncode, result.stdout, result.stderr) == (0, "leaving\n", "")
