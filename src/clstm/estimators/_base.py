"""What the estimators share: arguments, scaling, the model and its training, threads, files.

An estimator turns its data into scaled sequences and targets, and trains a `nn.SequenceModel` on them.  All
that is random comes from one Generator, made of `random_state`; the number of threads changes no bit.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Self

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .. import _check, _threads, nn
from ..lstm import LSTM
from ..nn.checkpoints import holds_checkpoints
from ..parameters import Saved, under
from ..rnn import RNN

Array = NDArray[Any]

CELLS: dict[str, type[Any]] = {"lstm": LSTM, "rnn": RNN}
OPTIMISERS: dict[str, type[Any]] = {name.lower(): kind for name, kind in nn.OPTIMISERS.items()}
DECAYING = tuple(
    name for name, kind in OPTIMISERS.items() if "weight_decay" in inspect.signature(kind).parameters
)


def generator(random_state: Any) -> np.random.Generator:
    """Make the Generator of a fit from scikit-learn's `random_state`, or take a Generator as it is."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if random_state is None or isinstance(random_state, np.random.RandomState):
        state = check_random_state(random_state)
        return np.random.default_rng(state.randint(2**32, size=4, dtype=np.uint32))
    return np.random.default_rng(_check.integer("random_state", random_state, 0))


def limit_threads(n_jobs: int | None) -> AbstractContextManager[None]:
    """Let kernel calls use as many threads as joblib has jobs for `n_jobs`, within a block."""
    if n_jobs is not None and _check.integer("n_jobs", n_jobs, -_threads.MOST) == 0:
        raise ValueError("n_jobs: expected None or an integer other than 0, got 0")
    return _threads.exactly(min(joblib.effective_n_jobs(n_jobs), _threads.MOST))


