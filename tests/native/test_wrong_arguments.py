"""The extension modules with arguments of wrong shape, type, order and range: refused, and never the end of Python.

The calls are made in a process of their own, because what is looked for ends it.
"""

import os
import subprocess
import sys

import pytest
from support import native_calls
from support.paths import ROOT

from fastgdml import _core, _packed

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
