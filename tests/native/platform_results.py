"""What a platform makes of a training and of predictions, and how far two of them are apart (arm64.sh).

python platform_results.py make FOLDER [MODEL]    # trains by the command line; with MODEL predicts with that one, too
python platform_results.py compare FOLDER FOLDER
"""

import os
import platform
import sys
from pathlib import Path

import numpy as np

from fastgdml import _core
from fastgdml.cli import main
from fastgdml.dataset import load_dataset
from fastgdml.predict import GDMLPredict

# Largest differences in parts of the largest energy and force, counted from the mean. Both are sums whose terms cancel
# for the most part, and the equations of training are ill-conditioned: that raises the rounding of the terms.
LIMITS = {"the same model": 1e-8, "trained on each": 1e-6}


def predictions(model):
    """Return energies and forces of 200 geometries, counted from their mean."""
    R = load_dataset("ethanol")["R"][:200]
    return [array - array.mean(axis=0) for array in GDMLPredict(str(model)).predict(R.reshape(len(R), -1))]


def make(folder, given=None):
    folder = Path(folder).resolve()
    folder.mkdir()
    os.chdir(folder)
    status = main(["all", "ethanol", "50", "50", "50", "-s", "20", "--seed", "1"])
    if status:
        sys.exit(status)
    (model,) = folder.glob("*.npz")
    model.rename("trained.npz")
    for name, model in (("trained on each", "trained.npz"), ("the same model", given or "trained.npz")):
        E, F = predictions(model)
        np.savez(f"{name}.npz", E=E, F=F)
    print(
        f"{platform.machine()}, instruction set {_core.isa_name()}, CPython {platform.python_version()}, "
        f"NumPy {np.__version__}"
    )


def compare(one, other):
    worst = {}
    for name, limit in LIMITS.items():
        with np.load(Path(one) / f"{name}.npz") as a, np.load(Path(other) / f"{name}.npz") as b:
            parts = {key: np.abs(a[key] - b[key]).max() / np.abs(a[key]).max() for key in ("E", "F")}
        print(f"{name}: energies differ by {parts['E']:.1e}, forces by {parts['F']:.1e} of the largest")
        worst[name] = max(parts.values()) / limit
    if not max(worst.values()) < 1:
        sys.exit(f"more than rounding: {worst} times the limit")


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
