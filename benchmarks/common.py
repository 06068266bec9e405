"""What several benchmarks need. NumPy is all it imports: interpreters that have only sgdml run it too."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def best_of(work: Callable[[], object], repetitions: int = 4, synchronize: Callable[[], object] | None = None) -> float:
    """Return the seconds of the fastest of several runs; `synchronize` waits for a device before the clock is read."""
    wait = synchronize or (lambda: None)
    times = []
    for _ in range(repetitions):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_gb() -> float:
    """Return the peak resident memory of this process (ru_maxrss would start from that of the parent)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**20


def methyl_group(n_atoms: int, n_perms: int) -> np.ndarray:
    """Permutations like those of methyl groups, (n_perms, n_atoms): turns of the last three atoms, exchanges of two."""
    perms = [np.arange(n_atoms)]
    last = n_atoms
    if n_perms % 3 == 0:
        perms = [p[np.r_[: last - 3, last - 3 + np.roll(np.arange(3), turn)]] for p in perms for turn in range(3)]
        last -= 3
    while len(perms) < n_perms:
        swap = np.arange(n_atoms)
        swap[[last - 2, last - 1]] = last - 1, last - 2
        perms += [p[swap] for p in perms]
        last -= 2
    return np.array(perms)


def grid_molecules(n_geo: int, n_atoms: int, seed: int = 0) -> np.ndarray:
    """Return geometries (n_geo, n_atoms, 3) on a distorted grid, so that no atoms come close."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.4
    return grid[rng.permutation(len(grid))[:n_atoms]] + rng.uniform(-0.3, 0.3, (n_geo, n_atoms, 3))
