"""fit on several ranks: in threads over a communicator made here, and in processes where MPI is installed."""

import copy
import itertools
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_lstm

import clstm
from clstm import nn
from clstm.nn import parallel

# ---------------------------------------------------------------------------------- a communicator of threads


class Ended(BaseException):
    """What Abort does to every rank."""


class World:
    """What the ranks of a communicator share; each takes part in one collective operation after the other."""

    def __init__(self, size):
        self.size, self.changed, self.calls = size, threading.Condition(), {}
        self.aborted, self.derived = [], {}

    def put(self, number, rank, operation, value):
        with self.changed:
            calls = self.calls.setdefault(number, {})
            calls[rank] = operation, value
            if len(calls) == self.size:
                assert len({name for name, _ in calls.values()}) == 1, f"ranks call {calls}"
            self.changed.notify_all()

    def is_done(self, number):
        if self.aborted:
            raise Ended
        return len(self.calls[number]) == self.size

    def values(self, number):
        with self.changed:
            until = time.monotonic() + 30
            while not self.is_done(number):
                assert time.monotonic() < until, "the other ranks do not come"
                self.changed.wait(0.05)
            return [self.calls[number][rank][1] for rank in range(self.size)]


class Comm:
    """What `parallel` uses of mpi4py's communicators, for one rank."""

    def __init__(self, world, rank):
        self.world, self.rank, self.numbers = world, rank, itertools.count()
        self.failing = {}  # exceptions by operation

    def collect(self, operation, value):
        if self.world.aborted:
            raise Ended
        if operation in self.failing:
            raise self.failing[operation]
        number = next(self.numbers)
        self.world.put(number, self.rank, operation, value)
        return number

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.world.size

    def Dup(self):
        number = self.collect("Dup", None)
        self.world.values(number)
        with self.world.changed:
            other = self.world.derived.setdefault(number, World(self.world.size))
        made = Comm(other, self.rank)
        other.aborted, made.failing = self.world.aborted, self.failing
        return made

    def Free(self):
        self.world.values(self.collect("Free", None))

    def Abort(self, code):
        if not self.world.aborted:
            self.world.aborted.append((self.rank, code))
        raise Ended

    def Iallgather(self, send, received):
        number = self.collect("Iallgather", send.copy())

        def finish():
            received[...] = self.world.values(number)

        def test():
            done = self.world.is_done(number)
            if done:
                finish()
            return done

        return SimpleNamespace(Wait=finish, Test=test)

    def Allgather(self, send, received):
        received[...] = self.world.values(self.collect("Allgather", send.copy()))

    def Alltoall(self, send, received):
        received[...] = [rows[self.rank] for rows in self.world.values(self.collect("Alltoall", send.copy()))]

    def allgather(self, value):
        return list(map(pickle.loads, self.world.values(self.collect("allgather", pickle.dumps(value)))))

    def bcast(self, value, root):
        return pickle.loads(self.world.values(self.collect("bcast", pickle.dumps(value)))[root])


def on_ranks(size, work):
    """Return what `work(comm)` returns or raises on each rank of a new communicator, and the communicator."""
    world = World(size)
    comms, results = [Comm(world, rank) for rank in range(size)], [None] * size

    def run(rank):
        try:
            results[rank] = work(comms[rank])
        except BaseException as error:  # noqa: BLE001  # whatever comes is what is looked at
            results[rank] = error

    ranks = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(60)
        assert not thread.is_alive()
    return results, world


def succeed(size, work):
    """Return what the ranks return, none of which raises."""
    results, _ = on_ranks(size, work)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


# --------------------------------------------------------------------------------------------------- the task


def build_model(readout="last", *layers, dtype="float64", seed=0):
    lstm = build_lstm(2, 5, dtype=dtype, batch_first=True, seed=seed)
    return nn.SequenceModel([lstm, *layers, nn.Dense(5, 2, dtype=dtype, rng=seed)], readout)


LENGTHS = np.random.default_rng(0).integers(1, 8, 23)


def draw_task(readout="last"):
    """Draw 23 sequences of unequal lengths: batches of 4 leave one of 3."""
    rng = np.random.default_rng(1)
    x = [rng.standard_normal((n, 2)) for n in LENGTHS]
    return x, [row.cumsum(axis=0) for row in x] if readout == "each" else np.stack([row.mean(0) for row in x])


