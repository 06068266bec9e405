"""From anyone's files to datasets and back: convert, merge, split, thin, shuffle, remove duplicates.

Frames flow through in chunks (`fastgdml.formats`), so that memory does not grow with their number. What needs all of
them at once (another order, duplicates) keeps them on disk.

>>> from fastgdml.convert import convert
>>> convert(["trajectory.xyz"], "dataset.npz", units=UnitOptions(e_unit="eV", r_unit="Ang", to_e_unit="kcal/mol"))
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .catalog import resolve_dataset
from .cell import Cell
from .descriptor import from_R, n_pairs, pair_permutation
from .errors import DataError, FastGDMLError, FileFormatError, UsageError
from .formats import Facts, Frames, FrameSource, ReadOptions, open_frames
from .formats.frames import chunk_frames, difference_of_atoms, formula, place
from .formats.npz import Spool
from .formats.targets import NpzTarget, Target, open_target, require_free, target_format
from .group import check_perms
from .progress import Callback, Step
from .sampling import draw_stratified, draw_uniform, generator
from .types import IntArray
from .units import energy_factor, length_factor

_log = logging.getLogger(__name__)

# Descriptors that differ by less than this fraction belong to the same geometry.
_SAME_GEOMETRY = 1e-9


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


# ---- reading: units, checks ---------------------------------------------------------------------------------------


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
        self.paths = [_find(str(source)) for source in sources]
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


def _find(source: str) -> str:
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


# ---- converting ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WriteOptions:
    """How to write.

    Attributes
    ----------
    name, theory : str or None
        Name of the system and level of theory, which become part of file names of models; by default those that the
        (first) source records, or the name of the file and "unknown".
    split_by_formula : bool
        Frames of other atoms, or of atoms in another order, go to files of their own, NAME-FORMULA.
    overwrite : bool
        Replace existing files.
    resume : bool
        Finish what a killed run left (npz only).
    """

    name: str | None = None
    theory: str | None = None
    split_by_formula: bool = False
    overwrite: bool = False
    resume: bool = False


class Sink:
    """Puts frames into one file, or into one for each kind of atoms.

    Parameters
    ----------
    path : str
        The file.
    reader : Reader
        Where the frames come from.
    options : WriteOptions
        How to write.
    job : dict, optional
        What is being done; for resuming.
    only : Target, optional
        Where to put the frames, if it is not to be opened.
    facts : Facts, optional
        What to record; by default what the reader says.
    """

    def __init__(
        self,
        path: str,
        reader: Reader,
        options: WriteOptions,
        job: dict[str, Any] | None = None,
        only: Target | None = None,
        facts: Facts | None = None,
    ) -> None:
        self._path = path
        self._reader = reader
        self._options = options
        self._facts = facts or reader.facts
        self._job = job
        self._targets: dict[tuple[int, ...], Target] = {}
        self._periodic: dict[tuple[int, ...], bool] = {}
        self._labels: dict[tuple[int, ...], tuple[bool, bool]] = {}
        self.is_dataset = target_format(path) == "npz"
        if options.resume and options.split_by_formula:
            raise UsageError("A conversion with --split-by-formula cannot be continued: start anew.")
        if not options.split_by_formula:
            require_free(path, options.overwrite)
        self._only = only
        if only is None and not options.split_by_formula:
            self._only = open_target(path, job, options.resume)

    @property
    def kinds(self) -> list[tuple[int, ...]]:
        """The atoms of the files, as atomic numbers."""
        return list(self._targets)

    @property
    def n_done(self) -> int:
        """Number of frames that an earlier run wrote."""
        return 0 if self._only is None else self._only.n

    def write(self, frames: Frames) -> None:
        """Write frames of the reader.

        Raises
        ------
        DataError
            If atoms, labels or cells are not as those before.
        """
        key = self.adopt(frames)
        self._targets[key].write(frames, self.facts_of(key))

    def adopt(self, frames: Frames) -> tuple[int, ...]:
        """Check that frames go with those before, without writing them."""
        key = tuple(int(number) for number in frames.z)
        where = self._reader.where(frames.first)
        if key not in self._targets:
            self._add(key, frames, where)
        if (frames.lattice is not None) != self._periodic[key]:
            has, had = ("a cell", "none") if frames.lattice is not None else ("no cell", "one")
            raise DataError(
                f"{where}: it has {has}, the frames before have {had}. Give all a cell, or leave it out (--no_cell)."
            )
        for label, here, before in zip(
            ("energies", "forces"), (frames.E is not None, frames.F is not None), self._labels[key], strict=True
        ):
            if here != before:
                raise DataError(
                    f"{where}: it has {'' if here else 'no '}{label}, frames before have {'none' if here else 'some'}."
                    + (" Give --no_E to leave out all energies." if label == "energies" else "")
                )
        return key

    def _add(self, key: tuple[int, ...], frames: Frames, where: str) -> None:
        if self.is_dataset:
            if frames.F is None:
                left_out = sorted(self._reader.report.sources[-1].facts.left_out)
                other = f" It also holds {', '.join(left_out[:12])}: name its forces with --forces." if left_out else ""
                raise DataError(
                    f"{where}: no forces, which a dataset must have.{other} Geometries alone can be labelled by a "
                    "model or calculator ('dataset label')."
                )
            if len(key) < 2:
                raise DataError(f"{where}: one atom; at least two are needed.")
        if self._only is not None and self._targets:
            before = np.array(next(iter(self._targets)))
            raise DataError(
                f"{where}: {difference_of_atoms(before, frames.z)}. All frames of a dataset must have the same atoms "
                "in the same order; --split-by-formula makes one file for each kind."
            )
        if self._only is not None:
            self._targets[key] = self._only
        else:
            path = self._split_path(frames.z)
            require_free(path, self._options.overwrite)
            self._targets[key] = open_target(path, self._job)
        self._periodic[key] = frames.lattice is not None
        self._labels[key] = (frames.E is not None, frames.F is not None)

    def _split_path(self, z: npt.NDArray[Any]) -> str:
        path = Path(self._path)
        kind = formula(z)
        taken = {target.path for target in self._targets.values()}
        for n in range(1, len(taken) + 2):
            candidate = str(path.with_name(f"{path.stem}-{kind}{'' if n == 1 else f'-order{n}'}{path.suffix}"))
            if candidate not in taken:
                break
        return candidate

    def facts_of(self, key: tuple[int, ...]) -> Facts:
        """Return what to record in the file of these atoms."""
        facts = self._facts
        default = Path(self._path).stem if self._path != "-" else None
        if self._options.split_by_formula:
            default = Path(self._targets[key].path).stem
        perms = facts.perms
        if perms is not None and perms.shape[1] != len(key):
            perms = None
        return replace(
            facts,
            name=self._options.name or facts.name or default,
            theory=self._options.theory or facts.theory or ("unknown" if self.is_dataset else None),
            perms=perms,
        )

    def finish(self) -> list[Written]:
        """Complete the files."""
        if not self._targets:
            raise DataError("There are no frames.")
        written = []
        for key, target in self._targets.items():
            fingerprint = target.finish(self.facts_of(key))
            written.append(Written(target.path, target.n, formula(key), fingerprint))
        return written

    def discard(self) -> None:
        """Leave nothing."""
        for target in self._all():
            target.discard()

    def keep(self) -> None:
        """Leave what can be resumed."""
        for target in self._all():
            target.keep()
            if target.is_dataset and target.n:
                _log.warning("%s.part is unfinished: the same command with --resume goes on.", target.path)

    def _all(self) -> list[Target]:
        return [self._only] if self._only is not None else list(self._targets.values())


Stage = Callable[[Frames], Frames]
# Makes a stage, and says what to record of the frames that come out of it.
Prepare = Callable[[Reader], "tuple[Stage, Facts]"]


def convert(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Convert sources to a file; several are put together.

    Parameters
    ----------
    sources : sequence of path-like
        Files, folders, names of shipped examples, or fingerprints of datasets in the current folder.
    target : path-like
        A file whose name ends in .npz (a dataset), .xyz, .extxyz (extended XYZ) or .traj (a trajectory of ASE); ``-``
        is the standard output, in extended XYZ.
    read : ReadOptions, optional
        How to read the sources.
    units : UnitOptions, optional
        Units of sources that do not record them, and those to write.
    write : WriteOptions, optional
        How to write.
    callback : callable, optional
        Follows the conversion.

    Returns
    -------
    Report

    Raises
    ------
    DataError
        If a frame cannot be used, with its number.
    FileFormatError
        If a file cannot be read or written.
    UsageError
        If options contradict each other or the sources.

    Notes
    -----
    An error leaves no file. A killed conversion to npz leaves the folder ``TARGET.part``, which `resume` finishes.
    """
    return stream(sources, target, read, units, write, callback)


