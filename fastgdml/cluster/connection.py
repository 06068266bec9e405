"""The connection to a cluster, what is asked of it, and calls that outlive the loss of workers and of the scheduler."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, wait
from distributed.comm import CommClosedError
from distributed.protocol import pickle
from distributed.scheduler import KilledWorker, NoValidWorkerError

from .._version import __version__
from ..errors import ClusterError, UsageError
from ..threads import resolve_n_threads
from .worker import TEAM, Failed, Here, Slot, Team, call

_log = logging.getLogger(__name__)

# Seconds to wait for a scheduler, for its first worker, and for a scheduler that is lost and may come back.
CONNECT_TIMEOUT = 10.0
WORKER_TIMEOUT = 60.0
PATIENCE = 300.0
# Bytes that a worker must have left to do anything.
LEAST_MEMORY = 32 * 2**20

# What is raised for calls whose scheduler is gone.
LOST = (CancelledError, CommClosedError, TimeoutError)

# Kinds of clusters that dask-jobqueue starts, by the prefix of --scheduler.
_JOBQUEUE = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}

# Calls carry their arrays with them, so that the scheduler can repeat them: that is meant, and no cause for a warning.
_SETTINGS = {"distributed.admin.large-graph-warning-threshold": "10GB"}

# Scheduler, workers and client share the processors of this machine. Dask would take a few hundredths of them to look
# where threads are, every 10 ms, and whether each process keeps up, every 20 ms.
_LOCAL_SETTINGS = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}


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
    reopen : callable
        Returns another client of the same scheduler, when this one has lost it; raises OSError if there is none.
    patience : float
        Seconds to wait for a scheduler that is lost, and for workers where there are none.
    """

    def __init__(self, client: Client, reopen: Callable[[], Client], patience: float = PATIENCE) -> None:
        self.client, self._reopen, self.patience = client, reopen, patience
        self.generation = 0
        self._own: list[Client] = []
        with _quiet():
            self._check(WORKER_TIMEOUT)

    def _check(self, timeout: float) -> None:
        """Wait for a worker, and see whether the workers can be used."""
        try:
            self.client.wait_for_workers(1, timeout=timeout)
        except TimeoutError:
            raise ClusterError(
                f"The scheduler {self.client.scheduler.address} has no workers after {timeout:.0f} s. Start some: "
                f"dask worker {self.client.scheduler.address}"
            ) from None
        require_versions(self.client)
        self.client.register_plugin(Team())

    def workers(self) -> list[WorkerFacts]:
        """Return the workers that there are now, in the order of their addresses."""
        found: Mapping[str, Here] = self.client.run(_facts, on_error="ignore")
        return [WorkerFacts(address, here.name, here.n_threads, here.memory) for address, here in sorted(found.items())]

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Call:
        """Call a function on some worker that does nothing else meanwhile.

        A `Trainer` among the arguments gets the threads and the memory of that worker. A `Call` stands for its result,
        which goes from worker to worker. What a lost worker was doing is done again by another.
        """
        return Call(self, fn, args)

    def submit_to(self, address: str, fn: Callable[..., Any], /, *args: Any) -> Call:
        """Call a function on this worker; on another one only where it is gone."""
        return Call(self, fn, args, address)

    def gathered(self, futures: Iterable[Any]) -> list[Any]:
        """Wait for calls of actors, and return what each of them returned or raised."""
        waiting = list(futures)

        async def all_of_them() -> list[Any]:  # in the thread that receives: one change of threads for all
            return await asyncio.gather(*waiting, return_exceptions=True)

        return list(self.client.sync(all_of_them)) if waiting else []

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
                    self.client = self._reopen()
                    self._own.append(self.client)
                    self._check(max(1.0, deadline - time.monotonic()))
                break
            except OSError:
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
    scheduler: str | None = None, client: Client | None = None, patience: float = PATIENCE
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
        reopen: Callable[[], Client]
        if client is not None:
            address, security = client.scheduler.address, client.security
            reopen = lambda: Client(address, timeout=CONNECT_TIMEOUT, security=security)  # noqa: E731
        elif scheduler is None:
            raise UsageError("connect() needs the address of a scheduler, or a client.")
        else:
            reopen = _opener(scheduler, stack)
            client = _opened(reopen, scheduler)
            stack.callback(_closed, client)
        cluster = Cluster(client, reopen, patience)
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


def _opened(reopen: Callable[[], Client], scheduler: str) -> Client:
    try:
        with _quiet():
            return reopen()
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ClusterError(
            f"No scheduler answers at '{scheduler}' ({type(error).__name__}: {text}). Give the address that "
            "`dask scheduler` prints, as tcp://node1:8786, or local:N."
        ) from None


def _opener(scheduler: str, stack: ExitStack) -> Callable[[], Client]:
    """Return what connects to a scheduler; what has to be started is started, and stopped with the stack."""
    kind, _, rest = scheduler.partition(":")
    if kind == "local":
        local = stack.enter_context(_local(rest))
        return lambda: Client(local, timeout=CONNECT_TIMEOUT)
    if kind in _JOBQUEUE:
        jobs = stack.enter_context(_jobs(kind, rest))
        return lambda: Client(jobs, timeout=CONNECT_TIMEOUT)
    if kind == "file":
        if not Path(rest).is_file():
            raise ClusterError(f"'{rest}' is not there: `dask scheduler --scheduler-file {rest}` writes it.")
        return lambda: Client(scheduler_file=rest, timeout=CONNECT_TIMEOUT)
    return lambda: Client(scheduler, timeout=CONNECT_TIMEOUT)


def _local(number: str) -> Any:
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"'local:{number}': give a number of processes, as local:4.")
    n_workers = int(number)
    with dask.config.set(_LOCAL_SETTINGS):
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=max(1, resolve_n_threads() // n_workers),
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        )


def _jobs(kind: str, file: str) -> Any:
    try:
        jobqueue: Any = importlib.import_module("dask_jobqueue")
    except ImportError:
        raise UsageError(f"'{kind}:' starts jobs by dask-jobqueue: pip install 'fastgdml[jobqueue]'") from None
    try:
        found = list(dask.config.collect_yaml([file])) if Path(file).is_file() else []
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    if not found:
        raise UsageError(f"'{file}' is no YAML file with arguments of {_JOBQUEUE[kind]}, as cores, memory, jobs.")
    options = dict(found[0])
    jobs = options.pop("jobs", 1)
    try:
        cluster = getattr(jobqueue, _JOBQUEUE[kind])(**options)
        cluster.scale(jobs=int(jobs))
    except (TypeError, ValueError, OSError) as error:
        raise UsageError(f"{file}: {_JOBQUEUE[kind]} cannot start jobs ({error}).") from None
    return cluster
