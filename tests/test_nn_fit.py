"""SequenceModel.fit: it learns, repeats, weighs, cuts, stops, reports and refuses."""

import logging
from functools import partial

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_lstm, threads

import clstm
from clstm import nn

LENGTHS = (5, 3, 1, 2, 4, 5, 2)


def build_model(readout="last", dtype="float64", output_size=2, **kwargs):
    """Make a model on an LSTM with 2 inputs and 3 hidden units."""
    lstm = build_lstm(2, 3, dtype=dtype, **({"batch_first": True} | kwargs))
    return nn.SequenceModel([lstm, nn.Dense(3, output_size, dtype=dtype, rng=0)], readout)


def draw_task(dtype="float64", *, N=7, T=5, seed=0):
    """Draw sequences (N, T, 2) and targets (N, 2) that depend on them."""
    x = np.random.default_rng(seed).standard_normal((N, T, 2))
    return x.astype(dtype), np.stack([x[:, -1, 0], x.mean(axis=(1, 2))], axis=1).astype(dtype)


def weights(model):
    return np.concatenate([layer.flat_params for layer in model.layers])


def gradients(model):
    return np.concatenate([layer.flat_grads for layer in model.layers])


class Still:
    """An optimiser that leaves the parameters, and keeps the gradients of each update."""

    def __init__(self, layers):
        self.layers, self.lr, self.seen = layers, 1.0, []

    def step(self):
        self.seen.append(np.concatenate([layer.flat_grads for layer in self.layers]))


# ------------------------------------------------------------------------------------------------ it computes


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_it_learns(dtype, backend, readout):
    model = build_model(readout, dtype, backend=backend)
    x, y = draw_task(dtype, N=40)
    history = model.fit(x, y, epochs=40, batch_size=8, lr=0.03, rng=0)
    assert list(history) == ["loss", "lr", "seconds"]
    assert [len(values) for values in history.values()] == [40] * 3
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert nn.mse_loss(model(x), y)[0] < 0.2 * history["loss"][0]


def test_it_is_the_same_on_kernels_and_definition():
    x, y = draw_task()
    losses = [
        np.array(build_model(backend=backend).fit(x, y, epochs=5, batch_size=3, rng=0)["loss"])
        for backend in ("auto", "numpy")
    ]
    assert_close(*losses, "backward")


def test_it_repeats_with_the_same_seed_and_any_threads(dtype):
    x, y = draw_task(dtype, N=40, T=20)

    def build():  # large enough for a second thread to be worth it
        layers = [
            clstm.LSTM(2, 64, dtype=dtype, batch_first=True, rng=0),
            nn.Dense(64, 2, dtype=dtype, rng=1),
        ]
        return nn.SequenceModel(layers)

    made = [build() for _ in range(4)]
    for n, model in enumerate(made[:3]):
        with threads(1 + n % 2):
            model.fit(x, y, epochs=3, batch_size=16, rng=0)
        assert_same_bits(weights(model), weights(made[0]))
    made[3].fit(x, y, epochs=3, batch_size=16, rng=1)
    assert not np.array_equal(weights(made[3]), weights(made[0]))


def test_arrays_of_either_layout_and_lists_are_the_same():
    x, y = draw_task()
    given = {
        "array": (x, y, {"lengths": LENGTHS}),
        "list": ([row[:n] for row, n in zip(x, LENGTHS, strict=True)], y, {}),
        "time-major": (x.swapaxes(0, 1), y, {"lengths": LENGTHS}),
    }
    losses = []
    for name, (x_given, y_given, options) in given.items():
        model = build_model(batch_first=name != "time-major")
        losses.append(model.fit(x_given, y_given, epochs=3, batch_size=3, rng=0, **options)["loss"])
    assert losses[0] == losses[1] == losses[2]


