"""The command `clstm`: one function a command, listed in COMMANDS; each adds its options and names what runs.

A command returns the process's exit code: 0 when it did what it promises, 1 when not, 2 for arguments that
make no sense.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import FileFormatError, __version__, _exchange, _predict, _tables, _tasks, _train, demo, show_config
from ._check import UsageError
from ._console import complain, leads
from .bench import command as benchmark

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # it has no public name

_KINDS = "a file of this package, PyTorch, Keras (.keras, .h5) or ONNX, safetensors, or a pickle"
INTERRUPTED = 130  # the exit code of shells for SIGINT
DEFAULT_PICTURE, PICTURE_KINDS = "co2-forecast.png", (".png", ".pdf", ".svg")


def _picture(text: str) -> Path:
    """Parse the name of a picture that can be written, so that no training is lost to a typing error."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError(
            "matplotlib is not installed; get it with: pip install 'cython-lstm[plot]'"
        )
    path = Path(text)
    if path.suffix.lower() not in PICTURE_KINDS:
        raise argparse.ArgumentTypeError(
            f"expected a name that ends in {', '.join(PICTURE_KINDS)}, got {text!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, got {text!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file that can be written, got {text!r}")
    return path


def _count(low: int) -> Any:
    """Return a parser of integers that are at least `low`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {low}, got {text!r}")
        return number

    return parse


def _number(accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Return a parser of finite numbers that a condition accepts."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and accepts(number)):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return number

    return parse


_positive = _number(lambda number: number > 0, "a number above 0")
_not_negative = _number(lambda number: number >= 0, "a number of at least 0")
_part = _number(lambda number: 0 <= number <= 0.5, "a number from 0 to 0.5")


def _columns(text: str) -> tuple[str, ...]:
    """Parse names of columns, separated by commas."""
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected names separated by commas, each once, got {text!r}")
    return names


def _character(text: str) -> str:
    """Parse a separator."""
    found = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character, or tab, got {text!r}")
    return found


def _decimal(text: str) -> str:
    """Parse a decimal mark."""
    found = {"point": ".", "comma": ","}.get(text, text)
    if found not in (".", ","):
        raise argparse.ArgumentTypeError(f"expected '.' or ',', got {text!r}")
    return found


def _encoding(text: str) -> str:
    """Parse the name of an encoding that Python knows."""
    try:
        "".encode(text)
    except LookupError:
        raise argparse.ArgumentTypeError(
            f"expected an encoding such as utf-8, cp1252 or utf-16, got {text!r}"
        ) from None
    return text


def _activation(text: str) -> str | tuple[str, dict[str, float]]:
    """Parse the name of an activation, perhaps with values of its parameters."""
    name, _, rest = text.partition(":")
    try:
        pairs = [pair.split("=") for pair in rest.split(",")] if rest else []
        values = {key: float(value) for key, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected such as hard_sigmoid:alpha=0.2, got {text!r}") from None
    return (name, values) if values else name


def _demo(arguments: argparse.Namespace) -> int:
    """Run the demo, with a picture if there can be one."""
    picture, why_none = arguments.output, ""
    if picture is None:
        try:
            picture = _picture(DEFAULT_PICTURE)
        except argparse.ArgumentTypeError as error:
            why_none = str(error)
    return demo.run(arguments.epochs, arguments.seed, picture, why_none)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="forecast a real series, on the kernels and on their definition",
        description="Train a small LSTM to forecast the CO2 over Mauna Loa, "
        "and compare it with simple forecasts.  The same seed gives the same numbers.",
        epilog="Exit code 1: the LSTM does not beat the seasonal-naive forecast, "
        "or kernels and definition disagree.",
    )
    parser.add_argument(
        "--epochs", type=_count(1), default=100, metavar="N", help="training epochs (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=_count(0), default=0, metavar="N", help="of weights and batches (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=_picture,
        metavar="PATH",
        help=f"the picture, {', '.join(PICTURE_KINDS)} (default: {DEFAULT_PICTURE})",
    )
    parser.set_defaults(run=_demo)


def _info(_: argparse.Namespace) -> int:
    """Print what `clstm.show_config` returns."""
    for name, value in show_config().items():
        print(f"{name:13} {' '.join(value) if isinstance(value, list) else value}".rstrip())
    return 0


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="version, kernel build, threads and what the processor offers",
        description="Print version, kernel build, threads and what the processor offers, as "
        "clstm.show_config() returns them.",
    )
    parser.set_defaults(run=_info)


def _bench(arguments: argparse.Namespace) -> int:
    """Run the benchmark."""
    return benchmark.run(arguments, arguments.command_line)


def _add_bench(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="verify and time this and other libraries on this processor",
        description="Verify, then time, LSTMs: this package, its NumPy definition, and torch, onnxruntime, "
        "openvino and jax if they are installed.  "
        "Without options: a few rows of the table, in less than half a minute.",
        epilog="Exit code 1: this package computed something wrong.",
    )
    benchmark.add_options(parser)
    parser.set_defaults(run=_bench)


def _inspect(arguments: argparse.Namespace) -> int:
    """List what is in a file."""
    return _exchange.inspect(arguments.file, arguments.json)


def _add_inspect(commands: Commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="list every LSTM in a file of this or another system",
        description=f"List every LSTM in a file: {_KINDS}; its content tells which.  "
        "Of a .npz file the arrays are listed.",
        epilog="Exit code 1: the file cannot be read.",
    )
    parser.add_argument("file", metavar="FILE", help="of any name: the suffix does not matter")
    parser.add_argument("--json", action="store_true", help="print one object of JSON")
    parser.set_defaults(run=_inspect)


def _convert(arguments: argparse.Namespace) -> int:
    """Write an LSTM of one file into another."""
    return _exchange.convert(
        arguments.file, arguments.out, arguments.to, arguments.name, _keras_options(arguments)
    )


def _add_convert(commands: Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="write an LSTM of a file into a file of another kind",
        description=f"Write an LSTM of a file into another file.  IN is {_KINDS}.  OUT is replaced if it "
        "exists, after the new content has reached the disk.",
        epilog="Exit code 1: IN cannot be read, or OUT cannot be written or has no place for an option.",
    )
    parser.add_argument("file", metavar="IN")
    parser.add_argument("out", metavar="OUT", help="its name ends in .safetensors or .onnx")
    parser.add_argument(
        "--to",
        choices=_exchange.TARGETS,
        help="what OUT is: of this package (.safetensors, the default for it), with PyTorch's names "
        "(.safetensors), or ONNX (.onnx)",
    )
    _add_selection(parser)
    parser.set_defaults(run=_convert)


def _verify(arguments: argparse.Namespace) -> int:
    """Run an LSTM of a file here and where it comes from."""
    return _exchange.verify(arguments.file, arguments.name, _keras_options(arguments))


def _add_verify(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="run an LSTM of a file on random input, here and where it comes from",
        description="Run an LSTM of a file on random input: on the kernels, in their definition and, if it "
        f"is installed, in the system that wrote the file, which reads it, too.  FILE is {_KINDS}.",
        epilog="Exit code 1: the file cannot be read, or a difference is larger than promised.",
    )
    parser.add_argument("file", metavar="FILE")
    _add_selection(parser)
    parser.set_defaults(run=_verify)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which LSTM of a file is meant and what the file does not tell."""
    parser.add_argument(
        "--name", metavar="NAME", help="which LSTM, if there are several, as `clstm inspect` lists them"
    )
    keras = parser.add_argument_group("what a Keras file of weights alone does not tell")
    keras.add_argument(
        "--activation", type=_activation, metavar="NAME", help="of the candidate and the cell, such as tanh"
    )
    keras.add_argument(
        "--recurrent-activation",
        type=_activation,
        metavar="NAME",
        help="of the gates, such as sigmoid or hard_sigmoid:alpha=0.2, that of Keras 1 and 2; for that of "
        "Keras 3 say hard_sigmoid:alpha=0.16666667",
    )
    keras.add_argument(
        "--go-backwards", action=argparse.BooleanOptionalAction, help="whether it reads from the last step on"
    )


