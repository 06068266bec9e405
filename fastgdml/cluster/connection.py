"""The connection to a cluster, what is asked of it, and calls that outlive the loss of workers and of the scheduler."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import dask
from distributed import Client, Future, wait
from distributed.comm import CommClosedError
from distributed.protocol import pickle
from distributed.scheduler import KilledWorker, NoValidWorkerError

from .._version import __version__
from ..errors import ClusterError, UsageError
from ..progress import Callback, Step
from .starting import Scheduler, scheduler_of, scheduler_of_client
from .worker import TEAM, Failed, Here, Slot, Team, call

_log = logging.getLogger(__name__)

# Seconds to wait for the first worker; for that of jobs, which a batch system begins some time; then for the others, if
# there are to be more; and for a scheduler that is lost and may come back.
WORKER_TIMEOUT = 60.0
QUEUE_TIMEOUT = 86400.0
REST_TIMEOUT = 600.0
PATIENCE = 300.0
# Bytes that a worker must have left to do anything.
LEAST_MEMORY = 32 * 2**20

# What is raised for calls whose scheduler is gone.
LOST = (CancelledError, CommClosedError, TimeoutError)

# Calls carry their arrays with them, so that the scheduler can repeat them: that is meant, and no cause for a warning.
_SETTINGS = {"distributed.admin.large-graph-warning-threshold": "10GB"}


@dataclass(frozen=True)
class WorkerFacts:
    """A worker.

    Attributes
    ----------
    address : str
        Where it is.
    name : str
        What to call it.
    n_threads : int
        Its processors.
    memory : float
        Bytes that it may still take.
    """

    address: str
    name: str
    n_threads: int
    memory: float


class Cluster:
    """A scheduler and its workers; as an executor, see `fastgdml.search_jobs.Executor`.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    scheduler : Scheduler
        Its scheduler, which is opened again when this client has lost it.
    patience : float
        Seconds to wait for a scheduler that is lost, and for workers where there are none.
    wait : float, optional
        Seconds to wait for the first worker, and then for the others; see `connect`.
    """

    def __init__(
        self, client: Client, scheduler: Scheduler, patience: float = PATIENCE, wait: float | None = None
    ) -> None:
        self.client, self._scheduler, self.patience = client, scheduler, patience
        self.generation = 0
        self._own: list[Client] = []
        self._left_out: set[str] = set()
        # Workers that may still be starting, and how long to wait for them.
        self._expected, self._wait = scheduler.n_workers, wait
        self._rest = REST_TIMEOUT if wait is None else wait
        first = QUEUE_TIMEOUT if scheduler.queued else WORKER_TIMEOUT
        with _quiet():
            self._check(first if wait is None else wait)

    def _check(self, timeout: float) -> None:
        """Wait for a worker, and see whether the workers can be used."""
        if self._scheduler.queued and not self.n_workers():
            _log.info("The jobs are in the queue. Waiting for the first worker, at most %.0f s (--wait).", timeout)
        try:
            self.client.wait_for_workers(1, timeout=timeout)
        except TimeoutError:
            address = self.client.scheduler.address
            what = f"Start some: dask worker {address}"
            if self._scheduler.queued:
                what = "See what the queue says of the jobs, and what they print; --wait waits longer"
            raise ClusterError(f"The scheduler {address} has no workers after {timeout:.0f} s. {what}") from None
        require_versions(self.client)
        self.client.register_plugin(Team(__version__))

    def n_workers(self) -> int:
        """Return the number of workers that there are now."""
        return len(self.client.nthreads())

    def wait_for_workers(self, callback: Callback | None = None) -> None:
        """Wait, once, for the workers that were asked for; go on with those that there are when time is up.

        Raises
        ------
        ClusterError
            If those that have come cannot be used, or the scheduler is lost for good.
        """
        expected, self._expected = self._expected, 0
        there = self._there_after(expected, self._rest, callback)
        if there < expected:
            _log.warning(
                "%d of %d workers came within %.3g s: the work is divided among these. --wait waits longer, --workers "
                "for fewer.",
                there,
                expected,
                self._rest,
            )

    def wait_for_more(self, callback: Callback | None = None) -> bool:
        """Wait for one worker more, where there is a time to wait; return whether one has come."""
        there = self.n_workers()
        return self._wait is not None and self._there_after(there + 1, self._wait, callback) > there

    def _there_after(self, expected: int, seconds: float, callback: Callback | None) -> int:
        """Wait for so many workers, at most so long; return how many there are."""
        there = self.n_workers()
        if there >= expected:
            return there
        step, deadline = Step(callback, "Waiting for workers", total=expected), time.monotonic() + seconds
        while there < expected and time.monotonic() < deadline:
            step(there, expected, f"{there} of {expected}, {deadline - time.monotonic():.0f} s left (--wait)")
            time.sleep(0.2)
            self.require_connection()
            with suppress(*LOST, OSError):
                there = self.n_workers()
        step.done(f"{there} of {expected}", warn=there < expected)
        with _quiet():
            require_versions(self.client)
        require_memory(self.workers(), LEAST_MEMORY, "Python and fastgdml")
        return there

    def workers(self) -> list[WorkerFacts]:
        """Return the workers that there are now, in the order of their addresses.

        Those that have joined with another version of fastgdml do no work, and are left out.
        """
        found: Mapping[str, Here] = self.client.run(_facts, on_error="ignore")
        for address, here in found.items():
            if here.version != __version__ and address not in self._left_out:
                self._left_out.add(address)
                text = "Worker %s has joined with fastgdml %s, not %s: it is left out."
                _log.warning(text, here.name, here.version, __version__)
        return [
            WorkerFacts(address, here.name, here.n_threads, here.memory)
            for address, here in sorted(found.items())
            if here.version == __version__
        ]

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Call:
        """Call a function on some worker that does nothing else meanwhile.

        A `Trainer` among the arguments gets the threads and the memory of that worker. A `Call` stands for its result,
        which goes from worker to worker. What a lost worker was doing is done again by another.
        """
        return Call(self, fn, args)

    def submit_to(self, address: str, fn: Callable[..., Any], /, *args: Any) -> Call:
        """Call a function on this worker; on another one only where it is gone."""
        return Call(self, fn, args, address)

    def gathered(self, calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
        """Make calls of actors, all at once, and return what each of them returned or raised.

        They begin and end in the thread that sends and receives: one change of threads there and one back for all.
        """

        async def result_of(start: Callable[[], Awaitable[Any]]) -> Any:
            return await start()

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(result_of, calls), return_exceptions=True)

        return list(self.client.sync(all_of_them)) if calls else []

    def reach_workers(self) -> None:
        """Find out whether calls of actors can go straight to the workers; else the scheduler passes them on."""
        if self.client.direct_to_workers is None:
            address = next(iter(self.client.nthreads()), None)

            async def asked() -> None:
                await asyncio.wait_for(self.client.rpc(address).identity(), 5)

            try:
                if address is not None:
                    self.client.sync(asked)
                    self.client.direct_to_workers = True
            except (OSError, TimeoutError):
                _log.info("Workers cannot be reached but through the scheduler: every step takes longer.")

    def require_connection(self) -> None:
        """Wait for the scheduler if it is lost; see `recover`."""
        if self.client.status != "running":
            self.recover(self.generation)

    def recover(self, generation: int) -> None:
        """Wait for the scheduler to come back, with a worker, unless that has happened since a generation.

        Raises
        ------
        ClusterError
            If it does not.
        """
        if self.generation > generation:
            return
        address = self.client.scheduler.address if self.client.scheduler else "the scheduler"
        _log.warning("The connection to %s is lost: waiting for it, at most %.0f s.", address, self.patience)
        deadline, direct = time.monotonic() + self.patience, self.client.direct_to_workers
        self._close_own()
        while True:
            try:
                with _quiet():
                    self.client = self._scheduler.open()
                    self._own.append(self.client)
                    self._check(max(1.0, deadline - time.monotonic()))
                break
            except (OSError, AssertionError):  # the latter: Dask's event loop did not start in time
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{address} did not come back within {self.patience:.0f} s. What is finished is kept: start it "
                        "and give the same command again."
                    ) from None
                time.sleep(0.5)
        self.client.direct_to_workers = direct
        self.generation += 1
        _log.info("Connected again.")

    def _close_own(self) -> None:
        for client in self._own:
            with suppress(*LOST, OSError):
                client.close(timeout=2)
        self._own.clear()

    def close(self) -> None:
        """Close the connections that were opened here."""
        self._close_own()


class Call:
    """A call of a function on a worker, which is repeated where that is lost, and also where the scheduler is.

    `result` and `cancel` are those of `concurrent.futures.Future`.
    """

    def __init__(
        self, cluster: Cluster, function: Callable[..., Any], arguments: tuple[Any, ...], address: str | None = None
    ) -> None:
        self._address = address
        self._cluster, self._sources = cluster, [each for each in arguments if isinstance(each, Call)]
        slots = {id(each): Slot(i) for i, each in enumerate(self._sources)}
        self._payload = pickle.dumps((function, [slots.get(id(each), each) for each in arguments]))
        self._name = getattr(function, "__name__", str(function))
        self._generation = -1
        self.future()

    def future(self) -> Any:
        """Return the future of this call, submitted to the scheduler that there is now."""
        if self._generation != self._cluster.generation:
            self._generation = self._cluster.generation
            with dask.annotate(executor=TEAM), dask.config.set(_SETTINGS):
                self._future = self._cluster.client.submit(
                    call,
                    self._payload,
                    *(source.future() for source in self._sources),
                    key=f"{self._name}-{id(self)}-{time.monotonic_ns()}",
                    pure=False,
                    resources={TEAM: 1},
                    workers=None if self._address is None else [self._address],
                    allow_other_workers=self._address is not None,
                )
        return self._future

    def done(self) -> bool:
        """Whether the call has ended."""
        return bool(self._future.done())

    def result(self) -> Any:
        """Wait, and return what the function returned, or raise what it raised.

        Raises
        ------
        ClusterError
            If several workers died of it, or the scheduler is lost for good.
        """
        result = self._awaited(lambda future: future.result())
        if isinstance(result, Failed):
            raise result.kind(result.text)
        return result

    def wait(self) -> None:
        """Wait; what the function returned stays where it is."""

        def ended(future: Future) -> None:
            wait(future)
            if future.status == "error":
                future.result()
            elif future.status != "finished":
                raise CancelledError(future.key)

        self._awaited(ended)

    def _awaited(self, ended: Callable[[Future], Any]) -> Any:
        while True:
            try:
                return ended(self.future())
            except LOST:
                if self._future.status == "error":  # the function raised it
                    raise
                self._cluster.recover(self._generation)
            except KilledWorker as error:
                raise ClusterError(
                    f"{error.allowed_failures + 1} workers died while they worked on one task, the last of them "
                    f"{error.last_worker.address}: it probably takes more memory than they have. Give them more "
                    "(--memory-limit of dask worker), or use fewer training points or fewer columns (-m)."
                ) from None
            except NoValidWorkerError as error:
                raise ClusterError(f"No worker can take the work: {error}") from None

    def cancel(self) -> None:
        """Drop the call."""
        with suppress(*LOST, OSError):
            self._future.cancel()


def _facts(dask_worker: Any) -> Here:
    return Here.of(dask_worker)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Dask's warnings of versions, which are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def require_versions(client: Client) -> None:
    """Raise ClusterError unless scheduler, workers and this process have the versions that go together."""
    here, differing = {"fastgdml": __version__}, []
    found = client.run(version, "fastgdml", on_error="return")
    for address, there in found.items():
        if isinstance(there, Exception):
            differing.append(f"worker {address} has no fastgdml ({there})")
        elif there != here["fastgdml"]:
            differing.append(f"worker {address} has fastgdml {there}, not {here['fastgdml']}")
    versions: Any = client.get_versions()
    ours = _relevant(versions["client"])
    others = {"the scheduler": versions["scheduler"]}
    others |= {f"worker {address}": each for address, each in versions["workers"].items()}
    for name, each in others.items():
        theirs = _relevant(each)
        differing += [f"{name} has {key} {theirs[key]}, not {ours[key]}" for key in ours if theirs[key] != ours[key]]
    if differing:
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ClusterError(
            f"The versions on the cluster are not those here: {'; '.join(differing[:4])}{more}. Install the same ones "
            "everywhere, most simply by using one environment."
        )


def _relevant(versions: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions that must agree: Python and NumPy in their first parts, distributed in all."""
    packages = versions["packages"]
    return {
        "Python": ".".join(str(packages["python"]).split(".")[:2]),
        "NumPy": str(packages["numpy"]).split(".")[0],
        "distributed": str(packages["distributed"]),
    }


