"""Searches and learning curves on a cluster: the same files as without it, also when a worker is killed."""

from pathlib import Path

import numpy as np
import pytest
from support.cluster import busy

from fastgdml import search_events
from fastgdml.cli import main
from fastgdml.learning_curve import CurveOptions, learning_curve
from fastgdml.model import load_model
from fastgdml.search import SearchOptions, Trainer, create, run
from fastgdml.task_folder import list_files

ONE_THREAD = Trainer(max_processes=1)
SIGMAS = [40, 80, 120, 160]  # the error rises at 120


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def created(directory, n_train=30, sigmas=SIGMAS):
    return create("ethanol", n_train, 40, sigmas, SearchOptions(seed=3, directory=directory))


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def told(events):
    return [
        (type(event).__name__, getattr(event, "sig", None))
        for event in events
        if not isinstance(event, search_events.Progress)
    ]


def test_a_search_leaves_the_same_files_and_events(cluster):
    serial, spread = [], []
    run(created("one"), "ethanol", ONE_THREAD, serial.append)
    run(created("other"), "ethanol", ONE_THREAD, spread.append, cluster)
    assert contents("one") == contents("other")
    assert told(serial) == told(spread)
    assert ("SearchEnded", None) in told(spread)


def test_a_client_of_dask_is_taken_and_left_open(cluster):
    from fastgdml.cluster import connect

    with connect(client=cluster.client) as ours:
        models = run(created("search", sigmas=[20]), "ethanol", ONE_THREAD, executor=ours)
    assert load_model(models[0])["sig"] == 20
    assert cluster.client.status == "running"


def test_a_killed_worker_costs_what_it_was_doing(cluster, processes):
    # So many that it takes time, and not so many that an iteration may begin with whatever models are finished.
    run(created("one", n_train=110), "ethanol", ONE_THREAD, stop_early=False)
    events, killed = [], []

    def on_event(event):
        events.append(event)
        if isinstance(event, search_events.TaskBegun) and not killed:
            while not busy(cluster):  # until one of them computes
                pass
            killed.append(busy(cluster)[0])
            processes.kill_worker(killed[0])

    models = run(created("other", n_train=110), "ethanol", ONE_THREAD, on_event, cluster, stop_early=False)
    assert killed
    assert len(models) == len(SIGMAS)
    assert contents("one") == contents("other")


def test_the_folder_is_the_state_with_or_without_a_cluster(cluster):
    run(created("one"), "ethanol", ONE_THREAD)

    class Cut(Exception):
        pass

    def cut(event):
        if isinstance(event, search_events.ModelValidated):
            raise Cut

    directory = created("other")
    with pytest.raises(Cut):
        run(directory, "ethanol", ONE_THREAD, cut, cluster)
    assert len(list_files(directory, "model")) == 1
    with pytest.raises(Cut):  # the next one is trained here, the first one is told as kept
        run(
            directory,
            "ethanol",
            ONE_THREAD,
            lambda event: (
                None
                if event.__class__.__name__ != "ModelTrained"
                else cut(search_events.ModelValidated(0.0, Path(), {}, {}))
            ),
        )
    assert len(list_files(directory, "model")) == 2
    run(directory, "ethanol", ONE_THREAD, executor=cluster)
    assert contents("one") == contents("other")


def test_threads_are_those_of_the_worker(cluster):
    from fastgdml.cluster.worker import Here

    trainer = Trainer()
    here = cluster.submit(Here.now).result()
    assert here.n_threads == 1
    assert here.adapted(trainer).max_processes == 1
    assert here.adapted(Trainer(max_processes=8, max_memory=1e-3)) == Trainer(max_processes=1, max_memory=1e-3)
    assert 0 < here.adapted(trainer).max_memory < 2
    where = "(__import__('os').getpid(), __import__('threading').current_thread().name)"
    names = {cluster.submit(eval, where).result() for _ in range(6)}
    assert len(names) <= 2  # one on each worker
    assert all(name.startswith("fastgdml") for _, name in names)


def test_a_learning_curve_is_the_same(cluster, ethanol):
    for per_size in (False, True):
        options = CurveOptions(sigs=(10, 20), n_test=100, n_valid=50, sigma_per_size=per_size)
        one = learning_curve(ethanol, [20, 40, 60], options, ONE_THREAD)
        other = learning_curve(ethanol, [20, 40, 60], options, ONE_THREAD, executor=cluster)
        assert [(p.n_train, p.sig, p.f_mae, p.e_rmse) for p in one] == [
            (p.n_train, p.sig, p.f_mae, p.e_rmse) for p in other
        ]


def test_the_command_line(cluster, processes, capsys):
    common = ["ethanol", "30", "40", "50", "--seed", "3", "-s", "20", "40", "-p", "1"]
    assert main(["all", *common, "--model_file", "one"]) == 0
    assert main(["all", *common, "--model_file", "other", "--scheduler", f"file:{processes.file}"]) == 0
    assert "Cluster: 2 workers with 2 threads" in capsys.readouterr().out
    assert Path("one.npz").read_bytes() == Path("other.npz").read_bytes()
    curve = ["learning-curve", "ethanol", "20", "40", "-s", "20", "--n_valid", "20", "--n_test", "50", "-p", "1"]
    assert main([*curve, "-o", "curve.csv", "--scheduler", processes.address]) == 0
    assert len(Path("curve.csv").read_text().splitlines()) == 3


def test_rows_on_the_command_line_go_on_without_the_cluster(cluster, processes, capsys):
    directory = created("search", n_train=60, sigmas=[20])
    common = ["--scheduler", processes.address, "-p", "1"]
    assert main(["train", str(directory), "ethanol", *common, "--distribute", "rows", "--max_iter", "20"]) == 0
    (path,) = list_files(directory, "model")
    cut = load_model(path)
    assert cut["solver_iters"] == 20
    assert "Memory with" in capsys.readouterr().out
    assert main(["resume", str(path), "ethanol", "ethanol", "-p", "1", "-o", "--solver", "cg"]) == 0
    done = load_model(path)
    assert done["solver_iters"] > 20
    assert done["solver_resid"] <= 1e-4 * done["norm_y_train"]
    assert np.array_equal(done["inducing_pts_idxs"], cut["inducing_pts_idxs"])
