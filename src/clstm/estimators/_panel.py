"""What LSTMRegressor and LSTMClassifier share: from a panel of sequences to a trained model, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _check
from . import sequences
from ._base import ALONE, Run, Scaling, SequenceEstimator, generator
from .sequences import Panel

Array = NDArray[Any]
Weights = NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Data:
    """Sequences with their targets and weights."""

    panel: Panel
    targets: Array
    weight: Weights

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return type(self)(self.panel.take(rows), self.targets[rows], weight)


class PanelEstimator(SequenceEstimator):
    """Base of the estimators that have one target for each sequence."""

    _fitted_names: ClassVar[tuple[str, ...]] = ("n_features_in", "feature_names_in", "wide")
    _array_names: ClassVar[tuple[str, ...]] = ("x.mean", "x.scale")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # ---------------------------------------------------------------------------------- what a subclass knows

    def _read_targets(self, y: Any) -> Array:
        """Return checked targets (n, ...)."""
        raise NotImplementedError

    def _learn_targets(self, targets: Array, weight: Weights) -> int:
        """Learn what is to be known of the targets of training, and return how many outputs the model has."""
        raise NotImplementedError

    def _for_loss(self, targets: Array) -> Array:
        """Return targets as the loss has them; raise if they are not of the kind that was learnt."""
        raise NotImplementedError

    def _loss(self) -> Any:
        """Return the loss as `nn.SequenceModel.fit` takes it."""
        raise NotImplementedError

    def _strata(self, targets: Array) -> Array:
        """Return a number for each row; each number has its share in validation and a row in training."""
        return np.zeros(len(targets), int)

    def _weigh(self, targets: Array, weight: Weights) -> Weights:  # noqa: ARG002
        """Return the weights of the rows, after those that the estimator gives itself."""
        return weight

    # ----------------------------------------------------------------------------------------------- training

    def _check_arguments(self) -> None:
        super()._check_arguments()
        _check.choice("readout", self.readout, ("last", "mean"))

    def _fit(self, X: Any, y: Any, sample_weight: Any, run: Run) -> Self:
        with self._all_or_nothing():
            data = self._read(X, y, sample_weight, reset=True)
            rng = generator(self.random_state)
            held_out = None
            if self.early_stopping:
                data, held_out = self._split(data, rng)
            self._set_up(data, rng)
            self._learn(data, self.max_epochs, held_out, run)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        with self._all_or_nothing():
            if self.early_stopping is True:
                raise ValueError("early_stopping: expected False for partial_fit, got True")
            first = not hasattr(self, "model_")
            data = self._read(X, y, sample_weight, reset=first)
            if first:
                self._set_up(data, generator(self.random_state))
            self._learn(data, 1)
        return self

    def _read(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Data:
        """Check everything before any work; rows without weight are left out."""
        self._check_arguments()
        panel = self._read_panel(X, reset=reset)
        if y is None:
            raise ValueError(
                f"y: expected a target for each sequence; {type(self).__name__} requires y to be passed, "
                "but the target y is None"
            )
        sequences.refuse_masked("y", y)
        sequences.same_order(y, panel)
        targets = self._read_targets(y)
        if len(targets) != len(panel):
            raise ValueError(f"y: expected {len(panel)} targets, one for each sequence, got {len(targets)}")
        weight = sequences.weights(sample_weight, len(panel))
        data = Data(panel, targets, weight)
        if weight is not None and not weight.all():
            data = data.take(np.flatnonzero(weight))
        return replace(data, weight=self._weigh(data.targets, data.weight))

    def _split(self, data: Data, rng: np.random.Generator) -> tuple[Data, Data]:
        """Hold rows out, at random, from each stratum its share; the first of a stratum stays."""
        n = len(data.targets)
        order = rng.permutation(n)
        strata = self._strata(data.targets)[order]
        order = order[np.argsort(strata, kind="stable")]
        _, first = np.unique(np.sort(strata), return_index=True)
        free = np.delete(order, first)
        number = round(self.validation_fraction * n)
        if not 0 < number <= len(free):
            raise ValueError(
                f"validation_fraction: expected at least one of {n} sequences to be held out and "
                f"{len(first)} to be left, got {self.validation_fraction}, which holds out {number}"
            )
        self.held_out_ = np.sort(free[(2 * np.arange(number) + 1) * len(free) // (2 * number)])
        return data.take(np.setdiff1d(order, self.held_out_)), data.take(self.held_out_)

    def _set_up(self, data: Data, rng: np.random.Generator) -> None:
        """Learn scaling and outputs from the rows of training, and make the model."""
        panel = data.panel
        if self.scale:
            weight = None if data.weight is None else np.repeat(data.weight, panel.lengths)
            self._x_scaling = Scaling.of("X", panel.steps, weight, panel.name_column)
        else:
            self._x_scaling = Scaling.identity(panel.steps.shape[1])
        outputs = self._learn_targets(data.targets, data.weight)
        self._begin(panel.steps.shape[1], outputs, self.readout, rng)

    def _learn(
        self,
        data: Data,
        epochs: int,
        held_out: Data | None = None,
        run: Run = ALONE,
    ) -> None:
        """Train the model on scaled data."""
        inputs, targets = self._inputs(data.panel), self._for_loss(data.targets)
        validation_data = None
        if held_out is not None:
            validation_data = self._inputs(held_out.panel), self._for_loss(held_out.targets), held_out.weight
        self._train(
            inputs,
            targets,
            self._loss(),
            epochs=epochs,
            sample_weight=data.weight,
            validation_data=validation_data,
            run=run,
        )

    # --------------------------------------------------------------------------------------------- sequences

    def _predict(self, X: Any) -> Array:
        """Return the outputs of the model for each sequence."""
        check_is_fitted(self)
        return self._outputs(self._inputs(self._read_panel(X, reset=False)))

    def _inputs(self, panel: Panel) -> Array | list[Array]:
        """Scale the steps of a panel and cut it into what the model takes."""
        scaled = self._x_scaling.apply(panel.steps)
        return panel.sequences(_check.array("X", scaled, self.model_.dtype))

    def _read_panel(self, X: Any, *, reset: bool) -> Panel:
        """Read whatever users have, and compare its features with those of `fit`, or note them."""
        X = _check.on_cpu(X)
        sequences.refuse_masked("X", X)
        if sequences.is_long(X):
            self._note_features(X, reset=reset)
            return sequences.of_long(X)
        if not sequences.is_list(X) and _ndim(X) != 3:
            return self._read_wide(X, reset=reset)
        panel = sequences.of_list(X) if sequences.is_list(X) else sequences.of_array(X)
        framed = isinstance(X, list | tuple) and sequences.is_frame(X[0])
        self._note_features(X[0] if framed else panel.steps[:1], reset=reset)
        return panel

    def _note_features(self, steps: Any, *, reset: bool) -> None:
        """Compare number and names of the features of some steps with those of `fit`, or keep them."""
        if reset:
            self._wide = False
        elif self._wide:
            if steps.shape[1] != 1:
                raise ValueError(
                    f"X: expected one feature a step, as in the (n, T) that fit saw, got {steps.shape[1]}"
                )
            return
        validate_data(self, steps, reset=reset, skip_check_array=True)

    def _read_wide(self, X: Any, *, reset: bool) -> Panel:
        """Read what scikit-learn knows as X: a matrix, whose columns are the steps of one feature."""
        columns = getattr(X, "columns", None)
        options: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": False}
        if reset or self._wide:
            X = validate_data(self, X, reset=reset, **options)
            self._wide = True
        else:
            X = check_array(X, input_name="X", estimator=self, **options)
            if self.n_features_in_ != 1:
                raise ValueError(f"X: expected shape (n, T, {self.n_features_in_}), got {X.shape}")
        return sequences.of_wide(X, columns)

    # -------------------------------------------------------------------------------------------------- files

    def _fitted(self) -> tuple[dict[str, Any], dict[str, Array]]:
        names = getattr(self, "feature_names_in_", None)
        features = {
            "n_features_in": self.n_features_in_,
            "feature_names_in": None if names is None else names.tolist(),
            "wide": self._wide,
        }
        return features, self._x_scaling.tensors("x")

    def _restore(self, fitted: dict[str, Any], tensors: dict[str, Array]) -> None:
        self.n_features_in_ = _check.integer("n_features_in", fitted["n_features_in"], 1)
        self._wide = _check.boolean("wide", fitted["wide"])
        names = fitted["feature_names_in"]
        if names is not None:
            _check.instance("feature_names_in", names, list)
            for name in names:
                _check.instance("feature_names_in", name, str)
            if len(names) != self.n_features_in_:
                raise ValueError(f"feature_names_in: expected {self.n_features_in_} names, got {len(names)}")
            self.feature_names_in_ = np.array(names, dtype=object)
        self._x_scaling = Scaling.from_tensors("x", tensors, 1 if self._wide else self.n_features_in_)

    def _compare_sizes(self, outputs: int) -> None:
        """Compare the model of a file with what else the file says."""
        expected = self._x_scaling.mean.size, outputs
        found = self.model_.input_size, self.model_.output_size
        if found != expected or self.model_.readout != self.readout:
            raise ValueError(
                f"model: expected sizes {expected} and the read-out {self.readout!r}, got {found} and "
                f"{self.model_.readout!r}"
            )


def _ndim(X: Any) -> int:
    """Count the axes of an array or of nested lists; whatever else there is belongs to scikit-learn."""
    if not isinstance(X, list | tuple):
        return getattr(X, "ndim", 0)
    try:
        return np.ndim(X)
    except ValueError:  # no rectangle
        return 0
