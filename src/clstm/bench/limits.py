"""The machine's own limits, measured within each row, in turns with the contestants.

* Products: NumPy's product of two square matrices, that is, its BLAS.
* Reading: dot products of the two halves of a buffer that fits one level of the caches, again and again, so
  that each byte is loaded once and used once, as the weights of a time step are.  The repetitions run inside
  one `matmul`, so a call of BLAS for each of them is in the figure, but none from Python; that costs the L1
  figure a few per cent.

Both are what a library reaches on one thread, not what a data sheet says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .cases import Case

GEMM_SIZE = 1024
DRAM_BYTES = 256 << 20  # what is read to measure the memory behind the caches
# A small buffer is read until this much is loaded, so that a sample takes about a millisecond.
BYTES_A_SAMPLE = 32 << 20
TYPICAL_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
WEIGHT_BYTES = {"bfloat16": 2, "int8": 1}  # of quantised weights
BANDWIDTH_BOUND_BATCH = 8  # with fewer rows a step takes as long as reading the weights


class Work(NamedTuple):
    """Something to time, and how much it is."""

    call: Callable[[], object]
    amount: float  # floating-point operations, or bytes
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext


class Need(NamedTuple):
    """The least that a case asks of the machine."""

    flops: float  # at the rate of a matrix product
    read_bytes: float  # at the rate of `level`
    level: str  # of the caches, or "DRAM"; "GEMM" where nothing but products counts


@cache
def cache_sizes() -> tuple[dict[str, int], bool]:
    """Return the bytes of each data cache that one core sees, and whether they are known, not assumed."""
    known = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                known[f"L{level}"] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return (known, True) if known else (dict(TYPICAL_CACHES), False)


def buffer_sizes() -> dict[str, int]:
    """Return how many bytes are read to measure each level."""
    caches, _ = cache_sizes()
    # Half of a cache that a core owns.  The third level belongs to others as well: what weights that spill
    # the second take.
    buffers = {level: size // 2 for level, size in caches.items()} | {"DRAM": DRAM_BYTES}
    if "L3" in caches and "L2" in caches:
        buffers["L3"] = min(caches["L3"] // 4, 4 * caches["L2"])
    return buffers


def product(dtype: str) -> Work:
    """Return a matrix product."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((GEMM_SIZE, GEMM_SIZE)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)
    return Work(lambda: np.matmul(a, b, out=out), 2.0 * GEMM_SIZE**3)


def reading(size: int) -> Work:
    """Return a call that reads a buffer of `size` bytes many times."""
    floats = size // 8 * 2
    unaligned = np.ones(floats + 16, np.float32)
    # Vectors that straddle two cache lines would halve the L1 figure.
    start = -unaligned.ctypes.data % 64 // 4
    buffer = unaligned[start : start + floats].reshape(2, -1)
    repeats = max(1, BYTES_A_SAMPLE // buffer.nbytes)
    left = np.broadcast_to(buffer[0], (repeats, 1, floats // 2))
    right = buffer[1][:, None]
    out = np.empty((repeats, 1, 1), np.float32)
    return Work(lambda: np.matmul(left, right, out=out), float(repeats * buffer.nbytes))


def need(case: Case) -> Need:
    """Return what a case needs at least.

    From 8 rows on, all products run at the rate of a matrix product.  With fewer rows the weights are used
    once or a few times for each time they are read, so every step costs reading the recurrent weights from
    the cache level they fit, once forward and once backward; the other products are over all time steps at
    once and run at the rate of a matrix product.  With a single step the input weights are read like the
    recurrent ones.  Several layers and directions are walked one after another, so that the level is that of
    the largest.

    Of quantised weights the reading alone counts: BLAS has no product of theirs to measure.
    """
    if case.B >= BANDWIDTH_BOUND_BATCH and not case.weights:
        return Need(case.flops, 0.0, "GEMM")
    projection = case.H * case.R if case.R != case.H else 0
    read_inputs = case.T == 1
    weights = [4 * case.H * (I_k * read_inputs + case.R) + projection for I_k in case.input_sizes]
    itemsize = WEIGHT_BYTES[case.weights] if case.weights else np.dtype(case.dtype).itemsize
    size = max(weights) * itemsize
    level = next((level for level, capacity in sorted(cache_sizes()[0].items()) if size <= capacity), "DRAM")
    lengths = case.lengths()
    steps = case.T if lengths is None else int(lengths.max())
    passes = 2 if case.kind in ("training", "sequence_regressor") else 1
    products = 0.0 if case.weights else case.flops - passes * 2.0 * case.steps * sum(weights)
    return Need(products, passes * steps * sum(weights) * itemsize, level)


def works(case: Case) -> dict[str, Work]:
    """Return what has to be timed beside a case to know its limit: "product", "reading" or both."""
    wanted = need(case)
    found = {}
    if wanted.flops:
        found["product"] = product(case.dtype)
    if wanted.read_bytes:
        found["reading"] = reading(buffer_sizes()[wanted.level])
    return found


def least_seconds(case: Case, measured: dict[str, Work], seconds: dict[str, float]) -> float:
    """Return how long the machine needs at least for a case.

    Parameters
    ----------
    case : Case
    measured : dict of str to Work
        As `works` returns it.
    seconds : dict of str to float
        How long a call of each of them took.
    """
    wanted = need(case)
    amounts = {"product": wanted.flops, "reading": wanted.read_bytes}
    return sum(amounts[name] / work.amount * seconds[name] for name, work in measured.items())
