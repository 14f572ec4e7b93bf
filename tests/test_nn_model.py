"""clstm.nn.SequenceModel: passes against central differences and against its layers, in pieces, in files."""

import copy
import pickle

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_layer, build_lstm, central_difference

import clstm
from clstm import FileFormatError, nn
from clstm.parameters import Saved


def dense(*sizes, dtype="float64"):
    """Make a dense layer whose every parameter is random, the bias included."""
    layer = nn.Dense(*sizes, dtype=dtype, rng=0)
    layer.flat_params[...] = np.random.default_rng(1).uniform(-1, 1, layer.flat_params.size)
    return layer


class Scale:
    """A layer of somebody's own: y = a x, one parameter."""

    def __init__(self, dtype="float64"):
        self.flat_params, self.flat_grads = np.full(1, 1.5, dtype), np.zeros(1, dtype)

    def __call__(self, x):
        return x * self.flat_params

    def forward(self, x):
        self.x = x
        return self(x)

    def backward(self, dy, accumulate=False):
        self.flat_grads[...] = self.flat_grads * accumulate + (dy * self.x).sum()
        return dy * self.flat_params


class Reversed:
    """A layer of somebody's own that runs over time: each sequence backwards."""

    def __init__(self):
        self.flat_params = self.flat_grads = np.zeros(0)

    def _turn(self, x, lengths):
        y = np.zeros_like(x)
        for b, n in enumerate(lengths):
            y[:n, b] = x[:n, b][::-1]
        return y

    def __call__(self, x, lengths):
        return self._turn(x, lengths)

    def forward(self, x, lengths):
        self.lengths = lengths
        return self._turn(x, lengths)

    def backward(self, dy, accumulate=False):
        return self._turn(dy, self.lengths)


class Does:
    """A layer of somebody's own without parameters that makes of x and of dy what functions do."""

    def __init__(self, there, back=lambda dy: dy):
        self.there, self.back = there, back
        self.flat_params = self.flat_grads = np.zeros(0)

    def __call__(self, x):
        return self.there(x)

    forward = __call__

    def backward(self, dy, accumulate=False):
        return self.back(dy)


MODELS = {
    "one layer": lambda first: [build_lstm(2, 3, batch_first=first), dense(3, 2)],
    "two layers, both ways": lambda first: [
        build_lstm(2, 3, num_layers=2, bidirectional=True, batch_first=first),
        dense(6, 2),
    ],
    "layers of all kinds": lambda first: [
        dense(2, 2),
        build_layer("rnn", 2, 4, batch_first=first),
        Scale(),
        build_lstm(4, 3, reverse=True, batch_first=first),
        dense(3, 3),
        Scale(),
        dense(3, 2),
    ],
    "somebody's own": lambda first: [build_lstm(2, 2, batch_first=first), Reversed(), Scale()],
}


@pytest.mark.parametrize("readout", ["last", "each", "mean"])
@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["full", "ragged"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["T B I", "B T I"])
@pytest.mark.parametrize("layers", MODELS)
def test_gradients_are_central_differences(layers, batch_first, lengths, readout):
    if layers == "somebody's own" and lengths:
        lengths = [5, 1, 2]  # a read-out of its last step needs one
    model = nn.SequenceModel(MODELS[layers](batch_first), readout)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 2) if batch_first else (5, 3, 2))
    prediction = model.forward(x, lengths)
    assert_same_bits(prediction, model(x, lengths))
    weight = rng.standard_normal(prediction.shape)
    dx = model.backward(weight)

    def loss():
        return float((weight * model(x, lengths)).sum())

    for layer in model.layers:
        assert_close(layer.flat_grads, central_difference(loss, layer.flat_params), "central difference")
    assert_close(dx, central_difference(loss, x), "central difference")
    once = [layer.flat_grads.copy() for layer in model.layers]
    model.backward(weight, accumulate=True)
    for layer, grads in zip(model.layers, once, strict=True):
        assert_close(layer.flat_grads, 2 * grads, "backward")


