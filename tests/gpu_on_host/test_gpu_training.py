"""Training on the GPU backend, with NumPy and with CUDA on the processor: closed form, iterative solver, its choice."""

import types

import numpy as np
import pytest
from support.gpu_checks import assert_close, oracle_matrix
from support.molecules import GROUPS, cyclic_group, random_molecules, symmetric_group_of_three

from fastgdml import backend
from fastgdml import predict as predict_module
from fastgdml import train as train_module
from fastgdml.dataset import create_dataset
from fastgdml.errors import InsufficientMemoryError, SolverError, UsageError
from fastgdml.gpu import bulk, machine
from fastgdml.gpu import cholesky as gpu_cholesky
from fastgdml.gpu import operator as gpu_operator
from fastgdml.gpu import preconditioner as gpu_preconditioner
from fastgdml.gpu.devices import DividedTraining
from fastgdml.operator import KernelOperator
from fastgdml.predict import GDMLPredict
from fastgdml.solvers import choice, iterative, preconditioner
from fastgdml.solvers.cholesky import solve_closed_form
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.iterative import IterativeSolver
from fastgdml.solvers.processor import processor
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet


@pytest.fixture(params=["numpy", "cuda on the host"])
def xp(request):
    return np if request.param == "numpy" else request.getfixturevalue("host_cupy")


@pytest.fixture
def device(xp, monkeypatch):
    """Make `xp` the array module of backend='gpu', which there is then."""

    def resolve(name, use_torch=False):
        return "cpu" if name == "cpu" and not use_torch else "gpu"

    for module in (train_module, predict_module):
        monkeypatch.setattr(module, "array_module", lambda _backend: xp)
        monkeypatch.setattr(module, "resolve_backend", resolve)
    return xp


@pytest.fixture(scope="module")
def task(ethanol):
    return GDMLTrain().create_task(ethanol, 20, ethanol, 30, sig=20, seed=3)


@pytest.fixture(scope="module")
def energy_task(ethanol):
    return GDMLTrain().create_task(ethanol, 20, ethanol, 30, sig=10, seed=3, use_E_cstr=True)


def predicted(model, R):
    return GDMLPredict(model).predict(np.reshape(R, (len(R), -1)))


def assert_same_predictions(model, expected, R, tolerance):
    (E, F), (E_ref, F_ref) = predicted(model, R), predicted(expected, R)
    np.testing.assert_allclose(F, F_ref, rtol=0, atol=tolerance * np.abs(F_ref).max())
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=tolerance * np.abs(F_ref).max())


# ---- linear algebra of a device


@pytest.mark.parametrize("block", [None, 20, 7, 1, 19])
def test_blocked_factorisation(block, host_cupy):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(20, 20))
    A = A @ A.T + 20 * np.eye(20)
    rhs = rng.normal(size=20)
    matrix = host_cupy.asarray(np.asfortranarray(np.tril(A)))  # nothing above the diagonal
    assert gpu_cholesky.cholesky(matrix, host_cupy, block)
    np.testing.assert_allclose(np.tril(matrix.get()), np.linalg.cholesky(A), rtol=0, atol=1e-12)
    z = gpu_cholesky.cholesky_solve(matrix, rhs, host_cupy, block)
    np.testing.assert_allclose(z.get(), np.linalg.solve(A, rhs), rtol=0, atol=1e-13)

    A[13, 13] = -1.0
    assert not gpu_cholesky.cholesky(host_cupy.asarray(np.asfortranarray(A)), host_cupy, block)


def test_division_by_a_factor(xp):
    rng = np.random.default_rng(0)
    L, B = np.tril(rng.normal(size=(8, 8))) + 5 * np.eye(8), rng.normal(size=(30, 8))
    factor, panel = (xp.asarray(np.asfortranarray(A)) for A in (L, B))
    gpu_cholesky.solve_right(factor, panel, xp)
    assert_close(panel, np.linalg.solve(L, B.T).T, 1e-13)


# ---- closed form


