"""Frames of a trajectory or dataset, a chunk at a time: what readers yield and writers take.

A reader never holds more than a chunk, so that memory does not grow with the number of frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..elements import symbols_of
from ..errors import DataError
from ..types import Array, IntArray

# Numbers (of R and F) in a chunk, and the most frames: enough to amortise Python, little enough for any machine.
_CHUNK_NUMBERS = 400_000
_CHUNK_FRAMES = 1000


def chunk_frames(n_atoms: int) -> int:
    """Return how many frames of `n_atoms` atoms make a chunk."""
    return max(1, min(_CHUNK_FRAMES, _CHUNK_NUMBERS // (6 * max(n_atoms, 1))))


class Frame(NamedTuple):
    """One frame; see `Frames`."""

    z: IntArray
    R: Array
    E: float | None
    F: Array | None
    lattice: Array | None


@dataclass(frozen=True)
class Frames:
    """Consecutive frames of the same atoms in the same order, with the same labels.

    Attributes
    ----------
    first : int
        Number of the first of them in its source, counted from 0.
    z : ndarray of int, shape (N,)
        Atomic numbers.
    R : ndarray, shape (n, N, 3)
        Positions.
    E : ndarray, shape (n,), or None
        Energies.
    F : ndarray, shape (n, N, 3), or None
        Forces: negative gradients, without any masking of constrained atoms.
    lattice : ndarray, shape (n, 3, 3), or None
        Lattice vectors as columns; None for molecules.
    virial : ndarray, shape (n, 3, 3), or None
        Virials, which writers write and no reader reads.
    E_std, F_std : ndarray, shapes (n,) and (n, N), or None
        Standard deviations of energies, and of components of the force on each atom; likewise.
    """

    first: int
    z: IntArray
    R: Array
    E: Array | None = None
    F: Array | None = None
    lattice: Array | None = None
    virial: Array | None = None
    E_std: Array | None = None
    F_std: Array | None = None

    def __len__(self) -> int:
        return len(self.R)

    def part(self, which: slice | npt.NDArray[np.integer[Any]]) -> Frames:
        """Return some of the frames. `first` is right for a slice without a step."""
        start = which.indices(len(self))[0] if isinstance(which, slice) else 0
        return replace(
            self,
            first=self.first + start,
            R=self.R[which],
            E=None if self.E is None else self.E[which],
            F=None if self.F is None else self.F[which],
            lattice=None if self.lattice is None else self.lattice[which],
            virial=None if self.virial is None else self.virial[which],
            E_std=None if self.E_std is None else self.E_std[which],
            F_std=None if self.F_std is None else self.F_std[which],
        )


@dataclass
class Facts:
    """What a source says of all its frames. Readers complete it while they read.

    Attributes
    ----------
    e_unit, r_unit : str or None
        Units recorded in the source or fixed by its format; None if they are not.
    f_unit : str or None
        Unit of the forces, as "Hartree/Bohr", where it is not the quotient of the other two.
    name, theory : str or None
        As recorded.
    perms : ndarray or None
        Permutations recorded.
    energy, forces : str or None
        What the energies and forces are called in the source.
    gradients : bool
        What the source holds are gradients; frames have their negatives.
    left_out : set of str
        What else the source holds, which frames have no place for.
    """

    e_unit: str | None = None
    r_unit: str | None = None
    f_unit: str | None = None
    name: str | None = None
    theory: str | None = None
    perms: IntArray | None = None
    energy: str | None = None
    forces: str | None = None
    gradients: bool = False
    left_out: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class ReadOptions:
    """How to read a source.

    Attributes
    ----------
    energy, forces : str or None
        Names of what to take as energies and forces; by default the usual names, if there is exactly one candidate.
    use_E : bool
        False leaves energies out.
    use_F : bool
        False leaves forces out.
    gradients : bool
        What the source calls forces are gradients.
    format : str or None
        Name of the format; by default known from the name and the first bytes of the file.
    forces_file, energies_file : str or None
        Files that go with positions in XYZ, as i-PI and CP2K write them.
    cell : bool or None
        True takes the cell of i-PI's files, which have one for molecules, too; False leaves out the cell of any source.
    """

    energy: str | None = None
    forces: str | None = None
    use_E: bool = True
    use_F: bool = True
    gradients: bool = False
    format: str | None = None
    forces_file: str | None = None
    energies_file: str | None = None
    cell: bool | None = None


class FrameSource:
    """Frames of one source. Use it as a context manager, and read `chunks` once.

    Attributes
    ----------
    path : str
        What to call the source in messages.
    facts : Facts
        Complete once the frames are read; units, name and theory from the start.
    n_frames : int or None
        Number of frames, if it is known before reading.
    """

    def __init__(self, path: str, facts: Facts | None = None, n_frames: int | None = None) -> None:
        self.path = path
        self.facts = facts or Facts()
        self.n_frames = n_frames
        self.n_read = 0

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames in order. The same arrays are never yielded twice.

        Raises
        ------
        DataError
            If a frame is broken or its labels are ambiguous, with its number.
        FileFormatError
            If the source cannot be read.
        """
        raise NotImplementedError

    def progress(self) -> tuple[int, int]:
        """Return how much is read, and of how much: frames, or bytes of a file; (n, 0) if nobody knows."""
        return self.n_read, self.n_frames or 0

    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gather(self, frames: Iterable[Frame]) -> Iterator[Frames]:
        """Put single frames into chunks of the same atoms and labels."""
        kept: list[Frame] = []
        for frame in frames:
            if kept and (len(kept) >= chunk_frames(len(kept[0].z)) or not _alike(kept[0], frame)):
                yield self._join(kept)
                kept = []
            kept.append(frame)
        if kept:
            yield self._join(kept)

    def _join(self, kept: list[Frame]) -> Frames:
        first = self.n_read
        self.n_read += len(kept)
        one = kept[0]
        return Frames(
            first,
            one.z,
            np.array([f.R for f in kept], dtype=np.float64),
            None if one.E is None else np.array([f.E for f in kept], dtype=np.float64),
            None if one.F is None else np.array([f.F for f in kept], dtype=np.float64),
            None if one.lattice is None else np.array([f.lattice for f in kept], dtype=np.float64),
        )


