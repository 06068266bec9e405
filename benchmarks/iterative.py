"""The iterative solver: steps against a plain Nystrom preconditioner, time against sgdml's and against the closed form.

    python benchmarks/iterative.py steps DATA_DIR
    python benchmarks/iterative.py sgdml DATA_DIR --peer-python PYTHON_WITH_SGDML
    python benchmarks/iterative.py crossover DATA_DIR [--points 200 400 800] [--molecule aspirin]
    python benchmarks/iterative.py stages DATA_DIR --points 1000 [--molecule aspirin] [--columns 3095]
    python benchmarks/iterative.py large DATA_DIR --points 3000 [--molecule ethanol]

DATA_DIR holds md17_ethanol.npz and md17_aspirin.npz (keys z, R, E, F). `steps`: both preconditioners use the same
columns. `sgdml`: ethanol, 500 points, 1 GB, both iterative solvers in one run. `crossover`: both solvers here, time and
force error. `stages`: where the time of an iteration goes, against the rate of a
matrix product and the bandwidth of a sum, measured in the same run. `large`: a training set whose closed form does not
fit this machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
from common import peak_gb

from fastgdml import _core, lapack
from fastgdml.dataset import Dataset, load_dataset
from fastgdml.evaluate import prediction_errors
from fastgdml.kernel import assemble_columns
from fastgdml.predict import GDMLPredict
from fastgdml.solvers import preconditioner
from fastgdml.solvers.conjugate_gradients import iterate
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.iterative import IterativeSolver, choose_n_columns
from fastgdml.solvers.processor import processor
from fastgdml.solvers.rigid import remove_rigid_motions
from fastgdml.task import save_task
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet

SIGMA, LAM, TOL = 20, 1e-10, 1e-4

SGDML = """
import sys, time
import numpy as np
if not hasattr(np, "in1d"): np.in1d = np.isin
import torch
from sgdml.train import GDMLTrain
task = dict(np.load(sys.argv[1], allow_pickle=True))
for key in ("use_E", "use_E_cstr", "use_sym"):
    task[key] = bool(task[key])
for use_torch in (False, True):
    start = time.perf_counter()
    try:
        model = GDMLTrain(max_memory=int(sys.argv[2]), use_torch=use_torch).train(task)
    except SystemExit as error:
        print("RESULT", use_torch, "failed", error)
        continue
    seconds = time.perf_counter() - start
    print("RESULT", "PyTorch" if use_torch else "NumPy", seconds, model["solver_name"], model.get("solver_iters"))
