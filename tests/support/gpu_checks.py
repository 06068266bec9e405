"""Checks of the GPU backend for any array module: NumPy, the stand-in for CuPy, CuPy itself."""

from dataclasses import replace

import numpy as np
import reference as oracle

from fastgdml.cell import Cell
from fastgdml.gpu import kernel as gpu_kernel
from fastgdml.gpu.arrays import to_numpy
from fastgdml.gpu.low_rank import LowRank
from fastgdml.kernel import Coordinates, assemble_full, energies_last
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.training_set import TrainingSet
from support.molecules import random_molecules


def assert_close(ours, theirs, tolerance):
    """Compare relative to the largest element."""
    np.testing.assert_allclose(to_numpy(ours), theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def oracle_matrix(R, perms, sig, energies):
    """The oracle's matrix, point by point."""
    K = oracle.kernel_matrix(R, perms, sig, energies=energies)
    if not energies:
        return K
    order = np.argsort(energies_last(len(R), R.shape[1]))
    return K[np.ix_(order, order)]


def check_assembly_with_oracle(perms, n_atoms, n_train, energies, xp):
    R = random_molecules(n_train, n_atoms)
    rows = Coordinates.full(n_train, 3 * n_atoms + energies)
    K = gpu_kernel.assemble_lower(TrainingSet.from_R(R, perms, 4.0, energies), rows, -2.0, xp=xp)
    assert K.flags.f_contiguous
    assert_close(np.tril(to_numpy(K)), np.tril(-2.0 * oracle_matrix(R, perms, 4.0, energies)), 1e-13)


def check_assembly(reference, xp):
    """Kept coordinates of real molecules, with energies and lattice where the case has them, against the processor."""
    R = reference["R_train"][:3]
    energies = "alphas_E" in reference
    training = TrainingSet.from_R(R, reference["perms"], reference["sig"], energies, Cell.of(reference))
    expected = assemble_full(training)
    rows = drop_rigid_motions(R, "lattice" in reference, energies).rows
    K = gpu_kernel.assemble_lower(training, rows, xp=xp)
    kept = np.repeat(np.arange(3) * (3 * R.shape[1] + energies), np.diff(rows.begin)) + rows.coord
    assert_close(np.tril(to_numpy(K)), np.tril(expected[np.ix_(kept, kept)]), 1e-13)


def check_rectangles_and_diagonal_blocks(perms, energies, xp):
    R = random_molecules(6, 5)
    q = 15 + energies
    training = TrainingSet.from_R(R, perms, 4.0, energies)
    training = replace(training, x=xp.asarray(training.x), g=xp.asarray(training.g))
    K = oracle_matrix(R, perms, 4.0, energies)
    col_points, columns = np.array([1, 2, 5]), [[0, 7, q - 1], [3], [1, 2, 3, 14]]
    chosen = np.concatenate([p * q + np.array(c) for p, c in zip(col_points, columns, strict=True)])
    cols = Coordinates.from_lists(columns)
    ours = gpu_kernel.assemble_rows(training, range(2, 6), col_points, cols, -1.0, xp=xp)
    assert ours.flags.f_contiguous
    assert_close(ours, -K[2 * q :, chosen], 1e-13)
    diagonal = gpu_kernel.assemble_diagonal(training, 3.0, xp=xp)
    assert_close(diagonal, 3.0 * K.reshape(6, q, 6, q)[np.arange(6), :, np.arange(6)], 1e-13)


def check_low_rank(n_rows, n_columns, xp):
    """Products with a low-rank part that is rounded to single precision."""
    rng = np.random.default_rng(0)
    U, b, t = rng.normal(size=(n_rows, n_columns)), rng.normal(size=n_rows), rng.normal(size=n_columns)
    rounded = U.astype(np.float32).astype(np.float64)
    low_rank = LowRank(n_rows, n_columns, xp)
    half = n_rows // 2
    for rows in (slice(0, half), slice(half, n_rows)):
        np.testing.assert_array_equal(to_numpy(low_rank.set_rows(rows.start, xp.asarray(U[rows]))), rounded[rows])
    assert_close(low_rank.project(xp.asarray(b)), rounded.T @ b, 1e-13)
    left = xp.asarray(b.copy())
    low_rank.subtract(xp.asarray(t), left)
    assert_close(left, b - rounded @ t, 1e-13)
