"""Two `dask worker` processes in network namespaces: machines of their own, as far as the network goes."""

from pathlib import Path

import dask
import numpy as np
import pytest
from support.cluster import Processes
from support.namespaces import Namespaces, why_not
from support.rows import SERIAL, assert_same, task_of

from fastgdml.cluster import Chunks, ClusterTrain, connect
from fastgdml.labelling import PredictOptions, predict

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

# After so long a machine that does not answer counts as lost: the least that Dask takes, in place of 30 s.
SETTING, SECONDS = "distributed.comm.timeouts.tcp", "11s"


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DASK_" + SETTING.replace(".", "__").upper(), SECONDS)  # of scheduler and workers
    found, processes = Namespaces(2), None
    try:
        found.start()
        processes = Processes(tmp_path, found.host)
        processes.start_scheduler()
        for i, address in enumerate(found.addresses):
            processes.start_worker(host=address, before=found.inside(i))
        with dask.config.set({SETTING: SECONDS}), connect(processes.address, patience=60, n_workers=2) as cluster:
            yield found, cluster
    finally:
        if processes is not None:
            processes.stop()
        found.stop()


def test_rows_and_chunks_also_when_a_cable_is_pulled(network, ethanol, ethanol_model):
    namespaces, cluster = network
    task, trainer = task_of(ethanol), ClusterTrain(cluster, max_processes=1)
    whole = trainer.train(task)
    assert {address.split(":")[1].strip("/") for address in cluster.client.nthreads()} == set(namespaces.addresses)
    assert_same(SERIAL.train(task, solver="cg"), whole)

    predict(ethanol_model, ["ethanol"] * 2, "one.xyz")
    predict(ethanol_model, ["ethanol"] * 2, "other.xyz", PredictOptions(elsewhere=Chunks(cluster)))
    assert Path("one.xyz").read_bytes() == Path("other.xyz").read_bytes()

    pulled = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and sec_disp_str.startswith("step 25,") and not pulled:
            namespaces.unplug(1)
            pulled.append(True)

    with_loss = trainer.train(task, callback=callback)
    assert pulled
    assert with_loss["solver_iters"] == whole["solver_iters"]
    assert np.array_equal(with_loss["R_d_desc_alpha"], whole["R_d_desc_alpha"])
