"""`load`: read a file, whatever class it holds."""

from __future__ import annotations

import importlib
import os
from typing import Any

from . import _check, files

# Where the classes that files can hold are; a module is imported when a file needs it.
_MODULES = {
    "LSTM": "lstm",
    "RNN": "rnn",
    "Dense": "nn.dense",
    "Embedding": "nn.embedding",
    "Dropout": "nn.dropout",
    "SequenceModel": "nn.model",
    "QuantizedLSTM": "quantized",
    "LSTMClassifier": "estimators.classifier",
    "LSTMForecaster": "estimators.forecaster",
    "LSTMRegressor": "estimators.regressor",
    "CharacterModel": "text",
    "TableModel": "_table_model",
}
# Files of what is no object on its own, and what reads them.
_ELSEWHERE = {
    "Checkpoint": "of a training run; clstm.nn.resume goes on from the folder in which it lies",
    "StreamState": "of a stream; its method load_state reads it",
}


def load(path: str | os.PathLike[str], **options: Any) -> Any:
    """Read what `save` of any class has written.

    Parameters
    ----------
    path : str or path-like
    **options
        Arguments of the constructor that are not part of the file, such as `backend`.

    Returns
    -------
    LSTM, RNN, QuantizedLSTM, nn.Dense, nn.Embedding, nn.Dropout, nn.SequenceModel, an estimator, or a
    model of `clstm train`
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
    if contents.class_name in _ELSEWHERE:
        raise _check.FileFormatError(
            contents.path,
            f"expected a file of a model or layer, got a {contents.class_name} "
            f"{_ELSEWHERE[contents.class_name]}",
        )
    with files.as_format_error(contents.path):
        kind = class_of(contents.class_name)
    return kind.from_contents(contents, **options)


def class_of(name: Any) -> Any:
    """Return the class that files call so.

    Parameters
    ----------
    name : str

    Raises
    ------
    ValueError
        There is none.
    """
    if not isinstance(name, str) or name not in _MODULES:
        raise ValueError(f"expected one of {', '.join(_MODULES)}, got {_check.describe(name)}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __package__), name)
