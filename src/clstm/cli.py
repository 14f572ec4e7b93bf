"""The command `clstm`: one function a command, listed in COMMANDS; each adds its options and names what runs.

A command returns the process's exit code: 0 when it did what it promises, 1 when not, 2 for arguments that
make no sense.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, demo, show_config
from .bench import command as benchmark

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # it has no public name

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
    parser = commands.add_parser("info", help="version, kernel build, threads and what the processor offers")
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


COMMANDS = (_add_demo, _add_info, _add_bench)


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
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser.parse_args(command_line, argparse.Namespace(command_line=command_line))
    if "run" not in parsed:
        parser.print_help()
        return 0
    try:
        code: int = parsed.run(parsed)
    except OSError as error:
        print(f"clstm: {error}", file=sys.stderr)
        return 1
    return code
