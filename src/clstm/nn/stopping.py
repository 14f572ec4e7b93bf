"""class EarlyStopping: when a training has learnt all that it will, and which weights were the best."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from .. import _check
from .monitor import Monitor
from .parts import Check


class EarlyStopping(Monitor):
    """Stop when a metric has not improved for some epochs, by the rule of Keras's `EarlyStopping`.

    `fit` asks it after each epoch, keeps the weights of the best one and restores them in the end, whether it
    was stopped or the epochs ran out.

    Parameters
    ----------
    monitor : str, default "val_loss"
        Name of the metric.
    min_delta : float, default 0.0
        A change counts as an improvement only if it is larger.
    patience : int, default 10
        Number of epochs without improvement after which training stops; 0 stops as 1 does.
    start_from_epoch : int, default 0
        Epochs before this one, counted from 0, are not looked at.
    mode : {"min", "max"}, default "min"
        Whether small or large values are good.

    Attributes
    ----------
    best : float or None
        Best value so far.
    best_epoch : int or None
        Its epoch, counted from 0.
    wait : int
        Epochs since then.
    arguments : dict
        Arguments of the constructor.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Examples
    --------
    >>> from clstm.nn import EarlyStopping
    >>> stopping = EarlyStopping(patience=2)
    >>> for epoch, value in enumerate([0.5, 0.3, 0.4, 0.35]):
    ...     print(stopping.improved(epoch, {"val_loss": value}), stopping.should_stop())
    True False
    True False
    False False
    False True
    >>> stopping.best, stopping.best_epoch
    (0.3, 1)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 10,
        start_from_epoch: int = 0,
        mode: str = "min",
    ) -> None:
        start = _check.integer("start_from_epoch", start_from_epoch, 0)
        super().__init__(monitor, min_delta, patience, mode, {"start_from_epoch": start})

    def reset(self) -> None:
        """Begin anew, as for another training."""
        super().reset()
        self.best_epoch: int | None = None

    def state_checks(self) -> dict[str, Check]:
        """Return the names of the attributes that training changes, each with the check of a new value."""
        return super().state_checks() | {"best_epoch": _check.optional(partial(_check.integer, low=0))}

    def improved(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Take in the metrics of an epoch; return whether it is the best so far.

        Parameters
        ----------
        epoch : int
            Counted from 0.
        metrics : mapping of str to float
            What is not finite is never an improvement.

        Raises
        ------
        ValueError
            The metric that is monitored is not among them.
        """
        if epoch < self._arguments["start_from_epoch"]:
            return False
        better = self.look(metrics)
        if better:
            self.best_epoch = epoch
        return better

    def should_stop(self) -> bool:
        """Tell whether the last `patience` epochs have brought no improvement."""
        return self.has_waited
