"""LSTM for the CPU, in NumPy's world.

`LSTM`, `RNN` to compare it with, and `reference`, the definition of both.
"""

import importlib
from typing import Any

from . import compat, reference
from ._check import FileFormatError
from ._gradcheck import GradientFailure, GradientReport, gradcheck
from ._gradient_flow import GradientFlow, gradient_flow
from ._info import show_config
from ._load import load
from ._threads import get_num_threads, set_num_threads
from ._version import __version__
from .lstm import LSTM, Trace
from .rnn import RNN, RNNTrace
from .stream import Stream
from .tape import Tape

__all__ = [
    "LSTM",
    "RNN",
    "FileFormatError",
    "GradientFailure",
    "GradientFlow",
    "GradientReport",
    "RNNTrace",
    "Stream",
    "Tape",
    "Trace",
    "__version__",
    "compat",
    "get_num_threads",
    "gradcheck",
    "gradient_flow",
    "load",
    "reference",
    "set_num_threads",
    "show_config",
]


# Imported when they are first asked for: what training and pictures need.
_LATER = ("datasets", "nn", "plot")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
