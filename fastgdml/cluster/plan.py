"""Which rows of the training equations go to which worker, and the memory that this takes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..solvers import low_rank
from ..solvers.preconditioner import pieces_memory
from ..training_set import TrainingSet
from .connection import WorkerFacts

# Blocks begin at multiples of this number of points, the widest vector of the assembly.
_POINTS = 8


@dataclass(frozen=True)
class Share:
    """The rows of some training points, and the worker they are meant for."""

    points: range
    worker: WorkerFacts


def divide(n_train: int, workers: Sequence[WorkerFacts]) -> list[Share]:
    """Divide M training points among workers in proportion to their threads, in order; a worker may get none."""
    total, before, shares = sum(worker.n_threads for worker in workers), 0, []
    first = 0
    for worker in workers:
        before += worker.n_threads
        stop = n_train if before == total else min(n_train, round(n_train * before / total / _POINTS) * _POINTS)
        if stop > first:
            shares.append(Share(range(first, stop), worker))
        first = max(first, stop)
    return shares


def data_memory(training: TrainingSet) -> int:
    """Return the bytes that every worker needs for the product with K, whatever its rows.

    Descriptors and Jacobians as they come and as they are used, the model whose coefficients are replaced, vectors.
    """
    return 8 * (10 * training.x.size + 4 * training.n_train * training.n_coord)


def rows_memory(n_points: int, n_coord: int, n_columns: int) -> int:
    """Return the bytes that a worker needs for `n_points` points of a preconditioner, at most, while it is built.

    U, the triangles R, four matrices k x k (the factor of W, its own Gram matrix and two of the reduction), pieces.
    """
    n = n_points * n_coord
    fixed = low_rank.memory(n, n_columns) + 8 * n * n_coord + 4 * 8 * n_columns**2
    return fixed + pieces_memory(n_points, n_coord, n_columns)


def plan_text(shares: Sequence[Share], training: TrainingSet, n_columns: int) -> str:
    """Return the plan in words: the memory of each worker, of many workers that of the fullest ones."""
    lines = []
    for share in shares:
        needed = data_memory(training) + rows_memory(len(share.points), training.n_coord, n_columns)
        lines.append(
            (
                needed / max(share.worker.memory, 1.0),
                f"{share.worker.name}: {len(share.points)} points, {needed / 2**30:.3g} of "
                f"{share.worker.memory / 2**30:.3g} GB",
            )
        )
    shown = sorted(lines, reverse=True)[:8] if len(lines) > 8 else lines
    rest = f"; {len(lines) - len(shown)} more workers with less" if len(lines) > len(shown) else ""
    return f"Memory with {n_columns} columns: {'; '.join(text for _, text in shown)}{rest}."
