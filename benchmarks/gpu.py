"""Speed of the GPU backend, next to what the device can do.

    python benchmarks/gpu.py [--n-train 200 1000] [--n-train-cg 2000 8000] [--n-geo 4096] [--smoke]

Needs fastgdml, NumPy and CuPy, no data files: ethanol (9 atoms) is the embedded dataset, molecules of 21 and 42 atoms
are random. First the device itself is measured: float64 matrix product and copy. The last column of the table is the
fraction of that matrix product's rate; it counts the arithmetic of the formulas, not what an implementation adds.
Times are the best of several, with data already on the device unless "from NumPy" says otherwise; training starts
and ends on the host. Small numbers of geometries are predicted in both ways, by the fused kernels and by matrix
products: where the second becomes faster, the crossover should be (_FUSED_TERMS of fastgdml/gpu/predict.py). Where
sgdml 1.0.3 and PyTorch with CUDA are installed, they predict the same geometries. Without a device, prints one line
that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import time
from dataclasses import replace
from itertools import permutations

import numpy as np

from fastgdml.backend import array_module
from fastgdml.dataset import load_dataset
from fastgdml.descriptor import jacobian_dot, tril_perms_lin
from fastgdml.errors import UsageError
from fastgdml.gpu import arrays, fused, machine
from fastgdml.gpu import cholesky as gpu_cholesky
from fastgdml.gpu import descriptor as gpu_descriptor
from fastgdml.gpu import kernel as gpu_kernel
from fastgdml.gpu import predict as gpu_predict
from fastgdml.group import GroupTables
from fastgdml.kernel import Coordinates
from fastgdml.solvers.cholesky import solve_closed_form
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.iterative import IterativeSolver, choose_n_columns
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.training_set import TrainingSet


class Table:
    """Prints rows as they come."""

    def __init__(self, peak=None):
        self.peak = peak
        print(f"{'work':<44} {'time':>11} {'rate':>20} {'of fp64 peak':>13}", flush=True)

    def row(self, work, seconds, rate, flops=None):
        share = "" if flops is None or self.peak is None else f"{flops / seconds / self.peak:.1%}"
        shown = f"{seconds:.3f} s" if seconds >= 1 else f"{1e3 * seconds:.3f} ms"
        print(f"{work:<44} {shown:>11} {rate:>20} {share:>13}", flush=True)

    def note(self, work, text):
        print(f"{work:<44} {text}", flush=True)


def best_of(function, cupy, repetitions):
    """Seconds of the fastest of several runs, the first (compilation, memory pool) not counted."""
    function()
    times = []
    for _ in range(repetitions):
        cupy.cuda.get_current_stream().synchronize()
        start = time.perf_counter()
        function()
        cupy.cuda.get_current_stream().synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def release(cupy):
    cupy.get_default_memory_pool().free_all_blocks()


def measure_device(cupy, n, table):
    """Rate of the float64 matrix product (flop/s), which is the yardstick of all else."""
    a, b = cupy.random.random((n, n)), cupy.random.random((n, n))
    out = cupy.empty((n, n))
    seconds = best_of(lambda: cupy.matmul(a, b, out=out), cupy, 5)
    peak = 2 * n**3 / seconds
    table.row(f"float64 matrix product, n = {n}", seconds, f"{peak / 1e12:.2f} Tflop/s")
    seconds = best_of(lambda: cupy.copyto(out, a), cupy, 5)
    table.row(f"copy, {8 * n * n / 2**30:.2f} GiB", seconds, f"{16 * n * n / seconds / 1e9:.0f} GB/s")
    return peak


def measure_cholesky(cupy, n, table):
    """Compare the factorisation of cuSOLVER with the blocked one, on the same matrix."""
    original = cupy.random.random((n, n))
    original = cupy.asfortranarray(original + original.T + 2 * n * cupy.eye(n))
    matrix = cupy.empty((n, n), order="F")
    copy = best_of(lambda: cupy.copyto(matrix, original), cupy, 2)

    def factor(block):
        cupy.copyto(matrix, original)
        assert gpu_cholesky.cholesky(matrix, cupy, block)

    for name, block in (("cuSOLVER", n), ("blocked", min(gpu_cholesky._BLOCK, max(n // 4, 1)))):
        seconds = best_of(lambda block=block: factor(block), cupy, 2) - copy
        table.row(f"Cholesky, {name}, n = {n}", seconds, f"{n**3 / 3 / seconds / 1e12:.2f} Tflop/s", n**3 / 3)


def random_molecules(n_geo, n_atoms, seed=0):
    """Geometries with atoms at least 0.8 apart."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.4
    base = grid[rng.permutation(len(grid))[:n_atoms]]
    return base + rng.uniform(-0.3, 0.3, (n_geo, n_atoms, 3))


