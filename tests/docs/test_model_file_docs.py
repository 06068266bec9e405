"""The reader in docs/reference/model_file.md reads what fastgdml writes."""

import re

import numpy as np
import pytest
from support.models import make_model, make_samples
from support.molecules import cyclic_group, random_molecules
from support.paths import ROOT

from fastgdml.flat import export_flat
from fastgdml.predict import GDMLPredict


@pytest.fixture(scope="module")
def read_model():
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/reference/model_file.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names = {}
    exec(code, names)
    return names["read_model"]


def check(read_model, model, path):
    export_flat(path, model)
    found, predictor = read_model(path), GDMLPredict(model)
    images, x, v, energies = predictor.native.arrays()
    np.testing.assert_array_equal(found["images"], images)
    np.testing.assert_array_equal(found["images"], predictor._engine.arrays.pair_images)
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_allclose(found["x"], predictor._engine.arrays.x, rtol=1e-15)
    np.testing.assert_array_equal(found["v"], v)
    np.testing.assert_array_equal(v, predictor._engine.arrays.v)
    np.testing.assert_array_equal(found["z"], predictor.z)
    assert (found["sig"], found["std"], found["c"]) == (predictor.sig, predictor.std, predictor.c)
    assert (found["energies"] is None) == (energies is None)
    if energies is not None:
        np.testing.assert_array_equal(found["energies"], energies)
    weights = model.get("desc_weights")
    assert (found["weights"] is None) == (weights is None)
    if weights is not None:
        np.testing.assert_array_equal(found["weights"], weights)
    samples = predictor._engine.arrays.samples
    assert (found["samples"] is None) == (samples is None)
    if samples is not None:
        np.testing.assert_array_equal(found["samples"]["v"], samples.v)
        np.testing.assert_array_equal(found["samples"]["c"], samples.c)
        assert found["samples"]["scale"] == samples.scale
        assert (found["samples"]["energies"] is None) == (samples.alphas_E is None)
        if samples.alphas_E is not None:
            np.testing.assert_allclose(found["samples"]["energies"], samples.alphas_E, rtol=1e-15)
    return found


def test_ethanol(read_model, ethanol_model, tmp_path):
    found = check(read_model, ethanol_model, tmp_path / "model.fgdml")
    assert found["texts"][:2] == ["kcal/mol", "Ang"]
    assert found["texts"][2] == str(ethanol_model["dataset_name"])
    assert found["periodicity"] == 0


def test_weights(read_model, tmp_path):
    model, _ = make_model(random_molecules(20, 7), np.arange(7)[None], energies=True)
    check(read_model, {**model, "desc_weights": np.linspace(0.5, 2.0, 21)}, tmp_path / "model.fgdml")


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_samples(read_model, weights, energies, tmp_path):
    model, _ = make_model(random_molecules(61, 7), cyclic_group(7, 3), energies=energies)
    model |= make_samples(model, 5)
    if weights:
        model["desc_weights"] = np.full(21, 1.5)
    check(read_model, model, tmp_path / "model.fgdml")


@pytest.mark.parametrize("n_train", [1, 61, 300])
def test_energies_and_a_cell(read_model, n_train, tmp_path):
    model, _ = make_model(random_molecules(n_train, 7), cyclic_group(7, 3), energies=True)
    lattice = np.array([[9.0, 1.0, 0.0], [0.0, 8.0, 0.5], [0.2, 0.0, 7.0]])
    found = check(read_model, {**model, "lattice": lattice, "image_rule": "minimum"}, tmp_path / "model.fgdml")
    assert (found["periodicity"], found["minimum_image"]) == (1, 1)
    np.testing.assert_array_equal(found["lattice"], lattice)
