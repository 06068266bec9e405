"""Speed of the GPU backend next to what the device can do, in stages of rising size.

    python benchmarks/gpu.py [STAGE ...] [--data FOLDER] [--out FILE] [--smoke]

Stages, all by default: device, small, medium, large, iterative, largest. Each measures first the device itself, the
float64 matrix product and copy, which are the yardsticks of all else. Of each work the table gives its time, the rates
of arithmetic and of memory, their shares of the yardsticks, and the floor: the least time that its operations and bytes
would take at the yardsticks' rates, as a share of the time that it took, with the resource that sets it. Operations are
those of the formulas, bytes those that the steps as they are implemented read and write in device memory, each array
once a step. A stage ends with what to do next: where most time is lost above the floor, and the rates that the choice
between solvers assumes (fastgdml/gpu/machine.py) beside those measured.

Needs fastgdml, NumPy and CuPy. Ethanol is the embedded dataset; aspirin is md17_aspirin.npz in the folder --data, or
random geometries of 21 atoms without it; 42 atoms are random. Times are the best of several, with data on the device
unless "from NumPy" says otherwise; training starts and ends on the host. Where sgdml 1.0.3 and PyTorch with CUDA are
installed, they do the same work on the same device. Rows go to the terminal and, at once, to the end of --out: what
is there stays when a stage is cut off. Without a device, prints one line that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import sys
import time
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
from common import grid_molecules

from fastgdml.backend import array_module
from fastgdml.dataset import load_dataset
from fastgdml.descriptor import jacobian_dot, tril_perms_lin
from fastgdml.errors import UsageError
from fastgdml.gpu import arrays, fused, machine
from fastgdml.gpu import cholesky as gpu_cholesky
from fastgdml.gpu import descriptor as gpu_descriptor
from fastgdml.gpu import kernel as gpu_kernel
from fastgdml.gpu import predict as gpu_predict
from fastgdml.gpu.low_rank import LowRank
from fastgdml.gpu.preconditioner import inverse_roots
from fastgdml.group import GroupTables
from fastgdml.solvers.cholesky import solve_closed_form
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.iterative import IterativeSolver, choose_n_columns
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet

# Operations for one weight beside the products: exponential, square root, and what leads to them.
_WEIGHT = 60.0


@dataclass
class Yardsticks:
    """What the device does in a second: operations of a float64 matrix product, bytes of a copy."""

    flops: float
    bytes: float


class Table:
    """Prints rows as they come, also to a file, and remembers what is needed for the summary."""

    def __init__(self, path=None, goals=True):
        self._goals = goals
        self._file = open(path, "a") if path else None  # noqa: SIM115 (closed by the end of the program)
        self.yardsticks = None
        self.rates = {}
        self._lost = []

    def say(self, text=""):
        print(text, flush=True)
        if self._file:
            print(text, file=self._file, flush=True)

    def header(self):
        columns = (
            f"{'time':>11} {'Gflop':>9} {'GB':>8} {'Tflop/s':>8} {'peak':>6} {'GB/s':>6} {'copy':>6} {'floor':>14}"
        )
        self.say(f"{'work':<52} {columns}  rate")

    def row(self, work, seconds, flops=0.0, n_bytes=0.0, rate="", note=False):
        """Add a work; with `note` it is beside the point of what to do next."""
        cells = [f"{shown(seconds):>11}"]
        cells += [f"{flops / 1e9:>9.4g}" if flops else " " * 9, f"{n_bytes / 1e9:>8.3g}" if n_bytes else " " * 8]
        floor = ""
        for value, unit, yardstick in ((flops, 1e12, "flops"), (n_bytes, 1e9, "bytes")):
            best = getattr(self.yardsticks, yardstick, None)
            width = 8 if yardstick == "flops" else 6
            cells.append(f"{value / seconds / unit:>{width}.3g}" if value else " " * width)
            cells.append(f"{value / seconds / best:>6.1%}" if value and best else " " * 6)
        if self.yardsticks and (flops or n_bytes):
            times = {"arithmetic": flops / self.yardsticks.flops, "memory": n_bytes / self.yardsticks.bytes}
            bound = max(times, key=times.get)
            floor = f"{times[bound] / seconds:.0%} {bound}"
            if not note:
                self._lost.append((seconds - times[bound], work, seconds, bound))
        self.say(f"{work:<52} {' '.join(cells)} {floor:>15}  {rate}")

    def note(self, work, text):
        self.say(f"{work:<52} {text}")

    def goal(self, work, reached, met):
        if self._goals:
            self.say(f"goal: {work:<46} {reached}: {'met' if met else 'NOT met'}")

    def summary(self):
        """Say where time is lost, and what the model of cost assumes beside what was measured."""
        for lost, work, seconds, bound in sorted(self._lost, reverse=True)[:3]:
            if lost > 0:
                self.say(f"next: {work}: {shown(lost)} of {shown(seconds)} above the floor ({bound})")
        assumed = machine.Device.rates
        for name, (value, source) in self.rates.items():
            known = getattr(assumed, name)
            self.say(f"rate {name}: {value:.3g} measured ({source}), {known:.3g} assumed: {value / known:.2f}x")


def shown(seconds):
    return f"{seconds:.3f} s" if seconds >= 1 else f"{1e3 * seconds:.3f} ms"


def best_of(function, cupy, repetitions):
    """Seconds of the fastest of several runs, the first (compilation, memory pool) not counted."""
    function()
    return min(timed(function, cupy) for _ in range(repetitions))


def timed(function, cupy):
    cupy.cuda.get_current_stream().synchronize()
    start = time.perf_counter()
    function()
    cupy.cuda.get_current_stream().synchronize()
    return time.perf_counter() - start


# ---- the device


def measure_yardsticks(cupy, options, table):
    n = 256 if options.smoke else 8192
    a, b = (cupy.random.random((n, n)) for _ in range(2))
    out = cupy.empty((n, n))
    seconds = best_of(lambda: cupy.matmul(a, b, out=out), cupy, 3)
    copied = best_of(lambda: cupy.copyto(out, a), cupy, 5)
    table.yardsticks = Yardsticks(2.0 * n**3 / seconds, 16.0 * n * n / copied)
    table.header()
    table.row(f"float64 matrix product, n = {n}", seconds, 2.0 * n**3, 24.0 * n * n, note=True)
    table.row(f"copy, {8 * n * n / 2**20:.0f} MiB", copied, 0.0, 16.0 * n * n, note=True)
    arrays.release(cupy)


def stage_device(cupy, options, table):
    """Measure what else bounds the work: single precision, launches, factorisations by cuSOLVER and by blocks."""
    n = 256 if options.smoke else 8192
    a, b = (cupy.random.random((n, n)).astype(cupy.float32) for _ in range(2))
    out = cupy.empty((n, n), dtype=cupy.float32)
    seconds = best_of(lambda: cupy.matmul(a, b, out=out), cupy, 3)
    table.row(f"float32 matrix product, n = {n}", seconds, 2.0 * n**3, 12.0 * n * n, note=True)
    small = cupy.empty(1)
    seconds = best_of(lambda: [small.fill(0.0) for _ in range(100)], cupy, 3) / 100
    table.row("launch of a small kernel", seconds, note=True)
    seconds = best_of(lambda: (small.fill(0.0), cupy.cuda.get_current_stream().synchronize()), cupy, 20)
    table.row("launch and wait", seconds, note=True)
    a = b = out = None  # the functions above hold on to the names
    arrays.release(cupy)
    n = 100 if options.smoke else 20_000
    original = cupy.random.random((n, n))
    original = cupy.asfortranarray(original + original.T + 2 * n * cupy.eye(n))
    matrix = cupy.empty((n, n), order="F")
    copy = best_of(lambda: cupy.copyto(matrix, original), cupy, 2)

    def factor(block):
        cupy.copyto(matrix, original)
        assert gpu_cholesky.cholesky(matrix, cupy, block)

    for name, block in (("cuSOLVER", n), ("blocked", min(gpu_cholesky._BLOCK, max(n // 4, 1)))):
        seconds = best_of(lambda block=block: factor(block), cupy, 1) - copy
        table.row(f"Cholesky, {name}, n = {n}", seconds, n**3 / 3, 8.0 * n * n)
        if name == "cuSOLVER":
            table.rates["blas"] = (n**3 / 3 / seconds, f"Cholesky, n = {n}")
    arrays.release(cupy)


# ---- molecules


@dataclass
class Molecule:
    """Geometries, forces (or None), permutations and lambda; `dataset` for a training from start to end."""

    name: str
    R: np.ndarray
    F: np.ndarray | None
    perms: np.ndarray
    lam: float
    dataset: dict | None = None


def ethanol(options):
    data = load_dataset("ethanol")
    # The methyl group: hydrogen atoms 6, 7, 8; all six orders, for the sake of the benchmark.
    perms = np.array([[*range(6), *p] for p in permutations((6, 7, 8))])
    return Molecule("ethanol", np.asarray(data["R"]), np.asarray(data["F"]), perms, 1e-10, data)


def aspirin(options):
    path = options.data and options.data / "md17_aspirin.npz"
    if path and path.exists():
        data = load_dataset(path)
        # As many as the symmetries that are found of aspirin: the methyl group's.
        perms = np.array([[*range(18), *p] for p in permutations((18, 19, 20))])
        return Molecule("aspirin", np.asarray(data["R"]), np.asarray(data["F"]), perms, 1e-10, data)
    return random_molecule(21, options)


def random_molecule(n_atoms, options):
    perms = np.array([[*p, *range(3, n_atoms)] for p in permutations(range(3))])
    return Molecule(f"random, {n_atoms} atoms", grid_molecules(5000, n_atoms), None, perms, 1e-6)


def training_set(molecule, n_train, seed=1):
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(molecule.R), n_train, replace=False)
    R = np.ascontiguousarray(molecule.R[chosen])
    if molecule.F is not None:
        y = molecule.F[chosen].ravel()
        return R, y / y.std()
    # Forces that a force field can have: without net force and torque.
    reduction = drop_rigid_motions(R)
    return R, reduction.expand(reduction.reduce(rng.normal(size=R.size)), 3 * R.shape[1])


# ---- work


def bulk_costs(n_geo, n_train, n_perms, n_desc):
    """Operations and bytes of a prediction by products of matrices."""
    rows = float(n_geo * n_perms)
    # The products, of y and weights; the products written, read and overwritten by weights, and read again.
    n_bytes = 8.0 * rows * (4 * 2 * n_train + 6 * n_desc)
    return rows * n_train * (8.0 * n_desc + _WEIGHT), n_bytes


def fused_costs(n_geo, n_train, n_perms, n_desc):
    """Operations and bytes of the fused kernels: the model once, and what goes from one launch to the next."""
    partial = 8.0 * n_geo * (n_desc + 1) * -(-n_train // 8)
    return n_geo * n_perms * n_train * (8.0 * n_desc + _WEIGHT), 16.0 * n_train * n_desc + 2 * partial


def measure_closed_form(cupy, molecule, n_train, options, table):
    """Assemble the matrix and solve in closed form; return the coefficients, or random ones where it does not fit."""
    sig = 20.0
    tables = GroupTables.from_perms(molecule.perms)
    n_perms, n_atoms = tables.perm.shape
    R_train, y = training_set(molecule, n_train)
    training = TrainingSet(*gpu_descriptor.from_R(R_train, xp=cupy), tables, sig)
    name, n = f"{molecule.name}, M = {n_train}", n_train * (3 * n_atoms - 6)
    if gpu_cholesky.memory_estimate(n_train, n_atoms, n_perms) > arrays.free_memory(cupy):
        table.note(f"{name}: closed form, n = {n}", "left out: no room on this device")
        return np.random.default_rng(0).normal(size=R_train.size)
    rows = drop_rigid_motions(R_train).rows
    seconds = best_of(lambda: gpu_kernel.assemble_lower(training, rows, -1.0, xp=cupy), cupy, 2)
    # Per pair of points, permutation and pair of atoms: 39 for equation (4), 33 for the sums over partners.
    flops = n_train * (n_train + 1) / 2 * n_perms * n_atoms**2 * 72
    table.row(f"{name}: assembly, n = {n}", seconds, flops, 4.0 * n * n)
    arrays.release(cupy)
    on_host = replace(training, x=arrays.to_numpy(training.x), g=arrays.to_numpy(training.g))
    peer = sgdml_assembly(cupy, on_host.x, on_host.g, molecule.perms, int(sig), options)
    if isinstance(peer, str):
        table.note(f"{name}: assembly, sgdml", f"left out: {peer}")
    else:
        table.row(f"{name}: assembly, sgdml with PyTorch", peer, rate=f"{peer / seconds:.1f}x", note=True)
        table.goal(f"{name}: assembly 10x sgdml", f"{peer / seconds:.1f}x", peer > 10 * seconds)
    equations = TrainingEquations(R_train, on_host, molecule.lam, y)
    found = []

    def solve():
        solution = solve_closed_form(equations, machine.device(cupy))
        found.append((solution.lam, solution.alphas_F))  # without the factor

    solve_seconds = timed(solve, cupy)
    if solve_seconds < 5:
        solve_seconds = min(solve_seconds, timed(solve, cupy))
    table.row(f"{name}: closed form from arrays", solve_seconds, flops + n**3 / 3, 12.0 * n * n)
    lam, alphas_F = found[0]
    if lam != molecule.lam:
        table.note("", f"lambda was raised from {molecule.lam:.0e} to {lam:.0e}: several factorisations")
    arrays.release(cupy)
    return alphas_F


def measure_training(cupy, molecule, n_train, goal, options, table):
    """Train from a task to a model, as a user does, with the integration constant and the check of the solution."""
    if molecule.dataset is None:
        table.note(f"{molecule.name}, M = {n_train}: training", "left out: no dataset with energies (--data)")
        return
    task = GDMLTrain().create_task(molecule.dataset, n_train, molecule.dataset, 50, sig=20, seed=1)
    times = [timed(lambda: GDMLTrain(backend="gpu").train(task, solver="closed"), cupy) for _ in range(2)]
    n = n_train * (3 * molecule.R.shape[1] - 6)
    name = f"{molecule.name}, M = {n_train}: task to model"
    table.row(name, min(times), n**3 / 3, 12.0 * n * n, f"first {shown(times[0])}, {len(task['perms'])} permutations")
    if goal is not None:
        table.goal(f"{name} in {goal} s", shown(min(times)), min(times) < goal)
    arrays.release(cupy)


def model_of(molecule, n_train, alphas):
    R_train, _ = training_set(molecule, n_train)
    x, g = gpu_descriptor.from_R(R_train, xp=np)
    return {
        "type": "m",
        "z": np.ones(R_train.shape[1], dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": jacobian_dot(g, alphas.reshape(n_train, -1)),
        "perms": molecule.perms,
        "tril_perms_lin": tril_perms_lin(molecule.perms),
        "sig": 20,
        "std": 1.0,
        "c": 0.0,
    }


def measure_prediction(cupy, molecule, n_train, alphas, options, table):
    model = model_of(molecule, n_train, alphas)
    name = f"{molecule.name}, M = {n_train}"
    bulk = np.resize(molecule.R, (options.n_geo, *molecule.R.shape[1:]))
    devices = [cupy.cuda.Device().id]
    predictor = gpu_predict.GPUPredictor.from_model(model, devices=devices)
    sizes = (n_train, len(molecule.perms), len(model["R_desc"]))
    on_device = cupy.asarray(bulk)
    few, many = (2, 1) if options.smoke else (20, 3)

    def row(work, data, costs, predictor=predictor, repetitions=few):
        seconds = best_of(lambda: predictor.predict(data), cupy, repetitions)
        table.row(f"{name}: {work}", seconds, *costs(len(data), *sizes), f"{len(data) / seconds:,.0f}/s")
        return seconds

    def seconds_of(way, data):
        with patched(gpu_predict, "_FUSED_TERMS", 2**62 if way == "fused" else 1):
            return best_of(lambda: predictor.predict(data), cupy, few)

    # best_of calls once before it measures: the second call makes the graph, all later ones launch it.
    single = row("single, from NumPy", bulk[:1], fused_costs)
    with patched(fused._HostCall, "_capture", lambda self: None):
        plain = gpu_predict.GPUPredictor.from_model(model, devices=devices)
        row("single, from NumPy, without a graph", bulk[:1], fused_costs, plain)
    row("single, on the device", on_device[:1], fused_costs)
    crossover = None
    for n_geo in (1, 2) if options.smoke else (1, 4, 16, 64, 256):
        times = {way: seconds_of(way, bulk[:n_geo]) for way in ("fused", "bulk")}
        rate = f"bulk {shown(times['bulk'])}"
        table.row(f"{name}: {n_geo}, from NumPy, fused", times["fused"], *fused_costs(n_geo, *sizes), rate)
        if crossover is None and times["bulk"] < times["fused"]:
            crossover = n_geo
    terms = sizes[0] * sizes[1] * sizes[2]
    measured = "above those measured" if crossover is None else f"up to {crossover}, {crossover * terms / 2**20:.3g} Mi"
    table.note(
        f"{name}: crossover of fused and bulk",
        f"{measured}; in use {gpu_predict._FUSED_TERMS // terms}, {gpu_predict._FUSED_TERMS / 2**20:.3g} Mi terms",
    )
    with patched(gpu_predict, "_FUSED_TERMS", 1):
        seconds = row("bulk, on the device", on_device, bulk_costs, repetitions=many)
        from_numpy = row("bulk, from NumPy", bulk, bulk_costs, repetitions=many)
    share = bulk_costs(len(bulk), *sizes)[0] / seconds / table.yardsticks.flops
    table.goal(f"{name}: bulk at half of the float64 peak", f"{share:.0%}", share >= 0.5)
    mixed = gpu_predict.GPUPredictor.from_model(model, devices=devices, precision="mixed")
    row("single, on the device, mixed", on_device[:1], fused_costs, mixed)
    with patched(gpu_predict, "_FUSED_TERMS", 1):
        row("bulk, on the device, mixed", on_device, bulk_costs, mixed, many)
    if cupy.cuda.runtime.getDeviceCount() > 1:
        every = gpu_predict.GPUPredictor.from_model(model)
        row(f"bulk, from NumPy, {cupy.cuda.runtime.getDeviceCount()} devices", bulk, bulk_costs, every, many)
    try:
        peer = sgdml_predictor(model)
    except Exception as error:
        table.note(f"{name}: prediction, sgdml", f"left out: {' '.join(str(error).split())[:120]}")
        return
    for work, data, ours, repetitions in (("single", bulk[:1], single, few), ("bulk", bulk, from_numpy, many)):
        r = data.reshape(len(data), -1)
        seconds = best_of(lambda r=r: peer.predict(r), cupy, repetitions)
        rate = f"{len(r) / seconds:,.0f}/s; {seconds / ours:.1f}x"
        table.row(f"{name}: {work}, sgdml with PyTorch", seconds, rate=rate, note=True)
        if work == "bulk":
            table.goal(f"{name}: bulk 5x sgdml", f"{seconds / ours:.1f}x", seconds > 5 * ours)


def measure_parts(cupy, name, n_train, n_coord, k, table):
    """Parts of the preconditioner by themselves: eigenvectors of blocks, products with the low-rank part."""
    m = min(n_train, 500)
    blocks = cupy.random.random((m, n_coord, n_coord))
    blocks = cupy.matmul(blocks, blocks.swapaxes(1, 2))
    seconds = best_of(lambda: inverse_roots(blocks, 1e-10, cupy), cupy, 2)
    rate = f"{shown(seconds * n_train / m)} for all points"
    table.row(f"{name}: roots of {m} blocks of order {n_coord}", seconds, rate=rate)
    blocks = None
    n = min(n_train * n_coord, 2**31 // (4 * k))
    U, b, t = LowRank(n, k, cupy), cupy.ones(n), cupy.ones(k)
    U.set_rows(0, cupy.ones((1, k)))
    for work, product in (("U^T b", lambda: U.project(b)), ("b - U t", lambda: U.subtract(t, b))):
        table.row(f"{name}: {work}, {n} rows", best_of(product, cupy, 3), 2.0 * n * k, 4.0 * n * k)
    U = None
    arrays.release(cupy)


def measure_iteration(cupy, molecule, n_train, goal, options, table):
    """Train with conjugate gradients, columns chosen for the free memory as in a real training."""
    name = f"{molecule.name}, M = {n_train}"
    R_train, y = training_set(molecule, n_train)
    start = time.perf_counter()
    x, g = (arrays.to_numpy(array) for array in gpu_descriptor.from_R(R_train, xp=cupy))
    device = machine.device(cupy)
    room = 0.9 * device.limit(None)
    training = TrainingSet(x, g, GroupTables.from_perms(molecule.perms), 20.0)
    solver = IterativeSolver(TrainingEquations(R_train, training, molecule.lam, y), device)
    n, n_coord = solver.n, solver.n // n_train
    k = choose_n_columns(solver.cost, room - solver.fixed_memory(), device)
    table.row(f"{name}: preparation, n = {n}, k = {k}", time.perf_counter() - start)
    v = cupy.asarray(np.random.default_rng(0).normal(size=n))
    seconds = best_of(lambda: solver.operator(v), cupy, 2)
    sizes = (n_train, len(molecule.perms), x.shape[1])
    table.row(f"{name}: K v", seconds, *bulk_costs(n_train, *sizes))
    table.rates["kernels"] = (solver.product / seconds, f"K v, n = {n}")
    measure_parts(cupy, name, n_train, n_coord, k, table)
    solver.solve(solver.choose_columns(n_coord), 1e-4, 1)  # compiles
    times = []
    for max_iter in (1, options.max_iter):
        arrays.release(cupy)
        start = time.perf_counter()
        found = solver.solve(solver.choose_columns(k), 1e-4, max_iter)
        times.append(time.perf_counter() - start)
    table.row(f"{name}: preconditioner, one step", times[0], 2.0 * n * k**2 + k**3 / 3, 12.0 * n * k)
    steps = max(found.steps - 1, 1)
    step = max(times[1] - times[0], 1e-9) / steps
    product, moved = bulk_costs(n_train, *sizes)
    traffic = moved + 4.0 * 2 * n * k + 8.0 * 2 * k * k
    converged = "" if found.converged else ", NOT converged"
    table.row(
        f"{name}: a step of the iteration", step, product + 4.0 * n * k, traffic, f"{found.steps} steps{converged}"
    )
    if step > seconds:
        table.rates["bytes"] = (4.0 * (2 * n * k + 4 * k * k) / (step - seconds), "a step less its K v")
    table.row(f"{name}: conjugate gradients", times[1], rate=f"residual {found.residual / found.norm_y:.1e}")
    if goal is not None:
        table.goal(f"{name}: n = {n} in {goal} s", shown(times[1]), found.converged and times[1] < goal)
    arrays.release(cupy)


# ---- sgdml


def require_sgdml():
    """Raise what stands in the way of sgdml 1.0.3 on the device."""
    version = importlib.metadata.version("sgdml")
    if version != "1.0.3":
        raise RuntimeError(f"sgdml {version} is installed, 1.0.3 is wanted")
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device")
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # noqa: NPY201 (sgdml 1.0.3 on NumPy >= 2.4)


def sgdml_predictor(model):
    """Return a predictor of sgdml 1.0.3 that uses the GPU, or raise what stands in the way."""
    require_sgdml()
    from sgdml.predict import GDMLPredict

    return GDMLPredict(model, use_torch=True)


def sgdml_assembly(cupy, x, g, perms, sig, options):
    """Return the seconds of sgdml's assembly on the GPU, or what stands in the way."""
    n = len(x) * 3 * perms.shape[1]
    if 8.0 * n * n > 8 * 2**30:
        return f"its matrix of order {n} takes {8 * n * n / 2**30:.0f} GB on the host"
    try:
        require_sgdml()
        from sgdml.train import GDMLTrain as PeerTrain
        from sgdml.utils.desc import Desc

        train, desc = PeerTrain(use_torch=True), Desc(perms.shape[1])
        return timed(lambda: train._assemble_kernel_mat(x, g, tril_perms_lin(perms), sig, desc), cupy)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


