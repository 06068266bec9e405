"""Schedulers: how they are reached, and started where they are started here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, Status

from ..errors import ClusterError, UsageError
from ..threads import resolve_n_threads

# Seconds to wait for a scheduler.
CONNECT_TIMEOUT = 10.0

# Kinds of clusters that dask-jobqueue starts, by the prefix of --scheduler.
_JOBQUEUE = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}

# Scheduler, workers and client share the processors of this machine. Dask would take a few hundredths of them to look
# where threads are, every 10 ms, whether each process keeps up, every 20 ms, and what memory each takes, every 100 ms.
_LOCAL_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "1s",
    # It would be set here, too, and stay: one thread for all that this process does later. Workers know their number.
    "distributed.nanny.pre-spawn-environ": {},
}

# Of schedulers that are started here: not to be seen by others, and on a port of its own.
_DASHBOARD = {"dashboard_address": "127.0.0.1:0"}


@dataclass(frozen=True)
class Scheduler:
    """A scheduler.

    Attributes
    ----------
    open : callable
        Returns a client; raises OSError if there is no scheduler.
    n_workers : int
        Workers to wait for, where all are needed.
    queued : bool
        Whether they are jobs, which begin when a batch system has room for them.
    """

    open: Callable[[], Client]
    n_workers: int
    queued: bool = False


def scheduler_of(where: str, stack: ExitStack, n_workers: int | None = None) -> Scheduler:
    """Return the scheduler that a text names, see `connect`; what has to be started is stopped with the stack."""
    kind, _, rest = where.partition(":")
    if kind == "local":
        number = _number(rest)
        _require_so_many(where, number, n_workers)
        local = stack.enter_context(_local(number))
        return Scheduler(lambda: Client(local, timeout=CONNECT_TIMEOUT), n_workers or number)
    if kind in _JOBQUEUE:
        jobs, number = _jobs(kind, rest, stack, n_workers)
        return Scheduler(lambda: Client(jobs, timeout=CONNECT_TIMEOUT), n_workers or number, queued=True)
    if kind == "file":
        if not Path(rest).is_file():
            raise ClusterError(f"'{rest}' is not there: `dask scheduler --scheduler-file {rest}` writes it.")
        return Scheduler(lambda: Client(scheduler_file=rest, timeout=CONNECT_TIMEOUT), n_workers or 1)
    return Scheduler(lambda: Client(where, timeout=CONNECT_TIMEOUT), n_workers or 1)


def scheduler_of_client(client: Client, n_workers: int | None = None) -> Scheduler:
    """Return the scheduler of a client that there is."""
    address, security = client.scheduler.address, client.security
    return Scheduler(lambda: Client(address, timeout=CONNECT_TIMEOUT, security=security), n_workers or 1)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"'local:{text}': give a number of processes, as local:4.")
    return int(text)


def _require_so_many(where: str, number: int, n_workers: int | None) -> None:
    if n_workers is not None and n_workers > number:
        raise UsageError(f"'{where}' starts {number} workers; {n_workers} are to be waited for (--workers).")


def _local(n_workers: int) -> Any:
    with dask.config.set(_LOCAL_SETTINGS):
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=max(1, resolve_n_threads() // n_workers),
            processes=True,
            host="127.0.0.1",
            **_DASHBOARD,
        )


def _jobs(kind: str, file: str, stack: ExitStack, n_workers: int | None) -> tuple[Any, int]:
    """Submit jobs; return their cluster, and how many workers they are going to be."""
    try:
        jobqueue: Any = importlib.import_module("dask_jobqueue")
    except ImportError:
        raise UsageError(f"'{kind}:' starts jobs by dask-jobqueue: pip install 'fastgdml[jobqueue]'") from None
    try:
        found = list(dask.config.collect_yaml([file])) if Path(file).is_file() else []
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    name = _JOBQUEUE[kind]
    if not found:
        raise UsageError(f"'{file}' is no YAML file with arguments of {name}, as cores, memory, jobs.")
    options = dict(found[0])
    jobs = options.pop("jobs", 1)
    configured = dask.config.get(f"jobqueue.{kind}.scheduler-options", None) or {}
    try:
        options["scheduler_options"] = {**_DASHBOARD, **configured, **options.get("scheduler_options", {})}
        cluster = getattr(jobqueue, name)(**options)
        stack.callback(_stopped, cluster)
        for _ in range(int(jobs)):  # what scale() does, but for waiting: it would only log what is raised
            cluster.worker_spec.update(cluster.new_worker_spec())
        number = sum(len(spec.get("group", [""])) for spec in cluster.worker_spec.values())
        _require_so_many(f"{kind}:{file}", number, n_workers)

        async def submitted() -> None:
            await cluster

        cluster.sync(submitted)
    except UsageError:
        raise
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise UsageError(f"{file}: {name} cannot start jobs ({' '.join(str(error).split())}).") from None
    return cluster, number


def _stopped(cluster: Any) -> None:
    try:
        cluster.close()
    except AssertionError:  # at its end, of jobs that could not be submitted
        cluster.status = Status.closed