def test_targets_at_each_step_as_arrays_and_lists_are_the_same():
    x, _ = draw_task()
    y = np.cumsum(x, axis=1)
    lists = [[a[:n] for a, n in zip(whole, LENGTHS, strict=True)] for whole in (x, y)]
    one, other = build_model("each"), build_model("each")
    losses = one.fit(x, y, epochs=4, batch_size=3, rng=0, lengths=LENGTHS, lr=0.01)["loss"]
    assert other.fit(*lists, epochs=4, batch_size=3, rng=0, lr=0.01)["loss"] == losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("readout", ["last", "each"])
def test_padding_is_never_read(readout):
    x, y = draw_task()
    y = y if readout == "last" else np.cumsum(x, axis=1)
    padded, zeroed = x.copy(), x.copy()
    targets = [y.copy(), y.copy()]
    for row, length in enumerate(LENGTHS):
        padded[row, length:], zeroed[row, length:] = np.nan, 0
        if readout == "each":
            targets[0][row, length:], targets[1][row, length:] = np.nan, 0
    losses = [
        build_model(readout).fit(given, target, epochs=2, batch_size=3, lengths=LENGTHS, rng=0)["loss"]
        for given, target in zip((padded, zeroed), targets, strict=True)
    ]
    assert losses[0] == losses[1]


def test_the_loss_is_the_mean_over_targets_whatever_the_batches():
    x, y = draw_task()
    model = build_model()
    losses = model.fit(x, y, epochs=2, batch_size=4, optimiser=Still, rng=0)["loss"]
    assert_close(np.array(losses), np.full(2, nn.mse_loss(model(x), y)[0]), "forward")
    steps, y = build_model("each"), np.cumsum(x, axis=1)
    loss = steps.fit(x, y, epochs=1, batch_size=3, optimiser=Still, rng=0, lengths=LENGTHS)["loss"]
    mean = nn.mse_loss(steps(x, LENGTHS), y, lengths=LENGTHS, batch_first=True)[0]
    assert_close(np.array(loss), np.array([mean]), "forward")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("readout", ["last", "each"])
def test_accumulated_batches_have_the_gradient_of_one_large_batch(readout, weighted):
    x, y = draw_task()
    y = y if readout == "last" else np.cumsum(x, axis=1)
    seen = []
    options = {"sample_weight": np.arange(7.0) if weighted else None, "lengths": LENGTHS, "max_norm": None}
    for batch_size, accumulate in ((7, 1), (2, 4), (3, 5)):
        made = []
        model = build_model(readout)
        model.fit(
            x, y, epochs=1, batch_size=batch_size, accumulate=accumulate, rng=0, **options,
            optimiser=lambda layers, made=made: made.append(Still(layers)) or made[0],
        )  # fmt: skip
        assert len(made[0].seen) == 1
        seen.append(made[0].seen[0])
    assert_close(seen[1], seen[0], "backward")
    assert_close(seen[2], seen[0], "backward")


def test_a_weight_of_two_is_the_row_twice():
    x, y = draw_task()
    rows = np.repeat(np.arange(7), [1, 2, 0, 1, 3, 1, 1])
    seen = []
    for given, target, weight in ((x, y, [1, 2, 0, 1, 3, 1, 1]), (x[rows], y[rows], None)):
        model = build_model()
        model.fit(given, target, epochs=1, sample_weight=weight, optimiser=Still, max_norm=None, rng=0)
        seen.append(gradients(model))
    assert_close(*seen, "backward")


