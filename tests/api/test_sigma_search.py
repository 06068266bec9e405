"""The search that finds its length scale itself: against a fine grid, cut, with an executor, from the shell."""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.paths import SHARED

from fastgdml import length_scale, search_events, sigma_trials
from fastgdml.cli import main
from fastgdml.dataset import load_dataset
from fastgdml.errors import DataError, SolverError, UsageError
from fastgdml.evaluate import measure_errors
from fastgdml.length_scale import LADDER, NARROW, START, WIDE, _next, downhill
from fastgdml.model import load_model
from fastgdml.predict import GDMLPredict
from fastgdml.search import SearchOptions, Trainer, create, run, select
from fastgdml.task import load_task
from fastgdml.task_folder import list_files
from fastgdml.train import GDMLTrain

ONE_THREAD = Trainer(max_processes=1)
# The error of the model that is found may be above the smallest of a fine grid by this share: validation points do not
# tell such models apart.
TOLERANCE = 0.01


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def created(dataset="ethanol", n_train=40, n_valid=60, directory="search", **options):
    return create(dataset, n_train, n_valid, "auto", SearchOptions(seed=3, directory=directory, **options))


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# ---- the way down


def bowl(centre, width, skew):
    """Errors over the rungs of the ladder, and the rungs that were asked for."""
    asked = []

    def error_at(rung):
        return math.exp(width * (rung - centre) ** 2 * (1 + skew * math.tanh((rung - centre) / 5)))

    def error(sig):
        asked.append(LADDER.index(sig))
        return error_at(asked[-1])

    return error, min(map(error_at, range(len(LADDER)))), asked, error_at


@pytest.mark.parametrize("skew", [-0.3, 0, 0.3])
@pytest.mark.parametrize("width", [0.001, 0.003, 0.01, 0.05])
def test_the_way_down_finds_the_bottom_of_bowls(width, skew):
    numbers = []
    for centre in np.arange(-3, len(LADDER) + 3, 0.5):
        error, smallest, asked, error_at = bowl(centre, width, skew)
        best = downhill(error, START, WIDE)
        assert error_at(best) < (1 + TOLERANCE) * smallest
        assert len(asked) == len(set(asked))
        near_start = abs(centre - START) < 12
        numbers += [len(asked)] if near_start else []
        error, smallest, asked, error_at = bowl(min(max(centre, START - 4), START + 4), width, skew)
        assert error_at(downhill(error, START, NARROW, -1)) < (1 + TOLERANCE) * smallest
        assert len(asked) <= 6
    assert np.mean(numbers) < 6.5


def test_the_way_down_passes_failures():
    error, smallest, _, error_at = bowl(START - 8, 0.01, 0)
    best = downhill(lambda sig: math.inf if LADDER.index(sig) >= START else error(sig), START, WIDE, -1)
    assert error_at(best) < (1 + TOLERANCE) * smallest
    assert downhill(lambda _: math.inf, START, WIDE) in range(len(LADDER))
    assert tuple(sorted(set(LADDER))) == length_scale.LADDER


# ---- searches


@pytest.mark.parametrize(("name", "n_train", "n_valid"), [("md17_ethanol", 200, 100), ("xtb_aspirin", 30, 80)])
@pytest.mark.skipif(not SHARED.exists(), reason="the datasets are not there: set FASTGDML_SHARED")
def test_the_best_of_a_fine_grid_is_found(name, n_train, n_valid):
    dataset = load_dataset(SHARED / "data" / f"{name}.npz")
    directory = created(dataset, n_train, n_valid)
    events = []
    run(directory, dataset, ONE_THREAD, events.append)
    final = load_model(select(directory))
    found = float(final["f_err_rmse"])
    task = GDMLTrain().create_task(dataset, n_train, dataset, n_valid, 20.0, seed=3)
    rung, errors = LADDER.index(float(final["sig"])), {}
    train = GDMLTrain(max_processes=1)
    for other in range(rung - 6, rung + 7, 3):
        model = train.train({**task, "sig": LADDER[other]}, solver="closed")
        error = measure_errors(GDMLPredict(model), dataset, task["idxs_valid"], True, "Validation")
        errors[LADDER[other]] = error.rmse["force"]
    assert np.array_equal(task["idxs_valid"], final["idxs_valid"])
    assert found < (1 + TOLERANCE) * min(errors.values()), errors
    trials = final["search_trials"]
    (event,) = (each for each in events if isinstance(each, search_events.SigmaFound))
    assert [(each.n_train, each.sig) for each in event.trials] == [(n, sig) for n, sig, _ in trials]
    whole = trials[trials[:, 0] == n_train]
    assert len(whole) <= (6 if n_train == 200 else 9)
    assert set(trials[:, 0]) == ({50, 200} if n_train == 200 else {30})
    assert whole[:, 2].min() == pytest.approx(found)
    assert sorted(whole[:, 1]) == list(final["search_errors"][:, 0])


