"""Relax a molecule with a model of fastgdml in ASE, and print its harmonic frequencies.

    fastgdml all ethanol 200 500 500                       # a model, ethanol-gfn2-xtb-train200-sym6.npz
    python relax.py ethanol-gfn2-xtb-train200-sym6.npz start.xyz relaxed.xyz

The order of the atoms is that of the training set.
"""

from __future__ import annotations

import argparse

from ase.io import read, write
from ase.optimize import BFGS
from ase.vibrations import VibrationsData

from fastgdml.drivers.ase import FastGDMLCalculator


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("start")
    parser.add_argument("relaxed")
    args = parser.parse_args()

    atoms = read(args.start)
    atoms.calc = FastGDMLCalculator(args.model)
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=1000)
    print(f"energy {atoms.get_potential_energy():.4f} eV")
    print(VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms)).tabulate())
    write(args.relaxed, atoms, format="extxyz")


if __name__ == "__main__":
    main()
