"""Whole training epochs and generation: `SequenceModel` beside the kernels alone, and beside PyTorch's loops.

    python -m pip install torch==2.13.0
    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/training.py --budget 5

An epoch is everything: the order, the batches, forward, loss, backward, clipping, Adam.  Models of both
libraries begin with the same weights and see the same batches; their losses over the first epochs are
compared before anything is timed.  "kernels" are the calls of the LSTM's and the read-out's passes of such an
epoch and nothing else.  Generation is DeepAR's with its defaults, and a character model that draws what it
writes.  Contestants take turns; ratios are medians over the rounds.
"""

import argparse
import functools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import torch

import clstm
from clstm import nn
from clstm.bench.timing import interleave
from clstm.cells import Schedule

# N sequences of T steps of I features, H units, O classes, batches of B; the least ratio to torch.
EPOCHS = {
    "digits, 8x8 images row by row": (1437, 8, 8, 64, 10, 32, 1.5),
    "digits, 128 units": (1437, 8, 8, 128, 10, 32, 1.5),
    "32 50 64 64": (320, 50, 64, 64, 10, 32, 1.05),
    "32 50 128 128": (320, 50, 128, 128, 10, 32, 1.05),
    "32 50 256 256": (320, 50, 256, 256, 10, 32, 1.0),
    "1 250 128 128": (4, 250, 128, 128, 10, 1, 1.0),
}
KERNELS_GOAL, GENERATION_GOAL = 1.1, 5.0
LOSS_AGREEMENT = 1e-4  # relative, of float32 losses over the first epochs