def _alike(one: Frame, other: Frame) -> bool:
    return (
        all((a is None) == (b is None) for a, b in zip(one[2:], other[2:], strict=True))
        and len(one.z) == len(other.z)
        and bool((one.z == other.z).all())
    )


def place(path: str, frame: int) -> str:
    """Return where a frame is, for messages."""
    return f"{path}, frame {frame} (the first is 0)"


def difference_of_atoms(expected: IntArray, found: IntArray) -> str:
    """Say in words how the atoms of a frame differ from those that are expected."""
    if len(expected) == len(found) and np.array_equal(np.sort(expected), np.sort(found)):
        i = int(np.flatnonzero(np.asarray(expected) != np.asarray(found))[0])
        return (
            f"it has the same atoms in another order: {symbols_of(found)} instead of {symbols_of(expected)} "
            f"(first difference: atom {i})"
        )
    return f"it is {formula(found)}, with atoms {symbols_of(found)}, instead of {formula(expected)}"


def formula(z: Iterable[int]) -> str:
    """Return the sum formula in Hill's order, as C2H6O."""
    from ..elements import SYMBOLS

    symbols = [SYMBOLS[int(number)] for number in z]
    counts = {symbol: symbols.count(symbol) for symbol in set(symbols)}
    if "C" in counts:
        order = ["C"] + (["H"] if "H" in counts else []) + sorted(set(counts) - {"C", "H"})
    else:
        order = sorted(counts)
    return "".join(symbol + (str(counts[symbol]) if counts[symbol] > 1 else "") for symbol in order)


def require_whole_cell(lattice: Array, pbc: npt.ArrayLike, where: str) -> Array | None:
    """Return the cell of a frame, or None if it is periodic in no direction.

    Parameters
    ----------
    lattice : ndarray, shape (3, 3)
        Lattice vectors as columns.
    pbc : array_like of bool, shape (3,)
        Directions in which the system is periodic.
    where : str
        For the message.

    Raises
    ------
    DataError
        If it is periodic, but its vectors span no cell.
    """
    if not np.any(pbc):
        return None
    lengths = np.linalg.norm(lattice, axis=0)
    if not (lengths > 0).all() or abs(np.linalg.det(lattice)) < 1e-10 * np.prod(lengths):
        raise DataError(
            f"{where}: it is periodic in {int(np.count_nonzero(pbc))} directions, but its lattice vectors span no "
            "cell. Give a direction of vacuum a long vector of its own."
        )
    return lattice
