import numpy as np
import pytest

from fastgdml.dataset import create_dataset, dataset_md5
from fastgdml.errors import DataError, UsageError
from fastgdml.evaluate import draw_test_points, prediction_errors
from fastgdml.overlap import KnownGeometries, is_drawn_from, require_drawn_from, seen_points
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain


def part(dataset, idxs, **changes):
    """A dataset of some of the geometries, with a fingerprint of its own."""
    arrays = {key: changes.get(key, dataset[key][idxs]) for key in ("R", "F", "E")}
    return create_dataset(
        "part",
        "x",
        dataset["z"],
        **arrays,
        r_unit=changes.get("r_unit", "Ang"),
        e_unit=changes.get("e_unit", "kcal/mol"),
    )


@pytest.fixture(scope="module")
def first_half(ethanol):
    return part(ethanol, slice(0, 1000))


@pytest.fixture(scope="module")
def model(first_half):
    train = GDMLTrain()
    return train.train(train.create_task(first_half, 30, first_half, 40, sig=20, seed=1))


def test_a_recorded_fingerprint_is_recognised(ethanol, model, first_half):
    for recorded in (b"0123456789abcdef" * 2, np.array("0123456789abcdef" * 2)):
        other = {**model, "md5_train": recorded, "md5_valid": recorded}
        dataset = {**first_half, "md5_aliases": np.array([b"0123456789abcdef" * 2])}
        assert is_drawn_from(other, "valid", dataset)
        used = np.union1d(model["idxs_train"], model["idxs_valid"])
        np.testing.assert_array_equal(seen_points(other, dataset), used)
        assert not np.isin(draw_test_points(other, dataset, None, 0), used).any()
        # as a mapping that was not loaded by load_dataset
        bare = {key: first_half[key] for key in ("z", "R", "F", "E")}
        assert is_drawn_from(other, "valid", {**bare, "md5": recorded})
        assert is_drawn_from(model, "valid", {**bare, "md5": recorded})


def test_a_recorded_fingerprint_that_was_copied_is_not_believed(model, first_half, caplog):
    recorded = b"0123456789abcdef" * 2
    other = {**model, "md5_train": recorded, "md5_valid": recorded}
    order = np.random.default_rng(0).permutation(1000)
    for idxs in (np.arange(500), np.arange(1000)[::-1], order):
        dataset = {**part(first_half, idxs), "md5_aliases": np.array([recorded])}
        assert not is_drawn_from(other, "valid", dataset)
        with pytest.raises(UsageError, match="does not have the points at their places"):
            require_drawn_from(other, "valid", dataset, "the model")
        caplog.clear()
        drawn = draw_test_points(other, dataset, None, 0)
        assert not np.isin(idxs[drawn], model["idxs_train"]).any()
        assert "not at the places that it records" in caplog.text


def rotated(R):
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    return R @ q.T + 3.0


@pytest.mark.parametrize(
    ("change", "units"),
    [
        (lambda R: R, "Ang"),
        (lambda R: R.astype(np.float32).astype(np.float64), "Ang"),
        (lambda R: np.round(R, 5), "Ang"),
        (rotated, "Ang"),
        (lambda R: R / 0.529177210903, "Bohr"),
    ],
)
def test_training_geometries_are_found_in_a_longer_file(ethanol, model, change, units, caplog):
    longer = part(ethanol, slice(0, 2000), R=change(ethanol["R"]), r_unit=units)
    assert dataset_md5(longer) != model["md5_train"]
    seen = seen_points(model, longer)
    # the validation points lie as they did
    np.testing.assert_array_equal(seen, np.union1d(model["idxs_train"], model["idxs_valid"]))
    assert "30 geometries of this dataset are training points" in caplog.text
    assert "40 validation points" in caplog.text
    assert len(draw_test_points(model, longer, None, 0)) == 2000 - 70


@pytest.mark.parametrize("frames", [slice(0, 500), slice(300, 1300), slice(950, 2000)])
def test_training_geometries_are_found_in_a_part(ethanol, model, frames):
    used = np.union1d(model["idxs_train"], model["idxs_valid"]) - frames.start
    np.testing.assert_array_equal(
        seen_points(model, part(ethanol, frames)), used[(used >= 0) & (used < frames.stop - frames.start)]
    )


def test_training_geometries_are_found_in_any_order(ethanol, model, caplog):
    idxs = np.random.default_rng(0).permutation(2000)[:1500]
    shuffled = part(ethanol, idxs)
    seen = seen_points(model, shuffled)
    np.testing.assert_array_equal(seen, np.flatnonzero(np.isin(idxs, model["idxs_train"])))
    assert "validation points" not in caplog.text


def test_other_geometries_are_not_found(ethanol, model, caplog):
    assert len(seen_points(model, part(ethanol, slice(1000, 2000)))) == 0
    moved = ethanol["R"][:1000].copy()
    moved[:, 3, 0] += 1e-3  # as in a finite difference
    assert len(seen_points(model, part(ethanol, slice(0, 1000), R=moved))) == 0
    assert caplog.text == ""


