"""What is fitted: forces, and perhaps energies, on one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import DataError
from .task import TaskArrays
from .types import Array


@dataclass(frozen=True)
class Labels:
    """Scaled labels of M training points of N atoms.

    Attributes
    ----------
    y : ndarray, shape (3 N M,)
        Forces.
    y_E : ndarray, shape (M,), or None
        Negative energies around their mean, if they are constrained point by point.
    std : float
        The scale: labels were divided by their standard deviation.
    E_mean : float
        The mean of constrained energies, 0 without them.
    """

    y: Array
    y_E: Array | None
    std: float
    E_mean: float

    @classmethod
    def of(cls, task: TaskArrays) -> Labels:
        """Scale the labels of a task.

        Raises
        ------
        DataError
            If all forces are equal.
        """
        y = task.F.ravel()
        if not np.ptp(y) > 0:
            raise DataError("All training forces are equal; there is nothing to learn from them.")
        if task.E is None or not task.constrain_E:
            std = float(np.std(y))
            return cls(y / std, None, std, 0.0)
        E_mean = float(np.mean(task.E))
        std = float(np.std(np.concatenate([y, E_mean - task.E])))
        return cls(y / std, (E_mean - task.E) / std, std, E_mean)
