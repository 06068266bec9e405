"""Clusters of three and four processes on this machine, as `--scheduler local:N` starts them."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from support.cluster import pids
from support.rows import SERIAL, assert_same, task_of

from fastgdml.cluster import Chunks, ClusterTrain, connect
from fastgdml.labelling import PredictOptions, predict
from fastgdml.search import SearchOptions, Trainer, create, run


@pytest.fixture
def local(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    with connect(f"local:{request.param}", patience=60) as found:
        # What workers are told of threads does not hold for this process.
        assert os.environ.get("OMP_NUM_THREADS") == environment.get("OMP_NUM_THREADS")
        assert found.n_workers() == request.param
        yield found


@pytest.mark.parametrize("local", [3], indirect=True)
def test_a_search_and_a_prediction(local):
    for name, executor in (("one", None), ("other", local)):
        create("ethanol", 30, 40, [20, 40, 60], SearchOptions(seed=3, directory=name))
        models = run(name, "ethanol", Trainer(max_processes=1), executor=executor)
    for path in Path("one").iterdir():
        assert path.read_bytes() == Path("other", path.name).read_bytes()
    predict(models[0], ["ethanol"] * 3, "one.xyz")
    predict(models[0], ["ethanol"] * 3, "other.xyz", PredictOptions(elsewhere=Chunks(local)))
    assert Path("one.xyz").read_bytes() == Path("other.xyz").read_bytes()


@pytest.mark.parametrize("local", [4], indirect=True)
def test_rows_also_when_a_worker_is_killed(local, ethanol):
    task, trainer = task_of(ethanol), ClusterTrain(local, max_processes=1)
    whole = trainer.train(task)
    assert_same(SERIAL.train(task, solver="cg"), whole)

    killed = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and sec_disp_str.startswith("step 25,") and not killed:
            killed.append(list(pids(local).values())[1])
            os.kill(killed[0], signal.SIGKILL)

    with_loss = trainer.train(task, callback=callback)
    assert killed
    assert with_loss["solver_iters"] == whole["solver_iters"]
    assert np.array_equal(with_loss["R_d_desc_alpha"], whole["R_d_desc_alpha"])
