"""What this installation has, what it lacks, and whether it computes what it should."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from typing import Any

import numpy as np

from .backend import device_problem
from .config import configuration
from .dataset import load_dataset, part_of
from .permutations import find_perms
from .predict import GDMLPredict
from .train import GDMLTrain
from .types import Array

# For those who develop the package.
_NOT_FOR_USERS = {"test", "dev", "docs", "peer", "nvrtc", "cross"}
# Largest deviation from the stored numbers, in kcal/mol and kcal/mol/Ang. Solutions of a matrix that is nearly singular
# differ by 1e-6 from one BLAS to another, and iterative ones as far as their tolerance allows; a fault of the kernels
# makes a difference of 1 or more.
_TOLERANCE = {"closed": 1e-4, "cg": 1e-2}


@dataclass(frozen=True)
class Extra:
    """An optional part: its packages with their versions, None for those that are missing, and how to install it."""

    name: str
    packages: dict[str, str | None]
    install: str

    @property
    def is_there(self) -> bool:
        """Whether nothing is missing."""
        return all(version is not None for version in self.packages.values())


@dataclass(frozen=True)
class Check:
    """A part of the self-test: what was tried, whether it went well, what came out, and how long it took."""

    name: str
    passed: bool
    detail: str
    seconds: float


def extras() -> list[Extra]:
    """Return the optional parts of fastgdml, as its metadata name them, and what of them is installed."""
    found: dict[str, dict[str, str | None]] = {}
    for requirement in metadata.requires("fastgdml") or ():
        extra = re.search(r"extra\s*==\s*[\"']([\w-]+)[\"']", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra is not None and name is not None and extra[1] not in _NOT_FOR_USERS:
            found.setdefault(extra[1], {})[name[0]] = _version(name[0])
    return [Extra(name, packages, f"pip install 'fastgdml[{name}]'") for name, packages in sorted(found.items())]


def _version(distribution: str) -> str | None:
    """Return the version of a distribution; of CuPy that for any version of CUDA."""
    names = [distribution]
    if distribution.startswith("cupy"):
        names += ["cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy"]
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def system() -> dict[str, Any]:
    """Return versions, processor, threads, BLAS, memory, GPU and compilers as a dict of plain values."""
    import psutil

    memory = psutil.virtual_memory()
    problem = device_problem()
    return {
        **configuration(),
        "processors": os.cpu_count(),
        "memory": f"{memory.available / 2**30:.1f} GB of {memory.total / 2**30:.1f} GB are free",
        "gpu": "found" if problem is None else f"not used: {problem}",
        "compilers": ", ".join(name for name in ("cc", "c++", "gfortran") if shutil.which(name)) or "none",
    }


def self_test(n_threads: int | None = None) -> Iterator[Check]:
    """Train and predict, and compare with stored numbers, part by part; it takes a few seconds.

    The numbers are those of the formulas in plain NumPy (tools/make_self_test.py).

    Parameters
    ----------
    n_threads : int, optional
        Number of threads. All by default.

    Yields
    ------
    Check
        Each part when it is done.
    """
    stored = json.loads(files("fastgdml").joinpath("data/self_test.json").read_text(encoding="ascii"))
    dataset = load_dataset("ethanol")
    training = part_of(dataset, stored["stride"] * np.arange(stored["n_train"]))
    expected = sorted(map(tuple, stored["perms"]))
    models: dict[str, Any] = {}

    def symmetries() -> tuple[bool, str]:
        perms = find_perms(training["R"], training["z"])
        return sorted(map(tuple, perms.tolist())) == expected, f"{len(perms)} permutations"

    def trained(solver: str) -> Callable[[], tuple[bool, str]]:
        def train() -> tuple[bool, str]:
            trainer = GDMLTrain(max_processes=n_threads)
            n = len(training["R"])
            options = {"sig": stored["sig"], "lam": stored["lam"], "perms": stored["perms"], "seed": 0}
            task = trainer.create_task(training, n, training, 0, **options)
            model = models[solver] = trainer.train(task, solver=solver, tol=1e-6)
            E, F = GDMLPredict(model, max_processes=n_threads).predict(_rows(dataset["R"][stored["test"]]))
            off = [np.abs(E - stored["E"]).max(), np.abs(F - _rows(stored["F"])).max()]
            detail = f"energies differ by {off[0]:.0e} kcal/mol, forces by {off[1]:.0e} kcal/mol/Ang"
            return max(off) < _TOLERANCE[solver], detail

        return train

    def threads() -> tuple[bool, str]:
        R = _rows(dataset["R"][:500])
        one, all_ = (GDMLPredict(models["closed"], max_processes=n).predict(R) for n in (1, n_threads))
        return all(np.array_equal(a, b) for a, b in zip(one, all_, strict=True)), "the same bits"

    def derivative() -> tuple[bool, str]:
        predictor = GDMLPredict(models["closed"], max_processes=n_threads)
        R, step = _rows(dataset["R"][:1]), 1e-4
        moved = np.concatenate([R + step * np.eye(R.size), R - step * np.eye(R.size)])
        E = predictor.predict(moved)[0]
        off = np.abs(-(E[: R.size] - E[R.size :]) / (2 * step) - predictor.predict(R)[1]).max()
        return bool(off < 1e-3), f"forces are the derivative of the energy within {off:.0e} kcal/mol/Ang"

    def speed() -> tuple[bool, str]:
        predictor, R = GDMLPredict(models["closed"], max_processes=n_threads), _rows(dataset["R"])
        predictor.predict(R)
        start = time.perf_counter()
        predictor.predict(R)
        return True, f"{len(R) / (time.perf_counter() - start):,.0f} geometries a second"

    def gpu() -> tuple[bool, str]:
        R = _rows(dataset["R"][:500])
        here = GDMLPredict(models["closed"], max_processes=n_threads).predict(R)
        there = GDMLPredict(models["closed"], backend="gpu").predict(R)
        off = max(float(np.abs(a - b).max()) for a, b in zip(here, there, strict=True))
        return off < 1e-6, f"predictions differ by {off:.0e}"

    parts = [
        ("search for symmetries", symmetries),
        ("training in closed form", trained("closed")),
        ("training by conjugate gradients", trained("cg")),
        ("forces and energy", derivative),
        ("one thread and all", threads),
        ("predictions", speed),
    ]
    if device_problem() is None:
        parts.append(("GPU", gpu))
    for name, part in parts:
        yield _check(name, part)


def _check(name: str, part: Callable[[], tuple[bool, str]]) -> Check:
    """Run a part of the test; whatever goes wrong in it is its result."""
    start = time.perf_counter()
    try:
        passed, detail = part()
    except Exception as error:
        passed, detail = False, f"{type(error).__name__}: {error}"
    return Check(name, bool(passed), detail, time.perf_counter() - start)


def _rows(R: Array) -> Array:
    return np.asarray(R).reshape(len(R), -1)
