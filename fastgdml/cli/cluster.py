"""The option --scheduler: a cluster that works, and how trainings are divided on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import UsageError
from ..search import Trainer


@contextmanager
def connected(scheduler: str | None) -> Iterator[Any]:
    """Connect to the `Cluster` that --scheduler names; yield None if it names none."""
    if scheduler is None:
        yield None
        return
    from ..cluster import connect

    with connect(scheduler) as cluster:
        yield cluster


def placed(cluster: Any, distribute: str | None, options: Mapping[str, Any]) -> tuple[Trainer, Any]:
    """Return what trains, and the executor of whole trainings, if they are given to workers one by one."""
    if cluster is None:
        if distribute is not None:
            raise UsageError("--distribute says how to divide work on a cluster: give --scheduler, too.")
        return Trainer(**options), None
    if distribute != "rows":
        return Trainer(**options), cluster
    if options["backend"] == "gpu":
        raise UsageError("Rows are divided among processors; for GPUs give each worker tasks of its own.")
    from ..cluster import ClusterTrainer

    return ClusterTrainer(**options, cluster=cluster), None
