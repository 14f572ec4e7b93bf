"""class Monitor: what waits for a metric to improve, as early stopping and the schedule for plateaus do."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from .. import _check
from .parts import Check, Part


class Monitor(Part):
    """Base of what watches a metric from epoch to epoch and counts epochs without improvement.

    Parameters
    ----------
    monitor : str
        Name of the metric.
    min_delta : float
        A change counts only if it is larger.
    patience : int
        Number of epochs without improvement after which something is done.
    mode : {"min", "max"}
        Which way is better.
    further : mapping of str to what JSON has
        Other arguments of the constructor, checked.

    Attributes
    ----------
    best : float or None
        Best value so far, None before the first.
    wait : int
        Epochs since then.
    """

    def __init__(
        self, monitor: str, min_delta: float, patience: int, mode: str, further: Mapping[str, Any]
    ) -> None:
        _check.instance("monitor", monitor, str)
        own = {
            "monitor": monitor,
            "min_delta": _check.non_negative("min_delta", min_delta),
            "patience": _check.integer("patience", patience, 0),
            "mode": _check.choice("mode", mode, ("min", "max")),
        }
        super().__init__(own | dict(further))
        self.reset()

    def reset(self) -> None:
        """Begin anew, as for another training."""
        self.best: float | None = None
        self.wait = 0

    def state_checks(self) -> dict[str, Check]:
        """Return the names of the attributes that training changes, each with the check of a new value."""
        return {"best": _check.optional(_check.real), "wait": partial(_check.integer, low=0)}

    def check_monitor(self, metrics: Collection[str]) -> None:
        """Compare the name of the metric with those that there are.

        Raises
        ------
        ValueError
            It is not among them.
        """
        name = self._arguments["monitor"]
        if name not in metrics:
            hint = "; it takes validation_data or validation_split" if name.startswith("val_") else ""
            raise ValueError(
                f"monitor: expected one of the metrics {_check.listed(metrics)}, "
                f"got {_check.describe(name)}{hint}"
            )

    def look(self, metrics: Mapping[str, float]) -> bool:
        """Take in the metrics of an epoch; return whether this one is the best so far.

        Parameters
        ----------
        metrics : mapping of str to float
            What is not finite is never an improvement.

        Raises
        ------
        ValueError
            The metric is not among them.
        """
        self.check_monitor(metrics)
        value = float(metrics[self._arguments["monitor"]])
        better = math.isfinite(value) and (self.best is None or self._is_better(value, self.best))
        if better:
            self.best = value
        self.wait = 0 if better else self.wait + 1
        return better

    def _is_better(self, value: float, best: float) -> bool:
        """Compare as Keras does."""
        min_delta: float = self._arguments["min_delta"]
        return value + min_delta < best if self._arguments["mode"] == "min" else value - min_delta > best

    @property
    def has_waited(self) -> bool:
        """Whether the patience is at its end; at least one epoch has not improved then."""
        patience: int = self._arguments["patience"]
        return self.wait >= max(1, patience)