def weights(model):
    return np.concatenate([layer.flat_params for layer in model.layers])


def fit(comm=None, *, readout="last", dtype="float64", layers=(), **options):
    """Fit a new model; return it with the history."""
    model = build_model(readout, *layers, dtype=dtype)
    x, y = draw_task(readout)
    arguments = {"epochs": 3, "batch_size": 4, "optimiser": "sgd", "lr": 0.1, "rng": 0}
    if "early_stopping" in options:  # keeps what it has seen
        options["early_stopping"] = copy.deepcopy(options["early_stopping"])
    return model, model.fit(x, y, **(arguments | options), comm=comm)


CASES = {
    "last": {},
    "each": {"readout": "each"},
    "mean": {"readout": "mean"},
    "weights": {"sample_weight": np.arange(23) % 5, "readout": "each"},
    "accumulate": {"accumulate": 3},
    "tbptt": {"readout": "each", "tbptt": 3},
    "fewer rows than ranks": {"batch_size": 2},
    "validation": {"validation_split": 0.3, "early_stopping": nn.EarlyStopping(patience=1)},
    "clipping": {"max_norm": 0.05, "max_value": 0.01},
}


@pytest.mark.parametrize(("size", "dtype"), [(2, "float64"), (3, "float32"), (4, "float64")])
@pytest.mark.parametrize("name", CASES)
def test_ranks_agree_with_one_process(name, size, dtype):
    alone, expected = fit(dtype=dtype, **CASES[name])
    made = succeed(size, lambda comm: fit(comm, dtype=dtype, **CASES[name]))
    for model, history in made:
        assert_same_bits(weights(model), weights(made[0][0]))
        assert_close(weights(model), weights(alone), "backward")
        assert list(history) == list(expected)
        assert history == made[0][1]  # the seconds, too
        for metric in ("loss", "val_loss"):
            if metric in expected:
                assert_close(np.array(history[metric], dtype), np.array(expected[metric]), "backward")


def test_one_rank_has_the_bits_of_no_communicator():
    ((model, _),) = succeed(1, fit)
    assert_same_bits(weights(model), weights(fit()[0]))


@pytest.mark.parametrize(("small", "left"), [(np.float32(2.0**-24), 2.0**-23), (2.0**-53, 0.0)])
def test_sums_are_in_the_order_of_the_ranks_and_in_float64(small, left):
    def add(comm):
        layer = SimpleNamespace(flat_grads=np.full(5, (1, small, small, -1)[comm.rank], type(small)))
        empty = SimpleNamespace(flat_grads=np.zeros(0))
        with parallel.together(comm) as ranks:
            sums = ranks.add([empty, layer], np.array([1.0, comm.rank]))
        return sums, layer.flat_grads

    for sums, added in succeed(4, add):
        assert_same_bits(sums, np.array([4.0, 6.0]))
        assert_same_bits(added, np.full(5, left, type(small)))


