"""What `clstm train` does: decide, check everything, train, save, tell.

cli.py reads the command line; what comes from there makes sense, option by option.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import _check, _tables, _tasks, _threads, files, plot
from ._check import FileFormatError, UsageError
from ._console import Console
from ._table_model import TableModel, errors, new_estimator, show_scores
from ._tables import Reading, Table
from ._tasks import Roles
from .nn import parallel
from .nn.checkpoints import holds_checkpoints
from .text import CharacterModel

# What files of this command hold, and how their names end.
OWN = (TableModel.file_class, CharacterModel.file_class)
SUFFIX = ".safetensors"


class Usual(NamedTuple):
    """What is taken where the user says nothing."""

    hidden_size: int
    epochs: int
    batch_size: int
    lr: float
    validation: float
    patience: int | None  # None: all epochs


FORECAST = Usual(32, 40, 16, 3e-3, 0.2, None)
SEQUENCES = Usual(32, 200, 32, 5e-3, 0.2, 20)
TEXT = Usual(128, 20, 32, 4e-3, 0.1, 3)
TEXT_STEPS = 64

# Small sets of sequences are cut into at least so many batches.
_FEWEST_BATCHES = 8
# Of the intervals of a forecast, and how many held-out forecasts their widths take to be learnt.
COVERAGE, FEWEST_FOR_INTERVALS = 0.9, 9

_OF_TABLES = (
    "target", "group", "time", "task", "past", "future", "static", "horizon", "separator", "decimal",
    "time_format",
)  # fmt: skip

# Where a folder of checkpoints has the arguments, and those that may change when a training is resumed.
_ARGUMENTS = "clstm-train.json"
_FREE = ("parser", "run", "command_line", "data", "output", "plot", "checkpoint", "resume", "json", "threads")


class Outcome(NamedTuple):
    """What a training has led to."""

    model: Any  # with `save`
    history: dict[str, list[float]]
    kept: int  # the epoch, from 1, whose weights the model has
    facts: dict[str, Any]  # for programs
    lines: list[str]  # for people


class Job(NamedTuple):
    """What every kind of training needs."""

    arguments: argparse.Namespace
    console: Console
    begin: Callable[[], dict[str, Any]]  # called when all is checked; options of `fit`

    def given(self, usual: Usual) -> Usual:
        """Return what the user says, and where that is nothing what is usual."""
        said = {name: getattr(self.arguments, name) for name in Usual._fields}
        return usual._replace(**{name: value for name, value in said.items() if value is not None})


def run(arguments: argparse.Namespace) -> int:
    """Train a model; return the exit code."""
    _check_together(arguments)
    output = _output(arguments.output, arguments.data)
    if arguments.threads is not None:
        _threads.set_num_threads(arguments.threads)
    with parallel.together(parallel.world()) as ranks:
        console = Console(ranks)
        begin = _checkpoints(arguments, console, ranks)
        start = time.perf_counter()
        try:
            outcome = (_train_text if arguments.text else _train_table)(Job(arguments, console, begin))
        except FloatingPointError as error:
            raise FileFormatError(arguments.data, f"the training failed: {error}") from error
        except (FileFormatError, UsageError):
            raise
        except ValueError as error:  # of the data, in the words of who trains
            raise FileFormatError(arguments.data, str(error)) from error
        seconds = time.perf_counter() - start
        console.save(output, outcome.model)
        if arguments.plot is not None:
            console.draw(arguments.plot, _learning_curve(outcome, f"Training on {Path(arguments.data).name}"))
        _tell(console, outcome, output, seconds, as_json=arguments.json)
    return 0


def _check_together(arguments: argparse.Namespace) -> None:
    """Refuse options that make no sense together."""
    if arguments.text:
        given = [name for name in _OF_TABLES if getattr(arguments, name) is not None]
        if given:
            raise UsageError(f"{_option(given[0])}: of a table, but --text says that DATA is a text")
    elif arguments.target is None:
        raise UsageError("expected --target COL, the column to learn, or --text")
    if arguments.resume and arguments.checkpoint is None:
        raise UsageError("--resume: expected --checkpoint DIR with it")
    if arguments.validation == 0 and arguments.patience is not None:
        raise UsageError("--patience: expected a --validation above 0, by which the best epoch is known")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _output(given: Path | None, data: str) -> Path:
    """Return the file for the model, before any work; only what this command has written is replaced."""
    path = Path(Path(data).name).with_suffix(SUFFIX) if given is None else given
    if path.suffix != SUFFIX:
        raise UsageError(f"--output: expected a name that ends in {SUFFIX}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UsageError(f"--output: expected a file in a folder that exists, got {str(path)!r}")
    if path.exists():
        try:
            found = f"a file of class {files.read(path).class_name}"
        except (FileFormatError, OSError):
            found = "another kind of file"
        if found not in [f"a file of class {name}" for name in OWN]:
            raise UsageError(
                f"--output: expected a new name or a model of `clstm train`, got {str(path)!r}, "
                f"which is {_check.shorten(found)}"
            )
    return path


def _checkpoints(arguments: argparse.Namespace, console: Console, ranks: Any) -> Callable[[], dict[str, Any]]:
    """Check the folder of checkpoints; return what begins to use it and returns the options of `fit`."""
    folder, resume = arguments.checkpoint, arguments.resume
    options = {"checkpoint": folder, "resume": resume, "comm": ranks}
    if folder is None:
        return lambda: options
    own = {name: value for name, value in vars(arguments).items() if name not in _FREE}
    own = json.loads(json.dumps(own))  # as it will be read
    kept = folder / _ARGUMENTS
    if resume:
        _check_same(kept, own)
        return lambda: options
    if kept.exists() and holds_checkpoints(folder):
        raise UsageError(
            f"--checkpoint: expected a new folder, got {str(folder)!r}, which holds a training; say --resume "
            "to go on with it"
        )
    if not folder.parent.is_dir():
        raise UsageError(f"--checkpoint: expected a folder in one that exists, got {str(folder)!r}")

    def begin() -> dict[str, Any]:
        console.keep(kept, json.dumps(own))
        return options

    return begin


def _check_same(kept: Path, own: dict[str, Any]) -> None:
    """Compare the arguments with those that a training was begun with."""
    try:
        before = files.parse_json(kept.read_text(encoding="utf-8"))
        _check.entries("arguments", before, own, True)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"--resume: expected the folder of a training, got {str(kept.parent)!r}") from None
    except ValueError as error:
        raise FileFormatError(kept, str(error)) from error
    for name, value in own.items():
        if value != before[name]:
            here, there = (
                "nothing" if one is None else _check.describe(one) for one in (value, before[name])
            )
            raise UsageError(
                f"--resume: expected the arguments that the training was begun with, {_option(name)} "
                f"{there}, got {here}"
            )


def _tell(console: Console, outcome: Outcome, output: Path, seconds: float, *, as_json: bool) -> None:
    """Print what a training has led to."""
    epochs = len(outcome.history["loss"])
    if as_json:
        found: dict[str, Any] = {"model": str(output), **outcome.facts, "epochs": epochs}
        found |= {"kept_epoch": outcome.kept, "seconds": seconds, "history": outcome.history}
        console.put(json.dumps(found) + "\n")
    else:
        best = f", of which epoch {outcome.kept} was the best" if outcome.kept != epochs else ""
        lines = (
            f"{_check.counted(epochs, 'epoch')} in {seconds:.1f} s{best}",
            *outcome.lines,
            f"Model: {output}",
        )
        console.put("".join(f"{line}\n" for line in lines))


def _best_epoch(history: dict[str, list[float]]) -> int:
    return int(np.argmin(history["val_loss"])) + 1 if "val_loss" in history else len(history["loss"])


def _learning_curve(outcome: Outcome, title: str) -> Any:
    """Draw the losses, and mark the epoch whose weights were kept if it is not the last."""
    names = {"loss": "training", "val_loss": "validation"}
    history, kept = outcome.history, outcome.kept
    drawn = {label: history[name] for name, label in names.items() if name in history}
    axes = plot.losses(drawn, title=title)
    if kept != len(history["loss"]):
        axes.axvline(kept, color="0.75", linewidth=0.8, zorder=0)
        place: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
        axes.annotate("best", (kept, 1), (4, -2), color="0.4", **place)
    return axes.figure


# ------------------------------------------------------------------------------------------------------ text


def _train_text(job: Job) -> Outcome:
    """Train a character model."""
    arguments, usual = job.arguments, job.given(TEXT)
    text = _read_text(arguments.data, arguments.encoding or Reading().encoding)
    steps = arguments.input_steps or TEXT_STEPS
    held_out = round(len(text) * usual.validation)
    learnt = len(text) - held_out
    if learnt < 2 * steps or held_out == 1:
        raise FileFormatError(
            arguments.data,
            f"expected {2 * steps} characters or more to learn, twice --input-steps, got {learnt}",
        )
    job.console.say(
        f"{arguments.data}: a text of {len(text):,} characters, {len(set(text))} different ones"
        + (f"; the last {held_out:,} are for validation." if held_out else "."),
        f"Model: {arguments.layers} x {usual.hidden_size} hidden units, "
        f"at most {_check.counted(usual.epochs, 'epoch')}.",
    )
    model = CharacterModel(usual.hidden_size, arguments.layers, rng=arguments.seed)
    history = model.fit(
        text,
        epochs=usual.epochs,
        streams=usual.batch_size,
        steps=steps,
        lr=usual.lr,
        validation=usual.validation,
        patience=usual.patience,
        progress=job.console.shows_progress,
        **job.begin(),
    )
    facts: dict[str, Any] = {"task": "text", "characters": len(text), "vocabulary": len(model.vocabulary)}
    lines = []
    if held_out:
        bits, without = model.bits_per_character(text[learnt:]), _bits_alone(text[:learnt], text[learnt:])
        facts["validation"] = {"bits_per_character": bits, "bits_of_frequencies": without}
        lines = [f"Held out: {bits:.3f} bits a character (by their frequencies alone {without:.3f})"]
    return Outcome(model, history, _best_epoch(history), facts, lines)


def _bits_alone(learnt: str, text: str) -> float:
    """Return the bits a character by how often each is in another text; one more than counted, so never 0."""
    codes = [np.frombuffer(part.encode("utf-32-le"), np.uint32) for part in (learnt, text)]
    counts = np.bincount(np.concatenate([codes[0], np.unique(np.concatenate(codes))]))
    return float(-np.mean(np.log2(counts[codes[1]] / counts.sum())))


def _read_text(path: str, encoding: str) -> str:
    """Read a text; line ends become newlines."""
    with open(path, "rb") as file:
        content = file.read()
    return _tables.decode(path, content, encoding, "a text").replace("\r\n", "\n").replace("\r", "\n")


# ---------------------------------------------------------------------------------------------------- tables


def _train_table(job: Job) -> Outcome:
    """Decide what a table is about, and train that."""
    arguments, console = job.arguments, job.console
    table = _tables.read(arguments.data, Reading().changed(arguments))
    wishes = _tasks.Wishes(**{field.name: getattr(arguments, field.name) for field in fields(_tasks.Wishes)})
    roles, why = _tasks.decide(table, wishes)
    console.say(f"{arguments.data}: {len(table):,} rows.  {why}.")
    idle = _tasks.unused(table, roles)
    if idle:
        console.say(f"Not used: {_check.listed(idle)}.")
    if roles.time is None:
        times = _tasks.dates_among(table, idle)
        if times is not None:
            console.say(f"Rows are taken as they come; if {times!r} has their times, say --time {times}")
    train = _train_forecast if roles.task == "forecast" else _train_sequences
    outcome = train(job, table, roles)
    estimator = outcome.model.estimator
    estimator.set_params(n_jobs=None, verbose=0)  # of this run, not of the model, as is how long it took
    estimator.history_ = {name: kept for name, kept in estimator.history_.items() if name != "seconds"}
    return outcome


def _train_sequences(job: Job, table: Table, roles: Roles) -> Outcome:
    """Train a classifier or a regression of sequences."""
    arguments, usual = job.arguments, job.given(SEQUENCES)
    for name in ("horizon", "input_steps"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"{_option(name)}: of a forecast, but here each sequence has one answer")
    data = _tasks.sequences(table, roles, with_target=True)
    _tasks.check_varies(table, {roles.target: data.y, **data.x})
    lengths = data.x.groupby(level=0, sort=False).size()
    shortest, longest = int(lengths.min()), int(lengths.max())
    spread = "" if shortest == longest else f"{shortest:,} to "
    job.console.say(
        f"{_check.counted(len(lengths), 'sequence')} of {spread}{_check.counted(longest, 'step')}, columns: "
        f"{_check.listed(roles.past)}."
    )
    small = max(1, min(usual.batch_size, len(lengths) // _FEWEST_BATCHES))
    estimator = new_estimator(
        roles.task,
        hidden_size=usual.hidden_size,
        num_layers=arguments.layers,
        learning_rate=usual.lr,
        max_epochs=usual.epochs,
        batch_size=arguments.batch_size or small,
        early_stopping=usual.validation > 0,
        validation_fraction=usual.validation or SEQUENCES.validation,
        n_iter_no_change=usual.patience,
        tol=0.0,
        random_state=arguments.seed,
        n_jobs=_threads.get_num_threads(),
        verbose=job.console.shows_progress,
    )
    estimator.fit(data.x, data.y, **job.begin())
    model = TableModel(roles, table.reading, estimator)
    facts: dict[str, Any] = {**asdict(roles), "sequences": len(lengths)}
    lines = []
    if usual.validation:
        facts["validation"] = scores = model.scores(data, estimator.held_out_)
        lines = [f"Held out: {show_scores(scores)}"]
    return Outcome(model, estimator.history_, _best_epoch(estimator.history_), facts, lines)


def _train_forecast(job: Job, table: Table, roles: Roles) -> Outcome:
    """Train a forecast."""
    arguments, usual = job.arguments, job.given(FORECAST)
    data = _tasks.series(table, roles)
    _tasks.check_varies(table, {name: data.known[name] for name in (roles.target, *roles.covariates)})
    period = _tasks.season(_tasks.step_of(table, roles, data))
    horizon, input_steps = _tasks.spans(table, data.lengths, period, arguments.horizon, arguments.input_steps)
    season = period if 1 < period < input_steps else None
    several = f"{len(data.lengths):,} series, " if roles.group is not None else ""
    job.console.say(
        f"{several}{len(data.known):,} known values.  Forecasts of {_check.counted(horizon, 'step')}, from "
        f"at least {input_steps} before" + (f", with a season of {season}." if season else ".")
    )
    estimator = new_estimator(
        roles.task,
        horizon=horizon,
        input_steps=input_steps,
        season=season,
        target=roles.target,
        time=roles.time,
        group=roles.group,
        past=roles.past or None,
        future=roles.future or None,
        static=roles.static or None,
        hidden_size=usual.hidden_size,
        num_layers=arguments.layers,
        learning_rate=usual.lr,
        max_epochs=usual.epochs,
        batch_size=usual.batch_size,
        intervals=usual.validation > 0,
        early_stopping=usual.patience is not None,
        validation_fraction=usual.validation or FORECAST.validation,
        n_iter_no_change=usual.patience or 1,
        tol=0.0,
        random_state=arguments.seed,
        n_jobs=_threads.get_num_threads(),
        verbose=job.console.shows_progress,
    )
    estimator.fit(data.known, **job.begin())
    facts: dict[str, Any] = {**asdict(roles), "horizon": horizon, "input_steps": input_steps}
    lines, coverage = [], None
    if usual.validation:
        found = estimator.held_out_
        coverage = COVERAGE if len(found) >= FEWEST_FOR_INTERVALS else None
        facts["validation"] = scores = errors(found.to_frame().assign(naive=found.naive.reshape(-1)))
        lines = [f"Held out: {show_scores(scores)}"]
    model = TableModel(roles, table.reading, estimator, coverage, _tasks.last_times(roles, data))
    history = estimator.history_
    kept = _best_epoch(history) if estimator.early_stopping else len(history["loss"])
    return Outcome(model, history, kept, facts, lines)
