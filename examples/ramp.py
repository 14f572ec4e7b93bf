"""A NumPy class with one import changed: it learns to continue a ramp, with the losses of the original.

Windows of 250 numbers in a row, divided by 1000, and the number that follows; one window an epoch, plain SGD.
It also measures how many of the 250 numbers the trained forecast depends on.
"""

import sys

import numpy as np
from _shared import options, save
from matplotlib.figure import Figure

from clstm import plot
from clstm.compat.sequence_regressor import LSTM

STEPS, UNITS, SCALE, LAST_START = 250, 100, 1000, 700
LEARNING_RATE = 0.05
ASKED_FOR = 101  # where the window begins whose continuation is asked for in the end
# Of the original: mean loss of the last 100 epochs, by number of epochs.
RECORDED_LOSS = {300: "0.017", 5000: "8.9e-07"}
RECORDED_FORECAST = "350.75"  # after 5000 epochs


def window(start):
    """Return the numbers from start on, as the class takes them."""
    return (np.arange(start, start + STEPS) / SCALE).reshape(STEPS, 1, 1)


def train(model, epochs):
    """Train on one random window an epoch and return the losses."""
    losses = []
    for _ in range(epochs):
        start = np.random.randint(1, LAST_START + 1)  # noqa: NPY002  # as the original draws
        y_true = (start + STEPS) / SCALE
        y_pred = model.forward(window(start))
        losses.append((0.5 * (y_pred - y_true) ** 2).item())
        model.backward(y_true, y_pred, lr=LEARNING_RATE)
    return losses


def forecast(model, x):
    """Return the number that follows a window."""
    return SCALE * model.forward(x).item()


def draw(losses, model):
    """Draw the losses, and the forecast after some of the windows of the training."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    tens = np.reshape(losses, (-1, 10)).mean(axis=1)
    plot.losses(tens, axes=left, title="Training", xlabel="tens of epochs", ylabel="mean loss of ten epochs")
    starts = range(1, LAST_START + 1, 25)
    numbers = np.arange(starts[0], starts[-1] + STEPS + 1, 25)
    forecasts = [forecast(model, window(start)) for start in starts]
    title = f"The number after a window of {STEPS}"
    plot.forecast(numbers, numbers, {"forecast": forecasts}, axes=right, title=title)
    return figure


def main():
    """Train, forecast, measure and draw."""
    arguments = options(__doc__)
    epochs = 300 if arguments.quick else 5000
    np.random.seed(42)  # noqa: NPY002  # the generator that the class draws its weights from
    model = LSTM(input_dim=1, hidden_dim=UNITS, seq_len=STEPS)
    losses = train(model, epochs)
    mean_loss = f"{np.mean(losses[-100:]):.2g}"
    print(
        f"{epochs} epochs.  Mean loss of the first 100: {np.mean(losses[:100]):.2g}, the last: {mean_loss}."
    )

    x = window(ASKED_FOR)
    continued, expected = forecast(model, x), ASKED_FOR + STEPS
    print(f"After {ASKED_FOR} ... {expected - 1} comes {expected}; the forecast is {continued:.2f}.")
    for kept in (200, 50, 25, 10):
        shortened = np.concatenate([np.zeros_like(x[:-kept]), x[-kept:]])
        change = forecast(model, shortened) - continued
        print(f"With zeros in place of all but the last {kept} of {STEPS}: {change:+.1e}.")
    save(draw(losses, model), arguments.output / "ramp.png")

    holds = mean_loss == RECORDED_LOSS[epochs] and (
        arguments.quick or f"{continued:.2f}" == RECORDED_FORECAST
    )
    print("As recorded of the original." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
