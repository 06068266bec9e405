"""Trainings whose rows live on workers: steps and coefficients of the serial solver, whatever is lost on the way."""

import numpy as np
import pytest
from support.cluster import busy, pids, wait_for
from support.rows import SERIAL, assert_same, task_of

from fastgdml.cluster import ClusterTrain
from fastgdml.cluster.connection import WorkerFacts
from fastgdml.cluster.machine import ClusterMachine
from fastgdml.cluster.plan import data_memory, divide, rows_memory
from fastgdml.errors import InsufficientMemoryError, UsageError
from fastgdml.operator import KernelOperator
from fastgdml.solvers import preconditioner
from fastgdml.training_set import TrainingSet


def test_rows_of_operator_and_preconditioner(cluster, ethanol):
    """Beside the serial objects: the operator bit for bit, the preconditioner to single precision."""
    done = []
    for energies in (False, True):
        task = task_of(ethanol, 61, use_E_cstr=energies)
        training = TrainingSet.from_R(task["R_train"], task["perms"], 20.0, energies)
        n_coord = training.n_coord
        points = np.arange(0, 61, 3)
        columns = [np.arange(i % 3, 20, 4) for i in range(len(points))]
        machine = ClusterMachine(cluster, 1)
        assert len(machine.shares(61)) == 2
        v = np.random.default_rng(0).normal(size=61 * n_coord)
        operator, one = machine.operator(training), KernelOperator(training, 1)
        assert operator.flops == one.flops
        assert np.array_equal(operator(v), one(v))
        P = machine.preconditioner(training, 1e-10, points, columns, lambda *step: done.append(step))
        expected = preconditioner.build(training, 1e-10, points, columns, 1)(v)
        assert np.abs(P(v) - expected).max() <= 1e-5 * np.abs(expected).max()
        assert done[-1] == (61, 61)


@pytest.mark.parametrize("energies", [False, True])
def test_a_training(cluster, ethanol, energies):
    task = task_of(ethanol, use_E_cstr=energies)
    one = SERIAL.train(task, solver="cg")
    other = ClusterTrain(cluster, max_processes=1).train(task)
    # with energies rounding errors in the labels alone make it 163 to 186 steps
    assert_same(one, other, *((3e-3, 30) if energies else ()))
    assert other["solver_name"] == "cg"


def test_a_step_calls_the_workers_twice(cluster, ethanol, monkeypatch):
    """One broadcast of v and one gather of slices, with the projection; then one call for the preconditioner."""
    called, gathered = [], cluster.gathered
    monkeypatch.setattr(cluster, "gathered", lambda futures: called.append(len(futures)) or gathered(futures))
    task = task_of(ethanol, 60)
    for steps, more in ((20, 1), (60, 3)):  # the first residual, and one computed anew after 50 steps with a product
        called.clear()
        cut = ClusterTrain(cluster, max_processes=1).train(task, max_iter=steps, tol=1e-12)
        assert cut["solver_iters"] == steps
        assert called == [2] * (2 * steps + more)


def test_projections_that_come_with_products(cluster, ethanol):
    """Through fifty updates of a residual they stay what a call of their own finds, and no other vector is mistaken."""
    task = task_of(ethanol, 61)
    training = TrainingSet.from_R(task["R_train"], task["perms"], 20.0)
    points, lam = np.arange(0, 61, 3), 1e-10
    columns = [np.arange(i % 3, 20, 4) for i in range(len(points))]
    machine = ClusterMachine(cluster, 1)
    operator, P = machine.operator(training), machine.preconditioner(training, lam, points, columns)
    rng = np.random.default_rng(0)
    r = rng.normal(size=61 * training.n_coord)
    for step in range(50):
        z = P(r)
        v = z * rng.uniform(0.5, 2)
        image = lam * v - operator(v)
        r = r - (r @ z) / (v @ image) * image
        if step % 10 == 9:
            expected = preconditioner.build(training, lam, points, columns, 1)(r)
            assert np.abs(P(r) - expected).max() <= 1e-5 * np.abs(expected).max()
    for other in (rng.normal(size=len(r)), 1.001 * r, r + 1e-6 * rng.normal(size=len(r)), np.zeros_like(r)):
        blocks = P._blocks
        assert np.array_equal(P._projection(other), blocks.project(other))


def killer(processes, cluster, at, keep=0):
    """A callback that kills a worker at a step of the iteration, and starts `keep` others first."""
    killed = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and sec_disp_str.startswith(f"step {at},") and not killed:
            victim = next(iter(pids(cluster).values()))
            if keep:
                processes.start_worker()
                wait_for(cluster, 3)
            killed.append(victim)
            processes.kill_worker(victim)

    return callback, killed