@contextlib.contextmanager
def patched(owner, name, value):
    """Replace an attribute for a while: the ways that prediction chooses from are measured one by one."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


# ---- stages


def measure_system(cupy, molecule, n_train, goal, options, table):
    n_train = min(n_train, 8) if options.smoke else n_train
    alphas = measure_closed_form(cupy, molecule, n_train, options, table)
    measure_training(cupy, molecule, n_train, goal, options, table)
    measure_prediction(cupy, molecule, n_train, alphas, options, table)
    arrays.release(cupy)


def stage_small(cupy, options, table):
    measure_system(cupy, ethanol(options), 200, None, options, table)
    if not options.smoke:
        measure_system(cupy, aspirin(options), 200, None, options, table)


def stage_medium(cupy, options, table):
    measure_system(cupy, ethanol(options), 1000, 3.0, options, table)


def stage_large(cupy, options, table):
    measure_system(cupy, random_molecule(4, options) if options.smoke else aspirin(options), 1000, 10.0, options, table)


def stage_iterative(cupy, options, table):
    for molecule, n_train in ((ethanol(options), 2000), (random_molecule(42, options), 1000)):
        if options.smoke and molecule.dataset is None:
            continue
        measure_iteration(cupy, molecule, 12 if options.smoke else n_train, None, options, table)


def stage_largest(cupy, options, table):
    atoms, n_train = (4, 10) if options.smoke else (42, 4000)
    measure_iteration(cupy, random_molecule(atoms, options), n_train, 600.0, options, table)


STAGES = {
    "device": stage_device,
    "small": stage_small,
    "medium": stage_medium,
    "large": stage_large,
    "iterative": stage_iterative,
    "largest": stage_largest,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; all by default")
    parser.add_argument("--max-iter", type=int, default=1000, help="most steps of the iterative solver")
    parser.add_argument("--n-geo", type=int, default=4096, help="geometries of a bulk prediction")
    parser.add_argument("--data", type=Path, help="folder with md17_aspirin.npz")
    parser.add_argument("--out", type=Path, help="file that the tables are appended to, row by row")
    parser.add_argument("--smoke", action="store_true", help="everything small: only see that it runs")
    options = parser.parse_args()
    unknown = [stage for stage in options.stages if stage not in STAGES]
    if unknown:
        parser.error(f"there is no stage {unknown[0]!r}: choose from {', '.join(STAGES)}")
    try:
        cupy = array_module("gpu")
    except UsageError as error:
        print(f"No device, nothing measured: {error}")
        return 0
    if options.smoke:
        options.n_geo, options.max_iter = 8, 20

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    card = properties["name"]
    status = 0
    for stage in options.stages or STAGES:
        table = Table(options.out, goals=not options.smoke)
        table.say(
            f"== {stage}: {card.decode() if isinstance(card, bytes) else card}, CuPy {cupy.__version__}, "
            f"{arrays.free_memory(cupy) / 2**30:.1f} GiB free; {options.n_geo} geometries in bulk"
        )
        try:
            measure_yardsticks(cupy, options, table)
            STAGES[stage](cupy, options, table)
        except Exception as error:
            # The others may still say something.
            table.say(f"stage {stage} FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            status = 1
        table.summary()
        arrays.release(cupy)
    return status


if __name__ == "__main__":
    sys.exit(main())
