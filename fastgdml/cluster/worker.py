"""What a worker does with a call: one after another, in one thread, whose OpenMP team has the worker's processors.

A worker of Dask has as many Python threads as processors, and each of them would start an OpenMP team of its own. Calls
of fastgdml go to an executor of one thread instead, and a resource, of which each worker has one, sees to it that the
scheduler sends no second call where one runs.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import psutil
from distributed import Status, Worker, WorkerPlugin, get_worker
from distributed.protocol import pickle
from distributed.threadpoolexecutor import ThreadPoolExecutor

from .. import memory
from ..errors import FastGDMLError, InsufficientMemoryError
from ..search_jobs import Trainer
from ..threads import blas_threads

_log = logging.getLogger(__name__)

# Name of the executor and of the resource.
TEAM = "fastgdml"
# Up to this share of its limit a worker keeps its data in memory (Dask's default, `distributed.worker.memory.target`).
SHARE_OF_MEMORY = 0.6


def installed() -> str:
    """Return the version of fastgdml that is installed here."""
    return version("fastgdml")


class Team(WorkerPlugin):
    """Gives a worker the executor and the resource, also those that join later.

    A worker with another version of fastgdml gets no resource, so that no call is sent to it.

    Parameters
    ----------
    version : str
        That of the client.
    """

    name = TEAM
    idempotent = True

    def __init__(self, version: str) -> None:
        self.version = version
        self._limit = ExitStack()

    async def setup(self, worker: Worker) -> None:
        """Prepare a worker."""
        if installed() != self.version:
            _log.error("fastgdml %s is installed here, the client has %s: no work is done.", installed(), self.version)
            return
        if TEAM not in worker.executors:
            worker.executors[TEAM] = ThreadPoolExecutor(1, thread_name_prefix=TEAM)
        # Without a nanny BLAS would take all processors of the machine. Narrower limits within this one cost nothing.
        self._limit.enter_context(blas_threads(worker.state.nthreads))
        await worker.set_resources(**{TEAM: 1})
        # A worker has joined before it has the resource, and for tasks that found no worker the scheduler looks only at
        # one that begins to run: it is told so again.
        if worker.status == Status.running:
            worker.status = Status.paused
            worker.status = Status.running

    def teardown(self, worker: Worker) -> None:
        """Leave BLAS as it was."""
        self._limit.close()


@dataclass(frozen=True)
class Here:
    """The worker that runs this.

    Attributes
    ----------
    name : str
        Name or address.
    n_threads : int
        Its processors.
    memory : float
        Bytes that may still be taken.
    version : str
        Of fastgdml.
    """

    name: str
    n_threads: int
    memory: float
    version: str

    @classmethod
    def now(cls) -> Here:
        """Return the worker of the task that calls."""
        return cls.of(get_worker())

    @classmethod
    def of(cls, worker: Worker) -> Here:
        """Return what a worker is and has."""
        return cls(f"{worker.name} ({worker.address})", worker.state.nthreads, free_memory(worker), installed())

    def adapted(self, argument: Any) -> Any:
        """Return a `Trainer` with the threads and the memory of this worker, within its own limits."""
        if not isinstance(argument, Trainer):
            return argument
        gigabytes = self.memory / 2**30
        return replace(
            argument,
            max_processes=min(argument.max_processes or self.n_threads, self.n_threads),
            max_memory=gigabytes if argument.max_memory is None else min(argument.max_memory, gigabytes),
        )


def free_memory(worker: Worker) -> float:
    """Return the bytes that a worker may still take: of its limit, without one of what the machine has."""
    limit = worker.memory_manager.memory_limit
    available = float(memory.available())
    if not limit:
        return available
    return max(0.0, min(available, SHARE_OF_MEMORY * limit - psutil.Process().memory_info().rss))


@dataclass(frozen=True)
class Slot:
    """Stands for an argument that is a result of another call, number `i` of those."""

    i: int


@dataclass(frozen=True)
class Failed:
    """What stands for the result of a call that raised an error of fastgdml: its class, and its text."""

    kind: type[FastGDMLError]
    text: str


def call(payload: bytes, *results: Any) -> Any:
    """Call a function, pickled with its arguments; a `Slot` among these is one of the results.

    They are in one piece so that nobody looks for tasks in them. Errors of fastgdml are results, too: as exceptions
    they would be pickled with all that they happened in.
    """
    for each in results:
        if isinstance(each, Failed):
            return each
    here = Here.now()
    function, arguments = pickle.loads(payload)
    filled = [results[each.i] if isinstance(each, Slot) else here.adapted(each) for each in arguments]
    try:
        return function(*filled)
    except InsufficientMemoryError as error:
        return Failed(InsufficientMemoryError, f"On worker {here.name}: {error}")
    except FastGDMLError as error:
        return Failed(type(error), str(error))
