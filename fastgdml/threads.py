"""How many threads a parallel region may use."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

# OpenMP runtimes hang in a child process that was forked after a parallel region, so such a child runs serially.
_IMPORTING_PROCESS = os.getpid()


def resolve_n_threads(n_threads: int | None = None) -> int:
    """Return the number of threads to use.

    Parameters
    ----------
    n_threads : int, optional
        What the caller asked for. None means all that this process may use: its CPU affinity, the cgroup's CPU
        quota and OMP_NUM_THREADS each set a bound.

    Returns
    -------
    int
        At least 1; 1 in a process forked after fastgdml was imported.
    """
    if os.getpid() != _IMPORTING_PROCESS:
        return 1
    if n_threads is not None:
        return max(1, int(n_threads))
    return max(1, min(_affinity(), _cgroup_quota(), _omp_num_threads()))


class ThreadShare:
    """Divides threads among calls that are under way at once in different Python threads.

    A call that starts while k others run gets n / (k + 1) threads. Results never depend on the number.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0

    def join(self, n_threads: int) -> int:
        """Begin a call; return the number of threads that it may use of the `n_threads` that were asked for."""
        with self._lock:
            self._running += 1
            running = self._running
        return 1 if os.getpid() != _IMPORTING_PROCESS else max(1, n_threads // running)

    def leave(self) -> None:
        """End a call."""
        with self._lock:
            self._running -= 1


# One for the process, because its processors are what is shared.
prediction_threads = ThreadShare()


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_quota() -> int:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or quota "max"
        return _affinity()


def _omp_num_threads() -> int:
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(value) if value.isdigit() and int(value) > 0 else _affinity()