def equations_of_noise(R, perms, energies=False, lam=None):
    rng = np.random.default_rng(0)
    y, y_E = rng.normal(size=R.size), rng.normal(size=len(R))
    # Forces without net force and torque: those a force field can have.
    n = drop_rigid_motions(R)
    if lam is None:
        lam = 1e-6 if energies else 1e-10  # random energies and forces contradict each other
    training = TrainingSet.from_R(R, perms, 4.0, energies)
    return TrainingEquations(R, training, lam, n.expand(n.reduce(y), 3 * R.shape[1]), y_E if energies else None)


@pytest.mark.parametrize("energies", [False, True])
def test_solution_equals_cpu(energies, xp):
    equations = equations_of_noise(random_molecules(12, 5), symmetric_group_of_three(5), energies)
    assembled = []
    ours = solve_closed_form(equations, machine.device(xp), on_assembled=lambda: assembled.append(1))
    theirs = solve_closed_form(equations, processor())
    assert (ours.lam, assembled) == (equations.lam, [1])
    rhs = np.random.default_rng(1).normal(size=(ours.reduction.rows.size, 2))
    assert_close(ours.factor.solve(rhs), theirs.factor.solve(rhs), 1e-7)
    assert_close(ours.alphas_F, theirs.alphas_F, 1e-7)
    if energies:
        assert_close(ours.alphas_E, theirs.alphas_E, 1e-7)
    else:
        assert ours.alphas_E is None


def test_lambda_is_raised_for_duplicates(caplog):
    R = random_molecules(5, 5)
    R[3] = R[1]
    equations = equations_of_noise(R, symmetric_group_of_three(5), lam=0.0)
    solution = solve_closed_form(equations, machine.device(np))
    assert solution.lam > 0
    assert "Training points 1 and 3 have the same geometry" in caplog.text


def test_a_hopeless_matrix_is_an_error(monkeypatch):
    monkeypatch.setattr(gpu_cholesky, "cholesky", lambda matrix, xp: False)
    with pytest.raises(SolverError, match="not positive definite"):
        solve_closed_form(equations_of_noise(random_molecules(3, 5), [[0, 1, 2, 3, 4]]), machine.device(np))


