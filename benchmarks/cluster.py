"""A training with rows on single-threaded workers of this machine, beside the same threads without Dask.

    python benchmarks/cluster.py [--points 1000] [--sig 20] [--seed 1]

Serial and distributed training of ethanol by conjugate gradients, with 1 and 2 threads or workers, in turn. For each:
seconds of the preconditioner and of the iteration, number of steps, the ratio of the iterations' seconds a step. Then
what a message costs here: calls that compute nothing, of few and of many bytes, give the seconds a message and the
bytes a second of the cost model (docs/scaling.md); what they add to a step stands beside what was measured. The
machine should do nothing else.
"""

from __future__ import annotations

import argparse
import logging
import time

import numpy as np
from common import best_of
from simulate_cluster import Hardware, Problem, parts

from fastgdml.cluster import Cluster, ClusterTrain, connect
from fastgdml.dataset import load_dataset
from fastgdml.train import GDMLTrain


class Clock:
    """A callback that notes when each step of a training began and ended."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.spent: dict[str, float] = {}

    def __call__(self, current: int, total: int = 1, disp_str: str = "", *_: object, **__: object) -> None:
        name, now = disp_str.split(" (")[0], time.perf_counter()
        if current >= total:
            self.spent[name] = self.spent.get(name, 0.0) + now - self.begun.pop(name, now)
        else:
            self.begun.setdefault(name, now)


class Echo:
    """An actor that answers with so many bytes."""

    def answer(self, _: np.ndarray, n_bytes: int) -> np.ndarray:
        return np.zeros(n_bytes // 8)


def measure(trainer: GDMLTrain, task: dict) -> tuple[float, float, int]:
    """Return seconds of the preconditioners, of the iteration, and the number of steps."""
    clock = Clock()
    model = trainer.train(task, callback=clock, solver="cg")
    steps = int(model["solver_iters"])
    return clock.spent["Building preconditioner"], clock.spent["Solving linear system"], steps


def message_costs(cluster: Cluster) -> tuple[float, float]:
    """Return seconds a message, one way, and bytes a second."""
    cluster.reach_workers()
    address = cluster.workers()[0].address
    echo = cluster.client.submit(Echo, actor=True, workers=[address], pure=False).result()
    few, many = np.zeros(8), np.zeros(250_000)
    small = best_of(lambda: [echo.answer(few, 64).result() for _ in range(20)], 5) / 20
    large = best_of(lambda: [echo.answer(many, many.nbytes).result() for _ in range(5)], 5) / 5
    return small / 2, 2 * many.nbytes / max(large - small, 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--sig", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few points only")
    args = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    n_points = 60 if args.smoke else args.points
    dataset = load_dataset("ethanol")
    task = GDMLTrain().create_task(dataset, n_points, dataset, 20, sig=args.sig, seed=args.seed)
    for n in (1, 2):
        building, solving, steps = measure(GDMLTrain(max_processes=n), task)
        print(f"{n} threads:  preconditioner {building:.2f} s, iteration {solving:.2f} s, {steps} steps")
        with connect(f"local:{n}") as cluster:
            message, link = message_costs(cluster)
            there = measure(ClusterTrain(cluster, max_processes=1), task)
        ratio = (there[1] / there[2]) / (solving / steps)
        print(
            f"{n} workers:  preconditioner {there[0]:.2f} s, iteration {there[1]:.2f} s, {there[2]} steps; a step "
            f"takes {ratio:.3f} times as long, all {sum(there[:2]) / (building + solving):.3f} times"
        )
        # What the link adds by the model, to the step measured without it.
        hardware = Hardware(message=message, link=link, latency=0.0)
        n_columns = max(1, int(27 * n_points / 16))
        model = parts(Problem(9, n_points, n_columns, len(task["perms"])), n, hardware)["link"]
        added = there[1] / there[2] - solving / steps
        print(
            f"  a message {1e3 * message:.2f} ms, {link / 1e9:.2f} GB/s: the model adds {1e3 * model:.1f} ms to a "
            f"step, measured {1e3 * added:.1f} ms"
        )


if __name__ == "__main__":
    main()
