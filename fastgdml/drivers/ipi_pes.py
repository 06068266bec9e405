"""PES driver for i-PI: the port of its <ffsgdml> to the infrastructure of ``ipi.pes``.

i-PI loads this file by its path, which the command ``python -m fastgdml.drivers.ipi_pes`` prints. Within i-PI, all
beads in one call of the model:

    <ffdirect name='gdml' pbc='false'>
      <pes> custom </pes>
      <pes_path> PATH </pes_path>
      <parameters> {model: model.npz} </parameters>
      <batch_size> 8 </batch_size>
    </ffdirect>

Without ``threaded='true'`` on <ffdirect>, i-PI waits for ever unless the number of beads is a multiple of the batch
size.

As a client of its own, of an <ffsocket>, with or without its <batch_size>:

    i-pi-driver-py -u -a NAME -m custom -P PATH -o model.npz

Further parameters of `FastGDML_driver` follow in the same ways: ``{model: model.npz, n_threads: 2}`` and
``-o model.npz,n_threads=2``.
"""

# The file must not be called ipi.py: i-PI enters it into sys.modules under its bare name.

from __future__ import annotations

import json
from inspect import signature
from typing import Any

import numpy as np

try:
    from ipi.pes.dummy import Dummy_driver
except ImportError as error:
    raise ImportError("The driver for i-PI needs i-PI 3.1.6 or newer: pip install 'fastgdml[ipi]'") from error

from fastgdml.drivers.common import make_whole, require_cell, unit_sizes
from fastgdml.errors import DataError, UsageError
from fastgdml.predict import GDMLPredict
from fastgdml.types import Array

__DRIVER_NAME__ = "fastgdml"
__DRIVER_CLASS__ = "FastGDML_driver"

Result = tuple[float, Array, Array, str]


