"""The command `clstm`: one function a command, listed in COMMANDS; each adds its options and names what runs.

A command returns the process's exit code: 0 when it did what it promises, 1 when not, 2 for arguments that
make no sense.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import FileFormatError, __version__, _exchange, demo, show_config
from .bench import command as benchmark

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # it has no public name

_KINDS = "a file of this package, PyTorch, Keras (.keras, .h5) or ONNX, safetensors, or a pickle"
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


COMMANDS = (_add_demo, _add_info, _add_bench, _add_inspect, _add_convert, _add_verify)


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
    except _exchange.UsageError as error:
        parsed.parser.error(str(error))
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        print(f"clstm: {reason}", file=sys.stderr)
        return 1
    except (FileFormatError, ImportError) as error:
        print(f"clstm: {error}", file=sys.stderr)
        return 1
    return code
