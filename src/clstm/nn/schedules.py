"""Schedules: what becomes of the learning rate in the course of a training.

A schedule is anything with `factor`, which multiplies the initial rate before each update, and `end_epoch`,
`state_dict` and `load_state_dict`.  It may have `check_monitor`, which is asked before a training whether its
metric will be there, and `reset`, which is called at the beginning of each new one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from .. import _check
from .monitor import Monitor
from .parts import Check, Part


class Schedule(Protocol):
    """What training needs of a schedule."""

    def factor(self, epoch: float, update: int) -> float:
        """Return what the initial learning rate is multiplied with before an update.

        Parameters
        ----------
        epoch : float
            Number of epochs done so far, with the fraction of the present one.
        update : int
            Number of updates done so far.
        """

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of an epoch that has ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes."""

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Continue from a state."""


class _OfTime(Part):
    """Base of the schedules that depend on the time alone."""

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of an epoch that has ended; they change nothing."""


class StepDecay(_OfTime):
    """Multiply the learning rate with `gamma` every `step_size` epochs.

    Parameters
    ----------
    step_size : int
        Number of epochs.
    gamma : float above 0, default 0.1

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Examples
    --------
    >>> from clstm.nn import StepDecay
    >>> schedule = StepDecay(2, gamma=0.5)
    >>> [schedule.factor(epoch, update=0) for epoch in (0, 1, 1.9, 2, 4)]
    [1.0, 1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, step_size: int, gamma: float = 0.1) -> None:
        self._step_size = _check.integer("step_size", step_size, 1)
        self._gamma = _check.positive("gamma", gamma)
        super().__init__({"step_size": self._step_size, "gamma": self._gamma})

    def factor(self, epoch: float, update: int) -> float:  # noqa: ARG002
        """Return what the initial learning rate is multiplied with before an update."""
        return self._gamma ** math.floor(epoch / self._step_size)


class CosineDecay(_OfTime):
    """Let the learning rate fall along half a period of a cosine.

    Parameters
    ----------
    epochs : int
        Number of epochs until the end of the fall; later the rate stays as it is.
    final : float of at least 0, default 0.0
        Share of the initial rate that is left in the end.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Notes
    -----
    Source: I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, its
    equation 5 without restarts.

    Examples
    --------
    >>> from clstm.nn import CosineDecay
    >>> schedule = CosineDecay(10, final=0.2)
    >>> [round(schedule.factor(epoch, update=0), 6) for epoch in (0, 5, 10, 11)]
    [1.0, 0.6, 0.2, 0.2]
    """

    def __init__(self, epochs: int, final: float = 0.0) -> None:
        self._epochs = _check.integer("epochs", epochs, 1)
        self._final = _check.non_negative("final", final)
        super().__init__({"epochs": self._epochs, "final": self._final})

    def factor(self, epoch: float, update: int) -> float:  # noqa: ARG002
        """Return what the initial learning rate is multiplied with before an update."""
        share = min(epoch / self._epochs, 1.0)
        return self._final + (1.0 - self._final) * 0.5 * (1.0 + math.cos(math.pi * share))


class WarmUp(Part):
    """Let the learning rate rise in equal steps over the first updates, beside another schedule.

    Parameters
    ----------
    updates : int
        Number of updates until the whole rate is reached: the first has ``1 / updates`` of it.
    then : schedule, optional
        Its factor, which counts from the first update on as well, multiplies that of the rise.  A built-in
        one may also be given as a dictionary of "class" and "arguments", as it stands in `arguments`.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Examples
    --------
    >>> from clstm.nn import CosineDecay, WarmUp
    >>> schedule = WarmUp(4, then=CosineDecay(10))
    >>> [schedule.factor(epoch=0, update=update) for update in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    >>> schedule.factor(epoch=5, update=500)
    0.5
    """

    def __init__(self, updates: int, then: Schedule | Mapping[str, Any] | None = None) -> None:
        self._updates = _check.integer("updates", updates, 1)
        self._then = _made(then) if isinstance(then, Mapping) else then
        if self._then is not None and not hasattr(self._then, "factor"):
            raise TypeError(f"then: expected a schedule, got {_check.describe(then)}")
        data = None
        if self._then is not None:
            arguments = getattr(self._then, "arguments", None)  # a user's own need not have them
            data = {"class": type(self._then).__name__, "arguments": arguments}
        super().__init__({"updates": self._updates, "then": data})

    def factor(self, epoch: float, update: int) -> float:
        """Return what the initial learning rate is multiplied with before an update."""
        rise = min((update + 1) / self._updates, 1.0)
        return rise if self._then is None else rise * self._then.factor(epoch, update)

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of an epoch that has ended."""
        if self._then is not None:
            self._then.end_epoch(metrics)

    def check_monitor(self, metrics: Collection[str]) -> None:
        """Compare the metric of the other schedule, if it has one, with those that there are."""
        if self._then is not None and hasattr(self._then, "check_monitor"):
            self._then.check_monitor(metrics)

    def reset(self) -> None:
        """Begin anew, as for another training."""
        if self._then is not None and hasattr(self._then, "reset"):
            self._then.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the class and the state of the other schedule."""
        return super().state_dict() | {"then": None if self._then is None else self._then.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state; see `Part.load_state_dict`."""
        _check.entries("state_dict", state_dict, ("class", "then"), True)
        super().load_state_dict({"class": state_dict["class"]})
        if self._then is not None:
            self._then.load_state_dict(state_dict["then"])
        elif state_dict["then"] is not None:
            raise ValueError(f"state_dict['then']: expected None, got {_check.describe(state_dict['then'])}")


class ReduceOnPlateau(Monitor):
    """Multiply the learning rate with a factor when a metric has not improved for some epochs.

    Parameters
    ----------
    monitor : str, default "val_loss"
        Name of the metric.
    factor : float in (0, 1), default 0.1
    patience : int, default 10
        Number of epochs without improvement, since the best one or the last reduction; 0 acts as 1.
    min_delta : float, default 1e-4
        A change counts as an improvement only if it is larger.
    min_factor : float in [0, 1), default 0.0
        Share of the initial rate below which it does not fall.
    mode : {"min", "max"}, default "min"
        Whether small or large values are good.

    Attributes
    ----------
    best : float or None
        Best value so far.
    wait : int
        Epochs since then, or since the last reduction.
    share : float
        Share of the initial rate that is left.
    arguments : dict
        Arguments of the constructor.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Notes
    -----
    The rule is that of Keras's `ReduceLROnPlateau` without a cooldown; PyTorch's acts one epoch later.

    Examples
    --------
    >>> from clstm.nn import ReduceOnPlateau
    >>> schedule = ReduceOnPlateau(patience=2)
    >>> for value in [0.5, 0.6, 0.7, 0.4]:
    ...     schedule.end_epoch({"val_loss": value})
    ...     print(schedule.factor(epoch=0, update=0))
    1.0
    1.0
    0.1
    0.1
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        min_factor: float = 0.0,
        mode: str = "min",
    ) -> None:
        further = {
            "factor": _check.proper_fraction("factor", factor),
            "min_factor": _check.fraction("min_factor", min_factor),
        }
        super().__init__(monitor, min_delta, patience, mode, further)

    def reset(self) -> None:
        """Begin anew, as for another training."""
        super().reset()
        self.share = 1.0

    def state_checks(self) -> dict[str, Check]:
        """Return the names of the attributes that training changes, each with the check of a new value."""
        return super().state_checks() | {"share": _check.non_negative}

    def factor(self, epoch: float, update: int) -> float:  # noqa: ARG002
        """Return what the initial learning rate is multiplied with before an update."""
        return self.share

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of an epoch that has ended.

        Raises
        ------
        ValueError
            The metric that is monitored is not among them.
        """
        self.look(metrics)
        if self.has_waited:
            self.share = max(self.share * self._arguments["factor"], self._arguments["min_factor"])
            self.wait = 0


# By the names that checkpoints have for them.
SCHEDULES: dict[str, type[Any]] = {
    "StepDecay": StepDecay,
    "CosineDecay": CosineDecay,
    "WarmUp": WarmUp,
    "ReduceOnPlateau": ReduceOnPlateau,
}


def _made(data: Mapping[str, Any]) -> Schedule:
    """Make a schedule of its class and arguments."""
    _check.entries("then", data, ("class", "arguments"), True)
    name = _check.choice("then['class']", data["class"], tuple(SCHEDULES))
    _check.entries("then['arguments']", data["arguments"], (), False)
    made: Schedule = SCHEDULES[name](**data["arguments"])
    return made
