"""npz archives of this and other projects, read and written a chunk at a time.

Read are datasets of sgdml, fastgdml, MD17, MD22 and mbGDML (``R, E, F, z``, ``lattice`` as columns), of rMD17
(``coords, energies, forces, nuclear_charges``), and archives with other usual names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..archive import NewArchive, open_archive
from ..errors import DataError, FileFormatError
from ..files import open_locked
from ..npz import DATASET, load_npz, read_header, replacing, require_memory, text
from .frames import Array, Facts, Frames, FrameSource, ReadOptions, chunk_frames
from .names import choose_energy, choose_forces, is_gradient

# What a dataset has of each frame, but for lattices; as attributes of Frames.
_FIELDS = ("R", "E", "F", "virial", "E_std", "F_std")
_POSITIONS = ("R", "coords", "positions", "coordinates", "pos", "xyz")
_ATOMS = ("z", "nuclear_charges", "numbers", "atomic_numbers", "species", "Z", "atom_numbers", "charges_nuclear")
# Whether the lattice vectors are columns.
_CELLS = {"lattice": True, "cell": False, "cells": False, "box": False, "unit_cell": False}
_TEXTS = ("name", "theory", "e_unit", "r_unit")


class Member:
    """One array of an npz archive, read from front to back in pieces along its first axis.

    Raises
    ------
    FileFormatError
        If it is damaged, or holds pickled objects.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str, where: str) -> None:
        self._file = archive.open(name)
        self._where = where
        try:
            self.shape, fortran, self.dtype = read_header(self._file, where)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise FileFormatError(f"{where} cannot be read ({error}). The file is damaged.") from None
        if self.dtype.hasobject:
            raise FileFormatError(f"{where} holds Python objects instead of numbers.")
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=object))
        if self._row * (self.shape[0] if self.shape else 1) > archive.getinfo(name).file_size:
            raise FileFormatError(f"{where} claims more bytes than it holds. The file is damaged.")
        # Of an array in Fortran's order the first axis is scattered over the file.
        self._whole = self._read_fortran() if fortran and len(self.shape) > 1 else None
        self._position = 0

    def take(self, n: int) -> npt.NDArray[Any]:
        """Return the next `n` rows."""
        first, self._position = self._position, self._position + n
        if self._whole is not None:
            return self._whole[first : first + n]
        data = self._read(n * self._row)
        return np.frombuffer(bytearray(data), dtype=self.dtype).reshape(n, *self.shape[1:])

    def _read_fortran(self) -> npt.NDArray[Any]:
        require_memory(self._row * self.shape[0], self._where)
        data = self._read(self._row * self.shape[0])
        return np.frombuffer(data, dtype=self.dtype).reshape(self.shape, order="F")

    def _read(self, n_bytes: int) -> bytes:
        try:
            data = self._file.read(n_bytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise FileFormatError(f"{self._where} cannot be read ({error}). The file is damaged.") from None
        if len(data) != n_bytes:
            raise FileFormatError(f"{self._where} ends early. The file is damaged.")
        return data

    def close(self) -> None:
        """Close the archive's member."""
        self._file.close()


class NpzSource(FrameSource):
    """Reader of npz archives."""

    def __init__(self, path: str, options: ReadOptions) -> None:
        super().__init__(path)
        entries = load_npz(path, {"type", *_TEXTS, "perms", "provenance"})
        kind = str(entries.get("type", "d"))
        if kind in ("m", "t"):
            raise FileFormatError(f"{path} is a {'model' if kind == 'm' else 'task'}; frames are needed.")
        self._archive, members = open_archive(Path(path))
        self._names = list(members)
        try:
            self._open(entries, options)
        except BaseException:
            self.close()
            raise

    def _open(self, entries: Mapping[str, Any], options: ReadOptions) -> None:
        names = self._names
        facts = self.facts
        for key in _TEXTS:
            if key in entries:
                setattr(facts, key, text(entries[key]))
        if entries.get("perms") is not None:
            perms = np.atleast_2d(entries["perms"])
            if perms.dtype.kind not in "iu":
                raise DataError(f"{self.path}: perms must hold integers; found {perms.dtype}.")
            facts.perms = perms.astype(np.int64)

        R_name = self._one_of(names, _POSITIONS, "positions")
        z_name = self._one_of(names, _ATOMS, "atomic numbers")
        self._R = self._member(R_name)
        if self._R.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: {R_name} must hold real numbers; found {self._R.dtype}.")
        if len(self._R.shape) != 3 or self._R.shape[2] != 3 or 0 in self._R.shape:
            raise DataError(f"{self.path}: {R_name} must have shape (n_geometries, n_atoms, 3); found {self._R.shape}.")
        self.n_frames, n_atoms = self._R.shape[:2]
        self._z = self._member(z_name)
        if self._z.shape not in ((n_atoms,), (self.n_frames, n_atoms)):
            raise DataError(f"{self.path}: {z_name} has shape {self._z.shape}, {R_name} has {self._R.shape}.")

        shapes = {name: self._member(name).shape for name in names if self._is_numeric(name)}
        energies = {n: float(i) for i, n in enumerate(names) if _per_frame(shapes.get(n), self.n_frames)}
        forces = [name for name in names if shapes.get(name) == self._R.shape and name != R_name]
        E_name = None
        if options.use_E:
            E_name, _ = choose_energy(self.path, options.energy, energies)
        F_name = choose_forces(self.path, options.forces, forces) if options.use_F else None
        cells = [name for name in _CELLS if name in names and options.cell is not False and not self._is_none(name)]
        if len(cells) > 1:
            raise DataError(f"{self.path} has several lattices: {', '.join(cells)}. Remove all but one.")
        self._E = None if E_name is None else self._member(E_name)
        self._F = None if F_name is None else self._member(F_name)
        self._cell = self._member(cells[0]) if cells else None
        self._columns = bool(cells) and _CELLS[cells[0]]
        if self._cell is not None and self._cell.shape not in ((3, 3), (self.n_frames, 3, 3), (self.n_frames, 9)):
            raise DataError(f"{self.path}: {cells[0]} has shape {self._cell.shape}; (3, 3) for each cell is needed.")
        for name in (z_name, *cells):
            if (found := self._member(name).dtype).kind not in "fiu" and not (name == z_name and found.kind == "U"):
                raise DataError(f"{self.path}: {name} must hold numbers; found {found}.")
        facts.energy, facts.forces = E_name, F_name
        facts.gradients = is_gradient(F_name, options)
        used = {R_name, z_name, E_name, F_name, *cells, *_TEXTS, "perms", "type", "md5", "code_version"}
        statistics = {f"{key}_{which}" for key in "EF" for which in ("min", "max", "mean", "var")}
        facts.left_out = set(names) - used - statistics

    def _one_of(self, names: list[str], wanted: tuple[str, ...], what: str) -> str:
        found = [name for name in wanted if name in names]
        if len(found) == 1:
            return found[0]
        if "R" in found or "z" in found:  # of this format itself
            return found[0]
        problem = f"several that may be {what}: {', '.join(found)}" if found else f"no {what} ({', '.join(wanted)})"
        raise FileFormatError(f"{self.path} holds {', '.join(names[:20]) or 'nothing'}: {problem}.")

    def _member(self, name: str) -> Member:
        return Member(self._archive, f"{name}.npy", f"{self.path}: {name}")

    def _is_none(self, name: str) -> bool:
        """Return whether an entry is the object None, as some programs store what there is not."""
        return load_npz(self.path, {name})[name] is None if not self._is_numeric(name) else False

    def _is_numeric(self, name: str) -> bool:
        try:
            member = self._member(name)
        except FileFormatError:
            return False
        member.close()
        return member.dtype.kind in "fiu"

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames; see `FrameSource.chunks`."""
        n_frames, n_atoms = int(self.n_frames or 0), self._R.shape[1]
        sign = -1.0 if self.facts.gradients else 1.0
        shared_z = _atomic_numbers(self._z.take(n_atoms), self.path) if len(self._z.shape) == 1 else None
        shared_cell = None
        if self._cell is not None and len(self._cell.shape) == 2 and self._cell.shape == (3, 3):
            shared_cell = np.asarray(self._cell.take(3), dtype=np.float64)
        step = chunk_frames(n_atoms)
        while self.n_read < n_frames:
            n = min(step, n_frames - self.n_read)
            R = np.asarray(self._R.take(n), dtype=np.float64)
            E = None if self._E is None else np.asarray(self._E.take(n), dtype=np.float64).reshape(n)
            F = None if self._F is None else np.asarray(self._F.take(n), dtype=np.float64)
            if F is not None and sign < 0:
                F = -F
            lattice = None
            if shared_cell is not None:
                lattice = np.broadcast_to(shared_cell, (n, 3, 3))
            elif self._cell is not None:
                lattice = np.asarray(self._cell.take(n), dtype=np.float64).reshape(n, 3, 3)
            if lattice is not None and not self._columns:
                lattice = lattice.swapaxes(1, 2)
            first, self.n_read = self.n_read, self.n_read + n
            if shared_z is not None:
                yield Frames(first, shared_z, R, E, F, lattice)
                continue
            z = _atomic_numbers(self._z.take(n), self.path)
            edges = [0, *(np.flatnonzero((z[1:] != z[:-1]).any(axis=1)) + 1), n]
            whole = Frames(first, z[0], R, E, F, lattice)
            for a, b in pairwise(edges):
                part = whole.part(slice(a, b))
                kept = z[a] > 0  # shorter molecules are padded with zeros
                yield Frames(
                    part.first,
                    z[a][kept],
                    part.R[:, kept],
                    part.E,
                    None if part.F is None else part.F[:, kept],
                    part.lattice,
                )

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


def _per_frame(shape: tuple[int, ...] | None, n_frames: int) -> bool:
    return shape is not None and len(shape) > 0 and shape[0] == n_frames and int(np.prod(shape)) == n_frames


def _atomic_numbers(z: npt.NDArray[Any], path: str) -> npt.NDArray[Any]:
    if not np.issubdtype(z.dtype, np.integer):
        whole = z.astype(np.int64) if np.issubdtype(z.dtype, np.floating) and np.isfinite(z).all() else None
        if whole is None or (whole != z).any():
            raise DataError(f"{path}: atomic numbers must be integers; found {z.dtype}.")
        return whole
    return z


# ---- writing ----------------------------------------------------------------------------------------------------


class Spool:
    """Frames on disk, in a folder beside the dataset that they will be: ``NAME.npz.part``.

    The folder marks an unfinished file. It is deleted when the file is complete or an error ends the work, and stays
    when the program is killed, to be continued (`resume`). It is locked while somebody writes to it.

    Parameters
    ----------
    target : path-like
        The npz file to be.
    job : dict
        What is being done, as plain data; a continued job must be the same. Without it nothing can be continued, and
        what a killed program left is deleted.
    resume : bool
        Continue what a killed program left.
    """

    def __init__(
        self, target: str | os.PathLike[str], job: Mapping[str, Any] | None = None, resume: bool = False
    ) -> None:
        self._target = Path(target)
        self.folder = self._target.with_name(self._target.name + ".part")
        self._files: dict[str, BinaryIO] = {}
        self._state: dict[str, Any] = {"job": dict(job or {}), "n": 0, "keys": {}, "z": [], "z_dtype": "int64"}
        state = self.folder / "state.json"
        if resume and not self.folder.exists():
            raise FileFormatError(f"There is nothing to resume: no {self.folder}.")
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = open_locked(self.folder / "lock")
        except BlockingIOError:
            raise FileFormatError(f"Another fastgdml is writing '{target}' now.") from None
        except OSError as error:
            raise FileFormatError(f"{self.folder} cannot be written: {error.strerror}.") from None
        try:
            self._begin(state, resume, resumable=job is not None)
        except BaseException:
            self.close()
            raise

    def _begin(self, state: Path, resume: bool, resumable: bool) -> None:
        """Go on with what is in the folder, or empty it."""
        if resume and state.exists():
            return self._continue(state)
        if state.exists() and resumable:
            raise FileFormatError(
                f"{self.folder} is what an unfinished conversion left. Give --resume to finish it, or remove the "
                "folder."
            )
        try:
            for file in (state, *self.folder.glob("*.bin")):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise FileFormatError(f"{self.folder} cannot be written: {error.strerror}.") from None

    @property
    def n(self) -> int:
        """Number of frames that are safely there."""
        return int(self._state["n"])

    @property
    def z(self) -> npt.NDArray[Any]:
        """Atomic numbers."""
        return np.array(self._state["z"], dtype=self._state["z_dtype"])

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self._state["z"])

    def _continue(self, path: Path) -> None:
        damaged = f"Remove {self.folder} and start anew."
        try:
            state = json.loads(path.read_text())
            rows = {key: int(state["n"]) * _row_bytes(shape) for key, shape in state["keys"].items()}
            short = [key for key, n in rows.items() if (self.folder / f"{key}.bin").stat().st_size < n]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise FileFormatError(f"{path} cannot be read ({error}). {damaged}") from None
        if short:
            raise FileFormatError(f"{self.folder}/{short[0]}.bin is shorter than {path.name} says. {damaged}")
        if state.get("job") != self._state["job"]:
            raise FileFormatError(
                f"{self.folder} belongs to another conversion: its sources, options or files have changed. Remove "
                "the folder and start anew."
            )
        self._state = state
        for key, n_bytes in rows.items():
            file = open(self.folder / f"{key}.bin", "r+b")  # noqa: SIM115 (closed by close)
            file.truncate(n_bytes)
            file.seek(0, os.SEEK_END)
            self._files[key] = file

    def append(self, frames: Frames) -> None:
        """Add frames; afterwards they are safe from the death of the program."""
        arrays = {key: getattr(frames, key) for key in (*_FIELDS, "lattice")}
        present = {key: array for key, array in arrays.items() if array is not None}
        if not self.n and not self._files:
            self._state["z"] = frames.z.tolist()
            self._state["z_dtype"] = str(frames.z.dtype)
            self._state["keys"] = {key: list(array.shape[1:]) for key, array in present.items()}
            for key in present:
                self._files[key] = open(self.folder / f"{key}.bin", "x+b")  # noqa: SIM115 (closed by close)
        try:
            for key, file in self._files.items():
                file.write(np.ascontiguousarray(present[key], dtype=np.float64).data)
                file.flush()
            self._state["n"] = self.n + len(frames)
            temporary = self.folder / "state.tmp"
            temporary.write_text(json.dumps(self._state))
            os.replace(temporary, self.folder / "state.json")
        except OSError as error:
            raise FileFormatError(f"{self._target} could not be written: {error.strerror or error}.") from error

    def array(self, key: str) -> Array | None:
        """Return one of the arrays, mapped from disk."""
        if key not in self._files:
            return None
        shape = (self.n, *self._state["keys"][key])
        return np.memmap(self.folder / f"{key}.bin", dtype=np.float64, mode="r", shape=shape)

    def read(self, which: slice | npt.NDArray[np.integer[Any]]) -> Frames:
        """Return some of the frames."""
        arrays = {}
        for key in self._files:
            mapped = self.array(key)
            arrays[key] = np.array(mapped[which])  # type: ignore[index]
            del mapped
        return Frames(0, self.z, **arrays)

    def save(
        self, path: str | os.PathLike[str], facts: Facts, order: npt.NDArray[np.integer[Any]] | None = None
    ) -> bytes:
        """Write a dataset. Returns its fingerprint.

        Parameters
        ----------
        path : path-like
            The npz file; replaced if it exists.
        facts : Facts
            Units, name, theory level, permutations.
        order : ndarray of int, optional
            Which frames to write, in which order; all as they are by default.
        """
        z = self.z
        fields = [key for key in (*_FIELDS, "lattice") if key in self._files]
        digests = {"z": hashlib.md5(z.data, usedforsecurity=False)}
        entries: dict[str, Any] = {"type": "d", "z": z}
        for key in ("name", "theory", "e_unit", "r_unit"):
            if getattr(facts, key):
                entries[key] = getattr(facts, key)
        if facts.perms is not None:
            entries["perms"] = facts.perms
        n = self.n if order is None else len(order)
        with replacing(path, DATASET) as file, NewArchive(file, compress=True) as archive:
            for key in fields:
                if key == "lattice" and self.has_one_lattice:
                    entries["lattice"] = self.read(slice(0, 1)).lattice[0]  # type: ignore[index]
                    continue
                statistics = _Statistics()
                digest = digests.setdefault(key, hashlib.md5(usedforsecurity=False))
                shape = (n, *self._state["keys"][key])
                with archive.entry(key) as member:
                    _write_header(member, shape, np.dtype(np.float64))
                    for rows in self._pieces(key, order):
                        member.write(rows.data)
                        digest.update(rows.data)
                        statistics.add(rows)
                if key in ("E", "F"):
                    entries.update(statistics.entries(key))
            outer = hashlib.md5(usedforsecurity=False)
            for key in ("z", "R", "E", "F"):
                if key in digests:
                    outer.update(digests[key].digest())
            fingerprint = outer.hexdigest().encode("ascii")
            if "F" in fields:
                entries["md5"] = fingerprint
            for key, value in entries.items():
                archive.add(key, np.asanyarray(value))
        return fingerprint

    def _pieces(self, key: str, order: npt.NDArray[np.integer[Any]] | None) -> Iterator[Array]:
        shape = self._state["keys"][key]
        n, step = (self.n if order is None else len(order)), chunk_frames(self.n_atoms)
        file = self._files[key]
        if order is None:
            file.seek(0)
        for first in range(0, n, step):
            count = min(step, n - first)
            if order is None:
                yield np.frombuffer(file.read(count * _row_bytes(shape))).reshape(count, *shape)
            else:
                mapped = self.array(key)
                yield np.ascontiguousarray(mapped[order[first : first + count]])  # type: ignore[index]
                del mapped

    @property
    def has_one_lattice(self) -> bool:
        """Whether all frames are in one cell, or in none."""
        first: Array | None = None
        for rows in self._pieces("lattice", None) if "lattice" in self._files else ():
            first = rows[0].copy() if first is None else first
            if not (rows == first).all():
                return False
        return True

    def discard(self) -> None:
        """Close and remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Close the files and leave the folder."""
        for file in (*self._files.values(), self._lock):
            with suppress(OSError):  # what could not be written was told before, and is still in its buffer
                file.close()


def _row_bytes(shape: list[int]) -> int:
    return 8 * int(np.prod(shape, dtype=np.int64))


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


class _Statistics:
    """Minimum, maximum, mean and variance of numbers that come in pieces (Chan et al.'s update)."""

    def __init__(self) -> None:
        self._n, self._mean, self._squares = 0, 0.0, 0.0
        self._min, self._max = np.inf, -np.inf

    def add(self, numbers: Array) -> None:
        n, mean = numbers.size, float(numbers.mean())
        delta, total = mean - self._mean, self._n + n
        self._squares += float(np.square(numbers - mean).sum()) + delta * delta * self._n * n / total
        self._mean += delta * n / total
        self._n = total
        self._min, self._max = min(self._min, float(numbers.min())), max(self._max, float(numbers.max()))

    def entries(self, key: str) -> dict[str, float]:
        return {
            f"{key}_min": self._min,
            f"{key}_max": self._max,
            f"{key}_mean": self._mean,
            f"{key}_var": self._squares / self._n,
        }
