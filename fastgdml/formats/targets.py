"""Writers of frames: npz, extended XYZ, ASE trajectories. No file has its final name before it is complete."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FileFormatError, UsageError
from ..npz import DATASET, TEXT, TRAJECTORY, replacing, require_unused
from .frames import Facts, Frames
from .npz import Spool
from .xyz import is_xyz_name, xyz_frames


class Target:
    """Where frames are written. Use `finish` or `discard` at the end.

    Attributes
    ----------
    path : str
        The file.
    n : int
        Number of frames written so far.
    """

    # Whether frames must have forces, and atoms must be the same in all of them.
    is_dataset = False

    def __init__(self, path: str) -> None:
        self.path = path
        self.n = 0

    def write(self, frames: Frames, facts: Facts) -> None:
        """Add frames."""
        raise NotImplementedError

    def finish(self, facts: Facts) -> str | None:
        """Complete the file. Returns the fingerprint of a dataset."""
        raise NotImplementedError

    def discard(self) -> None:
        """Leave nothing."""
        raise NotImplementedError

    def keep(self) -> None:
        """Close the files and leave what another run can continue, if there is such a thing."""
        self.discard()


class NpzTarget(Target):
    """A dataset in npz."""

    is_dataset = True

    def __init__(self, path: str, job: Mapping[str, Any] | None = None, resume: bool = False) -> None:
        super().__init__(path)
        self.spool = Spool(path, job, resume)
        self.n = self.spool.n

    def write(self, frames: Frames, facts: Facts) -> None:
        """Add frames."""
        self.spool.append(frames)
        self.n = self.spool.n

    def finish(self, facts: Facts) -> str | None:
        """Complete the file."""
        fingerprint = self.spool.save(self.path, facts)
        self.spool.discard()
        return fingerprint.decode("ascii")

    def discard(self) -> None:
        """Leave nothing."""
        self.spool.discard()

    def keep(self) -> None:
        """Close the files and leave their folder."""
        self.spool.close()


class XYZTarget(Target):
    """Extended XYZ; ``-`` is the standard output."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._stack = ExitStack()
        self._file: BinaryIO = sys.stdout.buffer if path == "-" else self._stack.enter_context(replacing(path, TEXT))

    def write(self, frames: Frames, facts: Facts) -> None:
        """Add frames."""
        text = xyz_frames(Frames(**{**frames.__dict__, "first": self.n}), facts)
        try:
            self._file.write(text.encode("utf-8"))
            if self.path == "-":
                self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FileFormatError(f"{self.path} could not be written: {error.strerror or error}.") from error
        self.n += len(frames)

    def finish(self, facts: Facts) -> None:
        """Complete the file."""
        self._stack.close()

    def discard(self) -> None:
        """Leave nothing."""
        _abandon(self._stack)


class TrajectoryTarget(Target):
    """A trajectory of ASE, in eV and Angstrom."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        from .ase import TrajectoryWriter

        self._stack = ExitStack()
        file = self._stack.enter_context(replacing(path, TRAJECTORY))
        try:
            self._writer = TrajectoryWriter(path, file)
        except BaseException:
            _abandon(self._stack)
            raise

    def write(self, frames: Frames, facts: Facts) -> None:
        """Add frames, whose units must be eV and Angstrom."""
        self._writer.write(frames)
        self.n += len(frames)

    def finish(self, facts: Facts) -> None:
        """Complete the file."""
        self._writer.close()
        self._stack.close()

    def discard(self) -> None:
        """Leave nothing."""
        self._writer.close()
        _abandon(self._stack)


class _Abandoned(Exception):
    """Ends the writing of a file."""


def _abandon(stack: ExitStack) -> None:
    """Leave the contexts of a stack as an error does, which deletes temporary files."""
    error = _Abandoned()
    with suppress(_Abandoned):
        stack.__exit__(_Abandoned, error, None)


def target_format(path: str) -> str:
    """Return the format of a file to write, by its name: npz, xyz or traj.

    Raises
    ------
    UsageError
        If the name has none of these endings.
    """
    name = Path(path).name.lower()
    if path == "-" or (is_xyz_name(path) and not name.endswith(".gz")):
        return "xyz"
    if name.endswith(".npz"):
        return "npz"
    if name.endswith(".traj"):
        return "traj"
    raise UsageError(
        f"'{path}': in which format? The name must end in .npz (a dataset), .xyz or .extxyz (extended XYZ) or .traj (a "
        "trajectory of ASE)."
    )


def open_target(path: str, job: Mapping[str, Any] | None = None, resume: bool = False) -> Target:
    """Open a file to write frames to.

    Parameters
    ----------
    path : str
        Its name tells the format; see `target_format`.
    job : dict, optional
        What is being done, as plain data; for `resume`. Without it, what a killed program left is written anew.
    resume : bool
        Continue an npz file that a killed program left unfinished.
    """
    kind = target_format(path)
    if resume and kind != "npz":
        raise UsageError(f"Only npz files can be continued; {path} must be written anew.")
    if kind == "npz":
        return NpzTarget(path, job, resume)
    return XYZTarget(path) if kind == "xyz" else TrajectoryTarget(path)


# What is replaced, with permission, by what: files of the same kind.
_KINDS = {"npz": DATASET, "xyz": TEXT, "traj": TRAJECTORY}


def require_free(path: str, overwrite: bool) -> None:
    """Raise unless a file can be written, and may be. Nothing is left there.

    Raises
    ------
    FileFormatError
        If there is a file of another kind, or it cannot be written.
    UsageError
        If it exists and is not to be overwritten.
    """
    if path != "-":
        require_unused(path, _KINDS[target_format(path)], overwrite)
