"""predict_parallel: predictions of many sequences by several processes, through joblib.

Each task gets the model, once, as bytes, and a part of the sequences.  A row has the same bits in any batch
and for any number of threads, so the parts put together are what one call of `predict` returns.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _threads

Array = NDArray[Any]

# Enough for jobs that end at the same time, few enough for the model to travel.
_TASKS_A_JOB = 4


def predict_parallel(
    model: Any,
    data: Any,
    *,
    n_jobs: int | None = None,
    batch_size: int | None = None,
    lengths: ArrayLike | None = None,
    method: str = "predict",
) -> Any:
    """Predict many sequences by several processes, on this machine or, by a backend of joblib, on others.

    Parameters
    ----------
    model : object with `predict`
        An `nn.SequenceModel`, an estimator, or one of your own that predicts each sequence by itself.
    data : array_like or list
        What `predict` takes: an array whose rows are sequences, or a list of them.  A `SequenceModel` that is
        not `batch_first` takes (T, N, I).
    n_jobs : int, optional
        Processes, -1 for as many as there are processors.  By default what `joblib.parallel_config` says, or
        else 1.
    batch_size : int, optional
        Sequences of one task; by default such that there are four tasks for each process.
    lengths : array_like of int of shape (N,), optional
        Number of real steps of each sequence of an array, for models whose `predict` takes them.
    method : str, default "predict"
        What to call, "predict_proba" for example.

    Returns
    -------
    ndarray or list
        The bits that one call of `predict` returns.

    Raises
    ------
    ModuleNotFoundError
        joblib or cloudpickle is not installed.
    ValueError, TypeError
        An argument is not what it should be; or what `predict` raises.

    Notes
    -----
    Processes share the threads that this one may use.  The processes, those of joblib's own or those of Dask
    and Ray, are chosen by `joblib.parallel_config`.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm import nn
    >>> model = nn.SequenceModel([clstm.LSTM(1, 4, batch_first=True, rng=0), nn.Dense(4, 1, rng=1)])
    >>> x = np.sin(np.arange(6000) / 5).reshape(300, 20, 1)
    >>> y = clstm.predict_parallel(model, x, n_jobs=2)  # doctest: +SKIP
    >>> np.array_equal(y, model.predict(x))  # doctest: +SKIP
    True
    """
    import cloudpickle  # knows classes of the main program and of notebooks
    import joblib

    if not callable(getattr(model, method, None)):
        raise TypeError(f"model: expected an object with {method}, got {_check.describe(model)}")
    if n_jobs is not None and _check.integer("n_jobs", n_jobs, -_threads.MOST) == 0:
        raise ValueError("n_jobs: expected None or an integer other than 0, got 0")
    is_list = isinstance(data, list | tuple)
    if not is_list and hasattr(data, "iloc"):
        raise TypeError(f"data: expected an array or a list of sequences, got {type(data).__name__}")
    given = data if is_list else np.asarray(_check.on_cpu(data))
    axis = 0 if is_list or getattr(model, "batch_first", True) else 1
    N = len(given) if is_list else given.shape[axis] if given.ndim > axis else 0
    if lengths is not None:
        lengths = _check.whole_numbers("lengths", lengths)
        _check.shape("lengths", lengths, (N,))
    jobs = joblib.effective_n_jobs(n_jobs)
    each = (
        -(-N // (_TASKS_A_JOB * jobs)) if batch_size is None else _check.integer("batch_size", batch_size, 1)
    )
    options = {} if lengths is None else {"lengths": lengths}
    if jobs == 1 or each >= N:
        return getattr(model, method)(data, **options)

    sent, threads = cloudpickle.dumps(model), max(1, _threads.get_num_threads() // jobs)

    def tasks() -> Iterator[Any]:
        for begin, end in pairwise([*range(0, N, each), N]):
            rows = slice(begin, end)
            part = given[rows] if axis == 0 else given[:, rows]
            own = {name: value[rows] for name, value in options.items()}
            yield joblib.delayed(_predict)(sent, method, part, own, threads, begin)

    parts = joblib.Parallel(n_jobs=n_jobs)(tasks())
    if all(isinstance(part, list) for part in parts):
        return list(chain.from_iterable(parts))
    if not all(isinstance(part, np.ndarray) for part in parts):
        kinds = sorted({type(part).__name__ for part in parts})
        raise TypeError(f"model: expected {method} to return an array or a list, got {_check.listed(kinds)}")
    steps_first = axis == 1 and getattr(model, "readout", None) == "each"
    return np.concatenate(parts, axis=1 if steps_first else 0)


def _predict(sent: bytes, method: str, part: Any, options: dict[str, Any], threads: int, begin: int) -> Any:
    """Predict a part of the sequences, in another process."""
    model = pickle.loads(sent)
    try:
        with _threads.at_most(threads):
            return getattr(model, method)(part, **options)
    except Exception as error:
        error.add_note(f"In a task whose first sequence is number {begin} of all.")
        raise