def _keras_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("activation", "recurrent_activation", "go_backwards")}


def _add_train(commands: Commands) -> None:
    parser = commands.add_parser(
        "train",
        usage="%(prog)s [options] DATA",
        help="train a model on a table, or on a text",
        description="Train a model on a table and save it with all that `clstm predict` needs.  What it "
        "learns is decided by the table and printed: if the target is the same in all rows of each group, a "
        "group is one sequence with one answer, for a classifier where that is text and for a regression "
        "where it is a number; any other target is a series, which is forecast.  With --text, learn to write "
        "as a text is written, character by character.",
        epilog="Exit code 1: DATA cannot be read or makes no sense, or the training failed.",
    )
    parser.add_argument("data", metavar="DATA", help="CSV or Parquet, a row for each time; or a text")
    parser.add_argument("--text", action="store_true", help="DATA is a text")
    _add_roles(parser.add_argument_group("the table"))
    _add_reading(parser, as_in_training=False)
    _add_training(parser.add_argument_group("the model and its training"))
    out = parser.add_argument_group("files")
    out.add_argument(
        "--output",
        type=Path,
        metavar="MODEL",
        help="the model (default: DATA's name with .safetensors, in this folder); an older model of this "
        "command is replaced, any other file is not",
    )
    _add_plot(out, "the learning curve")
    out.add_argument("--checkpoint", type=Path, metavar="DIR", help="keep all that a resumed training needs")
    out.add_argument("--resume", action="store_true", help="go on from the checkpoint in --checkpoint DIR")
    _add_json(out)
    parser.set_defaults(run=_train.run)


