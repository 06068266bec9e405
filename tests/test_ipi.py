"""i-PI's own force field <ffsgdml>, written for sgdml, on fastgdml."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fastgdml.model import save_model
from fastgdml.predict import GDMLPredict

INPUT = """
<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out'>
      [step, conserved{electronvolt}, potential{electronvolt}, kinetic_md{electronvolt}]
    </properties>
    <trajectory stride='1' filename='pos' format='xyz'> positions{angstrom} </trajectory>
  </output>
  <total_steps>40</total_steps>
  <prng><seed>1</seed></prng>
  <ffsgdml name='gdml' pbc='false'> <sGDML_model>model.npz</sGDML_model> </ffsgdml>
  <system>
    <initialize nbeads='1'>
      <file mode='xyz' units='angstrom'> start.xyz </file>
      <cell mode='abc' units='angstrom'> [50, 50, 50] </cell>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='gdml'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.1 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""

# i-PI counts in international calories, 4.1868 J, where chemists mean 4.184 J.
KCAL_IN_EV = 4186.8 / 96485.33212


def test_a_trajectory(tmp_path, ethanol, ethanol_model):
    command = shutil.which("i-pi")
    if importlib.util.find_spec("ipi") is None or command is None:
        pytest.skip("i-PI is not installed: pip install '.[ipi]'")
    save_model(tmp_path / "model.npz", ethanol_model)
    atoms = [" ".join([s, *(repr(float(x)) for x in r)]) for s, r in zip("CCOHHHHHH", ethanol["R"][7], strict=True)]
    (tmp_path / "start.xyz").write_text("\n".join(["9", "ethanol", *atoms]) + "\n")
    (tmp_path / "input.xml").write_text(INPUT)
    run = [sys.executable, "-m", "fastgdml.compat", command, "input.xml"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Using sGDML version 1.0.3" in done.stdout

    step, conserved, potential, kinetic = np.loadtxt(tmp_path / "run.out").T
    np.testing.assert_array_equal(step, np.arange(41))
    assert np.ptp(conserved) < 0.01 * np.ptp(kinetic)
    lines = (tmp_path / "run.pos_0.xyz").read_text().split("\n")
    R = np.array([line.split()[1:4] for i, line in enumerate(lines) if line and i % 11 >= 2], dtype=float)
    E, _ = GDMLPredict(ethanol_model).predict(R.reshape(41, 27))
    # i-PI prints energies with nine digits and positions with six
    np.testing.assert_allclose(potential - potential[0], (E - E[0]) * KCAL_IN_EV, rtol=0, atol=1e-4)
    assert np.ptp(potential) > 0.05
    assert potential[0] == pytest.approx(E[0] * KCAL_IN_EV, rel=1e-5)