@pytest.mark.parametrize("spare", [0, 1])
def test_a_killed_worker_is_replaced_and_the_same_iterates_go_on(cluster, processes, ethanol, spare):
    task = task_of(ethanol)
    one = ClusterTrain(cluster, max_processes=1).train(task)
    callback, killed = killer(processes, cluster, 25, spare)
    other = ClusterTrain(cluster, max_processes=1).train(task, callback=callback)
    assert len(killed) == 1
    assert one["solver_iters"] == other["solver_iters"]
    assert np.array_equal(one["R_d_desc_alpha"], other["R_d_desc_alpha"])


def test_a_scheduler_that_is_started_anew(cluster, processes, ethanol):
    task = task_of(ethanol, 60)
    one = ClusterTrain(cluster, max_processes=1).train(task)
    restarted = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and sec_disp_str.startswith("step 20,") and not restarted:
            restarted.append(True)
            processes.restart(pids(cluster).values())

    other = ClusterTrain(cluster, max_processes=1).train(task, callback=callback)
    assert restarted
    assert cluster.generation >= 1
    assert one["solver_iters"] == other["solver_iters"]
    assert np.array_equal(one["R_d_desc_alpha"], other["R_d_desc_alpha"])


def test_a_worker_killed_while_the_preconditioner_is_built(cluster, processes, ethanol):
    task = task_of(ethanol, 150)
    one = ClusterTrain(cluster, max_processes=1).train(task)
    killed = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if disp_str.startswith("Building preconditioner") and current and not killed:
            killed.extend(busy(cluster)[:1] or list(pids(cluster).values())[1:])
            processes.kill_worker(killed[0])

    other = ClusterTrain(cluster, max_processes=1).train(task, callback=callback)
    assert len(killed) == 1
    assert_same(one, other)


def test_checkpoints_are_exchanged_with_the_serial_solver(cluster, ethanol):
    task = task_of(ethanol)
    whole = SERIAL.train(task, solver="cg")
    spread = ClusterTrain(cluster, max_processes=1)
    for first, second in ((SERIAL, spread), (spread, SERIAL)):
        cut = first.train(task, solver="cg", max_iter=30)
        assert cut["solver_iters"] == 30
        done = second.train(second.create_task_from_model(cut, ethanol), solver="cg")
        assert done["solver_iters"] > 30
        assert done["solver_resid"] <= 1e-4 * done["norm_y_train"]
        a, b = whole["R_d_desc_alpha"], done["R_d_desc_alpha"]
        assert np.abs(a - b).max() <= 3e-3 * np.abs(a).max()


def test_the_closed_form_is_not_divided(cluster, ethanol):
    for options in ({"solver": "closed"}, {"n_std": 4}):
        with pytest.raises(UsageError, match="--distribute tasks"):
            ClusterTrain(cluster).train(task_of(ethanol, 20), **options)


# ---- memory ------------------------------------------------------------------------------------------------------


def workers(*threads, memory=2**30):
    return [WorkerFacts(f"tcp://{i}", f"worker {i}", n, memory) for i, n in enumerate(threads)]


@pytest.mark.parametrize("n_train", [1, 7, 8, 61, 1000, 7777])
@pytest.mark.parametrize("threads", [(1,), (1, 1), (4, 1, 2), (1,) * 30])
def test_points_are_divided_by_threads(n_train, threads):
    shares = divide(n_train, workers(*threads))
    assert [i for share in shares for i in share.points] == list(range(n_train))
    assert all(share.points.start % 8 == 0 for share in shares)
    for share in shares:
        fair = n_train * share.worker.n_threads / sum(threads)
        assert abs(len(share.points) - fair) <= 8


def test_the_limit_is_kept_and_said(cluster, ethanol, caplog):
    caplog.set_level("INFO", "fastgdml")
    task = task_of(ethanol)
    tight = ClusterTrain(cluster, max_processes=1, max_memory=0.075).train(task, max_iter=5)
    text = next(record.message for record in caplog.records if record.message.startswith("Memory with"))
    assert f"{len(tight['inducing_pts_idxs'])} columns" in text
    assert "0.075 GB" in text
    with pytest.raises(InsufficientMemoryError, match=r"limit of the smallest worker is 0.001 GB.*More workers"):
        ClusterTrain(cluster, max_processes=1, max_memory=0.001).train(task)


def test_the_plan_covers_what_is_allocated(ethanol):
    """The rows and data of a block, counted."""
    task = task_of(ethanol)
    training = TrainingSet.from_R(task["R_train"], task["perms"], 20.0)
    points = np.arange(0, 100, 2)
    columns = [np.arange(0, 20, 2)] * len(points)
    inducing = preconditioner.Inducing.of(training, 1e-10, points, columns, 1)
    k = inducing.cols.size
    gram = np.zeros((k, k), order="F")
    rows = preconditioner.build_rows(training, 1e-10, inducing, range(24, 72), gram, 1)
    U = rows.U.large.nbytes + rows.U.small.nbytes + rows.U.factor.nbytes
    held = U + rows.root.nbytes + inducing.factor.nbytes + gram.nbytes
    assert held <= rows_memory(48, training.n_coord, k)
    assert training.x.nbytes + training.g.nbytes <= data_memory(training)
