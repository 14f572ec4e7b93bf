"""`accelerate`: an LSTM on the kernels whose parameters are the arrays of somebody's own object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..lstm import LSTM
from ._twin import block_of, gate_view

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

    * changes in place, ``obj.Wf -= lr * g`` or ``obj.bf[3] = 1``, are changes of the LSTM's parameters, and
      the reverse;
    * a new array in an attribute, ``obj.Wf = obj.Wf - lr * g``, is copied in when the LSTM is next used (a
      method, `params`, `flat_params`), and the attribute then is a view again.  What does not fit is refused
      at that time.

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
    >>> gates = {gate: ("W" + gate, "b" + gate) for gate in "ifgo"}
    >>> lstm = clstm.compat.accelerate(mine, gates=gates, concat="hx")
    >>> y, _ = lstm.forward(np.ones((7, 3)))
    >>> dx, _ = lstm.backward(np.ones_like(y))
    >>> lstm.flat_params -= 0.01 * lstm.flat_grads      # every array of `mine`
    >>> mine.bf[:] = 1                                  # and back
    >>> float(lstm.params["bias_l0"][5])
    1.0
    """
    hidden_first = _check.choice("concat", concat, ("xh", "hx")) == "hx"
    _check.entries("gates", gates, LSTM.kind.gates, True)
    parts = []
    for gate in LSTM.kind.gates:
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
    flat = np.zeros((columns + 1) * 4 * H, weight.array.dtype)
    lstm = Accelerated.from_params(flat, input_size=columns - H, hidden_size=H, hidden_first=hidden_first)
    lstm.follow(obj, parts)
    return lstm


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


class Accelerated(LSTM):
    """The LSTM that `accelerate` makes; before every use of its parameters it looks at the user's object."""

    _derived = LSTM._derived | {"_bound"}  # noqa: SLF001
    _obj: object = None
    _bound: Mapping[str, Array] = {}  # the views that are attributes of it
    # (name, gate, is it the bias, number of axes) of each attribute
    _parts: tuple[tuple[str, str, bool, int], ...] = ()

    def follow(self, obj: object, parts: list[_Part]) -> None:
        """Take in the arrays of an object and put views in their place; or leave it as it was, and raise."""
        self._parts = tuple((part.name, part.gate, part.is_bias, part.array.ndim) for part in parts)
        views = self._views_of_parts()
        for part, view in zip(parts, views.values(), strict=True):
            view[...] = part.array
        try:
            for name, view in views.items():
                setattr(obj, name, view)
        except (AttributeError, TypeError) as error:
            for part in parts[: [part.name for part in parts].index(name)]:
                setattr(obj, part.name, part.array)
            raise TypeError(
                f"{name}: expected an attribute that can be set, got one that cannot ({error})"
            ) from error
        self._obj, self._bound = obj, views

    def _views_of_parts(self) -> dict[str, Array]:
        block = block_of(self, self._flat_params)
        views = {name: (gate_view(block, gate, is_bias), ndim) for name, gate, is_bias, ndim in self._parts}
        return {name: view[:, 0] if ndim == 1 else view for name, (view, ndim) in views.items()}

    def look(self) -> None:
        """Take in the arrays that were bound to attributes of the object since the last time: all or none."""
        found = [(name, view, getattr(self._obj, name)) for name, view in self._bound.items()]
        new = [
            (name, view, _check.shaped(name, value, self.dtype, view.shape))
            for name, view, value in found
            if value is not view
        ]
        for name, view, value in new:
            view[...] = value
            setattr(self._obj, name, view)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bound = self._views_of_parts()
