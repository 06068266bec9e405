"""Workers that start late: trainings by rows wait for them, predictions use them when they come."""

import subprocess
import time
from pathlib import Path

import pytest
from support.cluster import wait_for
from support.rows import SERIAL, assert_same, task_of

import fastgdml.cluster.connection as connection
from fastgdml.cli import main
from fastgdml.cluster import Chunks, ClusterTrain, connect
from fastgdml.errors import InsufficientMemoryError, UsageError
from fastgdml.labelling import PredictOptions, predict
from fastgdml.model import load_model
from fastgdml.search import SearchOptions, create
from fastgdml.task_folder import list_files

TITLE = "Waiting for workers"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def late(cluster, processes):
    """Starts a worker, one more than the two of `cluster`, for this test only."""
    started = []
    yield lambda: started.append(processes.start_worker())
    for each in started:
        processes.kill_worker(each.pid)
    while cluster.n_workers() > 2:
        time.sleep(0.05)


def test_rows_wait_for_the_workers_that_were_asked_for(cluster, late, ethanol, caplog):
    caplog.set_level("INFO", "fastgdml")
    task, told = task_of(ethanol, 60), []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if disp_str == TITLE:
            told.append((current, total, sec_disp_str, done_with_warning))

    with connect(cluster.client.scheduler.address, n_workers=3) as asked:
        late()
        trainer = ClusterTrain(asked, max_processes=1)
        model = trainer.train(task, callback=callback)
        assert told[0] == (0, 3, None, False)
        assert told[1][:2] == (2, 3)
        assert told[1][2].startswith("2 of 3, ")
        assert told[-1] == (3, 3, "3 of 3", False)
        plan = next(record.message for record in caplog.records if record.message.startswith("Memory with"))
        assert plan.count("points") == 3
        assert_same(SERIAL.train(task, solver="cg"), model)
        told.clear()
        trainer.train(task, callback=callback, max_iter=1)
        assert told == []


def test_rows_go_on_with_those_that_came_in_time(cluster, ethanol, caplog):
    told = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if disp_str == TITLE:
            told.append((current, total, sec_disp_str, done_with_warning))

    with connect(cluster.client.scheduler.address, n_workers=5, wait=0.5) as asked:
        trainer = ClusterTrain(asked, max_processes=1)
        model = trainer.train(task_of(ethanol, 20), callback=callback, max_iter=5)
        assert model["solver_iters"] == 5
        assert told[-1] == (5, 5, "2 of 5", True)
        assert "2 of 5 workers came within 0.5 s" in caplog.text
        assert "--workers for fewer" in caplog.text
        told.clear()
        trainer.train(task_of(ethanol, 20), callback=callback, max_iter=1)  # which does not wait again
        assert told == []


def test_rows_that_do_not_fit_wait_for_more_workers(cluster, late, ethanol, monkeypatch):
    """What two have room for is too little; with three the rows of each are fewer."""
    from fastgdml.cluster import machine

    needed = machine.rows_memory
    monkeypatch.setattr(
        machine, "rows_memory", lambda n_points, *more: needed(n_points, *more) + (n_points > 40) * 2**40
    )
    task, told = task_of(ethanol), []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if disp_str == TITLE:
            told.append(sec_disp_str)
            if len(told) == 1:
                late()

    with connect(cluster.client.scheduler.address, wait=60) as asked:
        model = ClusterTrain(asked, max_processes=1).train(task, callback=callback, max_iter=1)
    assert told[-1] == "3 of 3"
    assert model["solver_iters"] == 1
    monkeypatch.setattr(machine, "rows_memory", lambda *_: 2**50)
    with connect(cluster.client.scheduler.address, wait=0.3) as asked:
        trainer = ClusterTrain(asked, max_processes=1)
        with pytest.raises(InsufficientMemoryError, match=r"with --wait they are waited for"):
            trainer.train(task)


def test_a_worker_that_comes_late_gets_chunks(cluster, late, ethanol_model, monkeypatch):
    from fastgdml.cluster import chunks

    monkeypatch.setattr(chunks, "_LOOK", 0.0)
    most = []

    class Watched(Chunks):
        def __call__(self, predictor, wanted, asked):
            for each in super().__call__(predictor, wanted, asked):
                most.append(self._most())
                if len(most) == 1:
                    late()
                    wait_for(cluster, 3)
                yield each

    predict(ethanol_model, ["ethanol"] * 2, "out.xyz", PredictOptions(elsewhere=Watched(cluster)))
    assert most == [6, 9, 9, 9]


