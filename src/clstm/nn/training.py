"""class Training: a training run as a value, and its loop.

Everything that decides how a run goes on is an attribute, so that a checkpoint can hold it: `state` and
`restore` are each other's inverse, to the bit.  What stands in a batch is known from a generator's state at
the beginning of its epoch.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..files import as_format_error
from ..parameters import Parameters
from .batches import Rows, cut
from .checkpoints import CheckpointFolder, digest, generator_state, make_generator
from .clipping import clip_grad_norm, clip_grad_value
from .examples import Examples, Piece
from .losses import LOSSES
from .optimisers import OPTIMISERS
from .parallel import Ranks
from .schedules import SCHEDULES
from .stopping import EarlyStopping

if TYPE_CHECKING:
    from .chain import Chain, States

Array = NDArray[Any]
Part = tuple[Rows, int, int | None]  # rows, and the steps that a piece of a sequence has
EVENTS = ("on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end", "on_train_end")
NO_LIMIT = sys.float_info.max
log = logging.getLogger("clstm")


class History(dict[str, list[float]]):
    """What each epoch was like: lists of one number an epoch, by name.

    "loss" is the mean of the training loss as its batches came by, "val_loss" that of the validation part
    after the epoch, "lr" the learning rate at its end, "seconds" its time.
    """


@dataclass(frozen=True)
class Settings:
    """Numbers that do not change during a run."""

    batch_size: int
    max_norm: float | None
    max_value: float | None
    accumulate: int
    tbptt: int | None
    validation_split: float
    every: int | None
    keep: int

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """Check them."""

        def number(name: str, low: int) -> int:
            return _check.integer(name, given[name], low)

        def optional(name: str, check: Callable[[str, Any], Any]) -> Any:
            return None if given[name] is None else check(name, given[name])

        return cls(
            number("batch_size", 1),
            optional("max_norm", _check.positive),
            optional("max_value", _check.positive),
            number("accumulate", 1),
            optional("tbptt", partial(_check.integer, low=1)),
            _check.fraction("validation_split", given["validation_split"]),
            optional("every", partial(_check.integer, low=1)),
            number("keep", 1),
        )


class Training:
    """A training run: made by `SequenceModel.fit` and `resume`, handed to callbacks.

    Attributes
    ----------
    model : SequenceModel
    optimiser, schedule, early_stopping
    epoch : int
        The present one, from 0.
    update : int
        Updates of the parameters done so far.
    history : History
    stop : bool
        Set it to end the run after this batch or epoch.
    """

    def __init__(
        self,
        model: Chain,
        examples: Examples,
        settings: Settings,
        *,
        loss: Any,
        optimiser: Any,
        lr: float | None,
        schedule: Any,
        validation: Examples | None,
        early_stopping: EarlyStopping | None,
        callbacks: Iterable[Any],
        checkpoint: Any,
        rng: Any,
        progress: bool,
        ranks: Ranks | None,
        new: bool = True,
    ) -> None:
        self.model, self.settings = model, settings
        self.loss, self._loss_data = loss_of(loss), _loss_data(loss)
        weighted = any(part is not None and part.weights is not None for part in (examples, validation))
        if weighted and "weight" not in inspect.signature(self.loss).parameters:
            raise TypeError(
                "loss: expected a function with a parameter `weight`, for there is a sample_weight"
            )
        self.optimiser = optimiser_of(optimiser, model.layers, lr)
        self.schedule, self.early_stopping = schedule, early_stopping
        if early_stopping is not None:
            _check.instance("early_stopping", early_stopping, EarlyStopping)
        if schedule is not None and (isinstance(schedule, type) or not hasattr(schedule, "factor")):
            raise TypeError(
                f"schedule: expected an object with `factor` and `end_epoch`, got {_check.describe(schedule)}"
            )
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks: expected a list of objects, got {_check.describe(callbacks)}")
        self.callbacks = list(callbacks)
        for n, callback in enumerate(self.callbacks):
            if not any(hasattr(callback, event) for event in EVENTS):
                raise TypeError(
                    f"callbacks[{n}]: expected an object with any of {', '.join(EVENTS)}, "
                    f"got {_check.describe(callback)}"
                )
        self.progress = _check.boolean("progress", progress)
        self.ranks = ranks
        self.rng = _check.generator(rng)
        self.epoch = self.update = self._batch = 0
        self.history = History()
        self.stop = False
        self._lr = self.optimiser.lr
        self._best: list[Array] | None = None
        self._sums = [0.0, 0.0]  # of loss times weight, and of weight, in this epoch
        self._split: Any = self.rng.bit_generator.state
        self._epoch_rng: Any = None  # before the order of this epoch was drawn
        self._batches: list[Rows] = []
        self._folder: CheckpointFolder | None = None
        if settings.tbptt is not None:
            model.refuse_whole_sequences("tbptt")
            if model.readout != "each":
                raise ValueError(f'tbptt: expected a model with readout "each", got "{model.readout}"')
            if settings.accumulate > 1:
                raise ValueError(
                    "accumulate: expected 1 with tbptt, which updates after each piece, "
                    f"got {settings.accumulate}"
                )
        watchers: list[Any] = [early_stopping, schedule]
        self._whole = examples
        self.validation = validation
        if checkpoint is None and settings.every is not None:
            raise ValueError(f"every: expected None without a checkpoint, got {settings.every}")
        self._digest = ""  # of the data, where they are compared
        if checkpoint is not None or ranks is not None:
            self._digest = " ".join(part.digest() for part in (examples, validation) if part is not None)
        if ranks is not None:
            ranks.compare(self._arguments(checkpoint))
            if new:
                ranks.align_generators([owner.rng for owner in self._generators()])
                self._split = generator_state(self.rng)
        # What a split draws from takes the place of the other when nothing is refused any more.
        drawn = copy.deepcopy(self.rng) if settings.validation_split else self.rng
        if new:
            self.examples, self.validation = self._split_off(drawn)
            metrics = ("loss",) if self.validation is None else ("loss", "val_loss")
            for watcher in watchers:
                if hasattr(watcher, "check_monitor"):
                    watcher.check_monitor(metrics)
            self._try_out()
        self._saved = -1  # update of the last checkpoint
        if checkpoint is not None:  # on every rank: one that goes on without the others waits for ever
            model.file_content()  # raises for layers that cannot be saved
            for owner in self._generators():
                generator_state(owner.rng)  # raises for those that have none
        if checkpoint is not None and self.is_first_rank:
            self._folder = CheckpointFolder(checkpoint, settings.keep)
            if new:
                self._folder.begin()
        if ranks is not None and new:
            ranks.align_parameters(model.layers)
        if new:
            self.rng.bit_generator.state = drawn.bit_generator.state
            for watcher in watchers:
                if hasattr(watcher, "reset"):
                    watcher.reset()

    @property
    def is_first_rank(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.ranks is None or self.ranks.rank == 0

    def _arguments(self, checkpoint: Any) -> dict[str, str]:
        """Name everything that must be the same on all ranks."""
        layers = [
            (type(layer).__name__, layer.flat_params.shape, str(layer.flat_params.dtype))
            for layer in self.model.layers
        ]
        _, uses = self._drawn_from()
        return {
            "model": repr((self.model.readout, layers, uses)),
            "x, y, sample_weight, validation_data": self._digest,
            "loss": repr((self._loss_data, getattr(self.loss, "__qualname__", type(self.loss).__qualname__))),
            "optimiser": _fingerprint(self.optimiser, OPTIMISERS) + repr(self._lr),
            "schedule": _fingerprint(self.schedule, SCHEDULES),
            "early_stopping": _fingerprint(self.early_stopping, {"EarlyStopping": EarlyStopping}),
            "callbacks": repr([type(callback).__qualname__ for callback in self.callbacks]),
            "checkpoint": repr(checkpoint is not None),
        } | {name: repr(value) for name, value in asdict(self.settings).items()}

    def _split_off(self, rng: np.random.Generator) -> tuple[Examples, Examples | None]:
        """Return the examples to train on and those to validate on."""
        share = self.settings.validation_split
        if not share:
            return self._whole, self.validation
        if self.validation is not None:
            raise ValueError("validation_split: expected 0 with validation_data, got both")
        N = len(self._whole)
        held_out = round(N * share)
        if not 0 < held_out < N:
            raise ValueError(
                f"validation_split: expected a share that leaves sequences on both sides, got {share} of {N}"
            )
        order = rng.permutation(N)
        return self._whole.subset(np.sort(order[held_out:])), self._whole.subset(np.sort(order[:held_out]))

    def _try_out(self) -> None:
        """Compute the loss of some rows of each part: what does not fit is told before anything changes."""
        for examples, name in ((self.examples, "y"), (self.validation, "validation_data[1]")):
            if examples is not None:
                tried = examples.extremes()
                try:
                    self._evaluate(tried, len(tried))
                except (TypeError, ValueError) as error:  # losses know of no y
                    if not str(error).startswith("target:"):
                        raise
                    of_all = f", in {len(tried)} of {len(examples)} sequences that were tried first"
                    raise type(error)(name + str(error).removeprefix("target") + of_all) from None

    def _begin_epoch(self) -> None:
        self._epoch_rng = self.rng.bit_generator.state
        self._batches = cut(self.examples.x.lengths, self.settings.batch_size, self.rng)
        self._batch, self._sums = 0, [0.0, 0.0]

    # -------------------------------------------------------------------------------------------- the loop

    def run(self, epochs: int) -> History:
        """Train until so many epochs are done; the best weights are those that stay, if somebody watches."""
        if self.ranks is not None:
            self.ranks.compare({"epochs": repr(epochs)})
        self._tell("on_train_begin")
        try:
            with self._bar(epochs) as shown:
                while self.epoch < epochs and not self._is_to_stop():
                    self._run_epoch(shown)
            if self._saved != self.update:
                self._save(False)
        finally:
            self.optimiser.lr = self._lr
        if self._best is not None:
            for layer, weights in zip(self.model.layers, self._best, strict=True):
                layer.flat_params[...] = weights
        self._tell("on_train_end")
        return self.history

    def _is_to_stop(self) -> bool:
        """Whether anybody, on any rank, wants the run to end here."""
        if self.ranks is not None and self.callbacks:
            self.stop = self.ranks.any(self.stop)
        return self.stop

    def _run_epoch(self, shown: Any) -> None:
        start = time.perf_counter()
        if self._epoch_rng is None:
            self._begin_epoch()
            self._tell("on_epoch_begin")
        while self._batch < len(self._batches) and not self._is_to_stop():
            group = self._batches[self._batch : self._batch + self.settings.accumulate]
            if self.settings.tbptt is None:
                self._update([(rows, 0, None) for rows in group], None)
            else:
                states = None
                for begin in range(0, int(self.examples.x.lengths[group[0]].max()), self.settings.tbptt):
                    part = (group[0], begin, begin + self.settings.tbptt)
                    states = self._update([part], states)
            self._batch += len(group)
            if shown is not None:
                shown.update(sum(map(len, group)))
            self._tell("on_batch_end")
            if self._batch < len(self._batches) and self._is_due():
                self._save(False)
        if self._batch < len(self._batches):
            return
        metrics = {"loss": self._sums[0] / self._sums[1] if self._sums[1] else math.nan}
        if self.validation is not None:
            value = self._evaluate(self.validation, self.settings.batch_size, self.ranks)
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"fit: expected finite numbers, got a val_loss of {value} after epoch {self.epoch + 1}"
                )
            metrics["val_loss"] = value
        improved = self.early_stopping is not None and self.early_stopping.improved(self.epoch, metrics)
        if improved:
            self._best = [layer.flat_params.copy() for layer in self.model.layers]
        if self.schedule is not None:
            self.schedule.end_epoch(metrics)
        seconds = time.perf_counter() - start
        if self.ranks is not None:
            seconds = self.ranks.hand_out(seconds)
            self._compare_parameters(self.ranks)
        for name, value in (metrics | {"lr": self.optimiser.lr, "seconds": seconds}).items():
            self.history.setdefault(name, []).append(value)
        if self.early_stopping is not None and self.early_stopping.should_stop():
            self.stop = True
        if self.is_first_rank:
            log.info("epoch %d: %s", self.epoch + 1, ", ".join(f"{k} {v:.6g}" for k, v in metrics.items()))
        if shown is not None:
            shown.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()})
        self._tell("on_epoch_end")
        self.epoch += 1
        self._batch, self._batches, self._epoch_rng = 0, [], None
        if improved or self.settings.every is None or self._is_due():
            self._save(improved)

    def _compare_parameters(self, ranks: Ranks) -> None:
        """Raise if the ranks' parameters are not the same any more."""
        ranks.compare(
            {"parameters": digest([layer.flat_params for layer in self.model.layers])},
            f", after epoch {self.epoch + 1}; is there a callback, a schedule, an optimiser or a layer of "
            "your own that does something else there?",
        )

    def _update(self, parts: Sequence[Part], states: States | None) -> States | None:
        """Change the parameters once, by the gradients of some parts; return the states after the last.

        `states` are those that a piece in the middle of sequences begins with.
        """
        model, ranks, layers = self.model, self.ranks, self.model.layers
        sums = np.zeros(2)  # of loss times weight, and of weight
        counted, after = 0, states
        scaled = len(parts) > 1 or ranks is not None
        with nullcontext() if ranks is None else ranks.own_draws(layers):
            for rows, begin, end in parts:
                own = rows if ranks is None else ranks.share(rows)
                piece = self.examples.piece(own, begin, end)
                before = model.zero_states(len(own)) if states is None else states
                total = piece.total
                if total == 0:
                    after = model.run_steps(piece.x, piece.lengths, before)[1]
                    continue
                prediction, after = model.forward_steps(piece.x, piece.lengths, before)
                value, d = self._loss_of(piece, prediction)
                if not math.isfinite(value) and ranks is None:
                    self._blame(f"a loss of {value}", piece, before)
                if scaled:
                    d = d * d.dtype.type(total)
                model.backward_steps(piece.laid_out(d, prediction.shape), counted > 0, input_gradient=False)
                model.forget()  # before the next forward pass takes as much
                del prediction, d
                counted += 1
                sums += value * total, total
        if not counted:
            for layer in layers:
                layer.flat_grads[...] = 0
        if ranks is not None:
            sums = ranks.add(layers, sums)
        if not sums[1]:
            return after
        if scaled:
            for layer in layers:
                layer.flat_grads[...] *= layer.flat_grads.dtype.type(1.0 / sums[1])
        if self.settings.max_value is not None:
            clip_grad_value(layers, self.settings.max_value)
        norm = clip_grad_norm(layers, self.settings.max_norm or NO_LIMIT)
        if not math.isfinite(norm + sums[0]):
            is_loss = not math.isfinite(sums[0])
            what = f"a loss of {sums[0] / sums[1]}" if is_loss else f"a norm of the gradients of {norm}"
            self._blame(what, piece, before)
        if self.schedule is not None:
            progress = self.epoch + self._batch / len(self._batches)
            self.optimiser.lr = self._lr * self.schedule.factor(progress, self.update)
        self.optimiser.step()
        self.update += 1
        self._sums = [self._sums[0] + float(sums[0]), self._sums[1] + float(sums[1])]
        return after

    def _loss_of(self, piece: Piece, prediction: Array) -> tuple[float, Array]:
        rows, y = piece.rows_of(prediction), piece.y
        if y.ndim == 1 and rows.shape[1] == 1:  # a column, whichever way it came
            y = y[:, None]
        return loss_and_derivative(self.loss, rows, y, piece.weight)

    def _blame(self, what: str, piece: Piece, states: States) -> None:
        """Say where numbers stopped being finite; the parameters are those before this update."""
        place = self.model.first_not_finite(piece.x, piece.lengths, states)
        if self.ranks is not None:  # those whose rows are finite cannot tell
            place = next(filter(None, self.ranks.gather(place)), "")
        raise FloatingPointError(
            f"fit: expected finite numbers, got {what} in epoch {self.epoch + 1}, batch {self._batch + 1}: "
            + (place or "every output is finite, so it came with the loss or on the way back")
            + "; a smaller lr or max_norm may help"
        )

    def _evaluate(self, examples: Examples, batch_size: int, ranks: Ranks | None = None) -> float:
        """Return the mean loss without dropout."""
        sums = [0.0, 0.0]
        for batch in cut(examples.x.lengths, batch_size, None):
            rows = batch if ranks is None else ranks.share(batch)
            piece = examples.piece(rows)
            prediction, _ = self.model.run_steps(piece.x, piece.lengths, self.model.zero_states(len(rows)))
            if piece.total:
                value, _ = self._loss_of(piece, prediction)
                sums = [sums[0] + value * piece.total, sums[1] + piece.total]
        if ranks is not None:
            sums = ranks.sum(sums)
        return sums[0] / sums[1] if sums[1] else math.nan

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            told = getattr(callback, event, None)
            if told is not None:
                told(self)

    @contextmanager
    def _bar(self, epochs: int) -> Iterator[Any]:
        """Show progress: loss, time left and sequences a second."""
        if not self.progress or not self.is_first_rank:
            yield None
            return
        from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]  # takes a while, as it looks for notebooks

        N = len(self.examples)
        done = self.epoch * N + sum(map(len, self._batches[: self._batch]))
        with tqdm(total=epochs * N, initial=done, desc="training", unit="seq", unit_scale=True) as shown:
            yield shown

    # ------------------------------------------------------------------------------------------ checkpoints

    def _is_due(self) -> bool:
        every = self.settings.every
        return every is not None and self.update - max(self._saved, 0) >= every

    def _save(self, best: bool) -> None:
        if self._folder is not None:
            self._folder.write(self.update, self.state(), best)
            self._saved = self.update

    def _generators(self) -> list[Any]:
        """Return who draws: this run and the layers; several may share a generator."""
        return [self, *(layer for layer in self.model.layers if hasattr(layer, "rng"))]

    def _drawn_from(self) -> tuple[list[np.random.Generator], list[int]]:
        """Return the generators, each once, and for each of those who draw the number of its own."""
        drawing = [owner.rng for owner in self._generators()]
        generators = list({id(rng): rng for rng in drawing}.values())
        return generators, [next(n for n, rng in enumerate(generators) if rng is own) for own in drawing]

    def state(self) -> dict[str, Any]:
        """Return everything that decides how the run goes on, as numbers, texts and arrays."""
        arguments, tensors = self.model.file_content()
        generators, uses = self._drawn_from()
        early, schedule = self.early_stopping, self.schedule
        return {
            "model": {"arguments": arguments, "tensors": tensors},
            "settings": asdict(self.settings),
            "loss": self._loss_data,
            "optimiser": _part(self.optimiser, OPTIMISERS) | {"lr": self._lr},
            "schedule": None if schedule is None else _part(schedule, SCHEDULES),
            "early_stopping": None if early is None else _part(early, {"EarlyStopping": EarlyStopping}),
            "callbacks": [
                callback.state_dict() if hasattr(callback, "state_dict") else None
                for callback in self.callbacks
            ],
            "backends": [
                getattr(layer, "backend", None) if isinstance(layer, Parameters) else None
                for layer in self.model.layers
            ],
            "generators": [generator_state(rng) for rng in generators],
            "uses": uses,
            "split": self._split,
            "epoch_generator": self._epoch_rng,
            "epoch": self.epoch,
            "batch": self._batch,
            "update": self.update,
            "sums": list(self._sums),
            "history": {name: list(values) for name, values in self.history.items()},
            "best": self._best,
            "data": self._digest,
        }

    def restore(self, path: object, state: Mapping[str, Any]) -> None:
        """Go on where a state, read from `path`, was taken; the model holds its parameters already."""
        if state["data"] != self._digest:
            raise ValueError(
                "x, y, validation_data: expected the data that the run was begun with, got others"
            )
        if len(self.callbacks) != len(state["callbacks"]):
            raise ValueError(
                f"callbacks: expected the {len(state['callbacks'])} that the run was begun with, "
                f"got {len(self.callbacks)}"
            )
        for n, (callback, kept) in enumerate(zip(self.callbacks, state["callbacks"], strict=True)):
            if kept is not None and not hasattr(callback, "load_state_dict"):
                raise ValueError(
                    f"callbacks[{n}]: expected one that takes the state of the one that the run was begun "
                    f"with, got {_check.describe(callback)}"
                )
        with as_format_error(path):
            for layer, backend in zip(self.model.layers, state["backends"], strict=True):
                if backend is not None and hasattr(layer, "backend"):
                    layer.backend = backend
            generators = [make_generator(tree) for tree in state["generators"]]
            owners = self._generators()
            if len(owners) != len(state["uses"]) or not all(
                n in range(len(generators)) for n in state["uses"]
            ):
                raise ValueError(f"uses: expected a generator for each of {len(owners)}, got {state['uses']}")
            for owner, n in zip(owners, state["uses"], strict=True):
                owner.rng = generators[n]
            self._split, self._epoch_rng = state["split"], state["epoch_generator"]
            self.examples, self.validation = self._split_off(make_generator(self._split))
            if self._epoch_rng is not None:
                lengths = self.examples.x.lengths
                self._batches = cut(lengths, self.settings.batch_size, make_generator(self._epoch_rng))
            self.optimiser.load_state_dict(state["optimiser"]["state"])
            self._lr = _check.positive("lr", state["optimiser"]["lr"])
            for part, name in ((self.schedule, "schedule"), (self.early_stopping, "early_stopping")):
                if part is not None:
                    part.load_state_dict(state[name]["state"])
            self._best = _weights(state["best"], self.model.layers)
            self.epoch, self._batch, self.update = (
                _check.integer(name, state[name], 0) for name in ("epoch", "batch", "update")
            )
            self._sums = list(map(float, _check.pair("sums", state["sums"], "(loss, weight)")))
            self.history = History(
                {name: list(map(float, values)) for name, values in state["history"].items()}
            )
            self.stop = self.early_stopping is not None and self.early_stopping.should_stop()
        for callback, kept in zip(self.callbacks, state["callbacks"], strict=True):
            if kept is not None:
                callback.load_state_dict(kept)
        self._saved = self.update