class Killed(BaseException):
    """No handler sees it."""


def test_a_search_that_was_cut_goes_on(monkeypatch):
    """After each of its files; what was tried is not trained again, and iterations begin with the same models."""
    monkeypatch.setattr(sigma_trials, "_FEWEST", 10)
    trainer = Trainer(max_processes=1, solver="cg")
    whole = created(directory="whole")
    run(whole, "ethanol", trainer)
    expected = {name: data for name, data in contents(whole).items() if name.startswith("model")}
    trained = []
    original = GDMLTrain.train

    def train(self, task, *args, **kwargs):
        trained.append((len(task["R_train"]), float(task["sig"])))
        return original(self, task, *args, **kwargs)

    monkeypatch.setattr(GDMLTrain, "train", train)
    directory, complete, real = created(), False, os.replace
    for _ in range(60):
        count = [0]

        def replace(source, target, count=count):
            count[0] += 1
            if count[0] > 2:
                raise Killed
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            run(directory, "ethanol", trainer)
            complete = True
            break
        except Killed:
            pass
    monkeypatch.setattr(os, "replace", real)
    assert complete
    assert {name: data for name, data in contents(directory).items() if name.startswith("model")} == expected
    assert len(set(trained)) < len(trained) < 3 * len(set(trained))
    trials = json.loads((directory / ".sigma-trials.json").read_text())["trials"]
    assert {(each["n_train"], each["sig"]) for each in trials} == set(trained)
    trained.clear()
    run(directory, "ethanol", trainer)
    assert trained == []


def test_an_executor_leaves_the_same_models():
    one, other = created(directory="one"), created(directory="other")
    run(one, "ethanol", ONE_THREAD)
    with ThreadPoolExecutor(2) as executor:
        run(other, "ethanol", ONE_THREAD, executor=executor)
    assert contents(one) == contents(other)


def test_a_failed_training_is_no_end(monkeypatch):
    original = GDMLTrain.train

    def train(self, task, *args, **kwargs):
        if float(task["sig"]) > limit:
            raise SolverError("singular")
        return original(self, task, *args, **kwargs)

    monkeypatch.setattr(GDMLTrain, "train", train)
    limit, events = 36, []
    directory = created()
    models = run(directory, "ethanol", ONE_THREAD, events.append)
    tried = next(each for each in events if isinstance(each, search_events.SigmaFound))
    assert any(each.error is None and each.sig > limit for each in tried.trials)
    assert tried.sig <= limit
    assert float(load_model(select(models))["sig"]) == tried.sig
    limit = 0
    with pytest.raises(SolverError, match="singular"):
        run(created(directory="other"), "ethanol", ONE_THREAD)


def test_a_search_of_one_kind_is_not_continued_as_another():
    directory = created()
    with pytest.raises(UsageError, match="--sig \\(auto"):
        create("ethanol", 40, 60, [10, 20], SearchOptions(seed=3, directory=directory))
    created()
    numbers = create("ethanol", 40, 60, [10, 20], SearchOptions(seed=3, directory="numbers"))
    with pytest.raises(UsageError, match="--sig \\(numbers"):
        created(directory=numbers)
    with pytest.raises(UsageError, match="'best'"):
        create("ethanol", 40, 60, "best")


