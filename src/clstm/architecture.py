"""class Architecture: what an LSTM is, whatever its weights are made of: its arguments and options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check, cells
from .inference import Inference
from .parameters import Argument

Array = NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """Gates and states of every step, as `LSTM.trace` returns them.

    Attributes
    ----------
    i, f, g, o : ndarrays of shape (num_layers * num_directions, T, B, H)
        Input gate, forget gate, candidate and output gate, after their activation.
    c, h : ndarrays of the same shape
        Cell and hidden state after the step.

    Time is the second axis also for ``batch_first=True``; for one unbatched sequence the axis B is absent.
    Layer 0 forward, layer 0 reverse, layer 1 forward, ...  The reverse direction is stored at the original
    time index. Padding is 0.
    """

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


# An activation as users write it: a name, or a name with values of its parameters.
Spec = str | tuple[str, dict[str, float]]


def _clip(name: str, value: Any) -> float | None:
    return None if value is None else _check.positive(name, value)


def _zoneout(name: str, value: Any) -> tuple[float, float]:
    p_h, p_c = _check.pair(name, value, "(p_h, p_c)")
    return _check.fraction(f"{name}[0]", p_h), _check.fraction(f"{name}[1]", p_c)


def _activations(name: str, value: Any) -> tuple[Spec, Spec, Spec]:
    if isinstance(value, str) or not isinstance(value, tuple | list) or len(value) != 3:
        raise ValueError(f"{name}: expected three, (gates, candidate, cell), got {_check.describe(value)}")
    gates, candidate, cell = (_activation(f"{name}[{n}]", spec) for n, spec in enumerate(value))
    return gates, candidate, cell


def _values(spec: Spec) -> dict[str, float]:
    """Return the parameters of an activation, as far as they are not the default."""
    return {} if isinstance(spec, str) else spec[1]


def _activation(name: str, spec: Any) -> Spec:
    """Return a name alone, or with all of its parameters."""
    text, given = (spec, {}) if isinstance(spec, str) else _check.pair(name, spec, "(name, parameters)")
    defaults = cells.ACTIVATIONS[_check.choice(name, text, tuple(cells.ACTIVATIONS))]
    if not isinstance(given, Mapping) or not given.keys() <= defaults.keys():
        wanted = f"a dict with some of {', '.join(defaults)}" if defaults else "no parameters"
        raise ValueError(f"{name}: expected {wanted} for {text}, got {_check.describe(given)}")
    values = {key: _check.real(f"{name}[{key!r}]", given.get(key, value)) for key, value in defaults.items()}
    return text if values == defaults else (text, values)


class Architecture(Inference[tuple[Array, Array]]):
    """Base of the LSTMs."""

    kind = cells.LSTM
    _trace = Trace

    proj_size = Argument(partial(_check.integer, low=0))
    peepholes = Argument(_check.boolean)
    coupled = Argument(_check.boolean)
    activations = Argument(_activations)
    gate_clip = Argument(_clip)
    cell_clip = Argument(_clip)
    layer_norm = Argument(_check.boolean)
    zoneout = Argument(_zoneout, settable=True)

    def _check_together(self) -> None:
        super()._check_together()
        if self.coupled and self.layer_norm:
            raise ValueError(
                "coupled: expected False with layer_norm=True, which would normalise the pre-activations of "
                "a forget gate that nobody reads, got True"
            )
        largest = float(np.finfo(self.dtype).max)
        specs = zip(range(3), self.activations, strict=True)
        numbers = {f"activations[{n}][{key!r}]": v for n, spec in specs for key, v in _values(spec).items()}
        for name, value in {"gate_clip": self.gate_clip, "cell_clip": self.cell_clip, **numbers}.items():
            if value is not None and abs(value) > largest:
                raise ValueError(f"{name}: expected a number that {self.dtype} can hold, got {value}")
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size: expected less than hidden_size, {self.hidden_size}, got {self.proj_size}"
            )

    @property
    def output_size(self) -> int:
        """Numbers of h in one direction: R with a projection, else H."""
        return self.proj_size or self.hidden_size

    def _options(self) -> cells.Options | None:
        names_and_values = [(spec, {}) if isinstance(spec, str) else spec for spec in self.activations]
        gates, candidate, cell = (
            cells.Activation(name, **(cells.ACTIVATIONS[name] | values)) for name, values in names_and_values
        )
        options = cells.Options(
            (gates, candidate, cell),
            math.inf if self.gate_clip is None else self.gate_clip,
            math.inf if self.cell_clip is None else self.cell_clip,
            self.coupled,
            self.zoneout,
        )
        return None if options == cells.Options() and not self._extras() else options

    def _extras(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        H, R = self.hidden_size, self.proj_size
        extras: dict[str, tuple[str, tuple[int, ...]]] = {}
        if self.peepholes:
            extras["peepholes"] = ("weight_peephole", (3, H))
        if R:
            extras["W_r"] = ("weight_hr", (H, R))
        if self.layer_norm:
            extras["norm_x"] = ("layer_norm_x", (4 * H,))
            extras["norm_h"] = ("layer_norm_h", (4 * H,))
            extras["norm_c"] = ("layer_norm_c", (2, H))
        return extras
