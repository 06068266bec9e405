"""Everything else that ASE reads: trajectories, databases (SchNetPack's among them), outputs of programs.

ASE converts what programs write to eV and Angstrom. Forces are taken as the program wrote them, not masked by
constraints.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError, FastGDMLError, FileFormatError, UsageError
from .frames import Frame, Frames, FrameSource, ReadOptions, place, require_whole_cell
from .names import Labels

_HINT = "pip install 'fastgdml[ase]'"
_DATABASES = ("db", "json", "postgresql", "mysql")
# Arrays of the frame that are not labels.
_ATOM_ARRAYS = {"numbers", "positions"}


class ASESource(FrameSource):
    """Reader of any file that ASE reads, one frame after the other.

    Raises
    ------
    UsageError
        If ASE is missing.
    FileFormatError
        If ASE cannot read the file.
    """

    def __init__(self, path: str, options: ReadOptions) -> None:
        super().__init__(path)
        try:
            from ase.io.formats import UnknownFileTypeError, filetype, ioformats
        except ImportError:
            raise UsageError(
                f"{path} is neither npz nor XYZ; other formats are read by ASE, which is not installed: {_HINT}"
            ) from None
        self._options = options
        self._labels = Labels(path, options, self.facts)
        self.facts.e_unit, self.facts.r_unit = "eV", "Ang"
        try:
            self.format = options.format or filetype(path, read=True)
            if self.format not in ioformats and self.format not in _DATABASES:
                raise UnknownFileTypeError(self.format)
        except UnknownFileTypeError:
            raise FileFormatError(
                f"{path}: its format is not known from the name or the first bytes. Name it: --format, with a name "
                "that ASE knows ('ase info --formats' lists them), or npz, xyz, deepmd."
            ) from None
        except OSError as error:
            raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from None
        if self.format in _DATABASES:
            self._open_database()
            self._rest = self._rows()
        else:
            self._rest = self._frames()
        # labels and units are known from the first frame
        self._head = list(islice(self._rest, 1))

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames; see `FrameSource.chunks`."""
        yield from self._gather(chain(self._head, self._rest))

    def _frames(self) -> Iterator[Frame]:
        from ase.io import iread

        number = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of ASE's readers, about formats
                for atoms in iread(self.path, index=":", format=self.format):
                    yield self._frame(atoms, {}, number)
                    number += 1
        except FastGDMLError:
            raise
        except Exception as error:  # ASE's readers raise anything on files that are cut off or of another kind
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise FileFormatError(
                f"{place(self.path, number)}: ASE cannot read it as {self.format} ({what}). The file may be cut off, "
                "or of another format (--format)."
            ) from None
        if number == 0:
            raise FileFormatError(f"{self.path} holds no frames.")

    def _frame(self, atoms: Any, data: dict[str, Any], number: int) -> Frame:
        where = place(self.path, number)
        per_frame: dict[str, Any] = {}
        per_atom: dict[str, Any] = {}
        results = {} if atoms.calc is None else atoms.calc.results
        for values in (results, atoms.info, data):
            for name, value in values.items():
                if isinstance(value, np.ndarray) and value.ndim and value.size == 3 * len(atoms):
                    self._put(per_atom, name, np.asarray(value), where)
                elif value is not None:
                    self._put(per_frame, name, value, where)
        for name, value in atoms.arrays.items():
            if name not in _ATOM_ARRAYS:
                self._put(per_atom, name, value, where)
        E, F = self._labels.of(per_frame, per_atom, len(atoms), number)
        lattice = None
        if atoms.pbc.any() and self._options.cell is False:
            self.facts.left_out.add("cell")
        elif atoms.pbc.any():
            lattice = require_whole_cell(np.array(atoms.cell.array.T), atoms.pbc, where)
        return Frame(atoms.numbers.copy(), atoms.positions.copy(), E, F, lattice)

    def _put(self, values: dict[str, Any], name: str, value: Any, where: str) -> None:
        if name in values and not np.array_equal(values[name], value):
            raise DataError(f"{where}: it has two different '{name}', one of a calculator and one beside it.")
        values[name] = value

    # ---- databases ----------------------------------------------------------------------------------------------

    def _open_database(self) -> None:
        from ase.db import connect

        try:
            self._db = connect(self.path, append=True)
            self.n_frames = len(self._db)
            metadata = dict(self._db.metadata)
        except Exception as error:
            raise FileFormatError(f"{self.path}: ASE cannot read it as a database ({error}).") from None
        # SchNetPack records units, and keeps labels in the data of rows in those
        self._units: dict[str, Any] = metadata.get("_property_unit_dict") or {}
        if "_distance_unit" in metadata:
            self.facts.r_unit = str(metadata["_distance_unit"])

    def _rows(self) -> Iterator[Frame]:
        if not self.n_frames:
            raise FileFormatError(f"{self.path} holds no frames.")
        number = 0
        try:
            for row in self._db.select():
                data = {name: np.asarray(v) if isinstance(v, list) else v for name, v in dict(row.data).items()}
                extra = {**row.key_value_pairs, **data}
                frame = self._frame(row.toatoms(), extra, number)
                self._record_units()
                yield frame
                number += 1
        except FastGDMLError:
            raise
        except Exception as error:
            raise FileFormatError(f"{place(self.path, number)}: ASE cannot read it ({error}).") from None

    def _record_units(self) -> None:
        if self.facts.energy in self._units:
            self.facts.e_unit = str(self._units[self.facts.energy])
        if self.facts.forces in self._units:
            self.facts.f_unit = str(self._units[self.facts.forces])


class TrajectoryWriter:
    """Writer of an ASE trajectory, in eV and Angstrom, into an open file; `path` is what messages call it."""

    def __init__(self, path: str | os.PathLike[str], file: BinaryIO) -> None:
        try:
            from ase.io.trajectory import TrajectoryWriter as Writer
        except ImportError:
            raise UsageError(f"{path}: writing trajectories of ASE takes ASE: {_HINT}") from None
        try:
            # ASE closes what it is given: a second handle of the file
            self._writer = Writer(os.fdopen(os.dup(file.fileno()), "r+b"), "w")
        except OSError as error:
            raise FileFormatError(f"{path} could not be written: {error.strerror or error}.") from None

    def write(self, frames: Frames) -> None:
        """Add frames."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.stress import full_3x3_to_voigt_6_stress

        for i in range(len(frames)):
            cell = None if frames.lattice is None else frames.lattice[i].T
            atoms = Atoms(frames.z, frames.R[i], cell=cell, pbc=cell is not None)
            results: dict[str, Any] = {}
            if frames.E is not None:
                results["energy"] = float(frames.E[i])
            if frames.F is not None:
                results["forces"] = frames.F[i]
            if frames.virial is not None and cell is not None:
                results["stress"] = full_3x3_to_voigt_6_stress(-frames.virial[i] / atoms.get_volume())
            if frames.E_std is not None:
                atoms.info["energy_std"] = float(frames.E_std[i])
            if frames.F_std is not None:
                atoms.info["force_std"] = frames.F_std[i]  # trajectories have no arrays of other names
            if results:
                atoms.calc = SinglePointCalculator(atoms, **results)
            self._writer.write(atoms)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
