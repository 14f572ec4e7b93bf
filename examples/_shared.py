"""What the examples share: their options, and training on the long-term-dependency task.

The task: the first vector of a sequence names one of ten classes, noise follows, and in the end the class is
asked for. Only what a layer has carried all the way can tell.
"""

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clstm import nn
from clstm.datasets import long_term_dependency

CLASSES = 10
CHANCE = 1 / CLASSES
BATCH_SIZE = 32
TEST_SEQUENCES = 1000
UPDATES_BETWEEN_TESTS = 50


def options(description, *, seed=None, compare=False):
    """Read the command line: `quick` for a run of seconds, `output` for the folder that pictures go to.

    Given the default of a seed, there is `seed`, too; `compare` adds the comparison with torch.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smaller run, of seconds")
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="where pictures go (default: here)"
    )
    if seed is not None:
        parser.add_argument("--seed", type=int, default=seed, help=f"of everything random (default: {seed})")
    if compare:
        parser.add_argument("--compare", choices=["torch"], help="train the same model in torch beside it")
    arguments = parser.parse_args()
    if compare and arguments.compare and importlib.util.find_spec("torch") is None:
        parser.error("--compare torch: torch is not installed")
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def fit_of(arguments):
    """Return `SequenceModel.fit`, or what does the same in torch beside it, if the command line wants it."""
    if arguments.compare:
        from _torch import fit

        return fit
    return nn.SequenceModel.fit


def save(figure, path):
    """Write a picture and say where it is."""
    figure.savefig(path, dpi=80)
    print(f"Picture: {path}")


@dataclass
class Training:
    """What a training has come to."""

    accuracy: float  # the best of the tests
    updates: int  # how many it took, or all there were
    losses: list[float]  # one an update, in nats
    head: nn.Dense  # the read-out


def train(layer, seq_length, *, updates, lr, noise=0.1, enough=1.0, rng=0):
    """Train a layer (clstm.LSTM or clstm.RNN) and a dense read-out of its last hidden state.

    Each update sees fresh sequences.  It ends after the given number of updates, or when `enough` of the test
    sequences are right.
    """
    rng = np.random.default_rng(rng)
    head = nn.Dense(layer.hidden_size, CLASSES, dtype=layer.dtype, rng=rng)
    layers = [layer, head]
    optimiser = nn.Adam(layers, lr)
    x_test, classes_test = long_term_dependency(seq_length, TEST_SEQUENCES, CLASSES, noise=noise, rng=rng)
    accuracy, losses = 0.0, []
    while len(losses) < updates and accuracy < enough:
        x, classes = long_term_dependency(seq_length, BATCH_SIZE, CLASSES, noise=noise, rng=rng)
        y, _ = layer.forward(x)
        loss, dscores = nn.cross_entropy(head.forward(y[-1]), classes)
        losses.append(loss)
        dy = np.zeros_like(y)
        dy[-1] = head.backward(dscores)
        layer.backward(dy)
        nn.clip_grad_norm(layers, 1.0)
        optimiser.step()
        if len(losses) % UPDATES_BETWEEN_TESTS == 0:
            y_test, _ = layer(x_test)
            accuracy = max(accuracy, float(np.mean(head(y_test[-1]).argmax(axis=1) == classes_test)))
    return Training(accuracy, len(losses), losses, head)