class Masks(nn.Dropout):
    """Dropout that keeps what it has drawn."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def forward(self, x):
        y = super().forward(x)
        self.seen.append((y == 0).copy())
        return y


def test_dropout_differs_between_ranks_and_repeats(dtype):
    def run(comm):
        masks = Masks(0.5, rng=3)
        model, _ = fit(comm, dtype=dtype, layers=[masks], rng=0)
        return model, masks.seen

    first, again = succeed(2, run), succeed(2, run)
    for (model, masks), (other, repeated) in zip(first, again, strict=True):
        assert_same_bits(weights(model), weights(first[0][0]))
        assert_same_bits(weights(model), weights(other))
        assert all(map(np.array_equal, masks, repeated))
    pairs = [(a, b) for a, b in zip(first[0][1], first[1][1], strict=True) if a.shape == b.shape]
    assert len(pairs) > 5
    assert not any(np.array_equal(a, b) for a, b in pairs)


def test_parameters_and_generators_are_those_of_rank_0():
    def run(comm):
        model = build_model(seed=comm.rank)
        x, y = draw_task()
        shared = np.random.default_rng(comm.rank)
        model.layers[0].rng = shared
        model.fit(x, y, epochs=2, rng=shared, validation_split=0.3, comm=comm)
        return weights(model), shared.random()

    made = succeed(2, run)
    assert_same_bits(*(parameters for parameters, _ in made))
    assert made[0][1] == made[1][1]


def test_somebody_elses_generators_are_left_alone():
    layer = nn.Dropout(0.5, rng=0)
    rng = layer.rng
    succeed(1, lambda comm: fit(comm, layers=[layer]))
    made = succeed(2, lambda comm: fit(comm, layers=[nn.Dropout(0.5, rng=rng)])[0].layers[1].rng)
    assert made[0] is made[1] is rng


# ------------------------------------------------------------------------------------------------ checkpoints


class Kill:
    """A callback that raises after some updates."""

    def __init__(self, update):
        self.update = update

    def on_batch_end(self, training):
        if training.update >= self.update:
            raise KeyError


@pytest.mark.parametrize("options", [{}, {"readout": "each", "tbptt": 3}], ids=["whole", "tbptt"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, options):
    x, y = draw_task(options.get("readout", "last"))
    whole = {"epochs": 3, "optimiser": "adam", "lr": 0.03, "validation_split": 0.2} | options
    whole |= {"early_stopping": nn.EarlyStopping()}

    def begin(comm, kill=1000):
        layers, folder = [nn.Dropout(0.3, rng=5)], tmp_path / f"{kill} {comm.rank}"
        with pytest.raises(KeyError) if kill < 1000 else parallel.together(None):
            return fit(comm, layers=layers, callbacks=[Kill(kill)], checkpoint=folder, every=3, **whole)[0]

    def resume(comm):
        folder = tmp_path / f"8 {comm.rank}"  # of which there is but that of rank 0
        return nn.resume(folder, x, y, epochs=3, callbacks=[Kill(1000)], comm=comm)[0]

    expected = succeed(2, begin)
    succeed(2, lambda comm: begin(comm, 8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1000 0", "8 0"]
    for size in (2, 2, 3):
        shutil.copytree(tmp_path / "8 0", tmp_path / "copy")
        for model in succeed(size, resume):
            if size == 2:
                assert_same_bits(weights(model), weights(expected[0]))
        shutil.rmtree(tmp_path / "8 0")
        shutil.move(tmp_path / "copy", tmp_path / "8 0")


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (3, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, sizes):
    x, y = draw_task()
    expected, history = fit(epochs=4)

    def begin(comm):
        with pytest.raises(KeyError):
            fit(comm, epochs=4, every=2, checkpoint=tmp_path / "run", callbacks=[Kill(9)])

    def resume(comm):
        return nn.resume(tmp_path / "run", x, y, epochs=4, callbacks=[Kill(1000)], comm=comm)

    succeed(sizes[0], begin)
    for model, resumed in succeed(sizes[1], resume):
        assert_close(weights(model), weights(expected), "backward")
        assert_close(np.array(resumed["loss"]), np.array(history["loss"]), "backward")


# ------------------------------------------------------------------------------------------------ only rank 0


def test_only_rank_0_writes_prints_and_logs(tmp_path, capsys, caplog):
    with caplog.at_level(logging.INFO, "clstm"):
        succeed(2, lambda comm: fit(comm, checkpoint=tmp_path / str(comm.rank), progress=True))
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert [record.message.split(":")[0] for record in caplog.records] == ["epoch 1", "epoch 2", "epoch 3"]
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.count("\n") == 1
    assert "69.0/69.0" in shown.err


# ------------------------------------------------------------------------------------------------- exceptions


class Raise:
    """A callback that raises on one rank."""

    def __init__(self, comm, event, error, rank=1):
        if comm.rank == rank:
            setattr(self, event, self.fail)
        self.error = error

    def on_train_begin(self, training):
        """Do nothing, on the other ranks."""

    def fail(self, training):
        raise self.error


class Stubborn(Exception):
    """An exception that cannot be pickled, whoever teaches pickle to take exceptions of all kinds."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")
        self.lock = threading.Lock()