# ---- jobs of a queue -------------------------------------------------------------------------------------------------


@pytest.fixture
def queue(monkeypatch):
    """A queue in place of SLURM's, which starts a job at once, and others when workers are waited for."""
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install '.[jobqueue]'")
    from dask_jobqueue.local import LocalJob

    running = {}

    class Job(LocalJob):
        async def _submit_job(self, script_filename):
            turn = "until [ -e turn ]; do sleep 0.1; done; " if running else ""
            command = f"{turn}exec {Path(script_filename).read_text().strip()}"
            process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running[str(process.pid)] = process
            return str(process.pid)

        @classmethod
        async def _close_job(cls, job_id, cancel_command):
            running[job_id].kill()

    class Queue(jobqueue.JobQueueCluster):
        job_cls = Job

    wait_for_workers = connection.Cluster.wait_for_workers

    def waiting(*arguments):
        Path("turn").touch()
        wait_for_workers(*arguments)

    monkeypatch.setattr(connection.Cluster, "wait_for_workers", waiting)
    monkeypatch.setattr(jobqueue, "SLURMCluster", Queue)
    Path("slurm.yaml").write_text("jobs: 2\ncores: 1\nprocesses: 1\nmemory: 2GB\ninterface: lo\nlocal_directory: .\n")
    yield
    for process in running.values():
        process.kill()
        process.wait()


def test_rows_wait_for_jobs_in_the_queue(queue, monkeypatch, capsys):
    monkeypatch.setattr(connection, "WORKER_TIMEOUT", 0.1)  # not that of jobs
    directory = create("ethanol", 60, 20, [20], SearchOptions(seed=3, directory="search"))
    common = ["-p", "1", "--max_iter", "5"]
    assert (
        main(["train", str(directory), "ethanol", "--scheduler", "slurm:slurm.yaml", "--distribute", "rows", *common])
        == 0
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "The jobs are in the queue. Waiting for the first worker, at most 86400 s (--wait)" in printed
    assert f"{TITLE} 2 of 2" in printed
    assert printed.count("points, 0.") == 2  # of each worker, in the plan
    assert load_model(list_files(directory, "model")[0])["solver_iters"] == 5


def test_jobs_that_cannot_be_submitted(monkeypatch):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install '.[jobqueue]'")
    monkeypatch.setenv("PATH", "")
    Path("slurm.yaml").write_text("jobs: 2\ncores: 1\nprocesses: 1\nmemory: 2GB\ninterface: lo\n")
    text = "^'slurm:slurm.yaml' starts 2 workers; 3 are to be waited for"
    with pytest.raises(UsageError, match=text), connect("slurm:slurm.yaml", n_workers=3):
        pass
    with pytest.raises(UsageError, match=r"SLURMCluster cannot start jobs \(.*sbatch"), connect("slurm:slurm.yaml"):
        pass


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--distribute", "rows"], "--distribute says how to work on a cluster"),
        (["--workers", "2"], "--workers says how to work on a cluster"),
        (["--wait", "2"], "--wait says how to work on a cluster"),
        (["--workers", "2", "--scheduler", "local:1"], "give --distribute rows, too"),
        (["--std", "8", "--scheduler", "local:1", "--distribute", "rows"], "--distribute tasks"),
        (["--solver", "closed", "--scheduler", "local:1", "--distribute", "rows"], "--distribute tasks"),
        (["--std", "8", "--early_stop", "--solver", "cg"], "stops early"),
        (["--std", "8", "--std_groups", "groups.txt"], "std_groups has 3 numbers"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_made(options, text, capsys):
    Path("groups.txt").write_text("1 2 3\n")
    assert main(["all", "ethanol", "20", "20", "-s", "20", "--task_dir", "search", *options]) == 1
    assert text in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in Path().iterdir()] == ["groups.txt"]


def test_more_workers_than_are_started():
    with (
        pytest.raises(UsageError, match="'local:1' starts 1 workers; 2 are to be waited for"),
        connect("local:1", n_workers=2),
    ):
        pass


def test_one_sample_is_refused_before_anything_is_made(capsys):
    with pytest.raises(SystemExit):
        main(["all", "ethanol", "20", "20", "-s", "20", "--task_dir", "search", "--std", "1"])
    assert "argument --std: 1 is not more than 1" in " ".join(capsys.readouterr().err.split())
    assert not Path("search").exists()
