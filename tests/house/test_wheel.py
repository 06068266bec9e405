"""What a wheel holds: every module and data file of the package, and nothing that Python left beside them."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))  # has no limited API
pytestmark = [
    pytest.mark.skipif(find_spec("mesonpy") is None, reason="needs meson-python, which builds the package"),
    pytest.mark.skipif(not (ROOT / "meson.build").exists(), reason="needs the source tree"),
]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Names of the files in a wheel of a source tree in which Python has left compiled files everywhere."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    left_out = shutil.ignore_patterns(".git", ".*cache", "build", "*.egg-info", "tests", "docs", "benchmarks", ".venv*")
    shutil.copytree(ROOT, tree, ignore=left_out)
    (tree / "tests" / "c").mkdir(parents=True)
    for package in [path.parent for path in (tree / "fastgdml").rglob("*.py")]:
        (package / "__pycache__").mkdir(exist_ok=True)
        (package / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"left")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    assert FREE_THREADED or "-cp311-abi3-" in wheel.name  # one wheel for this version of CPython and all after it
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_file_of_the_package_is_there(names):
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastgdml").rglob("*") if path.is_file()}
    wanted = {name for name in sources if "__pycache__" not in name and not name.endswith((".in", ".so"))}
    assert len(wanted) > 50
    assert wanted <= names


def test_no_compiled_python_and_no_sources_of_the_build(names):
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pyx", ".py.in"))]


def test_the_client_for_ipi_is_in_the_package(names):
    assert "fastgdml/bin/fastgdml-ipi" in names
    assert not [name for name in names if ".data/scripts/" in name]


def test_extension_modules_use_the_limited_api(names):
    modules = [name for name in names if name.startswith("fastgdml/_") and name.endswith((".so", ".pyd"))]
    assert len(modules) == 2
    assert FREE_THREADED or all(name.endswith((".abi3.so", ".pyd")) for name in modules)