@dataclass(frozen=True)
class Work:
    """What is done with frames between reading and writing.

    Attributes
    ----------
    title : str
        What to call it.
    stage : callable or None
        Frames -> frames, fewer or with other labels.
    prepare : callable or None
        Makes the stage from the reader, whose units are known by then, and says what to record of its frames.
    keep_on_error : bool
        Errors, too, leave a part that can be resumed.
    job : dict
        Plain data that a resumed run must agree in.
    """

    title: str = "Converting"
    stage: Stage | None = None
    prepare: Prepare | None = None
    keep_on_error: bool = False
    job: dict[str, Any] = field(default_factory=dict)


def stream(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
    work: Work | None = None,
) -> Report:
    """Read frames, work on them, and write them; see `convert`.

    Parameters
    ----------
    sources, target, read, units, write, callback
        As in `convert`.
    work : Work, optional
        What is done in between.
    """
    work = work or Work()
    path = os.fspath(target)
    write = write or WriteOptions()
    kind = target_format(path)
    units = units or UnitOptions()
    if kind == "traj" and work.prepare is None:
        units = replace(units, to_e_unit=units.to_e_unit or "eV", to_r_unit=units.to_r_unit or "Ang")
        if _not_ase_units(units):
            raise UsageError(f"{path}: trajectories of ASE are in eV and Angstrom; leave out --to.")
    reader = Reader(sources, read, units)
    try:
        _require_other_file(reader.paths, path)
        stage, facts = work.stage, reader.facts
        if work.prepare is not None:
            stage, facts = work.prepare(reader)
        sink = Sink(path, reader, write, {**_job(reader, read, units, write), **work.job}, facts=facts)
    except BaseException:
        reader.close()
        raise
    try:
        files, seconds = _pass(reader, sink, stage, work, callback)
    except Exception as error:
        if work.keep_on_error and isinstance(error, FastGDMLError):
            sink.keep()
        else:
            sink.discard()
        raise
    except BaseException:
        sink.keep()
        raise
    finally:
        reader.close()
    report = reader.report
    report.files, report.seconds, report.e_unit, report.r_unit = files, seconds, facts.e_unit, facts.r_unit
    return report


