"""Molecular dynamics in ASE: steps per second of velocity Verlet with the calculators of fastgdml and of sgdml 1.0.3.

    python benchmarks/ase_md.py [--peer-python PYTHON_WITH_SGDML_AND_ASE] [--points 200] [--steps 5000]

One model of the embedded ethanol example for all, each in a process of its own; sgdml is run in both of its modes,
NumPy and PyTorch. Beside them stand ASE's own share, measured with a calculator that returns zeros, and that of
`GDMLPredict.predict`. Times are the best of seven runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator, all_changes
from ase.md.verlet import VelocityVerlet
from common import best_of

REPETITIONS = 7


class Zeros(BaseCalculator):
    """Costs nothing."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def check_state(self, atoms, tol=0.0):
        return all_changes

    def calculate(self, atoms, properties, system_changes):
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


def seconds_a_step(start: Atoms, calculator: BaseCalculator, steps: int) -> float:
    def run():
        atoms = start.copy()
        atoms.calc = calculator
        momenta = np.random.default_rng(0).normal(size=(len(atoms), 3))
        atoms.set_momenta(momenta * np.sqrt(atoms.get_masses()[:, None] * units.kB * 300))
        VelocityVerlet(atoms, 0.2 * units.fs).run(steps)

    return best_of(run, REPETITIONS) / steps


def measure(which: str, model: str, steps: int) -> None:
    """Print the time of a step; this runs in the interpreter of the package that is measured."""
    with np.load(Path(model).with_name("start.npz")) as arrays:
        atoms = Atoms(arrays["z"], arrays["R"])
    if which != "fastgdml":
        if not hasattr(np, "in1d"):
            np.in1d = np.isin  # noqa: NPY201 (sgdml 1.0.3 on NumPy >= 2.4)
        from sgdml.intf.ase_calc import SGDMLCalculator

        atoms.calc = SGDMLCalculator(model, use_torch=which == "sgdml-torch")
        print("ENERGY", float(np.squeeze(atoms.get_potential_energy())))
        print("SECONDS", seconds_a_step(atoms, atoms.calc, steps))
        return
    from fastgdml.drivers.ase import FastGDMLCalculator

    calculator = atoms.calc = FastGDMLCalculator(model)
    print("ENERGY", atoms.get_potential_energy())
    R = atoms.positions.reshape(1, -1)
    prediction = best_of(lambda: [calculator.predictor.predict(R) for _ in range(steps)], REPETITIONS) / steps
    print("SECONDS", seconds_a_step(atoms, calculator, steps))
    print("PREDICT", prediction)
    print("ASE", seconds_a_step(atoms, Zeros(use_cache=False), steps))


def measured(python: str, which: str, model: Path, steps: int) -> dict[str, float]:
    command = [python, str(Path(__file__).resolve()), "--measure", which, str(model), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = ("ENERGY", "SECONDS", "PREDICT", "ASE")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(names)]
    if done.returncode or not lines:
        raise SystemExit(f"{which} failed in {python}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {name: float(value) for name, value in lines}


def compare(n_points: int, steps: int, peer_python: str | None) -> None:
    """Train, export, and print a table."""
    from fastgdml.dataset import load_dataset
    from fastgdml.exchange import export_sgdml
    from fastgdml.model import save_model
    from fastgdml.train import GDMLTrain

    dataset = load_dataset("ethanol")
    model = GDMLTrain().train(GDMLTrain().create_task(dataset, n_points, dataset, 10, sig=20, seed=0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "start.npz", z=dataset["z"], R=dataset["R"][7])
        save_model(folder / "model.npz", model)
        times = measured(sys.executable, "fastgdml", folder / "model.npz", steps)
        ours = times["SECONDS"]
        rest = ours - times["PREDICT"] - times["ASE"]
        print(f"ethanol, {n_points} points, velocity Verlet, {steps} steps")
        print(f"fastgdml: {1 / ours:8.0f} steps/s, {1e6 * ours:.1f} us a step, of which")
        print(f"          ASE {1e6 * times['ASE']:.1f} us, predict {1e6 * times['PREDICT']:.1f} us, ", end="")
        print(f"calculator {1e6 * rest:.1f} us")
        if peer_python is None:
            return
        export_sgdml(folder / "model_sgdml.npz", model)
        for mode in ("sgdml", "sgdml-torch"):
            theirs = measured(peer_python, mode, folder / "model_sgdml.npz", max(20, steps // 20))
            if not np.isclose(theirs["ENERGY"], times["ENERGY"], rtol=1e-7):
                raise SystemExit(f"energies differ: {theirs['ENERGY']} eV by {mode}, {times['ENERGY']} eV by fastgdml")
            seconds = theirs["SECONDS"]
            print(
                f"{mode}: {1 / seconds:.0f} steps/s, {1e6 * seconds:.0f} us a step: {seconds / ours:.1f} times as long"
            )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--peer-python", help="interpreter that has sgdml and ASE")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--measure", nargs=2, metavar=("WHICH", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        measure(*args.measure, args.steps)
    elif args.smoke:
        compare(30, 20, args.peer_python)
    else:
        compare(args.points, args.steps, args.peer_python)


if __name__ == "__main__":
    main()
