"""`accelerate`: an LSTM on the kernels whose parameters are the arrays of somebody's own object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..lstm import LSTM
from ._twin import GATES, block_of, gate_view

Array = NDArray[Any]


def accelerate(obj: object, *, gates: Mapping[str, tuple[str, str]], concat: str) -> LSTM:
    """Make an LSTM whose parameters follow the arrays of an object that you wrote.

    Parameters
    ----------
    obj : object
        Has the weights and biases of one LSTM cell as attributes that can be set, all float64 or all float32.
    gates : mapping
        From each of "i", "f", "g" (the candidate) and "o" to the names of two attributes: the weight, of
        shape (H, D + H), and the bias, of shape (H, 1) or (H,).
    concat : {"xh", "hx"}
        What the weights multiply: [x; h] or [h; x].

    Returns
    -------
    clstm.LSTM
        One layer, time-major: feed it ``(T, D)`` or ``(T, B, D)``.

    Raises
    ------
    ValueError, TypeError
        A gate or an attribute is missing, cannot be set, or has the wrong shape or dtype; the object is as it
        was.

    Notes
    -----
    The values are copied into the storage of the LSTM, and the attributes become writable views of it.  From
    then on

    * changes in place, ``obj.Wf -= lr * g`` or ``obj.bf[3] = 1``, are changes of the LSTM's parameters, and the reverse;
    * a new array in an attribute, ``obj.Wf = obj.Wf - lr * g``, is copied in when the LSTM is next used (a call, a method,
      `params`, `flat_params`), and the attribute then is a view again.  What does not fit is refused at that
      time.

    What does not follow: other references to the old arrays, such as a list of parameters made before; make
    it afterwards. A `clstm.Stream` is a snapshot, as ever.  The arrays of `params` are current when you ask
    for `params`; ask again after binding a new array.

    Examples
    --------
    >>> class Mine:
    ...     def __init__(self, D, H, rng):
    ...         for gate in "figo":
    ...             setattr(self, "W" + gate, rng.standard_normal((H, D + H)))
    ...             setattr(self, "b" + gate, np.zeros((H, 1)))
    >>> mine = Mine(3, 5, np.random.default_rng(0))
    >>> lstm = clstm.compat.accelerate(mine, gates={gate: ("W" + gate, "b" + gate) for gate in "ifgo"}, concat="hx")
    >>> y, _ = lstm.forward(np.ones((7, 3)))
    >>> dx, _ = lstm.backward(np.ones_like(y))
    >>> lstm.flat_params -= 0.01 * lstm.flat_grads      # every array of `mine`
    >>> mine.bf[:] = 1                                  # and back
    >>> float(lstm.params["bias_l0"][5])
    1.0
    """
    hidden_first = _check.choice("concat", concat, ("xh", "hx")) == "hx"
    _check.entries("gates", gates, GATES, True)
    parts = []
    for gate in GATES:
        names = _check.pair(f"gates[{gate!r}]", gates[gate], "(name of the weight, name of the bias)")
        parts += [_Part(name, gate, n == 1, _array_of(obj, name)) for n, name in enumerate(names)]
    if len({part.name for part in parts}) < len(parts):
        raise ValueError(
            f"gates: expected eight different attributes, got {', '.join(part.name for part in parts)}"
        )

    weight = parts[0]
    _check.shape(weight.name, weight.array, ("H", "D + H"))
    H, columns = weight.array.shape
    if not 1 <= H < columns:
        raise ValueError(
            f"{weight.name}: expected shape (H, D + H) with H and D at least 1, got {weight.array.shape}"
        )
    for part in parts:
        if part.array.dtype != weight.array.dtype:
            raise TypeError(
                f"{part.name}: expected {weight.array.dtype} like {weight.name}, got {part.array.dtype}"
            )
        bias_shape = (H,) if part.array.ndim == 1 else (H, 1)
        _check.shape(part.name, part.array, bias_shape if part.is_bias else (H, columns))
    return Accelerated(obj, parts, columns - H, H, hidden_first, weight.array.dtype)


class _Part(NamedTuple):
    """A weight or bias of the user's object, as `accelerate` found it."""

    name: str
    gate: str
    is_bias: bool
    array: Array


def _array_of(obj: object, name: object) -> Array:
    """Return an attribute, which must be an array of float32 or float64."""
    if not isinstance(name, str):
        raise TypeError(f"gates: expected names of attributes, got {_check.describe(name)}")
    value = getattr(obj, name, None)
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{name}: expected an array of float32 or float64 in this attribute, got {_check.describe(value)}"
        )
    return value


class _Current:
    """An attribute of `LSTM` before whose every use the arrays of the user's object are looked at."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, lstm: Accelerated, owner: type) -> Any:
        lstm._follow()
        return lstm.__dict__[self.name]

    def __set__(self, lstm: Accelerated, value: Any) -> None:
        lstm.__dict__[self.name] = value


class Accelerated(LSTM):
    """The LSTM that `accelerate` makes; every road to its parameters leads through one of three attributes."""

    flat_params: Any = _Current()
    params: Any = _Current()
    _cells: Any = _Current()

    _parts: tuple[
        tuple[str, str, bool, int], ...
    ] = ()  # (name, gate, is it the bias, number of axes) of each attribute
    _views_of_parts: tuple[tuple[str, Array], ...] = ()

    def __init__(
        self, obj: object, parts: list[_Part], D: int, H: int, hidden_first: bool, dtype: np.dtype[Any]
    ) -> None:
        self._hidden_first = hidden_first
        super().__init__(D, H, dtype=dtype, init="torch", rng=0)
        self._obj = obj
        self._parts = tuple((part.name, part.gate, part.is_bias, part.array.ndim) for part in parts)
        self._lay_out(self.flat_params)
        for part, (_, view) in zip(parts, self._views_of_parts, strict=True):
            view[...] = part.array
        try:
            for name, view in self._views_of_parts:
                setattr(obj, name, view)
        except (AttributeError, TypeError) as error:
            for part in parts[: [part.name for part in parts].index(name)]:
                setattr(obj, part.name, part.array)
            raise TypeError(
                f"{name}: expected an attribute that can be set, got one that cannot ({error})"
            ) from error

    def _lay_out(self, flat_params: Array, flat_grads: Array | None = None) -> None:
        self._views_of_parts = ()
        super()._lay_out(flat_params, flat_grads)
        block = block_of(self, flat_params)
        views = [(name, gate_view(block, gate, is_bias), ndim) for name, gate, is_bias, ndim in self._parts]
        self._views_of_parts = tuple((name, view[:, 0] if ndim == 1 else view) for name, view, ndim in views)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_views_of_parts"}

    def _follow(self) -> None:
        """Take in the arrays that were bound to attributes of the object since the last time: all of them, or none."""
        found = [(name, view, getattr(self._obj, name)) for name, view in self._views_of_parts]
        bound = [
            (name, view, _check.shaped(name, value, self.dtype, view.shape))
            for name, view, value in found
            if value is not view
        ]
        for name, view, value in bound:
            view[...] = value
            setattr(self._obj, name, view)
