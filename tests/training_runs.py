"""Training runs that can be begun, killed and gone on with, for test_nn_resume.py.

As a script it makes one run, from the start or from its last checkpoint:
``training_runs.py NAME FOLDER OUT``.
"""

import os
import struct
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import clstm
from clstm import files, nn, parameters
from clstm.nn import checkpoints

EPOCHS = 5
N = 30  # sequences


@dataclass
class Run:
    """Arguments of `fit`; `own` are those that `resume` needs too, and what it needs beside them."""

    layers: list[Any]
    x: Any
    y: Any
    readout: str = "last"
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    classes: tuple[type, ...] = ()

    def fit(self, callbacks=(), **more):
        model = nn.SequenceModel(self.layers, self.readout)
        own = {"callbacks": [*self.own.get("callbacks", ()), *callbacks]}
        options = {"epochs": EPOCHS} | self.options | self.data | self.own | own | more
        return model, model.fit(self.x, self.y, **options)

    def resume(self, folder, callbacks=(), **more):
        own = self.own | {"callbacks": [*self.own.get("callbacks", ()), *callbacks]}
        epochs = self.options.get("epochs", EPOCHS)
        options = {"epochs": epochs, "classes": self.classes} | self.data | own | more
        return nn.resume(folder, self.x, self.y, **options)


class End:
    """Keeps what a run has come to, but for times and places."""

    def on_train_end(self, training):
        state = training.state()
        del state["history"]["seconds"], state["data"], state["settings"]["every"]
        self.state = state | {"weights": [layer.flat_params.copy() for layer in training.model.layers]}


class Killed(BaseException):
    pass


class Killer:
    """Ends a run after some batches as a signal would."""

    def __init__(self, batches):
        self.left = batches

    def on_batch_end(self, _training):
        self.left -= 1
        if not self.left:
            raise Killed


class Progress:
    """Tells the process that started this one of each batch."""

    def on_batch_end(self, _training):
        print(flush=True)


def form(tree):
    """Return a tree in a form that compares types and bits."""
    if isinstance(tree, dict):
        return {name: form(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(form(value) for value in tree)
    if isinstance(tree, np.ndarray | np.generic):
        return type(tree), tree.dtype, tree.shape, tree.tobytes()
    return type(tree), struct.pack(">d", tree) if isinstance(tree, float) else tree


# -------------------------------------------------------------------------------------------------- the runs


def _random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def _unequal(features, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, features)) for length in rng.integers(1, 9, N)]


def plain():
    layers = [clstm.LSTM(3, 4, batch_first=True, rng=0), nn.Dense(4, 2, rng=1)]
    lengths = np.random.default_rng(0).integers(1, 7, N)
    options = {"rng": 0, "batch_size": 7}
    return Run(layers, _random(N, 6, 3), _random(N, 2), options=options, data={"lengths": lengths})


def dropouts():
    lstm = clstm.LSTM(
        3,
        4,
        2,
        dropout=0.3,
        input_dropout=0.2,
        recurrent_dropout=0.2,
        zoneout=(0.1, 0.2),
        bidirectional=True,
        dtype="float32",
        rng=0,
    )
    layers = [lstm, nn.Dropout(0.5, rng=1), nn.Dense(8, 2, dtype="float32", rng=2)]
    return Run(layers, _unequal(3), _random(N, 2), "mean", {"rng": 3, "batch_size": 7})


def definition():
    """Run on the definition, whose last bits are not those of the kernels."""
    layers = [clstm.LSTM(3, 16, backend="numpy", rng=0), nn.Dense(16, 2, backend="numpy", rng=1)]
    return Run(layers, _unequal(3), _random(N, 2), options={"rng": 3, "batch_size": 7})


def one_generator():
    rng = np.random.default_rng(0)
    layers = [
        clstm.LSTM(3, 4, 2, dropout=0.3, rng=rng),
        nn.Dropout(0.4, rng=rng),
        clstm.RNN(4, 3, rng=rng),
        nn.Dense(3, 2, rng=rng),
    ]
    return Run(layers, _unequal(3), _random(N, 2), options={"rng": rng, "batch_size": 7})


