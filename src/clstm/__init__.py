"""LSTM for the CPU, in NumPy's world: `clstm.LSTM`, `clstm.RNN` to compare it with, and `clstm.reference`, their definition."""

from . import compat, datasets, nn, plot, reference
from ._check import FileFormatError
from ._gradcheck import GradientFailure, GradientReport, gradcheck
from ._gradient_flow import GradientFlow, gradient_flow
from ._info import show_config
from ._threads import get_num_threads, set_num_threads
from .lstm import LSTM, Trace
from .rnn import RNN, RNNTrace
from .stream import Stream

__all__ = [
    "LSTM",
    "RNN",
    "FileFormatError",
    "GradientFailure",
    "GradientFlow",
    "GradientReport",
    "RNNTrace",
    "Stream",
    "Trace",
    "__version__",
    "compat",
    "datasets",
    "get_num_threads",
    "gradcheck",
    "gradient_flow",
    "nn",
    "plot",
    "reference",
    "set_num_threads",
    "show_config",
]

__version__ = "0.1.0"
