"""clstm.nn schedules and early stopping: against formulas, and against Keras's rules, stated once more."""

import copy
import json
import math

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits

import clstm
from clstm import nn

# --------------------------------------------------------------------------------------- schedules of time


def factors(schedule, epochs, updates=None):
    updates = [0] * len(epochs) if updates is None else updates
    return np.array([schedule.factor(e, u) for e, u in zip(epochs, updates, strict=True)])


def test_step_decay_falls_at_whole_epochs():
    got = factors(nn.StepDecay(3, gamma=0.1), [0, 0.5, 2.999, 3, 5.5, 6, 8.99, 9])
    assert_close(got, [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001], "forward")


def test_cosine_decay_is_its_formula_and_stays_at_the_end():
    epochs = np.linspace(0, 10, 21)
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * e / 10)) / 2 for e in epochs]
    assert_close(factors(nn.CosineDecay(10, final=0.1), epochs), expected, "forward")
    assert_close(factors(nn.CosineDecay(10, final=0.1), [10, 11, 99.5]), [0.1] * 3, "forward")
    assert factors(nn.CosineDecay(10), [10]) == 0


def test_warm_up_rises_over_updates_and_is_never_zero():
    assert_close(factors(nn.WarmUp(4), [0] * 6, range(6)), [0.25, 0.5, 0.75, 1, 1, 1], "forward")


def test_warm_up_multiplies_the_schedule_beside_it():
    cosine, warm = nn.CosineDecay(5), nn.WarmUp(10, then=nn.CosineDecay(5))
    epochs, updates = np.arange(20) / 4, np.arange(20)
    expected = factors(cosine, epochs) * np.minimum((updates + 1) / 10, 1)
    assert_close(factors(warm, epochs, updates), expected, "forward")


def test_warm_up_hands_metrics_on():
    plateau = nn.ReduceOnPlateau(patience=1)
    warm = nn.WarmUp(1, then=plateau)
    for value in (1.0, 2.0):
        warm.end_epoch({"val_loss": value})
    assert warm.factor(0, 0) == plateau.share == 0.1
    nn.WarmUp(1).end_epoch({})


def test_schedules_of_time_alone_take_no_notice_of_metrics():
    for schedule in (nn.StepDecay(1), nn.CosineDecay(2)):
        before = schedule.state_dict()
        schedule.end_epoch({})
        assert schedule.state_dict() == before


# ----------------------------------------------------------------------------------------- metrics, plateaus


def keras_waits(values, min_delta, mode):
    """Return whether each value improves, and the count of those since, as Keras's callbacks have it."""
    best, wait = None, 0
    for value in values:
        wait += 1
        better = best is None or (value + min_delta < best if mode == "min" else value - min_delta > best)
        if better:
            best, wait = value, 0
        yield better, wait


