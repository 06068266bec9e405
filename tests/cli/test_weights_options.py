"""Learned weights on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastgdml.cli import main
from fastgdml.model import load_model
from fastgdml.task import load_task, save_task

MODEL = Path("ethanol-gfn2-xtb-train30-sym6.npz")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*args):
    return main([str(a) for a in args])


def test_all_learns_weights_in_place_of_a_search(capsys):
    assert run("all", "ethanol", 30, 60, 50, "--seed", 3, "-p", 1, "--weights", "types") == 0
    out = capsys.readouterr().out
    for text in ("best sigma without weights", "Learning weights of 12 types of pairs", "Wrote 1 of 1 tasks"):
        assert text in out
    model = load_model(MODEL)
    assert model["desc_weights"].shape == (36,)
    assert str(model["weights"]) == "types"
    assert not float(model["sig"]).is_integer()
    assert int(model["n_test"]) == 50

    assert run("show", MODEL) == 0
    out = capsys.readouterr().out
    assert "learned (types)" in out
    force, energy = model["weights_gain"]
    assert f"forces {-force:+.0%}, energies {-energy:+.0%}, against no weights at the best sigma" in out
    heaviest = model["desc_weights"].max()
    assert f"{heaviest:.2f}" in out.split("Heaviest pairs:")[1].split(",")[0]

    assert run("show", MODEL, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["weights"], facts["weights_gain"]) == ("types", model["weights_gain"].tolist())
    assert facts["desc_weights"] == model["desc_weights"].tolist()

    assert run("export", MODEL, "model.fgdml") == 0
    assert run("show", "model.fgdml") == 0
    assert "Weights of pairs:    learned" in capsys.readouterr().out
    assert run("export", MODEL, "for_sgdml.npz", "--format", "sgdml") == 1
    assert "learned weights of pairs of atoms (desc_weights), which sgdml does not know" in capsys.readouterr().err
    assert not Path("for_sgdml.npz").exists()


def test_a_search_goes_on_with_its_weights_and_with_no_others(capsys):
    create = ["create", "ethanol", 20, 40, "--seed", 3, "--task_dir", "here"]
    assert run(*create, "--weights", "types") == 0
    (path,) = Path("here").glob("task-*.npz")
    learned = load_task(path)
    assert "desc_weights" in learned
    capsys.readouterr()
    assert run(*create, "--weights", "types") == 0
    assert "Resuming the search" in capsys.readouterr().out
    assert [p.name for p in Path("here").glob("task-*.npz")] == [path.name]
    assert run(*create, "--weights", "orbits") == 1
    assert "--weights (types, not orbits)" in " ".join(capsys.readouterr().err.split())
    assert run(*create, "-s", 10) == 1
    assert "--weights (types, not none)" in " ".join(capsys.readouterr().err.split())
    np.testing.assert_array_equal(load_task(path)["desc_weights"], learned["desc_weights"])

    # weights that did not help are said to be given up
    given_up = {key: value for key, value in learned.items() if key not in ("desc_weights", "weights_gain")}
    save_task("given_up.npz", given_up)
    assert run("show", "given_up.npz") == 0
    assert "given up: they did not help" in capsys.readouterr().out
