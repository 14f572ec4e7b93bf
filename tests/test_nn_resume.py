"""Training that is killed and gone on with ends with the bits of training that is not."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_bits
from training_runs import RUNS, End, Killed, Killer, form

import clstm
from clstm import FileFormatError, files
from clstm.nn.checkpoints import CheckpointFolder, unpack

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def uninterrupted(name):
    end = End()
    run = RUNS[name]()
    run.fit([end, Killer(0)])
    return form(end.state)


@pytest.mark.parametrize("every", [None, 3], ids=["each epoch", "every 3 updates"])
@pytest.mark.parametrize("name", RUNS)
def test_resumed_training_has_the_bits_of_uninterrupted_training(tmp_path, name, every):
    end, run, kills = End(), RUNS[name](), 0
    with pytest.raises(Killed):
        run.fit([end, Killer(8)], checkpoint=tmp_path / "run", every=every)
    while not hasattr(end, "state"):
        run = RUNS[name]()
        try:
            run.resume(tmp_path / "run", [end, Killer(11 + 9 * kills)])
        except Killed:
            kills += 1
    assert end.state["update"] > 8
    assert form(end.state) == uninterrupted(name)


def test_a_run_that_a_callback_has_stopped_goes_on(tmp_path):
    class TimeIsUp:
        def on_batch_end(self, training):
            training.stop = training.update == 4

    end, run = End(), RUNS["classes"]()
    run.fit([TimeIsUp(), Killer(0)], checkpoint=tmp_path / "run")
    assert CheckpointFolder(tmp_path / "run", 1).numbers()[-1] == 4
    run.resume(tmp_path / "run", [TimeIsUp(), end])
    assert form(end.state) == uninterrupted("classes")


# --------------------------------------------------------------------------- what a run cannot go on with


def stopped(name, folder, **more):
    """Begin a run and kill it."""
    run = RUNS[name]()
    with pytest.raises(Killed):
        run.fit([Killer(6)], checkpoint=folder, every=3, **more)
    return run


@pytest.mark.parametrize("part", ["loss", "optimiser", "schedule", "early_stopping"])
def test_part_of_ones_own_that_is_missing_is_asked_for(tmp_path, part):
    run = stopped("own_parts", tmp_path)
    with pytest.raises(TypeError, match=f"^{part}: expected what the run was begun with, .*, got None$"):
        run.resume(tmp_path, [Killer(1)], **{part: None})


def test_other_data_are_refused(tmp_path):
    run = stopped("classes", tmp_path)
    x, y = run.data["validation_data"]
    for changed in (
        {"validation_data": None},
        {"validation_data": (x[1:], y[1:])},
        {"sample_weight": [1.0] * 30},
    ):
        with pytest.raises(
            ValueError, match=r"^x, y, validation_data: expected the data that the run was begun"
        ):
            run.resume(tmp_path, [Killer(1)], **changed)
    run.y = run.y[::-1]
    with pytest.raises(ValueError, match=r"^x, y, validation_data: expected the data that the run was begun"):
        run.resume(tmp_path, [Killer(1)])


def test_other_callbacks_are_refused(tmp_path):
    run = stopped("own_parts", tmp_path)
    with pytest.raises(ValueError, match=r"^callbacks: expected the 2 that the run was begun with, got 1"):
        run.resume(tmp_path)
    run.own["callbacks"] = [Killer(1)]
    with pytest.raises(
        ValueError, match=r"^callbacks\[0\]: expected one that takes the state of the one that"
    ):
        run.resume(tmp_path, [Killer(1)])


class Other(np.random.PCG64):
    pass


def test_generator_whose_state_no_file_holds_is_refused_for_a_checkpoint_alone(tmp_path):
    run = RUNS["plain"]()
    run.fit(rng=np.random.Generator(Other(0)))
    for changed in ("run", "layer"):
        run, rng = RUNS["plain"](), np.random.Generator(Other(0))
        more = {"rng": rng} if changed == "run" else {}
        run.layers[0].rng = run.layers[0].rng if changed == "run" else rng
        before = run.layers[0].flat_params.copy()
        with pytest.raises(TypeError, match=r"^generator: expected a numpy\.random.Generator on PCG64, "):
            run.fit(checkpoint=tmp_path / "run", **more)
        assert_same_bits(run.layers[0].flat_params, before)
        assert not os.listdir(tmp_path)


def places_in(tree, place=()):
    """Return the places of all values in a tree."""
    yield place
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in inner:
        yield from places_in(value, (*place, name))


def with_value(tree, place, value):
    """Return a tree with another value at a place."""
    if not place:
        return value
    changed = tree.copy()
    changed[place[0]] = with_value(tree[place[0]], place[1:], value)
    return changed


HOSTILE = [
    None, True, -1, 0, 3, 10**30, 1.5, float("nan"), "x", "PCG64", [], [1], [[1]], {}, {"a": 1}, (),
    np.float32(2), np.zeros(3), np.zeros((2, 2)), np.zeros(0, np.int64),
]  # fmt: skip
# What a user may have caused too, and so is no FileFormatError.
OWN = r"x, y, validation_data: |callbacks|tbptt: |(loss|optimiser|schedule|early_stopping): expected what"


@pytest.mark.parametrize("name", ["dropouts", "plateaus"])
def test_checkpoint_of_hostile_values_is_refused_or_does_no_harm(tmp_path, monkeypatch, name):
    stopped(name, tmp_path)
    right, _ = CheckpointFolder(tmp_path, 1).newest()
    chance, refused = random.Random(0), 0
    for place in places_in(right):
        for value in chance.sample(HOSTILE, 2):
            tree = with_value(right, place, value)
            monkeypatch.setattr(CheckpointFolder, "newest", lambda _, tree=tree: (tree, 6))
            try:
                RUNS[name]().resume(tmp_path, [Killer(1)])
            except (Killed, FloatingPointError):
                pass
            except FileFormatError:
                refused += 1
            except (ValueError, TypeError) as error:
                if not re.match(OWN, str(error)):
                    raise AssertionError(place, value) from error
    assert refused > 200


# ---------------------------------------------------------------------------------------------- real signals


def run_until(lines, delay, *arguments):
    """Run a script until it has printed so many lines and some time has passed; tell how it ended."""
    package, script = Path(clstm.__file__).parents[1], Path(__file__).with_name("training_runs.py")
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, str(script), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL if lines else 0)
        process.stdout.read()
    return process.returncode


KILLS = 5


@posix
def test_killed_at_random_moments_training_ends_with_the_bits_of_uninterrupted_training(tmp_path):
    chance, folder, out = random.Random(0), tmp_path / "run", tmp_path / "out"
    arguments = ("everything", folder, out)
    killed = [run_until(chance.randint(1, 30), chance.uniform(0, 0.01), *arguments) for _ in range(KILLS)]
    assert -signal.SIGKILL in killed
    assert run_until(0, 0, *arguments) == 0
    contents = files.read(out)
    assert form(unpack(contents.arguments, contents.tensors())) == uninterrupted("everything")
    assert all(name.startswith("checkpoint-") for name in os.listdir(folder))
    numbers = CheckpointFolder(folder, 1).numbers()
    assert 2 <= len(numbers) <= 3