def systems(n_geo):
    """Name, permutations, geometries, forces (or None) and lambda of each molecule."""
    ethanol = load_dataset("ethanol")
    # The methyl group: hydrogen atoms 6, 7, 8 of ethanol; all six orders, for the sake of the benchmark.
    perms = np.array([[*range(6), *p] for p in permutations((6, 7, 8))])
    R, F = np.asarray(ethanol["R"]), np.asarray(ethanol["F"])
    yield "ethanol, 9 atoms", perms, R, F, 1e-10
    for n_atoms in (21, 42):
        perms = np.array([[*p, *range(3, n_atoms)] for p in permutations(range(3))])
        yield f"random, {n_atoms} atoms", perms, random_molecules(n_geo, n_atoms), None, 1e-6


def training_set(R, F, n_train, seed=1):
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(R), n_train, replace=False)
    R = np.ascontiguousarray(R[chosen])
    if F is not None:
        y = F[chosen].ravel()
        return R, y / y.std()
    # Forces that a force field can have: without net force and torque.
    reduction = drop_rigid_motions(R)
    return R, reduction.expand(reduction.reduce(rng.normal(size=R.size)), 3 * R.shape[1])


def trained(equations, device):
    """Lambda and coefficients; the factor is gone."""
    solution = solve_closed_form(equations, device)
    return solution.lam, solution.alphas_F


def measure_system(cupy, name, perms, R, F, lam, n_train, options, table):
    sig = 20.0
    tables = GroupTables.from_perms(perms)
    n_perms, n_atoms = tables.perm.shape
    repetitions = 2 if options.smoke else 3
    R_train, y = training_set(R, F, n_train)
    training = TrainingSet(*gpu_descriptor.from_R(R_train, xp=cupy), tables, sig)
    name = f"{name}, M = {n_train}"

    rows = Coordinates.full(n_train, 3 * n_atoms)
    n_kept = 3 * n_atoms - 6
    n = n_train * n_kept
    fits = (
        gpu_cholesky.memory_estimate(n_train, n_atoms, n_perms) < arrays.free_memory(cupy) and n <= options.max_unknowns
    )
    if fits:
        rows = drop_rigid_motions(R_train).rows
        seconds = best_of(lambda: gpu_kernel.assemble_lower(training, rows, -1.0, xp=cupy), cupy, repetitions)
        # Per pair of points, permutation and pair of atoms: 39 for equation (4), 33 for the sums over partners.
        flops = n_train * (n_train + 1) / 2 * n_perms * n_atoms**2 * 72
        table.row(f"{name}: assembly, n = {n}", seconds, f"{4 * n * n / seconds / 1e9:.0f} GB/s", flops)
        release(cupy)

    on_host = replace(training, x=arrays.to_numpy(training.x), g=arrays.to_numpy(training.g))
    device = machine.device(cupy)
    if fits:
        equations = TrainingEquations(R_train, on_host, lam, y)
        # One repetition of the long ones: there is nothing left to warm up.
        start = time.perf_counter()
        lam_used, alphas = trained(equations, device)
        seconds = time.perf_counter() - start
        if seconds < 5:
            seconds = min(seconds, best_of(lambda: trained(equations, device), cupy, 1))
        table.row(f"{name}: training", seconds, f"{n**3 / 3 / seconds / 1e12:.2f} Tflop/s", n**3 / 3)
        if lam_used != lam:
            table.note("", f"lambda was raised from {lam:.0e} to {lam_used:.0e}: several factorisations")
        release(cupy)
        # Random energies and a lambda that bears them: the time depends on neither.
        y_E = np.random.default_rng(0).normal(size=n_train)
        start = time.perf_counter()
        trained(TrainingEquations(R_train, replace(on_host, energies=True), 1e-4, y, y_E), device)
        seconds, n_E = time.perf_counter() - start, n + n_train
        table.row(f"{name}: with energies", seconds, f"{n_E**3 / 3 / seconds / 1e12:.2f} Tflop/s", n_E**3 / 3)
        release(cupy)
    else:
        table.note(f"{name}: assembly and training, n = {n}", "left out: too large (memory, --max-unknowns)")
        alphas = np.random.default_rng(0).normal(size=R_train.size)

    v = jacobian_dot(on_host.g, alphas.reshape(n_train, -1))
    model = {
        "type": "m",
        "z": np.ones(n_atoms, dtype=int),
        "R_desc": on_host.x.T,
        "R_d_desc_alpha": v,
        "perms": perms,
        "tril_perms_lin": tril_perms_lin(perms),
        "sig": int(sig),
        "std": 1.0,
        "c": 0.0,
    }
    measure_prediction(cupy, name, model, np.resize(R, (options.n_geo, n_atoms, 3)), options, table)
    release(cupy)


