"""class LSTMClassifier: from sequences to labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from .. import _check
from . import sequences
from ._base import Run
from ._panel import PanelEstimator, Weights

Array = NDArray[Any]


# Kinds of labels that a file may hold.
LABELS = (
    "object", "str", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float32", "float64",
)  # fmt: skip


class LSTMClassifier(ClassifierMixin, PanelEstimator):  # type: ignore[misc]
    """Predict a label from each sequence: an LSTM with a softmax over two or more classes.

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
    class_weight : dict, "balanced" or None, default None
        Weights of the classes in the loss, beside those of the sequences; "balanced" gives each class the
        same weight in all, and is not for `partial_fit`.
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
        Hold out a share of the sequences of each class, stop when their loss no longer falls, and keep the
        best weights.  Without it, the three arguments that follow have no effect.
    validation_fraction : float, default 0.1
        Share that is held out, at random.
    n_iter_no_change : int, default 10
        Epochs without progress after which to stop.
    tol : float, default 1e-4
        What counts as progress.
    scale : bool, default True
        Standardise features by their means and standard deviations over all steps of the sequences that are
        trained on.
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
        Training loss of each epoch: the cross-entropy, in nats.
    n_iter_ : int
        Epochs gone through.
    held_out_ : ndarray of int
        Which sequences, of those with a weight, the last fit with `early_stopping` has held out.
    classes_ : ndarray of shape (classes,)
        The labels, sorted.
    n_features_in_ : int
        Features of a step; columns, where X was a matrix.
    feature_names_in_ : ndarray of str
        Names of the columns, where X had some.

    See Also
    --------
    LSTMRegressor : the same for numbers.

    Notes
    -----
    With `scale`, a column that is constant is an error.  `partial_fit` scales by what its first batch holds.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm.estimators import LSTMClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((steps, 2)) for steps in rng.integers(3, 8, 200)]
    >>> y = ["up" if sequence[:, 0].sum() > 0 else "down" for sequence in X]
    >>> classifier = LSTMClassifier(hidden_size=8, learning_rate=0.02, max_epochs=30, random_state=0)
    >>> classifier.fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.8
    True
    >>> classifier.classes_, classifier.predict_proba(X[150:]).shape
    (array(['down', 'up'], dtype='<U4'), (50, 2))
    """

    file_class = "LSTMClassifier"
    _fitted_names = (*PanelEstimator._fitted_names, "classes", "dtype")  # noqa: SLF001

    def __init__(
        self,
        hidden_size: int = 32,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        cell: str = "lstm",
        readout: str = "last",
        dropout: float = 0.0,
        class_weight: Any = None,
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
        self.class_weight = class_weight
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
        y : array_like of shape (n,)
            Labels: strings, integers or booleans, all of one type.  Beside a frame with the index (sequence,
            step), the index of a series has to be that of the sequences.
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
        with self._all_or_nothing():
            self.__dict__.pop("classes_", None)
            return self._fit(X, y, sample_weight, Run(checkpoint, resume, comm))

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go through some sequences once, on top of what was learnt before.

        The first call makes the model and takes the scaling from its data; the later ones keep both, and the
        state of the optimiser.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like of shape (classes,), optional
            All labels that will ever come; the first call needs them.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As for `fit`; `early_stopping` is set, or `class_weight` is "balanced".
        FloatingPointError
            Training came to numbers that are not finite; the weights are those of the update before.
        """
        with self._all_or_nothing():
            if isinstance(self.class_weight, str):
                raise ValueError(
                    "class_weight: expected None or a dict for partial_fit, "
                    f"got {_check.describe(self.class_weight)}"
                )
            known = None if classes is None else np.unique(sequences.labels(classes))
            if not hasattr(self, "model_"):
                if known is None:
                    raise ValueError(
                        "classes: expected all labels with the first call of partial_fit, got None"
                    )
                self.classes_ = known
            elif known is not None and not np.array_equal(known, self.classes_):
                raise ValueError(
                    f"classes: expected those of the first call, {_check.listed(self.classes_.tolist())}, "
                    f"got {_check.listed(known.tolist())}"
                )
            return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> Array:
        """Predict the labels of sequences.

        Parameters
        ----------
        X : array_like, list or pandas.DataFrame
            As for `fit`; sequences may be longer or shorter, but where `fit` saw a matrix (n, T), another
            matrix has as many columns.

        Returns
        -------
        ndarray of shape (n,)
            The label of the highest probability for each.

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ValueError, TypeError
            The data are not what they should be.
        """
        check_is_fitted(self)
        labels: Array = self.classes_[np.argmax(self._predict(X), axis=1)]
        return labels

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict the logarithms of the probabilities; all else is as for `predict_proba`."""
        check_is_fitted(self)
        scores = self._predict(X).astype(np.float64)
        below = scores - scores.max(axis=1, keepdims=True)  # at most 0, so that exp cannot overflow
        logarithms: NDArray[np.float64] = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
        return logarithms

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array_like, list or pandas.DataFrame
            As for `predict`, and with its errors.

        Returns
        -------
        ndarray of shape (n, classes), float64
            In the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def _read_targets(self, y: Any) -> Array:
        return sequences.labels(y)

    def _learn_targets(self, targets: Array, weight: Weights) -> int:  # noqa: ARG002
        if not hasattr(self, "classes_"):
            self.classes_ = np.unique(targets)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: expected at least 2 classes, got one class: {_check.describe(self.classes_.tolist()[0])}"
            )
        return len(self.classes_)

    def _for_loss(self, targets: Array) -> Array:
        unknown = ~np.isin(targets, self.classes_)
        if unknown.any():
            label = targets[np.argmax(unknown)]
            raise ValueError(
                f"y: expected labels out of {_check.listed(self.classes_.tolist())}, got {label!r}"
            )
        return np.searchsorted(self.classes_, targets)

    def _loss(self) -> Any:
        return "cross_entropy"

    def _strata(self, targets: Array) -> Array:
        return np.unique(targets, return_inverse=True)[1]

    def _weigh(self, targets: Array, weight: Weights) -> Weights:
        if self.class_weight is None:
            return weight
        of_classes = compute_sample_weight(self.class_weight, targets)
        return of_classes if weight is None else weight * of_classes

    def _fitted(self) -> tuple[dict[str, Any], dict[str, Array]]:
        fitted, tensors = super()._fitted()
        dtype = self.classes_.dtype
        kind = "str" if dtype.kind == "U" else dtype.name  # NumPy finds the length of the longest by itself
        return fitted | {"classes": self.classes_.tolist(), "dtype": kind}, tensors

    def _restore(self, fitted: dict[str, Any], tensors: dict[str, Array]) -> None:
        super()._restore(fitted, tensors)
        classes = fitted["classes"]
        _check.instance("classes", classes, list)
        self.classes_ = np.array(classes, _check.choice("dtype", fitted["dtype"], LABELS))
        if self.classes_.tolist() != classes or np.unique(self.classes_).tolist() != classes:
            raise ValueError("classes: expected different labels of one type, sorted")
        self._compare_sizes(len(classes))