# What the state of a run consists of.
_STATE: dict[str, type | tuple[type, ...]] = {
    "model": dict, "backends": list, "settings": dict, "loss": (dict, type(None)), "optimiser": dict,
    "schedule": (dict, type(None)), "early_stopping": (dict, type(None)), "callbacks": list,
    "generators": list, "uses": list, "split": dict, "epoch_generator": (dict, type(None)), "epoch": int,
    "batch": int, "update": int, "sums": list, "history": dict, "best": (list, type(None)),
    "data": str,
}  # fmt: skip
_PART = ("class", "arguments", "state")


def check_state(state: Any) -> None:
    """Look whether a tree from a file is the state of a run."""
    _check.entries("state", state, _STATE, True)
    for name, kind in _STATE.items():
        if not isinstance(state[name], kind):
            raise TypeError(f"{name}: expected another type, got {_check.describe(state[name])}")
    _check.entries("model", state["model"], ("arguments", "tensors"), True)
    _check.entries("settings", state["settings"], [field.name for field in fields(Settings)], True)
    _check.entries("optimiser", state["optimiser"], (*_PART, "lr"), True)
    for name in ("schedule", "early_stopping"):
        if state[name] is not None:
            _check.entries(name, state[name], _PART, True)
    tensors = state["model"]["tensors"]
    if not isinstance(tensors, dict) or not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise TypeError("model tensors: expected arrays by name, got others")
    if not all(isinstance(values, list) for values in state["history"].values()):
        raise TypeError("history: expected lists of numbers, got others")


