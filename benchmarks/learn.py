"""Learning on the fly beside a full trajectory, with GFN2-xTB as the calculator (pip install tblite).

    python benchmarks/learn.py [--molecules ethanol malonaldehyde] [--calls 150] [--steps 4000] [--temperature 500]

For each molecule, from one geometry: a model learned with so many calls; a trajectory of the calculator itself at the
same temperature, a call a step, and a model of as many frames of it, drawn at random, with sigma and permutations
chosen in the same way; errors of both on a second trajectory of the calculator, begun elsewhere. Then 20 ps at constant
energy with the learned model: drift and largest deviation of the total energy, and the mean temperature.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from fastgdml.dataset import load_dataset
from fastgdml.drivers.ase import FastGDMLCalculator
from fastgdml.learning import LearnOptions, learn
from fastgdml.learning.growing import GrowingModel, Labelled, System
from fastgdml.model import Model, load_model
from fastgdml.predict import GDMLPredict

KCAL = units.kcal / units.mol
# Roughly; they are optimised with the calculator.
MOLECULES = {
    "ethanol": (
        "CCOH6",
        [
            [1.17, -0.40, 0.00],
            [0.00, 0.55, 0.00],
            [-1.19, -0.22, 0.00],
            [-1.95, 0.37, 0.00],
            [2.10, 0.16, 0.00],
            [1.13, -1.03, 0.89],
            [1.13, -1.03, -0.89],
            [0.04, 1.20, 0.89],
            [0.04, 1.20, -0.89],
        ],
    ),
    "malonaldehyde": (
        "C3O2H4",
        [
            [-1.20, 0.55, 0.00],
            [0.00, 1.25, 0.00],
            [1.20, 0.60, 0.00],
            [-1.28, -0.72, 0.00],
            [1.30, -0.72, 0.00],
            [0.40, -1.10, 0.00],
            [-2.13, 1.12, 0.00],
            [0.00, 2.32, 0.00],
            [2.15, 1.12, 0.00],
        ],
    ),
}


def calculator():
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", verbosity=0)


def start_of(name: str) -> Atoms:
    atoms = Atoms(*MOLECULES[name])
    atoms.calc = calculator()
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    return atoms


def momenta_of(atoms: Atoms, temperature: float, rng: np.random.Generator) -> np.ndarray:
    masses = atoms.get_masses()[:, None]
    momenta = np.sqrt(masses * units.kB * temperature) * rng.standard_normal((len(atoms), 3))
    return momenta - masses / masses.sum() * momenta.sum(axis=0)


def trajectory(start: Atoms, temperature: float, n_steps: int, seed: int) -> Labelled:
    """Run the calculator's own dynamics, a call a step, in kcal/mol and Angstrom."""
    atoms, rng = start.copy(), np.random.default_rng(seed)
    atoms.calc = calculator()
    atoms.set_momenta(momenta_of(atoms, temperature, rng))
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.01 / units.fs, rng=rng, fixcm=False
    )
    R, F, E = [], [], []
    for _ in range(n_steps):
        dynamics.run(1)
        R.append(atoms.positions.copy())
        F.append(atoms.get_forces() / KCAL)
        E.append(atoms.get_potential_energy() / KCAL)
    return Labelled(np.array(R), np.array(F), np.array(E))


def model_of(atoms: Atoms, points: Labelled, n_threads: int) -> Model:
    system = System(atoms.numbers, None, "kcal/mol", "Ang", "molecule", "GFN2-xTB")
    grown = GrowingModel(system, np.arange(len(atoms))[None, :], n_std=1, n_threads=n_threads)
    grown.add(points)
    grown.set_kernel(grown.found_perms(), grown.sig)
    grown.set_kernel(grown.perms, grown.best_sigma())
    return grown.model()


def errors(model: Model, points: Labelled, n_threads: int) -> tuple[float, float, float]:
    """Return mean absolute, root mean square and largest error of components of forces."""
    _, F = GDMLPredict(model, max_processes=n_threads).predict(points.R.reshape(len(points), -1))
    difference = F.reshape(points.F.shape) - points.F
    return np.abs(difference).mean(), np.sqrt((difference**2).mean()), np.abs(difference).max()


