"""The command ``fastgdml-ipi``: starts the compiled client for i-PI, which lies in the package.

A program among Python's scripts would not find the libraries that a wheel brings along, which lie beside the package.
"""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

from .errors import FileFormatError


def program() -> Path:
    """Return the compiled program.

    Raises
    ------
    FileFormatError
        If the installation has none: on Windows, whose sockets it does not use.
    """
    path = Path(str(files(__package__).joinpath("bin", "fastgdml-ipi")))
    if path.is_file():
        return path
    if sys.platform == "win32":
        raise FileFormatError(
            "fastgdml has no fastgdml-ipi on Windows, because it uses POSIX sockets: use it in WSL, or the PES driver, "
            "which runs within i-PI (fastgdml.drivers.ipi_pes)."
        )
    raise FileFormatError(f"This installation of fastgdml has no {path}: install it anew.")


def main() -> int:
    """Become the compiled program, with the arguments of this one; return only where that fails."""
    try:
        os.execv(program(), ["fastgdml-ipi", *sys.argv[1:]])
    except (FileFormatError, OSError) as error:
        print(f"fastgdml-ipi: {error}", file=sys.stderr)
    return 1