def draw_metrics(seed):
    """Draw a sequence with ties, jumps and small changes."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 6, 25) + rng.choice([0, 0.01, 0.1], 25)).tolist()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_early_stopping_decides_as_keras_does(patience, mode, start):
    stopped = set()
    for seed in range(30):
        values, min_delta = draw_metrics(seed), [0.0, 0.05, 2.0][seed % 3]
        stopping = nn.EarlyStopping("accuracy", min_delta, patience, start, mode)
        rule = keras_waits(values[start:], min_delta, mode)
        best_epoch = None
        for epoch, value in enumerate(values):
            better, wait = (False, 0) if epoch < start else next(rule)
            best_epoch = epoch if better else best_epoch
            assert stopping.improved(epoch, {"accuracy": value}) == better
            assert stopping.wait == wait
            assert stopping.best_epoch == best_epoch
            assert stopping.best == (None if best_epoch is None else values[best_epoch])
            # Keras asks only after an epoch that is no improvement.
            stops = epoch >= start and not better and wait >= patience
            assert stopping.should_stop() == stops
            if stops:
                stopped.add(epoch)
                break
    assert len(stopped) > 3


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_reduce_on_plateau_decides_as_keras_does(patience, mode):
    seen = set()
    for seed in range(30):
        values, min_delta = draw_metrics(seed), [0.0, 0.05, 2.0][seed % 3]
        schedule = nn.ReduceOnPlateau("loss", 0.5, patience, min_delta, 0.1, mode)
        best, wait, expected = None, 0, 1.0
        for value in values:
            schedule.end_epoch({"loss": value})
            if best is None or (value + min_delta < best if mode == "min" else value - min_delta > best):
                best, wait = value, 0
            else:
                wait += 1
                if wait >= patience:
                    expected, wait = max(expected * 0.5, 0.1), 0
            assert schedule.factor(1.5, 3) == expected
            seen.add(expected)
    assert seen == {1.0, 0.5, 0.25, 0.125, 0.1}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_no_improvement(bad):
    stopping = nn.EarlyStopping(patience=2)
    assert not stopping.improved(0, {"val_loss": bad})
    assert stopping.improved(1, {"val_loss": 3.0})
    assert not stopping.improved(2, {"val_loss": bad})
    assert (stopping.best, stopping.best_epoch, stopping.wait) == (3.0, 1, 1)


def test_epochs_before_the_first_are_not_looked_at():
    stopping = nn.EarlyStopping(start_from_epoch=2)
    assert not stopping.improved(0, {})
    assert not stopping.improved(1, {"val_loss": 0.0})
    assert stopping.improved(2, {"val_loss": 5.0})


def test_a_reset_begins_anew():
    stopping, schedule = nn.EarlyStopping(patience=1), nn.ReduceOnPlateau(patience=1)
    fresh = stopping.state_dict(), schedule.state_dict()
    for epoch in range(3):
        stopping.improved(epoch, {"val_loss": 1.0})
        schedule.end_epoch({"val_loss": 1.0})
    assert (stopping.state_dict(), schedule.state_dict()) != fresh
    stopping.reset()
    schedule.reset()
    assert (stopping.state_dict(), schedule.state_dict()) == fresh


@pytest.mark.parametrize("warm", [False, True], ids=["alone", "after a warm-up"])
def test_another_fit_begins_early_stopping_and_plateaus_anew(warm):
    """No epoch but the first can be an improvement as large as this."""
    model = nn.SequenceModel([clstm.LSTM(1, 2, batch_first=True, rng=0), nn.Dense(2, 1, rng=0)])
    x, y = np.ones((4, 3, 1)), np.ones((4, 1))
    stopping = nn.EarlyStopping("loss", min_delta=1e9, patience=3)
    schedule = nn.ReduceOnPlateau("loss", 0.5, patience=2, min_delta=1e9)
    schedule = nn.WarmUp(1, then=schedule) if warm else schedule
    for _ in range(2):
        history = model.fit(x, y, epochs=9, lr=0.5, schedule=schedule, early_stopping=stopping, rng=0)
        assert history["lr"] == [0.5, 0.5, 0.5, 0.25]
        assert stopping.best_epoch == 0


@pytest.mark.parametrize(
    "watcher", [nn.EarlyStopping(), nn.ReduceOnPlateau(), nn.WarmUp(2, then=nn.ReduceOnPlateau())], ids=repr
)
def test_fit_refuses_a_metric_that_will_be_missing_before_any_work(watcher):
    model = nn.SequenceModel([clstm.LSTM(1, 2, batch_first=True, rng=0), nn.Dense(2, 1, rng=0)])
    before = model.layers[1].flat_params.copy()
    which = "early_stopping" if isinstance(watcher, nn.EarlyStopping) else "schedule"
    with pytest.raises(ValueError, match="monitor: expected one of the metrics loss, got 'val_loss'"):
        model.fit(np.ones((4, 3, 1)), np.ones((4, 1)), epochs=1, **{which: watcher})
    assert_same_bits(model.layers[1].flat_params, before)


@pytest.mark.parametrize(
    "look",
    [
        lambda metrics: nn.EarlyStopping().improved(0, metrics),
        lambda metrics: nn.EarlyStopping().check_monitor(metrics),
        lambda metrics: nn.ReduceOnPlateau().end_epoch(metrics),
    ],
)
def test_a_metric_that_is_missing_is_named_with_those_that_are_there(look):
    message = "monitor: expected one of the metrics loss, lr, got 'val_loss'; it takes validation_data or"
    with pytest.raises(ValueError, match=message):
        look({"loss": 1.0, "lr": 0.1})


# ------------------------------------------------------------------------------------------- parts as data

PARTS = [
    nn.StepDecay(3, gamma=0.5),
    nn.CosineDecay(7, final=0.25),
    nn.WarmUp(5),
    nn.WarmUp(5, then=nn.ReduceOnPlateau("loss", 0.5, 2, 0.0, 0.1, "max")),
    nn.ReduceOnPlateau(patience=2),
    nn.EarlyStopping("loss", 0.1, 3, 1, "max"),
    nn.EarlyStopping(patience=2),
]


def show(part, epochs):
    """Let a part see some epochs and return all that it says."""
    said = []
    for epoch in epochs:
        metrics = dict.fromkeys(("loss", "val_loss"), [3.0, 2.0, 2.5, 2.5, 1.0, 4.0, 4.0, 4.0][epoch])
        if isinstance(part, nn.EarlyStopping):
            said.append((part.improved(epoch, metrics), part.should_stop()))
        else:
            said.append(part.factor(epoch + 0.5, epoch))
            part.end_epoch(metrics)
    return said


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_a_part_made_of_its_arguments_and_state_goes_on_as_the_first(part):
    first = copy.deepcopy(part)
    data = json.loads(json.dumps([type(first).__name__, first.arguments]))
    begun = show(first, range(4))
    state = json.loads(json.dumps(first.state_dict()))
    rest = show(first, range(4, 8))
    second = (nn.SCHEDULES | {"EarlyStopping": nn.EarlyStopping})[data[0]](**data[1])
    assert second.arguments == first.arguments
    assert show(copy.deepcopy(second), range(4)) == begun
    second.load_state_dict(state)
    assert show(second, range(4, 8)) == rest


class OfOnesOwn:
    """A schedule that is no class of the package."""

    def __init__(self):
        self.seen = 0

    def factor(self, epoch, update):
        return 0.5

    def end_epoch(self, metrics):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]


def test_warm_up_takes_a_schedule_of_ones_own():
    warm = nn.WarmUp(2, then=OfOnesOwn())
    assert warm.factor(0, 0) == 0.25
    warm.end_epoch({})
    other = nn.WarmUp(2, then=OfOnesOwn())
    other.load_state_dict(warm.state_dict())
    assert other.state_dict()["then"] == {"seen": 1}
    assert warm.arguments["then"] == {"class": "OfOnesOwn", "arguments": None}
    with pytest.raises(ValueError, match=r"then\['class'\]: expected one of 'StepDecay', .* got 'OfOnesOwn'"):
        nn.WarmUp(**warm.arguments)


@pytest.mark.parametrize(
    ("part", "change", "error", "message"),
    [
        (nn.EarlyStopping(), {"wait": -1}, ValueError, r"state_dict\['wait'\]: expected at least 0, got -1"),
        (
            nn.EarlyStopping(),
            {"best": "low"},
            TypeError,
            r"state_dict\['best'\]: expected a number, got 'low'",
        ),
        (
            nn.EarlyStopping(),
            {"best_epoch": 0.5},
            TypeError,
            r"\['best_epoch'\]: expected an integer, got 0.5",
        ),
        (nn.EarlyStopping(), {"more": 1}, ValueError, "state_dict: expected exactly .* unexpected: more"),
        (
            nn.ReduceOnPlateau(),
            {"share": None},
            TypeError,
            r"state_dict\['share'\]: expected a number, got None",
        ),
        (nn.StepDecay(1), {"class": "WarmUp"}, ValueError, "expected one of 'StepDecay', got 'WarmUp'"),
        (nn.WarmUp(1), {"then": {}}, ValueError, r"state_dict\['then'\]: expected None, got {}"),
        (
            nn.WarmUp(1, then=nn.StepDecay(1)),
            {"then": None},
            TypeError,
            "state_dict: expected a mapping from names to arrays, got None",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(part, change, error, message):
    before = part.state_dict()
    with pytest.raises(error, match=message):
        part.load_state_dict(before | change)
    assert part.state_dict() == before


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.StepDecay(0), ValueError, "step_size: expected at least 1, got 0"),
        (lambda: nn.StepDecay(1, gamma=0), ValueError, "gamma: expected a number above 0, got 0"),
        (lambda: nn.CosineDecay(2.5), TypeError, "epochs: expected an integer, got 2.5"),
        (lambda: nn.CosineDecay(2, final=-1), ValueError, "final: expected a number of at least 0, got -1"),
        (lambda: nn.WarmUp(0), ValueError, "updates: expected at least 1, got 0"),
        (lambda: nn.WarmUp(1, then=3), TypeError, "then: expected a schedule, got 3"),
        (lambda: nn.WarmUp(1, then={"class": "StepDecay"}), ValueError, "then: .* missing: arguments"),
        (
            lambda: nn.WarmUp(1, then={"class": "StepDecay", "arguments": 3}),
            TypeError,
            r"then\['arguments'\]: expected a mapping",
        ),
        (
            lambda: nn.ReduceOnPlateau(factor=1.0),
            ValueError,
            r"factor: expected a number in \(0, 1\), got 1.0",
        ),
        (
            lambda: nn.ReduceOnPlateau(min_factor=1),
            ValueError,
            r"min_factor: expected a number in \[0, 1\), got 1",
        ),
        (lambda: nn.ReduceOnPlateau(monitor=3), TypeError, "monitor: expected str, got 3"),
        (lambda: nn.EarlyStopping(mode="auto"), ValueError, "mode: expected one of 'min', 'max', got 'auto'"),
        (lambda: nn.EarlyStopping(patience=-1), ValueError, "patience: expected at least 0, got -1"),
        (lambda: nn.EarlyStopping(min_delta=-1), ValueError, "min_delta: expected a number of at least 0"),
        (lambda: nn.EarlyStopping(start_from_epoch=0.5), TypeError, "start_from_epoch: expected an integer"),
    ],
)
def test_schedules_and_early_stopping_refuse_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
