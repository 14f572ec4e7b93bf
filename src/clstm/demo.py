"""What `clstm demo` does: train on a real series, compare with the definition and simple forecasts, draw.

cli.py reads the command line; what comes from there makes sense.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import datasets, nn, plot, show_config
from .lstm import LSTM

Array = NDArray[Any]

# Task and model.  They were chosen on 1982 to 1991, with the model trained on the years before; the test part
# had no say in them.
INPUT_MONTHS, HORIZON = 24, 12
TEST_START = np.datetime64("1992-01")
HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE = 32, 32, 0.003
REFERENCE_EPOCHS = 3
# Kernels and definition agree to 1e-11 in one gradient; some tens of optimiser steps may stretch that, not
# past this.
LOSS_AGREEMENT = 1e-9


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
    model = nn.SequenceModel([lstm, nn.Dense(HIDDEN_SIZE, HORIZON, rng=rng)])
    start = time.perf_counter()
    history = model.fit(
        windows.x / scale,
        windows.y / scale,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        lr=LEARNING_RATE,
        rng=rng,
        progress=True,
    )
    return model, np.array(history["loss"]), time.perf_counter() - start


def run(epochs: int, seed: int, picture: Path | None, why_none: str = "") -> int:
    """Forecast the CO2 series and tell how well that went.

    Parameters
    ----------
    epochs, seed : int
        Of the training.
    picture : Path or None
        The file to draw to; its ending says as what.
    why_none : str
        What to say where there is no picture.

    Returns
    -------
    int
        The exit code.
    """
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
    model, losses, seconds = _train("auto", train, scale, epochs, seed)
    compared = min(REFERENCE_EPOCHS, epochs)
    _say("The same weights and batches on the NumPy definition:")
    _, reference_losses, reference_seconds = _train("numpy", train, scale, compared, seed)
    difference = float(np.max(np.abs(losses[:compared] / reference_losses - 1.0)))
    per_epoch, reference_per_epoch = seconds / epochs, reference_seconds / compared
    _say(
        f"Loss: {losses[0]:.6g} in the first epoch, {losses[-1]:.6g} in the last.",
        "Largest relative difference between the two losses of an epoch, "
        f"epochs 1 to {compared}: {difference:.1e}.",
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
        failed.append(f"the LSTM does not beat the seasonal-naive forecast with --epochs {epochs}")
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


def _say(*lines: str) -> None:
    """Print lines at once, in order with the progress bar on the other stream."""
    print(*lines, sep="\n", flush=True)
