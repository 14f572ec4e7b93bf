"""Tell where somebody speaks: the LSTM of a published detector of voice activity, as a stream, every 32 ms.

silero-vad is a network that others trained and published: convolutions turn 32 ms of sound into 128 numbers,
an LSTM remembers, a read-out gives the probability that somebody speaks.  Here `clstm.LSTM.from_onnx` takes
the LSTM out of the ONNX file, and a stream of it gets one frame after the other, as a microphone delivers
them.  ONNX Runtime computes what is around it, and in the end the whole network, for comparison.

The sound is made here: syllables of a voice, and, as loud, a tone and noise, which are no speech.

It needs the files of the package silero-vad, but not what that package needs, and onnx and onnxruntime:
`pip install onnx onnxruntime`, `pip install --no-deps silero-vad`.
"""

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
from _shared import options, save
from matplotlib.figure import Figure

import clstm
from clstm import plot

NEEDED = ("onnx", "onnxruntime", "silero_vad")
RATE, FRAME = 16000, 512  # samples a second, and of a frame
CONTEXT = 64  # samples of the frame before that each begins with
FILE = "data/silero_vad_16k_sequence.onnx"

# Formants of vowels in Hz, from G. E. Peterson, H. L. Barney, "Control methods used in a study of the
# vowels", 1952; how wide and how loud they are.
FORMANTS = np.array(
    [[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]]
)
WIDTHS, GAINS = np.array([60, 70, 110]), np.array([1.0, 0.5, 0.25])
HARMONICS = np.arange(1, 40)[:, None]
LOUDNESS, HISS = 0.05, 0.003  # root mean square of what is heard, and of what is always there


