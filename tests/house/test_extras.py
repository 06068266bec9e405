"""The extras of pyproject.toml are what the package imports, no more and no less."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fastgdml"
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the source tree")

# Modules of distributions whose names differ; the stand-in for sgdml imports the package it stands for.
MODULES = {"cupy-cuda12x": {"cupy", "cupyx", "cupy_backends"}, "dask": {"dask", "distributed"}}
OWN = {"fastgdml", "sgdml"}
# Extras for those who develop the package: nothing in it imports them.
FOR_DEVELOPERS = {"test", "dev", "docs", "peer", "nvrtc", "xtb", "cross"}


def imported(tree: ast.AST) -> set[str]:
    """Names of the top-level modules that a source file imports from elsewhere."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)) and node.args:
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called == "import_module" and isinstance(node.args[0], ast.Constant):
                names.add(node.args[0].value)
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - OWN


def modules_of(requirements: list[str]) -> set[str]:
    """Top-level modules of some requirements."""
    distributions = [re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements]
    return set().union(*(MODULES.get(name, {name.replace("-", "_")}) for name in distributions))


def test_imports_are_dependencies_or_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {name: modules_of(requirements) for name, requirements in extras.items() if name not in FOR_DEVELOPERS}
    wanted = set().union(*(imported(ast.parse(path.read_text())) for path in PACKAGE.rglob("*.py")))
    assert wanted <= modules_of(project["dependencies"]).union(*declared.values())
    assert [name for name, modules in declared.items() if not modules & wanted] == []
    assert modules_of(project["dependencies"]) <= wanted


def test_a_planted_import_is_found():
    source = (
        "def f():\n    import pandas.io\n    from .x import y\n    from os import path\n    import_module('cupy.cuda')"
    )
    assert imported(ast.parse(source)) == {"pandas", "cupy"}
