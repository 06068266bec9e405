"""Training on one device and on several, with CUDA on the processor: what goes over the bus, and that nothing races."""

import cuda_on_host
import numpy as np
import pytest
from support.gpu_checks import assert_close, check_low_rank
from support.molecules import cyclic_group, random_molecules, symmetric_group_of_three

from fastgdml.gpu import low_rank as gpu_low_rank
from fastgdml.gpu import machine
from fastgdml.gpu import preconditioner as gpu_preconditioner
from fastgdml.gpu.devices import Devices, DividedTraining
from fastgdml.gpu.low_rank import LowRank
from fastgdml.gpu.operator import KernelOperator
from fastgdml.operator import KernelOperator as NativeOperator
from fastgdml.solvers import preconditioner
from fastgdml.solvers.cholesky import solve_closed_form
from fastgdml.solvers.conjugate_gradients import iterate
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.folds import folds_of, leave_out
from fastgdml.solvers.iterative import IterativeSolver
from fastgdml.solvers.processor import processor
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.training_set import TrainingSet


@pytest.fixture(params=[1, 2, 3])
def n_devices(request):
    return request.param


@pytest.fixture
def xp(host_cupy, n_devices):
    return cuda_on_host.host_cupy(n_devices=n_devices)


def training_of(n_train=11, energies=True):
    R = random_molecules(n_train, 5)
    return R, TrainingSet.from_R(R, symmetric_group_of_three(5), 4.0, energies)


def equations_of(n_train=11, energies=True):
    R, training = training_of(n_train, energies)
    rng = np.random.default_rng(0)
    without = drop_rigid_motions(R)
    y = without.expand(without.reduce(rng.normal(size=R.size)), 15)
    return TrainingEquations(R, training, 1e-6, y, rng.normal(size=n_train) if energies else None)


