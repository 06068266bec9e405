"""Where the C library is: headers, library, and what compilers need. The command ``fastgdml-config`` prints it.

    cc program.c $(fastgdml-config --cflags --libs)

Where the path of the installation has blanks, they come with a backslash, and a shell must read the line twice:

    eval "cc program.c $(fastgdml-config --cflags --libs)"

Imports nothing heavy, so that build systems may call the command often.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ._version import __version__
from .errors import FileFormatError


def include_dir() -> Path:
    """Return the folder with ``fastgdml.h``.

    Raises
    ------
    FileFormatError
        If the installation lacks it.
    """
    return _installed("include/fastgdml.h").parent


def library_path() -> Path:
    """Return the shared library.

    Raises
    ------
    FileFormatError
        If the installation lacks it.
    """
    names = {"darwin": ["libfastgdml.dylib"], "win32": ["fastgdml.dll", "libfastgdml.dll"]}
    return _installed(*[f"lib/{name}" for name in names.get(sys.platform, ["libfastgdml.so"])])


def pkgconfig_dir() -> Path:
    """Return the folder with ``fastgdml.pc``, for PKG_CONFIG_PATH.

    Raises
    ------
    FileFormatError
        If the installation lacks it.
    """
    return _in_place("lib/pkgconfig/fastgdml.pc")


def cmake_dir() -> Path:
    """Return the folder with ``fastgdml-config.cmake``, for CMake's fastgdml_DIR.

    Raises
    ------
    FileFormatError
        If the installation lacks it.
    """
    return _in_place("lib/cmake/fastgdml/fastgdml-config.cmake")


def _installed(*names: str) -> Path:
    # In an editable installation the files lie elsewhere, and only files have a place, not their folders.
    for name in names:
        path = Path(str(files(__package__).joinpath(*name.split("/"))))
        if path.is_file():
            return path
    raise _missing(names[0])


def _in_place(name: str) -> Path:
    """Return the folder of a file that names others by their place relative to its own."""
    path = _installed(name)
    if not path.as_posix().endswith(name):
        raise _missing(name)
    return path.parent


def _missing(name: str) -> FileFormatError:
    return FileFormatError(
        f"This installation of fastgdml has no {name}: install it anew, not in editable mode (pip install .)."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is asked for, in one line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="fastgdml-config", description="Print how to compile and link programs that use the C library."
    )
    parser.add_argument("--version", action="store_true", help="version of the library")
    parser.add_argument("--cflags", action="store_true", help="flags for the compiler")
    parser.add_argument("--libs", action="store_true", help="flags for the linker, with the place of the library")
    parser.add_argument("--includedir", action="store_true", help="folder of the headers")
    parser.add_argument("--libdir", action="store_true", help="folder of the library")
    parser.add_argument("--pkgconfigdir", action="store_true", help="folder for PKG_CONFIG_PATH")
    parser.add_argument("--cmakedir", action="store_true", help="folder for CMake's fastgdml_DIR")
    args = parser.parse_args(argv)
    wanted = [name for name, given in vars(args).items() if given]
    if not wanted:
        parser.error("give at least one option")
    try:
        print(" ".join(_answer(name) for name in wanted))
    except FileFormatError as error:
        print(f"fastgdml-config: {error}", file=sys.stderr)
        return 1
    return 0


def _answer(name: str) -> str:
    if name == "version":
        return __version__
    if name == "cflags":
        return f"-I{_escaped(include_dir())}"
    if name == "libs":
        folder = _escaped(library_path().parent)
        return f"-L{folder} -Wl,-rpath,{folder} -lfastgdml"
    folders = {"includedir": include_dir, "pkgconfigdir": pkgconfig_dir, "cmakedir": cmake_dir}
    return str(folders[name]() if name in folders else library_path().parent)


def _escaped(path: Path) -> str:
    """Return a path as one word for a shell, as pkg-config prints it: flags with blanks need ``eval``."""
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", str(path))
