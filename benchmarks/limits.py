"""The machine's own limits, measured in the run that they are compared with.

* Products: NumPy's product of two square matrices, that is, its BLAS.
* Reading: dot products of the two halves of a buffer that fits one level of the caches, again and again, so that each byte is
  loaded once and used once, as the weights of a time step are.  The repetitions run inside one `matmul`, so a call of
  BLAS for each of them is in the figure, but none from Python; that costs the L1 figure a few per cent.

Both are what a library reaches, not what a data sheet says.  The best of many samples counts as the limit; the median beside it
shows how disturbed the machine was.  Where cores are shared, L3 and DRAM depend on the neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from .cases import Case

GEMM_SIZE = 1024
DRAM_BYTES = 256 << 20  # what is read to measure the memory behind the caches
BYTES_A_SAMPLE = 32 << 20  # a small buffer is read until this much is loaded, so that a sample takes about a millisecond
TYPICAL_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
BANDWIDTH_BOUND_BATCH = 8  # with fewer rows a step takes as long as reading the weights


class Work(NamedTuple):
    """Something to time, and how much it is."""

    call: Callable[[], object]
    amount: float  # GFLOP or GB


def cache_sizes() -> tuple[dict[str, int], bool]:
    """Return the bytes of each data cache that one core sees, and whether they are known or typical values."""
    known = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                known[f"L{level}"] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return (known, True) if known else (dict(TYPICAL_CACHES), False)


def product(dtype: str) -> Work:
    """Return a matrix product and its GFLOP."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((GEMM_SIZE, GEMM_SIZE)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)
    return Work(lambda: np.matmul(a, b, out=out), 2e-9 * GEMM_SIZE**3)


def reading(size: int) -> Work:
    """Return a call that reads a buffer of `size` bytes many times, and the GB that it reads."""
    floats = size // 8 * 2
    unaligned = np.ones(floats + 16, np.float32)
    start = -unaligned.ctypes.data % 64 // 4  # vectors that straddle two cache lines would halve the L1 figure
    buffer = unaligned[start : start + floats].reshape(2, -1)
    repeats = max(1, BYTES_A_SAMPLE // buffer.nbytes)
    left = np.broadcast_to(buffer[0], (repeats, 1, floats // 2))
    right = buffer[1][:, None]
    out = np.empty((repeats, 1, 1), np.float32)
    return Work(lambda: np.matmul(left, right, out=out), 1e-9 * repeats * buffer.nbytes)


def rates(works: dict[str, Work], seconds: float) -> dict[str, dict[str, float]]:
    """Time works in turns, at least three times each, so that a disturbance does not hit one of them alone.

    Parameters
    ----------
    works : dict of str to Work
    seconds : float
        How long, for all of them.

    Returns
    -------
    dict of str to dict
        ``best`` and ``median``, in units of ``Work.amount`` a second.
    """
    samples: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work.call()
    end = time.perf_counter() + seconds
    done = 0
    while done < 3 or time.perf_counter() < end:
        for name, work in works.items():
            start = time.perf_counter()
            work.call()
            samples[name].append(work.amount / (time.perf_counter() - start))
        done += 1
    return {name: {"best": max(values), "median": median(values)} for name, values in samples.items()}


def measure(seconds: float) -> dict[str, Any]:
    """Measure every limit.

    Parameters
    ----------
    seconds : float
        How long, in all; every limit is measured three times at least.

    Returns
    -------
    dict
        ``gemm``: dtype to rates in GFLOP/s; ``read``: cache level or "DRAM" to rates in GB/s; ``caches``: cache level to bytes;
        ``buffers``: what was read to measure a level, in bytes; ``caches_known``: whether the system told the sizes.
    """
    caches, known = cache_sizes()
    # Half of a cache that a core owns.  The third level belongs to others as well: what weights that spill the second take.
    buffers = {level: size // 2 for level, size in caches.items()} | {"DRAM": DRAM_BYTES}
    if "L3" in caches and "L2" in caches:
        buffers["L3"] = min(caches["L3"] // 4, 4 * caches["L2"])
    products = {dtype: product(dtype) for dtype in ("float32", "float64")}
    found = rates(products | {level: reading(size) for level, size in buffers.items()}, seconds)
    return {
        "gemm": {dtype: found[dtype] for dtype in products},
        "read": {level: found[level] for level in buffers},
        "caches": caches,
        "buffers": buffers,
        "caches_known": known,
    }


def least_seconds(case: Case, limits: dict[str, Any]) -> dict[str, Any]:
    """Return how long the machine needs at least for a case, by the measured limits.

    From 8 rows on, all products run at the rate of a matrix product.  With fewer rows the weights are used once or a few times
    for each time they are read, so every step costs reading the recurrent weights from the cache level they fit, once forward
    and once backward; the other products are over all time steps at once and run at the rate of a matrix
    product.  With a single step the input weights are read like the recurrent ones.

    Parameters
    ----------
    case : Case
    limits : dict
        As `measure` returns it.

    Returns
    -------
    dict
        ``seconds``; ``bound``, the limit that they come from; ``product_seconds`` and ``read_seconds``, their two parts.
    """
    flops_a_second = 1e9 * limits["gemm"][case.dtype]["best"]
    if case.B >= BANDWIDTH_BOUND_BATCH:
        seconds = case.flops / flops_a_second
        return {"seconds": seconds, "bound": "GEMM", "product_seconds": seconds, "read_seconds": 0.0}
    rows = case.H if case.T > 1 else case.I + case.H
    weights = rows * 4 * case.H
    size = weights * np.dtype(case.dtype).itemsize
    level = next((level for level, capacity in sorted(limits["caches"].items()) if size <= capacity), "DRAM")
    lengths = case.lengths()
    steps = case.T if lengths is None else int(lengths.max())
    passes = 2 if case.kind == "training" else 1
    read_seconds = passes * steps * size / (1e9 * limits["read"][level]["best"])
    product_seconds = (case.flops - passes * 2 * case.steps * weights) / flops_a_second
    return {
        "seconds": read_seconds + product_seconds,
        "bound": level,
        "product_seconds": product_seconds,
        "read_seconds": read_seconds,
    }
