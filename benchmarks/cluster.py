"""A training with rows on single-threaded workers of this machine, beside the same threads without Dask.

    python benchmarks/cluster.py [--points 1000] [--pairs 3] [--sig 20] [--seed 1] [--data FILE]

Serial and distributed trainings of the shipped ethanol, or of another dataset, by conjugate gradients in turn, with 1
and 2 threads or workers and the same columns. Of each: seconds of the preconditioners, of the iteration, of the whole
training, and of processors (all processes together), number of steps and of columns. The ratios are medians over the
pairs.

Then the cost model (docs/scaling.md) is held against them. Its parameters are measured here: operations a second of the
product, bytes a second of the preconditioner, seconds and bytes a second of messages to actors that compute nothing.
What it predicts for a step stands beside what was measured. The machine should do nothing else.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from common import best_of
from simulate_cluster import Hardware, Problem, parts

from fastgdml.cluster import Cluster, ClusterTrain, connect
from fastgdml.dataset import load_dataset
from fastgdml.operator import KernelOperator
from fastgdml.solvers import preconditioner
from fastgdml.solvers.cost import Rates
from fastgdml.threads import blas_threads
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet


class Clock:
    """A callback that notes when each step of a training began and ended."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.spent: dict[str, float] = {}

    def __call__(self, current: int, total: int = 1, disp_str: str = "", *_: object, **__: object) -> None:
        name, now = disp_str.split(" (")[0], time.perf_counter()
        if current >= total:
            self.spent[name] = self.spent.get(name, 0.0) + now - self.begun.pop(name, now)
        else:
            self.begun.setdefault(name, now)


@dataclass(frozen=True)
class Run:
    """Seconds of the preconditioners, of the iteration, of the training and of processors; steps and columns."""

    building: float
    iteration: float
    training: float
    processors: float
    steps: int
    columns: np.ndarray

    @property
    def step(self) -> float:
        """Seconds a step."""
        return self.iteration / self.steps

    def __str__(self) -> str:
        return (
            f"preconditioner {self.building:.2f} s, iteration {self.iteration:.2f} s, training {self.training:.2f} s, "
            f"processors {self.processors:.2f} s, {self.steps} steps with {len(self.columns)} columns"
        )


def processor_seconds(cluster: Cluster | None) -> float:
    workers = () if cluster is None else cluster.client.run(time.process_time).values()
    return time.process_time() + sum(workers)


def measure(trainer: GDMLTrain, task: dict, cluster: Cluster | None = None) -> Run:
    clock, processors, begun = Clock(), processor_seconds(cluster), time.perf_counter()
    model = trainer.train(task, callback=clock, solver="cg")
    training = time.perf_counter() - begun
    return Run(
        clock.spent["Building preconditioner"],
        clock.spent["Solving linear system"],
        training,
        processor_seconds(cluster) - processors,
        int(model["solver_iters"]),
        model["inducing_pts_idxs"],
    )


def in_turn(task: dict, n: int, n_pairs: int) -> tuple[list[Run], list[Run]]:
    """Train here with n threads and on n workers, in turn; print what each took."""
    here, there = [], []
    with connect(f"local:{n}") as cluster:
        for _ in range(n_pairs):
            here.append(measure(GDMLTrain(max_processes=n), task))
            there.append(measure(ClusterTrain(cluster, max_processes=1), task, cluster))
            print(f"{n} threads:  {here[-1]}\n{n} workers:  {there[-1]}", flush=True)
            if not np.array_equal(here[-1].columns, there[-1].columns):
                raise SystemExit("The preconditioners differ: the workers have less memory than this process.")
    return here, there