def _pass(
    reader: Reader, sink: Sink, stage: Stage | None, work: Work, callback: Callback | None
) -> tuple[list[Written], float]:
    """Pass all frames from a reader through a stage to a sink. Returns the files and the time."""
    step = Step(callback, work.title)
    n_read, start, skip = 0, time.perf_counter(), sink.n_done
    for frames in reader.chunks():
        n_read = frames.first + len(frames)
        if frames.first < skip:
            # written by an earlier run; what a stage labels has labels now
            sink.adopt(frames if work.prepare is None else replace(frames, E=np.empty(len(frames)), F=frames.R))
        if n_read <= skip:
            continue
        if frames.first < skip:
            frames = frames.part(slice(skip - frames.first, None))
        result = frames if stage is None else stage(frames)
        if len(result):
            sink.write(result)
        rate = (n_read - skip) / (time.perf_counter() - start)
        step(*reader.progress(), f"{n_read:,} geometries, {rate:,.0f}/s")
    if n_read < skip:
        raise DataError(
            f"An earlier run wrote {skip} frames, the sources have {n_read}. Remove its part and start anew."
        )
    files = sink.finish()
    seconds = time.perf_counter() - start
    step.done(f"{n_read:,} geometries, {(n_read - skip) / seconds:,.0f}/s")
    return files, seconds


def _not_ase_units(units: UnitOptions) -> bool:
    return energy_factor(str(units.to_e_unit), "eV") != 1 or length_factor(str(units.to_r_unit), "Ang") != 1


def _require_other_file(sources: list[str], target: str) -> None:
    if target != "-" and Path(target).exists():
        for source in sources:
            if source != "-" and os.path.samefile(source, target):
                raise UsageError(f"'{target}' is a source: write to another file.")


