"""The program: ``fastgdml``, or ``python -m fastgdml``."""

from __future__ import annotations

import gc
import sys

from .cli import main


def run() -> int:
    """Run the command line of this process, and return its exit status, see `fastgdml.cli.main`."""
    status = main()
    gc.freeze()  # all of it ends with the process: to look for cycles in 400 modules would take 25 ms
    return status


if __name__ == "__main__":
    sys.exit(run())
