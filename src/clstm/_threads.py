"""How many threads a kernel call may use; the threads themselves are in pyx/team.h."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from . import _check, _dispatch

MOST = 64


def _default() -> int:
    """CLSTM_NUM_THREADS, else the processors that this process may run on."""
    given = os.environ.get("CLSTM_NUM_THREADS", "")
    if given:
        if not (given.isdecimal() and len(given) < 10 and 1 <= int(given) <= MOST):
            raise ImportError(f"CLSTM_NUM_THREADS: expected an integer in 1..{MOST}, got {given!r}")
        return int(given)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, MOST)


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, the calling thread included; short calls use one all the same.

    Parameters
    ----------
    n : int
        1..64.  At import it is ``CLSTM_NUM_THREADS``, else the number of processors that the process may run
        on.

    Raises
    ------
    ValueError, TypeError
        `n` is out of range or no integer.

    Notes
    -----
    Results have the same bits for every number of threads.

    Examples
    --------
    >>> before = clstm.get_num_threads()
    >>> clstm.set_num_threads(1)
    >>> clstm.get_num_threads()
    1
    >>> clstm.set_num_threads(before)
    """
    global _num_threads
    number = _check.integer("n", n, 1)
    if number > MOST:
        raise ValueError(f"n: expected at most {MOST}, got {number}")
    _dispatch.kernels.set_num_threads(number)
    _num_threads = number


def get_num_threads() -> int:
    """Return how many threads a call may use.

    Returns
    -------
    int
    """
    return _num_threads


class _Block:
    """A number that blocks set for a while, also several at once in threads of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._before = 1

    @contextmanager
    def set(self, choose: Callable[[int], int]) -> Iterator[None]:
        """Let calls use as many threads within the block as `choose` makes of the present number."""
        with self._lock:
            if self._active == 0:
                self._before = get_num_threads()
            self._active += 1
            set_num_threads(choose(get_num_threads()))
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                if self._active == 0:  # the last one out restores what the first one found
                    set_num_threads(self._before)


_block = _Block()


def at_most(n: int) -> AbstractContextManager[None]:
    """Let calls use at most n threads within a block."""
    return _block.set(lambda present: min(n, present))


def exactly(n: int) -> AbstractContextManager[None]:
    """Let calls use n threads within a block."""
    return _block.set(lambda _: n)


_num_threads = 1
set_num_threads(_default())