def _job(reader: Reader, read: ReadOptions | None, units: UnitOptions, write: WriteOptions) -> dict[str, Any]:
    """Return what makes a conversion the same as another, as plain data."""
    files = []
    for path in reader.paths:
        if path == "-":
            if write.resume:
                raise UsageError("What came from the standard input cannot be resumed.")
            files.append(["-", 0, 0])
            continue
        state = os.stat(path)
        files.append([os.path.abspath(path), state.st_size, state.st_mtime_ns])
    return {"sources": files, "read": repr(read or ReadOptions()), "units": repr(units)}


# ---- all frames at once: another order, fewer of them -------------------------------------------------------------

# Of all frames, kept on disk: which go to which file, in which order.
Choice = Callable[[Spool], "list[tuple[str, IntArray]]"]


def rearrange(
    sources: Sequence[str | os.PathLike[str]],
    targets: Sequence[str],
    choose: Choice,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep all frames on disk, and write chosen ones to one or several files.

    Parameters
    ----------
    sources : sequence of path-like
        As in `convert`.
    targets : sequence of str
        The files that `choose` may name.
    choose : callable
        Makes, of all frames, a list of files with the numbers of their frames.
    read, units, write, callback
        As in `convert`.
    """
    write = write or WriteOptions()
    if write.resume or write.split_by_formula:
        raise UsageError("--resume and --split-by-formula are options of 'convert'.")
    for path in targets:
        if path == "-":
            raise UsageError("Frames in another order are written to files, not to the standard output.")
        target_format(path)
        require_free(path, write.overwrite)
    if any(target_format(path) == "traj" for path in targets):
        units = replace(units or UnitOptions(), to_e_unit="eV", to_r_unit="Ang")
    reader = Reader(sources, read, units)
    try:
        for path in targets:
            _require_other_file(reader.paths, path)
        shelf = NpzTarget(targets[0])
        sink = Sink(targets[0], reader, replace(write, overwrite=True), only=shelf)
    except BaseException:
        reader.close()
        raise
    step = Step(callback, "Reading")
    try:
        for frames in reader.chunks():
            sink.write(frames)
            step(*reader.progress(), f"{shelf.n:,} frames")
        if not shelf.n:
            raise DataError("There are no frames.")
        step.done(f"{shelf.n:,} frames")
        spool = shelf.spool
        facts = sink.facts_of(next(iter(sink.kinds)))
        chosen = choose(spool)
        step = Step(callback, "Writing", len(chosen))
        for i, (path, order) in enumerate(chosen):
            own = facts if write.name or reader.facts.name else replace(facts, name=Path(path).stem)
            reader.report.files.append(_emit(spool, path, order, own))
            step(i + 1, len(chosen))
        step.done()
        reader.report.n_removed = spool.n - len(np.unique(np.concatenate([order for _, order in chosen])))
    finally:
        shelf.discard()
        reader.close()
    return reader.report


def _emit(spool: Spool, path: str, order: IntArray, facts: Facts) -> Written:
    if not len(order):
        raise UsageError(f"No frames are left for '{path}'.")
    kind = formula(spool.z)
    if target_format(path) == "npz":
        return Written(path, len(order), kind, spool.save(path, facts, order).decode("ascii"))
    target = open_target(path)
    try:
        step = chunk_frames(spool.n_atoms)
        for first in range(0, len(order), step):
            target.write(spool.read(order[first : first + step]), facts)
        target.finish(facts)
    except BaseException:
        target.discard()
        raise
    return Written(path, len(order), kind)


def thin(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    every: int,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep frames 0, every, 2 every, ...; see `convert`."""
    if every < 1:
        raise UsageError(f"every is {every}; a positive number is needed.")
    if write is not None and write.resume:
        raise UsageError("--resume is an option of 'convert'.")
    removed = 0

    def stage(frames: Frames) -> Frames:
        nonlocal removed
        kept = frames.part(np.arange(-frames.first % every, len(frames), every))
        removed += len(frames) - len(kept)
        return kept

    report = stream(sources, target, read, units, write, callback, Work("Thinning", stage))
    report.n_removed = removed
    return report


def draw(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    n: int,
    seed: int = 0,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep n frames drawn at random, in their order, stratified by energy if there are energies.

    Parameters
    ----------
    sources, target, read, units, write, callback
        As in `convert`.
    n : int
        How many.
    seed : int
        Seed of the draw.
    """
    path = os.fspath(target)

    def choose(spool: Spool) -> list[tuple[str, IntArray]]:
        E, rng = spool.array("E"), generator(seed)
        drawn = draw_uniform(spool.n, n, rng) if E is None else draw_stratified(E, n, rng)
        return [(path, np.sort(drawn))]

    return rearrange(sources, [path], choose, read, units, write, callback)


def shuffle(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    seed: int = 0,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Put all frames into a random order; see `convert`."""
    path = os.fspath(target)
    return rearrange(
        sources, [path], lambda spool: [(path, generator(seed).permutation(spool.n))], read, units, write, callback
    )


def split(
    sources: Sequence[str | os.PathLike[str]],
    targets: Sequence[tuple[str, int | float | None]],
    seed: int | None = 0,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Divide frames at random among files, no frame in two of them.

    Parameters
    ----------
    sources, read, units, write, callback
        As in `convert`.
    targets : sequence of (str, int or float or None)
        Files, and how many frames each gets: a number, a fraction (a float less than 1), or None for all that are left.
    seed : int or None
        Seed of the draw; None divides in the order of the frames.
    """
    paths = [path for path, _ in targets]
    if len(set(paths)) != len(paths):
        raise UsageError("Two parts have the same file name.")
    if sum(size is None for _, size in targets) > 1:
        raise UsageError("Only one part can be the rest.")

    def choose(spool: Spool) -> list[tuple[str, IntArray]]:
        sizes = [
            -1 if size is None else round(size * spool.n) if isinstance(size, float) else size for _, size in targets
        ]
        given = sum(size for size in sizes if size >= 0)
        if given > spool.n:
            raise UsageError(f"The parts ask for {given} frames; there are {spool.n}.")
        order = np.arange(spool.n) if seed is None else generator(seed).permutation(spool.n)
        parts, first = [], 0
        for path, size in zip(paths, sizes, strict=True):
            count = spool.n - given if size < 0 else size
            parts.append((path, np.sort(order[first : first + count])))
            first += count
        return parts

    return rearrange(sources, paths, choose, read, units, write, callback)


def dedup(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep the first of frames with the same geometry, up to rigid motions; see `convert`.

    Permutations that a dataset records count as the same, too.
    """
    path = os.fspath(target)
    perms: list[IntArray | None] = [None]

    def choose(spool: Spool) -> list[tuple[str, IntArray]]:
        return [(path, _first_of_duplicates(spool, perms[0]))]

    with open_frames(_find(os.fspath(sources[0])), read or ReadOptions()) as source:
        perms[0] = None if source.facts.perms is None else source.facts.perms.astype(np.int64)
    return rearrange(sources, [path], choose, read, units, write, callback)


def _first_of_duplicates(spool: Spool, perms: IntArray | None) -> IntArray:
    """Return the frames of a spool that repeat none before them."""
    # Sums of descriptors are equal for duplicates: only frames whose sums agree are compared.
    step = chunk_frames(spool.n_atoms)
    total = np.empty(spool.n)
    for first in range(0, spool.n, step):
        total[first : first + step] = _descriptors(spool, slice(first, first + step)).sum(axis=1)
    order = np.argsort(total, kind="stable")
    near = np.diff(total[order]) <= _SAME_GEOMETRY * np.abs(total[order][1:])
    images = [] if perms is None else [pair_permutation(p) for p in np.atleast_2d(perms)]
    keep = np.ones(spool.n, dtype=bool)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], near, [False])).astype(np.int8)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        group = np.sort(order[first : last + 1])
        kept = np.empty((0, n_pairs(spool.n_atoms)))
        for start in range(0, len(group), step):
            part = group[start : start + step]
            for frame, x in zip(part, _descriptors(spool, part), strict=True):
                tolerance = _SAME_GEOMETRY * np.abs(x).max()
                if any((np.abs(kept - x[image]).max(axis=1, initial=0) <= tolerance).any() for image in [..., *images]):
                    keep[frame] = False
                else:
                    kept = np.vstack((kept, x))
    return np.flatnonzero(keep)


def _descriptors(spool: Spool, which: slice | IntArray) -> npt.NDArray[np.float64]:
    frames = spool.read(which)
    return from_R(frames.R, None if frames.lattice is None else Cell(frames.lattice), 1)[0]