EVENTS = ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end", "on_train_end"]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_rank_is_raised_on_all(event, rank):
    models = {}

    def run(comm):
        models[comm.rank] = build_model()
        x, y = draw_task()
        callbacks = [Raise(comm, event, OSError(28, "No space left on device", "there"), rank)]
        models[comm.rank].fit(x, y, epochs=2, rng=0, callbacks=callbacks, comm=comm)

    errors, world = on_ranks(3, run)
    for error in errors:
        assert type(error) is OSError
        assert (error.errno, error.filename) == (28, "there")
    assert [getattr(error, "__notes__", []) for error in errors] == [
        [] if n == rank else [f"Raised by rank {rank} of 3."] for n in range(3)
    ]
    assert not world.aborted
    for model in models.values():
        assert_same_bits(weights(model), weights(models[0]))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(3), SystemExit),
        (MemoryError("full"), MemoryError),
        (Stubborn(1, 2), RuntimeError),
        (clstm.FileFormatError("there", "damaged"), clstm.FileFormatError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_exceptions_of_all_kinds_are_raised_on_all_ranks(error, expected):
    results, _ = on_ranks(2, lambda comm: fit(comm, callbacks=[Raise(comm, "on_batch_end", error)]))
    assert results[1] is error
    assert type(results[0]) is expected
    assert results[0].args == (error.args if expected is type(error) else ("Stubborn: 1 2",))


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: ({"loss": lambda *given: (np.nan, np.ones((len(given[0]), 2)))}, "a loss of nan"),
        lambda x, y: ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        lambda x, y: ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        lambda x, y: ({"y": y[:-1]}, "y: expected a target for each of 23 sequences"),
    ],
)
def test_what_all_ranks_raise_they_raise_as_usual(change):
    x, y = draw_task()
    options, message = change(x, y)
    given = {"x": x, "y": y, "epochs": 1, "rng": 0} | options
    errors, world = on_ranks(3, lambda comm: build_model().fit(**given, comm=comm))
    with pytest.raises(type(errors[0]), match=re.escape(message)):
        build_model().fit(**given)
    for error in errors:
        assert type(error) is type(errors[0])
        assert message in str(error)
        assert not hasattr(error, "__notes__")
    assert not world.aborted


def test_a_number_that_is_not_finite_is_named_on_all_ranks():
    def run(comm):
        model = build_model()
        x, y = draw_task()

        class Spoil:
            def on_batch_end(self, training):
                training.examples.x.data[training.examples.x.starts[training._batches[1][1]] :][0] = np.inf

        model.fit(x, y, epochs=1, batch_size=4, rng=0, callbacks=[Spoil()], comm=comm)

    errors, _ = on_ranks(2, run)
    assert {type(error) for error in errors} == {FloatingPointError}
    assert len({str(error) for error in errors}) == 1
    assert r"put out by layers[0] (LSTM) at time step 0" in str(errors[0])


DATA = "x, y, sample_weight, validation_data"
DIFFERENT = [
    (DATA, lambda rank: {"sample_weight": 1.0 + np.arange(23) * rank}),
    (DATA, lambda rank: {"validation_data": (draw_task()[0], draw_task()[1] + rank)}),
    ("batch_size", lambda rank: {"batch_size": 4 + rank}),
    ("tbptt", lambda rank: {"tbptt": 2 + rank, "readout": "each"}),
    ("epochs", lambda rank: {"epochs": 2 + rank}),
    ("loss", lambda rank: {"loss": ("mse", "l1")[rank]}),
    ("optimiser", lambda rank: {"lr": 0.1 + rank}),
    ("schedule", lambda rank: {"schedule": nn.StepDecay(2 + rank)}),
    ("early_stopping", lambda rank: {"early_stopping": nn.EarlyStopping("loss", patience=2 + rank)}),
    ("callbacks", lambda rank: {"callbacks": [Kill(1000)] * rank}),
    ("model", lambda rank: {"layers": [nn.Dropout(0.1)] * rank}),
]


@pytest.mark.parametrize(("name", "options"), DIFFERENT)
def test_different_arguments_are_refused_on_all_ranks(name, options):
    errors, _ = on_ranks(2, lambda comm: fit(comm, **options(comm.rank)))
    for error in errors:
        assert isinstance(error, ValueError)
        assert str(error) == (
            f"{name}: expected the same on all ranks, got something else on rank 1 than on rank 0"
        )
    fit(**options(1))