@contextmanager
def connect(
    scheduler: str | None = None,
    client: Client | None = None,
    patience: float = PATIENCE,
    n_workers: int | None = None,
    wait: float | None = None,
) -> Iterator[Cluster]:
    """Connect to a cluster, or start one, while the context lasts.

    Parameters
    ----------
    scheduler : str, optional
        An address, as ``tcp://node1:8786``; ``file:SCHEDULER.json``, the file that `dask scheduler --scheduler-file`
        writes; ``local:N``, N processes on this machine; ``slurm:CONFIG.yaml``, ``pbs:``, ``sge:`` or ``lsf:``, jobs by
        dask-jobqueue, with its arguments and the number of `jobs` in a file.
    client : distributed.Client, optional
        A connection that there is already, in place of `scheduler`. It is left open.
    patience : float
        Seconds to wait for a scheduler that is lost in the middle.
    n_workers : int, optional
        Workers that a training by rows waits for before it divides the rows. By default those of the jobs; of other
        schedulers those that are there.
    wait : float, optional
        Seconds to wait for the first worker (by default a minute, for jobs in a queue a day), and then for the others
        (ten minutes); when they are over, rows are divided among those that have come. Where it is given, rows that do
        not fit into the memory of the workers wait for more of them.

    Yields
    ------
    Cluster

    Raises
    ------
    ClusterError
        If there is no scheduler or no worker within a bounded time, or versions do not go together.
    UsageError
        If `scheduler` names none.
    """
    with ExitStack() as stack:
        if client is not None:
            found = scheduler_of_client(client, n_workers)
        elif scheduler is None:
            raise UsageError("connect() needs the address of a scheduler, or a client.")
        else:
            found = scheduler_of(scheduler, stack, n_workers)
            client = _opened(found, scheduler)
            stack.callback(_closed, client)
        cluster = Cluster(client, found, patience, wait)
        stack.callback(cluster.close)
        workers = cluster.workers()
        require_memory(workers, LEAST_MEMORY, "Python and fastgdml")
        _log.info(
            "Cluster: %d worker%s with %d threads.",
            len(workers),
            "" if len(workers) == 1 else "s",
            sum(worker.n_threads for worker in workers),
        )
        yield cluster


def require_memory(workers: list[WorkerFacts], needed: float, what: str) -> None:
    """Raise ClusterError if a worker has not so many bytes left; Dask would pause it, and nothing would go on."""
    small = [worker for worker in workers if worker.memory < needed]
    if small:
        raise ClusterError(
            f"{what} need {needed / 2**20:.3g} MB on each worker, but "
            f"{small[0].name} has {small[0].memory / 2**20:.3g} MB left. Give the workers more memory "
            "(--memory-limit of dask worker)."
        )


def _closed(client: Client) -> None:
    with suppress(*LOST, OSError):
        client.close(timeout=5)


def _opened(found: Scheduler, scheduler: str) -> Client:
    try:
        with _quiet():
            return found.open()
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ClusterError(
            f"No scheduler answers at '{scheduler}' ({type(error).__name__}: {text}). Give the address that "
            "`dask scheduler` prints, as tcp://node1:8786, or local:N."
        ) from None
