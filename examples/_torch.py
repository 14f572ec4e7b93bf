"""The same model in torch, trained beside ours: what the examples do with ``--compare torch``.

It begins with the same weights and sees the same batches with the same optimiser, an epoch after each of
ours, so that both meet the same minutes of a busy machine.
"""

import time

import numpy as np
import torch

import clstm


class Twin(torch.nn.Module):
    """An LSTM and a dense layer, behind an embedding or not, with the weights of a `SequenceModel`."""

    def __init__(self, model):
        super().__init__()
        (lstm, dense), dtype = model.layers[-2:], getattr(torch, model.dtype.name)
        self.each, self.embedding = model.readout == "each", torch.nn.Identity()
        if model.takes_indices:
            table = torch.tensor(model.layers[0].params["weight"])
            self.embedding = torch.nn.Embedding.from_pretrained(table, freeze=False)
        self.lstm = torch.nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True, dtype=dtype)
        self.lstm.load_state_dict({name: torch.tensor(value) for name, value in lstm.to_torch().items()})
        self.lstm.bias_hh_l0.requires_grad = False  # two biases would learn twice as fast as our one
        self.dense = torch.nn.Linear(lstm.hidden_size, len(dense.params["bias"]), dtype=dtype)
        self.dense.load_state_dict({name: torch.tensor(value) for name, value in dense.params.items()})

    def forward(self, x, state=None):
        """Return scores (N, O), or (N, T, O), and the state."""
        y, state = self.lstm(self.embedding(x), state)
        return self.dense(y if self.each else y[:, -1]), state


class Beside:
    """A callback of `fit` that trains the twin with Adam; x (N, T, ...) and classes as `fit` has them.

    Attributes
    ----------
    losses, seconds : list of float
        Of each epoch.
    """

    def __init__(self, model, x, y, lr, rng):
        torch.set_num_threads(clstm.get_num_threads())
        self.twin, self.lr, self.rng = Twin(model), lr, np.random.default_rng(rng)
        self.weights = [weight for weight in self.twin.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.Adam(self.weights, lr)
        self.x, self.y = torch.tensor(model.convert("x", x)), torch.tensor(y)
        self.losses, self.seconds, self.update = [], [], 0

    def on_epoch_end(self, training):
        """Train for an epoch, too."""
        start, settings, losses = time.perf_counter(), training.settings, []
        batches = torch.from_numpy(self.rng.permutation(len(self.x))).split(settings.batch_size)
        for n, rows in enumerate(batches):
            pieces, targets, state = [self.x[rows]], [self.y[rows]], None
            if settings.tbptt:
                pieces, targets = (whole[0].split(settings.tbptt, dim=1) for whole in (pieces, targets))
            for piece, target in zip(pieces, targets, strict=True):
                factor = training.schedule.factor(training.epoch + n / len(batches), self.update)
                self.optimiser.param_groups[0]["lr"] = self.lr * factor
                scores, state = self.twin(piece, state)
                state = tuple(part.detach() for part in state)
                loss = torch.nn.functional.cross_entropy(scores.flatten(0, -2), target.flatten())
                self.optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.weights, settings.max_norm)
                self.optimiser.step()
                self.update += 1
                losses.append((loss.item(), target.numel()))
        values, counts = zip(*losses, strict=True)
        self.losses.append(np.average(values, weights=counts))
        self.seconds.append(time.perf_counter() - start)


def fit(model, x, y, *, lr, rng, **others):
    """Call `fit` of a model with torch beside it, and print what came of both; "torch" is its loss."""
    beside = Beside(model, x, y, lr, rng)
    history = model.fit(x, y, lr=lr, rng=rng, callbacks=[beside], **others)
    ours, theirs = (np.median(seconds) for seconds in (history["seconds"], beside.seconds))
    first, last = (f"{beside.losses[n]:.6g}, ours {history['loss'][n]:.6g}" for n in (0, -1))
    print(f"torch {torch.__version__} beside it: after the first epoch a loss of {first}; in the end {last}.")
    threads = torch.get_num_threads()
    print(f"An epoch takes {theirs:.3f} s, ours {ours:.3f} s: {theirs / ours:.2f}:1, threads: {threads}.")
    history["torch"] = beside.losses
    return history
