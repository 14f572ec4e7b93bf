"""Of which kind a file is, told by its content; names and suffixes tell nothing.

Relies on nothing but the first bytes, the names in an archive and the header of safetensors: whether the rest
keeps what these promise is for the reader of the kind to find out.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from .._check import FileFormatError
from .contents import Archive, read_bytes

# Bytes that tell of most kinds.
_HEAD = 512
# Bytes of a header of JSON; to parse it takes 30 times as much.
_LONGEST_HEADER = 1 << 20
# How a file of PyTorch from before its zip archives begins, a magic number that is pickled, and one of HDF5.
TORCH_BEFORE_ZIP = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Format(NamedTuple):
    """A kind of file."""

    name: str
    title: str
    reader: str | None  # the module of this package that finds LSTMs in it


OWN = Format("clstm", "clstm", None)
NPZ = Format("npz", "NumPy", None)
SAFETENSORS = Format("safetensors", "safetensors", "torch")
TORCH = Format("torch", "PyTorch", "torch")
PICKLE = Format("pickle", "pickle", "torch")
KERAS = Format("keras", "Keras", "keras")
HDF5 = Format("hdf5", "HDF5", "keras")
ONNX = Format("onnx", "ONNX", "onnx")


def tell(path: str | os.PathLike[str]) -> Format:
    """Return the kind of a file.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Format

    Raises
    ------
    FileFormatError
        It is of none that this package reads.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> from clstm.interop import formats
    >>> clstm.LSTM(3, 5).save("a.onnx")
    >>> formats.tell("a.onnx").name
    'clstm'
    """
    path = os.fsdecode(path)
    head = read_bytes(path, _HEAD)
    if head.startswith(b"PK"):
        return _tell_archive(path, Archive(path, read_bytes(path)).names)
    if head.startswith(HDF5_SIGNATURE):
        return HDF5
    if head[8:9] == b"{":
        return OWN if "clstm" in _metadata(read_bytes(path, 8 + _LONGEST_HEADER)) else SAFETENSORS
    if head.startswith(TORCH_BEFORE_ZIP):
        return TORCH
    if head.startswith(b"\x80") and head[1:2] <= b"\x05":
        return PICKLE
    if head.startswith(b"\x08"):  # the number of the IR's version, which every writer puts first
        return ONNX
    raise FileFormatError(
        path,
        "expected a file of clstm, PyTorch, Keras, ONNX or NumPy, or a safetensors file, got none of these",
    )


def _tell_archive(path: str, names: tuple[str, ...]) -> Format:
    if any(name.endswith("/data.pkl") for name in names):
        return TORCH
    if "model.weights.h5" in names:
        return KERAS
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    raise FileFormatError(path, "expected a zip archive of PyTorch, Keras or NumPy, got another one")


def _metadata(start: bytes) -> dict[str, Any]:
    """Return the metadata in the start of a safetensors file as far as it has any."""
    length = int.from_bytes(start[:8], "little")
    try:
        header = json.loads(start[8 : 8 + min(length, _LONGEST_HEADER)])
    except (ValueError, RecursionError):
        return {}
    metadata = header.get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}
