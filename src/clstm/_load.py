"""`load`: read a file, whatever class it holds."""

from __future__ import annotations

import importlib
import os
from typing import Any

from . import _check, files

# Where the classes that files can hold are; a module is imported when a file needs it.
_MODULES = {"LSTM": "lstm", "RNN": "rnn", "Dense": "nn.dense", "SequenceModel": "nn.model"}


def load(path: str | os.PathLike[str], **options: Any) -> Any:
    """Read what `save` of any class has written.

    Parameters
    ----------
    path : str or path-like
    **options
        Arguments of the constructor that are not part of the file, such as `backend`.

    Returns
    -------
    LSTM, RNN, nn.Dense or nn.SequenceModel
        Whichever the file holds.

    Raises
    ------
    FileFormatError
        The file is no safetensors file, was not written by `save` or has been damaged since, or does not fit
        together.
    OSError
        The file cannot be opened.
    """
    contents = files.read(path)
    if contents.class_name not in _MODULES:
        raise _check.FileFormatError(
            contents.path,
            f"expected one of {', '.join(_MODULES)}, got {_check.describe(contents.class_name)}",
        )
    module = importlib.import_module(f".{_MODULES[contents.class_name]}", __package__)
    loaded: type[Any] = getattr(module, contents.class_name)
    return loaded.from_contents(contents, **options)
