"""`python -m fastgdml.compat script.py ...`: run a script that imports sgdml."""

from __future__ import annotations

import os
import runpy
import sys
from types import TracebackType
from typing import NoReturn

from . import install

_USAGE = """\
usage: python -m fastgdml.compat <script.py> [<argument> ...]
       python -m fastgdml.compat -m <module> [<argument> ...]
       python -m fastgdml.compat sgdml [<argument> ...]

Run a Python script, a module, or the sgdml command line with fastgdml in the place of sgdml."""


def main() -> None:
    """Run what the command line names, with the arguments behind it."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return
    as_module = arguments[:1] == ["-m"]
    if as_module:
        arguments = arguments[1:]
    if not arguments or arguments[0].startswith("-"):
        _fail(_USAGE)

    install()
    target = arguments[0]
    if target == "sgdml" and not as_module and not os.path.exists(target):
        target, as_module = "sgdml.cli", True
    sys.argv = [target, *arguments[1:]]
    if as_module:
        _hide_own_frames()
        _set_script_folder(os.getcwd())
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    if not os.path.isfile(target):
        _fail(f"python -m fastgdml.compat: there is no script '{target}'")
    _hide_own_frames()
    _set_script_folder(os.path.dirname(os.path.realpath(target)))
    runpy.run_path(target, run_name="__main__")


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


def _set_script_folder(folder: str) -> None:
    """Search modules in the folder of the script first, as Python does unless it was started with -P or -I."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _hide_own_frames() -> None:
    """Let tracebacks begin in the script, as if Python had been started with it."""
    show = sys.excepthook

    def show_from_script(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        below = _below_runpy(traceback)
        show(kind, error.with_traceback(below), below)

    sys.excepthook = show_from_script


def _below_runpy(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback after the last frame of runpy."""
    below = frame = traceback
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__") == "runpy":
            below = frame.tb_next
        frame = frame.tb_next
    return below


if __name__ == "__main__":
    main()
