"""Which diagnoses a training makes, of its data before and of its solution afterwards. Nothing is logged here."""

from __future__ import annotations

from .diagnostics import (
    Finding,
    check_constant_energies,
    check_duplicates,
    check_energies,
    check_forces,
    check_linearity,
    check_solution,
)
from .frames import check_training_unit
from .labels import Labels
from .solvers.choice import Solution
from .task import TaskArrays
from .types import Array


def check_training_data(arrays: TaskArrays, x: Array) -> list[Finding]:
    """Return what is wrong with training points, as far as it shows without a model."""
    periodic = arrays.cell is not None
    return [
        *check_training_unit(x, arrays.z, arrays.r_unit),
        *check_duplicates(x, arrays.F, arrays.perms, arrays.idxs),
        *([] if periodic else check_linearity(arrays.R)),
        *check_forces(arrays.z, arrays.R, arrays.F, periodic, arrays.idxs),
        *([] if arrays.E is None else check_constant_energies(arrays.E)),
    ]


def check_training_energies(arrays: TaskArrays, x: Array, E: Array) -> list[Finding]:
    """Return what predicted training energies show about the labels."""
    assert arrays.E is not None
    net_forces = bool(check_forces(arrays.z, arrays.R, arrays.F, arrays.cell is not None))
    return check_energies(arrays.E, E, x, arrays.idxs, net_forces)


def check_predictions(
    solution: Solution, arrays: TaskArrays, labels: Labels, x: Array, E: Array, F: Array
) -> list[Finding]:
    """Return what the predictions for the training points show about a solution, and about the labels."""
    findings = []
    if solution.is_exact:
        forces, periodic = F.reshape(arrays.F.shape), arrays.cell is not None
        findings += check_solution(arrays.R, arrays.F, forces, solution.alphas_F, labels.std, solution.lam, periodic)
    if arrays.fits_constant and solution.converged:  # energies of other models say nothing about the labels
        findings += check_training_energies(arrays, x, E)
    return findings
