import logging
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from reference import kernel_matrix
from support.molecules import cyclic_group, random_molecules

from fastgdml import lapack
from fastgdml.cell import Cell
from fastgdml.descriptor import from_R, jacobian_dot
from fastgdml.errors import SolverError
from fastgdml.kernel import packed_size
from fastgdml.solvers import processor as processor_module
from fastgdml.solvers import rigid
from fastgdml.solvers.cholesky import solve_closed_form
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.processor import memory_estimate, processor
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.training_set import TrainingSet


def equations(R, perms, sig, lam, y, y_E=None, cell=None):
    training = TrainingSet.from_R(R, perms, sig, y_E is not None, cell)
    return TrainingEquations(R, training, lam, y, y_E, cell is not None)


def linear_molecules(n_geo, n_atoms):
    R = np.zeros((n_geo, n_atoms, 3))
    R[:, :, 2] = np.arange(n_atoms) * 1.2 + np.random.default_rng(0).uniform(0, 0.2, (n_geo, n_atoms))
    return R


@pytest.mark.parametrize(
    ("R", "periodic", "n_kept"),
    [
        (random_molecules(20, 9), False, 21),
        (random_molecules(20, 9), True, 24),
        (random_molecules(5, 3), False, 3),
        (linear_molecules(4, 3), False, 4),
        (linear_molecules(4, 2), False, 1),
    ],
)
def test_reduction_spans_the_range_of_the_jacobian(R, periodic, n_kept):
    reduction = drop_rigid_motions(R, periodic)
    _, g = from_R(R)
    for i in range(len(R)):
        kept, dropped, C = reduction.kept[i], reduction.dropped[i], reduction.C[i]
        assert len(kept) == n_kept
        assert len(kept) + len(dropped) == R[i].size
        B = np.zeros((R[i].size, n_kept))
        B[kept], B[dropped] = np.eye(n_kept), C
        assert np.linalg.cond(B) < 30
        np.testing.assert_allclose(reduction.gram_inverse[i], np.linalg.inv(B.T @ B), atol=1e-11)
        # forces J^T f lie in the range of B
        f = np.random.default_rng(i).normal(size=g.shape[1])
        n_atoms = R.shape[1]
        a, b = np.tril_indices(n_atoms, -1)
        force = np.zeros((n_atoms, 3))
        np.add.at(force, b, g[i] * f[:, None])
        np.add.at(force, a, -g[i] * f[:, None])
        np.testing.assert_allclose(B @ force.ravel()[kept], force.ravel(), atol=1e-10 * np.abs(force).max())


def test_ill_conditioned_points_lose_translations_only(caplog, monkeypatch):
    R = linear_molecules(3, 4)
    R[1, 1, 0] = 2e-4  # bent by a little: a sixth rigid motion
    assert [len(kept) for kept in drop_rigid_motions(R).kept] == [7, 6, 7]
    monkeypatch.setattr(rigid, "_MAX_CONDITION", 1.9)
    with caplog.at_level(logging.INFO, "fastgdml"):
        reduction = drop_rigid_motions(R)
    assert [len(kept) for kept in reduction.kept] == [9, 9, 9]
    assert "3 of 3 geometries are nearly linear" in caplog.text


@pytest.mark.parametrize(("n_atoms", "order"), [(4, 1), (5, 3)])
def test_reduced_solution_predicts_what_the_full_one_does(n_atoms, order):
    R, perms, sig, lam = random_molecules(9, n_atoms), cyclic_group(n_atoms, order), 3.0, 1e-8
    y = np.random.default_rng(0).normal(size=R.size)
    # labels without net force and torque, as forces are: what rigid motions carry is lost in the reduced solution
    reduction = drop_rigid_motions(R)
    y = reduction.expand(
        np.concatenate([yi[k] for yi, k in zip(y.reshape(9, -1), reduction.kept, strict=True)]), 3 * n_atoms
    )
    K = kernel_matrix(R, perms, sig)
    full = -np.linalg.solve(-K + lam * np.eye(len(K)), y)
    _, g = from_R(R)
    solution = solve_closed_form(equations(R, perms, sig, lam, y), processor())
    assert solution.lam == lam
    np.testing.assert_allclose(K @ solution.alphas_F, K @ full, atol=1e-6 * np.abs(y).max())
    np.testing.assert_allclose(solution.alphas_F, full, atol=1e-5 * np.abs(full).max())
    np.testing.assert_allclose(
        jacobian_dot(g, solution.alphas_F.reshape(9, -1)),
        jacobian_dot(g, full.reshape(9, -1)),
        atol=1e-5 * np.abs(full).max(),
    )