def test_tbptt_carries_the_state_and_cuts_the_gradient():
    x, _ = draw_task(T=7)
    y, lengths = np.cumsum(x, axis=1), [7, 3, 1, 6, 7, 2, 5]
    model, by_hand = build_model("each"), build_model("each")
    still = Still(model.layers)
    loss = model.fit(
        x, y, epochs=1, batch_size=7, tbptt=3, lengths=lengths, optimiser=still, max_norm=None, rng=0
    )["loss"]
    assert_close(
        np.array(loss), np.array([nn.mse_loss(model(x, lengths), y, lengths=lengths, batch_first=True)[0]]),
        "forward",
    )  # fmt: skip
    assert len(still.seen) == 3
    for seen, (prediction, steps) in zip(still.seen, by_hand.tbptt(x, 3, lengths), strict=True):
        real = np.clip(np.array(lengths) - steps.start, 0, prediction.shape[1])
        by_hand.backward(nn.mse_loss(prediction, y[:, steps], lengths=real, batch_first=True)[1])
        assert_close(seen, gradients(by_hand), "backward")


def test_gradients_are_clipped_by_value_and_norm():
    x, y = draw_task()
    model = build_model()
    model.fit(x, y, epochs=1, max_norm=1e-3, rng=0)
    assert_close(np.sqrt(np.square(gradients(model)).sum()), 1e-3, "forward")
    model.fit(x, y, epochs=1, max_norm=None, rng=0)
    assert np.abs(gradients(model)).max() > 1e-2
    model.fit(x, y, epochs=1, max_norm=None, max_value=1e-3, rng=0)
    assert np.abs(gradients(model)).max() == 1e-3


def test_it_continues_with_a_given_optimiser():
    x, y = draw_task()
    whole, parts = build_model(), build_model()
    losses = whole.fit(x, y, epochs=4, batch_size=3, lr=0.01, rng=0)["loss"]
    adam, rng = nn.Adam(parts.layers, 0.01), np.random.default_rng(0)
    continued = [parts.fit(x, y, epochs=2, batch_size=3, optimiser=adam, rng=rng)["loss"] for _ in range(2)]
    assert continued[0] + continued[1] == losses


@pytest.mark.parametrize("readout", ["last", "each"])
def test_a_row_of_targets_is_a_column(readout):
    x, y = draw_task()
    y = y[:, :1] if readout == "last" else np.cumsum(x, axis=1)[..., :1]
    losses = [
        build_model(readout, output_size=1).fit(x, target, epochs=3, rng=0)["loss"]
        for target in (y, y[..., 0])
    ]
    assert losses[0] == losses[1]


def test_every_loss_trains():
    x, y = draw_task(N=30)
    classes = (y[:, 0] > 0).astype(int)
    for loss, target, size in (
        ("mse", y, 2),
        ("l1", y, 2),
        ("huber", y, 2),
        (partial(nn.huber_loss, delta=0.1), y, 2),
        (partial(nn.quantile_loss, quantiles=(0.1, 0.9)), y[:, 0], 2),
        ("cross_entropy", classes, 2),
        ("binary_cross_entropy", classes[:, None], 1),
        (
            lambda prediction, target: (
                0.5 * np.mean((prediction - target) ** 2),
                (prediction - target) / 60,
            ),
            y,
            2,
        ),
    ):
        model = build_model(output_size=size)
        losses = model.fit(x, target, epochs=20, batch_size=8, lr=0.03, loss=loss, rng=0)["loss"]
        assert losses[-1] < 0.8 * losses[0], loss


# ------------------------------------------------------------------------------------- watching and stopping


def test_validation_has_no_dropout_and_draws_nothing():
    x, y = draw_task(N=20)
    models = [
        nn.SequenceModel(
            [build_lstm(2, 3, num_layers=2, dropout=0.5, batch_first=True), nn.Dense(3, 2, rng=0)]
        )
        for _ in range(2)
    ]
    watched = models[0].fit(x, y, epochs=3, rng=0, validation_data=(x[:5], y[:5]))
    assert watched["loss"] == models[1].fit(x, y, epochs=3, rng=0)["loss"]
    assert_close(
        np.array(watched["val_loss"][-1]), np.array(nn.mse_loss(models[0](x[:5]), y[:5])[0]), "forward"
    )


