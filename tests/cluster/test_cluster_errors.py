"""What is wrong with a cluster is one clear error, soon."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cluster import free_port, wait_for

import fastgdml.cluster.connection as connection
import fastgdml.cluster.starting as starting
from fastgdml.cli import main
from fastgdml.cluster import Chunks, connect
from fastgdml.errors import ClusterError, UsageError
from fastgdml.labelling import PredictOptions, predict
from fastgdml.search import SearchOptions, create
from fastgdml.task_folder import list_files


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_wrong_address(monkeypatch, capsys):
    monkeypatch.setattr(starting, "CONNECT_TIMEOUT", 1.0)
    begun = time.monotonic()
    directory = create("ethanol", 20, 20, [20], SearchOptions(seed=3, directory="search"))
    address = f"tcp://127.0.0.1:{free_port()}"
    assert main(["train", str(directory), "ethanol", "--scheduler", address]) == 1
    assert f"No scheduler answers at '{address}'" in " ".join(capsys.readouterr().err.split())
    assert time.monotonic() - begun < 30
    assert list_files(directory, "model") == []


@pytest.mark.parametrize(
    ("scheduler", "text"),
    [
        ("file:nowhere.json", "'nowhere.json' is not there"),
        ("local:0", "give a number of processes"),
        ("local:many", "give a number of processes"),
        ("gopher://node:1", "No scheduler answers at 'gopher://node:1'"),
        (None, "needs the address of a scheduler, or a client"),
    ],
)
def test_what_names_no_scheduler(scheduler, text):
    with pytest.raises((ClusterError, UsageError), match=text), connect(scheduler):
        pass


def test_jobs_need_their_package_and_a_file(monkeypatch):
    Path("jobs.yaml").write_text("cores: 2\nmemory: 4GB\njobs: 2\nno_such_option: 1\n")
    with pytest.raises(UsageError) as error, connect("slurm:jobs.yaml"):
        pass
    try:
        import dask_jobqueue  # noqa: F401

        assert "cannot start jobs" in str(error.value)
    except ImportError:
        assert "pip install 'fastgdml[jobqueue]'" in str(error.value)


def test_no_workers(other, monkeypatch):
    monkeypatch.setattr(connection, "WORKER_TIMEOUT", 1.0)
    with (
        pytest.raises(ClusterError, match=r"has no workers after 1 s. Start some: dask worker tcp"),
        connect(other.address),
    ):
        pass


def surroundings_of_another_version(tmp_path):
    """Environment of a process that takes fastgdml 99.9 to be installed."""
    info = tmp_path / "site" / "fastgdml-99.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fastgdml\nVersion: 99.9\n")
    return {"PYTHONPATH": str(info.parent)}


def test_another_version_on_a_worker(other, tmp_path):
    other.start_worker(environment=surroundings_of_another_version(tmp_path))
    with pytest.raises(ClusterError, match=r"worker tcp://\S+ has fastgdml 99.9, not"), connect(other.address):
        pass


def test_a_worker_that_joins_with_another_version_does_no_work(other, tmp_path, caplog):
    first = other.start_worker()
    with connect(other.address) as cluster:
        other.start_worker(environment=surroundings_of_another_version(tmp_path))
        wait_for(cluster, 2)
        assert len(cluster.workers()) == len(cluster.workers()) == 1
        assert len([text for text in caplog.messages if "has joined with fastgdml 99.9, not" in text]) == 1
        calls = [cluster.submit(os.getpid) for _ in range(6)]
        assert {call.result() for call in calls} == {first.pid}


def test_a_worker_with_too_little_memory(other):
    other.start_worker(memory="60MB")
    text = r"Python and fastgdml need 32 MB on each worker, but \S+ .* has 0 MB left"
    with pytest.raises(ClusterError, match=text), connect(other.address):
        pass


def test_a_model_that_is_too_large_for_the_workers(cluster, ethanol_model, monkeypatch):
    from dataclasses import replace

    small = [replace(worker, memory=1e3) for worker in cluster.workers()]
    monkeypatch.setattr(cluster, "workers", lambda: small)
    with pytest.raises(ClusterError, match=r"Its copies of the model need \S+ MB .* has 0.000954 MB"):
        predict(ethanol_model, ["ethanol"], "out.npz", PredictOptions(elsewhere=Chunks(cluster, "out.npz")))
    assert list(Path().iterdir()) == []


def test_a_task_that_does_not_fit_a_worker(cluster, capsys):
    from fastgdml.errors import InsufficientMemoryError
    from fastgdml.search import Trainer, run

    directory = create("ethanol", 60, 20, [20], SearchOptions(seed=3, directory="search"))
    trainer = Trainer(max_memory=0.01, max_processes=1, solver="closed")
    with pytest.raises(InsufficientMemoryError, match=r"On worker \S+ \(tcp\S+\): For 60 points .* limit is 0.01 GB"):
        run(directory, "ethanol", trainer, executor=cluster)
    assert list_files(directory, "model") == []


def test_a_task_that_kills_its_workers(other):
    """As the operating system does with a process that takes too much memory."""
    for _ in range(4):
        other.start_worker()
    with connect(other.address) as cluster:
        wait_for(cluster, 4)
        with pytest.raises(ClusterError, match=r"4 workers died .* more memory than they have"):
            cluster.submit(os._exit, 1).result()


def test_a_worker_that_joins_when_all_are_lost_goes_on(other):
    """The scheduler knows of its resource only some time after it knows of the worker."""
    first = other.start_worker()
    with connect(other.address) as cluster:
        other.kill_worker(first.pid)
        deadline = time.monotonic() + 60
        while cluster.client.nthreads():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        call = cluster.submit(abs, -3)
        other.start_worker()
        while not call.done():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert call.result() == 3


def test_a_scheduler_that_does_not_come_back(other, monkeypatch):
    monkeypatch.setattr(starting, "CONNECT_TIMEOUT", 0.5)
    other.start_worker()
    with connect(other.address, patience=2) as cluster:
        call = cluster.submit(time.sleep, 60)
        other.stop()
        with pytest.raises(ClusterError, match=r"did not come back within 2 s. What is finished is kept"):
            call.result()


def test_without_dask(tmp_path):
    script = (
        "import sys; sys.modules['distributed'] = None\n"
        "from fastgdml.cli import main\n"
        "main(['predict', 'model.npz', 'ethanol', '-o', 'out.npz', '--scheduler', 'local:2'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "pip install 'fastgdml[dask]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
