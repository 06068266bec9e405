"""The compiled module `_core`, loaded such that OpenMP's threads sleep soon after they have worked.

GCC's OpenMP library lets a thread without work spin for some milliseconds before it sleeps. From one call of ours to
the next that may be all the time, on a processor that BLAS, or another OpenMP library of the process (LAMMPS brings
one), has threads for: each of their loops then waits for the scheduler of the system to take turns. To sleep at once
is not right either, as waking a thread takes longer (0.05 ms) than small predictions. Threads spin for some tenths of
a millisecond: longer than the serial work between the loops of a program, shorter than a turn of the scheduler.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SPINS = "8000"  # 0.2 to 0.4 ms; GCC's own default is 300000. benchmarks/two_runtimes.py tries others


@contextmanager
def short_waits() -> Iterator[None]:
    """Libraries of OpenMP that are loaded in this block spin shortly, unless the user's environment says how to wait.

    They read the environment once, when they are loaded; afterwards it is what it was, also for child processes.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        yield
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)


with short_waits():
    from . import _core

__all__ = ["_core", "short_waits"]
