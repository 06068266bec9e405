"""The search from Python: its events, an executor, and that nothing is lost when it is cut or two meet."""

import json
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from fastgdml import search_events
from fastgdml.cli import main
from fastgdml.errors import FileFormatError, UsageError
from fastgdml.model import load_model, save_model
from fastgdml.search import SearchOptions, Trainer, create, resume, run, select, selected
from fastgdml.task import load_task
from fastgdml.task_folder import list_files, locked, model_file_name
from fastgdml.train import GDMLTrain

ONE_THREAD = Trainer(max_processes=1)
SIGMAS = [40, 80, 120, 160]  # the error rises at 120


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def created(directory="search", sigmas=SIGMAS, **options):
    return create("ethanol", 30, 40, sigmas, SearchOptions(seed=3, directory=directory, **options))


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def told(events):
    """Events without what is under way, and without paths and times."""
    return [
        (type(event).__name__, getattr(event, "sig", None))
        for event in events
        if not isinstance(event, search_events.Progress)
    ]


def test_a_search_in_order():
    events = []
    directory = create("ethanol", 30, 40, SIGMAS, SearchOptions(seed=3), events.append)
    assert directory == Path("sgdml_cv_ethanol-gfn2-xtb-train30-sym")
    models = run(directory, "ethanol", ONE_THREAD, events.append)
    rmse = [float(load_model(path)["f_err_rmse"]) for path in models]
    assert rmse[-1] > rmse[-2] == min(rmse)
    final = select(directory, on_event=events.append)
    assert float(load_model(final)["f_err_rmse"]) == min(rmse)
    assert not directory.exists()
    trained = ["TaskBegun", "ModelTrained", "ModelValidated"] * len(models)
    names = ["SearchBegun", "TasksWritten", *trained, "SearchEnded", "ModelSelected", "SearchDeleted"]
    assert [name for name, _ in told(events)] == names
    lines = [json.loads(json.dumps(event.as_dict(), allow_nan=False)) for event in events]
    validated = [line for line in lines if line["event"] == "model_validated"]
    assert [line["rmse"]["force"] for line in validated] == rmse
    assert [line["sig"] for line in validated] == SIGMAS[: len(models)]
    ended = next(line for line in lines if line["event"] == "search_ended")
    assert ended["n_left"] == len(SIGMAS) - len(models)
    chosen = next(line for line in lines if line["event"] == "model_selected")
    assert [candidate["sig"] for candidate in chosen["candidates"]] == SIGMAS[: len(models)]
    assert chosen["path"] == str(final)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_an_executor_leaves_the_same_files_and_events(kind):
    one, other = created("one"), created("other")
    serial, parallel = [], []
    run(one, "ethanol", ONE_THREAD, serial.append)
    pool = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, get_context("spawn"))
    with pool as executor:
        run(other, "ethanol", ONE_THREAD, parallel.append, executor)
    assert contents(one) == contents(other)
    assert told(serial) == told(parallel)
    done = [
        [e.title for e in events if isinstance(e, search_events.Progress) and e.current >= e.total]
        for events in (serial, parallel)
    ]
    assert done[0] == done[1]


def test_all_tasks_are_trained_if_asked():
    directory = created()
    models = run(directory, "ethanol", ONE_THREAD, stop_early=False)
    assert len(models) == len(SIGMAS)
    rmse = [float(load_model(path)["f_err_rmse"]) for path in models]
    assert np.argmin(rmse) == 1
    assert load_model(select(directory))["sig"] == SIGMAS[1]


def test_a_failure_elsewhere_is_raised_and_the_rest_dropped():
    directory = created()

    class Broken:
        cancelled = 0

        def submit(self, *_):
            return self

        def result(self):
            raise OSError("the worker is gone")

        def cancel(self):
            self.cancelled += 1

    broken = Broken()
    with pytest.raises(OSError, match="worker is gone"):
        run(directory, "ethanol", ONE_THREAD, executor=broken)
    assert broken.cancelled == len(SIGMAS)
    assert list_files(directory, "model") == []
    assert len(run(directory, "ethanol", ONE_THREAD)) > 1


