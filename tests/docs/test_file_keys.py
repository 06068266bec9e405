"""Keys of datasets, tasks and models: docs/reference/files.md lists what is typed, what loads, and what is written."""

import inspect
import re

import numpy as np
import pytest
from support.crystals import TRICLINIC, periodic_dataset
from support.paths import ROOT

from fastgdml.dataset import Dataset, create_dataset, load_dataset, save_dataset
from fastgdml.errors import FastGDMLError
from fastgdml.evaluate import Errors, with_errors
from fastgdml.model import Model, load_model, save_model
from fastgdml.npz import load_npz, save_npz
from fastgdml.task import Task
from fastgdml.train import GDMLTrain

KINDS = {"Datasets": Dataset, "Tasks": Task, "Models": Model}


def typed(kind):
    """Keys of a TypedDict with the comments of their lines."""
    source = inspect.getsource(inspect.getmodule(kind))
    return {key: re.search(rf"^    {key}: .*?  # (.*)$", source, re.MULTILINE)[1] for key in kind.__annotations__}


def documented(section):
    """Keys in the table of a section of the page: whether each must or may be there or is set, and what it holds."""
    text = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    (part,) = (part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(section + "\n"))
    rows = re.findall(r"^\| `(\w+)` \| (must|set|may) \| (.*) \|$", part, flags=re.MULTILINE)
    assert len(rows) == part.count("\n| `")
    return {key: (needed, content) for key, needed, content in rows}


def marked(section, mark):
    return {key for key, (needed, _) in documented(section).items() if needed == mark}


@pytest.mark.parametrize("section", KINDS)
def test_the_page_lists_what_is_typed(section):
    kind, rows = KINDS[section], documented(section)
    assert list(kind.__annotations__) == list(rows)
    assert kind.__required_keys__ <= marked(section, "must") <= kind.__required_keys__ | {"type"}
    assert {key: content.replace("`", "") for key, (_, content) in rows.items()} == {
        key: content.replace("`", "") for key, content in typed(kind).items()
    }


# ---- datasets


@pytest.fixture(scope="module")
def dataset():
    """A dataset with all keys."""
    made = periodic_dataset(TRICLINIC)
    return {
        **create_dataset("name", "theory", made["z"], made["R"], made["F"], made["E"], TRICLINIC, "Ang", "eV"),
        "perms": np.arange(len(made["z"]))[None],
        "provenance": np.array("a test"),
        "md5_aliases": np.array([b"0" * 32]),
    }


def test_datasets_have_the_typed_keys(dataset, tmp_path):
    assert dataset.keys() == Dataset.__annotations__.keys()
    save_dataset(tmp_path / "data.npz", {**dataset, "further": np.arange(3)})
    assert load_npz(tmp_path / "data.npz").keys() == load_dataset(tmp_path / "data.npz").keys()
    assert load_dataset(tmp_path / "data.npz").keys() - dataset.keys() == {"further"}


def test_datasets_load_without_what_may_be_left_out(dataset, tmp_path):
    for key in Dataset.__annotations__:
        save_npz(tmp_path / "data.npz", {k: v for k, v in dataset.items() if k != key})
        if key in marked("Datasets", "must"):
            with pytest.raises(FastGDMLError, match=rf"\({key} missing\)"):
                load_dataset(tmp_path / "data.npz")
        else:
            load_dataset(tmp_path / "data.npz")
    save_npz(tmp_path / "data.npz", {key: dataset[key] for key in marked("Datasets", "must")})
    assert load_dataset(tmp_path / "data.npz").keys() == marked("Datasets", "must") | marked("Datasets", "set")


# ---- models


@pytest.fixture(scope="module")
def models(ethanol, dataset):
    """Models that have all keys together: of each solver, with energy constraints, periodic."""
    train = GDMLTrain(max_processes=1)

    def trained(data, solver, energies, n_std=0):
        task = train.create_task(data, 10, data, 5, sig=20, seed=1, use_E_cstr=energies)
        model = train.train(task, solver=solver, n_std=n_std)
        model["search_errors"] = np.array([[10, 1.0, 1.5, 2.0, 2.5], [20, 1.0, 1.5, np.nan, np.nan]])
        model["search_trials"] = np.array([[5, 20, 2.0], [10, 20, 1.5]])
        return with_errors(model, Errors({"force": 1.0, "energy": 2.0}, {"force": 1.5, "energy": 2.5}))

    weighted = {
        **trained(ethanol, "closed", False),
        "weights": "orbits",
        "desc_weights": np.ones(36),
        "weights_gain": np.array([0.3, 0.2]),
    }
    solved = [
        trained(ethanol, "closed", True, n_std=2),
        trained(ethanol, "cg", False),
        trained(dataset, "closed", False),
    ]
    return [*solved, weighted]


def test_models_have_the_typed_keys(models, tmp_path):
    assert set().union(*models) == Model.__annotations__.keys()
    for model in models:
        save_model(tmp_path / "model.npz", {**model, "further": np.arange(3)})
        left_out = {"tril_perms_lin"} if "desc_weights" in model else set()
        assert load_npz(tmp_path / "model.npz").keys() == model.keys() - left_out | {"further"}
        assert load_model(tmp_path / "model.npz").keys() == model.keys() | {"further"}


def test_models_load_without_what_may_be_left_out(models, tmp_path):
    path = tmp_path / "model.npz"
    for model in models:
        if "desc_weights" in model:  # there `perms` stands for `tril_perms_lin`
            continue
        for key in model:
            path.unlink(missing_ok=True)  # the next one may be of another kind
            save_npz(path, {k: v for k, v in model.items() if k != key})
            if key in marked("Models", "must"):
                with pytest.raises(FastGDMLError, match="of no known type" if key == "type" else rf"lacks {key}\."):
                    load_model(path)
            else:
                load_model(path)
        path.unlink()
        save_npz(path, {key: model[key] for key in marked("Models", "must")})
        assert load_model(path).keys() == marked("Models", "must") | marked("Models", "set")