@pytest.mark.parametrize(
    "change", [lambda a: a[..., :1], lambda a: a[:2], lambda a: a[:, :1]], ids=["features", "steps", "rows"]
)
def test_what_layers_of_ones_own_put_out_must_fit_the_next(change):
    """Kernels would read beyond the end of a smaller array."""
    x = np.ones((5, 4, 2))
    forward = nn.SequenceModel([build_lstm(2, 3), Does(change), build_lstm(3, 3)])
    for run in (forward, forward.forward):
        with pytest.raises(ValueError, match=r"x of layers\[2\]: expected shape \(5, 4, 3\), got"):
            run(x)
    backward = nn.SequenceModel([build_lstm(2, 3), Does(np.copy, change), build_lstm(3, 3)], "each")
    with pytest.raises(ValueError, match=r"dy of layers\[0\]: expected shape \(5, 4, 3\), got"):
        backward.backward(np.ones_like(backward.forward(x)))


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_what_comes_back_must_fit_what_was_read_out(readout):
    model = nn.SequenceModel([build_lstm(2, 3), Does(np.copy, lambda dy: dy[:1])], readout)
    with pytest.raises(ValueError, match=r"dy of layers\[0\]: expected shape \(4, 3\), got \(1, 3\)"):
        model.backward(np.ones_like(model.forward(np.ones((5, 4, 2)))))


def test_nothing_is_known_behind_a_layer_that_does_not_say_its_size():
    twice = Does(lambda x: np.concatenate((x, x), axis=-1), lambda dy: dy[..., :3] + dy[..., 3:])
    assert nn.SequenceModel([build_lstm(2, 3), twice, dense(6, 2)]).output_size == 2
    model = nn.SequenceModel([build_lstm(2, 3), twice])
    assert (model.input_size, model.output_size) == (2, None)
    assert model.backward(np.ones_like(model.forward(np.ones((5, 4, 2))))).shape == (5, 4, 2)


def test_dropout_has_the_size_of_its_neighbours():
    model = nn.SequenceModel([nn.Dropout(0.5), build_lstm(2, 3), nn.Dropout(0.5)])
    assert (model.input_size, model.output_size) == (2, 3)
    with pytest.raises(ValueError, match=r"x: expected shape \(T, B, 2\), got \(5, 4, 7\)"):
        model(np.ones((5, 4, 7)))
    with pytest.raises(ValueError, match=r"layers\[2\]: expected input_size 3, "):
        nn.SequenceModel([build_lstm(2, 3), nn.Dropout(0.5), dense(6, 2)])


@pytest.mark.parametrize("readout", ["last", "each", "mean"])
def test_padding_is_never_read(readout, dtype):
    model = nn.SequenceModel([build_lstm(2, 3, dtype=dtype), dense(3, 2, dtype=dtype)], readout)
    x = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(dtype)
    x[3:, 1] = np.nan
    prediction = model(x, [5, 3, 5])
    assert np.isfinite(prediction).all()
    alone = model(x[:3, 1])
    assert_same_bits(prediction[:3, 1] if readout == "each" else prediction[1], alone)
    if readout == "each":
        assert not prediction[3:, 1].any()