def constant_energy(model: Model, start: Atoms, temperature: float, picoseconds: float) -> tuple[float, float, float]:
    """Run at constant energy. Returns drift a ps, largest deviation of the energy (kcal/mol), mean temperature (K)."""
    atoms, rng = start.copy(), np.random.default_rng(7)
    atoms.calc = FastGDMLCalculator(model, max_processes=1)
    # at the minimum all energy is kinetic, of which half is left: twice the temperature
    atoms.set_momenta(momenta_of(atoms, 2 * temperature, rng))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    total, heat = [], []
    for _ in range(int(picoseconds * 2000 / 20)):
        dynamics.run(20)
        total.append(atoms.get_total_energy() / KCAL)
        heat.append(atoms.get_temperature())
    total = np.array(total)
    slope = np.polyfit(np.linspace(0, picoseconds, len(total)), total, 1)[0]
    return slope, np.abs(total - total[0]).max(), float(np.mean(heat))


def measure(name: str, args: argparse.Namespace) -> None:
    start = start_of(name)
    print(f"{name}, {args.temperature:g} K, {args.calls} points; errors of forces in kcal/mol/Ang")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "start.xyz"
        write(file, start)
        options = LearnOptions(
            temperature=args.temperature,
            max_calls=args.calls,
            target_mae=args.target,
            seed=args.seed,
            max_processes=args.threads,
        )
        begin = time.perf_counter()
        learned = learn(file, Path(folder) / "model.npz", calculator, options)
        seconds = time.perf_counter() - begin
        model, calls = load_model(learned.model), learned.n_calls
        assert len(load_dataset(learned.dataset)["R"]) <= calls
    control = f"on {learned.control.n} control points MAE {learned.control.mae:.3f}"
    print(f"  learned: {learned.picoseconds:.1f} ps, sigma {learned.sig:g}, {learned.n_perms} permutations, ", end="")
    print(f"{seconds:.0f} s in all; {control}")
    full = trajectory(start, args.temperature, args.steps, args.seed + 100)
    drawn = np.random.default_rng(args.seed).choice(len(full), min(calls, len(full)), replace=False)
    frames = model_of(start, full[np.sort(drawn)], args.threads)
    elsewhere = start.copy()
    elsewhere.positions = full.R[-1]
    test = trajectory(elsewhere, args.temperature, args.steps, args.seed + 200)[np.arange(0, args.steps, 10)]
    for title, n, entries in (("learned", calls, model), ("of frames", args.steps, frames)):
        mae, rmse, largest = errors(entries, test, args.threads)
        print(f"  {title}: {n} calls, MAE {mae:.3f}, RMSE {rmse:.3f}, largest {largest:.1f}")
    drift, largest, heat = constant_energy(model, start, args.temperature, args.picoseconds)
    print(f"  {args.picoseconds:g} ps at constant energy: drift {drift:.4f} kcal/mol a ps, largest deviation ", end="")
    print(f"{largest:.3f} kcal/mol, mean temperature {heat:.0f} K")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few calls, to see that it runs")
    parser.add_argument("--molecules", nargs="+", choices=sorted(MOLECULES), default=sorted(MOLECULES))
    parser.add_argument("--calls", type=int, default=150)
    parser.add_argument("--target", type=float, default=1e-6, help="error at which to stop, kcal/mol/Ang")
    parser.add_argument("--steps", type=int, default=4000, help="of the calculator's own trajectories")
    parser.add_argument("--temperature", type=float, default=500.0)
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    try:
        calculator()
    except ImportError as error:
        print(f"Nothing is measured: {error}. pip install tblite")
        return
    if args.smoke:
        args.molecules, args.calls, args.steps, args.picoseconds = ["ethanol"], 14, 40, 0.1
    for name in args.molecules:
        measure(name, args)


if __name__ == "__main__":
    main()
