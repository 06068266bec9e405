"""Make the example dataset shipped with the package: ``fastgdml/data/ethanol.npz``.

Langevin molecular dynamics of one ethanol molecule at 500 K with the GFN2-xTB method. Every 20th
step is labelled with energy and forces and kept. The run is seeded; on another machine the trajectory
diverges after some hundred steps (chaos), the ensemble stays the same.

Run::

    pip install ase tblite
    python tools/make_example.py fastgdml/data/ethanol.npz
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS
from tblite.ase import TBLite

from fastgdml.dataset import create_dataset, save_dataset

N_FRAMES = 2000
STEPS_PER_FRAME = 20
TIME_STEP_FS = 0.5
TEMPERATURE_K = 500.0
FRICTION_PER_FS = 0.005
EQUILIBRATION_STEPS = 2000
SEED = 20261122


def sample_trajectory(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions (A), energies (kcal/mol) and forces (kcal/mol/A) of the frames."""
    rng = np.random.default_rng(SEED)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.1)
    BFGS(atoms, logfile=None).run(fmax=0.01)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE_K, rng=rng)
    md = Langevin(
        atoms,
        TIME_STEP_FS * units.fs,
        temperature_K=TEMPERATURE_K,
        friction=FRICTION_PER_FS / units.fs,
        rng=rng,
    )
    md.run(EQUILIBRATION_STEPS)

    kcal_mol = units.kcal / units.mol
    R, E, F = [], [], []
    for _ in range(N_FRAMES):
        md.run(STEPS_PER_FRAME)
        R.append(atoms.get_positions())
        E.append(atoms.get_potential_energy() / kcal_mol)
        F.append(atoms.get_forces() / kcal_mol)
    return np.array(R), np.array(E), np.array(F)


def main() -> None:
    """Run the dynamics and write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    args = parser.parse_args()

    atoms = molecule("CH3CH2OH")
    R, E, F = sample_trajectory(atoms)
    # Labels carry 1e-6 A, 1e-6 kcal/mol and 1e-5 kcal/mol/A: far below the accuracy of the method, and
    # the file shrinks. Energies and forces were computed before the rounding of the positions, which
    # changes a force by less than 1e-2 * 1e-6 of the bond stiffness.
    dataset = create_dataset(
        name="ethanol",
        theory="gfn2-xtb",
        z=atoms.numbers,
        R=np.round(R, 6),
        E=np.round(E, 6),
        F=np.round(F, 5),
        r_unit="Ang",
        e_unit="kcal/mol",
    )
    dataset["provenance"] = np.array(
        f"tools/make_example.py: GFN2-xTB (tblite {version('tblite')}), ASE {version('ase')} Langevin MD, "
        f"{TEMPERATURE_K:g} K, {TIME_STEP_FS} fs, every {STEPS_PER_FRAME}th step, seed {SEED}"
    )
    save_dataset(args.output, dataset)


if __name__ == "__main__":
    main()