def test_memory_is_checked_first(monkeypatch):
    equations = equations_of_noise(random_molecules(3, 5), [[0, 1, 2, 3, 4]])
    monkeypatch.setattr(gpu_cholesky, "free_memory", lambda xp: 2**10)
    with pytest.raises(InsufficientMemoryError, match=r"3 points of 5 atoms needs .* GB .* are free.*backend='cpu'"):
        solve_closed_form(equations, machine.device(np))
    monkeypatch.undo()

    def out_of_memory(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(gpu_cholesky, "assemble_lower", out_of_memory)
    with pytest.raises(InsufficientMemoryError, match="3 points of 5 atoms"):
        solve_closed_form(equations, machine.device(np))
    assert gpu_cholesky.memory_estimate(1000, 21, 6) > 8 * 57000**2
    assert gpu_cholesky.memory_estimate(1000, 21, 6, energies=True) > 8 * 58000**2


# ---- iterative solver


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_operator_equals_the_matrix(group, energies, xp):
    R, perms = random_molecules(11, 6), GROUPS[group](6)
    K = oracle_matrix(R, perms, 4.0, energies)
    product = gpu_operator.KernelOperator(DividedTraining.of(TrainingSet.from_R(R, perms, 4.0, energies), xp))
    for seed in range(2):  # coefficients are replaced
        v = np.random.default_rng(seed).normal(size=len(K))
        assert_close(product(xp.asarray(v)), K @ v, 1e-11)
    assert product.flops == 11**2 * len(perms) * (8 * 15 + 60)


def test_operator_in_batches(monkeypatch):
    training = TrainingSet.from_R(random_molecules(11, 6), symmetric_group_of_three(6), 4.0, True)
    product = gpu_operator.KernelOperator(DividedTraining.of(training, np))
    v = np.random.default_rng(0).normal(size=11 * 19)
    expected = KernelOperator(training)(v)
    original, sizes = bulk.Bulk.predict, []

    def limited(self, x, g, virials):
        sizes.append(len(x))
        if len(x) > largest:
            raise MemoryError
        return original(self, x, g, virials)

    monkeypatch.setattr(bulk.Bulk, "predict", limited)
    largest = 4
    assert_close(product(v), expected, 1e-11)
    assert sizes[0] == 11
    assert max(sizes[2:]) <= 4
    # What did not fit once is not tried again.
    sizes.clear()
    assert_close(product(v), expected, 1e-11)
    assert max(sizes) <= 4
    largest = 0
    with pytest.raises(InsufficientMemoryError, match=r"one of 11 training points needs .*max_memory"):
        product(v)


@pytest.mark.parametrize("energies", [False, True])
def test_preconditioner_equals_cpu(energies, xp, monkeypatch):
    R, perms = random_molecules(12, 5), cyclic_group(5, 3)
    q = 15 + energies
    training = TrainingSet.from_R(R, perms, 3.0, energies)
    arguments = (training, 1e-8, np.array([2, 5, 9]), [[0, 4, 7], [1, 2], [q - 1]])
    # Several pieces: 5 points each.
    monkeypatch.setattr(gpu_preconditioner, "_PIECE_BYTES", 8 * 6 * q * 5)
    pieces = []
    divided = DividedTraining.of(training, xp)
    ours = gpu_preconditioner.build(divided, *arguments[1:], progress=lambda *step: pieces.append(step))
    theirs = preconditioner.build(*arguments)
    assert pieces == [(5, 12), (10, 12), (12, 12)]
    r = np.random.default_rng(0).normal(size=12 * q)
    # Low-rank parts are rounded to single precision.
    assert_close(ours(xp.asarray(r)), theirs(r), 1e-5)


def test_preconditioner_that_cannot_be_built(monkeypatch):
    training = TrainingSet.from_R(random_molecules(3, 4), np.arange(4)[None], 3.0)
    arguments = (DividedTraining.of(training, np), 0.0, np.array([0]), [range(6)])
    monkeypatch.setattr(gpu_preconditioner, "cholesky", lambda matrix, xp: False)
    with pytest.raises(SolverError, match="duplicates"):
        gpu_preconditioner.build(*arguments)
    monkeypatch.setattr(gpu_preconditioner, "factor_with_jitter", lambda W, *_: W)
    with pytest.raises(SolverError, match="larger lambda"):
        gpu_preconditioner.build(*arguments)


def test_memory_of_the_preconditioner():
    # U in single precision; the factors, the blocks of the points.
    U, rest = 4 * 63_000 * 5024, 8 * 63 * 63_000
    assert gpu_preconditioner.memory(1000, 63, 5000) > U + 3 * 8 * 5000**2 + rest
    assert gpu_preconditioner.memory(1000, 63, 5000) < U + 4 * 8 * 5000**2 + rest + 2**31


def equations_of(task, energies):
    F, E = task["F_train"].ravel(), task["E_train"]
    training = TrainingSet.from_R(task["R_train"], task["perms"], task["sig"], energies)
    y_E = (E.mean() - E) / F.std() if energies else None
    return TrainingEquations(task["R_train"], training, 1e-10, F / F.std(), y_E)


@pytest.mark.parametrize("energies", [False, True])
def test_the_iteration_takes_the_same_steps(energies, task, xp):
    equations = equations_of(task, energies)
    ours, theirs = (IterativeSolver(equations, where) for where in (machine.device(xp), processor()))
    columns = theirs.choose_columns(160)
    np.testing.assert_array_equal(ours.choose_columns(160), columns)
    tolerance = 1e-6 if xp is np else 1e-3
    on_device, on_cpu = (solver.solve(columns, tolerance) for solver in (ours, theirs))
    assert on_device.converged
    # On a device U is rounded to floats, and in other coordinates.
    share = 0.05 if xp is np else 0.1
    assert abs(on_device.iterations - on_cpu.iterations) <= share * on_cpu.iterations + 2
    product = KernelOperator(equations.training)

    def forces_and_energies(solution):
        return product(equations.by_point(solution.alphas_F, solution.alphas_E).ravel())

    labels = forces_and_energies(on_cpu)
    np.testing.assert_allclose(
        forces_and_energies(on_device), labels, rtol=0, atol=10 * tolerance * np.abs(labels).max()
    )


# ---- training


@pytest.mark.parametrize("kind", ["task", "energy_task"])
@pytest.mark.parametrize("solver", ["closed", "cg"])
def test_models_equal_those_of_the_processor(kind, solver, device, request, ethanol):
    task = request.getfixturevalue(kind)
    expected = GDMLTrain().train(task, solver="closed")
    model = GDMLTrain(backend="gpu").train(task, solver=solver, tol=1e-8 if device is np else 1e-5)
    assert model["solver_name"] == {"closed": "analytic", "cg": "cg"}[solver]
    assert model["solver_reason"] == "asked for"
    assert ("alphas_E" in model) == (kind == "energy_task")
    tolerance = 1e-5 if solver == "closed" else 1e-3 if device is np else 1e-2
    assert_same_predictions(model, expected, ethanol["R"][:50], tolerance)


@pytest.mark.parametrize("xp", ["numpy"], indirect=True)
def test_standard_deviations_come_from_folds(device, ethanol):
    task = GDMLTrain().create_task(ethanol, 6, ethanol, 30, sig=20, lam=1e-6, seed=3, use_sym=False)
    expected = GDMLTrain().train(task, solver="cg", tol=1e-5, n_std=3)
    model = GDMLTrain(backend="gpu").train(task, tol=1e-5, n_std=3)
    assert str(model["solver_reason"]) == "standard deviations need it here"
    largest = np.abs(expected["loo_f"]).max()
    np.testing.assert_allclose(model["loo_f"], expected["loo_f"], rtol=0, atol=0.03 * largest)
    R = ethanol["R"][:5].reshape(5, -1)
    ours, theirs = (GDMLPredict(m).predict(R, return_std=True)[3] for m in (model, expected))
    np.testing.assert_allclose(ours, theirs, rtol=0.05)
    with pytest.raises(UsageError, match="come from the iterative solver"):
        GDMLTrain(backend="gpu").train(task, solver="closed", n_std=3)


def test_periodic_systems(shared, device):
    with np.load(shared("reference/cu111_periodic.npz")) as arrays:
        reference = dict(arrays)
    arrays = [reference[key] for key in ("z", "R_train", "F_train", "E_train", "lattice")]
    dataset = create_dataset("cu", "emt", *arrays)
    task = GDMLTrain().create_task(dataset, 8, dataset, 2, sig=20, perms=reference["perms"], seed=0)
    closed = GDMLTrain().train(task, solver="closed")
    for solver, tolerance in (("closed", 1e-5), ("cg", 1e-2)):
        model = GDMLTrain(backend="gpu").train(task, solver=solver, tol=1e-8)
        F, F_closed = (predicted(m, reference["R_test"])[1] for m in (model, closed))
        np.testing.assert_allclose(F, F_closed, rtol=0, atol=tolerance * np.abs(F_closed).max())


def test_what_fits_is_solved_in_closed_form(task, device, monkeypatch):
    monkeypatch.setattr(choice, "_SMALL_ORDER", 10)
    model = GDMLTrain(backend="gpu").train(task)
    assert model["solver_name"] == "analytic"
    assert "GB, the limit of device memory is" in str(model["solver_reason"])


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(gpu_preconditioner, "_PIECE_BYTES", 2**16)


@pytest.fixture
def large_task(ethanol):
    return GDMLTrain().create_task(ethanol, 60, ethanol, 30, sig=20, seed=3)


@pytest.mark.parametrize("by", ["limit", "device"])
def test_what_does_not_fit_is_iterated(by, large_task, small_pieces, monkeypatch, ethanol):
    """The closed form needs 18 MB."""
    for module in (train_module, predict_module):
        monkeypatch.setattr(module, "array_module", lambda _backend: np)
        monkeypatch.setattr(module, "resolve_backend", lambda name, _torch=False: name)
    if by == "device":
        monkeypatch.setattr(machine, "free_memory", lambda xp: 12 * 2**20)
    limit = {"limit": 0.012, "device": 8.0}[by]
    model = GDMLTrain(max_memory=limit, backend="gpu").train(large_task, tol=1e-8)
    assert model["solver_name"] == "cg"
    assert "the limit of device memory is 0.01" in str(model["solver_reason"])
    assert_same_predictions(model, GDMLTrain().train(large_task, solver="closed"), ethanol["R"][:50], 1e-3)
    with pytest.raises(InsufficientMemoryError, match=r"limit of device memory is .*solver='cg'"):
        GDMLTrain(max_memory=limit, backend="gpu").train(large_task, solver="closed")
    with pytest.raises(InsufficientMemoryError, match=r"at least .* GB; the limit of device memory is"):
        GDMLTrain(max_memory=1e-4, backend="gpu").train(large_task)


def test_the_processor_helps_out_where_the_device_was_not_asked_for(task, device, caplog, monkeypatch):
    expected = GDMLTrain().train(task)
    monkeypatch.setattr(machine, "free_memory", lambda xp: 10**5)
    with pytest.raises(InsufficientMemoryError):
        GDMLTrain(backend="gpu").train(task)
    for options in ({"backend": "auto"}, {"use_torch": True}):
        model = GDMLTrain(**options).train(task)
        assert "Now training on the processor." in caplog.text
        np.testing.assert_array_equal(model["alphas_F"], expected["alphas_F"])
        caplog.clear()


def test_checkpoints_and_resuming(task, device, monkeypatch, ethanol):
    monkeypatch.setattr(iterative, "CHECKPOINT_INTERVAL", 0.0)
    saved = []
    tolerance = 1e-8 if device is np else 1e-4
    GDMLTrain(backend="gpu").train(task, saved.append, solver="cg", tol=tolerance, max_iter=3)
    assert [int(model["solver_iters"]) for model in saved] == [0, 1, 2]
    again = GDMLTrain().create_task_from_model(saved[-1], ethanol)
    residuals = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and "step 0," in sec_disp_str:
            residuals.append(float(sec_disp_str.split("residual ")[1].split(",")[0]))

    model = GDMLTrain(backend="gpu").train(again, solver="cg", tol=tolerance, callback=callback)
    assert residuals[0] == pytest.approx(saved[-1]["solver_resid"] / saved[-1]["norm_y_train"], rel=0.1)
    assert model["solver_resid"] <= tolerance * model["norm_y_train"]
    assert model["solver_iters"] > 2
    np.testing.assert_array_equal(np.sort(model["inducing_pts_idxs"]), np.sort(saved[-1]["inducing_pts_idxs"]))


def test_ctrl_c_leaves_a_checkpoint(task, device):
    saved = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and "step 3," in sec_disp_str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GDMLTrain(backend="gpu").train(task, saved.append, callback, solver="cg", tol=1e-12)
    assert [int(model["solver_iters"]) for model in saved] == [3]


def test_early_stop(task, device, ethanol, caplog, monkeypatch):
    if device is not np:
        monkeypatch.setattr(iterative, "MONITOR_INTERVAL", 3)
    caplog.set_level("INFO", "fastgdml")
    idxs = task["idxs_valid"]
    held_out = (ethanol["R"][idxs], ethanol["F"][idxs])
    model = GDMLTrain(backend="gpu").train(task, solver="cg", tol=1e-14, held_out=held_out)
    assert "no longer falls" in caplog.text
    assert model["solver_resid"] > 1e-14 * model["norm_y_train"]
    full = GDMLTrain().train(task, solver="closed")
    errors = [np.abs(predicted(m, held_out[0])[1] - held_out[1].reshape(len(idxs), -1)).mean() for m in (model, full)]
    assert errors[0] < 1.1 * errors[1]


# ---- use_torch


def test_use_torch_runs_everywhere(task, monkeypatch, caplog):
    def missing(name):
        raise ImportError("No module named 'cupy'")

    monkeypatch.setattr(backend, "importlib", types.SimpleNamespace(import_module=missing))
    model = GDMLTrain(use_torch=True).train(task)
    assert "No module named 'cupy'" in caplog.text
    assert "on the processor" in caplog.text
    np.testing.assert_array_equal(model["alphas_F"], GDMLTrain().train(task)["alphas_F"])
    with pytest.raises(UsageError, match="needs CuPy"):
        GDMLTrain(backend="gpu")