def _add_roles(table: argparse._ArgumentGroup) -> None:
    """Add the options that say what a table is about."""
    table.add_argument("--target", metavar="COL", help="the column to forecast, or to name for each group")
    table.add_argument("--group", metavar="COL", help="the column that tells series or sequences apart")
    table.add_argument(
        "--time", metavar="COL", help="the column of the times (default: none, rows are taken as they come)"
    )
    table.add_argument("--task", choices=_tasks.TASKS, help="what to learn (default: decided by the table)")
    table.add_argument(
        "--past",
        type=_columns,
        metavar="COLS",
        help="further columns to learn from, separated by commas, such as b,c (default: of sequences all "
        "that hold numbers, of a forecast none)",
    )
    table.add_argument(
        "--future", type=_columns, metavar="COLS", help="columns whose future is known, such as holidays"
    )
    table.add_argument(
        "--static", type=_columns, metavar="COLS", help="columns that are the same in all rows of a group"
    )
    table.add_argument(
        "--horizon",
        type=_count(1),
        metavar="N",
        help="steps to forecast at once (default: a year of months, a week of days, a day of hours and so "
        "on, less in short series)",
    )
    table.add_argument(
        "--input-steps",
        type=_count(1),
        metavar="N",
        help="steps that a forecast looks back (default: twice as many); of a text, characters through which "
        f"gradients go back (default: {_train.TEXT_STEPS})",
    )


def _add_training(model: argparse._ArgumentGroup) -> None:
    """Add the options of a model and its training."""

    def usual(name: str) -> str:
        told = {"a forecast": _train.FORECAST, "sequences": _train.SEQUENCES, "a text": _train.TEXT}
        found = {of: getattr(usual, name) for of, usual in told.items()}
        listed = ", ".join(f"{value:g} of {of}" for of, value in found.items() if value is not None)
        return f"(default: {listed})"

    model.add_argument(
        "--hidden-size", type=_count(1), metavar="N", help=f"units of a layer {usual('hidden_size')}"
    )
    model.add_argument("--layers", type=_count(1), default=1, metavar="N", help="LSTM layers (default: 1)")
    model.add_argument(
        "--epochs", type=_count(1), metavar="N", help=f"passes over the data, at most {usual('epochs')}"
    )
    model.add_argument(
        "--batch-size",
        type=_count(1),
        metavar="N",
        help=f"pieces of series, sequences or streams of a text at once {usual('batch_size')}",
    )
    model.add_argument("--lr", type=_positive, metavar="X", help=f"learning rate {usual('lr')}")
    model.add_argument(
        "--validation",
        type=_part,
        metavar="X",
        help="part that is held out to see how good the model is, 0 to 0.5: the end of series and texts, "
        f"some of the sequences {usual('validation')}; a forecast then learns it too",
    )
    model.add_argument(
        "--patience",
        type=_count(1),
        metavar="N",
        help=f"epochs without a better one on that part until training stops {usual('patience')}",
    )
    model.add_argument(
        "--seed", type=_count(0), default=0, metavar="N", help="of all that is random (default: 0)"
    )
    _add_threads(model)


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        usage="%(prog)s [options] MODEL [DATA]",
        help="forecast, classify or regress with a model of `clstm train`",
        description="Print what a model of `clstm train` says of a table, as CSV: for each series the "
        "forecast of what follows its last row, with the limits of intervals that hold 90 % of what comes; "
        "for each sequence its class or number.  Rows at the end of a series whose target is empty hold "
        "the future of the --future columns.  Without DATA a forecast goes on from the end of the training "
        "table.",
        epilog="Exit code 1: MODEL or DATA cannot be read, or do not fit each other.",
    )
    _add_model_and_data(parser, "where to write instead of stdout", nargs="?")
    _add_plot(parser, "the forecast")
    parser.set_defaults(run=_predict.predict)


