"""The cost model of a distributed step (docs/scaling.md), and the same step event by event.

    python benchmarks/simulate_cluster.py [--latency 1e-4] [--link 1.25e9]

The formula adds up what a step takes; the simulation lets every message wait for the client's link, every worker for
its message, and the client for the last answer. Both are printed for numbers of unknowns and workers, with the part
that takes longest; they have to agree to 1 % (exit status 1 if not). With `--spread 0.1` workers differ in speed, which
the formula does not know: then the simulation says what that costs.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from dataclasses import dataclass, replace

import numpy as np

from fastgdml.solvers.cost import Rates

# Unknowns: atoms and points; the largest is 10^6.
SIZES = ((9, 1000), (21, 2000), (42, 2000), (42, 7937))
WORKERS = (1, 2, 10, 30, 100)


@dataclass(frozen=True)
class Hardware:
    """Rates of workers, of the client and of the link between them.

    Attributes
    ----------
    kernels : float
        Operations of a worker in a second, of products with K.
    memory : float
        Bytes that a worker, or the client, reads in a second.
    link : float
        Bytes in a second that the client sends; it receives as many at the same time.
    message : float
        Seconds of the client for each message, one way.
    latency : float
        Seconds from the client to a worker, or back.
    """

    kernels: float = 28e9
    memory: float = 15e9
    link: float = 1.25e9
    message: float = 3e-4
    latency: float = 1e-4


@dataclass(frozen=True)
class Problem:
    """A training: M points of N atoms, k columns, P permutations."""

    n_atoms: int
    n_train: int
    n_columns: int
    n_perms: int = 1

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return 3 * self.n_atoms * self.n_train

    @property
    def flops(self) -> float:
        """Operations of K v, without the savings for symmetric pairs."""
        n_pairs = self.n_atoms * (self.n_atoms - 1) / 2
        return self.n_train**2 * self.n_perms * (9.0 * n_pairs + 60.0)


@dataclass(frozen=True)
class Round:
    """One way from the client to all workers and back: bytes to each and from each, seconds of each, in parts."""

    name: str
    to_each: float
    from_each: float
    work: dict[str, float]


def rounds(problem: Problem, n_workers: int, hardware: Hardware) -> list[Round]:
    """Return the two rounds of a step: K v and U^T R A v; R^T (R r - U t)."""
    n, k, w = problem.n, problem.n_columns, n_workers
    # U is read once in each; the triangles R, of doubles, once in the first and twice in the second.
    low_rank, triangles = (size * n / w / hardware.memory for size in (Rates.element * k, 4.0 * 3 * problem.n_atoms))
    product = problem.flops / w / hardware.kernels
    return [
        Round("product", 8.0 * n, 8.0 * (n / w + k), {"K v": product, "U": low_rank + triangles}),
        Round("apply", 8.0 * (n / w + k), 8.0 * n / w, {"U": low_rank + 2 * triangles}),
    ]


def client_seconds(problem: Problem, hardware: Hardware) -> float:
    """Return the client's own work: two triangular solves with k x k, sixty passes over vectors."""
    return (8.0 * problem.n_columns**2 + 60 * 8.0 * problem.n) / hardware.memory


def parts(problem: Problem, n_workers: int, hardware: Hardware) -> dict[str, float]:
    """Return the seconds of a step by the formula, in parts."""
    found = {"K v": 0.0, "U": 0.0, "link": 0.0, "latency": 0.0, "client": client_seconds(problem, hardware)}
    for each in rounds(problem, n_workers, hardware):
        send = hardware.message + each.to_each / hardware.link
        receive = hardware.message + each.from_each / hardware.link
        # The link is busy from the first message on, and one more lies between it and the last answer.
        found["link"] += max(n_workers * send + receive, send + n_workers * receive)
        found["latency"] += 2 * hardware.latency
        for part, seconds in each.work.items():
            found[part] += seconds
    return found


def simulated(problem: Problem, n_workers: int, hardware: Hardware, speeds: np.ndarray) -> float:
    """Return the seconds of a step, event by event; workers have relative speeds (n_workers,)."""
    now = 0.0
    for each in rounds(problem, n_workers, hardware):
        events: list[tuple[float, int, str]] = []
        sending = now
        for worker in range(n_workers):
            sending += hardware.message + each.to_each / hardware.link
            heapq.heappush(events, (sending + hardware.latency, worker, "arrived"))
        receiving = now
        while events:
            time, worker, what = heapq.heappop(events)
            if what == "arrived":
                worked = sum(each.work.values()) / speeds[worker]
                heapq.heappush(events, (time + worked + hardware.latency, worker, "answered"))
            else:
                receiving = max(receiving, time) + hardware.message + each.from_each / hardware.link
        now = receiving
    return now + client_seconds(problem, hardware)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Hardware()
    for name in ("kernels", "memory", "link", "message", "latency"):
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name))
    parser.add_argument("--columns", type=float, default=1 / 50, help="columns, as a share of the unknowns")
    parser.add_argument("--spread", type=float, default=0.0, help="workers differ in speed by this share")
    parser.add_argument("--smoke", action="store_true", help="a few cases only")
    args = parser.parse_args()
    hardware = replace(
        defaults, **{name: getattr(args, name) for name in ("kernels", "memory", "link", "message", "latency")}
    )
    worst, rng = 0.0, np.random.default_rng(0)
    print("unknowns  columns  workers   formula  simulated  GB/worker  longest part")
    for n_atoms, n_train in SIZES[:2] if args.smoke else SIZES:
        n_columns = int(args.columns * 3 * n_atoms * n_train)
        problem = Problem(n_atoms, n_train, n_columns)
        for n_workers in WORKERS:
            found = parts(problem, n_workers, hardware)
            formula = sum(found.values())
            speeds = 1 + args.spread * rng.uniform(-1, 1, n_workers)
            events = simulated(problem, n_workers, hardware, speeds)
            if args.spread == 0:
                worst = max(worst, abs(events / formula - 1))
            memory = (2.25 * problem.n * n_columns / n_workers + 32.0 * n_columns**2) / 2**30
            longest = max(found, key=lambda part: found[part])
            print(
                f"{problem.n:8d} {n_columns:8d} {n_workers:8d} {formula:9.4f} {events:10.4f} {memory:10.2f}"
                f"  {longest} ({100 * found[longest] / formula:.0f} %)"
            )
    if args.spread == 0:
        print(f"largest difference: {100 * worst:.3f} %")
    return int(worst > 0.01)


if __name__ == "__main__":
    sys.exit(main())