def test_bad_arguments_of_one_rank_are_refused_on_all():
    errors, world = on_ranks(2, lambda comm: fit(comm, batch_size=4 - 4 * comm.rank))
    for error in errors:
        assert isinstance(error, ValueError)
        assert str(error) == "batch_size: expected at least 1, got 0"
    assert not world.aborted


def test_a_folder_that_holds_checkpoints_is_refused_on_all_ranks(tmp_path):
    fit(checkpoint=tmp_path / "run")
    errors, _ = on_ranks(2, lambda comm: fit(comm, checkpoint=tmp_path / "run"))
    assert {type(error) for error in errors} == {FileExistsError}
    errors, _ = on_ranks(2, lambda comm: nn.resume(tmp_path / "none", [], [], epochs=1, comm=comm))
    assert {type(error) for error in errors} == {FileNotFoundError}


def test_ranks_that_drift_apart_are_noticed():
    class Change:
        def __init__(self, comm):
            self.rank = comm.rank

        def on_batch_end(self, training):
            training.model.layers[0].flat_params[0] += 1e-12 * self.rank

    errors, _ = on_ranks(2, lambda comm: fit(comm, callbacks=[Change(comm)]))
    for error in errors:
        assert isinstance(error, ValueError)
        assert str(error).startswith(
            "parameters: expected the same on all ranks, got something else on rank 1"
        )


def test_ranks_that_go_different_ways_are_noticed():
    def run(comm):
        with parallel.together(comm) as ranks:
            ranks.any(False) if comm.rank else ranks.sum([1.0, 2.0])

    errors, world = on_ranks(2, run)
    assert {type(error) for error in errors} == {RuntimeError}
    assert {str(error).split(",")[0] for error in errors} == {"expected all ranks to do the same"}
    assert not world.aborted


class Stop:
    """A callback that stops after three updates."""

    def __init__(self, event):
        setattr(self, event, self.stop)

    def on_train_begin(self, training):
        """Do nothing, on the other ranks."""

    def stop(self, training):
        training.stop |= training.update >= 3


@pytest.mark.parametrize("event", ["on_batch_end", "on_epoch_end"])
def test_one_rank_can_stop_all(event):
    made = succeed(2, lambda comm: fit(comm, callbacks=[Stop(event if comm.rank else "never")]))
    expected, history = fit(callbacks=[Stop(event)])
    for model, other in made:
        assert_close(weights(model), weights(expected), "backward")
        assert len(other.get("loss", [])) == len(history.get("loss", []))


def test_exceptions_leave_a_block_together_and_once():
    def run(comm):
        with parallel.together(comm) as outer:
            try:
                fit(outer, callbacks=[Raise(comm, "on_batch_end", KeyError("inner"))])
            except KeyError as error:
                raise IndexError("outer") from error

    errors, world = on_ranks(2, run)
    assert {type(error) for error in errors} == {IndexError}
    assert not world.aborted


# -------------------------------------------------------------------------------------------- what ends a job


def test_an_exception_within_an_exchange_ends_the_job(capsys):
    def run(comm):
        class Break:
            def on_epoch_begin(self, training):
                if comm.rank == 1:
                    comm.failing["Alltoall"] = MemoryError("no room")

        fit(comm, callbacks=[Break()])

    errors, world = on_ranks(2, run)
    assert {type(error) for error in errors} == {Ended}
    assert world.aborted == [(1, 1)]
    told = capsys.readouterr().err
    assert "MemoryError: no room" in told
    assert "clstm: rank 1 of 2 ends the job" in told


def test_a_rank_that_failed_does_not_wait_for_ever(capsys, monkeypatch):
    monkeypatch.setattr(parallel, "PATIENCE", 0.2)

    def run(comm):
        class Wait:
            def on_batch_end(self, training):
                if comm.rank == 1:
                    raise ValueError("mine")
                comm.Dup()  # waits for rank 1

        fit(comm, callbacks=[Wait()])

    errors, world = on_ranks(2, run)
    assert {type(error) for error in errors} == {Ended}
    assert world.aborted == [(1, 1)]
    assert "ValueError: mine" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- who is there


