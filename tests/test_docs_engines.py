"""The examples of docs/engines_ase.md run as they are printed."""

import re
import uuid

import numpy as np
import pytest
from support.crystals import TRICLINIC, periodic_dataset
from support.paths import ROOT

from fastgdml.model import save_model
from fastgdml.train import GDMLTrain

ase = pytest.importorskip("ase", reason="needs ASE: pip install '.[ase]'")


def examples(section):
    """The code blocks of a section of the page."""
    text = (ROOT / "docs" / "engines_ase.md").read_text(encoding="utf-8")
    (part,) = (part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(section + "\n"))
    return re.findall(r"^```python\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)


def run(blocks, folder):
    """Run blocks in one namespace; one that begins with the name of a file becomes this file."""
    names = {}
    for block in blocks:
        file = re.match(r"# (\w+\.py)\n", block)
        if file:
            (folder / file[1]).write_text(block, encoding="utf-8")
        else:
            exec(compile(block, "docs/engines_ase.md", "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch, ethanol):
    """The folder with the models of the page."""
    monkeypatch.chdir(tmp_path)
    save_model("model.npz", GDMLTrain().train(GDMLTrain().create_task(ethanol, 200, ethanol, 10, sig=20, seed=0)))
    return tmp_path


def test_ase(folder):
    dataset = periodic_dataset(1.3 * TRICLINIC)
    model = GDMLTrain().train(GDMLTrain().create_task(dataset, 60, dataset, 60, sig=5, seed=0))
    save_model("crystal.npz", {**model, "e_unit": np.array("eV"), "r_unit": np.array("Ang")})
    ase.Atoms(dataset["z"], dataset["R"][7], cell=1.3 * TRICLINIC.T, pbc=True).write("crystal.xyz")
    socket = f"ethanol-{uuid.uuid4().hex[:12]}"
    blocks = [block.replace('unixsocket="ethanol"', f'unixsocket="{socket}"') for block in examples("ASE")]
    assert len(blocks) == 6
    names = run(blocks, folder)
    assert np.abs(names["crystal"].get_stress()).max() < 1e-3
    assert np.linalg.norm(names["atoms"].calc.results["forces"], axis=1).max() < 0.01
    assert (folder / "md.traj").stat().st_size > 0


def test_openmm(folder):
    openmm = pytest.importorskip("openmm", minversion="8.6", reason="needs OpenMM 8.6: pip install '.[openmm]'")
    blocks = examples("OpenMM")
    assert len(blocks) == 2
    names = run(blocks, folder)
    context = openmm.Context(names["system"], openmm.VerletIntegrator(0.0005))
    context.setPositions(np.vstack([names["dataset"]["R"][0] * 0.1, [1.5, 1.5, 1.5]]))
    before = context.getState(energy=True).getPotentialEnergy()
    context.getIntegrator().step(20)
    assert context.getState(energy=True).getPotentialEnergy() != before