@pytest.mark.parametrize("first", [dense(2, 2), Scale()], ids=["Dense", "Scale"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_padding_is_never_read_by_layers_before_the_recurrent_ones(batch_first, first):
    lstm = build_lstm(2, 3, batch_first=batch_first)
    model = nn.SequenceModel([first, lstm, dense(3, 2)])
    x = np.random.default_rng(0).standard_normal((3, 5, 2))
    lengths, made = [5, 3, 0], []
    for padding in (np.nan, 0.0):
        x[1, 3:] = x[2] = padding
        given = x if batch_first else x.swapaxes(0, 1)
        prediction = model.forward(given, lengths)
        assert_same_bits(prediction, model(given, lengths))
        assert_same_bits(prediction, model.predict(given, lengths))
        dx = model.backward(np.ones_like(prediction))
        made.append([prediction, dx, *(layer.flat_grads.copy() for layer in model.layers)])
    for one, other in zip(*made, strict=True):
        assert_same_bits(one, other)


def test_padding_of_indices_may_be_anything():
    model = nn.SequenceModel([nn.Embedding(5, 2, rng=0), build_lstm(2, 3), dense(3, 2)])
    x = np.full((4, 3), -1)
    x[:, 0], x[:2, 1] = 3, 2
    expected = [model(x[:4, 0]), model(x[:2, 1]), model(x[:0, 2])]
    for got in (model(x, [4, 2, 0]), model.forward(x, [4, 2, 0]), model.predict(x, [4, 2, 0])):
        assert_same_bits(got, np.array(expected))


def test_read_outs_are_what_their_names_say(dtype):
    lstm, head = build_lstm(2, 3, bidirectional=True, dtype=dtype), dense(6, 2, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((5, 4, 2)).astype(dtype)
    y, (h_n, _) = lstm(x)
    assert_same_bits(nn.SequenceModel([lstm, head])(x), head(np.concatenate(tuple(h_n), axis=-1)))
    assert_same_bits(nn.SequenceModel([lstm, head], "each")(x), head(y))
    assert_close(nn.SequenceModel([lstm, head], "mean")(x), head(y.mean(axis=0)), "forward")


def test_a_row_alone_has_the_bits_of_the_row_in_a_batch(dtype):
    model = nn.SequenceModel([build_lstm(2, 33, dtype=dtype), dense(33, 5, dtype=dtype)])
    x = np.random.default_rng(0).standard_normal((6, 40, 2)).astype(dtype)
    whole = model(x)
    for row in (0, 17, 39):
        assert_same_bits(model(x[:, row]), whole[row])
    assert_same_bits(model.predict(x, batch_size=7), whole)


def test_one_sequence_has_no_axis_of_rows():
    model = nn.SequenceModel(MODELS["one layer"](True))
    x = np.random.default_rng(0).standard_normal((5, 2))
    assert_same_bits(model(x), model(x[None])[0])
    assert_same_bits(model.forward(x), model(x))
    assert model.backward(np.ones(2)).shape == (5, 2)


def test_backward_has_the_layout_of_its_forward():
    model = nn.SequenceModel(MODELS["one layer"](False), "each")
    d = np.random.default_rng(0).standard_normal((4, 4, 2))
    model.forward(d)
    expected = model.backward(d)
    model.layers[0].batch_first = True
    assert_same_bits(model.backward(d), expected)


@pytest.mark.parametrize("readout", ["last", "each", "mean"])
def test_predict_takes_lists_of_unequal_lengths(readout):
    model = nn.SequenceModel(MODELS["one layer"](True), readout)
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, 2)) for n in (3, 9, 1, 4, 3, 7)]
    for got, sequence in zip(model.predict(x, batch_size=2), x, strict=True):
        assert_same_bits(np.ascontiguousarray(got), model(sequence))
    padded = np.zeros((6, 9, 2))
    for row, sequence in zip(padded, x, strict=True):
        row[: len(sequence)] = sequence
    lengths = [len(sequence) for sequence in x]
    assert_same_bits(model.predict(padded, lengths, batch_size=4), model(padded, lengths))


def test_an_embedding_takes_integers():
    model = nn.SequenceModel([nn.Embedding(5, 2, rng=0), clstm.LSTM(2, 3, rng=0), nn.Dense(3, 4)])
    x = np.random.default_rng(0).integers(0, 5, (6, 3))
    as_vectors = nn.SequenceModel(model.layers[1:])
    assert_same_bits(model(x), as_vectors(model.layers[0](x)))
    model.forward(x)
    assert model.backward(np.ones((3, 4))) is None
    assert_same_bits(model.predict(list(x.T)), model(x))
    assert model(x[:, 0]).shape == (4,)
    with pytest.raises(TypeError, match="x: expected integers, got dtype float64"):
        model(x.astype(float))
    with pytest.raises(ValueError, match="x: expected an array of integers, got rows of different lengths"):
        model([[1, 2], [3]])
    assert_same_bits(model.predict([[], [1, 2]])[1], model([1, 2]))


def test_pieces_carry_the_state(dtype):
    layers = [build_lstm(2, 3, dtype=dtype), build_layer("rnn", 3, 4, dtype=dtype), dense(4, 2, dtype=dtype)]
    model = nn.SequenceModel(layers, "each")
    x = np.random.default_rng(0).standard_normal((7, 3, 2)).astype(dtype)
    lengths = [7, 2, 5]
    pieces = list(model.tbptt(x, 3, lengths))
    assert [steps for _, steps in pieces] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert_same_bits(np.concatenate([y for y, _ in pieces]), model(x, lengths))
    model.backward(pieces[-1][0])
    model.forward(x[6:], [1, 0, 0])
    assert len(list(model.tbptt(x[:, 0], 7))) == 1


