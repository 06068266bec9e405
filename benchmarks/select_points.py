"""Selected training points beside points drawn at random.

    python benchmarks/select_points.py [--pool FILE.npz] [--points 300] [--draws 4]

Half of the pool is selected from, the other half is tested on. Errors of forces, mean absolute, root mean square, of
the worst hundredth of the geometries, and of the worst one, of models of the same sigma: of points drawn at random
(mean of some draws), and of those that `fastgdml select-points` takes with and without regard to the labels.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from fastgdml.dataset import load_dataset, part_of, save_dataset, take_points
from fastgdml.learning.growing import Labelled, System, task_of
from fastgdml.permutations import find_perms
from fastgdml.point_selection import SelectionOptions, select_points
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain


def errors(z: np.ndarray, perms: np.ndarray, train: Labelled, test: Labelled, args: argparse.Namespace) -> np.ndarray:
    system = System(z, None, "", "", "pool", "unknown")
    trainer = GDMLTrain(max_processes=args.threads)
    model = trainer.train(task_of(system, train, perms, args.sigma), solver="closed")
    _, F = GDMLPredict(model, max_processes=args.threads).predict(test.R.reshape(len(test), -1))
    difference = F - test.F.reshape(F.shape)
    of_geometry = np.sort(np.sqrt((difference**2).mean(axis=1)))
    worst = of_geometry[-max(1, len(of_geometry) // 100) :]
    return np.array([np.abs(difference).mean(), np.sqrt((difference**2).mean()), worst.mean(), of_geometry[-1]])


def labelled(dataset: dict, idxs: np.ndarray) -> Labelled:
    points = take_points(dataset, idxs)
    return Labelled(points.R, points.F, points.E)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few points, to see that it runs")
    parser.add_argument("--pool", default="ethanol")
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--most", type=int, default=4000, help="largest size of each half")
    parser.add_argument("--sigma", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.smoke:
        args.points, args.draws, args.most = 20, 2, 100
    dataset = load_dataset(args.pool)
    order = np.random.default_rng(args.seed).permutation(len(dataset["R"]))
    half = min(len(order) // 2, args.most)
    pool, test = order[:half], labelled(dataset, order[half : 2 * half])
    perms = find_perms(np.asarray(dataset["R"])[pool[:300]], dataset["z"])
    z = np.asarray(dataset["z"])
    drawn = [np.random.default_rng(s).choice(pool, args.points, replace=False) for s in range(args.draws)]
    random = np.array([errors(z, perms, labelled(dataset, idxs), test, args) for idxs in drawn])
    print(
        f"{args.points} of {half} points, sigma {args.sigma:g}, {len(perms)} permutations: MAE, RMSE, worst 1%, worst"
    )
    print(f"  at random (mean, deviation of {args.draws})", random.mean(axis=0).round(4), random.std(axis=0).round(4))
    with tempfile.TemporaryDirectory() as folder:
        save_dataset(Path(folder) / "pool.npz", {**part_of(dataset, pool), "perms": perms})
        for name, use_labels in (("without labels", False), ("with labels", True)):
            options = SelectionOptions(args.sigma, use_labels, args.seed, args.threads)
            target = Path(folder) / f"{use_labels}.npz"
            select_points(Path(folder) / "pool.npz", args.points, target, options)
            found = load_dataset(target)
            own = errors(z, perms, labelled(found, np.arange(args.points)), test, args)
            percent = 100 * (own / random.mean(axis=0) - 1)
            print(f"  {name}", own.round(4), "beside random, percent", percent.round(1))


if __name__ == "__main__":
    main()