def parts_of(state: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """Make the parts of a run anew, but for those that are somebody's own."""
    loss = own["loss"]
    if state["loss"] is not None and loss is None:
        _check.entries("loss", state["loss"], ("name", "arguments"), True)
        name = _check.choice("loss", state["loss"]["name"], tuple(LOSSES))
        loss = partial(LOSSES[name], **state["loss"]["arguments"]) if state["loss"]["arguments"] else name
        inspect.signature(loss_of(loss))  # raises for arguments that it has not
    return {
        "loss": loss,
        "optimiser": _made("optimiser", state["optimiser"], OPTIMISERS, own["optimiser"], bind=True),
        "schedule": _made("schedule", state["schedule"], SCHEDULES, own["schedule"]),
        "early_stopping": _made(
            "early_stopping",
            state["early_stopping"],
            {"EarlyStopping": EarlyStopping},
            own["early_stopping"],
        ),
    }


def check_parts(state: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Refuse to go on without what a checkpoint cannot hold."""
    missing = [
        name
        for name in ("loss", "optimiser", "schedule", "early_stopping")
        if parts[name] is None and (name == "loss" or state[name] is not None)
    ]
    if missing:
        raise TypeError(
            f"{', '.join(missing)}: expected what the run was begun with, for a checkpoint holds no "
            "functions and classes of your own, got None"
        )


def _made(name: str, kept: Any, known: Mapping[str, Any], own: Any, *, bind: bool = False) -> Any:
    """Return what is given, or else what a checkpoint tells to make."""
    if own is not None or kept is None or kept["class"] is None:
        return own
    kind = known[_check.choice(f"{name} class", kept["class"], tuple(known))]
    _check.instance(f"{name} arguments", kept["arguments"], dict)
    return partial(kind, **kept["arguments"]) if bind else kind(**kept["arguments"])


def _weights(given: Any, layers: Sequence[Any]) -> list[Array] | None:
    """Look at the best weights that a file holds."""
    if given is None:
        return None
    if len(given) != len(layers):
        raise ValueError(f"best: expected weights of {len(layers)} layers, got {len(given)}")
    return [
        _check.shaped("best", weights, layer.flat_params.dtype, layer.flat_params.shape)
        for weights, layer in zip(given, layers, strict=True)
    ]


def _part(part: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an optimiser or schedule is made of, and its state."""
    name = type(part).__name__
    return {
        "class": name if known.get(name) is type(part) else None,
        "arguments": part.arguments if known.get(name) is type(part) else None,
        "state": part.state_dict(),
    }


def _fingerprint(part: Any, known: Mapping[str, type]) -> str:
    """Name a part of a run, with its arguments and state where they are known."""
    if known.get(type(part).__name__) is not type(part):
        return type(part).__qualname__
    return digest(_part(part, known))


def loss_of(given: Any) -> Callable[..., Any]:
    """Return a loss as a function."""
    if isinstance(given, str):
        return LOSSES[_check.choice("loss", given, tuple(LOSSES))]
    if not callable(given):
        raise TypeError(
            f"loss: expected a function or one of {', '.join(LOSSES)}, got {_check.describe(given)}"
        )
    made: Callable[..., Any] = given
    return made


def loss_and_derivative(
    loss: Callable[..., Any], prediction: Array, target: Array, weight: Array | None = None
) -> tuple[float, Array]:
    """Call a loss, and look at what it returns."""
    made = loss(prediction, target) if weight is None else loss(prediction, target, weight=weight)
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise TypeError(
            "loss: expected a function that returns a loss and its derivative by the prediction, "
            f"got one that returns {_check.describe(made)}"
        )
    value, derivative = made
    return float(value), _check.shaped("loss: derivative", derivative, prediction.dtype, prediction.shape)


def _loss_data(given: Any) -> dict[str, Any] | None:
    """Return what a checkpoint keeps of a loss; None if it is somebody's own."""
    inner, arguments = (given.func, given.keywords) if isinstance(given, partial) else (given, {})
    names = [name for name, loss in LOSSES.items() if given == name or inner is loss]
    return {"name": names[0], "arguments": dict(arguments)} if names else None


def optimiser_of(given: Any, layers: Sequence[Any], lr: float | None) -> Any:
    """Return an optimiser of these layers: by name, made by a class or function, or the object itself."""
    options: dict[str, Any] = {} if lr is None else {"lr": _check.positive("lr", lr)}
    if isinstance(given, str):
        by_name = {name.lower(): made for name, made in OPTIMISERS.items()}
        _check.choice("optimiser", given.lower(), tuple(by_name))
        return by_name[given.lower()](layers, **options)
    if hasattr(given, "step") and hasattr(given, "lr") and not isinstance(given, type):
        if lr is not None:
            raise ValueError(f"lr: expected None with an optimiser, which has its own, got {lr}")
        if hasattr(given, "layers") and {id(layer) for layer in given.layers} != {
            id(layer) for layer in layers
        }:
            raise ValueError("optimiser: expected one of the layers of this model, got one of others")
        return given
    if not callable(given):
        raise TypeError(
            f"optimiser: expected one of {', '.join(map(str.lower, OPTIMISERS))}, an object with `step` and "
            f"`lr`, or a class of such, got {_check.describe(given)}"
        )
    made = given(layers, **options)
    if not hasattr(made, "step") or not hasattr(made, "lr"):
        raise TypeError(
            f"optimiser: expected what makes an object with `step` and `lr`, got {_check.describe(made)}"
        )
    return made