def test_a_file_holds_the_whole_model(tmp_path, dtype):
    layers = [nn.Embedding(5, 2, dtype=dtype, rng=0), nn.Dropout(0.25), build_lstm(2, 3, dtype=dtype)]
    model = nn.SequenceModel([*layers, dense(3, 2, dtype=dtype)], "mean")
    model.save(tmp_path / "model")
    loaded = clstm.load(tmp_path / "model")
    assert repr(loaded) == repr(model)
    x = np.random.default_rng(0).integers(0, 5, (6, 3))
    for same in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_bits(same(x), model(x))
    loaded.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
    assert_same_bits(loaded.layers[0].flat_params, 2 * layers[0].flat_params)
    assert clstm.load(tmp_path / "model", backend="numpy").layers[2].backend == "numpy"


def test_a_state_dict_has_the_parameters_of_layers_of_ones_own():
    model = nn.SequenceModel([build_lstm(2, 3), Scale(), nn.Dropout(0.5)])
    state = model.state_dict()
    assert list(state) == [*(f"0.{name}" for name in model.layers[0].params), "1.flat_params"]
    model.layers[1].flat_params[...] = 7
    model.load_state_dict(state)
    assert model.layers[1].flat_params == 1.5


class SavedScale(Scale, Saved):
    """A layer of somebody's own that can be saved."""

    file_class = "SavedScale"

    def file_content(self):
        return {}, {"a": self.flat_params.copy()}

    @classmethod
    def from_file(cls, arguments, shapes, read, **options):
        made = cls()
        made.flat_params[...] = read()["a"]
        return made