def test_validation_data_may_be_padded_and_weighted():
    x, y = draw_task(N=5)
    weight, lengths = [1.0, 0, 2, 1, 1], [5, 1, 3, 2, 5]
    model = build_model()
    history = model.fit(x, y, epochs=1, rng=0, optimiser=Still, validation_data=(x, y, weight, lengths))
    expected = nn.mse_loss(model(x, lengths), y, weight=weight)[0]
    assert_close(np.array(history["val_loss"][0]), np.array(expected), "forward")
    with (
        np.errstate(over="ignore"),
        pytest.raises(FloatingPointError, match="a val_loss of inf after epoch 1"),
    ):
        model.fit(x, y, epochs=1, rng=0, validation_data=(x, y * 1e200))


def test_a_split_is_drawn_and_never_trained_on():
    x, y = draw_task(N=20)
    y[:4] = 1e6  # so that a loss tells who was there
    model = build_model()
    history = model.fit(x, y, epochs=1, rng=3, validation_split=0.25, optimiser=Still)
    share = 15 * history["loss"][0] + 5 * history["val_loss"][0]
    assert_close(np.array(share / 20), np.array(nn.mse_loss(model(x), y)[0]), "forward")


@pytest.mark.parametrize("epochs", [3, 50])
def test_the_best_weights_are_restored_always(epochs):
    """Also when the epochs run out: the third of them makes things worse."""
    x, y = draw_task(N=20)

    class Spoil:
        best = None

        def on_epoch_end(self, training):
            if training.epoch == 1:
                self.best = weights(training.model)
            if training.epoch >= 1:
                for layer in training.model.layers:
                    layer.flat_params += 1.0

    spoil, model = Spoil(), build_model()
    stopping = nn.EarlyStopping(patience=5)
    history = model.fit(
        x, y, epochs=epochs, rng=0, validation_data=(x, y), early_stopping=stopping, callbacks=[spoil]
    )
    assert_same_bits(weights(model), spoil.best)
    assert len(history["loss"]) == min(epochs, 7)
    assert stopping.best == history["val_loss"][1] == min(history["val_loss"])


def test_callbacks_are_told_in_order_and_can_stop():
    x, y = draw_task()
    told = []

    class Watch:
        def on_train_begin(self, training):
            told.append(("begin", training.epoch, training.update))

        def on_epoch_begin(self, training):
            told.append(("epoch", training.epoch))

        def on_batch_end(self, training):
            told.append(("batch", training.update))

        def on_epoch_end(self, training):
            told.append(("end", training.epoch, len(training.history["loss"])))
            training.stop = training.epoch == 1

        def on_train_end(self, training):
            told.append(("done", training.epoch))

    build_model().fit(x, y, epochs=9, batch_size=4, rng=0, callbacks=[Watch()])
    assert told == [
        ("begin", 0, 0),
        *[("epoch", 0), ("batch", 1), ("batch", 2), ("end", 0, 1)],
        *[("epoch", 1), ("batch", 3), ("batch", 4), ("end", 1, 2)],
        ("done", 2),
    ]


def test_a_schedule_multiplies_the_learning_rate_before_each_update():
    x, y = draw_task()
    seen = []

    class Rate:
        ended = 0

        def factor(self, epoch, update):
            seen.append((epoch, update))
            return 0.5**update

        def end_epoch(self, metrics):
            self.ended += 1
            assert set(metrics) == {"loss"}

    rate, model = Rate(), build_model()
    adam = nn.Adam(model.layers, lr=0.01)
    history = model.fit(x, y, epochs=2, batch_size=4, optimiser=adam, schedule=rate, rng=0)
    assert seen == [(0.0, 0), (0.5, 1), (1.0, 2), (1.5, 3)]
    assert history["lr"] == [0.005, 0.00125]
    assert (adam.lr, rate.ended) == (0.01, 2)


