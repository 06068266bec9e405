"""Readers and writers of frames, a chunk at a time, of this and other projects' formats.

>>> from fastgdml.formats import ReadOptions, open_frames
>>> with open_frames("trajectory.xyz", ReadOptions()) as source:
...     n_frames = sum(len(frames) for frames in source.chunks())
"""

from __future__ import annotations

from pathlib import Path

from ..errors import FileFormatError, UsageError
from ..files import path_type
from .frames import Facts, Frames, FrameSource, ReadOptions

__all__ = ["Facts", "FrameSource", "Frames", "ReadOptions", "open_frames"]

_OWN = ("npz", "xyz", "extxyz", "deepmd")


def open_frames(path: str, options: ReadOptions) -> FrameSource:
    """Open a source of frames.

    Parameters
    ----------
    path : str
        A file or folder; ``-`` is XYZ from the standard input.
    options : ReadOptions
        How to read it.

    Returns
    -------
    FrameSource
        To be used as a context manager.

    Raises
    ------
    FileFormatError
        If there is no such file, or it cannot be read.
    UsageError
        If its labels are ambiguous, or an optional package is missing.
    DataError
        If the first frame is broken.
    """
    kind = options.format or _format_of(path)
    if options.forces_file is not None or options.energies_file is not None:
        if kind not in ("xyz", "extxyz"):
            raise UsageError(f"--forces_file and --energies_file go with positions in XYZ; {path} is {kind}.")
        from .paired import PairedSource

        return PairedSource(path, options)
    if kind == "npz":
        from .npz import NpzSource

        return NpzSource(path, options)
    if kind in ("xyz", "extxyz"):
        from .xyz import XYZSource

        return XYZSource(path, options)
    if kind == "deepmd":
        from .deepmd import DeepMDSource

        return DeepMDSource(path, options)
    from .ase import ASESource

    return ASESource(path, options)


def _format_of(path: str) -> str:
    """Return the format of a file by its name and first bytes; '' leaves it to ASE."""
    from .deepmd import is_deepmd
    from .xyz import is_xyz_name

    if path == "-":
        return "xyz"
    place = Path(path)
    if place.is_dir():
        if is_deepmd(path):
            return "deepmd"
        systems = sorted(str(p.parent) for p in place.glob("*/type.raw"))
        hint = f" It holds systems of DeePMD-kit: {', '.join(systems[:5])}." if systems else ""
        raise FileFormatError(f"{path} is a folder, and none of DeePMD-kit (no type.raw).{hint} Give a file.")
    if path_type(place) == "special file":  # to look at a pipe is to lose what it brings, or to wait
        raise FileFormatError(f"{path} is a special file; a file is needed, or '-' for the standard input.")
    try:
        with open(place, "rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file.") from None
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}.") from None
    if not start:
        raise FileFormatError(f"{path} is empty.")
    if is_xyz_name(path):
        return "xyz"
    if start[:2] == b"PK" or place.suffix.lower() == ".npz":
        return "npz"
    first, _, rest = start.partition(b"\n")
    if first.strip().isdigit() and rest and not place.suffix:
        return "xyz"
    return ""
