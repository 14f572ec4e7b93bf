"""What reaches back: the size of a gradient at every step before the loss, for an RNN and some forget biases.

Untrained layers, as they come; each starts from the same kind of weights.  The loss is the sum of the last
hidden state, scaled so that the gradient sets out with the norm 1.
"""

import sys

import numpy as np
from _shared import options, save

import clstm
from clstm import plot

INPUTS, UNITS, ROWS = 10, 32, 20
FORGET_BIASES = (0.0, 1.0, 2.0, 5.0)


def main():
    """Measure, tell what is left half-way and at the beginning of the sequences, and draw the way there."""
    arguments = options(__doc__)
    steps = 20 if arguments.quick else 160
    layers = {
        f"LSTM, forget bias {bias:g}": clstm.LSTM(INPUTS, UNITS, forget_bias=bias, rng=0)
        for bias in FORGET_BIASES
    }
    layers["RNN"] = clstm.RNN(INPUTS, UNITS, rng=0)
    x = 0.3 * np.random.default_rng(1).standard_normal((steps, ROWS, INPUTS))
    flows = {name: clstm.gradient_flow(layer, x) for name, layer in layers.items()}

    half = steps // 2
    print(f"Of a gradient of norm 1 at the last hidden state is left (mean over {ROWS} sequences):")
    left = {}
    for name, flow in flows.items():
        middle, left[name] = flow.dh[[half, steps]].mean(axis=1)
        print(f"{name:20} {middle:.1e} {half} steps back, {left[name]:.1e} {steps} steps back")
    title = f"Measured on untrained layers of {UNITS} units, {ROWS} sequences of noise (0.3)"
    save(plot.gradient_flow(flows, title=title), arguments.output / "gradient-flow.png")

    by_bias = [left[f"LSTM, forget bias {bias:g}"] for bias in FORGET_BIASES]
    holds = by_bias == sorted(by_bias)
    print("The larger the forget bias, the more is left." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
