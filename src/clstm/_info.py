"""What `clstm.show_config` and `clstm info` tell: versions, the kernel build in use, the processor."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from . import _cpu, _dispatch, _threads


def show_config() -> dict[str, Any]:
    """Return versions, the kernel build that was picked and what the processor offers.

    Returns
    -------
    dict
        Keys ``version``, ``python``, ``numpy``, ``machine``, ``build`` (the kernel build in use), ``builds``
        (those that this processor runs, best first), ``vector_bytes`` (width of a vector in that build),
        ``features`` (instruction sets) and ``threads``.

    Examples
    --------
    >>> clstm.show_config()["build"] in ("baseline", "x86_64_v3", "x86_64_v4")
    True
    """
    from ._version import __version__

    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "build": _dispatch.isa,
        "builds": list(_dispatch.runnable()),
        "vector_bytes": _dispatch.kernels.VECTOR_BYTES,
        "features": list(_cpu.features()),
        "threads": _threads.get_num_threads(),
    }
