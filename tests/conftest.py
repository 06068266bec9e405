"""Shared fixtures: reference arrays of sgdml 1.0.3, real datasets, small synthetic molecules."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastgdml.dataset import load_dataset
from fastgdml.train import GDMLTrain

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FASTGDML_SHARED", ROOT.parent / "shared"))

REFERENCE_CASES = ["ethanol_sgdml", "ethanol_gdml", "ethanol_noE", "ethanol_ecstr", "aspirin_sgdml", "cu111_periodic"]


def shared_file(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there: set FASTGDML_SHARED to the folder with the reference data")
    return path


@pytest.fixture(scope="session")
def shared():
    return shared_file


@pytest.fixture(params=REFERENCE_CASES)
def reference(request):
    """One case of the reference arrays, as a dict."""
    with np.load(shared_file(f"reference/{request.param}.npz")) as arrays:
        return {**arrays, "case": request.param}


@pytest.fixture(scope="session")
def peer():
    """Run code with the real sgdml 1.0.3: a function (code, *arguments, cwd, fails) -> what it printed.

    It runs in an interpreter of its own, that of FASTGDML_PEER_PYTHON or this one, because its imports fork worker
    processes and load PyTorch.
    """
    python = os.environ.get("FASTGDML_PEER_PYTHON", sys.executable)
    version = "import importlib.metadata as m; print(m.version('sgdml'))"
    probe = subprocess.run([python, "-c", version], capture_output=True, text=True, check=False)
    if probe.stdout.strip() != "1.0.3":
        pytest.skip(
            f"{python} has no sgdml 1.0.3 ({probe.stdout.strip() or 'not installed'}): pip install '.[peer]', or name "
            "another interpreter in FASTGDML_PEER_PYTHON"
        )
    # sgdml uses a name that NumPy 2.4 has dropped
    prelude = "import numpy as np\nif not hasattr(np, 'in1d'): np.in1d = np.isin\n"

    def run(code, *arguments, cwd=None, fails=False):
        command = [python, "-c", prelude + code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
        assert fails or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def ethanol():
    """The embedded dataset."""
    return load_dataset("ethanol")


@pytest.fixture(scope="session")
def ethanol_task(ethanol):
    return GDMLTrain().create_task(ethanol, 30, ethanol, 40, sig=20, seed=3)


@pytest.fixture(scope="session")
def ethanol_model(ethanol_task):
    return GDMLTrain().train(ethanol_task)


def isa_names():
    """The instruction sets that this processor runs."""
    from fastgdml import _core

    names = []
    before = os.environ.get("FASTGDML_ISA")
    for name in ("baseline", "v3", "v4"):
        os.environ["FASTGDML_ISA"] = name
        try:
            _core.isa_name()
            names.append(name)
        except RuntimeError:
            pass
    if before is None:
        del os.environ["FASTGDML_ISA"]
    else:
        os.environ["FASTGDML_ISA"] = before
    return names


@pytest.fixture(params=isa_names())
def isa(request, monkeypatch):
    """Run the test once with each instruction set."""
    monkeypatch.setenv("FASTGDML_ISA", request.param)
    return request.param


def random_molecules(n_geo, n_atoms, seed=0):
    """Geometries with atoms at least 0.8 apart."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.4
    base = grid[rng.permutation(len(grid))[:n_atoms]]
    return base + rng.uniform(-0.3, 0.3, (n_geo, n_atoms, 3))


def cyclic_group(n_atoms, order):
    """The cyclic group that turns the first `order` atoms."""
    perms = np.tile(np.arange(n_atoms), (order, 1))
    for i in range(order):
        perms[i, :order] = (np.arange(order) + i) % order
    return perms


def symmetric_group_of_three(n_atoms):
    """All permutations of the first three atoms."""
    from itertools import permutations

    return np.array([[*p, *range(3, n_atoms)] for p in permutations(range(3))])


@pytest.fixture
def host_cupy(monkeypatch):
    """A stand-in for CuPy that runs CUDA kernels on the processor; see cuda_on_host."""
    import cuda_on_host

    if cuda_on_host.compiler() is None:
        pytest.skip("there is no g++, which compiles CUDA kernels for the processor: install it")
    for library in ("cublas", "cusolver"):
        monkeypatch.setitem(sys.modules, f"cupy_backends.cuda.libs.{library}", cuda_on_host.blas)
    return cuda_on_host.host_cupy()


# Sets of permutations of n atoms.
GROUPS = {
    "one": lambda n: np.arange(n)[None, :],  # nothing moves
    "all move": lambda n: cyclic_group(n, n),  # every pair has its own images
    "three atoms": symmetric_group_of_three,  # some pairs move
    "no group": lambda n: np.array([np.roll(np.arange(n), 1), np.arange(n)]),
}
