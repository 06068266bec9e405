"""What trainings of the same points share, whatever sigma and lambda: descriptors, labels, tables, rigid motions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .descriptor import from_R, weighted
from .errors import DataError
from .group import GroupTables
from .labels import Labels
from .progress import Callback, Step
from .properties import Properties
from .solvers.equations import TrainingEquations
from .task import TaskArrays
from .training_set import TrainingSet
from .types import Array

PREPARING = "Generating descriptors and their Jacobians"
# Models that an iteration begins with: more bring next to nothing.
_MOST_NEAR = 3


@dataclass(frozen=True)
class Prepared:
    """The training points of a task, ready to be trained on.

    Attributes
    ----------
    x, g : ndarray, shapes (M, D) and (M, D, 3)
        Descriptors and compressed Jacobians, weighted if the task has weights.
    plain_x : ndarray, shape (M, D)
        Descriptors without weights.
    labels : Labels
        Scaled labels.
    equations : TrainingEquations
        The equations, with sigma and lambda of the task that they were made for.
    content : bytes
        Fingerprint of the points.
    """

    x: Array
    g: Array
    plain_x: Array
    labels: Labels
    equations: TrainingEquations
    content: bytes

    @classmethod
    def of(cls, arrays: TaskArrays, n_threads: int, callback: Callback | None = None) -> Prepared:
        """Prepare the points of a task.

        Raises
        ------
        DataError
            If a geometry has no descriptor, or all forces are equal.
        """
        content = _content(arrays)
        step = Step(callback, PREPARING)
        plain_x, g = from_R(arrays.R, arrays.cell, n_threads)
        step.done()
        labels = Labels.of(arrays)
        x = plain_x
        if arrays.weights is not None:
            x, g = weighted(x, g, arrays.weights)
        training = TrainingSet(x, g, GroupTables.from_perms(arrays.perms), arrays.sig, arrays.constrain_E)
        periodic = arrays.cell is not None
        equations = TrainingEquations(arrays.R, training, arrays.lam, labels.y, labels.y_E, periodic)
        return cls(x, g, plain_x, labels, equations, content)

    def serves(self, arrays: TaskArrays) -> bool:
        """Return whether another task has the same points, but perhaps another sigma or lambda."""
        return self.content == _content(arrays)

    def equations_of(self, arrays: TaskArrays) -> TrainingEquations:
        """Return the equations of a task that it serves."""
        return self.equations.with_parameters(arrays.sig, arrays.lam)


def _content(arrays: TaskArrays) -> bytes:
    """Return a fingerprint of the points of a task: arrays may have been changed in place."""
    cell = arrays.cell
    digest = hashlib.sha256(repr((arrays.constrain_E, None if cell is None else cell.image_rule)).encode())
    lattice = None if cell is None else cell.lattice
    for array in (arrays.R, arrays.F, arrays.E, arrays.perms, arrays.weights, lattice):
        digest.update(b"none" if array is None else repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.digest()


def coefficients_of(models: Sequence[Mapping[str, Any]], arrays: TaskArrays) -> list[tuple[Array, Array | None]]:
    """Return alphas_F and alphas_E of models of the points of a task: those whose length scales are nearest to its own.

    Raises
    ------
    DataError
        If a model has no coefficients, or those of other points.
    """
    found = []
    for model in models:
        known = Properties.of(model)
        alphas_F = model.get("alphas_F")
        if alphas_F is None or np.size(alphas_F) != arrays.R.size or not np.array_equal(known.idxs_train, arrays.idxs):
            raise DataError("A model that is given as near must have coefficients (alphas_F) and points of the task.")
        found.append((abs(math.log(known.sig / arrays.sig)), known.sig, (alphas_F, model.get("alphas_E"))))
    return [alphas for _, _, alphas in sorted(found, key=lambda each: each[:2])[:_MOST_NEAR]]
