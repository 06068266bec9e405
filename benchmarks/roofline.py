"""What fraction of the machine's arithmetic the kernels reach, and how time grows with size.

    python benchmarks/roofline.py [--cholesky]           (needs a C compiler as `cc`)

Prints the measured peak of fused multiply-adds of one core, the rates of the Cholesky factorisations beside those of
LAPACK's and of a matrix product, and times of trainings in closed form; then for several molecules the rate of bulk
prediction and of the assembly on one core, and the speed-up of two threads; and fitted exponents of time against
training points M, atoms N and permutations P.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import best_of, grid_molecules, methyl_group

from fastgdml import lapack
from fastgdml.dataset import load_dataset
from fastgdml.descriptor import jacobian_dot, tril_perms_lin
from fastgdml.kernel import assemble_packed, packed_size
from fastgdml.predict import GDMLPredict
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.threads import blas_threads, resolve_n_threads
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet


def peak_gflops() -> float:
    """Measure the multiply-add rate of one core with a C loop."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.c")
        command = ["cc", "-O2", "-march=native", "-ffp-contract=fast", str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        return float(subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout)


class Case:
    """A molecule, its group, and a model with random coefficients."""

    def __init__(self, n_atoms: int, n_train: int, n_perms: int) -> None:
        self.R = grid_molecules(n_train, n_atoms)
        self.perms = methyl_group(n_atoms, n_perms)
        self.training = TrainingSet.from_R(self.R, self.perms, 20.0)
        self.rows = drop_rigid_motions(self.R).rows
        alphas = np.random.default_rng(1).normal(size=(n_train, 3 * n_atoms))
        self.model = {
            "z": np.ones(n_atoms, dtype=int),
            "R_desc": self.training.x.T,
            "R_d_desc_alpha": jacobian_dot(self.training.g, alphas),
            "tril_perms_lin": tril_perms_lin(self.perms),
            "sig": 20.0,
            "std": 1.0,
            "c": 0.0,
        }

    def predict(self, n_geo: int, n_threads: int) -> tuple[float, float]:
        """Return seconds a geometry, and floating-point operations of the pair loops a geometry."""
        predictor = GDMLPredict(self.model, max_processes=n_threads)
        R = grid_molecules(n_geo, self.R.shape[1], seed=2).reshape(n_geo, -1)
        # forward: a difference and two multiply-adds; backward: two multiply-adds
        flops = 9.0 * predictor.native.n_pair_images * len(self.R)
        return best_of(lambda: predictor.predict(R)) / n_geo, flops

    def assemble(self, n_threads: int) -> float:
        """Return the seconds of an assembly for training."""
        return best_of(lambda: assemble_packed(self.training, self.rows, n_threads=n_threads), 3)


def positive_definite(n: int) -> np.ndarray:
    matrix = np.ones((n, n), order="F")
    matrix.flat[:: n + 1] += 2.0 * n
    return matrix


def fastest(work: Callable[[np.ndarray], object], fresh: Callable[[], np.ndarray], repetitions: int = 5) -> float:
    """Return the least seconds of a work that overwrites its matrix."""
    times = []
    for _ in range(repetitions):
        matrix = fresh()
        start = time.perf_counter()
        work(matrix)
        times.append(time.perf_counter() - start)
    return min(times)


def packed_seconds(n: int, n_threads: int, single: bool = False) -> float:
    """Return the seconds of our packed factorisation, in double or single precision."""
    cholesky = lapack.cholesky_single if single else lapack.cholesky

    def fresh() -> np.ndarray:
        matrix = np.ones(packed_size(n))
        lapack.add_blocks(matrix, n, np.arange(n + 1), np.full((n, 1, 1), 2.0 * n))
        return matrix.astype(np.float32) if single else matrix

    def work(matrix: np.ndarray) -> None:
        if cholesky(matrix, n, n_threads) != 0:
            raise RuntimeError("the factorisation failed")

    with blas_threads(1, n_threads):
        return fastest(work, fresh)


def dpotrf_seconds(n: int, n_threads: int) -> float:
    """Return the seconds of LAPACK's factorisation."""
    from scipy.linalg.lapack import dpotrf

    with blas_threads(n_threads):
        return fastest(lambda matrix: dpotrf(matrix, lower=1, overwrite_a=1, clean=0), lambda: positive_definite(n))


def product_gflops(n: int, n_threads: int) -> float:
    """Return the Gflop/s of a matrix product of BLAS."""
    from scipy.linalg.blas import dgemm

    A, C = positive_definite(n), np.zeros((n, n), order="F")
    with blas_threads(n_threads):
        return 2e-9 * n**3 / best_of(lambda: dgemm(1.0, A, A, 0.0, C, overwrite_c=1), 3)


def closed_form_against_dpotrf(n_train: int) -> tuple[float, float]:
    """Return the seconds of a training in closed form on the shipped example, and of dpotrf of the reduced order."""
    dataset = load_dataset("ethanol")
    train = GDMLTrain()
    task = train.create_task(dataset, n_train, dataset, 10, 20, seed=0)
    training = best_of(lambda: train.train(task, solver="closed"), 3)
    return training, dpotrf_seconds(21 * n_train, resolve_n_threads())


def exponent(sizes: list[int], times: list[float]) -> float:
    """Return the slope of log time against log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--cholesky", action="store_true", help="factorisations and the closed form only")
    args = parser.parse_args()
    smoke, only_cholesky = args.smoke, args.cholesky
    n_geo, n_train = (40, 40) if smoke else (1000, 500)

    peak = peak_gflops()
    print(f"peak of one core: {peak:.1f} GFlop/s of multiply-adds")
    for n_threads in sorted({1, resolve_n_threads()}):
        for n in (400,) if smoke else (2000, 4200, 8400):
            operations = n**3 / 3e9
            ours, theirs = operations / packed_seconds(n, n_threads), operations / dpotrf_seconds(n, n_threads)
            product, single = product_gflops(min(n, 4000), n_threads), operations / packed_seconds(n, n_threads, True)
            print(
                f"Cholesky, n = {n}, {n_threads} threads: {ours:.1f} GFlop/s, dpotrf {theirs:.1f}, a matrix product "
                f"{product:.1f}: {product / ours:.2f} times the time at its rate; single precision {single:.1f}",
                flush=True,
            )
    for n_points in (30,) if smoke else (100, 200, 300, 500):
        training, bare = closed_form_against_dpotrf(n_points)
        ideal = (21.0 * n_points) ** 3 / 3e9 / product_gflops(400 if smoke else 4000, resolve_n_threads())
        print(
            f"closed form, ethanol, {n_points} points, all threads: {training:.3f} s; bare dpotrf {bare:.3f} s "
            f"({training / bare:.2f}x), n^3 / 3 at a matrix product's rate {ideal:.3f} s ({training / ideal:.2f}x)",
            flush=True,
        )
    if only_cholesky:
        return
    print(
        f"{'atoms':>5} {'P':>3} {'predict/s':>10} {'GFlop/s':>8} {'of peak':>8} {'assembly':>10} "
        f"{'2 threads: predict':>19} {'assemble':>9}"
    )
    two = min(2, resolve_n_threads())
    for n_atoms, n_perms in [(9, 6)] if smoke else [(9, 1), (9, 6), (21, 6), (24, 12), (42, 2), (54, 1)]:
        case = Case(n_atoms, n_train if n_atoms < 40 else n_train // 4, n_perms)
        seconds, flops = case.predict(n_geo, 1)
        assembly = case.assemble(1)
        print(
            f"{n_atoms:>5} {n_perms:>3} {1 / seconds:>10,.0f} {flops / seconds / 1e9:>8.1f} "
            f"{flops / seconds / 1e9 / peak:>8.0%} {assembly:>8.3f} s {seconds / case.predict(n_geo, two)[0]:>18.2f}x"
            f" {assembly / case.assemble(two):>8.2f}x",
            flush=True,
        )

    steps = [20, 40] if smoke else [100, 200, 400, 800]
    print("exponents of time, one core:")
    cases = [Case(9, m, 6) for m in steps]
    print(
        f"  M: predict {exponent(steps, [c.predict(n_geo, 1)[0] for c in cases]):.2f}, "
        f"assemble {exponent(steps, [c.assemble(1) for c in cases]):.2f}"
    )
    atoms = [6, 9] if smoke else [9, 18, 36, 54]
    cases = [Case(n, 40 if smoke else 120, 1) for n in atoms]
    print(
        f"  N: predict {exponent(atoms, [c.predict(n_geo // 4, 1)[0] for c in cases]):.2f}, "
        f"assemble {exponent(atoms, [c.assemble(1) for c in cases]):.2f}"
    )
    perms = [1, 2] if smoke else [1, 2, 6, 12, 24]
    cases = [Case(21, 40 if smoke else 200, p) for p in perms]
    print(
        f"  P: predict {exponent(perms, [c.predict(n_geo // 4, 1)[0] for c in cases]):.2f}, "
        f"assemble {exponent(perms, [c.assemble(1) for c in cases]):.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