@pytest.mark.parametrize("periodic", [False, True])
def test_reduced_solution_with_energies_predicts_what_the_full_one_does(periodic):
    n_train, n_atoms, sig, lam = 9, 5, 3.0, 1e-8
    R, perms, lattice = random_molecules(n_train, n_atoms), cyclic_group(n_atoms, 3), np.diag([5.0, 6.0, 7.0])
    lattice = lattice if periodic else None
    rng = np.random.default_rng(0)
    cell = None if lattice is None else Cell(lattice, "rounding")
    K = kernel_matrix(R, perms, sig, lattice, energies=True)
    y = K @ rng.normal(size=len(K))  # labels that belong together
    full = -np.linalg.solve(-K + lam * np.eye(len(K)), y)
    solution = solve_closed_form(equations(R, perms, sig, lam, y[: R.size], y[R.size :], cell), processor())
    assert solution.lam == lam
    alphas = np.concatenate([solution.alphas_F, solution.alphas_E])
    np.testing.assert_allclose(K @ alphas, K @ full, rtol=0, atol=1e-6 * np.abs(y).max())
    np.testing.assert_allclose(alphas, full, rtol=0, atol=1e-5 * np.abs(full).max())


def test_duplicates_are_survived_and_named(caplog):
    R = random_molecules(12, 4)
    R[7] = R[2]
    y = np.random.default_rng(0).normal(size=R.size)
    solution = solve_closed_form(equations(R, [range(4)], 3.0, 0.0, y), processor())
    assert solution.lam > 0
    assert "points 2 and 7 have the same geometry" in caplog.text
    assert np.isfinite(solution.alphas_F).all()


def test_hopeless_matrices_are_an_error():
    R = random_molecules(12, 4)
    hopeless = equations(R, [range(4)], 3.0, 1e-10, np.ones(R.size))
    hopeless.training.x[3] = np.nan
    with pytest.raises(SolverError, match="No larger lambda is tried"):
        solve_closed_form(hopeless, processor())


@pytest.mark.parametrize("energies", [False, True])
def test_one_factor_solves_for_many_labels(energies):
    R, perms, rng = random_molecules(9, 5), cyclic_group(5, 3), np.random.default_rng(0)
    y, y_E = rng.normal(size=(2, R.size)), rng.normal(size=(2, 9))
    labels = [(y[i], y_E[i] if energies else None) for i in range(2)]
    one, other = (solve_closed_form(equations(R, perms, 3.0, 1e-6, *label), processor()) for label in labels)
    for ours, theirs in zip(one.solve(*labels[1]), (other.alphas_F, other.alphas_E), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
    rhs = rng.normal(size=(one.reduction.rows.size, 3))
    several = one.factor.solve(rhs)
    assert several.shape == rhs.shape
    for k in range(3):
        alone = one.factor.solve(rhs[:, k])
        np.testing.assert_allclose(several[:, k], alone, rtol=0, atol=1e-9 * np.abs(alone).max())


@pytest.mark.parametrize("tile", [1, 5, 256])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 20, 21, 200])
def test_packed_cholesky_solves(n, tile):
    from scipy.linalg.lapack import dpftrf, dtrttf

    rng = np.random.default_rng(n)
    A = rng.normal(size=(n, n))
    A = A @ A.T + n * np.eye(n)
    packed, info = dtrttf(np.asfortranarray(A), transr="N", uplo="L")
    assert info == 0
    assert len(packed) == packed_size(n)
    rhs = rng.normal(size=n)
    x = rhs.copy()
    expected, info = dpftrf(n, packed, transr="N", uplo="L")
    assert lapack.cholesky(packed, n, 2, tile) == 0
    np.testing.assert_allclose(packed, expected, rtol=0, atol=1e-11 * np.abs(A).max())
    lapack.solve(packed, n, x, 2)
    np.testing.assert_allclose(A @ x, rhs, atol=1e-10)


