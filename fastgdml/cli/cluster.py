"""The options of clusters: what works, and how trainings are divided on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from ..search import Trainer
from .options import trainer_options


@contextmanager
def connected(options: Mapping[str, Any]) -> Iterator[Any]:
    """Connect to the `Cluster` that --scheduler names; yield None if it names none.

    Raises
    ------
    UsageError
        If there are options of a cluster without one, or of rows without rows; see `connect` for others.
    """
    n_workers, wait, by_rows = options.get("n_workers"), options.get("wait"), options.get("distribute", "rows")
    if options["scheduler"] is None:
        for name in ("distribute", "n_workers", "wait"):
            if options.get(name) is not None:
                option = {"n_workers": "workers"}.get(name, name)
                raise UsageError(f"--{option} says how to work on a cluster: give --scheduler, too.")
        yield None
        return
    if n_workers is not None and by_rows != "rows":
        raise UsageError("--workers is the number that rows are divided among: give --distribute rows, too.")
    from ..cluster import connect

    with connect(options["scheduler"], n_workers=n_workers, wait=wait) as cluster:
        yield cluster


@contextmanager
def placed(options: Mapping[str, Any], distribute: str | None) -> Iterator[tuple[Trainer, Any]]:
    """Yield what trains, and the executor of whole trainings, if they are given to workers one by one.

    What is wrong with the options is said before anything is started or waited for.
    """
    how = trainer_options(options)
    trainer = Trainer(**how)
    if options["scheduler"] is None or distribute != "rows":
        with connected(options) as cluster:
            yield trainer, cluster
        return
    if trainer.backend == "gpu":
        raise UsageError("Rows are divided among processors; for GPUs give each worker tasks of its own.")
    from ..cluster import ClusterTrainer

    trainer = ClusterTrainer(**how)
    with connected(options) as cluster:
        yield replace(trainer, cluster=cluster), None
