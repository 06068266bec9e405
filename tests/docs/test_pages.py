"""Every block of README and docs/ runs as printed or says why not, page by page, in a fresh folder and process."""

import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pages
import pytest
from support.crystals import TRICLINIC, periodic_dataset
from support.paths import ROOT

from fastgdml.dataset import create_dataset, save_dataset
from fastgdml.datasets import UnitOptions, convert
from fastgdml.model import save_model
from fastgdml.train import GDMLTrain

BLOCKS = {
    page.relative_to(ROOT).as_posix(): pages.blocks(page.read_text(encoding="utf-8"))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
RUN = ("python", "sh", "console")
FRAMES = 700  # in mydata.npz


def is_run(block):
    only_pip = block.language == "sh" and pages.extras(block.code) is not None
    return block.not_run is None and not only_pip


@pytest.fixture(scope="module")
def models(ethanol):
    """The models that pages take for granted: ethanol, and a crystal."""
    train = GDMLTrain()
    model = train.train(train.create_task(ethanol, 200, ethanol, 10, sig=20, seed=0))
    dataset = periodic_dataset(1.3 * TRICLINIC)
    crystal = train.train(train.create_task(dataset, 60, dataset, 60, sig=5, seed=0))
    return model, {**crystal, "e_unit": np.array("eV"), "r_unit": np.array("Ang")}, dataset


@pytest.fixture
def folder(tmp_path, models, ethanol):
    """A folder with their files, with data of the same kind, and with the examples."""
    model, crystal, dataset = models
    save_model(tmp_path / "model.npz", model)
    save_model(tmp_path / "crystal.npz", crystal)
    ase = pytest.importorskip("ase", reason="needs ASE: pip install '.[ase]'")
    ase.Atoms(dataset["z"], dataset["R"][7], cell=1.3 * TRICLINIC.T, pbc=True).write(tmp_path / "crystal.xyz")
    ase.Atoms(ethanol["z"], ethanol["R"][0]).write(tmp_path / "start.xyz")
    arrays = {key: ethanol[key][:FRAMES] for key in ("R", "F", "E")}
    names = {"name": "mydata", "theory": "gfn2-xtb", "r_unit": "Ang", "e_unit": "kcal/mol"}
    mine = create_dataset(z=ethanol["z"], **names, **arrays)
    save_dataset(tmp_path / "mydata.npz", mine)
    convert([str(tmp_path / "mydata.npz")], str(tmp_path / "trajectory.xyz"), units=UnitOptions(to_e_unit="eV"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    make_data = ROOT / "examples" / "lammps" / "make_data.py"
    subprocess.run([sys.executable, str(make_data), "ethanol.data"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("page", [page for page, found in BLOCKS.items() if any(map(is_run, found))])
def test_page(page, folder):
    command = [sys.executable, "-W", "error", pages.__file__, str(ROOT / page)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    missing = [line for line in done.stdout.splitlines() if line.startswith(pages.NEEDS)]
    if missing:
        pytest.skip(f"{page} {missing[-1].lower()}, which is not here")


@pytest.mark.parametrize(
    ("page", "block"),
    [
        pytest.param(page, block, id=f"{page}-{block.line}", marks=pytest.mark.skip(reason=f"not run: {block.not_run}"))
        for page, found in BLOCKS.items()
        for block in found
        if block.not_run is not None
    ],
)
def test_block_that_is_not_run(page, block):
    """Listed with its reason, so that it is seen what is left out."""


@pytest.mark.parametrize("page", BLOCKS)
def test_blocks_run_or_say_why_not(page):
    for block in BLOCKS[page]:
        at = f"{page}, line {block.line}: {block.language}"
        assert block.language in RUN or block.file or block.output or block.not_run, at
        assert block.not_run is None or len(block.not_run) > 9, at


def test_installed_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [pages.extras(block.code) or set() for found in BLOCKS.values() for block in found]
    assert set().union(*named) - project["optional-dependencies"].keys() == set()
    assert len(set().union(*named)) > 4


def run(folder, text):
    page = folder / "page.md"
    page.write_text(text)
    command = [sys.executable, pages.__file__, str(page)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_wrong_block_fails(tmp_path):
    done = run(tmp_path, "Text\n\n```python\na = 1\n```\n\n<!-- run\nb = a\n-->\n\n```python\nassert b == 2\n```\n")
    assert done.returncode == 1
    assert 'page.md", line 12' in done.stderr


GOOD = """# Commands

```sh
mkdir sub && cd sub
export WHAT="a b"
```

```console
$ echo "$WHAT" | tr b c; basename $PWD
a c
sub
$ printf '%s ' 1 2 \\
> 3 4; seq 10
1 ... 4
1
...
10
```

```python
print("from", "Python")
```

<!-- output -->
```text
from ...thon
```

<!-- file: sub/data.txt -->
```c
int main(void);
```

<!-- run sh
grep main data.txt
-->
"""


def test_commands_run_where_the_last_ones_stopped(tmp_path):
    done = run(tmp_path, GOOD)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("a c", "a d", "expected:\na d"),
        ("from ...thon", "from C", "expected:\nfrom C"),
        ("grep main", "grep brain", "exit status 1 of\ngrep brain"),
        ("mkdir sub &&", "false; mkdir sub &&", "exit status 1 of\nfalse"),
        ("seq 10", "seq 11", "11\n\nexpected"),
    ],
)
def test_wrong_commands_and_outputs_fail(right, wrong, message, tmp_path):
    assert GOOD.count(right) == 1
    done = run(tmp_path, GOOD.replace(right, wrong))
    assert done.returncode == 1
    assert message in done.stderr
    assert 'page.md", line' in done.stderr


def test_what_is_needed_and_what_is_not_run(tmp_path):
    done = run(
        tmp_path,
        "<!-- not run: no -->\n```sh\nfalse\n```\n\n```sh\npip install 'x[y]'\n```\n\n"
        "<!-- needs: os program:no-such -->\n```sh\nfalse\n```\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{pages.NEEDS} program:no-such"]
    assert pages.extras("pip install 'fastgdml[ase,get]'  # more\n") == {"ase", "get"}
    assert pages.extras("pip install . && pytest\n") is None


def test_no_block_is_missed():
    """Indented code and fences within lists are found, and code within code is not."""
    text = "- a\n\n  ```python\n  1\n  ```\n\n      indented\n\n````text\n```python\n```\n````\n"
    assert [(block.language, block.code) for block in pages.blocks(text)] == [("python", "1\n"), ("", "indented\n")]
