"""class SequenceModel: what users do with layers in a row: predict, train, generate, go step by step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check, _layouts
from ..files import as_format_error
from .batches import Rows, Sequences, cut
from .chain import Chain
from .checkpoints import CheckpointFolder
from .examples import Examples
from .generation import Feedback, generate
from .online import Online
from .parallel import together
from .stopping import EarlyStopping
from .stream import ModelStream
from .training import History, Settings, Training, check_parts, check_state, parts_of

Array = NDArray[Any]


class SequenceModel(Chain):
    """Layers one after the other, from a sequence to one vector or to a vector at each step.

    Parameters
    ----------
    layers : list of layers
        `clstm.LSTM`, `clstm.RNN`, `Dense`, `Embedding`, `Dropout`, or objects of your own: anything with
        `flat_params`, `flat_grads`, a call, `forward` and `backward`, see `clstm.nn.Layer`.  At least one
        runs over time.  The recurrent ones also decide how sequences are laid out: (T, B, I), or (B, T, I)
        if they have ``batch_first=True``.
    readout : "last", "each" or "mean", default "last"
        What the layers behind the last one that runs over time get of its output: the final hidden state of
        each direction, all steps, or the mean over the real steps.

    Attributes
    ----------
    layers : tuple
    readout : str
    batch_first : bool
    dtype : dtype
    input_size, output_size : int or None
        Of the first and of the last layer; None where it does not say.  A model that begins with an
        `Embedding` takes integers without an axis of features.

    Raises
    ------
    ValueError, TypeError
        Something is no layer, or two do not fit together.

    Examples
    --------
    Forecast the next 3 values of a series from the last 20:

    >>> import clstm, numpy as np
    >>> from clstm import nn
    >>> series = np.sin(np.arange(200) / 5)
    >>> x, y = nn.windows(series, input_steps=20, horizon=3)
    >>> model = nn.SequenceModel([clstm.LSTM(1, 8, batch_first=True, rng=0), nn.Dense(8, 3, rng=1)])
    >>> history = model.fit(x, y, epochs=20, lr=0.01, rng=2)
    >>> bool(history["loss"][-1] < 0.1 * history["loss"][0])
    True
    >>> model(series[-20:, None]).shape
    (3,)
    """

    file_class = "SequenceModel"

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Predict without keeping anything; no dropout.

        Parameters
        ----------
        x : array_like of shape (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence
            Integers without the axis I for a model that begins with an `Embedding`.
        lengths : array_like of int of shape (B,), optional
            Number of real steps of each sequence.

        Returns
        -------
        ndarray of shape (B, O), or (O,) for one sequence
            With ``readout="each"`` (T, B, O), laid out as x; 0 on padding.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type.
        """
        steps, real, batched = self.steps_of(x, lengths)
        return self._as_given(self.run_steps(steps, real, self.zero_states(len(real)))[0], batched)

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Predict, apply dropout, and keep what `backward` needs.

        Parameters, returns and errors are those of calling the object.
        """
        steps, real, batched = self.steps_of(x, lengths)
        own = np.array(steps, order="C")
        prediction, _ = self.forward_steps(own, real, self.zero_states(len(real)), batched)
        return np.array(self._as_given(prediction, batched), order="C")

    def _as_given(self, prediction: Array, batched: bool) -> Array:
        if self._readout == "each":
            return _layouts.as_given(prediction, self.batch_first, batched)
        return prediction if batched else prediction[0]

    def backward(self, dprediction: ArrayLike, accumulate: bool = False) -> Any:
        """Back-propagate through the last `forward` and fill the gradients of all layers.

        Parameters
        ----------
        dprediction : array_like of the shape of the prediction
            Derivative of the loss by it.  What stands on padding is not read.
        accumulate : bool, default False
            Add to the gradients instead of overwriting them.

        Returns
        -------
        dx : ndarray of the shape of x, or None
            None for a model that begins with an `Embedding`.

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        done = self._pass
        if done is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        accumulate = _check.boolean("accumulate", accumulate)
        d = _check.array("dprediction", dprediction, self.dtype)
        if self._readout == "each":
            if d.ndim > done.batched:
                d = _layouts.time_major_view(d, done.batch_first, done.batched)
            expected: tuple[int | str, ...] = (*done.x_shape[:2], self.output_size or "O")
        else:
            d = d if done.batched else d[None]
            expected = (done.x_shape[1], self.output_size or "O")
        _check.shape("dprediction", d, expected)
        dx = self.backward_steps(d, accumulate)
        if dx is None:
            return None
        return np.ascontiguousarray(_layouts.as_given(dx, done.batch_first, done.batched))

    def tbptt(self, x: ArrayLike, k: int, lengths: ArrayLike | None = None) -> Iterator[tuple[Array, slice]]:
        """Run `forward` over pieces of k steps, each from the state that the one before has left.

        Truncated back-propagation through time: call `backward` and an optimiser's `step` between two pieces.

        Parameters
        ----------
        x : array_like
            As for `forward`.
        k : int
            Steps of a piece; the last may be shorter.
        lengths : array_like of int of shape (B,), optional

        Yields
        ------
        prediction : ndarray
            Of the piece; with ``readout="each"`` laid out as x.
        steps : slice
            Which time steps these were.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type, or the model needs the whole sequence.

        Examples
        --------
        >>> import clstm, numpy as np
        >>> from clstm import nn
        >>> model = nn.SequenceModel([clstm.LSTM(1, 4, rng=0), nn.Dense(4, 1, rng=1)], readout="each")
        >>> optimiser = nn.SGD(model.layers, lr=0.1)
        >>> x = np.sin(np.arange(100) / 5).reshape(100, 1, 1)
        >>> for prediction, steps in model.tbptt(x[:-1], k=33):
        ...     loss, dprediction = nn.mse_loss(prediction, x[1:][steps])
        ...     _ = model.backward(dprediction)
        ...     optimiser.step()
        >>> steps
        slice(66, 99, None)
        """
        self.refuse_whole_sequences("tbptt")
        steps, real, batched = self.steps_of(x, lengths)
        return self._pieces(np.array(steps, order="C"), real, batched, _check.integer("k", k, 1))

    def _pieces(self, x: Array, lengths: Rows, batched: bool, k: int) -> Iterator[tuple[Array, slice]]:
        states = self.zero_states(len(lengths))
        for begin in range(0, len(x), k):
            piece = x[begin : begin + k]
            real = np.clip(lengths - begin, 0, len(piece))
            prediction, states = self.forward_steps(piece, real, states, batched)
            yield np.array(self._as_given(prediction, batched), order="C"), slice(begin, begin + len(piece))

    # --------------------------------------------------------------------------------------- many sequences

    def predict(self, x: Any, lengths: ArrayLike | None = None, batch_size: int = 256) -> Any:
        """Predict any number of sequences, some at a time, rows of like lengths together.

        Parameters
        ----------
        x : array_like of shape (T, N, I), or (N, T, I) with ``batch_first``; or list of (T_i, I)
            Integers without the axis I for a model that begins with an `Embedding`.
        lengths : array_like of int of shape (N,), optional
            With an array; a list needs none.
        batch_size : int, default 256
            The result does not depend on it.

        Returns
        -------
        ndarray of shape (N, O)
            With ``readout="each"`` laid out as x: an array, or a list of (T_i, O).

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type, or x holds NaN or infinities.
        """
        sequences = self.sequences("x", x, lengths)
        batch_size = _check.integer("batch_size", batch_size, 1)
        N, each = len(sequences), self._readout == "each"
        T = int(sequences.lengths.max(initial=0)) if isinstance(x, list | tuple) else None
        result: Any = None
        for rows, prediction in self.predictions(sequences, cut(sequences.lengths, batch_size, None)):
            if result is None:
                if each and T is None:
                    T = np.shape(x)[1 if self.batch_first else 0]
                shape = (N, T, *prediction.shape[2:]) if each else (N, *prediction.shape[1:])
                result = np.zeros(shape, prediction.dtype)
            if each:
                result[rows, : len(prediction)] = prediction.swapaxes(0, 1)
            else:
                result[rows] = prediction
        if not each:
            return result
        if isinstance(x, list | tuple):
            return [result[n, :length] for n, length in enumerate(sequences.lengths)]
        return result if self.batch_first else np.ascontiguousarray(result.swapaxes(0, 1))

    def predictions(self, sequences: Sequences, batches: Iterable[Rows]) -> Iterator[tuple[Rows, Array]]:
        """Run over batches: rows and prediction, (B, O) or (T, B, O)."""
        for rows in batches:
            x = sequences.batch(rows)
            yield rows, self.run_steps(x, sequences.lengths[rows], self.zero_states(len(rows)))[0]

    # ----------------------------------------------------------------------------------------- step by step

    def stream(self, batch_size: int | None = None, state: Any = None) -> ModelStream:
        """Prepare for single time steps: the layers' streams, one after the other.

        Parameters
        ----------
        batch_size : int, optional
            Rows of each step; without it a step takes ``(I,)`` and returns ``(O,)``.
        state : list of states, optional
            Of each recurrent layer, as `ModelStream.state` returns them; zeros if omitted.

        Returns
        -------
        ModelStream
            A snapshot of the recurrent layers' parameters: changing them shows after `ModelStream.refresh`.

        Raises
        ------
        ValueError, TypeError
            The model needs whole sequences, or an argument has the wrong shape or type.
        """
        self.refuse_whole_sequences("stream")
        return ModelStream(self._layers, self.takes_indices, batch_size, state)

    def generate(
        self,
        context: ArrayLike,
        steps: int,
        feedback: Feedback | None = None,
        samples: int | None = None,
        rng: int | np.random.Generator | None = None,
        lengths: ArrayLike | None = None,
    ) -> Array:
        """Continue sequences: run over the context once, then feed each output back as the next input.

        Parameters
        ----------
        context : array_like of shape (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence
            At least one step each.  Integers without the axis I for a model that begins with an `Embedding`.
        steps : int
            How many inputs to make.
        feedback : callable, optional
            ``feedback(output, step, rng)`` makes of the outputs (n, O) after a step the next inputs (n, I),
            or integers (n,): a sample, an argmax, a row with covariates.  `step` counts from 0; row
            ``b * samples + s`` is sample s of sequence b.  By default the output itself is fed back, or for a
            model that begins with an `Embedding` a class drawn from the softmax of the output.
        samples : int, optional
            Continuations of each sequence.
        rng : None, int or numpy.random.Generator
            What `feedback` draws from.
        lengths : array_like of int of shape (B,), optional
            Number of real steps of each context, at least 1.

        Returns
        -------
        ndarray of shape (steps, B, samples, I), or (B, samples, steps, I) with ``batch_first``
            What was fed back.  Without the axes that the arguments have not: `samples`, I of integers, B; of
            one sequence it is (steps, samples, I) in either case.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type, or the model needs whole sequences.

        Examples
        --------
        >>> import clstm
        >>> from clstm import nn
        >>> model = nn.SequenceModel([clstm.LSTM(1, 4, rng=0), nn.Dense(4, 1, rng=1)])
        >>> model.generate([[0.1], [0.2]], steps=5).shape
        (5, 1)
        >>> def noisy(output, step, rng):
        ...     return output + 0.1 * rng.standard_normal(output.shape)
        >>> model.generate([[0.1], [0.2]], steps=5, feedback=noisy, samples=100, rng=0).shape
        (5, 100, 1)
        """
        self.refuse_whole_sequences("generate")
        return generate(self, context, steps, feedback, samples, rng, lengths)

    def online(
        self,
        k: int = 20,
        *,
        loss: Any = "mse",
        optimiser: Any = "sgd",
        lr: float | None = None,
        max_norm: float | None = 1.0,
    ) -> Online:
        """Prepare for learning from one example at a time.

        Parameters
        ----------
        k : int, default 20
            Steps that each gradient goes back over.
        loss, optimiser, lr, max_norm
            As for `fit`.

        Returns
        -------
        Online
            With `predict_one` and `learn_one`.

        Raises
        ------
        ValueError, TypeError
            The model needs whole sequences, or an argument is not what it should be.
        """
        self.refuse_whole_sequences("online")
        return Online(self, k, loss, optimiser, lr, max_norm)

    # --------------------------------------------------------------------------------------------- training

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int,
        batch_size: int = 32,
        loss: Any = "mse",
        optimiser: Any = "adam",
        lr: float | None = None,
        schedule: Any = None,
        max_norm: float | None = 1.0,
        max_value: float | None = None,
        accumulate: int = 1,
        tbptt: int | None = None,
        lengths: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        validation_data: Any = None,
        validation_split: float = 0.0,
        early_stopping: EarlyStopping | None = None,
        callbacks: Iterable[Any] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        every: int | None = None,
        keep: int = 2,
        comm: Any = None,
        rng: int | np.random.Generator | None = None,
        progress: bool = False,
    ) -> History:
        """Train in mini-batches, in a new random order each epoch, rows of like lengths together.

        Parameters
        ----------
        x : array_like of shape (T, N, I), or (N, T, I) with ``batch_first``; or list of (T_i, I)
            N sequences.  Integers without the axis I for a model that begins with an `Embedding`.
        y : array_like of shape (N, ...)
            What each sequence leads to: numbers, or classes as integers for ``loss="cross_entropy"``.  With
            ``readout="each"`` a target for each step, laid out as x, or a list.
        epochs : int
            Number of times that all sequences are gone through.
        batch_size : int, default 32
            Sequences a batch; one of an epoch may be smaller.
        loss : str or callable, default "mse"
            "mse", "l1", "huber", "quantile", "cross_entropy", "binary_cross_entropy", `functools.partial` of
            such a function of `clstm.nn`, or one of your own: from predictions (n, O) and targets (n, ...) of
            n rows, without padding, to the loss, a mean over the rows, and its derivative by the predictions.
            It must not change them.  With a parameter `weight` (n,) it can be weighted.
        optimiser : str, class or object, default "adam"
            "sgd", "adam", "adamw", "rmsprop"; something that makes one of the layers; or one that is there,
            to continue with its running means.
        lr : float, optional
            Learning rate of an optimiser that is made here, in the place of its default.
        schedule : object, optional
            Multiplies the learning rate before each update: `StepDecay`, `CosineDecay`, `WarmUp`,
            `ReduceOnPlateau` or your own.
        max_norm, max_value : float or None, default 1.0 and None
            Clip each number of the gradients, then their common norm.
        accumulate : int, default 1
            Batches an update, whose gradients are added, each weighing what its rows weigh.
        tbptt : int, optional
            Cut sequences into pieces of so many steps, each with an update, from the state that the piece
            before has left: truncated back-propagation through time.  For ``readout="each"``.
        lengths : array_like of int of shape (N,), optional
            Number of real steps of each sequence of an array.
        sample_weight : array_like of shape (N,), optional
            What each sequence weighs in the loss.
        validation_data : (x, y), (x, y, sample_weight) or (x, y, sample_weight, lengths), optional
            Evaluated after each epoch, without dropout.
        validation_split : float, default 0
            Share of the sequences to hold out for validation, drawn from `rng`.
        early_stopping : EarlyStopping, optional
            When to stop; the weights of the best epoch are those that stay, in any case.
        callbacks : iterable of objects
            With any of the methods `on_train_begin`, `on_epoch_begin`, `on_batch_end`, `on_epoch_end`,
            `on_train_end`, which get the `Training`; and `state_dict` and `load_state_dict`, if there is
            something that a checkpoint should keep.
        checkpoint : path, optional
            Folder to write checkpoints to, from which `clstm.nn.resume` goes on to the bit.
        every : int, optional
            Updates between two checkpoints; by default there is one after each epoch.
        keep : int, default 2
            How many checkpoints stay, beside the best.
        comm : mpi4py.MPI.Comm, optional
            Share each batch among its ranks, all of which call `fit` with the same arguments and data.  They
            begin with the parameters and generators of rank 0, and end with the same parameters; only rank 0
            writes, logs and shows progress.  An exception on one of them is raised on all.
        rng : None, int or numpy.random.Generator
            Source of the order and of the split.
        progress : bool, default False
            Show a progress bar with loss, time left and sequences a second on the standard error stream.

        Returns
        -------
        History
            Lists by name, with a number for each epoch: "loss", "val_loss", "lr", "seconds".

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type, or data hold NaN or infinities; nothing has
            changed.
        FloatingPointError
            A loss or a gradient is not finite; the message says where it began, and the parameters are those
            of the update before.
        """
        with together(comm) as ranks:
            epochs = _check.integer("epochs", epochs, 1)
            training = self.prepare_training(
                x, y, lengths, sample_weight, validation_data,
                Settings.of(
                    batch_size=batch_size, max_norm=max_norm, max_value=max_value, accumulate=accumulate,
                    tbptt=tbptt, validation_split=validation_split, every=every, keep=keep,
                ),
                loss=loss, optimiser=optimiser, lr=lr, schedule=schedule, early_stopping=early_stopping,
                callbacks=callbacks, checkpoint=checkpoint, rng=rng, progress=progress, ranks=ranks,
            )  # fmt: skip
            return training.run(epochs)

    def prepare_training(
        self, x: Any, y: Any, lengths: Any, weights: Any, validation: Any, settings: Settings, **parts: Any
    ) -> Training:
        """Check data and make a training run of them."""
        examples = Examples.of(self, ("x", "y", "sample_weight"), x, y, weights, lengths)
        held_out = None
        if validation is not None:
            if not isinstance(validation, tuple | list) or not 2 <= len(validation) <= 4:
                raise TypeError(
                    "validation_data: expected (x, y), perhaps with sample_weight and lengths behind, "
                    f"got {_check.describe(validation)}"
                )
            names = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
            x, y, weights, lengths = (*validation, None, None)[:4]
            held_out = Examples.of(self, names, x, y, weights, lengths)
        return Training(self, examples, settings, validation=held_out, **parts)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        x: Any,
        y: Any,
        *,
        epochs: int,
        lengths: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        validation_data: Any = None,
        loss: Any = None,
        optimiser: Any = None,
        schedule: Any = None,
        early_stopping: EarlyStopping | None = None,
        callbacks: Iterable[Any] = (),
        classes: Iterable[type] = (),
        comm: Any = None,
        progress: bool = False,
    ) -> tuple[Self, History]:
        """Go on with a training run from its last checkpoint, to the same bits as if it had not stopped.

        Parameters
        ----------
        path : path
            The folder that `fit` was given as `checkpoint`.
        x, y, lengths, sample_weight, validation_data
            As `fit` was given them.
        epochs : int
            Of the whole run, those that are done included.
        loss, optimiser, schedule, early_stopping
            Only those of your own, which a checkpoint cannot hold: a function, a class or function that makes
            an optimiser of layers, an object.
        callbacks : iterable of objects
            As many as there were; their state is restored.
        classes : iterable of classes
            Of layers of your own.
        comm, progress
            As for `fit`; the number of ranks may be another one.

        Returns
        -------
        model : SequenceModel
        history : History
            Of the whole run.

        Raises
        ------
        FileNotFoundError
            There is no checkpoint.
        FileFormatError
            None can be read.
        ValueError, TypeError
            The data are others, or something of your own is missing.
        """
        with together(comm) as ranks:
            epochs = _check.integer("epochs", epochs, 1)
            state: Any = None
            if ranks is None or ranks.rank == 0:
                state, _ = CheckpointFolder(path, 1).newest()
            if ranks is not None:
                state = ranks.hand_out(state)
            with as_format_error(path):
                check_state(state)
                parts = parts_of(
                    state, loss=loss, optimiser=optimiser, schedule=schedule, early_stopping=early_stopping
                )
            check_parts(state, parts)
            with as_format_error(path):
                settings = Settings.of(**state["settings"])
                tensors = state["model"]["tensors"]
                shapes = {name: value.shape for name, value in tensors.items()}
                model = cls.from_file(state["model"]["arguments"], shapes, lambda: tensors, classes=classes)
                if optimiser is None:
                    parts["optimiser"] = parts["optimiser"](model.layers)
            training = model.prepare_training(
                x, y, lengths, sample_weight, validation_data, settings,
                callbacks=callbacks, checkpoint=path, ranks=ranks, progress=progress, rng=None, lr=None,
                new=False, **parts,
            )  # fmt: skip
            training.restore(path, state)
            return model, training.run(epochs)
