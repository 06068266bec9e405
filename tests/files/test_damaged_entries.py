"""Each entry of datasets, tasks and models with each kind of damage: an error of ours, or results that are numbers."""

import functools

import numpy as np
import pytest
from support.damage import DAMAGE, damaged

from fastgdml.cli import main
from fastgdml.dataset import Dataset, create_dataset, load_dataset
from fastgdml.entries import DATASET, MODEL, TASK
from fastgdml.errors import FastGDMLError
from fastgdml.exchange import to_sgdml
from fastgdml.model import Model
from fastgdml.predict import GDMLPredict
from fastgdml.task import Task
from fastgdml.train import GDMLTrain


@pytest.fixture(scope="module")
def dataset():
    whole = load_dataset("ethanol")
    n = 40
    made = create_dataset(
        "ethanol", "DFT", whole["z"], whole["R"][:n], whole["F"][:n], whole["E"][:n], 30 * np.eye(3), "Ang", "kcal/mol"
    )
    return {**made, "perms": np.array([np.arange(9), [0, 1, 2, 4, 3, 5, 6, 7, 8]]), "provenance": np.array("a test")}


@pytest.fixture(scope="module")
def task(dataset):
    task = GDMLTrain(max_processes=1).create_task(dataset, 5, dataset, 4, sig=10, seed=1, use_E_cstr=True)
    return {
        **task,
        "desc_weights": np.ones(36),
        "alphas0_F": np.zeros(135),
        "alphas0_E": np.zeros(5),
        "solver_iters": 3,
    }


@pytest.fixture(scope="module")
def model(task):
    trained = GDMLTrain(max_processes=1).train(task, n_std=2)
    more = {"f_err_mae": 0.5, "f_err_rmse": 0.7, "inducing_pts_idxs": np.arange(5), "weights_gain": np.ones(2)}
    return {**trained, **more, "search_errors": np.ones((2, 5)), "solver_tol": 1e-4, "solver_resid": 0.1}


def cases(schema, typed):
    keys = sorted({*schema, *typed.__annotations__})
    return pytest.mark.parametrize("key", keys)


def require_numbers(*arrays):
    for array in arrays:
        assert np.isfinite(np.asarray(array, dtype=np.float64)).all()


def each_damage(entries, key, use):
    """Call `use` with each damage, and require an error of fastgdml or what `use` checks; at least one is refused."""
    if key not in entries:
        pytest.skip(f"these entries have no {key}")
    refused = 0
    for kind in DAMAGE:
        try:
            with np.errstate(all="ignore"):
                use(damaged(entries, key, kind))
        except FastGDMLError:
            refused += 1
        except AssertionError as error:
            raise AssertionError(f"{key} with damage '{kind}': {error}") from error
        except Exception as error:
            raise AssertionError(f"{key} with damage '{kind}': raw {type(error).__name__}: {error}") from error
    return refused


# What is only shown, or not read at all, may be anything.
FREE = {"type", "name", "theory", "md5", "md5_aliases", "provenance", "code_version", "E_min"}


@cases(MODEL, Model)
def test_models_in_python(dataset, model, key):
    R = dataset["R"][:3].reshape(3, -1)

    def use(entries):
        predictor = GDMLPredict(entries, max_processes=1)
        require_numbers(*predictor.predict(R))
        if predictor.has_std:
            require_numbers(*predictor.predict(R, return_std=True))

    assert each_damage(model, key, use) > (4 if key in MODEL and key not in FREE else -1)
    each_damage({**model, "lattice": 30 * np.eye(3)}, key, to_sgdml_without_weights)


def to_sgdml_without_weights(entries):
    to_sgdml({key: value for key, value in entries.items() if key not in ("desc_weights", "image_rule")})


@cases(TASK, Task)
def test_tasks_in_python(task, key):
    train = functools.partial(GDMLTrain(max_processes=1).train, solver="closed")

    def use(entries):
        model = train(entries)
        require_numbers(model["alphas_F"], model["c"], model["R_d_desc_alpha"])

    assert each_damage(task, key, use) > (4 if key in TASK and key not in FREE else -1)


@cases(DATASET, Dataset)
def test_datasets_in_python(dataset, key):
    def use(entries):
        task = GDMLTrain(max_processes=1).create_task(entries, 5, entries, 4, sig=10, seed=1)
        require_numbers(task["R_train"], task["F_train"], task["E_train"])

    assert each_damage(dataset, key, use) > (4 if key in DATASET and key not in FREE else -1)


# A quarter of the damages for each key: all of them were tried on the functions above.
FILE_DAMAGE = sorted(DAMAGE)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers that overflow; here warnings are errors
@pytest.mark.parametrize("key", sorted({*DATASET, *TASK, *MODEL}))
def test_files_on_the_command_line(tmp_path, monkeypatch, capsys, dataset, task, model, key):
    monkeypatch.chdir(tmp_path)
    np.savez("ds.npz", **dataset)
    for what, entries, commands in (
        ("dataset", dataset, (["show"], ["dataset", "check"])),
        ("task", task, (["show"],)),
        ("model", model, (["show"], ["test"])),
    ):
        if key not in entries:
            continue
        number = list(DATASET | TASK | MODEL).index(key)
        for kind in FILE_DAMAGE[number % 4 :: 4]:
            with np.errstate(all="ignore"):
                np.savez("x.npz", **damaged(entries, key, kind))
            for command in commands:
                further = ["ds.npz", "5"] if command[0] == "test" else []
                status = main([*command, "x.npz", *further])
                output = capsys.readouterr()
                assert status in (0, 1), f"{what}, {key}, {kind}"
                assert "should not happen" not in output.err, f"{what}, {key}, {kind}: {output.err}"
                assert "\x1b" not in output.out + output.err, f"{what}, {key}, {kind}"