def momentum():
    optimiser = partial(nn.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    layers = [clstm.RNN(3, 4, rng=0), nn.Dropout(0.2, rng=1), nn.Dense(4, 2, rng=1)]
    options = {"rng": 5, "batch_size": 4, "accumulate": 3, "optimiser": optimiser, "max_value": 0.5}
    weights = np.random.default_rng(1).uniform(0, 2, N)
    return Run(layers, _unequal(3), _random(N, 2), options=options, data={"sample_weight": weights})


def schedules():
    schedule = nn.WarmUp(7, then=nn.CosineDecay(EPOCHS, final=0.1))
    layers = [clstm.LSTM(3, 4, rng=0), nn.Dense(4, 2, rng=1)]
    optimiser = nn.AdamW(layers, lr=0.05)
    optimiser.lr = 0.03  # another one than the class was made with
    options = {"rng": 2, "batch_size": 8, "optimiser": optimiser, "schedule": schedule}
    return Run(layers, _unequal(3), _random(N, 2), options=options)


def plateaus():
    layers = [clstm.LSTM(3, 4, rng=0), nn.Dense(4, 2, rng=1)]
    options = {
        "rng": 2,
        "batch_size": 5,
        "lr": 0.2,
        "validation_split": 0.3,
        "schedule": nn.ReduceOnPlateau(factor=0.5, patience=1),
        "early_stopping": nn.EarlyStopping(patience=3),
        "epochs": 12,
    }
    return Run(layers, _unequal(3), _random(N, 2), options=options)


def pieces():
    optimiser, loss = partial(nn.RMSProp, lr=0.01, momentum=0.5), partial(nn.huber_loss, delta=0.5)
    x = _unequal(3)
    layers = [clstm.LSTM(3, 4, recurrent_dropout=0.3, rng=0), nn.Dense(4, 2, rng=1)]
    options = {"rng": 2, "batch_size": 7, "optimiser": optimiser, "tbptt": 3, "loss": loss}
    return Run(layers, x, [_random(len(steps), 2) for steps in x], "each", options)


def classes():
    rng = np.random.Generator(np.random.MT19937(0))
    texts = [rng.integers(0, 9, length) for length in rng.integers(1, 9, N)]
    layers = [nn.Embedding(9, 3, rng=0), clstm.LSTM(3, 4, rng=0), nn.Dense(4, 3, rng=1)]
    options = {"rng": rng, "batch_size": 7, "loss": "cross_entropy"}
    held_out = (texts[:5], [0, 1, 2, 0, 1])
    y = np.arange(N) % 3
    return Run(layers, texts, y, options=options, data={"validation_data": held_out})


class Descent:
    """An optimiser of somebody's own."""

    def __init__(self, layers):
        self.layers, self.lr, self.mean = list(layers), 0.1, [0.0 for _ in layers]

    def step(self):
        for n, layer in enumerate(self.layers):
            self.mean[n] = self.mean[n] * 0.9 + float(np.abs(layer.flat_grads).sum())
            layer.flat_params -= self.lr * layer.flat_grads / (1 + self.mean[n])

    def state_dict(self):
        return {"lr": self.lr, "mean": list(self.mean)}

    def load_state_dict(self, state_dict):
        self.lr, self.mean = state_dict["lr"], list(state_dict["mean"])


class Zigzag:
    """A schedule of somebody's own."""

    def __init__(self):
        self.epochs = 0

    def factor(self, epoch, update):
        return 1.0 / (1 + self.epochs + update % 3)

    def end_epoch(self, metrics):
        self.epochs += metrics["loss"] < 10

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict):
        self.epochs = state_dict["epochs"]


class Watch(nn.EarlyStopping):
    """Early stopping of somebody's own."""