class FastGDML_driver(Dummy_driver):
    """Energies, forces and virials of a trained model for i-PI.

    Parameters
    ----------
    model : str
        Model file: npz, or flat (``.fgdml``).
    e_unit, r_unit : str, optional
        Units of the model ("kcal/mol", "eV", "Hartree", ...; "Ang", "Bohr", "nm"). By default those that it records.
    n_threads : int, optional
        Number of threads. All by default; give 1 if one driver runs for each bead.
    any_cell : bool
        Take any cell of i-PI, not only the one that a periodic model was trained in.
    std : bool
        Give i-PI standard deviations as extras: ``energy_std`` in Hartree and ``force_std`` in Hartree/Bohr, one for
        each atom, of a component of the force. The model must have samples for them (``fastgdml train --std 16``).
    max_std : float, optional
        End the simulation where the standard deviation of a force is larger, in the unit of the model.
    verbose : bool
        Parameter of all drivers of i-PI; without effect.
    **kwargs
        ``verbosity``, which i-PI adds itself, has no effect; others are refused.

    Raises
    ------
    FileFormatError
        If the file cannot be read or is no model.
    UsageError
        If the units are neither recorded nor given, or unknown, or a parameter is; if standard deviations are wanted of
        a model that has none.

    Notes
    -----
    i-PI does not say which atoms it has: they must be those of the training set, in its order. Molecules that i-PI has
    wrapped into its cell (``pbc='true'``) are made whole; otherwise a model of a molecule ignores the cell. A periodic
    model holds in the cell that it was trained in, which i-PI may have turned.
    """

    def __init__(
        self,
        model: str,
        e_unit: str | None = None,
        r_unit: str | None = None,
        n_threads: int | None = None,
        any_cell: bool = False,
        verbose: bool = False,
        std: bool = False,
        max_std: float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("verbosity", None)
        if kwargs:
            known = ", ".join(name for name in signature(type(self)).parameters if name != "kwargs")
            raise UsageError(f"The driver has no parameter {', '.join(map(repr, kwargs))}; it has {known}.")
        self.predictor = GDMLPredict(model, max_processes=n_threads)
        self._energy, length = unit_sizes(self.predictor, e_unit, r_unit, "Hartree", "Bohr")
        self._length = 1 / length
        self._is_periodic = self.predictor.periodic
        self._any_cell = any_cell
        self._send_std, self._max_std = std, max_std
        if std or max_std is not None:
            self.predictor.require_std()
        super().__init__(verbose=verbose)

    def compute_structure(self, cell: Array, pos: Array) -> Result:
        """Return energy, forces (n_atoms, 3), virial (3, 3) and an empty text for one geometry; see `compute`."""
        return self._compute_all([cell], [pos])[0]

    def compute(self, cell: list[Array] | Array, pos: list[Array] | Array) -> list[Result] | Result:
        """Evaluate one geometry, or a batch in one call of the model.

        Parameters
        ----------
        cell : ndarray, shape (3, 3), or list of them
            Lattice vectors as columns, in Bohr.
        pos : ndarray, shape (n_atoms, 3), or list of them
            Positions in Bohr.

        Returns
        -------
        tuple or list of tuple
            Energy (Hartree), forces (n_atoms, 3) (Hartree/Bohr), virial (3, 3) = -dE/d(strain) (Hartree), and a text:
            empty, or standard deviations in JSON.

        Raises
        ------
        DataError
            If the number of atoms is not the model's, the cell is not that of a periodic model, a molecule that is
            wrapped does not fit into it, a geometry cannot be evaluated, or the standard deviation of a force is larger
            than `max_std`.
        """
        if isinstance(cell, list):
            return self._compute_all(cell, list(pos))
        return self.compute_structure(cell, np.asarray(pos))

    def _compute_all(self, cells: list[Array], positions: list[Array]) -> list[Result]:
        n_atoms = self.predictor.n_atoms
        for r in positions:
            if r.size != 3 * n_atoms:
                raise DataError(f"i-PI has {r.size // 3} atoms, the model {n_atoms}: it needs its own, in their order.")
        R = np.reshape(positions, (-1, 3 * n_atoms)) * self._length
        if not self._is_periodic:
            for r, cell in zip(R, cells, strict=True):
                make_whole(self.predictor, r[None], cell * self._length)
        with_std = self._send_std or self._max_std is not None
        E, F, virial, *std = self.predictor.predict(
            R, lattice=self._lattices(cells), return_virial=True, return_std=with_std
        )
        extras = [""] * len(E)
        if with_std:
            extras = self._extras(*std)
        E *= self._energy
        F *= self._energy * self._length
        virial *= self._energy
        return list(zip(E.tolist(), F.reshape(-1, n_atoms, 3), virial, extras, strict=True))

    def _extras(self, E_std: Array, F_std: Array) -> list[str]:
        """Return what to tell i-PI of standard deviations, or raise where they are too large."""
        if self._max_std is not None and F_std.max() > self._max_std:
            raise DataError(
                f"The standard deviation of the force on atom {F_std.max(axis=0).argmax() + 1} is {F_std.max():.4g}, "
                f"more than max_std = {self._max_std:g}: the model does not know this geometry."
            )
        if not self._send_std:
            return [""] * len(E_std)
        return [
            json.dumps({"energy_std": e * self._energy, "force_std": (f * self._energy * self._length).tolist()})
            for e, f in zip(E_std.tolist(), F_std, strict=True)
        ]

    def _lattices(self, cells: list[Array]) -> Array | None:
        """Return cells in the unit of the model, one if all are the same; None for a molecule."""
        if not self._is_periodic:
            return None
        lattices = np.array(cells) * self._length
        if (lattices == lattices[0]).all():
            lattices = lattices[0]
        if not self._any_cell:
            for lattice in lattices.reshape(-1, 3, 3):
                require_cell(self.predictor, lattice, "i-PI's cell")
        return lattices


if __name__ == "__main__":
    print(__file__)