def test_it_prints_nothing_unless_asked(capsys, caplog):
    x, y = draw_task()
    build_model().fit(x, y, epochs=2, rng=0)
    assert capsys.readouterr() == ("", "")
    with caplog.at_level(logging.INFO, "clstm"):
        build_model().fit(x, y, epochs=2, rng=0, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "14.0/14.0" in err
    assert "loss=" in err
    assert "seq/s" in err
    assert [record.message.split(",")[0][:13] for record in caplog.records] == [
        "epoch 1: loss",
        "epoch 2: loss",
    ]


# ----------------------------------------------------------------------------------------------- what ends it


def spoiled(model):
    model.layers[0].params["weight_hh_l0"][0, 0] = np.nan
    return model


class Explode:
    """A layer whose output is too large from the third step on."""

    def __init__(self):
        self.flat_params = self.flat_grads = np.zeros(0)

    def __call__(self, x):
        y = x.copy()
        y[2:] *= np.inf
        return y

    forward = __call__

    def backward(self, dy, accumulate=False):
        return dy


def test_what_is_not_finite_stops_it_at_once_and_says_where():
    x, y = draw_task()
    cases = (
        (
            spoiled(build_model()),
            {},
            r"a loss of nan in epoch 1, batch 1: the parameters of layers\[0\] \(LSTM\)",
        ),
        (
            nn.SequenceModel([Explode(), *build_model("each").layers, Explode()], "each"),
            {"y": np.cumsum(x, axis=1)},
            r"put out by layers\[0\] \(Explode\) at time step 2",
        ),
        (build_model(), {"y": y * 1e200}, "a loss of inf in epoch 1, batch 1: every output is finite"),
    )
    for model, change, message in cases:
        before = weights(model)
        with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=message):
            model.fit(**({"x": x, "y": y, "epochs": 2, "rng": 0} | change))
        np.testing.assert_array_equal(weights(model), before)