def _add_backtest(commands: Commands) -> None:
    parser = commands.add_parser(
        "backtest",
        usage="%(prog)s [options] MODEL DATA",
        help="score a model of `clstm train` on a table whose targets are known",
        description="Compare what a model of `clstm train` says with what came true, and with a simple rule: "
        "a forecast from every row of the table that has enough before and behind it, what the training had "
        "seen apart from what is new; or a class or number for each sequence.",
        epilog="Exit code 1: MODEL or DATA cannot be read, or do not fit each other.",
    )
    _add_model_and_data(parser, "where to write every forecast beside what came true")
    _add_plot(parser, "the last forecasts that do not overlap")
    parser.set_defaults(run=_predict.backtest)


def _add_sample(commands: Commands) -> None:
    parser = commands.add_parser(
        "sample",
        help="write text with a model of `clstm train --text`",
        description="Write text with a model of `clstm train --text`.",
        epilog="Exit code 1: MODEL cannot be read, or does not know a character of the prompt.",
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what comes first (default: nothing)")
    parser.add_argument(
        "--length",
        type=_count(1),
        default=500,
        metavar="N",
        help="characters to write (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=_not_negative,
        default=1.0,
        metavar="X",
        help="below 1 more likely characters, 0 always the likeliest, above 1 more surprises (default: 1)",
    )
    parser.add_argument("--seed", type=_count(0), default=0, metavar="N", help="of the dice (default: 0)")
    _add_json(parser)
    parser.set_defaults(run=_predict.sample)


def _add_model_and_data(parser: argparse.ArgumentParser, output: str, **options: Any) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file of `clstm train`")
    parser.add_argument(
        "data", metavar="DATA", help="CSV or Parquet with the columns of the training", **options
    )
    _add_reading(parser)
    _add_threads(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"{output}; it is replaced")
    _add_json(parser)


def _add_reading(parser: argparse.ArgumentParser, *, as_in_training: bool = True) -> None:
    """Add the options that say how the text of a CSV is to be taken; None where the user does not say."""

    def usual(value: str) -> str:
        return f"(default: {'as in training' if as_in_training else value})"

    group, reading = parser.add_argument_group("how DATA is written"), _tables.Reading()
    group.add_argument(
        "--separator",
        type=_character,
        metavar="C",
        help=f"between the cells of a CSV, such as ; or tab {usual(reading.separator)}",
    )
    group.add_argument(
        "--decimal", type=_decimal, metavar="C", help=f"point or comma {usual(reading.decimal)}"
    )
    group.add_argument(
        "--encoding", type=_encoding, metavar="NAME", help=f"such as cp1252 {usual(reading.encoding)}"
    )
    group.add_argument(
        "--time-format",
        metavar="FORMAT",
        help=f"of times, such as %%d.%%m.%%Y {usual('ISO 8601, such as 2024-01-31, or numbers')}",
    )


def _add_threads(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--threads", type=_count(1), metavar="N", help="the kernels' threads (default: as `clstm info` says)"
    )


def _add_plot(parser: argparse._ActionsContainer, what: str) -> None:
    parser.add_argument(
        "--plot", type=_picture, metavar="PNG", help=f"draw {what}, {', '.join(PICTURE_KINDS)}"
    )


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one object of JSON")


COMMANDS = (
    _add_train, _add_predict, _add_backtest, _add_sample, _add_demo, _add_info, _add_bench, _add_inspect,
    _add_convert, _add_verify,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the name of the program; those of the process if omitted.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    SystemExit
        For ``--help``, ``--version`` and arguments that make no sense.

    Examples
    --------
    >>> from clstm.cli import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    version       ...
    0
    """
    parser = argparse.ArgumentParser(prog="clstm", description="An LSTM for the CPU, in NumPy's world.")
    parser.add_argument("--version", action="version", version=f"clstm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    for command in commands.choices.values():
        command.set_defaults(parser=command)
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser.parse_args(command_line, argparse.Namespace(command_line=command_line))
    if "run" not in parsed:
        parser.print_help()
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may have letters that a terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = parsed.run(parsed)
    except UsageError as error:
        if leads():
            parsed.parser.error(str(error))
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # of `clstm ... | head`, which has read enough
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is left to be flushed goes nowhere
        return 1
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        complain(str(reason))
        return 1
    except (FileFormatError, ImportError) as error:
        complain(str(error))
        return 1
    return code
