"""LSTM for the CPU, in NumPy's world.

`LSTM`, `QuantizedLSTM` for inference with fewer bytes, `RNN` to compare with; `reference`, their definition.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import reference
from ._check import FileFormatError
from ._info import show_config
from ._load import load
from ._threads import get_num_threads, set_num_threads
from ._version import __version__
from .architecture import Trace
from .lstm import LSTM
from .quantized import QuantizedLSTM
from .rnn import RNN, RNNTrace
from .stream import Stream
from .tape import Tape

if TYPE_CHECKING:
    from . import compat, datasets, nn, plot, text
    from . import estimators as estimators
    from ._gradcheck import GradientFailure, GradientReport, gradcheck
    from ._gradient_flow import GradientFlow, gradient_flow
    from ._jobs import predict_parallel

__all__ = [
    "LSTM",
    "RNN",
    "FileFormatError",
    "GradientFailure",
    "GradientFlow",
    "GradientReport",
    "QuantizedLSTM",
    "RNNTrace",
    "Stream",
    "Tape",
    "Trace",
    "__version__",
    "compat",
    "datasets",
    "get_num_threads",
    "gradcheck",
    "gradient_flow",
    "load",
    "nn",
    "plot",
    "predict_parallel",
    "reference",
    "set_num_threads",
    "show_config",
    "text",
]

# Imported when they are first asked for, so that a program that runs an LSTM starts quickly.
# `estimators` needs scikit-learn: it is not in `__all__`.
_PACKAGES = ("compat", "datasets", "estimators", "nn", "plot", "text")
_TOOLS = {
    "GradientFailure": "_gradcheck",
    "GradientFlow": "_gradient_flow",
    "GradientReport": "_gradcheck",
    "gradcheck": "_gradcheck",
    "gradient_flow": "_gradient_flow",
    "predict_parallel": "_jobs",
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name in _TOOLS:
        return getattr(importlib.import_module(f".{_TOOLS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
