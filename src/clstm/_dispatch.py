"""Picks the kernel build once, at import: the best that this processor runs, or the one that CLSTM_ISA names.

A backend is anything with the functions of reference.py; `backend` returns one for a dtype.
"""

from __future__ import annotations

import importlib
import math
import os
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import _cpu, reference

# Best first.  The baseline is what the compiler targets when it is told nothing more than the platform.
BUILDS = {
    "x86_64_v4": "clstm._kernels_x86_64_v4",
    "x86_64_v3": "clstm._kernels_x86_64_v3",
    "baseline": "clstm._kernels",
}
FUNCTIONS = ("forward", "backward", "step", "product", "add_rows")
# The same for either dtype.
FOR_BOTH = ("forward_all", "backward_all", "Stream")


class Backend(Protocol):
    """What reference.py and each kernel build, narrowed to one dtype, have in common."""

    forward: Any
    backward: Any
    forward_all: Any
    backward_all: Any
    step: Any
    product: Any
    add_rows: Any
    Stream: Any


def runnable() -> tuple[str, ...]:
    """Names of the builds that this processor runs, best first."""
    return tuple(isa for isa in BUILDS if isa == "baseline" or _cpu.supports(isa))


def _choose() -> str:
    forced = os.environ.get("CLSTM_ISA", "")
    if not forced:
        return runnable()[0]
    if forced not in BUILDS:
        raise ImportError(f"CLSTM_ISA: expected one of {', '.join(BUILDS)}, got {forced!r}")
    if forced not in runnable():
        raise ImportError(
            f"CLSTM_ISA: expected one of {', '.join(runnable())} on this processor, got {forced!r}"
        )
    return forced


isa = _choose()
kernels = importlib.import_module(BUILDS[isa])
kernels.use_dot(kernels.DOT_FEATURE in _cpu.features())
_by_dtype: dict[np.dtype[Any], Backend] = {
    np.dtype(dtype): SimpleNamespace(
        **{name: getattr(kernels, name)[ctype] for name in FUNCTIONS},
        **{name: getattr(kernels, name) for name in FOR_BOTH},
    )
    for dtype, ctype in ((np.float32, "float"), (np.float64, "double"))
}


def backend(name: str, dtype: np.dtype[Any]) -> Backend:
    """Return the definition for "numpy", the kernels for "auto"."""
    return reference if name == "numpy" else _by_dtype[dtype]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array with any content from the kernels' pool: new memory costs a page fault every 4 KB."""
    return np.ndarray(shape, dtype, kernels.Block(math.prod(shape) * dtype.itemsize))
