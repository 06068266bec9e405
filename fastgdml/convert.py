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
from typing import Any

import numpy as np

from .errors import DataError, FastGDMLError, UsageError
from .formats import Facts, Frames, ReadOptions
from .formats.targets import target_format
from .progress import Callback, Step
from .reading import (
    Reader,
    Report,
    UnitOptions,
    Written,
)
from .units import energy_factor, length_factor
from .writing import Sink, WriteOptions, require_other_file

_log = logging.getLogger(__name__)

Stage = Callable[[Frames], Frames]
# Makes a stage, and says what to record of the frames that come out of it.
Prepare = Callable[[Reader], "tuple[Stage, Facts]"]
# Takes chunks through a stage, in their order: `map`, or what looks ahead.
Flow = Callable[[Stage, Iterator[Frames]], Iterator[Frames]]


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
    resumable : bool
        Whether a killed run can be continued; otherwise it leaves nothing that the next would not replace.
    flow : callable
        Takes the chunks through the stage, in their order.
    """

    title: str = "Converting"
    stage: Stage | None = None
    prepare: Prepare | None = None
    keep_on_error: bool = False
    job: dict[str, Any] = field(default_factory=dict)
    resumable: bool = True
    flow: Flow = map


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
        require_other_file(reader.paths, path)
        stage, facts = work.stage, reader.facts
        if work.prepare is not None:
            stage, facts = work.prepare(reader)
        job = {**_job(reader, read, units, write), **work.job} if work.resumable else None
        sink = Sink(path, reader, write, job, facts=facts)
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
    start, skip = time.perf_counter(), sink.n_done
    new = _New(reader, sink, skip, labelled=work.prepare is not None)
    for result in new if stage is None else work.flow(stage, iter(new)):
        if len(result):
            sink.write(result)
        rate = (new.n_read - skip) / (time.perf_counter() - start)
        step(*reader.progress(), f"{new.n_read:,} geometries, {rate:,.0f}/s")
    n_read = new.n_read
    if n_read < skip:
        raise DataError(
            f"An earlier run wrote {skip} frames, the sources have {n_read}. Remove its part and start anew."
        )
    files = sink.finish()
    seconds = time.perf_counter() - start
    step.done(f"{n_read:,} geometries, {(n_read - skip) / seconds:,.0f}/s")
    return files, seconds


class _New:
    """The frames of a reader that an earlier run did not write, a chunk at a time."""

    def __init__(self, reader: Reader, sink: Sink, skip: int, labelled: bool) -> None:
        self._reader, self._sink, self._skip, self._labelled = reader, sink, skip, labelled
        self.n_read = 0

    def __iter__(self) -> Iterator[Frames]:
        for frames in self._reader.chunks():
            self.n_read = frames.first + len(frames)
            if frames.first < self._skip:
                # written by an earlier run; what a stage labels has labels now
                self._sink.adopt(replace(frames, E=np.empty(len(frames)), F=frames.R) if self._labelled else frames)
            if self.n_read <= self._skip:
                continue
            yield frames.part(slice(self._skip - frames.first, None)) if frames.first < self._skip else frames


def _not_ase_units(units: UnitOptions) -> bool:
    return energy_factor(str(units.to_e_unit), "eV") != 1 or length_factor(str(units.to_r_unit), "Ang") != 1


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
