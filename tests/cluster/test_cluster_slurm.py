"""`--scheduler slurm:` with SLURM itself: a controller and a node on this machine."""

import time
from pathlib import Path

import numpy as np
import pytest
from support.slurm import Slurm, why_not

from fastgdml.cli import main
from fastgdml.model import load_model
from fastgdml.search import SearchOptions, create
from fastgdml.task_folder import list_files

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install '.[jobqueue]'")
pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    found = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


def test_a_search_a_prediction_and_a_training_by_rows(slurm, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    Path("slurm.yaml").write_text(
        'jobs: 2\ncores: 1\nprocesses: 1\nmemory: 1GB\nwalltime: "00:10:00"\nqueue: standard\ninterface: lo\n'
        "local_directory: .\nlog_directory: .\n"
    )
    spread = ["--scheduler", "slurm:slurm.yaml"]

    common = ["all", "ethanol", "30", "40", "50", "--seed", "3", "-s", "20", "40", "-p", "1", "--model_file"]
    assert main([*common, "one"]) == 0
    assert main([*common, "other", *spread]) == 0
    assert Path("one.npz").read_bytes() == Path("other.npz").read_bytes()

    assert main(["predict", "one.npz", "ethanol", "-o", "one.xyz"]) == 0
    assert main(["predict", "one.npz", "ethanol", "-o", "other.xyz", *spread]) == 0
    assert Path("one.xyz").read_bytes() == Path("other.xyz").read_bytes()

    models = []
    for more in (["--solver", "cg"], ["--distribute", "rows", *spread]):
        directory = create("ethanol", 60, 40, [20], SearchOptions(seed=3, directory=f"search{len(models)}"))
        assert main(["train", str(directory), "ethanol", "-p", "1", *more]) == 0
        models.append(load_model(list_files(directory, "model")[0]))
    a, b = (model["R_d_desc_alpha"] for model in models)
    assert np.abs(a - b).max() <= 1e-3 * np.abs(a).max()

    assert capfd.readouterr().out.count("points, 0.") == 2  # in the plan: rows wait for both jobs
    assert len(list(Path().glob("*.out"))) >= 3  # what jobs print: they did the work
    deadline = time.monotonic() + 30  # and are gone
    while slurm.jobs():
        assert time.monotonic() < deadline, slurm.jobs()
        time.sleep(0.2)