@pytest.mark.parametrize("tile", [1, 3, 256])
@pytest.mark.parametrize("bad", range(7))
def test_packed_cholesky_says_where_a_matrix_is_indefinite(bad, tile):
    packed = np.zeros(packed_size(7))
    diagonal = np.ones((7, 1, 1))
    diagonal[bad] = -1
    lapack.add_blocks(packed, 7, np.arange(8), diagonal)
    assert lapack.cholesky(packed, 7, 2, tile) == bad + 1


PEAK = """
import sys
import numpy as np
import fastgdml.train as module
from fastgdml.dataset import create_dataset, load_dataset

def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024

molecule, energies, solver, n_train = sys.argv[1], sys.argv[2] == "True", sys.argv[3], 350
ethanol = dataset = load_dataset("ethanol")
if molecule == "linear":
    rng, n_train = np.random.default_rng(0), 1100
    R, F = np.zeros((2, 1160, 4, 3))
    R[:, :, 2] = np.arange(4) * 1.2 + rng.uniform(0, 0.2, (1160, 4))
    F[:, :, 2] = rng.normal(size=(1160, 4))
    dataset = create_dataset("linear", "x", [6, 7, 6, 8], R, F - F.mean(axis=1, keepdims=True), rng.normal(size=1160))
train = module.GDMLTrain()
train.train(train.create_task(ethanol, 20, ethanol, 10, 10, seed=0), solver=solver)  # libraries
task = train.create_task(
    dataset, n_train, dataset, 10, 10, seed=0, use_E_cstr=energies, use_sym=molecule == "ethanol"
)
plans, choose = [], module.choose
module.choose = lambda *args: plans.append(choose(*args)) or plans[-1]
before = status("VmRSS")
model = train.train(task, solver=solver, max_iter=30 if solver == "cg" else None)
columns = model.get("inducing_pts_idxs")
print((status("VmHWM") - before) / plans[0].memory(None if columns is None else len(columns)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("solver", "molecule", "energies", "least"),
    [
        ("closed", "ethanol", False, 0.75),
        ("closed", "ethanol", True, 0.75),
        ("closed", "linear", False, 0.75),
        ("closed", "linear", True, 0.75),
        ("cg", "ethanol", False, 0.5),
        ("cg", "linear", True, 0.5),
    ],
)
def test_the_peak_is_below_the_memory_estimate(tmp_path, solver, molecule, energies, least):
    """A training in a process of its own: peak memory beyond that after the imports, against the estimate."""
    args = [sys.executable, "-c", PEAK, molecule, str(energies), solver]
    done = subprocess.run(args, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert least < float(done.stdout) < 1


def test_memory_estimate_is_the_packed_matrix_and_a_little():
    for n in (21 * 1000, 22 * 1000):
        assert 1.0 < memory_estimate(n, 1000, 9, 6) / (8 * packed_size(n)) < 1.05


def test_a_retry_holds_one_matrix(monkeypatch):
    """The memory estimate is for one; the next is assembled after the last is gone."""
    R = random_molecules(12, 4)
    alive = []
    original = processor_module.assemble_packed

    def assemble(*args):
        alive.append(sum(reference() is not None for reference in references))
        matrix = original(*args)
        references.append(weakref.ref(matrix))
        return matrix

    references = []
    monkeypatch.setattr(processor_module, "assemble_packed", assemble)
    monkeypatch.setattr(lapack, "cholesky", lambda matrix, n, n_threads: 1 if len(references) < 3 else 0)
    solve_closed_form(equations(R, [range(4)], 3.0, 1e-10, np.ones(R.size)), processor())
    assert alive == [0, 0, 0]