def test_sigmas_of_any_value_have_names_and_an_order():
    directory = created(sigmas=[12.5, 9, 12.500001, 100])
    tasks = list_files(directory, "task")
    assert [float(load_task(path)["sig"]) for path in tasks] == [9, 12.5, 12.500001, 100]
    assert [path.stem.split("-")[-1] for path in tasks] == ["sig0009", "sig12.5", "sig12.500001", "sig0100"]
    models = run(directory, "ethanol", ONE_THREAD)
    assert models[1].name == model_file_name(load_task(tasks[1]))
    with pytest.raises(UsageError, match="no length scales"):
        created("empty", sigmas=[])
    assert not Path("empty").exists()


# ---- two at once -------------------------------------------------------------------------------------------------


def test_two_searches_do_not_meet():
    directory = created()
    before = contents(directory)
    with locked(directory, shared=True):  # somebody trains
        for work in (created, lambda: created(overwrite=True), lambda: select(directory)):
            with pytest.raises((UsageError, FileFormatError), match=r"Another fastgdml is working|no model files"):
                work()
        assert {name: data for name, data in contents(directory).items() if name in before} == before
        run(directory, "ethanol", ONE_THREAD)  # trainings may share the folder
        with pytest.raises(UsageError, match="Another fastgdml is working in 'search'"):
            select(directory)
    with locked(directory), pytest.raises(UsageError, match="Another fastgdml"):  # somebody selects
        run(directory, "ethanol", ONE_THREAD)
    assert not list(directory.glob(".*"))
    assert select(directory).exists()


def test_create_leaves_no_folder_when_it_fails():
    with pytest.raises(UsageError, match="free"):
        create("ethanol", 1990, 20, SIGMAS, SearchOptions(directory="a/b/c"))
    assert list(Path().iterdir()) == []


def test_a_model_of_another_search_is_not_taken():
    one, other = created("one"), create("ethanol", 30, 40, SIGMAS, SearchOptions(seed=4, directory="other"))
    run(one, "ethanol", ONE_THREAD)
    for path in list_files(one, "model"):
        (other / path.name).write_bytes(path.read_bytes())
    before = contents(other)
    with pytest.raises(UsageError, match="belongs to another search"):
        run(other, "ethanol", ONE_THREAD)
    assert contents(other) == before
    run(other, "ethanol", ONE_THREAD, overwrite=True)


# ---- cut at any moment -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """No handler sees it."""


@pytest.fixture
def killed_at(monkeypatch):
    """Make the n-th change of files in some folders, of those that `select` makes, the last."""

    def arm(n):
        count = [0]

        def counted(real):
            def change(path, *args, **kwargs):
                if "lock" not in str(path) and not str(path).endswith(".tmp"):
                    count[0] += 1
                    if count[0] == n:
                        raise Killed
                return real(path, *args, **kwargs)

            return change

        patch = monkeypatch.context()
        inner = patch.__enter__()
        inner.setattr(Path, "unlink", counted(Path.unlink))
        inner.setattr(Path, "rmdir", counted(Path.rmdir))
        inner.setattr(os, "replace", lambda a, b, real=os.replace: counted(lambda b: real(a, b))(b))
        return patch

    return arm


def finished(work, killed_at, n):
    """Return whether `work` was not cut at its n-th change."""
    patch = killed_at(n)
    try:
        work()
    except Killed:
        return False
    finally:
        patch.__exit__(None, None, None)
    return True