def test_one_task_of_it_is_trained_alone():
    directory = created()
    (task,) = list_files(directory, "task")
    (model,) = run(task, "ethanol", ONE_THREAD)
    assert float(load_model(model)["sig"]) == float(load_task(task)["sig"]) == LADDER[START]


def test_from_the_shell(capsys):
    assert main(["all", "ethanol", "40", "60", "50", "--seed", "3", "-s", "auto", "-p", "1"]) == 0
    out = capsys.readouterr().out
    (final,) = Path().glob("*.npz")
    model = load_model(final)
    assert "Search for sigma" in out
    assert f"{float(model['sig']):g}" in out
    assert sorted(path.name for path in Path().iterdir()) == [final.name]
    assert main(["create", "ethanol", "40", "60", "-s", "auto", "20", "-p", "1"][:-2]) == 1
    assert "excludes others" in capsys.readouterr().err


# ---- warm starts


def test_an_iteration_begins_with_models_of_other_length_scales(ethanol):
    train = GDMLTrain(max_processes=1)
    task = train.create_task(ethanol, 150, ethanol, 50, 15.0, seed=1)
    near = [train.train({**task, "sig": sig}, solver="closed") for sig in (15.0, 24.0, 39.0)]
    task["sig"] = 20.0
    cold, exact = train.train(task, solver="cg"), train.train(task, solver="closed")
    warm = train.train(task, solver="cg", near=near)
    assert warm["solver_iters"] < 0.8 * cold["solver_iters"]
    assert warm["solver_resid"] <= 1e-4 * warm["norm_y_train"]
    R = ethanol["R"][task["idxs_valid"]]
    _, F = GDMLPredict(exact).predict(R)
    for model in (warm, cold):
        np.testing.assert_allclose(GDMLPredict(model).predict(R)[1], F, atol=2e-3 * np.abs(F).max())
    again = GDMLTrain(max_processes=1).train(task, solver="cg", near=near[::-1])
    assert np.array_equal(again["alphas_F"], warm["alphas_F"])
    other = train.create_task(ethanol, 150, ethanol, 50, 15.0, seed=2)
    with pytest.raises(DataError, match="points of the task"):
        train.train(other, solver="cg", near=near)


def test_points_are_prepared_once(ethanol, monkeypatch):
    from fastgdml import preparation

    calls = []
    monkeypatch.setattr(preparation, "from_R", lambda *args: calls.append(1) or original(*args))
    from fastgdml.descriptor import from_R as original

    train = GDMLTrain(max_processes=1)
    task = train.create_task(ethanol, 30, ethanol, 20, 15, seed=1)
    models = [train.train({**task, "sig": sig, "lam": lam}) for sig, lam in ((15, 1e-10), (25, 1e-10), (25, 1e-8))]
    assert len(calls) == 1
    fresh = [GDMLTrain(max_processes=1).train({**task, "sig": sig, "lam": lam}) for sig, lam in ((25, 1e-10),)]
    assert np.array_equal(models[1]["alphas_F"], fresh[0]["alphas_F"])
    assert not np.array_equal(models[1]["alphas_F"], models[2]["alphas_F"])
    # arrays that are changed in place are other points
    task["F_train"] = np.array(task["F_train"])
    train.train(task)
    task["F_train"][0, 0, 0] += 1
    assert not np.array_equal(train.train(task)["alphas_F"], models[0]["alphas_F"])


def test_a_wide_gap_on_one_side_is_looked_into():
    """The minimum of the parabola is the best one itself; below it lies nothing that was tried for long."""
    best, below, above = 20, 20 - 3 * NARROW, 20 + NARROW
    tried = {number: 1e-3 * (number - best) ** 2 for number in (below, best, above)}
    assert _next(tried, best) in range(below + 1, best)
    narrow = {number: 1e-3 * (number - best) ** 2 for number in (best - NARROW, best, above)}
    assert _next(narrow, best) is None
