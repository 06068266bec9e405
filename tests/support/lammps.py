"""Molecules in LAMMPS: for tests in this process, and for scripts that MPI starts."""

import re

import numpy as np
import pytest

from fastgdml.drivers.lammps import attach, open_lammps

MASSES = {6: 12.011, 8: 15.999, 1: 1.008, 29: 63.546}
# 1 kcal/mol, 1 Angstrom and the unit of pressure / energy * volume in each style of units
UNITS = {
    "real": (1.0, 1.0, 68568.415),
    "metal": (4184 / (6.02214076e23 * 1.602176634e-19), 1.0, 1.602176634e6),
    "electron": (4184 / (6.02214076e23 * 4.3597447222071e-18), 1 / 0.529177210903, 2.94210108e13),
}
COMPONENTS = {"pxx": (0, 0), "pyy": (1, 1), "pzz": (2, 2), "pxy": (0, 1), "pxz": (0, 2), "pyz": (1, 2)}
BOX = np.diag([20.0, 21.0, 22.0])


def wrapped(R, box):
    return (R @ np.linalg.inv(box).T % 1.0) @ box.T


class Simulation:
    """Molecules of one kind in LAMMPS, and what a predictor says about them."""

    def __init__(self, z, R, box=BOX, units="real", ids=None, boundary="p p p", style="molecular", settings=""):
        self.z, self.R, self.box = np.asarray(z), np.asarray(R).reshape(-1, len(z), 3), box
        self.energy_unit, self.length_unit, self.pressure_unit = UNITS[units]
        self.n_atoms = self.R.shape[0] * len(z)
        self.ids = np.arange(1, self.n_atoms + 1).reshape(len(self.R), -1) if ids is None else np.asarray(ids)
        self.lmp = open_lammps()
        kinds = list(dict.fromkeys(z))
        a = box * self.length_unit
        self.commands(
            f"""
            units {units}
            atom_style {style}
            {settings or "atom_modify map yes"}
            boundary {boundary}
            region box prism 0 {a[0, 0]!r} 0 {a[1, 1]!r} 0 {a[2, 2]!r} {a[0, 1]!r} {a[0, 2]!r} {a[1, 2]!r}
            create_box {len(kinds)} box
            pair_style zero {5.0 * self.length_unit}
            pair_coeff * *
            """.replace("np.float64(", "").replace(")", "")
        )
        for kind, number in enumerate(kinds, 1):
            self.lmp.command(f"mass {kind} {MASSES[number]}")
        types = [kinds.index(number) + 1 for number in z] * len(self.R)
        x = wrapped(self.R.reshape(-1, 3), box) if boundary == "p p p" else self.R.reshape(-1, 3)
        made = self.lmp.create_atoms(
            self.n_atoms, self.ids.ravel().tolist(), types, (x * self.length_unit).ravel().tolist()
        )
        assert made == self.n_atoms
        if style == "molecular":
            for number, atoms in enumerate(self.ids, 1):
                for atom in atoms:
                    self.lmp.command(f"set atom {atom} mol {number}")

    def commands(self, text):
        self.lmp.commands_string(re.sub(r"\n +", "\n", text))

    def attach(self, *args, **options):
        return attach(self.lmp, *args, **options)

    def of_atoms(self, name):
        """Values of atoms in kcal/mol and Angstrom, shape (n_molecules, n_atoms, 3)."""
        unit = {"f": self.energy_unit / self.length_unit, "x": self.length_unit}[name]
        found = dict(
            zip(
                self.lmp.gather_concat("id", 0, 1),
                np.array(self.lmp.gather_concat(name, 1, 3)).reshape(-1, 3),
                strict=True,
            )
        )
        return np.array([[found[atom] for atom in atoms] for atoms in self.ids]) / unit

    def run(self, n_steps=0):
        self.lmp.command(f"run {n_steps}")

    def assert_predicts(self, predictor, R=None, lattice=None, rotation=None):
        """Energy, forces and all components of the pressure of atoms at rest, for the molecules R."""
        R = self.R if R is None else R
        E, F, virial = predictor.predict(R.reshape(len(R), -1), lattice=lattice, return_virial=True)
        F, virial = F.reshape(R.shape), virial.sum(axis=0)
        if rotation is not None:
            F, virial = F @ rotation.T, rotation @ virial @ rotation.T
        assert self.lmp.get_thermo("pe") == pytest.approx(E.sum() * self.energy_unit, rel=2e-9)
        np.testing.assert_allclose(self.of_atoms("f"), F, rtol=0, atol=2e-8 * np.abs(F).max())
        factor = self.energy_unit * self.pressure_unit / (np.linalg.det(self.box) * self.length_unit**3)
        pressure = [self.lmp.get_thermo(name) for name in COMPONENTS]
        expected = np.array([virial[i, j] * factor for i, j in COMPONENTS.values()])
        np.testing.assert_allclose(pressure, expected, rtol=0, atol=2e-7 * np.abs(expected).max())
