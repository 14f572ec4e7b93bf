"""What `clstm predict`, `clstm backtest` and `clstm sample` do.

cli.py reads the command line; what comes from there makes sense, option by option.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import _check, _load, _pictures, _tables, _tasks, _threads, files
from ._check import FileFormatError, UsageError
from ._console import Console
from ._table_model import TableModel, show_scores
from .text import CharacterModel

_KINDS = {
    TableModel.file_class: "a model of a table",
    CharacterModel.file_class: "a model of a text, of clstm train --text",
}


def sample(arguments: argparse.Namespace) -> int:
    """Write text; return the exit code."""
    console = Console()
    model = _model(arguments.model, CharacterModel)
    try:
        text = model.sample(
            arguments.length, arguments.prompt, temperature=arguments.temperature, rng=arguments.seed
        )
    except ValueError as error:  # of the prompt
        raise FileFormatError(arguments.model, str(error)) from None
    if arguments.json:
        console.put(json.dumps({"prompt": arguments.prompt, "text": text}) + "\n")
    else:
        console.put(f"{arguments.prompt}{text}\n")
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Print what a model says of a table; return the exit code."""
    console = Console()
    model, table = _model_and_table(arguments)
    with _as_errors_of(arguments.data or arguments.model):
        found = model.predict(table)
    if arguments.plot is not None:
        _draw(console, arguments.plot, _pictures.forecast, model, table, found)
    shown = _with_times_written(found, [model.roles.time or ""], model, table)
    if arguments.json:
        facts = {"task": model.roles.task, "coverage": model.coverage}
        text = json.dumps(facts | {"predictions": _records(shown)}) + "\n"
    else:
        text = _tables.to_csv(shown)
    if arguments.output is None:
        console.put(text)
    else:
        console.write(arguments.output, text)
    return 0


def backtest(arguments: argparse.Namespace) -> int:
    """Compare what a model says of a table with what came true; return the exit code."""
    console = Console()
    model, table = _model_and_table(arguments)
    with _as_errors_of(arguments.data):
        found, scores = model.backtest(table)
    if arguments.plot is not None:
        _draw(console, arguments.plot, _pictures.backtest, model, table, found)
    if arguments.output is not None:
        shown = _with_times_written(found, ("origin", "time"), model, table)
        console.write(arguments.output, _tables.to_csv(shown))
    if arguments.json:
        console.put(json.dumps({"task": model.roles.task} | scores) + "\n")
    else:
        parts = scores.get("parts") or {model.roles.task: scores}
        console.put("".join(f"{part}: {show_scores(found)}\n" for part, found in parts.items()))
    return 0


def _with_times_written(frame: Any, names: Sequence[str], model: TableModel, table: Any) -> Any:
    """Return a frame whose times look as in the table."""
    time = model.roles.time
    if time is None or table is None:
        return frame
    written = {name: _tables.write_times(table, time, frame[name]) for name in names if name in frame}
    return frame.assign(**written)


def _draw(
    console: Console, path: Path, draw: Any, model: TableModel, table: _tables.Table, found: Any
) -> None:
    """Write a picture of forecasts."""
    data = _tasks.series(table, model.roles)
    if len(data.lengths) > _pictures.MOST_GROUPS:
        console.say(f"Drawn are the first {_pictures.MOST_GROUPS} of {len(data.lengths):,} groups.")
    console.draw(path, draw(model.roles, data, found, model.estimator.horizon, model.coverage))


@contextmanager
def _as_errors_of(path: str) -> Iterator[None]:
    """Let errors of the data, in the words of an estimator, name the file."""
    try:
        yield
    except (FileFormatError, UsageError):
        raise
    except ValueError as error:
        raise FileFormatError(path, str(error)) from error


def _model_and_table(arguments: argparse.Namespace) -> tuple[TableModel, Any]:
    """Read both; where the user does not say how the table is written, it is as in training."""
    for name in ("model", "data"):
        given = getattr(arguments, name)
        if None not in (arguments.output, given) and _is_same(arguments.output, given):
            raise UsageError(
                f"--output: expected another file than {name.upper()}, got {str(arguments.output)!r}"
            )
    if arguments.threads is not None:
        _threads.set_num_threads(arguments.threads)
    model = _model(arguments.model, TableModel)
    model.estimator.set_params(n_jobs=_threads.get_num_threads())
    task = model.roles.task
    if arguments.data is None and (task != "forecast" or model.roles.future):
        future = _check.listed(model.roles.future)
        raise UsageError(
            f"expected DATA, with the {f'future of {future}' if future else f'sequences to {task}'}"
        )
    if arguments.plot is not None and (task != "forecast" or arguments.data is None):
        reason = (
            "expected DATA with it, whose end is drawn"
            if task == "forecast"
            else f"of a forecast, got a model to {task}"
        )
        raise UsageError(f"--plot: {reason}")
    if arguments.data is None:
        return model, None
    return model, _tables.read(arguments.data, model.reading.changed(arguments))


def _is_same(one: Path, other: str) -> bool:
    return one.exists() and os.path.exists(other) and one.samefile(other)


def _records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a frame as JSON has them."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", date_format="iso"))
    return found


def _model(path: str, kind: type[TableModel | CharacterModel]) -> Any:
    """Read a model, and say what the file holds if that is another kind."""
    found = files.read(path).class_name
    if found != kind.file_class:
        got = _KINDS.get(found, f"a file of class {_check.describe(found)}")
        raise FileFormatError(path, f"expected {_KINDS[kind.file_class]}, got {got}")
    return _load.load(path)