def test_comm_is_a_communicator():
    with pytest.raises(TypeError, match="comm: expected a communicator of mpi4py, got 'world'"):
        fit("world")


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_world_knows_who_was_started_together(monkeypatch, name):
    for other in parallel._LAUNCHERS:
        monkeypatch.delenv(other, raising=False)
    assert parallel.world() is None
    monkeypatch.setenv(name, "1")
    assert parallel.world() is None
    monkeypatch.setenv(name, "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=f"expected mpi4py, for {name} tells of 4 processes; pip install"):
        parallel.world()
    made = ModuleType("mpi4py")
    made.MPI = SimpleNamespace(COMM_WORLD=Comm(World(4), 2), Get_library_version=lambda: "Some MPI 3\nmore")
    monkeypatch.setitem(sys.modules, "mpi4py", made)
    assert parallel.world() is made.MPI.COMM_WORLD
    made.MPI.COMM_WORLD = Comm(World(1), 0)
    with pytest.raises(ImportError, match="Some MPI 3, which sees one: start with its own mpirun"):
        parallel.world()


# --------------------------------------------------------------------------------------------- real processes


SCRIPT = """
import hashlib, json, os, signal, sys
import clstm
import numpy as np
from clstm import nn
from mpi4py import MPI

comm, case = MPI.COMM_WORLD, sys.argv[1]
rng = np.random.default_rng(0)
x = [rng.standard_normal((n, 2)) for n in rng.integers(1, 8, 42)]
y = np.stack([row.mean(axis=0) for row in x])
lstm = clstm.LSTM(2, 5, batch_first=True, dtype="float32")  # other weights on each rank
if case != "broken":
    lstm = clstm.LSTM(2, 5, batch_first=True, dtype="float32", rng=0)
dropout, head = nn.Dropout(0.2 * (case == "dropout"), rng=comm.rank), nn.Dense(5, 2, dtype="float32", rng=0)
model = nn.SequenceModel([lstm, dropout, head])

class Callback:
    threads = clstm.get_num_threads()

    def on_batch_end(self, training):
        self.threads = clstm.get_num_threads()
        if comm.rank == 1 and training.update == 3:
            if case == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if case == "broken":
                raise RuntimeError("broken on rank 1")

callback = Callback()
history = model.fit(x, y, epochs=3, lr=0.03, rng=0, comm=comm, callbacks=[callback], batch_size=8)
bits = hashlib.sha256(b"".join(layer.flat_params.tobytes() for layer in model.layers)).hexdigest()
made = comm.gather({"bits": bits, "threads": callback.threads, "loss": history["loss"]})
if comm.rank == 0:
    print(json.dumps(made))
"""


def mpirun(n, case):
    """Run the script on n ranks under the mpirun that belongs to mpi4py; skip where there is none."""
    pytest.importorskip("mpi4py")
    beside = os.path.dirname(sys.executable)
    command = shutil.which("mpirun", path=beside) or shutil.which("mpirun")
    if command is None:
        pytest.skip("mpirun is not installed")
    folder = os.path.dirname(os.path.dirname(os.path.abspath(clstm.__file__)))
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = (
        os.environ
        | as_root
        | {"PYTHONPATH": folder, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    )
    return subprocess.run(
        [command, "-n", str(n), sys.executable, "-c", SCRIPT, case],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(("n", "case"), [(2, "dropout"), (4, "plain")])
def test_processes_have_the_same_bits_each_time(n, case):
    runs = [mpirun(n, case) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    made = [rank for run in runs for rank in json.loads(run.stdout)]
    assert len(made) == 2 * n
    assert len({rank["bits"] for rank in made}) == 1
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {rank["threads"] for rank in made} <= set(range(1, max(1, processors // n) + 1))


@pytest.mark.parametrize("case", ["killed", "broken"])
def test_a_process_that_dies_ends_the_job(case):
    start = time.monotonic()
    run = mpirun(2, case)
    assert time.monotonic() - start < 30
    assert run.returncode != 0
    assert not run.stdout.startswith("[")
    if case == "broken":
        assert "RuntimeError: broken on rank 1" in run.stderr
        assert "Raised by rank 1 of 2." in run.stderr