def test_search_equals_a_comparison_of_all_pairs(ethanol):
    task = GDMLTrain().create_task(ethanol, 50, ethanol, 5, sig=20, seed=1)
    known = KnownGeometries.of(task)
    double = {**ethanol, "R": np.concatenate([ethanol["R"][:200], ethanol["R"][:100]])}
    double |= {"F": double["R"], "E": None}
    points, numbers = known.find_in(double)
    expected = [
        (i, n) for i, r in enumerate(double["R"]) for n, s in enumerate(task["R_train"]) if np.array_equal(r, s)
    ]
    assert list(zip(points.tolist(), numbers.tolist(), strict=True)) == expected
    among = np.array([i for i, _ in expected[::2]])
    np.testing.assert_array_equal(known.find_in(double, among)[0], among)


def test_periodic_geometries_are_found_in_their_cell(ethanol, caplog):
    rng = np.random.default_rng(0)
    lattice = np.array([[6.0, 1.0, 0.0], [0.0, 6.5, 0.0], [0.0, 0.0, 7.0]])
    arrays = {key: ethanol[key][:400] for key in ("R", "F", "E")}
    dataset = create_dataset("cell", "x", ethanol["z"], **arrays, lattice=lattice)
    task = GDMLTrain().create_task(dataset, 20, dataset, 20, sig=20, seed=0)
    images = arrays["R"] + rng.integers(-1, 2, (400, 9, 3)) @ lattice.T
    other = create_dataset("cell", "x", ethanol["z"], images, arrays["F"], arrays["E"], lattice=lattice)
    points, _ = KnownGeometries.of(task).find_in(other)
    np.testing.assert_array_equal(points, np.sort(task["idxs_train"]))


def test_no_training_geometry_is_drawn_for_validation(ethanol, first_half, caplog):
    longer = part(ethanol, slice(0, 1030))
    task = GDMLTrain().create_task(first_half, 30, longer, 1000, sig=20, seed=1)
    assert not np.isin(task["idxs_valid"], task["idxs_train"]).any()
    assert len(np.unique(task["idxs_valid"])) == 1000
    assert "30 geometries of the validation dataset are training points" in caplog.text


# ---- units ------------------------------------------------------------------------------------------------------

HARTREE, BOHR, KCAL = 27.211386245988, 0.529177210903, 4184 / 6.02214076e23 / 1.602176634e-19  # eV, Angstrom


def converted(dataset, energy, length):
    """The same data in Hartree and Bohr, say."""
    return part(
        dataset,
        slice(None),
        R=dataset["R"] / length[1],
        F=dataset["F"] * KCAL / energy[1] * length[1],
        E=dataset["E"] * KCAL / energy[1],
        r_unit=length[0],
        e_unit=energy[0],
    )


@pytest.mark.parametrize("energy", [("eV", 1.0), ("Hartree", HARTREE), ("kcal/mol", KCAL)])
@pytest.mark.parametrize("length", [("Ang", 1.0), ("a.u.", BOHR), ("nm", 10.0)])
def test_errors_are_in_the_units_of_the_model(ethanol, ethanol_model, energy, length):
    other = converted(ethanol, energy, length)
    predictor, idxs = GDMLPredict(ethanol_model), np.arange(100)
    expected = prediction_errors(predictor, ethanol, idxs, use_E=True)
    found = prediction_errors(predictor, other, idxs, use_E=True)
    for name in expected.mae:
        # energies are differences of large numbers, as are angles near zero
        assert found.mae[name] == pytest.approx(expected.mae[name], rel=1e-6)
        assert found.rmse[name] == pytest.approx(expected.rmse[name], rel=1e-6)


def test_units_that_cannot_be_converted_are_refused(ethanol, ethanol_model):
    other = {**part(ethanol, slice(None)), "e_unit": np.array("furlong")}
    with pytest.raises(DataError, match="unit of energy 'furlong'"):
        prediction_errors(GDMLPredict(ethanol_model), other, np.arange(10), use_E=True)
    with pytest.raises(DataError, match="unit of energy 'kcal/mol', the validation dataset 'furlong'"):
        GDMLTrain().create_task(ethanol, 10, other, 10, sig=20)


def test_the_same_numbers_in_other_units_are_refused(ethanol):
    other = {**ethanol, "e_unit": np.array("eV")}
    with pytest.raises(DataError, match=r"have the same numbers .* but record different units"):
        GDMLTrain().create_task(ethanol, 10, other, 10, sig=20)


def test_a_task_of_datasets_in_two_units_is_that_of_one(ethanol, first_half):
    rest = part(ethanol, slice(1000, 2000))
    task = GDMLTrain().create_task(first_half, 30, converted(rest, ("eV", 1.0), ("a0", BOHR)), 40, sig=20, seed=1)
    assert str(task["e_unit"]) == "kcal/mol"
    np.testing.assert_array_equal(task["R_train"], first_half["R"][task["idxs_train"]])


# ---- forces that are no labels ----------------------------------------------------------------------------------


def test_forces_of_zero(ethanol, ethanol_model):
    zero = part(ethanol, slice(None), F=np.zeros_like(ethanol["F"]))
    errors = prediction_errors(GDMLPredict(ethanol_model), zero, np.arange(50), use_E=True)
    assert errors.mae["force"] > 1
    assert "angle" not in errors.mae
    for train, valid, what in ((zero, ethanol, "training"), (ethanol, zero, "validation")):
        with pytest.raises(DataError, match=f"All forces of the {what} points are zero"):
            GDMLTrain().create_task(train, 10, valid, 10, sig=20, seed=0)


def test_no_points_are_an_error(ethanol, ethanol_model):
    with pytest.raises(UsageError, match="no points"):
        prediction_errors(GDMLPredict(ethanol_model), ethanol, np.arange(0), use_E=True)
