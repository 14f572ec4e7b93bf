"""class Ranks: processes that share each batch of a training run, by MPI.

Every rank is given the same data, draws the same batches and computes the gradients of its share of the rows;
what they add up is added in the order of the ranks, by one of them for all, so that a run has the same bits
each time, on every rank, whatever the implementation of MPI.

Whatever ranks do together begins with a meeting, at which each says what it is about to do.  A rank that an
exception has stopped says so at the next one, and all of them raise it.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check, _threads
from .batches import Rows
from .checkpoints import generator_state, set_generator_state

Array = NDArray[Any]

# What a rank is about to do.
_FAILED, _END, _UPDATE, _SUM, _ANY, _GATHER, _HAND_OUT = range(7)

# How long a rank that an exception has stopped waits for the others, which may be in the middle of a batch.
PATIENCE = 60.0  # seconds
_GLANCE = 0.01  # seconds

# Variables in which those who start processes tell how many there are.
_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")

_NEEDED = ("Get_rank", "Get_size", "Dup", "Free", "Abort", "Iallgather", "Alltoall", "Allgather")


def world() -> Any:
    """Return the communicator of all processes that `mpirun`, `mpiexec` or `srun` has started together.

    Returns
    -------
    mpi4py.MPI.Comm or None
        None in a process that was started alone.

    Raises
    ------
    ImportError
        There are several processes, but no mpi4py, or one for another implementation of MPI.

    Examples
    --------
    >>> from clstm.nn import parallel
    >>> parallel.world() is None
    True
    """
    told = {name: int(os.environ[name]) for name in _LAUNCHERS if os.environ.get(name, "").isdecimal()}
    name, size = max(told.items(), key=lambda item: item[1], default=("", 1))
    if size == 1:
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            f"expected mpi4py, for {name} tells of {size} processes; pip install 'cython-lstm[mpi]'"
        ) from error
    comm = MPI.COMM_WORLD
    if comm.Get_size() == 1:
        library = MPI.Get_library_version().splitlines()[0].strip("\0 ")
        raise ImportError(
            f"expected the MPI that has started the processes, of which {name} tells {size}; mpi4py found "
            f"{library}, which sees one: start with its own mpirun"
        )
    return comm


@contextmanager
def together(comm: Any) -> Iterator[Ranks | None]:
    """Let an exception that leaves this block on one rank leave it on all of them.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, Ranks or None
        All its ranks enter the block.

    Yields
    ------
    Ranks or None
        May be handed to `fit` as `comm`; None if there is but one rank.

    Raises
    ------
    TypeError
        `comm` is no communicator.

    Notes
    -----
    On the other ranks the exception is raised where they next wait for each other, at the end of the block
    at the latest.  If they do not come there within a minute, or the exception came in the middle of an
    exchange, the rank prints its traceback and ends the whole job with `Abort`.
    """
    if comm is None:
        yield None
        return
    if isinstance(comm, Ranks):
        with comm.meeting_in_the_end():
            yield comm
        return
    if not all(hasattr(comm, name) for name in _NEEDED):
        raise TypeError(f"comm: expected a communicator of mpi4py, got {_check.describe(comm)}")
    if comm.Get_size() == 1:
        yield None
        return
    ranks = Ranks(comm)
    try:
        with ranks.meeting_in_the_end(), ranks.fair_threads():
            yield ranks
    finally:
        ranks.close()


class Ranks:
    """The ranks of a communicator; made by `together`.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm

    Attributes
    ----------
    rank, size : int
    """

    def __init__(self, comm: Any) -> None:
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        # A communicator of its own, so that nothing that callbacks do with theirs is mistaken for this.
        self._comm = comm.Dup()
        self._rows = np.empty((self.size, 3))
        self._is_exchanging = False
        self._known: BaseException | None = None  # to all ranks
        self._parts = np.empty((self.size, 0)), np.empty((self.size, 0))

    def close(self) -> None:
        """Give the communicator back."""
        self._comm.Free()

    # ------------------------------------------------------------------------------------------ the meetings

    @contextmanager
    def _meeting(self, purpose: int, first: float = 0.0, second: float = 0.0) -> Iterator[Array]:
        """Meet all ranks for a purpose; gives the two numbers (P, 2) that they bring."""
        # Not reset when an exception leaves the block: then others wait in the middle of an exchange.
        self._is_exchanging = True
        self._comm.Iallgather(np.array([purpose, first, second]), self._rows).Wait()
        if (self._rows[:, 0] != purpose).any():
            self._is_exchanging = False
            raise self._settle(None)
        yield self._rows[:, 1:]
        self._is_exchanging = False

    @contextmanager
    def meeting_in_the_end(self) -> Iterator[None]:
        """Let all ranks leave a block in the same way."""
        try:
            yield
        except BaseException as error:
            if error is not self._known:
                self._tell(error)
            raise
        else:
            with self._meeting(_END):
                pass

    def _tell(self, error: BaseException) -> None:
        """Tell the others of an exception; returns when all know of it."""
        if self._is_exchanging or not self._do_all_meet():
            traceback.print_exception(error)
            print(f"clstm: rank {self.rank} of {self.size} ends the job", file=sys.stderr, flush=True)
            self._comm.Abort(1)
        self._settle(error)

    def _do_all_meet(self) -> bool:
        """Meet the others as a rank that has failed; False if they do not come."""
        request = self._comm.Iallgather(np.array([_FAILED, 0.0, 0.0]), self._rows)
        until = time.monotonic() + PATIENCE
        try:
            while not request.Test():
                if time.monotonic() > until:
                    return False
                time.sleep(_GLANCE)
        except KeyboardInterrupt:  # one more
            return False
        return True

    def _settle(self, error: BaseException | None) -> BaseException:
        """Return what all ranks raise after a meeting at which they were not of one mind."""
        failed = np.flatnonzero(self._rows[:, 0] == _FAILED)
        if 0 < len(failed) < self.size:
            told = self._comm.allgather(None if error is None else _portable(error))
            if error is None:
                error = told[failed[0]]
                error.add_note(f"Raised by rank {failed[0]} of {self.size}.")
        self._known = error or RuntimeError(
            "expected all ranks to do the same, but they went different ways; is there something of your "
            "own, a callback or a loop around `fit`, that does something else on some of them?"
        )
        return self._known

    # ------------------------------------------------------------------------------------- what they exchange

    def share(self, rows: Rows) -> Rows:
        """Return this rank's part of the rows of a batch, which are sorted by length: every P-th."""
        return rows[self.rank :: self.size]

    def add(self, layers: Sequence[Any], sums: Array) -> Array:
        """Add up the gradients of all ranks, in place, and two numbers, which are returned.

        The gradients travel in their own dtype, cut into a part for each rank, which adds it up in float64.
        """
        grads = [layer.flat_grads for layer in layers if layer.flat_grads.size]
        send, received = self._room_for(sum(g.size for g in grads), np.result_type(np.float32, *grads))
        with self._meeting(_UPDATE, *sums) as rows:
            added = _in_order(rows)
            _copy(grads, send.reshape(-1))
            self._comm.Alltoall(send, received)
            self._comm.Allgather(_in_order(received).astype(send.dtype), send)
            _copy_back(send.reshape(-1), grads)
        return added

    def _room_for(self, n: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Return two arrays (P, part) that hold n numbers."""
        part = -(-n // self.size)
        if self._parts[0].dtype != dtype or self._parts[0].shape[1] != part:
            self._parts = np.zeros((self.size, part), dtype), np.zeros((self.size, part), dtype)
        return self._parts

    def sum(self, sums: Sequence[float]) -> list[float]:
        """Add up two numbers of all ranks."""
        with self._meeting(_SUM, *sums) as rows:
            return list(map(float, _in_order(rows)))

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank."""
        with self._meeting(_ANY, flag) as rows:
            return bool(rows[:, 0].any())

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks."""
        with self._meeting(_GATHER):
            gathered: list[Any] = self._comm.allgather(value)
            return gathered

    def hand_out(self, value: Any) -> Any:
        """Return rank 0's value on all ranks."""
        with self._meeting(_HAND_OUT):
            return self._comm.bcast(value, root=0)

    def compare(self, named: Mapping[str, str], remedy: str = "") -> None:
        """Raise ValueError on all ranks if one of them has something else under a name."""
        given = self.gather(dict(named))
        for name in named:
            others = [n for n, theirs in enumerate(given) if theirs.get(name) != given[0][name]]
            if others:
                raise ValueError(
                    f"{name}: expected the same on all ranks, got something else on rank "
                    f"{_check.listed(others)} than on rank 0{remedy}"
                )

    # --------------------------------------------------------------------------------------- what they share

    def align_generators(self, generators: Sequence[np.random.Generator]) -> None:
        """Let generators go on from the states of rank 0's."""
        for rng, state in zip(generators, self.hand_out(list(map(generator_state, generators))), strict=True):
            set_generator_state(rng, state)

    def align_parameters(self, layers: Sequence[Any]) -> None:
        """Give layers the parameters of rank 0's."""
        given = self.hand_out([layer.flat_params for layer in layers])
        for layer, values in zip(layers, given, strict=True):
            layer.flat_params[...] = values

    @contextmanager
    def own_draws(self, layers: Sequence[Any]) -> Iterator[None]:
        """Let layers draw from generators of this rank's own, whose seeds come from theirs.

        Theirs stay alike on all ranks, so that they are all that a checkpoint needs.
        """
        drawing = [layer for layer in layers if isinstance(getattr(layer, "rng", None), np.random.Generator)]
        alike = [layer.rng for layer in drawing]
        own = {
            id(rng): np.random.default_rng([*rng.integers(1 << 63, size=2), self.rank])
            for rng in dict.fromkeys(alike)
        }
        try:
            for layer in drawing:
                layer.rng = own[id(layer.rng)]
            yield
        finally:
            for layer, rng in zip(drawing, alike, strict=True):
                layer.rng = rng

    @contextmanager
    def fair_threads(self) -> Iterator[None]:
        """Let this rank use no more threads than its share of the processors of its machine."""
        processors = (
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        )
        machine = socket.gethostname()
        there = {
            process: theirs
            for name, process, theirs in self.gather((machine, os.getpid(), set(processors)))
            if name == machine
        }
        with _threads.at_most(max(1, len(set().union(*there.values())) // len(there))):
            yield


def _in_order(parts: Array) -> Array:
    """Add up rows of numbers from the first to the last, in float64."""
    total: Array = parts[0].astype(np.float64)
    for part in parts[1:]:
        np.add(total, part, out=total)
    return total


def _copy(arrays: Sequence[Array], out: Array) -> None:
    """Write arrays one after the other."""
    place = 0
    for array in arrays:
        out[place : place + array.size] = array
        place += array.size


def _copy_back(given: Array, arrays: Sequence[Array]) -> None:
    """Read what `_copy` has written."""
    place = 0
    for array in arrays:
        array[...] = given[place : place + array.size]
        place += array.size


def _portable(error: BaseException) -> BaseException:
    """Return an exception that other processes can read."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # a class of somebody's own may do anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
