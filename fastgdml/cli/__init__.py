"""The command line: parse, call, print. Nothing here computes.

Only the standard library is imported before the arguments are known, so that ``--help`` is immediate.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from .parser import build_parser

if TYPE_CHECKING:
    from .console import Console


# Address space that the numerical libraries take when they are loaded; with less they hang or end the process.
_LIBRARIES = 400 * 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 success, 1 error, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the encoding of the terminal lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # now, when an error can be told, rather than when Python ends
    except KeyboardInterrupt:  # before there is anything to interrupt
        return 130
    except BrokenPipeError:  # the reader of our output is gone, as in `| head`
        _discard_output()
    except OSError as error:
        _discard_output()
        if sys.stderr is not None:
            print(f"fastgdml: the output could not be written: {error.strerror or error}.", file=sys.stderr)
    return 1


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    from .. import memory
    from ..errors import FastGDMLError
    from .console import Console

    console = Console(
        quiet=getattr(args, "quiet", False),
        as_json=getattr(args, "json", False),
        stdout_is_data=getattr(args, "output", None) == "-",
    )
    try:
        memory.require_address_space(_LIBRARIES)
        with console.logging():
            import_module(f"{__package__}.{args.module}").run(args, console)
    except FastGDMLError as error:
        console.error(str(error))
        return 1
    except KeyboardInterrupt:
        console.error(
            "Interrupted. Complete files are kept; a search or a run of learning continues with the same command."
        )
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        console.error(f"{os.fsdecode(error.filename)}: {error.strerror or error}.")
        return 1
    except MemoryError as error:
        console.error(
            f"There is not enough memory for this work ({error}). Use fewer points or atoms, or a larger machine."
        )
        return 1
    except Exception as error:
        _unexpected(error, console)
        return 1
    return 0


def _unexpected(error: Exception, console: Console) -> None:
    """Say in a line that fastgdml failed where it should not, with the place; all of it if the environment asks."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{os.path.basename(frame.tb_frame.f_code.co_filename)}, line {frame.tb_lineno}" if frame else "unknown"
    console.error(
        f"This should not happen: {type(error).__name__}: {error} ({place}). The input may be damaged in a way that is "
        "not checked. Please report it with the command; FASTGDML_TRACEBACK=1 prints more."
    )
    if os.environ.get("FASTGDML_TRACEBACK"):
        import traceback

        traceback.print_exception(error)


def _discard_output() -> None:
    """Send what is left to be written to standard output nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):  # there is no such stream, or it is no file
        pass
