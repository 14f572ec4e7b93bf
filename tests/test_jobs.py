"""clstm.predict_parallel: the bits of one call of predict, whoever computes them."""

import os
import pickle

import numpy as np
import pytest
from conftest import assert_same_bits, build_lstm, run_python

import clstm
from clstm import nn

joblib = pytest.importorskip("joblib")
pytest.importorskip("cloudpickle")


def build_model(readout="last", batch_first=True):
    return nn.SequenceModel([build_lstm(2, 20, batch_first=batch_first), nn.Dense(20, 3, rng=0)], readout)


def draw_sequences(N=29):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 2)) for n in rng.integers(1, 9, N)]


def padded(sequences, batch_first=True):
    x = np.full((len(sequences), 8, 2), np.nan)
    for row, sequence in zip(x, sequences, strict=True):
        row[: len(sequence)] = sequence
    return (x if batch_first else x.swapaxes(0, 1)), [len(sequence) for sequence in sequences]


def assert_same(got, expected):
    assert type(got) is type(expected)
    for one, other in zip(got, expected, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("readout", ["last", "each"])
def test_lists_and_arrays_have_the_bits_of_predict(readout, backend):
    x = draw_sequences()
    with joblib.parallel_config(backend=backend, n_jobs=2):
        for batch_first in (True, False):
            model = build_model(readout, batch_first)
            assert_same(clstm.predict_parallel(model, x), model.predict(x))
            array, lengths = padded(x, batch_first)
            expected = model.predict(array, lengths)
            assert_same(clstm.predict_parallel(model, array, lengths=lengths, batch_size=5), expected)


def test_few_sequences_need_no_second_process():
    model, x = build_model(), draw_sequences(3)
    for options in ({}, {"n_jobs": 2, "batch_size": 3}, {"n_jobs": 1}):
        assert_same(clstm.predict_parallel(model, x, **options), model.predict(x))


def test_estimators_predict_in_parallel():
    pytest.importorskip("sklearn")
    from clstm.estimators import LSTMClassifier

    x = draw_sequences()
    labels = np.array(["short", "long"])[[int(len(row) > 4) for row in x]]
    model = LSTMClassifier(hidden_size=3, max_epochs=2, random_state=0).fit(x, labels)
    for method in ("predict", "predict_proba"):
        got = clstm.predict_parallel(model, x, n_jobs=2, method=method)
        assert_same_bits(got, getattr(model, method)(x))


class Counted:
    """A predictor of somebody's own that counts how often it is pickled."""

    pickled = 0

    def __getstate__(self):
        Counted.pickled += 1
        return {}

    def predict(self, x):
        return np.asarray([os.getpid() for _ in x])


def test_a_model_is_pickled_once():
    Counted.pickled = 0
    clstm.predict_parallel(Counted(), np.zeros((100, 1)), n_jobs=2, batch_size=3)
    assert Counted.pickled == 1


def test_it_is_other_processes_that_predict():
    class Local(Counted):  # known to this function alone
        pass

    processes = clstm.predict_parallel(Local(), list(range(20)), n_jobs=2)
    assert len(processes) == 20
    assert os.getpid() not in processes


class Threads:
    """A predictor that tells how many threads it may use."""

    def predict(self, x):
        return [clstm.get_num_threads() for _ in x]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_processes_share_the_threads(backend):
    before = clstm.get_num_threads()
    clstm.set_num_threads(4)
    try:
        with joblib.parallel_config(backend=backend, n_jobs=2):
            seen = set(clstm.predict_parallel(Threads(), range(40)))
        assert seen <= {1, 2}
        assert clstm.get_num_threads() == 4
    finally:
        clstm.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 3}, TypeError, "model: expected an object with predict, got 3"),
        ({"method": "predict_proba"}, TypeError, "model: expected an object with predict_proba, got Sequ"),
        ({"n_jobs": 0}, ValueError, "n_jobs: expected None or an integer other than 0, got 0"),
        ({"n_jobs": 1.5}, TypeError, "n_jobs: expected an integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"lengths": [1, 2]}, ValueError, r"lengths: expected shape \(9,\), got \(2,\)"),
        ({"data": []}, ValueError, "x: expected at least one sequence"),
        ({"data": np.zeros(3)}, ValueError, r"x: expected shape \(N, T, 2\)"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    given = {"model": build_model(), "data": np.zeros((9, 4, 2)), "n_jobs": 2} | options
    with pytest.raises(error, match=message):
        clstm.predict_parallel(**given)


def test_tables_are_refused():
    frame = pytest.importorskip("pandas").DataFrame({"a": [1.0, 2.0]})
    with pytest.raises(TypeError, match="data: expected an array or a list of sequences, got DataFrame"):
        clstm.predict_parallel(build_model(), frame, n_jobs=2)


def test_an_error_tells_where_its_part_begins():
    x = draw_sequences()
    x[17][0] = np.nan
    with pytest.raises(
        ValueError, match="x: expected finite numbers, got nan in sequence 2, step 0"
    ) as caught:
        clstm.predict_parallel(build_model(), x, n_jobs=2, batch_size=5)
    assert caught.value.__notes__ == ["In a task whose first sequence is number 15 of all."]


def test_errors_of_files_come_back_from_other_processes():
    error = pickle.loads(pickle.dumps(clstm.FileFormatError("there", "damaged")))
    assert str(error) == "there: damaged"


DASK = """
import clstm, joblib, sys
import numpy as np
from clstm import nn
from distributed import Client

if __name__ == "__main__":
    model = nn.SequenceModel([clstm.LSTM(2, 8, batch_first=True, rng=0), nn.Dense(8, 1, rng=0)])
    x = np.random.default_rng(0).standard_normal((50, 6, 2))
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(processes=True, **options), joblib.parallel_config("dask"):
        got = clstm.predict_parallel(model, x)
    print(np.array_equal(got, model.predict(x)))
"""


def test_dask_gives_the_same_bits(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_dask.py").write_text(DASK)
    run = run_python("import runpy; runpy.run_path('with_dask.py', run_name='__main__')")
    assert run.stdout == "True\n", run.stderr
