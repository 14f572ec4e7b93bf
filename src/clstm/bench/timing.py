"""Time calls in turns, round after round, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

SAMPLE_SECONDS = 2e-3  # short calls are repeated until a sample takes so long


class Timed(Protocol):
    """What can be timed: `call` takes nothing, `scope` gives a context around many calls, not timed."""

    @property
    def call(self) -> Callable[[], Any]:
        """What is timed."""
        ...

    @property
    def scope(self) -> Callable[[], AbstractContextManager[Any]]:
        """Return what is entered around the calls of a sample."""
        ...


@dataclass
class Timing:
    """Seconds a call, one entry a round."""

    calls: int  # calls in a sample
    samples: list[float]

    @property
    def median(self) -> float:
        """The middle sample."""
        return median(self.samples)

    @property
    def best(self) -> float:
        """The shortest sample."""
        return min(self.samples)

    def over(self, other: Timing) -> float:
        """Return the median, over the rounds, of this time divided by the other's in the same round.

        The two samples of a round were taken within a fraction of a second: a machine that gets slower and
        faster moves both of them, and a disturbance that hits one alone spoils one round of many.
        """
        return median(mine / theirs for mine, theirs in zip(self.samples, other.samples, strict=True))


def interleave(
    timed: Mapping[str, Timed], budget: float, rounds: int, pause: float = 0.0
) -> dict[str, Timing]:
    """Time calls in turns, one sample each a round.

    Each round starts with another one, and every other round goes the other way about, so that nobody always
    follows the same. A sample begins with a call that is not timed: caches and threads are then those of a
    program that calls again and again, and not what the contestant before has left.

    Parameters
    ----------
    timed : mapping of str to Timed
    budget : float
        Seconds after which no further round begins.
    rounds : int
        At least so many.
    pause : float
        Seconds between two samples, for threads of the last contestant that still spin.

    Returns
    -------
    dict of str to Timing
    """

    def sample(one: Timed, calls: int) -> float:
        call = one.call
        with one.scope():
            call()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls

    timings = {}
    for name, one in timed.items():
        once = min(sample(one, 1) for _ in range(2))
        timings[name] = Timing(max(1, round(SAMPLE_SECONDS / once)), [])
    order = list(timed)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + budget
        done = 0
        while order and (done < rounds or time.perf_counter() < end):
            for name in order if done % 2 == 0 else order[::-1]:
                if pause:
                    time.sleep(pause)
                timings[name].samples.append(sample(timed[name], timings[name].calls))
            order = order[1:] + order[:1]
            done += 1
    finally:
        if collecting:
            gc.enable()
    return timings
