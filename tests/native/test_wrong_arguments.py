"""The extension modules with arguments of wrong shape, type, order and range: refused, and never the end of Python.

The calls are made in a process of their own, because what is looked for ends it.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from support import native_calls
from support.paths import ROOT

from fastgdml import _core, _packed
from fastgdml.errors import DataError, UsageError
from fastgdml.legacy import _predict_wkr, kernel_matrix
from fastgdml.predict import GDMLPredict

CALLS = native_calls.CALLS
TAKING_ARGUMENTS = [name for name, call in CALLS.items() if call()[1]]


def test_every_function_is_tried():
    public = {
        name
        for module in (_core, _packed)
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") in ("_core", "_packed")
    }
    methods = {
        f"{cls.__name__}.{name}"
        for cls in (_core.Cells, _core.KernelAssembly, _core.Model)
        for name in vars(cls)
        if not name.startswith("_") and callable(getattr(cls, name))
    }
    assert public | methods == set(CALLS) - {"KernelAssembly of a packed matrix"}


def test_spoiled_arguments(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "support.native_calls"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        timeout=900,
    )
    lines = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"status {done.returncode} at: {lines[-1]}\n{done.stderr[-3000:]}"
    refused = {line.split(" | ")[1]: int(line.split(" | ")[2]) for line in lines if line.startswith("found | ")}
    assert set(refused) == set(CALLS)
    assert {name: n for name, n in refused.items() if n < 4 and name in TAKING_ARGUMENTS} == {}


@pytest.mark.parametrize("name", [name for name in CALLS if name != "model_from_file"])
def test_the_calls_are_valid(name):
    function, arguments = CALLS[name]()
    function(*arguments)


@pytest.mark.parametrize(
    ("x", "g", "lin", "sig"),
    [
        (np.ones((2, 6)), np.ones((2, 6)), np.arange(6), 1.0),
        (np.ones((2, 6)), np.ones((3, 6, 3)), np.arange(6), 1.0),
        (np.ones((2, 5)), np.ones((2, 5, 3)), np.arange(5), 1.0),
        (np.ones((0, 6)), np.ones((0, 6, 3)), np.arange(6), 1.0),
        (np.ones(6), np.ones((6, 3)), np.arange(6), 1.0),
        (np.ones((2, 6)), np.ones((2, 6, 3)), np.arange(5), 1.0),
        (np.ones((2, 6)), np.ones((2, 6, 3)), np.zeros(6), 1.0),
        (np.ones((2, 6)), np.ones((2, 6, 3)), np.arange(6), 0.0),
        (np.ones((2, 6)), np.ones((2, 6, 3)), np.arange(6), np.nan),
    ],
)
def test_the_legacy_kernel_matrix(x, g, lin, sig):
    with pytest.raises((DataError, UsageError, ValueError)):
        kernel_matrix(x, g, lin, sig)


@pytest.mark.parametrize(
    "shapes", [((36,), (36,)), ((35,), (35, 3)), ((36,), (36, 2)), ((1, 36), (36, 3)), ((0,), (0, 3))]
)
def test_the_legacy_worker(shapes, ethanol_model):
    predictor = GDMLPredict(ethanol_model)
    with pytest.raises(DataError):
        _predict_wkr(None, tuple(np.ones(shape) for shape in shapes), None, predictor.glob_id)
