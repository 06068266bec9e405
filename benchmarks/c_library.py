"""The C library beside Python: time of one geometry a call, and rate of many, for the same models.

    python benchmarks/c_library.py [--data DIR] [--peer-python PYTHON]            (needs a C compiler as `cc`)

Without --data, the shipped ethanol with 200 and 500 training points; with it md17_ethanol.npz and md17_aspirin.npz from
there. Times are the least of several rounds, with one thread and with all. With --peer-python, an interpreter that has
sgdml 1.0.3, one geometry a call is also measured there, in its NumPy mode (after prepare_parallel) and with PyTorch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastgdml.c_library import include_dir, library_path
from fastgdml.dataset import load_dataset
from fastgdml.exchange import export_sgdml
from fastgdml.flat import export_flat
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain


def build(folder: Path) -> Path:
    """Compile the C program against the installed library."""
    library = library_path().parent
    program = folder / "c_library"
    source = Path(__file__).with_name("c_library.c")
    flags = [f"-I{include_dir()}", f"-L{library}", f"-Wl,-rpath,{library}", "-lfastgdml"]
    subprocess.run(["cc", "-O2", str(source), "-o", str(program), *flags], check=True)
    return program


def train(dataset: dict[str, Any], n_train: int, sig: int) -> dict[str, Any]:
    """Train a model."""
    trainer = GDMLTrain()
    return trainer.train(trainer.create_task(dataset, n_train, dataset, 100, sig=sig, seed=1))


def fastest(work: Callable[[], object], n_geo: int, limit: float) -> float:
    """Return the least seconds a geometry of rounds within a time limit."""
    begin = time.perf_counter()
    best = np.inf
    while True:
        start = time.perf_counter()
        work()
        best = min(best, (time.perf_counter() - start) / n_geo)
        if time.perf_counter() - begin > limit:
            return best


def in_python(model: Path, R: np.ndarray, n_threads: int, limit: float) -> tuple[float, float]:
    """Return seconds a geometry: one a call, and all in a call."""
    predictor = GDMLPredict(model, max_processes=n_threads or None)
    predictor.predict(R)
    one = fastest(lambda: [predictor.predict(r) for r in R], len(R), limit)
    return one, fastest(lambda: predictor.predict(R), len(R), limit)


def in_c(program: Path, model: Path, geometries: Path, n_threads: int, limit: float) -> tuple[float, float]:
    """Return the same of the C program."""
    command = [program, model, geometries, n_threads, limit]
    printed = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    one, many = map(float, printed.split())
    return one, many


PEER = """
import sys, time
import numpy as np
if not hasattr(np, "in1d"):
    np.in1d = np.isin  # sgdml 1.0.3 on NumPy >= 2.4
from sgdml.predict import GDMLPredict
model = dict(np.load(sys.argv[1], allow_pickle=True))
R = np.fromfile(sys.argv[2]).reshape(-1, 3 * len(model["z"]))[:100]
predictor = GDMLPredict(model, use_torch=sys.argv[3] == "torch")
if sys.argv[3] == "numpy":
    predictor.prepare_parallel(n_bulk=1)
predictor.predict(R[0])
best, begin = np.inf, time.perf_counter()
while time.perf_counter() - begin < float(sys.argv[4]):
    start = time.perf_counter()
    for r in R:
        predictor.predict(r)
    best = min(best, (time.perf_counter() - start) / len(R))
print(best)
"""


def in_peer(python: Path, folder: Path, model: dict[str, Any], limit: float) -> str:
    """Return what sgdml takes for one geometry, in words."""
    export_sgdml(folder / "sgdml.npz", model)
    times = []
    for mode in ("numpy", "torch"):
        command = [python, "-c", PEER, folder / "sgdml.npz", folder / "geometries", mode, limit]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, cwd=folder)
        times.append(f"{mode} {1e6 * float(done.stdout.split()[-1]):.0f} us")
    return ", ".join(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with md17_ethanol.npz and md17_aspirin.npz")
    parser.add_argument("--peer-python", type=Path, help="interpreter with sgdml 1.0.3")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    arguments = parser.parse_args()
    smoke: bool = arguments.smoke
    limit, n_geo = (0.01, 50) if smoke else (1.0, 1000)

    shipped = load_dataset("ethanol")
    cases = [("ethanol", shipped, n, 20) for n in ((30,) if smoke else (200, 500))]
    if arguments.data:
        cases.clear()
        for name, n_train, sig in (("md17_ethanol", 200, 20), ("md17_ethanol", 500, 20), ("md17_aspirin", 200, 20)):
            dataset = load_dataset(arguments.data / f"{name}.npz")
            cases.append((name, dataset, 30 if smoke else n_train, sig))

    print(
        f"{'model':<14} {'M':>4} {'P':>3} {'threads':>8} | {'one: C':>9} {'Python':>9} | {'many: C':>11} {'Python':>11}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(folder)
        for label, dataset, n_train, sig in cases:
            model = train(dataset, n_train, sig)
            export_flat(folder / "model.fgdml", model)
            R = dataset["R"][-n_geo:].reshape(n_geo, -1)
            R.astype(np.float64).tofile(folder / "geometries")
            for n_threads in (1, 0):
                c = in_c(program, folder / "model.fgdml", folder / "geometries", n_threads, limit)
                python = in_python(folder / "model.fgdml", R, n_threads, limit)
                print(
                    f"{label:<14} {n_train:>4} {len(model['perms']):>3} {n_threads or 'all':>8} | "
                    f"{1e6 * c[0]:>6.1f} us {1e6 * python[0]:>6.1f} us | "
                    f"{1 / c[1]:>9,.0f}/s {1 / python[1]:>9,.0f}/s",
                    flush=True,
                )
            if arguments.peer_python:
                print(f"{'':<14} sgdml, one: {in_peer(arguments.peer_python, folder, model, 3 * limit)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
