"""How many threads a parallel region may use."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController

from .memory import require_address_space

# What OpenBLAS takes for each thread, in bytes.
_BLAS_BUFFER = 48 * 2**20

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


class BlasLimit:
    """Limits the threads of BLAS, which has one number for the whole process.

    Of blocks that are under way at once in different Python threads the smallest limit counts, in one thread that of
    the innermost block; when the last block ends, the number is again what it was. Limits that each set and restore the
    number by themselves would give one block the number of another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: dict[int, list[int]] = {}
        self._before: list[tuple[Any, int]] = []

    @contextmanager
    def __call__(self, n_threads: int, n_callers: int = 1) -> Iterator[None]:
        """Limit the threads of BLAS to `n_threads` while the context lasts; so many threads of ours will call it."""
        buffers = _BLAS_BUFFER * n_threads * n_callers
        require_address_space(buffers)  # without its buffers it tries for ever, or ends the process
        thread = threading.get_ident()
        with self._lock:
            if not self._limits:
                libraries = ThreadpoolController().select(user_api="blas").lib_controllers
                self._before = [(library, library.num_threads) for library in libraries]
            self._limits.setdefault(thread, []).append(n_threads)
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._limits[thread].pop()
                if not self._limits[thread]:
                    del self._limits[thread]
                self._apply()

    def _apply(self) -> None:
        limit = min((limits[-1] for limits in self._limits.values()), default=None)
        for library, before in self._before:
            # Newer versions let only the thread that was first set the number; here one lock sees to the order.
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread(force=True)
            library.set_num_threads(before if limit is None else limit)


# One for the process, as the number is.
blas_threads = BlasLimit()


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
