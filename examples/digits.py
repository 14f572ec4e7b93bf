"""Read handwritten digits row by row, from top to bottom, and tell at the end which ones they are.

The images are scikit-learn's own, 8 rows of 8 pixels.  A logistic regression sees all 64 pixels at once.
"""

import sys

import numpy as np
from _shared import fit_of, options, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import clstm
from clstm import nn, plot

ROWS, PIXELS, CLASSES = 8, 8, 10
UNITS, RATE, EPOCHS = 128, 0.01, 30
ENOUGH = 0.96  # share of the held-out images


def images():
    """Return images (N, 8, 8) and digits (N,) to learn from, and those held out: always the same quarter."""
    x, y = load_digits(return_X_y=True)
    x = (x / x.max()).reshape(-1, ROWS, PIXELS)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    return (x, y), (x_test, y_test)


def draw(losses, images, digits, told):
    """Draw the training, and the images (N, 8, 8) that are told wrong."""
    curves, mistakes = (figure := Figure(figsize=(12, 4.5), layout="constrained")).subfigures(1, 2)
    plot.losses(losses, axes=curves.subplots(), title="Cross-entropy of the training", ylabel="nats")
    mistakes.suptitle("Held out and told wrong")
    fields = mistakes.subplots(2, 5).ravel()
    for axes in fields:
        axes.set_axis_off()
    for axes, n in zip(fields, np.flatnonzero(told != digits), strict=False):
        axes.imshow(images[n], cmap="gray_r")
        axes.set_title(f"{digits[n]} as {told[n]}")
    return figure


def main():
    """Train, compare with the regression, and draw."""
    arguments = options(__doc__, seed=0, compare=True)
    epochs = 12 if arguments.quick else EPOCHS
    (x, y), (x_test, y_test) = images()
    regression = LogisticRegression(max_iter=1000).fit(x.reshape(len(x), -1), y)
    score = regression.score(x_test.reshape(len(x_test), -1), y_test)
    print(f"A logistic regression tells {score:.1%} of {len(y_test)} held-out images right.")

    rng = np.random.default_rng(arguments.seed)
    lstm = clstm.LSTM(PIXELS, UNITS, batch_first=True, dtype=np.float32, rng=rng)
    model = nn.SequenceModel([lstm, nn.Dense(UNITS, CLASSES, dtype=np.float32, rng=rng)])
    history = fit_of(arguments)(
        model, x, y, epochs=epochs, loss="cross_entropy", lr=RATE, schedule=nn.CosineDecay(epochs),
        rng=arguments.seed,
    )  # fmt: skip
    told = model.predict(x_test).argmax(axis=1)
    share = np.mean(told == y_test)
    print(f"The LSTM tells {share:.1%}, after {epochs} epochs of training: {sum(history['seconds']):.1f} s.")
    losses = {"clstm": history["loss"]} | ({"torch": history["torch"]} if arguments.compare else {})
    save(draw(losses, x_test, y_test, told), arguments.output / "digits.png")

    holds = share >= ENOUGH and (arguments.quick or share > score)
    print("It reads." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