class Noise:
    """A callback that changes the weights by what it draws, and counts in an odd place."""

    def __init__(self):
        self.rng, self.seen = np.random.default_rng(9), {"epochs": (0,), "largest": np.float32(0)}

    def on_batch_end(self, training):
        training.model.layers[-1].flat_params[0] += 0.01 * self.rng.standard_normal()

    def on_epoch_end(self, training):
        largest = np.float32(np.abs(training.model.layers[0].flat_params).max())
        self.seen = {"epochs": (*self.seen["epochs"], training.epoch), "largest": largest}

    def state_dict(self):
        return {"rng": checkpoints.generator_state(self.rng), "seen": self.seen}

    def load_state_dict(self, state_dict):
        checkpoints.set_generator_state(self.rng, state_dict["rng"])
        self.seen = state_dict["seen"]


class Scale(parameters.Saved):
    """A layer of somebody's own."""

    file_class = "Scale"

    def __init__(self):
        self.flat_params, self.flat_grads = np.ones(1), np.zeros(1)

    def __call__(self, x):
        return x * self.flat_params[0]

    def forward(self, x):
        self.x = x
        return self(x)

    def backward(self, dy, accumulate=False):
        self.flat_grads[0] = (dy * self.x).sum() + accumulate * self.flat_grads[0]
        return dy * self.flat_params[0]

    def file_content(self):
        return {}, {"scale": self.flat_params.copy()}

    @classmethod
    def check_options(cls, options):
        assert not options

    @classmethod
    def from_file(cls, arguments, shapes, read):
        made = cls()
        made.flat_params[...] = read()["scale"]
        return made


def fourth_power(prediction, target):
    difference = prediction - target
    return float((difference**4).mean()), 4 * difference**3 / difference.size


def own_parts():
    layers = [clstm.LSTM(3, 4, rng=0), Scale(), nn.Dense(4, 2, rng=1)]
    own = {"loss": fourth_power, "optimiser": Descent, "schedule": Zigzag(), "callbacks": [Noise()]}
    own["early_stopping"] = Watch(patience=1000)
    options = {"rng": 2, "batch_size": 7, "validation_split": 0.2}
    return Run(layers, _unequal(3), _random(N, 2), options=options, own=own, classes=(Scale,))


def everything():
    rng = np.random.Generator(np.random.Philox(7))
    layers = [
        clstm.LSTM(3, 6, 2, dropout=0.2, zoneout=(0.1, 0.1), rng=rng),
        nn.Dropout(0.2, rng=rng),
        clstm.RNN(6, 4, rng=1),
        nn.Dense(4, 2, rng=1),
    ]
    options = {
        "rng": rng,
        "batch_size": 3,
        "accumulate": 2,
        "optimiser": partial(nn.SGD, lr=0.1, momentum=0.8),
        "schedule": nn.WarmUp(5, then=nn.ReduceOnPlateau(factor=0.7, patience=1)),
        "early_stopping": nn.EarlyStopping(patience=1000),
        "validation_split": 0.2,
        "epochs": 40,
    }
    data = {"sample_weight": np.random.default_rng(1).uniform(0, 2, N)}
    return Run(layers, _unequal(3), _random(N, 2), options=options, data=data, own={"callbacks": [Noise()]})


RUNS = {
    made.__name__: made
    for made in (
        plain, dropouts, definition, one_generator, momentum, schedules, plateaus, pieces, classes,
        own_parts, everything,
    )
}  # fmt: skip


def main(name, folder, out):
    run, end = RUNS[name](), End()
    if os.path.isdir(folder) and checkpoints.CheckpointFolder(folder, 1).numbers():
        run.resume(folder, [end, Progress()])
    else:
        run.fit([end, Progress()], checkpoint=folder, every=4)
    files.write(out, "Outcome", *checkpoints.pack(end.state), "0.0.0")


if __name__ == "__main__":
    main(*sys.argv[1:])
