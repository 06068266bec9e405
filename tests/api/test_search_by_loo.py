"""The search for sigma by leave-one-out errors instead of those on validation points."""

import numpy as np
import pytest

from fastgdml.cli import main
from fastgdml.errors import UsageError
from fastgdml.model import load_model, save_model
from fastgdml.search import SearchOptions, Trainer, create, run, select
from fastgdml.search_events import ModelSelected, SigmaFound, SigmaTried
from fastgdml.uncertainty import leave_one_out_errors


def test_it_picks_the_sigma_of_the_validation(shared, tmp_path):
    dataset = shared("data/md17_ethanol_2000.npz")
    options = SearchOptions(seed=2, directory=tmp_path / "search")
    directory = create(dataset, 100, 500, [5, 10, 20, 40], options)
    paths = run(directory, dataset, Trainer(n_std=2, by="loo"), stop_early=False)
    models = [load_model(path) for path in paths]
    assert [float(model["sig"]) for model in models] == [5, 10, 20, 40]
    left_out = [leave_one_out_errors(model)[0] for model in models]
    rmse = [float(model["f_err_rmse"]) for model in models]
    assert np.argmin(left_out) == np.argmin(rmse)
    assert np.argmin(rmse) == 2
    found = []
    for by in ("validation", "loo"):
        best = select(directory, tmp_path / f"{by}.npz", on_event=found.append, keep=True, by=by)
        assert float(load_model(best)["sig"]) == [5, 10, 20, 40][np.argmin(rmse)]
    by_validation, by_loo = (event for event in found if isinstance(event, ModelSelected))
    assert [candidate.loo for candidate in by_validation.candidates] == [None] * 4
    assert [candidate.loo for candidate in by_loo.candidates] == left_out
    again = run(directory, dataset, Trainer(n_std=2, by="loo"))  # all are there; it ends where the error rises
    assert again == paths


def test_the_smallest_error_counts_whichever_it_is(ethanol, tmp_path):
    """Validation errors that say otherwise are not looked at."""
    directory = create(ethanol, 30, 60, [10, 20], SearchOptions(seed=1, directory=tmp_path / "search"))
    paths = run(directory, ethanol, Trainer(n_std=2), stop_early=False)
    models = [load_model(path) for path in paths]
    better = int(np.argmin([np.abs(model["loo_f"]).mean() for model in models]))
    for number, (path, model) in enumerate(zip(paths, models, strict=True)):
        save_model(path, {**model, "f_err_rmse": 9.0 if number == better else 1.0})
    for by, number in (("validation", 1 - better), ("loo", better)):
        best = load_model(select(directory, tmp_path / f"{by}.npz", keep=True, overwrite=True, by=by))
        assert best["sig"] == models[number]["sig"]


def test_auto_goes_downhill_by_it(ethanol, tmp_path):
    directory = create(ethanol, 20, 30, "auto", SearchOptions(seed=1, directory=tmp_path / "search"))
    events = []
    paths = run(directory, ethanol, Trainer(n_std=2, by="loo"), events.append)
    errors = {float(load_model(path)["sig"]): np.abs(load_model(path)["loo_f"]).mean() for path in paths}
    (found,) = (event for event in events if isinstance(event, SigmaFound))
    assert found.sig == min(errors, key=errors.get)
    assert {trial.sig: trial.error for trial in found.trials} == pytest.approx(errors)
    # What was tried by another error is no answer.
    events.clear()
    run(directory, ethanol, Trainer(n_std=2), events.append)
    (found,) = (event for event in events if isinstance(event, SigmaFound))
    assert {trial.by for trial in found.trials} == {"validation"}
    assert not any(isinstance(event, SigmaTried) for event in events)  # there are models already


def test_wrong_options(ethanol, tmp_path, monkeypatch, capsys):
    with pytest.raises(UsageError, match="need samples"):
        Trainer(by="loo")
    with pytest.raises(UsageError, match="compared by validation or loo; got 'rmse'"):
        Trainer(by="rmse", n_std=2)
    monkeypatch.chdir(tmp_path)
    assert main(["create", "ethanol", "20", "30", "-s", "10", "20", "--seed", "1", "--task_dir", "tasks"]) == 0
    assert main(["train", "tasks", "ethanol", "--by", "loo"]) == 1
    assert "need samples" in capsys.readouterr().err
    assert main(["train", "tasks", "ethanol"]) == 0
    capsys.readouterr()
    assert main(["select", "tasks", "--by", "loo"]) == 1
    assert "has no leave-one-out errors" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "tasks", "ethanol", "--std", "4", "--by", "loo", "-o"]) == 0
    assert "select tasks --by loo" in capsys.readouterr().out
    assert main(["select", "tasks", "--by", "loo"]) == 0
    assert "left-out" in capsys.readouterr().out