class Echo:
    """An actor that answers with so many bytes."""

    async def answer(self, _: np.ndarray, n_bytes: int) -> np.ndarray:
        return np.zeros(n_bytes // 8)


def messages() -> tuple[float, float, float]:
    """Return seconds of the client for a message, bytes a second, and seconds of latency, by rounds of two workers."""
    with connect("local:2") as cluster:
        cluster.reach_workers()
        addresses = [worker.address for worker in cluster.workers()]
        starting = [cluster.client.submit(Echo, actor=True, workers=[one], pure=False) for one in addresses]
        actors = [future.result() for future in starting]

        def seconds(n_workers: int, n_bytes: int, rounds: int) -> float:
            sent = np.zeros(n_bytes // 8)

            def some() -> None:
                for _ in range(rounds):
                    cluster.gathered([partial(actor.answer, sent, n_bytes) for actor in actors[:n_workers]])

            return best_of(some, 5) / rounds

        one, two, large = seconds(1, 64, 40), seconds(2, 64, 40), seconds(1, 4_000_000, 5)
    # A round of w workers with small messages takes (w + 1) messages and two latencies.
    message = max(two - one, 1e-6)
    return message, 2 * 4e6 / max(large - one, 1e-9), max(one / 2 - message, 0.0)


def rates(task: dict, columns: np.ndarray, problem: Problem, n: int) -> tuple[float, float]:
    """Return operations a second of the product and bytes a second of the preconditioner, of one of n threads."""
    training = TrainingSet.from_R(task["R_train"], task["perms"], float(task["sig"]))
    v = np.random.default_rng(0).normal(size=problem.n)
    operator = KernelOperator(training, n)
    product = best_of(lambda: operator(v))
    points, begin = np.unique(columns // training.n_coord, return_index=True)
    taken = np.split(columns % training.n_coord, begin[1:])
    rows = preconditioner.build(training, float(task["lam"]), points, taken, n).rows
    with blas_threads(1):
        t = rows.project(v)[1]
        low_rank = best_of(lambda: (rows.project(v), rows.subtract(t, v.copy())))
    # U and the triangles are read twice.
    n_bytes = 2 * problem.n * (Rates.element * len(columns) + 4.0 * training.n_coord)
    return problem.flops / product / n, n_bytes / low_rank / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--sig", type=int, default=20)
    parser.add_argument("--data", default="ethanol", help="a dataset file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few points only")
    args = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    n_points, n_pairs = (60, 1) if args.smoke else (args.points, args.pairs)
    dataset = load_dataset(args.data)
    task = GDMLTrain().create_task(dataset, n_points, dataset, 20, sig=args.sig, seed=args.seed)
    found = {n: in_turn(task, n, n_pairs) for n in (1, 2)}
    for n, (here, there) in found.items():

        def ratio(name: str) -> float:
            both = zip(here, there, strict=True)  # noqa: B023 (called at once)
            return statistics.median(getattr(b, name) / getattr(a, name) for a, b in both)

        print(
            f"{n} workers beside {n} threads: a step takes {ratio('step'):.3f} times as long, the preconditioner "
            f"{ratio('building'):.3f} times, the training {ratio('training'):.3f} times; of processors it takes "
            f"{ratio('processors'):.3f} times the seconds"
        )
    message, link, latency = messages()
    print(f"a message {1e3 * message:.2f} ms, latency {1e3 * latency:.2f} ms, {link / 1e9:.2f} GB/s")
    for n, (here, there) in found.items():
        columns = here[0].columns
        problem = Problem(len(task["z"]), n_points, len(columns), len(task["perms"]))
        kernels, memory = rates(task, columns, problem, n)
        model = parts(problem, n, Hardware(kernels, memory, link, message, latency))
        print(
            f"{n} workers of {kernels / 1e9:.1f} GFLOP/s and {memory / 1e9:.1f} GB/s: a step takes "
            f"{1e3 * sum(model.values()):.1f} ms by the model ("
            + ", ".join(f"{part} {1e3 * seconds:.1f}" for part, seconds in model.items())
            + f"), {1e3 * statistics.median(run.step for run in there):.1f} ms measured"
        )


if __name__ == "__main__":
    main()
