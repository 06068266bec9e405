"""Error curve of methanol on Cu(100): 54 atoms in a periodic cell, lower layers frozen (docs/howto/periodic.md).

    python benchmarks/cu100.py DATA_FILE [50 100 200 ...]

DATA_FILE holds z, R, E, F and lattice (eV, Angstrom). For each number of training points, sigma is searched coarsely
with validation points; the errors are those on the points that are left, over all atoms and over those that move.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fastgdml import search
from fastgdml.cell import Cell
from fastgdml.dataset import Dataset, create_dataset, load_dataset
from fastgdml.evaluate import draw_test_points
from fastgdml.model import load_model
from fastgdml.permutations import complete_group
from fastgdml.predict import GDMLPredict
from fastgdml.search_events import Event, ModelValidated

SIGMAS = [2, 5, 10, 20]
N_VALID, N_TEST = 200, 1000


def describe(dataset: Dataset) -> np.ndarray:
    """Print what is special about the data, and return which atoms move."""
    R, F = dataset["R"], dataset["F"]
    free = np.ptp(R, axis=0).max(axis=1) > 0
    cell = Cell(dataset["lattice"])
    f = np.linalg.solve(cell.lattice, R[0].T).T
    a, b = np.tril_indices(len(f), -1)
    distance = np.abs(np.abs(f[a] - f[b] - np.round(f[a] - f[b])) - 0.5) * np.linalg.norm(cell.lattice, axis=0)
    near = (distance < 0.1).any(axis=1)
    print(f"{len(R)} geometries of {len(free)} atoms, {np.count_nonzero(~free)} of them frozen")
    print(f"std of the forces: {F.std():.4f} (all), {F[:, free].std():.4f} (free), {F[:, ~free].std():.4f} (frozen)")
    print(
        f"pairs of atoms within 0.1 A of half a lattice vector: {np.count_nonzero(near)} of {len(a)} (first geometry), "
        f"{np.count_nonzero(near & free[a] & free[b])} of them free; rules agree: {cell.rounding_is_minimal}",
        flush=True,
    )
    return free


def slab_group(dataset: Dataset) -> np.ndarray:
    """Return the 16 translations times 8 rotations of the slab, times the 6 exchanges of three hydrogens.

    A search finds few of them: it looks for permutations that bring geometries closer to each other, and atoms that
    stay near their sites are closest as they are.
    """
    n_atoms, edge = len(dataset["z"]), dataset["lattice"][0, 0]
    layers = np.round(dataset["R"][0, :48] / [edge / 8, edge / 8, 1.8]).astype(int) % [8, 8, 1000]
    atom = {tuple(site): i for i, site in enumerate(layers.tolist())}
    moves = [lambda x, y: (x, y), lambda x, y: (x + 2, y), lambda x, y: (y, x), lambda x, y: (-x, y)]
    generators = np.tile(np.arange(n_atoms), (len(moves) + 2, 1))
    for generator, move in zip(generators, moves, strict=False):
        for i, (x, y, layer) in enumerate(layers.tolist()):
            to = move(x, y)
            generator[i] = atom[to[0] % 8, to[1] % 8, layer]
    generators[-2, [50, 52, 53]] = 50, 53, 52
    generators[-1, [50, 52, 53]] = 52, 53, 50
    return complete_group(generators)


def run(
    dataset: Dataset,
    sizes: list[int],
    sigmas: list[int],
    n_valid: int,
    n_test: int,
    perms: np.ndarray | None = None,
    lam: float = 1e-4,
) -> None:
    """Train, test and print a line of the error curve for each number of points."""
    free = describe(dataset)
    for n_train in sizes:
        start = time.perf_counter()
        with TemporaryDirectory() as folder:
            options = search.SearchOptions(lam=lam, perms=perms, seed=0, directory=Path(folder) / "search")
            directory = search.create(dataset, n_train, n_valid, sigmas, options)
            search.run(directory, dataset, on_event=tell)
            best = load_model(search.select(directory, Path(folder) / "best.npz"))
        idxs = draw_test_points(best, dataset, n_test, seed=0)
        E, F = GDMLPredict(best).predict(dataset["R"][idxs].reshape(len(idxs), -1))
        error = np.abs(F.reshape(len(idxs), -1, 3) - dataset["F"][idxs])
        mean = np.abs(dataset["F"][idxs])
        adsorbate = dataset["z"] != 29
        parts = {"all": slice(None), "free": free, "methanol": adsorbate}
        maes = ", ".join(
            f"{name} {error[:, part].mean():.4f} (mean |F| {mean[:, part].mean():.4f})" for name, part in parts.items()
        )
        print(
            f"{n_train} points, {len(best['perms'])} permutations, sigma {best['sig']}, lambda {best['lam']:.0e}: "
            f"force MAE {maes}; energy MAE {np.abs(E - dataset['E'][idxs]).mean():.4f}; {len(idxs)} test points; "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )


def tell(event: Event) -> None:
    """Print the error of a model."""
    if isinstance(event, ModelValidated):
        print(f"  sigma {event.sig:g}: validation force RMSE {event.rmse['force']:.4f}", flush=True)


def small_slab() -> Dataset:
    """Return a few atoms over a frozen row in a skewed cell, for a check that all runs."""
    rng = np.random.default_rng(0)
    base = np.array([[0, 0, 0], [2.5, 0, 0], [1.2, 1.8, 1.5], [3.6, 1.9, 1.4], [2.4, 1.0, 3.2]])
    R = base + rng.uniform(-0.2, 0.2, (60, 5, 3)) * (np.arange(5) > 1)[:, None]
    lattice = np.array([[5.0, 1.0, 0.0], [0.0, 4.2, 0.0], [0.0, 0.0, 12.0]])
    F = -(R - base)
    F -= F.mean(axis=1, keepdims=True)
    return create_dataset("slab", "springs", [29, 29, 29, 29, 8], R, F, 0.5 * (F**2).sum(axis=(1, 2)), lattice)


def main() -> None:
    """Parse the arguments and run."""
    if "--smoke" in sys.argv:
        run(small_slab(), [10], [5, 10], 10, 10)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("sizes", nargs="*", type=int, default=[50, 100, 200])
    parser.add_argument("--symmetric", action="store_true", help="give the symmetries of the slab and of the methyl")
    parser.add_argument("--lam", type=float, default=1e-4, help="regularisation")
    args = parser.parse_args()
    dataset = load_dataset(args.data)
    run(dataset, args.sizes, SIGMAS, N_VALID, N_TEST, slab_group(dataset) if args.symmetric else None, args.lam)


if __name__ == "__main__":
    main()