# ---- the low-rank part


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (5, 3), (33, 64), (300, 257), (1030, 40)])
def test_products_with_the_low_rank_part(n_rows, n_columns, host_cupy):
    for xp in (np, host_cupy):
        check_low_rank(n_rows, n_columns, xp)
    assert LowRank.memory(n_rows, n_columns) == 4 * n_rows * -(-n_columns // 32) * 32


# ---- one device and several


def test_the_operator_is_that_of_the_processor(xp, n_devices):
    _, training = training_of()
    v = np.random.default_rng(0).normal(size=11 * 16)
    product = KernelOperator(DividedTraining.of(training, xp, range(n_devices)))
    on_device = xp.asarray(v)
    with cuda_on_host.counted() as traffic:
        ours = product(on_device)
    assert ours.device.id == 0
    assert_close(ours, NativeOperator(training)(v), 1e-11)
    assert traffic.to_device == traffic.to_host == 0
    # v to each, and back the rows of each.
    counts = [len(points) for points in DividedTraining.of(training, xp, range(n_devices)).points]
    assert sum(counts) == 11
    assert max(counts) - min(counts) <= 1
    assert traffic.between == 8 * 16 * sum(11 + count for count in counts[1:])


def test_the_preconditioner_is_that_of_one_device(xp, n_devices, host_cupy, monkeypatch):
    _, training = training_of(12)
    arguments = (1e-8, np.array([2, 5, 9]), [[0, 4, 7], [1, 2], [15]])
    monkeypatch.setattr(gpu_preconditioner, "_PIECE_BYTES", 8 * 6 * 16 * 3)
    steps = []
    divided = DividedTraining.of(training, xp, range(n_devices))
    ours = gpu_preconditioner.build(divided, *arguments, lambda *step: steps.append(step))
    one = gpu_preconditioner.build(DividedTraining.of(training, np), *arguments)
    assert steps[-1] == (12, 12)
    assert len(steps) == {1: 4, 2: 4, 3: 6}[n_devices]
    assert [rows.root.device.id for rows in ours.rows] == list(range(n_devices))
    r = np.random.default_rng(0).normal(size=12 * 16)
    on_device = xp.asarray(r)
    with cuda_on_host.counted() as traffic:
        z = ours(on_device)
    assert_close(z, one(r), 1e-6)
    assert traffic.to_device == traffic.to_host == 0
    others = 12 - len(divided.points[0])
    assert traffic.between == 8 * (2 * 16 * others + 2 * 6 * (n_devices - 1))
    # The same bits whenever it is done.
    np.testing.assert_array_equal(ours(on_device).get(), z.get())


def test_points_are_left_out_of_the_preconditioner(xp, n_devices, monkeypatch):
    _, training = training_of(12)
    arguments = (1e-8, np.array([2, 5, 9]), [[0, 4, 7], [1, 2], [15]])
    monkeypatch.setattr(gpu_low_rank, "_GRAM_BYTES", 8 * 6 * 16 * 2)  # in pieces
    ours = gpu_preconditioner.build(DividedTraining.of(training, xp, range(n_devices)), *arguments)
    theirs = preconditioner.build(training, *arguments)
    left_out = np.array([0, 1, 2, 7, 10])
    r = np.random.default_rng(0).normal(size=(12, 16))
    r[left_out] = 0.0
    on_device = xp.asarray(r.ravel())
    kept = np.setdiff1d(np.arange(12), left_out)
    with cuda_on_host.counted() as traffic:
        z = ours.without(left_out)(on_device)
    assert traffic.to_host <= 8  # whether it could be factored
    expected = theirs.without(left_out)(r.ravel()).reshape(12, 16)[kept]
    assert_close(z.get().reshape(12, 16)[kept], expected, 1e-5)
    again = ours.without(left_out[:2]).without(left_out[2:])(on_device)
    assert_close(again.get().reshape(12, 16)[kept], expected, 1e-5)


def test_folds_are_left_out_on_devices(xp, n_devices):
    equations = equations_of()
    ours, theirs = (IterativeSolver(equations, where, n_samples=3) for where in (machine.device(xp), processor()))
    columns, folds = theirs.choose_columns(40), folds_of(np.arange(11), 3)
    one, other = (leave_out(solver, solver.solve(columns, 1e-5), folds, 1e-5) for solver in (ours, theirs))
    assert_close(one.residuals, other.residuals, 1e-2)
    assert one.alphas_F.shape == other.alphas_F.shape == (3, 11 * 15)
    assert one.alphas_E.shape == (3, 11)


def test_of_a_step_only_the_residual_leaves_the_device(xp, n_devices):
    equations = equations_of()
    device = machine.device(xp)
    solver = IterativeSolver(equations, device)
    columns = solver.choose_columns(30)
    points, begin = np.unique(columns // 16, return_index=True)
    P = device.preconditioner(equations.training, 1e-6, points, np.split(columns % 16, begin[1:]))
    y = xp.asarray(np.random.default_rng(0).normal(size=solver.n))
    iterates = iterate(lambda v: 1e-6 * v - solver.operator(v), P, y, None, xp)
    next(iterates)
    for step in range(1, 52):  # with a residual from its definition
        with cuda_on_host.counted() as traffic:
            state = next(iterates)
        assert state.step == step
        assert (traffic.to_device, traffic.to_host) == (0, 16)
        assert (traffic.between > 0) == (n_devices > 1)


@pytest.mark.parametrize("energies", [False, True])
def test_solutions_do_not_depend_on_the_number_of_devices(xp, n_devices, energies):
    equations = equations_of(energies=energies)
    ours, theirs = (IterativeSolver(equations, where) for where in (machine.device(xp), processor()))
    columns = theirs.choose_columns(40)
    with cuda_on_host.counted() as traffic:
        found = ours.solve(columns, 1e-6)
    expected = theirs.solve(columns, 1e-6)
    assert found.converged
    assert abs(found.iterations - expected.iterations) <= 0.05 * expected.iterations + 2
    product = NativeOperator(equations.training)
    labels = [product(equations.by_point(s.alphas_F, s.alphas_E).ravel()) for s in (found, expected)]
    np.testing.assert_allclose(labels[0], labels[1], rtol=0, atol=1e-5 * np.abs(labels[1]).max())
    # Two numbers a step, the solution, and what the factorisations report.
    assert traffic.to_host <= 16 * (found.iterations + 1) + 8 * ours.n + 64
    # Bit for bit the same another time.
    again = IterativeSolver(equations, machine.device(xp)).solve(columns, 1e-6)
    np.testing.assert_array_equal(again.alphas_F, found.alphas_F)


def test_a_start_goes_to_the_device(xp):
    equations = equations_of()
    solver = IterativeSolver(equations, machine.device(xp))
    columns = solver.choose_columns(40)
    half = solver.solve(columns, 1e-3)
    done = solver.solve(columns, 1e-6, start=(half.alphas_F, half.alphas_E, half.iterations))
    assert done.converged
    assert done.iterations == half.iterations + done.steps
    straight = solver.solve(columns, 1e-6)
    assert done.steps < straight.steps


def test_descriptors_are_copied_once(xp, n_devices, monkeypatch):
    """The closed form, whose matrix is assembled anew for each lambda, included."""
    R = random_molecules(10, 9)
    training = TrainingSet.from_R(R, [range(9)], 4.0)
    device = machine.device(xp)
    size = training.x.nbytes + training.g.nbytes
    with cuda_on_host.counted() as traffic:
        device.operator(training)
        device.preconditioner(training, 1e-6, np.array([1]), [[0, 1]])
    assert size * n_devices <= traffic.to_device < 1.9 * size * n_devices
    R[3] = R[1]
    equations = TrainingEquations(R, TrainingSet.from_R(R, [range(9)], 4.0), 0.0, np.ones(270))
    copies = []
    original = DividedTraining.of
    monkeypatch.setattr(machine.DividedTraining, "of", lambda *of: copies.append(of) or original(*of))
    assert solve_closed_form(equations, machine.device(xp)).lam > 0
    assert [numbers for _, _, numbers in copies] == [[0]]


def test_the_devices_of_an_iteration(xp, n_devices, monkeypatch):
    assert machine.Device(xp)._helpers == list(range(n_devices))
    # One that others use helps nobody.
    free = {0: 1000, 1: 900, 2: 899}
    monkeypatch.setattr(machine, "free_memory", lambda xp: free[cuda_on_host.runtime.current_device()])
    assert machine.Device(xp)._helpers == [0, 1][:n_devices]
    # Rows are divided, the inner matrix is not.
    ours = machine.Device(xp).preconditioner_memory(100, 60, 500)
    assert ours == gpu_preconditioner.memory(100 // min(n_devices, 2), 60, 500)


def test_there_are_no_more_parts_than_points(host_cupy):
    xp = cuda_on_host.host_cupy(n_devices=3)
    R = random_molecules(2, 5)
    training = TrainingSet.from_R(R, cyclic_group(5, 3), 4.0)
    v = np.random.default_rng(0).normal(size=30)
    divided = DividedTraining.of(training, xp, range(3))
    assert len(divided.devices) == 2
    assert_close(KernelOperator(divided)(xp.asarray(v)), NativeOperator(training)(v), 1e-11)


# ---- races


def test_a_missing_wait_is_found(host_cupy, monkeypatch):
    xp = cuda_on_host.host_cupy(n_devices=2)
    _, training = training_of()
    product = KernelOperator(DividedTraining.of(training, xp, range(2)))
    v = xp.asarray(np.ones(11 * 16))
    product(v)
    wait = cuda_on_host.runtime.Stream.wait_event
    for deaf, message in ((0, "device 0 uses an array that device 1 may still copy"), (1, "device 1 copies what")):
        monkeypatch.setattr(
            cuda_on_host.runtime.Stream,
            "wait_event",
            lambda stream, event, deaf=deaf: None if stream.device_id == deaf else wait(stream, event),
        )
        with pytest.raises(cuda_on_host.RaceError, match=message):
            product(v).sum()


def test_what_is_being_copied_must_not_be_overwritten(host_cupy):
    xp = cuda_on_host.host_cupy(n_devices=2)
    devices = Devices(xp, range(2))
    array = xp.asarray(np.arange(6.0))
    there = devices.send(array, 1)
    assert there.device.id == 1
    array + 1.0  # may be read
    with pytest.raises(cuda_on_host.RaceError):
        array += 1.0
    with pytest.raises(cuda_on_host.RaceError):
        array[2:4] = 0.0
    back = xp.empty(6)
    devices.fetch(back, there, 1)
    array += 1.0
    np.testing.assert_array_equal(back.get(), np.arange(6.0))
    with pytest.raises(TypeError, match="device 1"):
        there + 1.0


def test_columns_stay_columns(host_cupy):
    xp = cuda_on_host.host_cupy(n_devices=2)
    devices = Devices(xp, range(2))
    matrix = xp.asarray(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    there = devices.send(matrix, 1)
    assert there.flags.f_contiguous
    with devices.on(1):
        np.testing.assert_array_equal(there.get(), matrix.host)
