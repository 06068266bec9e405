"""What is in files of geometries, and what looks wrong in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .diagnostics import Finding
from .errors import DataError
from .formats import Frames, ReadOptions
from .formats.frames import difference_of_atoms, formula
from .frames import diagnose_dataset
from .progress import Callback, Step
from .reading import Reader, Report, UnitOptions


@dataclass
class Range:
    """Smallest and largest number, and mean."""

    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    n: int = 0

    def add(self, numbers: npt.NDArray[np.float64]) -> None:
        """Take in numbers."""
        self.low, self.high = min(self.low, float(numbers.min())), max(self.high, float(numbers.max()))
        self.total += float(numbers.sum())
        self.n += numbers.size

    def as_dict(self) -> dict[str, float]:
        """Return plain values."""
        return {"min": self.low, "max": self.high, "mean": self.total / self.n}

    def text(self, unit: str | None) -> str:
        """Return a line."""
        return f"{self.low:.6g} to {self.high:.6g}, mean {self.total / self.n:.6g} {unit or 'unknown unit'}"


@dataclass
class Kind:
    """Frames of the same atoms in the same order.

    Attributes
    ----------
    z : ndarray of int
        Atomic numbers.
    n_frames : int
        Number of frames.
    energies, forces : Range
        Of the labels, if there are any.
    n_energies, n_forces : int
        Frames that have them.
    lattice : ndarray, shape (3, 3), or None
        Of the first frame.
    several_cells : bool
        Whether cells differ.
    """

    z: npt.NDArray[Any]
    n_frames: int = 0
    energies: Range = field(default_factory=Range)
    forces: Range = field(default_factory=Range)
    n_energies: int = 0
    n_forces: int = 0
    lattice: npt.NDArray[np.float64] | None = None
    several_cells: bool = False

    @property
    def formula(self) -> str:
        """Sum formula."""
        return formula(self.z)

    def add(self, frames: Frames) -> None:
        """Take in frames."""
        self.n_frames += len(frames)
        if frames.E is not None:
            self.energies.add(frames.E)
            self.n_energies += len(frames)
        if frames.F is not None:
            self.forces.add(frames.F)
            self.n_forces += len(frames)
        if frames.lattice is not None:
            self.lattice = frames.lattice[0].copy() if self.lattice is None else self.lattice
            self.several_cells |= bool((frames.lattice != self.lattice).any())

    def rows(self, e_unit: str | None, r_unit: str | None) -> list[tuple[str, str]]:
        """Return names and values to print."""
        f_unit = f"{e_unit}/{r_unit}" if e_unit and r_unit else None
        rows = [
            ("Energies", self.energies.text(e_unit) if self.n_energies else "none"),
            ("Forces", self.forces.text(f_unit) if self.n_forces else "none"),
        ]
        if self.lattice is not None:
            lengths = " ".join(f"{length:.4g}" for length in np.linalg.norm(self.lattice, axis=0))
            several = ", others in other frames" if self.several_cells else ""
            rows.append(("Cell", f"lengths {lengths} {r_unit or 'unknown unit'}{several}"))
        return rows


@dataclass
class Summary:
    """What sources hold."""

    kinds: list[Kind]
    report: Report
    e_unit: str | None
    r_unit: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "e_unit": self.e_unit,
            "r_unit": self.r_unit,
            "kinds": [
                {
                    "formula": kind.formula,
                    "z": kind.z.tolist(),
                    "frames": kind.n_frames,
                    "energies": kind.energies.as_dict() if kind.n_energies else None,
                    "forces": kind.forces.as_dict() if kind.n_forces else None,
                    "lattice": None if kind.lattice is None else kind.lattice.tolist(),
                }
                for kind in self.kinds
            ],
        }


def summarise(
    sources: Sequence[str | os.PathLike[str]],
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    callback: Callback | None = None,
) -> Summary:
    """Read sources, and say what is in them; arguments as in `fastgdml.convert.convert`."""
    reader = Reader(sources, read, units)
    kinds: dict[tuple[int, ...], Kind] = {}
    step = Step(callback, "Reading")
    try:
        for frames in reader.chunks():
            kinds.setdefault(tuple(frames.z.tolist()), Kind(frames.z)).add(frames)
            step(*reader.progress(), f"{frames.first + len(frames):,} geometries")
    finally:
        reader.close()
    step.done()
    return Summary(list(kinds.values()), reader.report, reader.facts.e_unit, reader.facts.r_unit)


@dataclass
class Diagnosis:
    """What looks wrong.

    Attributes
    ----------
    findings : list of Finding
    n_frames : int
        Number of frames looked at.
    scope : str
        What was looked at, in words.
    """

    findings: list[Finding]
    n_frames: int
    scope: str


def check(
    sources: Sequence[str | os.PathLike[str]],
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    callback: Callback | None = None,
    at_most: int = 20_000,
) -> Diagnosis:
    """Look for signs that the data of sources are wrong; arguments as in `fastgdml.convert.convert`.

    Parameters
    ----------
    at_most : int
        Of more frames, so many at equal distances are looked at.

    Raises
    ------
    DataError
        If frames have different atoms, or a number is not finite.
    """
    reader = Reader(sources, read, units)
    step = Step(callback, "Reading")
    kept: list[Frames] = []
    stride = n = 0
    try:
        stride = 1
        for frames in reader.chunks():
            if kept and not np.array_equal(kept[0].z, frames.z):
                raise DataError(
                    f"{reader.where(frames.first)}: {difference_of_atoms(kept[0].z, frames.z)}. Separate them first: "
                    "'dataset convert --split-by-formula'."
                )
            n = frames.first + len(frames)
            kept.append(frames.part(np.arange(-frames.first % stride, len(frames), stride)))
            if sum(map(len, kept)) > at_most:
                kept = [_every_second(kept)]
                stride *= 2
            step(*reader.progress(), f"{n:,} geometries")
    finally:
        reader.close()
    step.done()
    dataset = _dataset(kept, reader)
    scope = f"all {n:,} frames"
    if stride > 1:
        scope = f"{len(dataset['R']):,} of {n:,} frames, each {stride}th; geometry k is frame {stride} k"
    return Diagnosis(diagnose_dataset(dataset), n, scope)


def _every_second(chunks: list[Frames]) -> Frames:
    return _joined(chunks).part(slice(None, None, 2))


def _joined(chunks: list[Frames]) -> Frames:
    def join(name: str) -> Any:
        arrays = [getattr(chunk, name) for chunk in chunks]
        return None if any(array is None for array in arrays) else np.concatenate(arrays)

    return Frames(0, chunks[0].z, join("R"), join("E"), join("F"), join("lattice"))


def _dataset(kept: list[Frames], reader: Reader) -> dict[str, Any]:
    if not kept:
        raise DataError("There are no frames.")
    frames = _joined(kept)
    if frames.F is None:
        raise DataError(f"{reader.paths[0]} has no forces: there is little to check.")
    entries: dict[str, Any] = {"z": frames.z, "R": frames.R, "F": frames.F, "E": frames.E, "lattice": frames.lattice}
    entries = {**entries, "e_unit": reader.facts.e_unit, "r_unit": reader.facts.r_unit, "perms": reader.facts.perms}
    return {key: value for key, value in entries.items() if value is not None}