"""


def count_steps(operator, P, b, most=5000) -> int:
    """Return the number of steps to TOL."""
    for state in iterate(operator, P, b):
        if state.residual <= TOL * np.linalg.norm(b) or state.step >= most:
            return state.step
    raise AssertionError


def compare_steps(name: str, dataset: Dataset, n_train: int, shares: list[float]) -> None:
    """Print steps with a plain Nystrom preconditioner and with the blocks, on the same columns."""
    task = GDMLTrain().create_task(dataset, n_train, dataset, 10, SIGMA, lam=LAM, seed=0)
    training = TrainingSet.from_R(task["R_train"], task["perms"], SIGMA)
    y = remove_rigid_motions(task["R_train"], task["F_train"].ravel() / task["F_train"].std())
    solver = IterativeSolver(TrainingEquations(task["R_train"], training, LAM, y), processor())
    n_coord = len(y) // n_train

    def operator(v):
        return LAM * v - solver.operator(v)

    for share in shares:
        columns = solver.choose_columns(int(share * len(y)))
        C = -assemble_columns(training, columns)
        W = C[columns]
        factor = np.linalg.cholesky(W + 1e-13 * W.diagonal().mean() * np.eye(len(W)))
        L = np.linalg.solve(factor, C.T).T
        inner = np.linalg.inv(LAM * np.eye(len(W)) + L.T @ L)
        plain = count_steps(operator, lambda r, L=L, inner=inner: (r - L @ (inner @ (L.T @ r))) / LAM, y)
        points, begin = np.unique(columns // n_coord, return_index=True)
        P = preconditioner.build(training, LAM, points, np.split(columns % n_coord, begin[1:]))
        print(
            f"{name}, n = {len(y)}, k = {len(columns)} (n / {len(y) / len(columns):.0f}): plain Nystrom {plain} steps, "
            f"with blocks {count_steps(operator, P, y)}",
            flush=True,
        )


def compare_with_sgdml(dataset: Dataset, n_train: int, gigabytes: int, peer_python: str | None) -> None:
    """Print the time of both iterative solvers on one task."""
    task = GDMLTrain().create_task(dataset, n_train, dataset, 1000, SIGMA, seed=0)
    start = time.perf_counter()
    model = GDMLTrain(max_memory=gigabytes).train(task, solver="cg")
    ours = time.perf_counter() - start
    print(f"fastgdml: {ours:.2f} s, {model['solver_iters']} steps, peak {peak_gb():.2f} GB", flush=True)
    print(f"  force MAE {force_mae(model, dataset):.4f}, closed form ", end="")
    print(f"{force_mae(GDMLTrain().train(task, solver='closed'), dataset):.4f}", flush=True)
    if peer_python is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        save_task(path, task)
        done = subprocess.run(
            [peer_python, "-c", SGDML, str(path), str(gigabytes)], capture_output=True, text=True, check=False
        )
    lines = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    print("\n".join(f"sgdml: {line}" for line in lines) or done.stderr[-500:])


def force_mae(model, dataset: Dataset) -> float:
    """Return the force error on the validation points."""
    return prediction_errors(GDMLPredict(model), dataset, model["idxs_valid"], use_E=False).mae["force"]


class Stopwatch:
    """Adds up the time of functions, wall clock and of the processor, with the operations and bytes of each call."""

    def __init__(self) -> None:
        self.totals: dict[str, list[float]] = {}

    def wrap(self, name, function, work=lambda *_: (0.0, 0.0)):
        def timed(*args, **kwargs):
            operations, moved = work(*args)
            start, used = time.perf_counter(), time.process_time()
            result = function(*args, **kwargs)
            new = (time.perf_counter() - start, time.process_time() - used, operations, moved, 1)
            self.totals[name] = [a + b for a, b in zip(self.totals.get(name, [0.0] * 5), new, strict=True)]
            return result

        return timed

    def report(self) -> None:
        for name, (wall, used, operations, moved, calls) in self.totals.items():
            rates = [f"{operations / wall / 1e9:.0f} Gflop/s"] if operations else []
            rates += [f"{moved / wall / 1e9:.1f} GB/s"] if moved else []
            print(f"  {name}: {wall:.2f} s, processor {used:.2f} s, {calls:.0f} calls {', '.join(rates)}", flush=True)


def measure_stages(name: str, dataset: Dataset, n_train: int, n_steps: int = 20, n_columns: int = 0) -> None:
    """Print where the time goes: building a preconditioner, by default as a training begins with, and steps."""
    task = GDMLTrain().create_task(dataset, n_train, dataset, 10, SIGMA, lam=LAM, seed=0)
    training = TrainingSet.from_R(task["R_train"], task["perms"], SIGMA)
    y = task["F_train"].ravel() / task["F_train"].std()
    machine = processor()
    solver = IterativeSolver(TrainingEquations(task["R_train"], training, LAM, y), machine)
    n = solver.n
    k = n_columns or choose_n_columns(solver.cost, machine.limit(None), machine)
    print(f"{name}, {n_train} points, n = {n}, k = {k}:")
    watch, A, b = Stopwatch(), np.ones((2000, 2000)), np.ones(2**26)
    for _ in range(3):
        watch.wrap("limit: matrix product", np.matmul, lambda *_: (2.0 * 2000**3, 0))(A, A)
        watch.wrap("limit: sum", np.sum, lambda a: (0, a.nbytes))(b)
    parts = (
        (preconditioner, "assemble_rows", lambda *_: (0, 0)),
        (preconditioner, "_diagonal_blocks", lambda *_: (0, 0)),
        (lapack, "inverse_roots", lambda *_: (0, 0)),
        (lapack, "solve_triangular_right", lambda factor, B, _: (float(B.shape[0] * len(factor) ** 2), 0)),
        (lapack, "explained_blocks", lambda L, q, _: (float(L.size * q), 0)),
        (lapack, "multiply_triangles", lambda triangles, *_: (0, triangles.nbytes / 2)),
        (lapack, "split_low_rank", lambda L, roots, *_: (2.0 * L.size * roots.shape[1], 0)),
        (lapack, "add_split_gram", lambda one, other, *_: (float(len(one) * (one.shape[1] + other.shape[1]) ** 2), 0)),
        (lapack, "cholesky_dense", lambda matrix, *_: (len(matrix) ** 3 / 3, 0)),
        (lapack, "solve_cholesky", lambda factor, *_: (0, 16.0 * len(factor) ** 2 / 2)),
        (_core, "low_rank_project", lambda U, *_: (0, U.nbytes)),
        (_core, "low_rank_subtract", lambda U, *_: (0, U.nbytes)),
        (_core, "low_rank_project_shorts", lambda U, *_: (0, U.nbytes)),
        (_core, "low_rank_subtract_shorts", lambda U, *_: (0, U.nbytes)),
    )
    with ExitStack() as stack:
        for module, function, work in parts:
            wrapped = watch.wrap(function, getattr(module, function), work)
            stack.enter_context(mock.patch.object(module, function, wrapped))
        product = solver.product
        solver.operator = watch.wrap("K v", solver.operator, lambda _: (product, 0))
        watch.wrap("all", solver.solve)(solver.choose_columns(k), TOL, n_steps)
    watch.report()


def compare_with_closed_form(name: str, dataset: Dataset, points: list[int], solvers: Sequence[str]) -> None:
    """Print time and force error of solvers."""
    for n_train in points:
        task = GDMLTrain().create_task(dataset, n_train, dataset, 1000, SIGMA, seed=0)
        for solver in solvers:
            start = time.perf_counter()
            model = GDMLTrain().train(task, solver=solver)
            seconds = time.perf_counter() - start
            detail = f"; {model['solver_reason']}" if solver == "auto" else ""
            if model["solver_name"] == "cg":
                detail = f", {model['solver_iters']} steps, k = {len(model['inducing_pts_idxs'])}{detail}"
            print(
                f"{name}, {n_train} points, {solver}: {seconds:.1f} s, force MAE {force_mae(model, dataset):.4f}, "
                f"peak so far {peak_gb():.2f} GB{detail}",
                flush=True,
            )


def main() -> None:
    """Parse the arguments and run."""
    if "--smoke" in sys.argv:
        dataset = load_dataset("ethanol")
        compare_steps("shipped example", dataset, 20, [0.2])
        compare_with_sgdml(dataset, 30, 1, None)
        compare_with_closed_form("shipped example", dataset, [30], ("auto", "cg", "closed"))
        measure_stages("shipped example", dataset, 60, 5)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("steps", "sgdml", "crossover", "stages", "large"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer-python", help="interpreter that has sgdml and torch")
    parser.add_argument("--points", type=int, nargs="+", default=[200, 400, 800])
    parser.add_argument("--columns", type=int, default=0, help="of `stages`; those that a training begins with")
    parser.add_argument("--molecule", default="aspirin", choices=("ethanol", "aspirin"))
    args = parser.parse_args()
    ethanol, aspirin = (args.data / f"md17_{name}.npz" for name in ("ethanol", "aspirin"))
    if args.what == "steps":
        compare_steps("aspirin", load_dataset(aspirin), 80, [1 / 4, 1 / 10, 1 / 20])
        compare_steps("ethanol", load_dataset(ethanol), 200, [1 / 4, 1 / 10, 1 / 20])
    elif args.what == "sgdml":
        compare_with_sgdml(load_dataset(ethanol), 500, 1, args.peer_python)
    elif args.what == "stages":
        for n_train in args.points:
            dataset = load_dataset(args.data / f"md17_{args.molecule}.npz")
            measure_stages(args.molecule, dataset, n_train, n_columns=args.columns)
    else:
        dataset = load_dataset(args.data / f"md17_{args.molecule}.npz")
        solvers = {"crossover": ("cg", "closed"), "large": ("auto",)}[args.what]
        compare_with_closed_form(args.molecule, dataset, args.points, solvers)


if __name__ == "__main__":
    main()
