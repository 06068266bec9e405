"""Folders of DeePMD-kit: ``type.raw``, ``type_map.raw`` and ``set.*/coord.npy`` with ``energy``, ``force``, ``box``.

Units are eV and Angstrom. Boxes hold lattice vectors as rows; ``nopbc`` says that there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..elements import SYMBOLS
from ..errors import DataError, FileFormatError
from .frames import Facts, Frames, FrameSource, ReadOptions, chunk_frames

_KNOWN = {"coord", "energy", "force", "box", "real_atom_types"}


def is_deepmd(path: str) -> bool:
    """Return whether a folder is one of DeePMD-kit."""
    return (Path(path) / "type.raw").is_file()


class DeepMDSource(FrameSource):
    """Reader of one system: its sets in order, mapped from disk."""

    def __init__(self, path: str, options: ReadOptions) -> None:
        super().__init__(path, Facts(e_unit="eV", r_unit="Ang", name=Path(path).resolve().name))
        if options.energy not in (None, "energy") or options.forces not in (None, "force"):
            raise FileFormatError(f"{path}: folders of DeePMD-kit have 'energy' and 'force', and no others.")
        self._options = options
        folder = Path(path)
        self._types = _numbers(folder / "type.raw").astype(np.int64).ravel()
        self._map = self._type_map(folder / "type_map.raw")
        self._sets = sorted(p for p in folder.glob("set.*") if p.is_dir())
        if not self._sets:
            raise FileFormatError(
                f"{path} has no folders set.*: convert its raw files with DeePMD-kit's raw_to_set first."
            )
        self._periodic = not (folder / "nopbc").exists() and options.cell is not False
        self._systems = [self._load(s) for s in self._sets]
        self.n_frames = sum(len(s["coord"]) for s in self._systems)
        have = {key for s in self._systems for key in s}
        for key in ("energy", "force", "box"):
            without = [str(s) for s, arrays in zip(self._sets, self._systems, strict=True) if key not in arrays]
            if key in have and without:
                raise DataError(f"{without[0]} has no {key}.npy, other sets have one.")
        self.facts.energy = "energy" if "energy" in have and options.use_E else None
        self.facts.forces = "force" if "force" in have and options.use_F else None
        self.facts.gradients = options.gradients and self.facts.forces is not None
        self.facts.left_out = {p.stem for s in self._sets for p in s.glob("*.npy")} - _KNOWN

    def _type_map(self, path: Path) -> npt.NDArray[np.int64]:
        if not path.is_file():
            raise FileFormatError(f"{path} is missing: nobody knows which elements the types in type.raw are.")
        symbols = path.read_text().split()
        unknown = [symbol for symbol in symbols if symbol not in SYMBOLS[1:]]
        if unknown:
            raise DataError(f"{path}: '{unknown[0]}' is no element.")
        return np.array([SYMBOLS.index(symbol) for symbol in symbols], dtype=np.int64)

    def _load(self, folder: Path) -> dict[str, npt.NDArray[Any]]:
        arrays = {}
        for key in _KNOWN:
            path = folder / f"{key}.npy"
            if path.is_file():
                try:
                    arrays[key] = np.load(path, mmap_mode="r", allow_pickle=False)
                except (ValueError, OSError, EOFError) as error:
                    raise FileFormatError(f"{path} cannot be read ({error}).") from None
        if "coord" not in arrays:
            raise FileFormatError(f"{folder} has no coord.npy.")
        n, width = len(arrays["coord"]), 3 * len(self._types)
        shapes = {"coord": width, "force": width, "energy": 1, "box": 9, "real_atom_types": len(self._types)}
        for key, array in arrays.items():
            if array.size != n * shapes[key] or len(array) != n:
                raise DataError(
                    f"{folder}/{key}.npy has shape {array.shape}; ({n}, {shapes[key]}) expected, for {n} frames of "
                    f"{len(self._types)} atoms."
                )
        return arrays

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames; see `FrameSource.chunks`."""
        n_atoms = len(self._types)
        step = chunk_frames(n_atoms)
        sign = -1.0 if self.facts.gradients else 1.0
        for folder, arrays in zip(self._sets, self._systems, strict=True):
            for first in range(0, len(arrays["coord"]), step):
                rows = slice(first, first + step)
                R = np.array(arrays["coord"][rows], dtype=np.float64).reshape(-1, n_atoms, 3)
                n = len(R)
                E = F = lattice = None
                if self.facts.energy:
                    E = np.array(arrays["energy"][rows], dtype=np.float64).reshape(n)
                if self.facts.forces:
                    F = np.array(arrays["force"][rows], dtype=np.float64).reshape(n, n_atoms, 3) * sign
                if self._periodic and "box" in arrays:
                    lattice = np.array(arrays["box"][rows], dtype=np.float64).reshape(n, 3, 3).swapaxes(1, 2)
                types = np.broadcast_to(self._types, (n, n_atoms))
                if "real_atom_types" in arrays:
                    types = np.asarray(arrays["real_atom_types"][rows]).astype(np.int64)
                yield from self._same_atoms(types, Frames(self.n_read, self._types, R, E, F, lattice), folder)
                self.n_read += n

    def _same_atoms(self, types: npt.NDArray[np.int64], frames: Frames, folder: Path) -> Iterator[Frames]:
        if types.max() >= len(self._map):
            raise DataError(f"{folder}: type {types.max()} is not in type_map.raw ({len(self._map)} types).")
        edges = [0, *(np.flatnonzero((types[1:] != types[:-1]).any(axis=1)) + 1), len(frames)]
        for a, b in pairwise(edges):
            part = frames.part(slice(a, b))
            real = types[a] >= 0  # -1 pads
            yield Frames(
                part.first,
                self._map[types[a][real]],
                part.R[:, real],
                part.E,
                None if part.F is None else part.F[:, real],
                part.lattice,
            )


def _numbers(path: Path) -> npt.NDArray[np.float64]:
    try:
        return np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path} cannot be read ({error}).") from None
