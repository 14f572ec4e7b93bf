"""LSTM for the CPU, in NumPy's world: `clstm.LSTM`, and `clstm.reference`, its definition."""

from . import reference
from ._check import FileFormatError
from ._info import show_config
from .lstm import LSTM, Trace

__all__ = ["LSTM", "FileFormatError", "Trace", "__version__", "reference", "show_config"]

__version__ = "0.1.0"
