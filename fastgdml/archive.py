"""npz archives as zip files: opened without inflating anything, or written entry by entry.

What `zipfile` does with an archive that is collected is not done here: of one that an interruption left half made it
would tell an error, and an interruption in there would be lost.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import FileFormatError

# How NumPy stores entries, and by how much each method can shrink them.
_METHODS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1040}


class _Archive(zipfile.ZipFile):
    def __del__(self) -> None:
        pass


def open_archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open an npz archive and return its arrays by key; nothing is inflated.

    Raises
    ------
    FileFormatError
        If members are encrypted, have the same name, are compressed as NumPy never does, or claim to be larger than
        what is stored could become.
    zipfile.BadZipFile
        If it is no archive.
    """
    archive = _Archive(path)
    try:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            if key == info.filename:
                continue
            if key in members:
                raise FileFormatError(f"{path} has two entries named '{key}': it is damaged, or made to mislead.")
            if info.flag_bits & 0x1:
                raise FileFormatError(f"{path}: {key} is encrypted, which no npz file is.")
            if info.compress_type not in _METHODS:
                raise FileFormatError(
                    f"{path}: {key} is compressed by a method (number {info.compress_type}) that NumPy does not use."
                )
            if info.file_size > _METHODS[info.compress_type] * info.compress_size + 64:
                raise FileFormatError(
                    f"{path}: {key} claims {info.file_size:,} bytes, more than the {info.compress_size:,} that are "
                    "stored could become. The file is damaged."
                )
            members[key] = info
        return archive, members
    except BaseException:
        archive.close()
        raise


class NewArchive(_Archive):
    """An npz archive that is written into an open file; equal entries make equal files.

    Only leaving its context without an exception completes it. Until then nothing is written when it is left alone, as
    by an interruption in between: its file may be closed by then.

    Parameters
    ----------
    file : file
        Where to write; not closed.
    compress : bool
        Compress the entries.
    """

    def __init__(self, file: BinaryIO, compress: bool = False) -> None:
        super().__init__(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)

    def entry(self, key: str) -> IO[bytes]:
        """Open a new entry, whose npy file is to be written by the caller."""
        return self.open(f"{key}.npy", "w", force_zip64=True)  # the size is not known yet

    def add(self, key: str, array: npt.NDArray[Any]) -> None:
        """Write an entry."""
        with self.entry(key) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is None:
            self.close()