def test_layers_of_ones_own_can_be_saved(tmp_path):
    scale = SavedScale()
    scale.flat_params[...] = 2.5
    nn.SequenceModel([build_lstm(2, 3), scale]).save(tmp_path / "model")
    with pytest.raises(clstm.FileFormatError, match="got 'SavedScale'"):
        clstm.load(tmp_path / "model")
    loaded = nn.SequenceModel.load(tmp_path / "model", classes=[SavedScale])
    assert loaded.layers[1].flat_params == 2.5
    with pytest.raises(TypeError, match=r"layers\[1\]: expected a layer that can be saved .* got Scale"):
        nn.SequenceModel([build_lstm(2, 3), Scale()]).save(tmp_path / "other")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nn.SequenceModel([nn.Dense(1, 1)]),
            ValueError,
            "layers: expected at least one layer that runs",
        ),
        (
            lambda: nn.SequenceModel(clstm.LSTM(1, 2)),
            TypeError,
            r"layers: expected a list of layers, got LSTM\(",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2), 3]),
            TypeError,
            r"layers\[1\]: expected an object with flat",
        ),
        (lambda: nn.SequenceModel([clstm.LSTM]), TypeError, r"layers\[0\]: expected an object with"),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2, bidirectional=True), nn.Dense(2, 1)]),
            ValueError,
            r"layers\[1\]: expected input_size 4, the output of the layer before, got 2",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2), nn.Dense(2, 1, dtype="float32")]),
            ValueError,
            r"layers\[1\]: expected dtype float64, that of the layers before, got float32",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2), clstm.LSTM(2, 2, batch_first=True)]),
            ValueError,
            "layers: expected the same batch_first",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2), nn.Embedding(3, 2)]),
            ValueError,
            r"layers\[1\]: expected Embedding, which takes indices, to be first",
        ),
        (lambda: nn.SequenceModel([lstm := clstm.LSTM(2, 2), lstm]), ValueError, "each layer once"),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2)], "final"),
            ValueError,
            "readout: expected one of 'last', ",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2)]).backward(np.ones(2)),
            RuntimeError,
            "backward: expected a call of forward before it",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2, reverse=True)]).tbptt(np.ones((3, 1)), 2),
            ValueError,
            "tbptt: expected unidirectional layers",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2)], "mean").stream(),
            ValueError,
            'stream: expected readout "last" or "each", got "mean"',
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2)]).predict([[[1.0], [np.nan]]]),
            ValueError,
            r"x: expected finite numbers, got nan in sequence 0, step 1, feature 0",
        ),
        (
            lambda: nn.SequenceModel([clstm.LSTM(1, 2)]).load_state_dict({}),
            ValueError,
            r"state_dict: expected exactly 0.weight_ih_l0, .* missing: 0.weight_ih_l0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ----------------------------------------------------------------------------------------------- step by step


def test_a_stream_gives_the_bits_of_whole_sequences(dtype):
    model = nn.SequenceModel([build_lstm(2, 3, dtype=dtype), dense(3, 4, dtype=dtype)], "each")
    x = np.random.default_rng(0).standard_normal((6, 3, 2)).astype(dtype)
    stream, alone = model.stream(3), model.stream()
    whole = model(x)
    for t in range(3):
        assert_same_bits(stream.step(x[t]), whole[t])
        assert_same_bits(alone.step(x[t, 1]), whole[t, 1])
    for other in (model.stream(3, stream.state), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert_same_bits(other.step(x[3]), whole[3])
    stream.reset([0])
    assert_same_bits(stream.step(x[0])[0], whole[0, 0])


@pytest.mark.parametrize("batch_size", [None, 3])
def test_state_of_a_stream_comes_back_from_a_file_and_nothing_else_is_taken(tmp_path, dtype, batch_size):
    layers = [
        build_lstm(2, 4, 2, dtype=dtype),
        build_layer("rnn", 4, 3, dtype=dtype),
        dense(3, 2, dtype=dtype),
    ]
    model, path = nn.SequenceModel(layers), tmp_path / "state"
    x = np.random.default_rng(0).standard_normal((6, 2) if batch_size is None else (6, batch_size, 2))
    stream, later = model.stream(batch_size), model.stream(batch_size)
    for x_t in x[:3]:
        stream.step(x_t)
    stream.save_state(path)
    later.step(x[0])
    later.load_state(path)
    for x_t in x[3:]:
        assert_same_bits(later.step(x_t), stream.step(x_t))
    before = [part.copy() for state in later.state for part in state]
    for other in (
        nn.SequenceModel(layers[:1]).stream(batch_size),
        nn.SequenceModel([build_layer("rnn", 2, 4, dtype=dtype), build_lstm(4, 3, dtype=dtype)]).stream(
            batch_size
        ),
        model.stream(4),
    ):
        other.save_state(path)
        with pytest.raises(FileFormatError, match=r"kinds: expected lstm, rnn, got |0\.h: expected shape"):
            later.load_state(path)
    for part, wanted in zip((part for state in later.state for part in state), before, strict=True):
        assert_same_bits(part, wanted)


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("batch_first", [False, True])
def test_generate_feeds_outputs_back(batch_first, batched, samples):
    model = nn.SequenceModel([build_lstm(2, 3, batch_first=batch_first), dense(3, 2)])
    context = np.random.default_rng(0).standard_normal((2, 4, 2))  # B T I
    expected = []
    for sequence in context:
        grown = list(sequence)
        for _ in range(5):
            grown.append(model(np.array(grown)))
        expected.append(grown[4:])
    expected = np.array(expected)[:, None].repeat(samples or 1, axis=1)  # B S steps I
    given = (context if batch_first else context.swapaxes(0, 1)) if batched else context[0]
    got = model.generate(given, 5, samples=samples)
    if not (batch_first and batched):
        expected = np.moveaxis(expected, 2, 0)  # steps B S I
    rows, inner = (0, 1) if batch_first and batched else (1, 2)
    if samples is None:
        expected = expected.take(0, axis=inner)
    if not batched:
        expected = expected.take(0, axis=rows)
    assert_close(got, expected, "forward")


def test_generate_begins_at_each_rows_last_step():
    for readout in ("last", "each"):
        model = nn.SequenceModel([build_lstm(2, 3), dense(3, 2)], readout)
        context = np.random.default_rng(0).standard_normal((4, 2, 2))
        got = model.generate(context, 3, lengths=[4, 2])
        assert_same_bits(np.ascontiguousarray(got[:, 1]), model.generate(context[:2, 1], 3))


def test_generate_draws_classes_with_their_probabilities():
    model = nn.SequenceModel([nn.Embedding(3, 2, rng=0), clstm.LSTM(2, 3, rng=0), nn.Dense(3, 3)], "each")
    model.layers[2].params["weight"] = np.zeros((3, 3))
    model.layers[2].params["bias"] = np.log([0.5, 0.3, 0.2])
    drawn = model.generate([0, 1], 3, samples=10_000, rng=0)
    assert drawn.shape == (3, 10_000)
    share = np.bincount(drawn[1], minlength=3) / 10_000
    assert_close(share, np.array([0.5, 0.3, 0.2]), "sample mean", scale=1.0)
    assert_same_bits(drawn, model.generate([0, 1], 3, samples=10_000, rng=0))
    cold = model.generate([0, 1], 3, feedback=nn.sample_classes(temperature=0))
    assert (cold == 0).all()


def test_a_feedback_may_use_its_array_again():
    model = nn.SequenceModel([build_lstm(2, 3), dense(3, 2)])
    buffer = np.empty((4, 2))
    context = np.random.default_rng(0).standard_normal((3, 4, 2))
    again = model.generate(context, 5, lambda output, *_: np.copyto(buffer, output) or buffer)
    assert_same_bits(again, model.generate(context, 5))


def test_generate_hands_covariates_through():
    model = nn.SequenceModel([build_lstm(2, 3), dense(3, 1)])
    seen = []

    def feedback(output, step, rng):
        seen.append((output.shape, step, rng))
        return np.concatenate((output, np.full_like(output, step)), axis=1)

    rng = np.random.default_rng(0)
    made = model.generate(np.ones((3, 4, 2)), 2, feedback, samples=5, rng=rng)
    assert made.shape == (2, 4, 5, 2)
    assert (made[1, ..., 1] == 1).all()
    assert seen == [((20, 1), 0, rng), ((20, 1), 1, rng)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        ({"samples": 0}, ValueError, "samples: expected at least 1, got 0"),
        ({"context": np.ones((0, 2))}, ValueError, "context: expected at least one sequence, and one step"),
        ({"feedback": 3}, TypeError, "feedback: expected a function, got 3"),
        (
            {"feedback": lambda o, t, r: o[:, :1]},
            ValueError,
            r"feedback: expected shape \(1, 2\), got \(1, 1\)",
        ),
    ],
)
def test_generate_refuses_bad_input(arguments, error, message):
    model = nn.SequenceModel([build_lstm(2, 3), dense(3, 2)])
    with pytest.raises(error, match=message):
        model.generate(**({"context": np.ones((3, 2)), "steps": 2} | arguments))
    other = nn.SequenceModel([build_lstm(2, 3), dense(3, 1)])
    with pytest.raises(ValueError, match="feedback: expected a function that makes inputs of 2 numbers"):
        other.generate(np.ones((3, 2)), 2)


# ----------------------------------------------------------------------------------------------------- online


@pytest.mark.parametrize("readout", ["last", "each"])
def test_online_gradients_go_back_over_k_steps(readout):
    """Where an optimiser leaves the parameters, each update is that of a window from the state before."""
    model = nn.SequenceModel([build_lstm(2, 3), dense(3, 1)], readout)
    seen = []

    class Watch:
        layers, lr = model.layers, 1.0

        def step(self):
            seen.append([layer.flat_grads.copy() for layer in model.layers])

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 2)), rng.standard_normal((7, 1))
    online = model.online(k=3, optimiser=Watch(), max_norm=None)
    outputs = nn.SequenceModel(model.layers, "each")(x)
    for t in range(7):
        assert_close(online.predict_one(x[t]), outputs[t], "forward")
        loss = online.learn_one(x[t], y[t] if t != 4 else None)
        assert loss is None if t == 4 else np.isclose(loss, np.square(outputs[t] - y[t])[0])
    lstm, head = model.layers
    _, state = lstm(x[:4])
    y_t, _ = lstm.forward(x[4:], state)
    d = 2 * (head.forward(y_t[-1:]) - y[6])
    dy = np.zeros_like(y_t)
    dy[-1:] = head.backward(d)
    lstm.backward(dy)
    assert len(seen) == 6
    for grads, layer in zip(seen[-1], model.layers, strict=True):
        assert_close(grads, layer.flat_grads, "backward")


def test_online_is_as_it_was_after_an_exception():
    model = nn.SequenceModel([build_lstm(2, 3), dense(3, 1)])
    online = model.online(k=2, lr=0.1)
    online.learn_one([1.0, 2.0], [0.5])
    before = online.predict_one([1.0, 1.0])
    for x, y, error in (
        ([1.0], [1.0], ValueError),
        ([1.0, np.nan], [1.0], ValueError),
        ([1.0, 2.0], [np.inf], ValueError),
        ([1.0, 2.0], [1.0, 2.0], ValueError),
        ([1.0, 2.0], [1e300], FloatingPointError),
    ):
        with np.errstate(over="ignore"), pytest.raises(error):
            online.learn_one(x, y)
        assert_same_bits(online.predict_one([1.0, 1.0]), before)
    online.reset()
    assert_same_bits(online.predict_one([1.0, 1.0]), model([[1.0, 1.0]]))
