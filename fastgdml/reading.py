"""Frames of several sources, one after the other, in the same units and checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .catalog import resolve_dataset
from .cell import Cell
from .descriptor import from_R
from .errors import DataError, FileFormatError, UsageError
from .formats import Facts, Frames, FrameSource, ReadOptions, open_frames
from .formats.frames import place
from .perms import check_perms
from .units import energy_factor, length_factor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnitOptions:
    """Units of sources that do not record them, and those to write.

    Attributes
    ----------
    e_unit, r_unit : str or None
        Units of energy and length of the sources.
    f_unit : str or None
        Unit of their forces, as "Hartree/Bohr", if it is not e_unit/r_unit.
    to_e_unit, to_r_unit : str or None
        Units to convert to; by default those of the (first) source.
    assumed_e_unit, assumed_r_unit : str or None
        Units of sources that record none, if none are given: said with a warning.
    """

    e_unit: str | None = None
    r_unit: str | None = None
    f_unit: str | None = None
    to_e_unit: str | None = None
    to_r_unit: str | None = None
    assumed_e_unit: str | None = None
    assumed_r_unit: str | None = None


@dataclass
class SourceReport:
    """What was read from a source: its name, the number of frames, and what its labels are called."""

    path: str
    n_frames: int
    facts: Facts


@dataclass
class Written:
    """A file that was written.

    Attributes
    ----------
    path : str
    n_frames : int
    formula : str
        Sum formula of the atoms, or several.
    fingerprint : str or None
        Of a dataset.
    """

    path: str
    n_frames: int
    formula: str
    fingerprint: str | None = None


@dataclass
class Report:
    """What a conversion did.

    Attributes
    ----------
    sources : list of SourceReport
    files : list of Written
    e_unit, r_unit : str or None
        Units of what was written.
    n_removed : int
        Frames that were left out on purpose: duplicates, or those thinned out.
    seconds : float
        Time of reading, calculating and writing.
    """

    sources: list[SourceReport] = field(default_factory=list)
    files: list[Written] = field(default_factory=list)
    e_unit: str | None = None
    r_unit: str | None = None
    n_removed: int = 0
    seconds: float = 0.0


class Reader:
    """Frames of several sources, one after the other, in the same units and checked.

    Parameters
    ----------
    sources : sequence of str
        Files, folders, names of shipped examples, fingerprints, or ``-``.
    options : ReadOptions
        How to read them.
    units : UnitOptions
        What they are in, and what they shall be in.

    Attributes
    ----------
    facts : Facts
        Units of the frames that come out; name, theory level and permutations of the first source.
    report : Report
        Completed while frames are read.
    """

    def __init__(
        self,
        sources: Sequence[str | os.PathLike[str]],
        options: ReadOptions | None = None,
        units: UnitOptions | None = None,
    ) -> None:
        if not sources:
            raise UsageError("There is nothing to read: give at least one source.")
        self._options = options or ReadOptions()
        self._units = units or UnitOptions()
        self.paths = [find_source(str(source)) for source in sources]
        if len(self.paths) > 1 and (self._options.forces_file or self._options.energies_file):
            raise UsageError("--forces_file and --energies_file belong to one source; convert the others on their own.")
        self.report = Report()
        self.facts = Facts()
        self.n_frames: int | None = None
        self._source: FrameSource | None = None
        self._next = 0
        self._scale = (1.0, 1.0, 1.0)
        self._advance()
        self.n_frames = self._source.n_frames if self._source is not None and len(self.paths) == 1 else None

    def _advance(self) -> None:
        """Open the next source."""
        self._source = source = open_frames(self.paths[self._next], self._options)
        try:
            first = self._next == 0
            name = source.path
            e_unit = _unit_of(name, "e_unit", source.facts.e_unit, self._units.e_unit, energy_factor)
            r_unit = _unit_of(name, "r_unit", source.facts.r_unit, self._units.r_unit, length_factor)
            e_unit, r_unit = self._assumed(name, e_unit, r_unit)
            if first:
                self.facts = replace(
                    source.facts,
                    e_unit=self._units.to_e_unit or e_unit,
                    r_unit=self._units.to_r_unit or r_unit,
                    f_unit=None,
                )
                self.report.e_unit, self.report.r_unit = self.facts.e_unit, self.facts.r_unit
                if source.facts.perms is not None:
                    try:
                        check_perms(source.facts.perms)
                    except DataError as error:
                        raise DataError(f"{name}: {error}") from None
            f_unit = self._units.f_unit or source.facts.f_unit
            self._scale = _factors(name, e_unit, r_unit, f_unit, self.facts)
        except BaseException:
            source.close()
            raise
        self._next += 1
        self.report.sources.append(SourceReport(source.path, 0, source.facts))

    def _assumed(self, name: str, e_unit: str | None, r_unit: str | None) -> tuple[str | None, str | None]:
        """Complete units that are neither recorded nor given by those that are assumed."""
        assumed = [self._units.assumed_r_unit] if r_unit is None and self._units.assumed_r_unit else []
        if e_unit is None and self._units.assumed_e_unit and (self._options.use_E or self._options.use_F):
            assumed.insert(0, self._units.assumed_e_unit)
        if assumed:
            _log.warning("%s does not record all of its units: taken to be %s.", name, " and ".join(assumed))
        return e_unit or self._units.assumed_e_unit, r_unit or self._units.assumed_r_unit

    def chunks(self) -> Iterator[Frames]:
        """Yield frames in the units of `facts`; `first` counts through all sources.

        Raises
        ------
        DataError
            If a number is not finite or atoms coincide, with the frame.
        """
        n = 0
        while self._source is not None:
            source, report = self._source, self.report.sources[-1]
            with source:
                for frames in source.chunks():
                    frames = self._converted(frames)
                    check_frames(frames, source.path)
                    report.n_frames += len(frames)
                    yield replace(frames, first=n + frames.first)
                n += report.n_frames
            self._source = None
            if self._next < len(self.paths):
                self._advance()

    def where(self, frame: int) -> str:
        """Return the source and number of a frame that was yielded, for messages."""
        for report in self.report.sources:
            if frame < report.n_frames or report is self.report.sources[-1]:
                return place(report.path, frame)
            frame -= report.n_frames
        return f"frame {frame}"

    def progress(self) -> tuple[int, int]:
        """Return how much is read, and of how much, in thousandths of all sources."""
        if self._source is None:
            return 1000, 1000
        done, total = self._source.progress()
        if not total:
            return 0, 0
        part = min(done / total, 1.0)
        return int(1000 * (self._next - 1 + part) / len(self.paths)), 1000

    def close(self) -> None:
        """Close what is open."""
        if self._source is not None:
            self._source.close()

    def _converted(self, frames: Frames) -> Frames:
        e, r, f = self._scale
        return replace(
            frames,
            R=frames.R if r == 1 else frames.R * r,
            E=frames.E if frames.E is None or e == 1 else frames.E * e,
            F=frames.F if frames.F is None or f == 1 else frames.F * f,
            lattice=frames.lattice if frames.lattice is None or r == 1 else frames.lattice * r,
        )


def find_source(source: str) -> str:
    """Return the file, folder or ``-`` that a source names: a path, a shipped example, or a fingerprint."""
    if source == "-" or Path(source).exists():
        return source
    try:
        return str(resolve_dataset(source))
    except FileFormatError:
        if Path(source).suffix:
            raise FileFormatError(f"{source}: no such file.") from None
        raise


def _unit_of(
    name: str, key: str, recorded: str | None, given: str | None, factor: Callable[[str, str], float]
) -> str | None:
    """Return the unit of a source; raise UsageError if what it records and what is said contradict each other."""
    if given is not None:
        _known(factor, given, f"--{key}")
    if recorded is None or recorded.strip().lower() in ("", "none", "unknown", "n/a"):
        return given
    if given is not None and given != recorded:
        try:
            if abs(factor(recorded, given) - 1) > 1e-9:
                raise UsageError(
                    f"{name} records {key} '{recorded}', but --{key} says '{given}'. Leave the option out; to convert, "
                    f"give --to{'_r_unit' if key == 'r_unit' else ''} {given}."
                )
        except DataError:  # the name recorded is unknown: believe the user
            return given
    return recorded


def _known(factor: Callable[[str, str], float], unit: str, option: str) -> None:
    try:
        factor(unit, unit)
    except DataError as error:
        raise UsageError(f"{option} {unit}: {error}") from None


def _factors(
    name: str, e_unit: str | None, r_unit: str | None, f_unit: str | None, out: Facts
) -> tuple[float, float, float]:
    """Return what to multiply energies, lengths and forces of a source with."""
    e = _factor(name, "energy", "e_unit", e_unit, out.e_unit, energy_factor)
    r = _factor(name, "length", "r_unit", r_unit, out.r_unit, length_factor)
    if f_unit is None:
        return e, r, (e / r if (e, r) != (1.0, 1.0) else 1.0)
    energy, _, length = f_unit.rpartition("/")
    if not energy or out.e_unit is None or out.r_unit is None:
        raise UsageError(
            f"{name}: forces are in '{f_unit}', energies in {e_unit or 'unknown units'}, lengths in "
            f"{r_unit or 'unknown units'}. Give --e_unit, --r_unit and, as energy/length, --f_unit."
        )
    fe = _factor(name, "energy", "f_unit", energy, out.e_unit, energy_factor)
    fr = _factor(name, "length", "f_unit", length, out.r_unit, length_factor)
    return e, r, fe / fr


def _factor(
    name: str, what: str, key: str, unit: str | None, out: str | None, factor: Callable[[str, str], float]
) -> float:
    if unit == out:
        return 1.0
    if unit is None or out is None:
        raise UsageError(
            f"{name} does not record its unit of {what}, so it cannot be converted to {out}: give --{key}."
            if unit is None
            else f"{name} is in {unit}, the first source does not record its unit of {what}: give --{key}, or convert "
            "it first."
        )
    try:
        size = factor(unit, out)
    except DataError as error:
        raise UsageError(f"{name}: {error}") from None
    return 1.0 if abs(size - 1) < 1e-12 else size


def check_frames(frames: Frames, path: str) -> None:
    """Raise DataError, with the number of the frame, if a number is not finite, atoms coincide, or a cell is none."""
    if not ((frames.z >= 1) & (frames.z <= 118)).all():
        raise DataError(f"{place(path, frames.first)}: atomic numbers are from 1 to 118; found {frames.z}.")
    for what, array in (("position", frames.R), ("force", frames.F), ("energy", frames.E), ("cell", frames.lattice)):
        if array is not None and not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(array))[0]
            atom = f" of atom {where[1]}" if array.ndim == 3 and what != "cell" else ""
            raise DataError(f"{place(path, frames.first + int(where[0]))}: the {what}{atom} is not finite.")
    if len(frames.z) < 2:
        return
    # one thread: little work, beside which others would wait for each other
    try:
        from_R(frames.R, None if frames.lattice is None else Cell(frames.lattice), 1)
    except DataError:
        for i in range(len(frames)):
            one = frames.part(slice(i, i + 1))
            try:
                from_R(one.R, None if one.lattice is None else Cell(one.lattice), 1)
            except DataError as error:
                text = str(error).replace("geometry 0: ", "").replace("of geometry 0 ", "")
                raise DataError(f"{place(path, one.first)}: {text}") from None
