"""The command line: parse, call, print. Nothing here computes.

Only the standard library is imported before the arguments are known, so that ``--help`` is immediate.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from .parser import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 success, 1 error, 2 wrong usage, 130 interrupted."""
    args = build_parser().parse_args(argv)
    from ..errors import FastGDMLError
    from .console import Console

    console = Console()
    try:
        with console.logging():
            import_module(f"{__package__}.{args.module}").run(args, console)
    except FastGDMLError as error:
        console.error(str(error))
        return 1
    except KeyboardInterrupt:
        console.error(
            "Interrupted. Complete files are kept; a search in a task directory continues with the same command."
        )
        return 130
    except BrokenPipeError:  # the reader of our output is gone, as in `| head`
        sys.stderr.close()
        return 1
    return 0
