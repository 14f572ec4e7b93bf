"""The command `clstm`: one function a command, listed in COMMANDS; each adds its options and names what runs.

A command returns the process's exit code: 0 when it did what it promises, 1 when not, 2 for arguments that
make no sense.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import __version__, datasets, nn, plot, show_config
from .bench import command as benchmark
from .lstm import LSTM

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Array = NDArray[Any]

# The demo's task and model.  They were chosen on 1982 to 1991, with the model trained on the years before;
# the test part had no say in them.
INPUT_MONTHS, HORIZON = 24, 12
TEST_START = np.datetime64("1992-01")
HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE = 32, 32, 0.003
REFERENCE_EPOCHS = 3
# Kernels and definition agree to 1e-11 in one gradient; some tens of optimiser steps may stretch that, not
# past this.
LOSS_AGREEMENT = 1e-9
DEFAULT_PICTURE, PICTURE_KINDS = "co2-forecast.png", (".png", ".pdf", ".svg")


class _Windows(NamedTuple):
    """Windows over a series, relative to the last month that each knows: a rising level is nothing new."""

    x: Array  # (n, INPUT_MONTHS, 1)
    y: Array  # (n, HORIZON)
    last: Array  # (n, 1), in ppm

    @classmethod
    def over(cls, values: Array) -> _Windows:
        """Cut a series."""
        x, y = nn.windows(values, INPUT_MONTHS, HORIZON)
        last = x[:, -1]
        return cls(x - last[:, None], y - last, last)


def _with_constant(x: Array) -> Array:
    """Return windows (n, INPUT_MONTHS, 1) as the regressors of a linear forecast, (n, INPUT_MONTHS + 1)."""
    return np.concatenate([x[..., 0], np.ones((len(x), 1))], axis=1)


def _train(
    backend: str, windows: _Windows, scale: float, epochs: int, seed: int
) -> tuple[nn.SequenceModel, Array, float]:
    """Train the demo's model; the same seed gives the same initial weights and the same batches."""
    rng = np.random.default_rng(seed)
    lstm = LSTM(1, HIDDEN_SIZE, batch_first=True, rng=rng, backend=backend)
    model = nn.SequenceModel(lstm, nn.Dense(HIDDEN_SIZE, HORIZON, rng=rng))
    start = time.perf_counter()
    losses = model.fit(
        windows.x / scale,
        windows.y / scale,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        lr=LEARNING_RATE,
        rng=rng,
        progress=True,
    )
    return model, losses, time.perf_counter() - start


def _demo(arguments: argparse.Namespace) -> int:
    """Forecast the CO2 series and tell how well that went."""
    picture, why_none = arguments.output, ""
    if picture is None:
        try:
            picture = _picture(DEFAULT_PICTURE)
        except argparse.ArgumentTypeError as error:
            why_none = str(error)
    co2 = datasets.load_co2()
    split = int(np.searchsorted(co2.months, TEST_START))
    train = _Windows.over(co2.values[:split])
    test = _Windows.over(co2.values[split - INPUT_MONTHS :])
    scale = float(train.x.std())  # of the training part alone
    _say(
        f"CO2 at Mauna Loa, monthly means, {co2.months[0]} to {co2.months[-1]}, ppm.",
        f"Task: forecast {HORIZON} months at once from the {INPUT_MONTHS} months before.",
        f"Training: {len(train.x)} windows that end before {TEST_START}.  "
        f"Test: {len(test.x)} windows, one a month, that forecast {TEST_START} to {co2.months[-1]}.",
        "",
        f"Training on the kernels ({show_config()['build']}), float64:",
    )
    model, losses, seconds = _train("auto", train, scale, arguments.epochs, arguments.seed)
    epochs = min(REFERENCE_EPOCHS, arguments.epochs)
    _say("The same weights and batches on the NumPy definition:")
    _, reference_losses, reference_seconds = _train("numpy", train, scale, epochs, arguments.seed)
    difference = float(np.max(np.abs(losses[:epochs] / reference_losses - 1.0)))
    per_epoch, reference_per_epoch = seconds / arguments.epochs, reference_seconds / epochs
    _say(
        f"Loss: {losses[0]:.6g} in the first epoch, {losses[-1]:.6g} in the last.",
        "Largest relative difference between the two losses of an epoch, "
        f"epochs 1 to {epochs}: {difference:.1e}.",
        f"Time an epoch: kernels {per_epoch * 1e3:.1f} ms, "
        f"NumPy definition {reference_per_epoch * 1e3:.1f} ms, "
        f"ratio {reference_per_epoch / per_epoch:.1f}.",
        "",
    )

    # Each knows the last INPUT_MONTHS months and what the training part taught it, and nothing else.
    last_year, growth = test.x[:, -HORIZON:, 0], np.mean(train.y - train.x[:, -HORIZON:, 0])
    weights = np.linalg.lstsq(_with_constant(train.x), train.y, rcond=None)[0]
    forecasts = {
        "LSTM": model(test.x / scale) * scale,
        "seasonal naive": last_year,
        "seasonal naive with drift": last_year + growth,
        "linear regression": _with_constant(test.x) @ weights,
    }
    notes = {
        "seasonal naive": "the same month of the year before",
        "seasonal naive with drift": f"that plus {growth:.2f} ppm, "
        "the mean growth a year in the training part",
        "linear regression": "least squares on the windows that the LSTM was trained on",
    }
    errors = {name: float(np.sqrt(np.mean((forecast - test.y) ** 2))) for name, forecast in forecasts.items()}
    _say(f"Test error, root mean square over {len(test.x)} x {HORIZON} forecast months, ppm:")
    _say(*(f"  {name:26} {error:.3f}  {notes.get(name, '')}".rstrip() for name, error in errors.items()), "")

    whole_years = slice(0, None, HORIZON)  # windows whose forecasts follow each other without overlap
    names = ("LSTM", "seasonal naive")
    if picture is None:
        _say(f"No picture: {why_none}")
    else:
        _draw(picture, co2, split, {name: (forecasts[name] + test.last)[whole_years] for name in names})
        _say(f"Picture: {picture}")

    failed = []
    if not difference <= LOSS_AGREEMENT:
        failed.append(f"the losses of kernels and definition differ by more than {LOSS_AGREEMENT:g}")
    if not errors["LSTM"] < errors["seasonal naive"]:
        failed.append(f"the LSTM does not beat the seasonal-naive forecast with --epochs {arguments.epochs}")
    for reason in failed:
        print(f"clstm demo: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _draw(path: Path, co2: datasets.MonthlySeries, split: int, forecasts: dict[str, Array]) -> None:
    """Write the picture of the test part, with one year before it."""
    since = split - HORIZON
    axes = plot.forecast(
        co2.months[since:],
        co2.values[since:],
        forecasts,
        title=f"Monthly CO2 at Mauna Loa: each year forecast from the {INPUT_MONTHS} months before it",
        ylabel="CO2 (ppm)",
    )
    figure: Any = axes.figure
    figure.savefig(path, dpi=120)


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
        _say(f"{name:13} {' '.join(value) if isinstance(value, list) else value}".rstrip())
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


def _say(*lines: str) -> None:
    """Print lines at once, in order with the progress bar on the other stream."""
    print(*lines, sep="\n", flush=True)


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
