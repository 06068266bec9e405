"""Sessions that try the package in other surroundings: `pip install nox`, then `nox -l`, `nox -s oldest`.

Each makes an environment of its own, installs the package as a user would, and tests it from a folder outside the
source. Arguments after `--` go to pytest in place of the selection here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
CORE = ["method", "native", "solvers", "files"]  # folders of tests that need no optional package
REFERENCE = {"FASTGDML_SHARED": os.environ.get("FASTGDML_SHARED", str(ROOT.parent / "shared"))}
OF_EXTRA = {"report": ["report"], "get": ["files/test_catalog.py"]}  # tests that need one, beside those that may use it
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

nox.options.sessions = ["oldest", "newest", "serial", "bare", "locale", "blanks"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


def install(session: nox.Session, *what: str) -> None:
    """Install, and leave the source folder, whose package has no compiled modules."""
    session.install(*what)
    session.chdir(session.create_tmp())


def selection(session: nox.Session, folders: Sequence[str], root: Path = ROOT) -> list[str]:
    """Return the tests to run, with whole paths, as they run outside the source folder."""
    tests = session.posargs or [f"tests/{folder}" for folder in folders]
    return [str(root / test) if (root / test.split("::")[0]).exists() else test for test in tests]


def try_out(session: nox.Session, *folders: str, root: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run tests, in which warnings are errors (pyproject.toml)."""
    tests = selection(session, folders or CORE, root)
    env = REFERENCE | (env or {})
    session.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={root}", *tests, env=env)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The oldest NumPy and SciPy, and what else it depends on, that pyproject.toml allows."""
    needed = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["dependencies"]
    install(session, *[line.replace(">=", "==") for line in needed], f"{ROOT}[test]")
    try_out(session)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The newest NumPy and SciPy, on each version of Python."""
    install(session, "--upgrade", "numpy", "scipy", f"{ROOT}[test]")
    try_out(session)


@nox.session(python=["3.13t", "3.14t"])
def free_threaded(session: nox.Session) -> None:
    """CPython without the global lock, which none of our modules brings back."""
    # Of the newest versions there may be no wheels for it.
    session.env["PIP_ONLY_BINARY"] = "numpy,scipy,hypothesis"
    install(session, "pytest", "hypothesis", "-Csetup-args=-Dpython.allow_limited_api=false", str(ROOT))
    check = "import sys; from fastgdml import _core, _packed; assert not sys._is_gil_enabled()"
    session.run("python", "-c", check)
    try_out(session)


@nox.session(python="3.11")
def serial(session: nox.Session) -> None:
    """Built without OpenMP."""
    install(session, "-Csetup-args=-Dopenmp=disabled", f"{ROOT}[test]")
    session.run("python", "-c", "from fastgdml import _core; assert _core.openmp_version() == 0", env={})
    try_out(session)


@nox.session(python="3.11")
def bare(session: nox.Session) -> None:
    """Without any optional package: what the README does first."""
    install(session, str(ROOT))
    session.run("python", str(ROOT / "tools" / "wheel_check.py"))


@nox.session(python="3.11")
@nox.parametrize("extra", ["ase", "report", "get", "completion", "ipi", "openmm"])
def extra(session: nox.Session, extra: str) -> None:
    """With one optional package only: tests of the others skip, none fails."""
    install(session, "pytest", "hypothesis", f"{ROOT}[{extra}]")
    try_out(session, "api", "cli", "drivers", *OF_EXTRA.get(extra, []))


@nox.session(python="3.11")
def locale(session: nox.Session) -> None:
    """A locale that is not UTF-8."""
    install(session, f"{ROOT}[test]")
    try_out(session, "files", "cli", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})


@nox.session(python="3.11")
def blanks(session: nox.Session) -> None:
    """Source and environment in folders with blanks and letters beyond ASCII."""
    folder = Path(session.create_tmp()) / "a föld er"
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(".git", ".nox", "build", ".*cache", "__pycache__", "*.so", "shared")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    session.run("python", "-m", "venv", str(folder / "environment"))
    python = str(folder / "environment" / "bin" / "python")
    session.run(python, "-m", "pip", "install", "-q", f"{folder / 'source'}[test]", external=True)
    session.chdir(folder)
    session.run(python, str(folder / "source" / "tools" / "wheel_check.py"), external=True)
    tests = selection(session, ["native/test_c_library.py"], folder / "source")
    session.run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, external=True, env=REFERENCE)


@nox.session(python="3.11")
def sdist(session: nox.Session) -> None:
    """The source archive builds and tests itself."""
    session.install("build")
    folder = Path(session.create_tmp()) / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--sdist", "--outdir", str(folder), str(ROOT))
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    source = next(path for path in folder.iterdir() if path.is_dir())
    install(session, f"{source}[test]")
    try_out(session, root=source)


@nox.session(python="3.11")
def reproducible(session: nox.Session) -> None:
    """Two builds of the same source with the same date are the same file."""
    session.install("build")
    environment = {
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "1700000000"),
        "PIP_CONSTRAINT": str(ROOT / "tools" / "constraints.txt"),
    }
    hashes = []
    for number in range(2):
        folder = Path(session.create_tmp()) / f"build{number}"
        shutil.rmtree(folder, ignore_errors=True)
        session.run("python", "-m", "build", "--outdir", str(folder), str(ROOT), env=environment)
        hashes.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    if hashes[0] != hashes[1]:
        session.error(f"two builds differ: {hashes}")
    session.log(f"the same twice: {hashes[0]}")
