"""What learned weights of pairs gain, against no weights at the best sigma on the same points (docs/theory/weights.md).

    python benchmarks/weights.py DATA_DIR [--sets md17_ethanol ...] [--sizes 100 200 500 1000] [--kinds orbits types]

For each data set and number of training points: mean absolute errors of forces and energies on points that neither
training nor validation saw, without weights at the sigma that is best on these very points, and with weights; the time
of learning in units of one training, and the evaluations that it took. `--drift 20` follows each model for 20 ps
without thermostat (ASE, 0.25 fs, 300 K) and prints the drift and the fluctuation of the total energy per atom.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastgdml.dataset import Dataset, load_dataset
from fastgdml.model import Model
from fastgdml.predict import GDMLPredict
from fastgdml.sampling import draw_stratified, generator
from fastgdml.task import Task
from fastgdml.train import GDMLTrain

SETS = (
    "md17_ethanol",
    "xtb_ethanol",
    "md17_aspirin",
    "xtb_aspirin",
    "qm22_alkane_C14",
    "emt_cu111",
    "methanol_Cu100_train",
)
N_VALID, N_TEST = 500, 1500
STEP = 2**0.5


class Evaluations:
    """A callback that counts evaluations of the objective, and takes the time of learning."""

    def __init__(self) -> None:
        self.number, self.seconds, self._begun = 0, 0.0, 0.0

    def __call__(self, current: int, total: int = 1, disp_str: str = "", *_: Any, **__: Any) -> None:
        if not disp_str.startswith("Learning weights"):
            return
        if current == 0:
            self._begun = time.perf_counter()
        elif current < total:
            self.number += 1
        self.seconds = time.perf_counter() - self._begun


def errors(model: Model, dataset: Dataset, points: np.ndarray) -> tuple[float, float]:
    """Return the mean absolute errors of forces and energies."""
    lattice = dataset.get("lattice")
    if lattice is not None and np.ndim(lattice) == 3:
        lattice = lattice[points]
    E, F = GDMLPredict(model).predict(dataset["R"][points].reshape(len(points), -1), lattice=lattice)
    reference = dataset["F"][points].reshape(len(points), -1)
    return float(np.abs(F - reference).mean()), float(np.abs(E - np.ravel(dataset["E"])[points]).mean())


def best_plain(train: GDMLTrain, task: Task, dataset: Dataset, points: np.ndarray) -> tuple[float, float, float, float]:
    """Return the best sigma without weights, the errors there, and the time of one training: a search downhill."""
    found: dict[int, tuple[float, float]] = {}
    seconds = []

    def force(number: int) -> float:
        if number not in found:
            begun = time.perf_counter()
            model = train.train({**task, "sig": 20.0 * STEP**number})
            seconds.append(time.perf_counter() - begun)
            found[number] = errors(model, dataset, points)
        return found[number][0]

    at = 0
    for direction in (1, -1):
        while force(at + direction) < force(at):
            at += direction
    return 20.0 * STEP**at, *found[at], float(np.median(seconds))


def drift(model: Model, dataset: Dataset, picoseconds: float) -> tuple[float, float]:
    """Return slope and standard deviation around it of the total energy, in ueV/atom/ps and ueV/atom.

    From the relaxed first geometry of the dataset, with momenta for 600 K, of which half becomes potential energy.
    """
    from ase import Atoms, units
    from ase.md.verlet import VelocityVerlet
    from ase.optimize import BFGS

    from fastgdml.drivers.ase import FastGDMLCalculator

    atoms = Atoms(dataset["z"], dataset["R"][0], calculator=FastGDMLCalculator(model))
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    masses = atoms.get_masses()[:, None]
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * 600)
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    dynamics = VelocityVerlet(atoms, 0.25 * units.fs)
    time, total = [], []
    dynamics.attach(lambda: (time.append(dynamics.get_time()), total.append(atoms.get_total_energy())), interval=20)
    dynamics.run(round(4000 * picoseconds))
    per_atom, ps = 1e6 * np.array(total) / len(atoms), np.array(time) / (1000 * units.fs)
    slope, intercept = np.polyfit(ps, per_atom, 1)
    return float(slope), float(np.std(per_atom - slope * ps - intercept))


def measure(
    train: GDMLTrain, dataset: Dataset, n_train: int, kinds: list[str], seed: int, picoseconds: float = 0
) -> None:
    """Print a line for each kind of weights, and one for the dynamics of each model."""
    n_valid = min(N_VALID, (len(dataset["R"]) - n_train) // 3)
    plain_task = train.create_task(dataset, n_train, dataset, n_valid, sig=20, seed=seed)
    seen = np.concatenate([plain_task["idxs_train"], plain_task["idxs_valid"]])
    n_test = min(N_TEST, len(dataset["R"]) - len(seen))
    points = draw_stratified(dataset["E"], n_test, generator(seed + 1), seen)
    sig, force, energy, seconds = best_plain(train, plain_task, dataset, points)
    if picoseconds:
        show_drift("none", train.train({**plain_task, "sig": sig}), dataset, picoseconds)
    for kind in kinds:
        counted = Evaluations()
        sizes = (n_train, dataset, n_valid)
        perms = plain_task["perms"]
        task = train.create_task(dataset, *sizes, sig=20, seed=seed, perms=perms, weights=kind, callback=counted)
        model = train.train(task)
        new = errors(model, dataset, points)
        given_up = "" if "desc_weights" in task else "  given up"
        print(
            f"{dataset['name']!s:<16} {n_train:5d} {kind:<7} sigma {sig:7.1f}  forces {force:8.4f} {new[0]:8.4f} "
            f"{1 - new[0] / force:+7.1%}  energies {energy:8.4f} {new[1]:8.4f} {1 - new[1] / energy:+7.1%}  "
            f"{counted.number:3d} evaluations, {counted.seconds / seconds:6.1f} trainings{given_up}",
            flush=True,
        )
        if picoseconds:
            show_drift(kind, model, dataset, picoseconds)


def show_drift(kind: str, model: Model, dataset: Dataset, picoseconds: float) -> None:
    """Print what the total energy does."""
    slope, fluctuation = drift(model, dataset, picoseconds)
    print(f"{kind:>30}  drift {slope:+8.3f} ueV/atom/ps, fluctuation {fluctuation:7.1f} ueV/atom", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder of the data sets")
    parser.add_argument("--smoke", action="store_true", help="only see whether it runs, with the shipped data set")
    parser.add_argument("--sets", nargs="+", default=SETS, help="their names")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[100, 200, 500, 1000], help="numbers of training points"
    )
    parser.add_argument("--kinds", nargs="+", default=["orbits", "types"], help="which pairs have one weight")
    parser.add_argument("--seed", type=int, default=1, help="of the draws")
    parser.add_argument("--drift", type=float, default=0, metavar="PS", help="also the drift of energy in dynamics")
    parser.add_argument("--threads", type=int, help="number of threads")
    args = parser.parse_args()
    logging.getLogger("fastgdml").setLevel(logging.ERROR)
    train = GDMLTrain(max_processes=args.threads)
    if args.smoke:
        measure(train, load_dataset("ethanol"), 20, args.kinds, args.seed, 0.1)
        return
    if args.data is None:
        parser.error("name the folder of the data sets, or give --smoke")
    for name in args.sets:
        dataset = load_dataset(args.data / f"{name}.npz")
        dataset["name"] = np.array(name)
        for n_train in args.sizes:
            measure(train, dataset, n_train, args.kinds, args.seed, args.drift)


if __name__ == "__main__":
    main()
