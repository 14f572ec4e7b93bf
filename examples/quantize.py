"""Take fewer bytes for the weights of an LSTM: what is lost, and what is won.

A forecaster of carbon dioxide (that of `clstm demo`) and a classifier (`_shared.py` has its task) are trained
in float, and score again with weights of bfloat16 and of 8 bits.  Then layers of several sizes run one
sequence each, whole and as a stream, beside float32.
"""

import sys
import time

import numpy as np
from _shared import CLASSES, TEST_SEQUENCES, options, save, train
from matplotlib.figure import Figure

import clstm
from clstm import nn
from clstm.datasets import load_co2, long_term_dependency

MONTHS, HORIZON, HELD_OUT = 24, 12, 120
UNITS, SEQUENCE = 32, 20
STEPS = 250
MOST = {"bfloat16": 0.005, "int8": 0.01}  # by which a score may change, as a share of itself; and h


def quantized(lstm, x):
    """Return both quantized layers by their precision."""
    return {"bfloat16": lstm.quantize("bfloat16"), "int8": lstm.quantize("int8", x=x)}


def forecaster(epochs, seed):
    """Return the layer of a trained forecaster, inputs, and the error in ppm with a layer in its place."""
    x, y = nn.windows(load_co2().values, MONTHS, HORIZON)
    x, y = x - x[:, -1:], y - x[:, -1]
    scale, rng = x[:-HELD_OUT].std(), np.random.default_rng(seed)
    lstm, head = clstm.LSTM(1, UNITS, batch_first=True, rng=rng), nn.Dense(UNITS, HORIZON, rng=rng)
    nn.SequenceModel([lstm, head]).fit(
        x[:-HELD_OUT] / scale, y[:-HELD_OUT] / scale, epochs=epochs, batch_size=32, lr=0.003, rng=rng
    )
    x, y = x[-HELD_OUT:] / scale, y[-HELD_OUT:]

    def error(layer):
        last = np.asarray(layer(x)[0][:, -1], float)
        return float(np.sqrt(np.mean((head(last) * scale - y) ** 2)))

    return lstm, x, error


def classifier(updates, seed):
    """Return the same of a classifier, whose score is the share of sequences that it tells right."""
    lstm = clstm.LSTM(CLASSES, UNITS, rng=seed)
    head = train(lstm, SEQUENCE, updates=updates, lr=0.01, enough=0.99, rng=seed).head
    x, classes = long_term_dependency(SEQUENCE, TEST_SEQUENCES, CLASSES, noise=0.1, rng=seed + 1)

    def share(layer):
        last = np.asarray(layer(x)[0][-1], float)
        return float(np.mean(head(last).argmax(axis=1) == classes))

    return lstm, x, share


def seconds(runs, rounds):
    """Return the best time of each of some functions, which take turns."""
    best = [np.inf] * len(runs)
    for _ in range(rounds):
        for n, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[n] = min(best[n], time.perf_counter() - start)
    return np.array(best)


def gains(units, rounds):
    """Return how many times as fast as float32 both precisions are: whole sequences, and streams."""
    lstm = clstm.LSTM(units, units, dtype="float32", init="torch", rng=0)
    x = np.random.default_rng(0).standard_normal((STEPS, 1, units)).astype(np.float32)
    small = quantized(lstm, x)
    errors = {name: layer.error(lstm, x).largest for name, layer in small.items()}
    layers, steps = (lstm, *small.values()), list(x[:, 0].copy())
    streams = [layer.stream() for layer in layers]
    whole = seconds([lambda layer=layer: layer(x) for layer in layers], rounds)
    stepped = seconds([lambda s=stream: [s.step(x_t) for x_t in steps] for stream in streams], rounds)
    return lstm, small, errors, whole[0] / whole[1:], stepped[0] / stepped[1:]


def main():
    """Train and score, measure and draw."""
    arguments = options(__doc__, seed=0)
    quick, holds = arguments.quick, True
    for what, (lstm, x, score) in {
        "Forecast of CO2, error in ppm": forecaster(10 if quick else 60, arguments.seed),
        "Sequences told right": classifier(300 if quick else 2000, arguments.seed),
    }.items():
        before = score(lstm)
        print(f"{what}: float {before:.4f}", end="")
        for name, layer in quantized(lstm, x).items():
            after = score(layer)
            holds &= abs(after - before) <= MOST[name] * before
            print(f", {name} {after:.4f}", end="")
        print(".")

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes, sizes, found = figure.subplots(), (64, 128) if quick else (64, 128, 256, 512), []
    print(f"\nOne sequence of {STEPS} steps, times as fast as float32 (whole, as a stream):")
    for units in sizes:
        lstm, small, errors, whole, stepped = gains(units, 3 if quick else 30)
        found.append([*whole, *stepped])
        print(f"H {units:3}: float32 {lstm.flat_params.nbytes / 1e3:.0f} kB", end="")
        for n, (name, layer) in enumerate(small.items()):
            holds &= errors[name] <= MOST[name]
            print(
                f"; {name} {layer.nbytes / 1e3:.0f} kB, {whole[n]:.2f}, {stepped[n]:.2f}, "
                f"h off by {errors[name]:.4f} at most", end="",
            )  # fmt: skip
        print(".")
    for label, gain in zip(
        ("bfloat16, whole", "int8, whole", "bfloat16, stream", "int8, stream"),
        np.transpose(found),
        strict=True,
    ):
        axes.plot(sizes, gain, marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, map(str, sizes))
    axes.set(
        xlabel="hidden units", ylabel="times as fast as float32", title="One sequence, one thread", ylim=0
    )
    axes.legend()
    save(figure, arguments.output / "quantize.png")
    print("Little is lost." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
