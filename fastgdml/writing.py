"""Files that frames are written to: one, or one for each composition; what a killed run leaves can be gone on from."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError, UsageError
from .formats import Facts, Frames
from .formats.frames import difference_of_atoms, formula
from .formats.targets import Target, open_target, require_free, target_format
from .reading import (
    Reader,
    Written,
)

_log = logging.getLogger(__name__)


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
        What is being done; for resuming, which is impossible without it.
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
            if self._job is None:
                target.discard()
                continue
            target.keep()
            if target.is_dataset and target.n:
                _log.warning("%s.part is unfinished: the same command with --resume goes on.", target.path)

    def _all(self) -> list[Target]:
        return [self._only] if self._only is not None else list(self._targets.values())


def require_other_file(sources: list[str], target: str) -> None:
    """Raise UsageError if a target is one of the sources."""
    if target != "-" and Path(target).exists():
        for source in sources:
            if source != "-" and os.path.samefile(source, target):
                raise UsageError(f"'{target}' is a source: write to another file.")
