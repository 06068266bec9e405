import numpy as np
import pytest

from fastgdml.errors import UsageError
from fastgdml.evaluate import draw_test_points, prediction_errors
from fastgdml.predict import GDMLPredict


def test_errors_are_those_of_the_definitions(ethanol, ethanol_model):
    predictor = GDMLPredict(ethanol_model)
    idxs = np.arange(1500)  # more than one chunk
    errors = prediction_errors(predictor, ethanol, idxs, use_E=True)
    E, F = predictor.predict(ethanol["R"][idxs].reshape(1500, -1))
    F, F_ref = F.reshape(-1, 3), ethanol["F"][idxs].reshape(-1, 3)
    size, size_ref = np.linalg.norm(F, axis=1), np.linalg.norm(F_ref, axis=1)
    angle = np.arccos(np.clip((F * F_ref).sum(axis=1) / size / size_ref, -1, 1)) / np.pi
    expected = {"force": F - F_ref, "magnitude": size - size_ref, "angle": angle, "energy": E - ethanol["E"][idxs]}
    assert errors.mae.keys() == expected.keys()
    for name, deviation in expected.items():
        assert errors.mae[name] == pytest.approx(np.abs(deviation).mean())
        assert errors.rmse[name] == pytest.approx(np.sqrt(np.square(deviation).mean()))


def test_forces_of_zero_have_no_angle(ethanol, ethanol_model):
    F = ethanol["F"].copy()
    F[:, 0] = 0
    errors = prediction_errors(GDMLPredict(ethanol_model), {**ethanol, "F": F}, np.arange(10), use_E=False)
    assert np.isfinite(errors.mae["angle"])
    assert "energy" not in errors.mae


def test_test_points_are_unseen(ethanol, ethanol_model):
    idxs = draw_test_points(ethanol_model, ethanol, None, seed=0)
    used = set(ethanol_model["idxs_train"]) | set(ethanol_model["idxs_valid"])
    assert len(idxs) == 2000 - len(used)
    assert not used & set(idxs)
    assert len(draw_test_points(ethanol_model, ethanol, 100, seed=0)) == 100
    rng = np.random.default_rng(0)
    other = {**ethanol, "R": ethanol["R"] + rng.normal(0, 0.01, (2000, 9, 3)), "md5": np.array(b"another")}
    assert len(draw_test_points(ethanol_model, other, None, seed=0)) == 2000


def test_test_points_without_energies(ethanol, ethanol_model):
    bare = {key: value for key, value in ethanol.items() if key != "E"}
    assert len(draw_test_points(ethanol_model, bare, 100, seed=0)) == 100


def test_no_points_left(ethanol, ethanol_model):
    model = {**ethanol_model, "idxs_valid": np.arange(2000)}
    with pytest.raises(UsageError, match="All 2000 points"):
        draw_test_points(model, ethanol, 10, seed=0)
