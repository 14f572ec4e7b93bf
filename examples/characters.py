"""Learn to write as Python's documentation does, character by character, and go on from a few words.

The text is that of ``pydoc_data.topics``, of the standard library.  Its last tenth is held out: how many bits
does a character take, for a model that knows all before it, and for those that count what follows a few?

The model is made of parts here; `clstm.text.CharacterModel` has them all in one object.
"""

import pydoc_data.topics
import sys

import numpy as np
from _shared import fit_of, options, save

import clstm
from clstm import nn, plot

VECTOR, UNITS = 32, 128  # numbers that stand for a character, hidden units
PLACES, STEPS, RATE, EPOCHS = 32, 64, 0.01, 10  # the text is read at so many places, so many steps at a time
BEGINNING = "The "
ORDERS = range(1, 6)  # of the n-gram models: how many characters they see


def read_text():
    """Return the text; a paragraph that stands in several places stands in the first alone."""
    return "\n\n".join(dict.fromkeys("\n\n".join(pydoc_data.topics.topics.values()).split("\n\n")))


def ngram_probabilities(seen, asked, characters, order):
    """Foretell each character of `asked`, from the one at `order` on, by counts of what follows in `seen`.

    Of a context that was seen N times, before D different characters, the share D / (N + D) goes to the
    context that is shorter by one: I. H. Witten, T. C. Bell, "The zero-frequency problem", 1991.
    """

    def grams(text, length):
        windows = np.lib.stride_tricks.sliding_window_view(text[order - length :], length + 1)
        return windows @ characters ** np.arange(length, -1, -1)

    def count(keys, wanted):
        keys, counts = np.unique(keys, return_counts=True)
        found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[found] == wanted, counts[found], 0)

    probability = np.full(len(asked) - order, 1 / characters)
    for length in range(order + 1):
        known, wanted = grams(seen, length), grams(asked, length)
        contexts = wanted // characters
        N, D = count(known // characters, contexts), count(np.unique(known) // characters, contexts)
        mixed = (count(known, wanted) + D * probability) / np.maximum(N + D, 1)
        probability = np.where(N > 0, mixed, probability)
    return probability


def main():
    """Count, train, compare, draw, and write."""
    arguments = options(__doc__, seed=0, compare=True)
    quick = arguments.quick
    text = read_text()[: 100_000 if quick else None]
    alphabet, codes = np.unique(list(text), return_inverse=True)
    learnt, held_out = np.split(codes, [len(codes) * 9 // 10])
    print(f"{len(text)} characters, {len(alphabet)} different ones. Held out, a character takes, by n-grams:")
    orders = {}
    for order in ORDERS:
        probability = ngram_probabilities(learnt, held_out, len(alphabet), order)
        orders[order] = -np.log2(probability).mean()
        print(f"{orders[order]:.3f} bits, by {order} before it,")

    rng = np.random.default_rng(arguments.seed)
    layers = [
        nn.Embedding(len(alphabet), VECTOR, dtype=np.float32, rng=rng),
        clstm.LSTM(VECTOR, UNITS, batch_first=True, dtype=np.float32, rng=rng),
        nn.Dense(UNITS, len(alphabet), dtype=np.float32, rng=rng),
    ]
    model = nn.SequenceModel(layers, readout="each")
    length = (len(learnt) - 1) // PLACES
    x, y = (learnt[k : k + PLACES * length].reshape(PLACES, length) for k in (0, 1))
    epochs = 4 if quick else EPOCHS
    history = fit_of(arguments)(
        model, x, y, epochs=epochs, batch_size=PLACES, loss="cross_entropy", tbptt=STEPS, lr=RATE,
        schedule=nn.CosineDecay(epochs), rng=arguments.seed,
    )  # fmt: skip
    loss, _ = nn.cross_entropy(model(held_out[:-1]), held_out[1:])
    bits = loss / np.log(2)
    print(f"{bits:.3f} bits, by all before it: the LSTM, after {sum(history['seconds']):.0f} s of training.")

    curves = {"clstm": history["loss"]} | ({"torch": history["torch"]} if arguments.compare else {})
    curves = {name: np.divide(losses, np.log(2)) for name, losses in curves.items()}
    axes = plot.losses(curves, title="A character while training", ylabel="bits")
    for name, value in {"the LSTM": bits, "by 3 characters": orders[3]}.items():
        axes.axhline(value, color="0.7", linewidth=0.8, zorder=0)
        axes.text(epochs, value, f"held out, {name}", color="0.4", ha="right", va="bottom")
    save(axes.figure, arguments.output / "characters.png")

    context = np.searchsorted(alphabet, list(BEGINNING))
    for temperature in (0.5, 1.0):
        written = model.generate(context, 300, nn.sample_classes(temperature), rng=arguments.seed)
        print(f"\nAt a temperature of {temperature}:\n{BEGINNING}{''.join(alphabet[written])}")

    holds = bits < (orders[2] if quick else min(orders.values()))
    print("\nIt knows more than the last characters." if holds else "\nNot what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
