"""Write a data file of LAMMPS with ethanol molecules of the shipped dataset.

    python make_data.py ethanol.data --molecules 1 --box 20

Atoms come in the order of the dataset, which is that of a model trained on it; every molecule has a molecule ID, and
lies in a cell of its own, so that the molecules do not touch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fastgdml.dataset import load_dataset

TYPES = {6: 1, 8: 2, 1: 3}  # atomic number -> atom type
MASSES = {1: 12.011, 2: 15.999, 3: 1.008}  # by which fastgdml knows the elements


def data_file(n_molecules: int, box: float) -> str:
    """Return the text of the file, for units real or metal (lengths in Angstrom) and atom_style molecular."""
    dataset = load_dataset("ethanol")
    z, R = dataset["z"], dataset["R"]
    n_side = round(np.ceil(n_molecules ** (1 / 3)))
    cells = np.stack(np.meshgrid(*[np.arange(n_side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n_molecules]
    lines = []
    for molecule, cell in enumerate(cells):
        geometry = R[7 * molecule % len(R)]
        centre = (cell + 0.5) * box / n_side
        for atom, position in enumerate(geometry - geometry.mean(axis=0) + centre):
            x, y, w = (repr(float(coordinate)) for coordinate in position)
            lines.append(f"{molecule * len(z) + atom + 1} {molecule + 1} {TYPES[int(z[atom])]} {x} {y} {w}")
    return "\n".join(
        [
            f"{n_molecules} ethanol from the example dataset of fastgdml",
            "",
            f"{len(lines)} atoms",
            f"{len(MASSES)} atom types",
            *(f"0.0 {box} {axis}lo {axis}hi" for axis in "xyz"),
            "",
            "Masses",
            "",
            *(f"{kind} {mass}" for kind, mass in MASSES.items()),
            "",
            "Atoms # molecular",
            "",
            *lines,
            "",
        ]
    )


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--molecules", type=int, default=1)
    parser.add_argument("--box", type=float, default=20.0, help="edge in Angstrom")
    args = parser.parse_args()
    args.path.write_text(data_file(args.molecules, args.box))


if __name__ == "__main__":
    main()