def syllable(rng):
    """Return a hiss and a vowel, with a pitch that falls."""
    samples = rng.integers(RATE // 8, RATE // 4)
    pitch = rng.uniform(100, 140) * np.linspace(1.1, 0.9, samples)
    spectrum = HARMONICS * pitch  # frequencies (harmonics, samples)
    formants = rng.choice(FORMANTS)[:, None, None]
    peaks = GAINS[:, None, None] / (1 + ((spectrum - formants) / WIDTHS[:, None, None]) ** 2)
    vowel = (peaks.sum(axis=0) * np.sin(2 * np.pi * HARMONICS * np.cumsum(pitch) / RATE)).sum(axis=0)
    vowel *= np.hanning(samples) ** 0.4
    hiss = np.diff(rng.normal(size=RATE // 16)) * np.hanning(RATE // 16 - 1)
    return np.concatenate([0.2 * vowel.std() * hiss, vowel])


def sound_of(what, seconds, rng):
    """Return samples of one kind of sound."""
    samples = int(RATE * seconds)
    if what == "voice":
        sound = np.concatenate([syllable(rng) for _ in range(int(8 * seconds) + 1)])[:samples]
    elif what == "tone":
        sound = np.sin(2 * np.pi * np.cumsum(np.linspace(300, 1500, samples)) / RATE)
    elif what == "noise":
        sound = rng.normal(size=samples)
    else:
        return np.zeros(samples)
    return LOUDNESS * sound / sound.std()


def frames_of(sound):
    """Return frames (T, 1, CONTEXT + FRAME), each beginning with the end of the one before."""
    starts = np.arange(0, len(sound) - FRAME + 1, FRAME)
    padded = np.concatenate([np.zeros(CONTEXT), sound]).astype(np.float32)
    return padded[starts[:, None] + np.arange(CONTEXT + FRAME)][:, None]


def sessions_of(path):
    """Return sessions of ONNX Runtime for what comes before the LSTM, for what comes after, and for all."""
    import onnx
    import onnxruntime

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    (node,) = (node for node in model.graph.node if node.op_type == "LSTM")
    parts = onnx.utils.Extractor(model)
    before = parts.extract_model([model.graph.input[0].name], [node.input[0]])
    after = parts.extract_model([node.output[0]], [model.graph.output[0].name])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return [
        onnxruntime.InferenceSession(part.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        for part in (before, after, model)
    ]


def run(session, *values):
    """Return the outputs of a session for its inputs in order."""
    return session.run(None, dict(zip((each.name for each in session.get_inputs()), values, strict=True)))


def listen(before, after, stream, frames):
    """Return the probability of speech in each frame, and the seconds that each step of the stream took."""
    probabilities, seconds = np.empty((2, len(frames)))
    for t, frame in enumerate(frames):
        (x_t,) = run(before, frame)
        start = time.perf_counter()
        h_t = stream.step(x_t.ravel())
        seconds[t] = time.perf_counter() - start
        (probability,) = run(after, h_t.reshape(1, 1, 1, -1))
        probabilities[t] = probability.item()
    return probabilities, seconds


def listen_whole(whole, frames):
    """Return the same as ONNX Runtime computes it, and the seconds that the whole network took for each."""
    probabilities, seconds = np.empty((2, len(frames)))
    state = np.zeros((2, 1, 1, 128), np.float32)
    for t, frame in enumerate(frames):
        start = time.perf_counter()
        probability, *state = run(whole, frame, *state)
        seconds[t] = time.perf_counter() - start
        probabilities[t] = probability.item()
    return probabilities, seconds


def draw(sound, parts, probabilities, expected):
    """Draw the sound with the names of its parts, and the probability of speech below."""
    heard, told = (axes := Figure(figsize=(12, 4.5), layout="constrained").subplots(2, sharex=True))
    heard.plot(np.arange(len(sound)) / RATE, sound, color="0.4", linewidth=0.4)
    heard.set_title("The sound", loc="left")
    start = 0.0
    for what, seconds in parts:
        if what != "silence":
            for each in axes:
                each.axvspan(start, start + seconds, color="0.93", zorder=0)
            heard.text(start + seconds / 2, sound.max() * 1.1, what, ha="center", va="bottom")
        start += seconds
    heard.set_ylim(-sound.max() * 1.3, sound.max() * 1.5)
    heard.set_yticks([])
    middles = (np.arange(len(probabilities)) + 0.5) * FRAME / RATE
    told.plot(middles, expected, color="0.75", linewidth=5, label="the whole network by ONNX Runtime")
    told.plot(middles, probabilities, color=plot.STYLES[0][0], label="its LSTM a stream of clstm")
    told.set_title("Probability that somebody speaks", loc="left")
    told.set_xlabel("seconds")
    told.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=2)
    for each in axes:
        each.margins(x=0)
        each.spines[["top", "right"]].set_visible(False)
    return told.figure


def main():
    """Make the sound, listen to it frame by frame, compare, and draw."""
    arguments = options(__doc__, seed=0)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Not run, for want of {', '.join(missing)}. What it needs:")
        print("pip install onnx onnxruntime; pip install --no-deps silero-vad")
        return 1
    rng = np.random.default_rng(arguments.seed)
    kinds = ("voice", "tone", "noise") if arguments.quick else ("voice", "tone", "voice", "noise", "voice")
    parts = [("silence", 0.5)]
    for what in kinds:
        parts += [(what, 2), ("silence", 1)]
    sound = np.concatenate([sound_of(what, seconds, rng) for what, seconds in parts])
    sound += HISS * rng.normal(size=len(sound))
    frames = frames_of(sound)

    (folder,) = importlib.util.find_spec("silero_vad").submodule_search_locations  # without what it imports
    path = Path(folder) / FILE
    before, after, whole = sessions_of(path)
    lstm = clstm.LSTM.from_onnx(path)
    probabilities, steps = listen(before, after, lstm.stream(), frames)
    expected, wholes = listen_whole(whole, frames)

    ends = np.cumsum([seconds for _, seconds in parts])
    of_frames = np.searchsorted(ends, (np.arange(len(frames)) + 0.5) * FRAME / RATE)
    kinds = np.array([what for what, _ in parts])[of_frames]
    shares = {}
    for what in ("voice", "tone", "noise", "silence"):
        chosen = probabilities[kinds == what]
        shares[what] = np.mean(chosen > 0.5)
        print(f"{what}: somebody speaks in {shares[what]:.0%} of {len(chosen)} frames.")
    difference = np.abs(probabilities - expected).max()
    print(f"The whole network by ONNX Runtime tells the same; the largest difference is {difference:.1e}.")
    of_whole, of_lstm = 1e6 * np.median(wholes), 1e6 * np.median(steps)
    print(f"The whole takes {of_whole:.0f} us a frame; the LSTM alone, as a stream, {of_lstm:.0f} us.")
    save(draw(sound, parts, probabilities, expected), arguments.output / "voice-activity.png")

    holds = difference < 1e-5 and shares["voice"] > 0.7 and max(shares["tone"], shares["noise"]) < 0.3
    print("It hears the voice." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