def test_a_selection_that_was_cut_is_finished_by_the_same_call(tmp_path, killed_at):
    source = created()
    run(source, "ethanol", ONE_THREAD)
    files = contents(source)
    expected = None
    for n in range(1, 60):
        folder = tmp_path / str(n)
        (folder / "search").mkdir(parents=True)
        os.chdir(folder)
        for name, data in files.items():
            Path("search", name).write_bytes(data)
        complete = finished(lambda: select("search"), killed_at, n)
        if not complete and not (Path("search").exists() and not any(Path("search").iterdir())):
            select("search")
        (final,) = Path().glob("*.npz")
        expected = expected or final.read_bytes()
        assert final.read_bytes() == expected
        assert not Path("search").exists() or not any(Path("search").iterdir())
        if complete:
            break
    assert complete
    assert n > len(files)


def test_all_that_was_cut_late_goes_on(killed_at, capsys):
    args = ["all", "ethanol", "30", "40", "50", "--seed", "3", "-s", "20", "40", "-p", "1"]
    assert main(args) == 0
    (final,) = Path().glob("*.npz")
    expected = final.read_bytes()
    n, complete = 9, False  # the changes before are of tasks and models
    while not complete:
        final.unlink()
        complete = finished(lambda: main(args), killed_at, n)
        if not complete and Path("sgdml_cv_ethanol-gfn2-xtb-train30-sym").is_dir():
            folder = Path("sgdml_cv_ethanol-gfn2-xtb-train30-sym")
            if not list_files(folder, "task") and final.exists():
                # all but the empty folder was gone
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
            else:
                assert main(args) == 0, capsys.readouterr().err
        assert final.read_bytes() == expected
        assert sorted(path.name for path in Path().iterdir()) == [final.name]
        n += 1
    assert n > 20


def test_a_resumed_training_that_was_cut_is_finished_by_the_same_call(tmp_path, killed_at, ethanol):
    directory = created(sigmas=[20])
    (path,) = list_files(directory, "task")
    checkpoint = GDMLTrain(max_processes=1).train(load_task(path), solver="cg", tol=1e-12, max_iter=3)
    trainer = Trainer(max_processes=1, solver="cg")
    expected = None
    for n in range(1, 20):
        folder = tmp_path / f"resumed{n}"
        folder.mkdir()
        unfinished = folder / "_unconv_model-train30-sym6-sig0020.npz"
        save_model(unfinished, checkpoint)
        work = partial(resume, unfinished, ethanol, ethanol, trainer)
        complete = finished(work, killed_at, n)
        if not complete and unfinished.exists():
            work()
        (final,) = folder.iterdir()
        assert final.name == "model-train30-sym6-sig0020.npz"
        expected = expected or final.read_bytes()
        assert final.read_bytes() == expected
        if complete:
            break
    assert complete
    assert n > 3
    model = load_model(final)
    assert np.isfinite(model["f_err_rmse"])
    assert model["solver_resid"] <= 1e-4 * model["norm_y_train"]
    save_model(folder / "kept.npz", checkpoint)  # no checkpoint of a training: to go on from it again is another work
    with pytest.raises(UsageError, match="already: the training was finished"):
        resume(folder / "kept.npz", ethanol, ethanol, trainer)


def test_a_search_that_goes_on_after_its_selection_is_selected_anew():
    directory = created(sigmas=[20, 40])
    run(directory, "ethanol", ONE_THREAD)
    first = select(directory, "first", keep=True)
    assert selected(directory) == first.resolve()
    assert select(directory, keep=True) == first.resolve()
    created(sigmas=[20, 40, 80])
    run(directory, "ethanol", ONE_THREAD)
    second = select(directory, "second")
    assert int(load_model(second)["sig"]) == 80
    assert int(load_model(first)["sig"]) == 40
    assert not directory.exists()


def test_early_stop_looks_at_the_validation_points(ethanol):
    directory = created(sigmas=[20])
    trainer = Trainer(max_processes=1, solver="cg", tol=1e-9, early_stop=True)
    (path,) = run(directory, ethanol, trainer)
    assert np.isnan(load_model(path)["f_err_rmse"])  # it has no competitors
    assert load_model(path)["solver_name"] == "cg"