@dataclass(frozen=True, eq=False)
class Scaling:
    """An affine map of columns: ``(values - mean) / scale``, and back.

    Attributes
    ----------
    mean, scale : ndarrays of shape (columns,), float64
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def identity(cls, columns: int) -> Self:
        """Return the map that changes nothing."""
        return cls(np.zeros(columns), np.ones(columns))

    @classmethod
    def of(
        cls,
        name: str,
        values: Array,
        weight: NDArray[np.float64] | None = None,
        columns: Callable[[int], str] = "column {}".format,
    ) -> Self:
        """Take mean and standard deviation of the columns of `values` (rows, columns), weighted or not.

        A constant column has no scale: it is refused under its name, `columns(number)`.
        """
        if len(values) == 1:
            raise ValueError(f"{name}: expected at least 2 rows, got one sample; set scale=False")
        for constant in np.flatnonzero(values.min(axis=0) == values.max(axis=0)):
            raise ValueError(
                f"{name}: expected values that differ, got {values[0, constant]} throughout in "
                f"{columns(int(constant))}; leave it out, or set scale=False"
            )
        values = values.astype(np.float64, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.average(values, axis=0, weights=weight)
            scale = np.sqrt(np.average(np.square(values - mean), axis=0, weights=weight))
        for wrong in np.flatnonzero(~(np.isfinite(scale) & (scale > 0))):
            raise ValueError(
                f"{name}: expected values whose standard deviation is a float64 above 0, got {scale[wrong]} "
                f"in {columns(int(wrong))}; set scale=False"
            )
        return cls(mean, scale)

    def apply(self, values: Array) -> NDArray[np.float64]:
        """Scale the last axis."""
        scaled: NDArray[np.float64] = (values - self.mean) / self.scale
        return scaled

    def undo(self, values: Array) -> NDArray[np.float64]:
        """Return scaled values to the scale of the data."""
        original: NDArray[np.float64] = values * self.scale + self.mean
        return original

    def tensors(self, name: str) -> dict[str, Array]:
        """Return the arrays under the names that files have for them."""
        return {f"{name}.mean": self.mean, f"{name}.scale": self.scale}

    @classmethod
    def from_tensors(cls, name: str, tensors: Mapping[str, Array], columns: int) -> Self:
        """Take the arrays of a file."""
        float64 = np.dtype(np.float64)
        mean, scale = (
            _check.shaped(f"{name}.{part}", tensors[f"{name}.{part}"], float64, (columns,))
            for part in ("mean", "scale")
        )
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"{name}: expected finite means and scales above 0")
        return cls(mean, scale)


@dataclass(frozen=True)
class Run:
    """How a training is run, whatever it learns.

    Attributes
    ----------
    checkpoint : str or path-like, optional
        Folder of its checkpoints.
    resume : bool
        Go on from them, if there are some.
    comm : MPI communicator, optional
    """

    checkpoint: Any = None
    resume: bool = False
    comm: Any = None

    def __post_init__(self) -> None:
        if _check.boolean("resume", self.resume) and self.checkpoint is None:
            raise ValueError("resume: expected a checkpoint with it, got None")

    def part(self, name: str) -> Run:
        """Return the run of a further training, whose checkpoints have a folder in the folder."""
        return (
            self if self.checkpoint is None else replace(self, checkpoint=os.path.join(self.checkpoint, name))
        )


ALONE = Run()


class SequenceEstimator(Saved, BaseEstimator):  # type: ignore[misc]
    """Base of the estimators, whose constructors have the arguments that are read here.

    A subclass says what a file holds of a fit beside the model: `_fitted` returns it, `_restore` takes it,
    and the two tuples have its names.
    """

    _fitted_names: ClassVar[tuple[str, ...]]  # of JSON values
    _array_names: ClassVar[tuple[str, ...]]

    # ----------------------------------------------------------------------------------------- the arguments

    def _check_arguments(self) -> None:
        """Check the arguments that neither the layers nor `nn.SequenceModel.fit` know by these names."""
        _check.choice("cell", self.cell, tuple(CELLS))
        _check.fraction("dropout", self.dropout)
        if not callable(self.optimiser):
            _check.choice("optimiser", self.optimiser, tuple(OPTIMISERS))
        _check.positive("learning_rate", self.learning_rate)
        if self.weight_decay is not None and self.optimiser not in DECAYING:
            raise ValueError(
                f"weight_decay: expected None, for only {' and '.join(DECAYING)} take it, "
                f"got {_check.describe(self.weight_decay)}"
            )
        _check.integer("max_epochs", self.max_epochs, 1)
        _check.boolean("early_stopping", self.early_stopping)
        _check.proper_fraction("validation_fraction", self.validation_fraction)
        _check.integer("n_iter_no_change", self.n_iter_no_change, 1)
        _check.non_negative("tol", self.tol)
        _check.boolean("scale", self.scale)
        if not isinstance(self.verbose, bool):
            _check.integer("verbose", self.verbose, 0)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave the attributes as they were if the block raises."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    # ----------------------------------------------------------------------------- the model and its training

    def _begin(self, inputs: int, outputs: int, readout: str, rng: np.random.Generator) -> None:
        """Make a new model with its optimiser; training goes on with `rng`."""
        recurrent = CELLS[self.cell](
            inputs,
            self.hidden_size,
            self.num_layers,
            batch_first=True,
            dropout=self.dropout if self.num_layers > 1 else 0.0,
            bidirectional=self.bidirectional,
            dtype=self.dtype,
            rng=rng,
        )
        features = recurrent.output_size * recurrent.num_directions
        layers = [recurrent, nn.Dense(features, outputs, dtype=self.dtype, rng=rng)]
        if self.dropout:
            layers.insert(1, nn.Dropout(self.dropout, rng=rng))
        self.model_ = nn.SequenceModel(layers, readout=readout)
        self._renew_optimiser(rng)
        self.history_ = nn.History()

    def _renew_optimiser(self, rng: np.random.Generator) -> None:
        """Begin with an optimiser without a past."""
        make = self.optimiser if callable(self.optimiser) else OPTIMISERS[self.optimiser]
        decay = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        self._optimiser, self._rng = make(self.model_.layers, lr=self.learning_rate, **decay), rng

    def _train(
        self,
        x: Array | list[Array],
        y: Array | list[Array],
        loss: Any,
        *,
        epochs: int,
        sample_weight: Array | None = None,
        validation_data: tuple[Any, ...] | None = None,
        schedule: Any = None,
        run: Run = ALONE,
    ) -> None:
        """Train the model; with `validation_data` it may stop early."""
        stopping = None
        if validation_data is not None and self.early_stopping:
            stopping = nn.EarlyStopping(min_delta=self.tol, patience=self.n_iter_no_change)
        options = {
            "sample_weight": sample_weight, "validation_data": validation_data, "comm": run.comm,
            "progress": bool(self.verbose),
        }  # fmt: skip
        with limit_threads(self.n_jobs):
            if run.resume and holds_checkpoints(run.checkpoint):
                self.model_, history = nn.resume(
                    run.checkpoint,
                    x,
                    y,
                    epochs=epochs,
                    loss=loss if callable(loss) else None,
                    optimiser=self.optimiser if callable(self.optimiser) else None,
                    **options,
                )
            else:
                history = self.model_.fit(
                    x,
                    y,
                    epochs=epochs,
                    batch_size=self.batch_size,
                    loss=loss,
                    optimiser=self._optimiser,
                    schedule=schedule,
                    max_norm=self.max_norm,
                    early_stopping=stopping,
                    checkpoint=run.checkpoint,
                    rng=self._rng,
                    **options,
                )
        for name, values in history.items():
            self.history_.setdefault(name, []).extend(values)

    @property
    def loss_curve_(self) -> list[float]:
        """Training loss of each epoch, on scaled data."""
        check_is_fitted(self)
        return self.history_["loss"]

    @property
    def n_iter_(self) -> int:
        """Epochs gone through, over all calls since `fit`."""
        return len(self.loss_curve_)

    def _outputs(self, x: Array | list[Array]) -> Array:
        """Run the model on scaled sequences."""
        with limit_threads(self.n_jobs):
            return self.model_.predict(x)

    # -------------------------------------------------------------------------------------------------- files

    def _fitted(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return what a fit has found beside the model: JSON values, and arrays of float64 by name."""
        raise NotImplementedError

    def _restore(self, fitted: dict[str, Any], tensors: dict[str, Array]) -> None:
        """Take what `_fitted` returned and a file held; raise on anything else."""
        raise NotImplementedError

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return arguments, model and what else a fit has found; no state of the optimiser."""
        check_is_fitted(self)
        fitted, tensors = self._fitted()
        arguments, weights = self.model_.file_content()
        tensors |= {f"model.{name}": value for name, value in weights.items()}
        tensors |= {f"history.{name}": np.array(values, float) for name, values in self.history_.items()}
        own = {name: _plain(name, value) for name, value in self.get_params(deep=False).items()}
        return {"parameters": own, "model": arguments, "fitted": fitted}, tensors

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,  # noqa: ARG003
    ) -> Self:
        """Make a fitted estimator of what a file holds."""
        _check.entries("arguments", arguments, ("parameters", "model", "fitted"), True)
        parameters, fitted = arguments["parameters"], arguments["fitted"]
        _check.instance("parameters", parameters, dict)
        _check.instance("fitted", fitted, dict)
        estimator = cls()
        _check.entries("parameters", parameters, estimator.get_params(deep=False), True)
        estimator.set_params(**{name: _from_plain(value) for name, value in parameters.items()})
        estimator._check_arguments()
        whole = cache(read)
        estimator.model_ = nn.SequenceModel.from_file(
            arguments["model"], under("model.", shapes), lambda: under("model.", whole())
        )
        tensors = whole()
        estimator.history_ = _history(under("history.", tensors))
        estimator._renew_optimiser(generator(estimator.random_state))
        others = {name: v for name, v in tensors.items() if not name.startswith(("model.", "history."))}
        _check.entries("fitted", fitted, cls._fitted_names, True)
        _check.entries("arrays", others, cls._array_names, True)
        estimator._restore(fitted, others)
        return estimator


def _history(arrays: Mapping[str, Array]) -> nn.History:
    """Return the arrays of a file as lists of one number an epoch."""
    for name, values in arrays.items():
        if values.ndim != 1:
            raise ValueError(f"history.{name}: expected shape (epochs,), got {values.shape}")
    if "loss" not in arrays:
        raise ValueError(f"history: expected loss, got {_check.listed(arrays) or 'nothing'}")
    return nn.History({name: values.tolist() for name, values in arrays.items()})


def _plain(name: str, value: Any) -> Any:
    """Return an argument as JSON has it, with dicts as pairs, for their keys may be numbers; no generator."""
    if name == "dtype":
        return np.dtype(value).name
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return None
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict):
        return {"pairs": _plain(name, list(value.items()))}
    if callable(value):
        raise TypeError(
            f"{name}: expected one of the package's names, for a file holds no code, got {value!r}"
        )
    return value


def _from_plain(value: Any) -> Any:
    """Return what `_plain` was given."""
    return dict(value["pairs"]) if isinstance(value, dict) and value.keys() == {"pairs"} else value
