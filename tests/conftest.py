"""Shared fixtures: reference arrays of sgdml 1.0.3, real datasets, small synthetic molecules."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support.isa import isa_names
from support.paths import REFERENCE_CASES, shared_file

from fastgdml.dataset import load_dataset
from fastgdml.train import GDMLTrain


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


@pytest.fixture(params=isa_names())
def isa(request, monkeypatch):
    """Run the test once with each instruction set."""
    monkeypatch.setenv("FASTGDML_ISA", request.param)
    return request.param


@pytest.fixture
def host_cupy(monkeypatch):
    """A stand-in for CuPy that runs CUDA kernels on the processor; see cuda_on_host."""
    import cuda_on_host

    if cuda_on_host.compiler() is None:
        pytest.skip("there is no g++, which compiles CUDA kernels for the processor: install it")
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", cuda_on_host.libraries)
    return cuda_on_host.host_cupy()