def measure_iteration(cupy, name, perms, R, F, lam, n_train, options, table):
    """Train with conjugate gradients, columns chosen for the free memory as in a real training."""
    name = f"{name}, M = {n_train}"
    if n_train > len(R):
        table.note(f"{name}: conjugate gradients", f"left out: there are {len(R)} geometries")
        return
    R_train, y = training_set(R, F, n_train)
    training = TrainingSet.from_R(R_train, perms, 20.0)
    device = machine.device(cupy)
    room = 0.9 * device.limit(None)
    solver = IterativeSolver(TrainingEquations(R_train, training, lam, y), device)
    n_coord = solver.n // n_train
    n_columns = choose_n_columns(n_train, n_coord, solver.product, room - solver.fixed_memory(), device)
    v = np.random.default_rng(0).normal(size=solver.n)
    seconds = best_of(lambda: solver.operator(v), cupy, 2)
    table.row(f"{name}: K v, n = {solver.n}", seconds, f"{1 / seconds:,.0f}/s", solver.product)
    times = []
    for max_iter in (1, options.max_iter):
        start = time.perf_counter()
        found = solver.solve(solver.choose_columns(n_columns), 1e-4, max_iter)
        times.append(time.perf_counter() - start)
        release(cupy)
    table.row(f"{name}: preconditioner, k = {n_columns}", times[0], "", 2.0 * solver.n * n_columns**2)
    converged = "" if found.converged else ", not converged"
    table.row(f"{name}: conjugate gradients", times[1], f"{found.steps} steps{converged}")


def measure_prediction(cupy, name, model, bulk, options, table):
    predictor = gpu_predict.GPUPredictor.from_model(model, devices=[cupy.cuda.Device().id])
    # Four matrix products.
    flops = 8.0 * len(model["perms"]) * model["R_d_desc_alpha"].size
    on_device = cupy.asarray(bulk)
    few, many = (3, 2) if options.smoke else (20, 3)

    def row(work, data, predictor=predictor, repetitions=few):
        seconds = best_of(lambda: predictor.predict(data), cupy, repetitions)
        table.row(f"{name}: {work}", seconds, f"{len(data) / seconds:,.0f}/s", len(data) * flops)
        return seconds

    def seconds_of(way, data):
        with patched(gpu_predict, "_FUSED_TERMS", 2**62 if way == "fused" else 1):
            return best_of(lambda: predictor.predict(data), cupy, few)

    # best_of calls once before it measures: the second call makes the graph, all later ones launch it.
    row("single, from NumPy", bulk[:1])
    with patched(fused._HostCall, "_capture", lambda self: None):
        plain = gpu_predict.GPUPredictor.from_model(model, devices=[cupy.cuda.Device().id])
        row("single, from NumPy, without a graph", bulk[:1], plain)
    row("single, on the device", on_device[:1])
    for n_geo in (1, 2, 4, 8, 16, 32, 64):
        times = {way: seconds_of(way, bulk[:n_geo]) for way in ("fused", "bulk")}
        table.row(
            f"{name}: {n_geo}, from NumPy, fused", times["fused"], f"bulk {1e3 * times['bulk']:.3f} ms", n_geo * flops
        )
    crossover = gpu_predict._FUSED_TERMS // (len(model["perms"]) * model["R_d_desc_alpha"].size)
    table.note(f"{name}: fused in use up to", f"{crossover} geometries")
    row("bulk, on the device", on_device, repetitions=many)
    row("bulk, from NumPy", bulk, repetitions=many)
    n_devices = cupy.cuda.runtime.getDeviceCount()
    if n_devices > 1:
        row(f"bulk, from NumPy, {n_devices} devices", bulk, gpu_predict.GPUPredictor.from_model(model), many)
    measure_sgdml(cupy, name, model, bulk, few, many, table)


