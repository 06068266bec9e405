"""The rules of imports hold, and a planted fault of each kind is found."""

import re
from pathlib import Path

import pytest
from house.rules import violations

import fastgdml

PACKAGE = Path(fastgdml.__file__).parent


def test_imports_go_down_only():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "line", "fault"),
    [
        ("kernel.py", "from .train import GDMLTrain", "kernel imports train, which is not below it"),
        ("kernel.py", "def f():\n    from .train import GDMLTrain", "kernel imports train, which is not below it"),
        ("cell.py", "import fastgdml.group", "cell imports group, which is not below it"),
        ("kernel.py", "from .operator import KernelOperator", "kernel imports operator, which is not below it"),
        ("kernel.py", "from . import solvers", "kernel imports solvers, which is not below it"),
        ("solvers/cost.py", "from ..predict import GDMLPredict", "solvers imports predict, which is not below it"),
        ("train.py", "from .gpu.machine import device", "gpu is imported at load"),
        ("train.py", "from . import cli", "train may not import cli"),
        ("cli/all.py", "from ..drivers import ase", "cli may not import drivers"),
        ("cellar.py", "from .errors import DataError", "cellar has no floor"),
        ("train.py", "import argparse", "argparse is for the command line only"),
        ("npz.py", "from rich.console import Console", "rich is for the command line only"),
        ("npz.py", "print('read')", "print; the library logs and raises"),
    ],
)
def test_planted_faults_are_found(path, line, fault, tmp_path):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(f"import numpy as np\n{line}\n")
    found = violations(tmp_path)
    assert any(re.match(rf"{re.escape(path)}:[23]: {re.escape(fault)}", each) for each in found), found


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("train.py", "from .kernel import assemble_full"),
        ("train.py", "def f():\n    from .gpu.machine import device"),
        ("solvers/choice.py", "from .cost import Rates\nfrom . import cost"),
        ("cli/show.py", "import argparse\nprint('task')"),
        ("compat/sgdml/cli.py", "from fastgdml.cli import main"),
    ],
)
def test_what_is_allowed_is_no_fault(path, line, tmp_path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(f"{line}\n")
    assert violations(tmp_path) == []
