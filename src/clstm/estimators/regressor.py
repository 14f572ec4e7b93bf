"""class LSTMRegressor: from sequences to numbers."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from .. import _check, nn
from . import sequences
from ._base import Run, Scaling
from ._panel import PanelEstimator, Weights

Array = NDArray[Any]

LOSSES = ("mse", "l1", "huber", "quantile")


class LSTMRegressor(RegressorMixin, PanelEstimator):  # type: ignore[misc]
    """Predict one number, or several, from each sequence: an LSTM with a linear read-out.

    Parameters
    ----------
    hidden_size : int, default 32
        Units of each layer and direction.
    num_layers : int, default 1
        Stacked recurrent layers.
    bidirectional : bool, default False
        Read each sequence in both directions.
    cell : {"lstm", "rnn"}, default "lstm"
        Kind of the recurrent layers.
    readout : {"last", "mean"}, default "last"
        What of the top layer is read: its last hidden states, or the mean over all steps.
    dropout : float, default 0.0
        Share of the features that training sets to 0, between recurrent layers and before the read-out.
    loss : {"mse", "l1", "huber", "quantile"} or callable, default "mse"
        What is minimised, on scaled targets; or a function as `nn.SequenceModel.fit` takes it.
    quantile : float, optional
        Which one is predicted with ``loss="quantile"``, which needs it.
    optimiser : {"adam", "adamw", "rmsprop", "sgd"} or callable, default "adam"
        One of `nn`, by name; or a function from the layers and ``lr`` to an optimiser, such as
        ``functools.partial(nn.SGD, momentum=0.9)``.
    learning_rate : float, default 3e-3
    weight_decay : float, optional
        For "adamw" and "sgd" alone; without it they have their own default.
    max_epochs : int, default 100
        How often `fit` goes through all sequences.
    batch_size : int, default 32
        Sequences a step.
    max_norm : float or None, default 1.0
        Clip the norm of the gradients.
    early_stopping : bool, default False
        Hold out a share of the sequences, stop when their loss no longer falls, and keep the best weights.
        Without it, the three arguments that follow have no effect.
    validation_fraction : float, default 0.1
        Share that is held out, at random.
    n_iter_no_change : int, default 10
        Epochs without progress after which to stop.
    tol : float, default 1e-4
        What counts as progress.
    scale : bool, default True
        Standardise features and targets by their means and standard deviations over all steps of the
        sequences that are trained on.  Predictions are on the scale of `y`.
    dtype : {"float32", "float64"}, default "float32"
        What the model computes in; scaling is done in float64.
    random_state : int, RandomState, Generator or None, default None
        Source of weights, order, dropout and what is held out.  The same int gives the same bits, for every
        `n_jobs`.
    n_jobs : int or None, default None
        Threads, counted as joblib does: None is 1 unless a `joblib.parallel_config` says otherwise, -1 is
        every processor.
    verbose : int or bool, default 0
        Show the progress of training.

    Attributes
    ----------
    model_ : nn.SequenceModel
        What was trained; it takes scaled sequences.
    history_ : dict of list
        What `nn.SequenceModel.fit` recorded of each epoch.
    loss_curve_ : list of float
        Training loss of each epoch, on scaled targets.
    n_iter_ : int
        Epochs gone through.
    held_out_ : ndarray of int
        Which sequences, of those with a weight, the last fit with `early_stopping` has held out.
    n_outputs_ : int
    n_features_in_ : int
        Features of a step; columns, where X was a matrix.
    feature_names_in_ : ndarray of str
        Names of the columns, where X had some.

    See Also
    --------
    LSTMClassifier : the same for labels.

    Notes
    -----
    With `scale`, a column that is constant is an error.  `partial_fit` scales by what its first batch holds.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm.estimators import LSTMRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((steps, 2)) for steps in rng.integers(3, 8, 200)]
    >>> y = [sequence[:, 0].mean() + sequence[-1, 1] for sequence in X]
    >>> regressor = LSTMRegressor(hidden_size=8, learning_rate=0.02, max_epochs=30, random_state=0)
    >>> regressor.fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.8
    True
    """

    file_class = "LSTMRegressor"
    _fitted_names = (*PanelEstimator._fitted_names, "n_outputs", "single")  # noqa: SLF001
    _array_names = (*PanelEstimator._array_names, "y.mean", "y.scale")  # noqa: SLF001

    def __init__(
        self,
        hidden_size: int = 32,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        cell: str = "lstm",
        readout: str = "last",
        dropout: float = 0.0,
        loss: Any = "mse",
        quantile: Any = None,
        optimiser: Any = "adam",
        learning_rate: float = 3e-3,
        weight_decay: float | None = None,
        max_epochs: int = 100,
        batch_size: int = 32,
        max_norm: float | None = 1.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        scale: bool = True,
        dtype: Any = "float32",
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.cell = cell
        self.readout = readout
        self.dropout = dropout
        self.loss = loss
        self.quantile = quantile
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.max_norm = max_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.scale = scale
        self.dtype = dtype
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        checkpoint: Any = None,
        resume: bool = False,
        comm: Any = None,
    ) -> Self:
        """Train a new model.

        Parameters
        ----------
        X : array_like, list or pandas.DataFrame
            n sequences: an array (n, T, d), or (n, T) for one feature; a list of arrays (T_i, d) or (T_i,),
            or of frames, of any lengths; a frame with the index (sequence, step), whose sequences are in the
            order of their first rows.
        y : array_like of shape (n,) or (n, outputs)
            Beside a frame with the index (sequence, step), the index of a series or frame has to be that of
            the sequences.
        sample_weight : array_like of shape (n,), optional
            Weights of the sequences, in scaling as in the loss.  One of weight 0 counts as missing.
        checkpoint : str or path-like, optional
            Folder for all that a resumed training needs, written after each epoch.
        resume : bool, default False
            Go on from `checkpoint`, if it holds one of a training with the same arguments on the same data;
            the bits are those of a training that was not interrupted.  A state of the optimiser for
            `partial_fit` is not kept.
        comm : MPI communicator, optional
            Ranks that share the batches.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            An argument or the data are not what they should be; nothing has been trained, and the estimator
            is as it was.
        FloatingPointError
            Training came to numbers that are not finite; the estimator is as it was.
        """
        return self._fit(X, y, sample_weight, Run(checkpoint, resume, comm))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go through some sequences once, on top of what was learnt before.

        The first call makes the model and takes the scaling from its data; the later ones keep both, and the
        state of the optimiser.  Parameters, returns and errors are those of `fit`; `early_stopping` has to be
        False.  After a FloatingPointError the weights are those of the update before.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predict the targets of sequences.

        Parameters
        ----------
        X : array_like, list or pandas.DataFrame
            As for `fit`; sequences may be longer or shorter, but where `fit` saw a matrix (n, T), another
            matrix has as many columns.

        Returns
        -------
        ndarray of shape (n,) or (n, outputs), float64
            As `y` was.

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ValueError, TypeError
            The data are not what they should be.
        """
        outputs = self._predict(X)
        predictions = self._y_scaling.undo(outputs)
        return predictions[:, 0] if self._single else predictions

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if not callable(self.loss):
            _check.choice("loss", self.loss, LOSSES)
        if self.loss == "quantile":
            _check.proper_fraction("quantile", self.quantile)
        elif self.quantile is not None:
            raise ValueError(
                f"quantile: expected None without loss='quantile', got {_check.describe(self.quantile)}"
            )

    def _read_targets(self, y: Any) -> Array:
        return sequences.targets(y)

    def _learn_targets(self, targets: Array, weight: Weights) -> int:
        self._single = targets.ndim == 1
        rows = targets.reshape(len(targets), -1)
        self.n_outputs_ = rows.shape[1]
        self._y_scaling = Scaling.of("y", rows, weight) if self.scale else Scaling.identity(self.n_outputs_)
        return self.n_outputs_

    def _for_loss(self, targets: Array) -> Array:
        rows = targets.reshape(len(targets), -1)
        if rows.shape[1] != self.n_outputs_:
            raise ValueError(f"y: expected {self.n_outputs_} outputs, as in fit, got {rows.shape[1]}")
        return _check.array("y", self._y_scaling.apply(rows), self.model_.dtype)

    def _loss(self) -> Any:
        return partial(nn.quantile_loss, quantiles=(self.quantile,)) if self.loss == "quantile" else self.loss

    def _fitted(self) -> tuple[dict[str, Any], dict[str, Array]]:
        fitted, tensors = super()._fitted()
        own = {"n_outputs": self.n_outputs_, "single": self._single}
        return fitted | own, tensors | self._y_scaling.tensors("y")

    def _restore(self, fitted: dict[str, Any], tensors: dict[str, Array]) -> None:
        super()._restore(fitted, tensors)
        self.n_outputs_ = _check.integer("n_outputs", fitted["n_outputs"], 1)
        self._single = _check.boolean("single", fitted["single"])
        self._y_scaling = Scaling.from_tensors("y", tensors, self.n_outputs_)
        self._compare_sizes(self.n_outputs_)
