"""Every Python block of README and docs/ runs as it is printed, page by page, in a fresh folder and a fresh process."""

import subprocess
import sys

import numpy as np
import pages
import pytest
from support.crystals import TRICLINIC, periodic_dataset
from support.paths import ROOT

from fastgdml.flat import export_flat
from fastgdml.model import save_model
from fastgdml.train import GDMLTrain

PAGES = [
    page.relative_to(ROOT).as_posix()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if any(block.shown for block in pages.blocks(page.read_text(encoding="utf-8")))
]


@pytest.fixture(scope="module")
def models(ethanol):
    """The models that pages take for granted: ethanol, and a crystal."""
    train = GDMLTrain()
    model = train.train(train.create_task(ethanol, 200, ethanol, 10, sig=20, seed=0))
    dataset = periodic_dataset(1.3 * TRICLINIC)
    crystal = train.train(train.create_task(dataset, 60, dataset, 60, sig=5, seed=0))
    return model, {**crystal, "e_unit": np.array("eV"), "r_unit": np.array("Ang")}, dataset


@pytest.fixture
def folder(tmp_path, models):
    """A folder with their files."""
    model, crystal, dataset = models
    save_model(tmp_path / "model.npz", model)
    export_flat(tmp_path / "model.fgdml", model)
    save_model(tmp_path / "crystal.npz", crystal)
    ase = pytest.importorskip("ase", reason="needs ASE: pip install '.[ase]'")
    ase.Atoms(dataset["z"], dataset["R"][7], cell=1.3 * TRICLINIC.T, pbc=True).write(tmp_path / "crystal.xyz")
    make_data = ROOT / "examples" / "lammps" / "make_data.py"
    subprocess.run([sys.executable, str(make_data), "ethanol.data"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_page(page, folder):
    command = [sys.executable, "-W", "error", pages.__file__, str(ROOT / page)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    missing = [line for line in done.stdout.splitlines() if line.startswith(pages.NEEDS)]
    if missing:
        pytest.skip(f"{page} {missing[-1].lower()}, which is not here")


def test_a_wrong_block_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Text\n\n```python\na = 1\n```\n\n<!-- run\nb = a\n-->\n\n```python\nassert b == 2\n```\n")
    done = subprocess.run([sys.executable, pages.__file__, str(page)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'page.md", line 12' in done.stderr


def test_every_block_is_found():
    """No block is missed because of how it is fenced."""
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        shown = sum(block.shown for block in pages.blocks(text))
        assert shown == sum("```" in line and "py" in line for line in text.splitlines()), page
