"""What `solver="auto"` takes, beside both solvers, over molecules, crystals, sizes, length scales and regularisations.

    python benchmarks/auto.py DATA_DIR [--most 60] [--only ethanol]

DATA_DIR holds the datasets of `CASES`. Each training runs twice where it takes less than 5 s, and the faster one
counts. Cases whose closed form would take longer than `--most` seconds are left out. Printed are seconds, what was
taken, and the ratio of `auto` to the faster solver; at the end their mean and largest. Nothing else should run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgdml.dataset import Dataset, load_dataset
from fastgdml.solvers.cost import Rates, closed_form_seconds
from fastgdml.solvers.rigid import count_independent
from fastgdml.task import Task
from fastgdml.train import GDMLTrain


@dataclass(frozen=True)
class Case:
    """A dataset, the number of points, and what differs from the defaults."""

    name: str
    points: int
    sig: float = 20
    lam: float = 1e-10
    energies: bool = False

    def task(self, dataset: Dataset) -> Task:
        return GDMLTrain().create_task(
            dataset, self.points, dataset, 10, sig=self.sig, lam=self.lam, seed=0, use_E_cstr=self.energies
        )

    def __str__(self) -> str:
        more = ", energies" if self.energies else ""
        return f"{self.name} {self.points}, sigma {self.sig:g}, lambda {self.lam:g}{more}"


CASES = (
    *(Case("md17_ethanol", points) for points in (200, 500, 1000)),
    *(Case("md17_aspirin", points) for points in (100, 150, 200, 400)),
    *(Case("md17_ethanol", 300, sig) for sig in (5, 10, 50, 100)),
    *(Case("md17_ethanol", 300, 20, lam) for lam in (1e-15, 1e-6)),
    *(Case("md17_aspirin", 150, sig) for sig in (10, 100)),
    Case("md17_ethanol", 200, energies=True),
    Case("md17_ethanol", 400, energies=True),
    *(Case("xtb_ethanol", points) for points in (200, 500)),
    *(Case("md17_ethanol_2000", 200, sig) for sig in (10, 20)),
    Case("xtb_aspirin", 200),
    Case("methanol_Cu100_train", 60, 50),
    Case("methanol_Cu100_train", 150, 50),
    Case("emt_cu111", 60),
    Case("emt_cu111", 150),
    Case("qm22_alkane_C14", 100, 50),
)
# Runs that take longer are not repeated.
SHORT = 5.0


def timed(task: Task, solver: str) -> tuple[float, Any]:
    """Return the seconds of the faster of up to two trainings, and the model."""
    best, model = float("inf"), None
    for _ in range(2):
        start = time.perf_counter()
        model = GDMLTrain().train(task, solver=solver)
        best = min(best, time.perf_counter() - start)
        if best > SHORT:
            break
    return best, model


def taken(model: Any) -> str:
    if str(model["solver_name"]) != "cg":
        return "closed form"
    return f"{model['solver_iters']} steps, k = {len(model['inducing_pts_idxs'])}"


def compare(case: Case, dataset: Dataset, most: float) -> float | None:
    """Print a line of the table; return the ratio, None if the case takes too long."""
    task = case.task(dataset)
    order = count_independent(task["R_train"], "lattice" in task, case.energies)
    if closed_form_seconds(order, Rates()) > most:
        print(f"{case}: left out, its closed form takes more than {most:g} s", flush=True)
        return None
    (ours, model), (cg, iterative), (closed, _) = (timed(task, solver) for solver in ("auto", "cg", "closed"))
    ratio = ours / min(cg, closed)
    print(
        f"{case}: auto {ours:.2f} s ({taken(model)}), cg {cg:.2f} s ({taken(iterative)}), closed {closed:.2f} s; "
        f"{ratio:.2f} times the faster",
        flush=True,
    )
    return ratio


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--most", type=float, default=60, help="seconds of the closed form")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--smoke", action="store_true", help="one small case, of the shipped example")
    args = parser.parse_args()
    if args.smoke:
        compare(Case("ethanol", 30), load_dataset("ethanol"), args.most)
        return
    if args.data is None:
        parser.error("DATA_DIR is missing")
    found = [
        compare(case, load_dataset(args.data / f"{case.name}.npz"), args.most)
        for case in CASES
        if args.only in str(case)
    ]
    ratios = [ratio for ratio in found if ratio is not None]
    if not ratios:
        parser.error("no case is left: see --only and --most")
    print(f"mean {statistics.geometric_mean(ratios):.2f}, largest {max(ratios):.2f}, of {len(ratios)} cases")


if __name__ == "__main__":
    main()
