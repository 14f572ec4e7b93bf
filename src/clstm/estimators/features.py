"""What a forecasting model sees of a series at each step, and what it shall say: scaled numbers, and back.

Nothing here looks past the step it is computed for, but for covariates that are known ahead and for targets.
The same numbers come out whatever follows, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .. import _check
from .series import Series

Array = NDArray[np.float64]

# Pieces of all series that training cuts at most, as long as they overlap.
MOST_PIECES = 2048


class Scale(NamedTuple):
    """In what units a model sees a series; arrays of shape (targets,)."""

    centre: Array  # mean of the values
    spread: Array  # of what is forecast: 1 for the model
    step: Array  # of the change from one step to the next
    naive: Array  # mean absolute error of the naive forecast one step (or season) ahead


@dataclass(frozen=True)
class Recipe:
    """How a series becomes inputs and targets.

    Attributes
    ----------
    horizon : int
        Steps that are forecast.
    input_steps, max_steps : int
        Fewest and most values that training makes a forecast from.
    season : int or None
        Steps of a season.
    relative : bool
        Whether forecasts are changes from the last value.
    levels : tuple of float
        Quantiles that are forecast; none for a point.
    """

    horizon: int
    input_steps: int
    max_steps: int
    season: int | None
    relative: bool
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        _check.integer("horizon", self.horizon, 1)
        _check.integer("input_steps", self.input_steps, 1)
        _check.integer("max_steps", self.max_steps, self.input_steps)
        if self.season is not None:
            _check.integer("season", self.season, 2)
        _check.boolean("relative", self.relative)
        if self.input_steps <= self.lost:
            what = "the steps of a season" if self.season else "a change needs two values"
            raise ValueError(f"input_steps: expected more than {self.lost}, {what}, got {self.input_steps}")
        if not self.levels:
            return
        levels = _check.proper_fractions("quantiles", self.levels)
        if 0.5 not in levels or any(after <= before for before, after in pairwise(levels)):
            raise ValueError(
                f"quantiles: expected rising levels with 0.5 among them, got {_check.describe(levels)}"
            )

    @property
    def lost(self) -> int:
        """Steps at the beginning of a series at which something is not known yet."""
        return max(self.season or 0, int(self.relative))

    @property
    def point(self) -> int:
        """Which of the levels is the point forecast."""
        return self.levels.index(0.5) if self.levels else 0

    def inputs(self, one: Series, scale: Scale, covariates: Covariates) -> Array:
        """Return what the model sees (steps, I): from step `lost` on, as long as enough is known ahead."""
        y, lost, horizon = one.y, self.lost, self.horizon
        end = len(y)
        if one.future.shape[1]:
            end = min(end, len(one.future) - horizon)
        steps = np.arange(lost, max(end, lost))
        now = y[steps]
        seen = [(now - y[steps - 1]) / scale.step if self.relative else (now - scale.centre) / scale.spread]
        if self.season is not None:
            base = now if self.relative else np.broadcast_to(scale.centre, now.shape)
            ahead = np.arange(1, min(horizon, self.season) + 1) - self.season  # what each was a season ago
            seen.append(((y[steps[:, None] + ahead] - base[:, None]) / scale.spread).reshape(len(steps), -1))
        past, future, static = covariates.apply(one)
        seen.append(past[steps])
        if future.shape[1]:  # of this step and of those that are forecast
            known = sliding_window_view(future, horizon + 1, axis=0)[steps]
            seen.append(known.reshape(len(steps), -1))
        seen.append(np.broadcast_to(static, (len(steps), len(static))))
        return np.concatenate(seen, axis=1)

    def base(self, y: Array, steps: NDArray[np.intp], scale: Scale) -> Array:
        """Return what forecasts made at `steps` are relative to, (steps, 1, targets)."""
        return y[steps, None] if self.relative else np.broadcast_to(scale.centre, (len(steps), 1, y.shape[1]))

    def ahead(self, y: Array, steps: NDArray[np.intp]) -> Array:
        """Return the values that follow each step, (steps, horizon, targets)."""
        return y[steps[:, None] + np.arange(1, self.horizon + 1)]

    def naive(self, y: Array, steps: NDArray[np.intp]) -> Array:
        """Return naive forecasts (steps, horizon, targets): the last value, or that a season before."""
        m = self.season or 1
        k = np.arange(self.horizon) % m + 1 - m
        return y[steps[:, None] + k]

    def pieces(
        self, series: Sequence[tuple[Series, Scale]], covariates: Covariates
    ) -> tuple[list[Array], list[Array]]:
        """Cut each series into what training takes: inputs (n, L, I), and targets as `whole` has them.

        Pieces hold at most `max_steps` values and overlap; a step counts where its piece has shown
        `input_steps` values, which is so for each in one piece at least.
        """
        starts = [max(1, len(one.y) - self.horizon - self.max_steps + 1) for one, _ in series]
        stride = min(-(-sum(starts) // MOST_PIECES), self.max_steps - self.input_steps + 1)
        x, y = [], []
        for (one, scale), possible in zip(series, starts, strict=True):
            inputs, targets = self.whole(one, scale, covariates, 0)
            begins = np.union1d(np.arange(0, possible, stride), possible - 1)
            rows = begins[:, None] + np.arange(min(len(inputs), self.max_steps - self.lost))
            x.append(inputs[rows])
            y.append(targets[rows])
            y[-1][:, : self.input_steps - 1 - self.lost, -1] = 0
        return x, y

    def whole(self, one: Series, scale: Scale, covariates: Covariates, first: int) -> tuple[Array, Array]:
        """Return inputs (L, I) and targets (L, horizon * targets + 1) of a series without its last steps.

        The last column of the targets is 1 where a step counts, which it does from step `first` on.
        """
        steps = np.arange(self.lost, len(one.y) - self.horizon)
        targets = (self.ahead(one.y, steps) - self.base(one.y, steps, scale)) / scale.spread
        counts = (steps >= first)[:, None]
        inputs = self.inputs(one, scale, covariates)[: len(steps)]
        return inputs, np.concatenate([targets.reshape(len(steps), -1), counts], axis=1)


@dataclass(frozen=True, eq=False)
class Covariates:
    """Scaling of past, future and static covariates over all series: pairs of mean and scale."""

    past: Array  # (2, P)
    future: Array  # (2, F)
    static: Array  # (2, S)

    @classmethod
    def of(cls, series: Sequence[Series], names: Mapping[str, Sequence[Any]]) -> Covariates:
        """Take mean and standard deviation of each; one that is constant says nothing and is refused."""
        found = {}
        for what in ("past", "future", "static"):
            if what == "static":
                rows = np.stack([one.static for one in series])
            else:
                rows = np.concatenate([getattr(one, what)[: len(one.y)] for one in series])
            for k in np.flatnonzero((rows == rows[:1]).all(axis=0)):
                column = repr(names[what][int(k)]) if names[what] else f"column {k}"
                raise ValueError(
                    f"{what}: expected covariates that vary, got {rows[0, k]} throughout in {column}; "
                    "leave it out"
                )
            found[what] = np.stack([rows.mean(axis=0), rows.std(axis=0)])
        return cls(**found)

    def apply(self, one: Series) -> tuple[Array, Array, Array]:
        """Return scaled past, future and static covariates."""
        past, future, static = (
            (values - mean) / scale
            for values, (mean, scale) in (
                (one.past, self.past), (one.future, self.future), (one.static, self.static)
            )
        )  # fmt: skip
        return past, future, static


def scale_of(one: Series, recipe: Recipe) -> Scale:
    """Find the units of a series in its values; one that does not change has none."""
    y = one.y
    for k in np.flatnonzero((y == y[:1]).all(axis=0)):
        column = f", target {k}" if y.shape[1] > 1 else ""
        raise ValueError(
            f"y: expected values that vary, got {y[0, k]} throughout in series {one.name!r}{column}"
        )
    changes = _changes(y, recipe.horizon)
    m = recipe.season or 1
    return Scale(
        y.mean(axis=0),
        np.sqrt(np.mean(np.square(changes), axis=(0, 1))) if recipe.relative else y.std(axis=0),
        np.sqrt(np.mean(np.square(np.diff(y, axis=0)), axis=0)),
        np.abs(y[m:] - y[:-m]).mean(axis=0),
    )


def is_relative(series: Sequence[Series], horizon: int) -> bool:
    """Whether the last value forecasts better than the mean does, in most series."""
    shares = [
        np.mean(np.square(_changes(one.y, horizon)), axis=(0, 1)) / np.maximum(one.y.var(axis=0), 1e-300)
        for one in series
    ]
    return bool(np.median(np.concatenate(shares)) < 1.0)


def _changes(y: Array, horizon: int) -> Array:
    """Return by how much the values of the horizon differ from the last one before, (n, horizon, targets)."""
    horizon = min(horizon, len(y) - 1)
    return sliding_window_view(y[1:], horizon, axis=0).swapaxes(1, 2) - y[: len(y) - horizon, None]