class Epoch:
    """An epoch of a classifier of sequences, by `fit`, by the kernels alone, by torch."""

    def __init__(self, N, T, I, H, O, B):  # noqa: E741
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((N, T, I)).astype("float32")
        self.y = rng.integers(0, O, N)
        self.B, self.epoch = B, 0
        lstm = clstm.LSTM(I, H, batch_first=True, dtype="float32", rng=1)
        self.model = nn.SequenceModel([lstm, nn.Dense(H, O, dtype="float32", rng=2)])
        self.optimiser = nn.Adam(self.model.layers)
        self._torch(I, H, O)
        self.piece = np.ascontiguousarray(self.x[:B].swapaxes(0, 1))

    def _torch(self, I, H, O):  # noqa: E741
        lstm, dense = self.model.layers
        self.net, self.head = torch.nn.LSTM(I, H, batch_first=True), torch.nn.Linear(H, O)
        named = {name: torch.from_numpy(value) for name, value in lstm.state_dict().items()}
        bias = named.pop("bias_l0")
        self.net.load_state_dict(named | {"bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
        self.net.bias_hh_l0.requires_grad_(False)  # there is one bias here
        self.head.load_state_dict({name: torch.from_numpy(v) for name, v in dense.state_dict().items()})
        self.weights = [p for module in (self.net, self.head) for p in module.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.weights)
        self.x_torch, self.y_torch = torch.from_numpy(self.x), torch.from_numpy(self.y)

    def fit(self, epochs=3):
        """Return the loss of the first of some epochs."""
        self.epoch += 1
        return self.model.fit(
            self.x, self.y, epochs=epochs, batch_size=self.B, loss="cross_entropy", optimiser=self.optimiser,
            rng=self.epoch,
        )["loss"][0]  # fmt: skip

    def torch(self, epoch=0):
        """Return the loss of one epoch."""
        order, total = np.random.default_rng(epoch).permutation(len(self.x)), 0.0
        for start in range(0, len(order), self.B):
            rows = torch.from_numpy(order[start : start + self.B])
            self.adam.zero_grad()
            y, _ = self.net(self.x_torch[rows])
            loss = torch.nn.functional.cross_entropy(self.head(y[:, -1]), self.y_torch[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.adam.step()
            total += loss.item() * len(rows)
        return total / len(order)

    def kernels(self):
        """Compute as many batches as an epoch has, of full size but for the last."""
        lstm, dense = self.model.layers
        for start in range(0, len(self.x), self.B):
            B = min(self.B, len(self.x) - start)
            x, state = self.piece[:, :B], lstm.zero_state(B)
            schedule = Schedule(np.full(B, len(x)), False, None)
            _, final, tape = lstm.forward_steps(x, state, schedule)
            scores = dense.forward(final[0][0], copy=False)
            state[0][0] = dense.backward(scores)
            lstm.backward_steps(tape, None, state, input_gradient=False)


def deepar():
    """Return `generate` and torch's loop: 2 layers of 40, 100 samples of 32 series, 24 steps."""
    B, S, steps, H = 32, 100, 24, 40
    lstm = clstm.LSTM(1, H, 2, batch_first=True, dtype="float32", rng=0)
    model = nn.SequenceModel([lstm, nn.Dense(H, 2, dtype="float32", rng=1)], "each")
    x = np.random.default_rng(0).standard_normal((B, 48, 1)).astype("float32")
    net, head = torch.nn.LSTM(1, H, 2, batch_first=True), torch.nn.Linear(H, 2)

    def draw(output, _, rng):
        return output[:, :1] + np.exp(output[:, 1:]) * rng.standard_normal((len(output), 1), np.float32)

    def loop():
        y, state = net(torch.from_numpy(x))
        state = tuple(part.repeat_interleave(S, 1) for part in state)
        output, drawn = head(y[:, -1]).repeat_interleave(S, 0), []
        for _ in range(steps):
            drawn.append(output[:, :1] + torch.exp(output[:, 1:]) * torch.randn(B * S, 1))
            y, state = net(drawn[-1][:, None], state)
            output = head(y[:, -1])
        return torch.stack(drawn)

    return functools.partial(model.generate, x, steps, draw, samples=S, rng=0), loop


def characters():
    """Return `generate` and torch's loop: 96 characters, 256 units, 200 steps of one text."""
    V, E, H, steps = 96, 64, 256, 200
    layers = [nn.Embedding(V, E, dtype="float32", rng=0), clstm.LSTM(E, H, dtype="float32", rng=1)]
    model = nn.SequenceModel([*layers, nn.Dense(H, V, dtype="float32", rng=2)], "each")
    embedding, net, head = torch.nn.Embedding(V, E), torch.nn.LSTM(E, H), torch.nn.Linear(H, V)

    def loop():
        state, character, drawn = None, torch.tensor([1]), []
        for _ in range(steps):
            y, state = net(embedding(character)[None], state)
            character = torch.multinomial(torch.softmax(head(y[0]), -1)[0], 1)
            drawn.append(character)
        return torch.stack(drawn)

    return functools.partial(model.generate, [1], steps, rng=0), loop


def three_times(call):
    """Call as often as `Epoch.fit` has epochs."""
    for _ in range(3):
        call()


def turns(budget, **calls):
    """Time calls in turns."""
    timed = {name: SimpleNamespace(call=call, scope=nullcontext) for name, call in calls.items()}
    return interleave(timed, budget, 5)


def verdict(reached, goal, *, at_most=False):
    """Return a ratio with its goal, and whether it is met."""
    met = reached <= goal if at_most else reached >= goal
    return f"{reached:5.2f}x ({goal:g}: {'yes' if met else 'no'})"


def main():
    """Verify, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=5.0, help="seconds a row (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of both libraries (default: 1)")
    parser.add_argument("--rows", default="", help="those with this in their names")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clstm.set_num_threads(arguments.threads)
    build = clstm.show_config()["build"]
    print(f"torch {torch.__version__}, clstm {clstm.__version__}, build {build}; {vars(arguments)}\n")
    print(f"{'an epoch':32} {'fit, ms':>9} {'over kernels':>20} {'torch over fit':>20}   losses")
    for name, (*sizes, goal) in EPOCHS.items():
        if arguments.rows in name:
            row = Epoch(*sizes)
            losses = [(row.fit(1), row.torch(epoch)) for epoch in range(1, 4)]
            off = max(abs(ours / theirs - 1) for ours, theirs in losses)
            assert off <= LOSS_AGREEMENT, f"{name}: the losses differ: {losses}"
            times = turns(
                arguments.budget,
                fit=row.fit,
                **{
                    name: functools.partial(three_times, call)
                    for name, call in (("kernels", row.kernels), ("torch", row.torch))
                },
            )
            print(
                f"{name:32} {1e3 * times['fit'].median / 3:9.2f} "
                f"{verdict(times['fit'].over(times['kernels']), KERNELS_GOAL, at_most=True):>20} "
                f"{verdict(times['torch'].over(times['fit']), goal):>20}   {off:.0e} apart"
            )
    print(f"\n{'generation':32} {'ms':>9} {'torch':>20}")
    for name, make in (("DeepAR 32 x 100 x 24, 2 x 40", deepar), ("200 characters, 256 units", characters)):
        if arguments.rows in name:
            ours, theirs = make()
            with torch.inference_mode():
                times = turns(arguments.budget, clstm=ours, torch=theirs)
            ratio = verdict(times["torch"].over(times["clstm"]), GENERATION_GOAL)
            print(f"{name:32} {1e3 * times['clstm'].median:9.2f} {ratio:>20}")


if __name__ == "__main__":
    main()
