"""class ModelStream: a model that is fed one time step at a time, on the streams of its layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check
from ..layers import SequenceLayer
from ..stream import Stream, read_states, save_states

Array = NDArray[Any]


class ModelStream:
    """A model that is fed one time step at a time; made by `SequenceModel.stream`.

    A step gives what the model gives at that step of a whole sequence, with the same bits.  The recurrent
    layers' parameters are a snapshot until `refresh`.  It belongs to one thread at a time, and can be pickled
    and copied.

    Examples
    --------
    >>> import clstm, numpy as np
    >>> from clstm import nn
    >>> model = nn.SequenceModel([clstm.LSTM(2, 4, rng=0), nn.Dense(4, 3, rng=1)])
    >>> stream = model.stream()
    >>> for x_t in np.ones((7, 2)):
    ...     prediction = stream.step(x_t)
    >>> np.array_equal(prediction, model(np.ones((7, 2))))
    True
    """

    def __init__(
        self, layers: Sequence[Any], takes_indices: bool, batch_size: int | None, state: Any
    ) -> None:
        self._takes_indices, self._batch_size = takes_indices, batch_size
        self._parts = [
            layer.stream(batch_size) if isinstance(layer, SequenceLayer) else layer for layer in layers
        ]
        self._streams = [part for part in self._parts if isinstance(part, Stream)]
        if state is not None:
            self.state = state

    def step(self, x_t: ArrayLike) -> Array:
        """Feed one time step.

        Parameters
        ----------
        x_t : array_like of shape (B, I), or (I,) for a stream of one row
            Integers without the axis I for a model that begins with an `Embedding`.

        Returns
        -------
        ndarray of shape (B, O) or (O,)

        Raises
        ------
        ValueError, TypeError
            The argument has the wrong shape or type; the state is as it was.
        """
        x: Any = x_t
        if self._takes_indices:
            _check.shape("x_t", np.asarray(x_t), () if self._batch_size is None else (self._batch_size,))
        for part in self._parts:
            x = part.step(x) if isinstance(part, Stream) else part(x)
        result: Array = x
        return result

    @property
    def state(self) -> list[Any]:
        """Copies of the states of the recurrent layers; assign to it to set them."""
        return [stream.state for stream in self._streams]

    @state.setter
    def state(self, state: Any) -> None:
        if not isinstance(state, list | tuple) or len(state) != len(self._streams):
            raise ValueError(
                f"state: expected a list of {len(self._streams)} states, one for each recurrent layer, "
                f"got {_check.describe(state)}"
            )
        before = self.state
        try:
            for stream, own in zip(self._streams, state, strict=True):
                stream.state = own
        except BaseException:
            for stream, own in zip(self._streams, before, strict=True):
                stream.state = own
            raise

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write the states of the recurrent layers to a safetensors file, whole or not at all.

        The parameters are not part of it: save the model for these.

        Parameters
        ----------
        path : str or path-like
            Replaced if it exists, after the new content has reached the disk.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        save_states(path, self._streams)

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Take the states that `save_state` has written.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        FileFormatError
            The file was not written by `save_state` or is damaged, or its states have other kinds,
            shapes or dtypes than those of this stream; the stream is as it was.
        OSError
            The file cannot be opened.
        """
        self.state = read_states(path, self._streams)

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Set the state to 0, of all rows or of those that are named by index or mask."""
        for stream in self._streams:
            stream.reset(rows)

    def refresh(self) -> None:
        """Take the present parameters of the recurrent layers; the state stays."""
        for stream in self._streams:
            stream.refresh()