def test_gradients_that_are_not_finite_change_nothing():
    x, y = draw_task()

    def loss(prediction, target):
        return 1.0, np.full_like(prediction, np.nan)

    model = build_model()
    before = weights(model)
    with pytest.raises(FloatingPointError, match="a norm of the gradients of nan in epoch 1, batch 1"):
        model.fit(x, y, epochs=1, loss=loss, rng=0)
    assert_same_bits(weights(model), before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((7, 5, 3))}, ValueError, r"x: expected shape \(N, T, 2\), got \(7, 5, 3\)"),
        (
            {"x": np.ones((5, 2))},
            ValueError,
            r"x: expected shape \(N, T, 2\) or a list of \(T, 2\), got \(5, 2\)",
        ),
        ({"x": np.ones((0, 5, 2))}, ValueError, r"x: expected at least one sequence, got shape \(0, 5, 2\)"),
        ({"x": []}, ValueError, "x: expected at least one sequence, got none"),
        (
            {"x": [np.ones((3, 2))] * 6 + [np.ones(3)]},
            ValueError,
            r"x\[6\]: expected shape \(T, 2\), got \(3,\)",
        ),
        (
            {"x": [[[1, 2], [3]]] * 7},
            ValueError,
            r"x\[0\]: expected an array of numbers, got rows of different lengths",
        ),
        ({"y": [[1, 2], [3]]}, ValueError, "y: expected an array of numbers, got rows of different lengths"),
        (
            {"x": np.full((7, 5, 2), np.nan)},
            ValueError,
            "x: expected finite numbers, got nan in sequence 0, step 0, ",
        ),
        (
            {"y": np.ones(7)},
            ValueError,
            r"y: expected shape \(1, 2\), got \(1,\), in 1 of 7 sequences that were tried first",
        ),
        (
            {"y": np.ones((6, 2))},
            ValueError,
            r"y: expected a target for each of 7 sequences, got shape \(6, 2\)",
        ),
        ({"y": np.full((7, 2), np.inf)}, ValueError, "y: expected finite numbers, got inf in row 0"),
        ({"y": ["a"] * 7}, TypeError, "y: expected numbers, got dtype <U1; of labels"),
        ({"y": np.ones((7, 2)), "loss": "cross_entropy"}, (TypeError, ValueError), "y: expected"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size: expected an integer, got 1.5"),
        ({"lr": -1}, ValueError, "lr: expected a number above 0, got -1"),
        ({"loss": "nll"}, ValueError, "loss: expected one of 'mse', "),
        ({"loss": 3}, TypeError, "loss: expected a function or one of mse, "),
        ({"optimiser": "adagrad"}, ValueError, "optimiser: expected one of 'sgd', "),
        ({"optimiser": 3}, TypeError, "optimiser: expected one of sgd, "),
        (
            {"optimiser": nn.Adam([nn.Dense(1, 1)])},
            ValueError,
            "optimiser: expected one of the layers of this",
        ),
        ({"max_norm": 0}, ValueError, "max_norm: expected a number above 0, got 0"),
        ({"max_value": -1}, ValueError, "max_value: expected a number above 0, got -1"),
        ({"accumulate": 0}, ValueError, "accumulate: expected at least 1, got 0"),
        ({"tbptt": 3}, ValueError, 'tbptt: expected a model with readout "each", got "last"'),
        ({"lengths": [6] * 7}, ValueError, r"lengths: expected values in 0..5, got 6..6"),
        ({"sample_weight": [-1] * 7}, ValueError, "sample_weight: expected finite weights of at least 0"),
        (
            {"sample_weight": [1] * 7, "loss": lambda prediction, target: None},
            TypeError,
            "loss: expected a function with a parameter `weight`",
        ),
        (
            {
                "validation_data": (np.ones((2, 5, 2)), np.ones((2, 2)), [1, 1]),
                "loss": lambda prediction, target: None,
            },
            TypeError,
            "loss: expected a function with a parameter `weight`",
        ),
        (
            {"loss": lambda p, t: 1.0},
            TypeError,
            "loss: expected a function that returns a loss and its deriv",
        ),
        (
            {"loss": lambda p, t: (1.0, np.ones(1))},
            ValueError,
            r"loss: derivative: expected shape \(3, 2\), got \(1,\)",
        ),
        (
            {"optimiser": lambda layers: None},
            TypeError,
            "optimiser: expected what makes an object with `step`",
        ),
        ({"schedule": nn.StepDecay}, TypeError, "schedule: expected an object with `factor`"),
        ({"callbacks": 3}, TypeError, "callbacks: expected a list of objects, got 3"),
        ({"validation_data": np.ones(3)}, TypeError, r"validation_data: expected \(x, y\)"),
        (
            {"validation_data": (np.ones((2, 5, 2)), np.ones((2, 3)))},
            ValueError,
            r"validation_data\[1\]: expected",
        ),
        ({"validation_split": 0.01}, ValueError, "validation_split: expected a share that leaves"),
        (
            {"early_stopping": nn.EarlyStopping()},
            ValueError,
            "monitor: expected .* loss, got 'val_loss'",
        ),
        ({"early_stopping": 3}, TypeError, "early_stopping: expected EarlyStopping, got 3"),
        (
            {"callbacks": [lambda training: None]},
            TypeError,
            r"callbacks\[0\]: expected an object with any of on_tr",
        ),
        ({"every": 0}, ValueError, "every: expected at least 1, got 0"),
        ({"every": 5}, ValueError, "every: expected None without a checkpoint, got 5"),
        (
            {"x": np.ma.masked_less(np.ones((7, 5, 2)), 2)},
            TypeError,
            "x: expected an array of .* without a mask",
        ),
        ({"rng": "seed"}, TypeError, "rng: expected an integer, got 'seed'"),
        ({"progress": 1}, TypeError, "progress: expected True or False, got 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_before_any_work(change, error, message):
    model = build_model()
    x, y = draw_task()
    before, state = weights(model), model.layers[0].rng.bit_generator.state
    with pytest.raises(error, match=message):
        model.fit(**({"x": x, "y": y, "epochs": 1} | change))
    assert_same_bits(weights(model), before)
    assert model.layers[0].rng.bit_generator.state == state


def test_sequences_on_the_other_axis_are_recognised():
    x, y = draw_task()
    with pytest.raises(ValueError, match=r"y: .* x is read as \(T, N, \.\.\.\), .* with batch_first=True"):
        build_model(batch_first=False).fit(x, y, epochs=1)


def test_an_optimiser_that_is_there_has_its_own_learning_rate():
    x, y = draw_task()
    model = build_model()
    with pytest.raises(ValueError, match="lr: expected None with an optimiser, which has its own, got 5"):
        model.fit(x, y, epochs=1, lr=5.0, optimiser=nn.Adam(model.layers))
    with pytest.raises(ValueError, match="accumulate: expected 1 with tbptt"):
        build_model("each").fit(x, np.cumsum(x, axis=1), epochs=1, tbptt=2, accumulate=2)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"y": np.ones((7, 3))},
        {"early_stopping": nn.EarlyStopping("val_accuracy")},
        {"callbacks": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_refused_draws_nothing_and_begins_nothing(tmp_path, change):
    x, y = draw_task()
    rng, plateau = np.random.default_rng(0), nn.ReduceOnPlateau()
    plateau.wait = 3
    before = rng.bit_generator.state
    options = {"epochs": 1, "validation_split": 0.3, "rng": rng, "schedule": plateau}
    with pytest.raises((TypeError, ValueError)):
        build_model().fit(**({"x": x, "y": y, "checkpoint": tmp_path / "run"} | options | change))
    assert rng.bit_generator.state == before
    assert plateau.wait == 3
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("row", range(7))
def test_a_class_that_is_out_of_range_anywhere_is_refused_before_training(row, lists):
    x, _ = draw_task()
    y = np.zeros((7, 5), int)
    y[row, LENGTHS[row] - 1] = 2
    y[0, 1:3], y[1, 3:] = 1, 99  # the latter is padding
    given = {"x": x, "y": y, "lengths": LENGTHS}
    if lists:
        x, y = ([a[:n] for a, n in zip(both, LENGTHS, strict=True)] for both in (x, y))
        given = {"x": x, "y": y}
    model, weight = build_model("each"), np.ones(7)
    weight[row] = 0
    before = weights(model)
    for options in ({}, {"sample_weight": weight}):
        with pytest.raises(ValueError, match=r"y: expected values in 0..1, got 0..2"):
            model.fit(**given, **options, epochs=1, batch_size=1, loss="cross_entropy", rng=0)
        assert_same_bits(weights(model), before)


def test_an_index_that_is_out_of_range_anywhere_is_refused_with_its_place():
    model = nn.SequenceModel(
        [nn.Embedding(3, 2, rng=0), *build_model(batch_first=True).layers],
    )
    x = np.zeros((7, 5), int)
    x[4, 1], x[1, 3] = 3, -1  # the latter is padding
    for call in (lambda: model.predict(x, LENGTHS), lambda: model.fit(x, x, epochs=1, lengths=LENGTHS)):
        with pytest.raises(ValueError, match=r"x: expected values in 0..2, got 3 in sequence 4, step 1"):
            call()


def test_there_must_be_a_step_to_learn_from():
    x, y = draw_task()
    for model, target in ((build_model(), y), (build_model("each"), x)):
        with pytest.raises(ValueError, match="x: expected at least one step, got none"):
            model.fit(x, target, epochs=1, lengths=[0] * 7)


def test_rows_of_different_lengths_among_targets_of_steps_are_named():
    x, _ = draw_task()
    with pytest.raises(
        ValueError, match=r"y\[0\]: expected an array of numbers, got rows of different lengt"
    ):
        build_model("each").fit(x, [[[1.0], [2.0, 3.0]]] * 7, epochs=1)
