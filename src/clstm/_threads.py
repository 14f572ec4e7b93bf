"""How many threads a kernel call may use; the threads themselves are in pyx/team.h."""

from __future__ import annotations

import os

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


_num_threads = 1
set_num_threads(_default())