def measure_sgdml(cupy, name, model, bulk, few, many, table):
    """Measure sgdml with PyTorch on the same device, in the same run."""
    try:
        predictor = sgdml_predictor(model)
    except Exception as error:
        table.note(f"{name}: sgdml with PyTorch", f"left out: {' '.join(str(error).split())[:120]}")
        return
    for work, data, repetitions in (("single", bulk[:1], few), ("bulk", bulk, many)):
        r = data.reshape(len(data), -1)
        seconds = best_of(lambda r=r: predictor.predict(r), cupy, repetitions)
        table.row(f"{name}: sgdml with PyTorch, {work}", seconds, f"{len(r) / seconds:,.0f}/s")


def sgdml_predictor(model):
    """Return a predictor of sgdml 1.0.3 that uses the GPU, or raise what stands in the way."""
    version = importlib.metadata.version("sgdml")
    if version != "1.0.3":
        raise RuntimeError(f"sgdml {version} is installed, 1.0.3 is wanted")
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device")
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # noqa: NPY201 (sgdml 1.0.3 on NumPy >= 2.4)
    from sgdml.predict import GDMLPredict

    return GDMLPredict(model, use_torch=True)


@contextlib.contextmanager
def patched(owner, name, value):
    """Replace an attribute for a while: the ways that prediction chooses from are measured one by one."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-train", type=int, nargs="+", default=[200, 1000], help="numbers of training points")
    parser.add_argument("--n-train-cg", type=int, nargs="*", default=[2000, 8000], help="the same, iterative solver")
    parser.add_argument("--max-iter", type=int, default=1000, help="most steps of the iterative solver")
    parser.add_argument("--n-geo", type=int, default=4096, help="geometries of a bulk prediction")
    parser.add_argument("--max-unknowns", type=int, default=130_000, help="skip training beyond this matrix order")
    parser.add_argument("--smoke", action="store_true", help="everything small: only see that it runs")
    options = parser.parse_args()
    try:
        cupy = array_module("gpu")
    except UsageError as error:
        print(f"No device, nothing measured: {error}")
        return
    if options.smoke:
        options.n_train, options.n_train_cg, options.n_geo = [10], [20], 64

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = properties["name"]
    print(
        f"{name.decode() if isinstance(name, bytes) else name}, CuPy {cupy.__version__}, "
        f"{arrays.free_memory(cupy) / 2**30:.1f} GiB free; 6 permutations, {options.n_geo} geometries in bulk"
    )
    table = Table()
    table.peak = measure_device(cupy, 256 if options.smoke else 8192, table)
    release(cupy)
    measure_cholesky(cupy, 100 if options.smoke else 30_000, table)
    release(cupy)
    for system in systems(max([options.n_geo, *options.n_train, *options.n_train_cg])):
        for n_train in options.n_train:
            measure_system(cupy, *system, n_train, options, table)
        for n_train in options.n_train_cg:
            measure_iteration(cupy, *system, n_train, options, table)
            release(cupy)


if __name__ == "__main__":
    main()
