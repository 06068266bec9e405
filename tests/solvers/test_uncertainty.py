"""Standard deviations by the jackknife: residuals and samples against retraining, and what predictions make of them."""

import copy
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from support.crystals import TRICLINIC, periodic_dataset

from fastgdml.cli import main
from fastgdml.correlation import correlated_groups
from fastgdml.descriptor import from_R
from fastgdml.errors import DataError, UsageError
from fastgdml.evaluate import calibration
from fastgdml.flat import export_flat
from fastgdml.kernel import assemble_full
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict
from fastgdml.preparation import Prepared
from fastgdml.report.gather import Sources, gather
from fastgdml.report.text import origin_rows
from fastgdml.task import TaskArrays, load_task
from fastgdml.train import GDMLTrain


def molecule(ethanol, **options):
    return GDMLTrain().create_task(ethanol, 12, ethanol, 20, sig=20, seed=5, **options), ethanol


def crystal(ethanol):
    dataset = periodic_dataset(TRICLINIC)
    return GDMLTrain().create_task(dataset, 12, dataset, 20, sig=10, lam=1e-6, seed=5, use_sym=False), dataset


def weighted(ethanol):
    task, _ = molecule(ethanol, use_sym=False)
    return {**task, "desc_weights": np.exp(np.random.default_rng(1).uniform(-0.5, 0.5, 36))}, ethanol


KINDS = {
    "group": molecule,
    "energy constraints": lambda ethanol: molecule(ethanol, use_E_cstr=True, lam=1e-6),
    "no energies": lambda ethanol: molecule(ethanol, use_E=False),
    "periodic": crystal,
    "weights": weighted,
}


def without(task, left_out):
    """The task without some of its training points."""
    keep = np.setdiff1d(np.arange(len(task["R_train"])), left_out)
    keys = ("R_train", "F_train", "E_train", "idxs_train")
    return {**task, **{key: np.asarray(task[key])[keep] for key in keys if key in task}}


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 2, 3, 1, 4, 5, 6, 7, 8, 8]], ids=["points", "groups"])
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_are_those_of_retraining(kind, groups, ethanol):
    task, _ = KINDS[kind](ethanol)
    model = GDMLTrain().train(task, n_std=4, std_groups=groups)
    assert model["loo_f"].shape == np.shape(task["F_train"])
    numbers = np.arange(12) if groups is None else np.array(groups)
    for g in (0, 1, 8):
        points = np.flatnonzero(numbers == g)
        retrained = GDMLTrain().train(without(task, points), solver="closed")
        R = np.asarray(task["R_train"])[points]
        F = GDMLPredict(retrained).predict(R.reshape(len(R), -1), lattice=task.get("lattice"))[1]
        residual = np.asarray(task["F_train"])[points] - F.reshape(R.shape)
        largest = np.abs(residual).max()
        np.testing.assert_allclose(model["loo_f"][points], residual, rtol=0, atol=2e-3 * largest)


def dense_samples(task, model):
    """Changes dz_s of equation (4) for prediction, by retraining: the sum over groups of signed differences."""
    plain = GDMLTrain().train(task, solver="closed")
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (12, len(model["std_c"])))
    whole = GDMLPredict(plain)
    parts = [GDMLPredict(GDMLTrain().train(without(task, [i]), solver="closed")) for i in range(12)]

    def forces(R):
        F = whole.predict(R)[1]
        changes = np.array([F - part.predict(R)[1] for part in parts])
        return np.einsum("gs,gni->sni", signs, changes)

    return forces


def test_deviations_are_those_of_retraining(ethanol):
    task, _ = molecule(ethanol)
    model = GDMLTrain().train(task, n_std=6)
    R = ethanol["R"][100:110].reshape(10, -1)
    E, F, E_std, F_std = GDMLPredict(model).predict(R, return_std=True)
    plain = GDMLPredict(model).predict(R)
    np.testing.assert_array_equal(E, plain[0])
    np.testing.assert_array_equal(F, plain[1])
    assert E_std.shape == (10,)
    assert F_std.shape == (10, 9)
    changes = dense_samples(task, model)(R)
    expected = np.sqrt((changes.reshape(6, 10, 9, 3) ** 2).mean(axis=(0, 3)))
    np.testing.assert_allclose(F_std, expected, rtol=2e-2)
    twice = GDMLPredict({**model, "std_scale": 2.0}).predict(R, return_std=True)
    np.testing.assert_allclose(twice[2], 2 * E_std, rtol=1e-14)
    np.testing.assert_allclose(twice[3], 2 * F_std, rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_models(kind, ethanol):
    """Each sample predicts as a model with its coefficients; energies on the training set have mean 0."""
    task, dataset = KINDS[kind](ethanol)
    model = GDMLTrain().train(task, n_std=3)
    R = dataset["R"][50:54].reshape(4, -1)
    *_, E_std, F_std = GDMLPredict(model).predict(R, return_std=True)
    E2 = F2 = 0.0
    for s in range(3):
        part = {key: value for key, value in model.items() if not key.startswith("std_")}
        part |= {"R_d_desc_alpha": model["std_R_d_desc_alpha"][s], "c": model["std_c"][s]}
        if "alphas_E" in model:
            part["alphas_E"] = model["std_alphas_E"][s]
        E, F = GDMLPredict(part).predict(R)
        E2, F2 = E2 + E**2 / 3, F2 + (F.reshape(4, -1, 3) ** 2).mean(axis=2) / 3
        if model["use_E"] and "alphas_E" not in model:
            E_train = GDMLPredict(part).predict(np.reshape(task["R_train"], (12, -1)))[0]
            assert abs(E_train.mean()) < 1e-9 * np.abs(E_train).max()
    np.testing.assert_allclose(F_std, np.sqrt(F2), rtol=1e-9)
    np.testing.assert_allclose(E_std, np.sqrt(E2), rtol=1e-6, atol=1e-9)


def test_large_deviations_are_large_errors(ethanol):
    task = GDMLTrain().create_task(ethanol, 60, ethanol, 20, sig=20, seed=0)
    model = GDMLTrain().train(task, n_std=16)
    test = np.setdiff1d(np.arange(len(ethanol["R"])), task["idxs_train"])[:500]
    R, F_ref = ethanol["R"][test].reshape(500, -1), ethanol["F"][test]
    _, F, _, F_std = GDMLPredict(model).predict(R, return_std=True)
    error = np.sqrt(((F.reshape(F_ref.shape) - F_ref) ** 2).mean(axis=(1, 2)))
    deviation = np.sqrt((F_std**2).mean(axis=1))
    ranks = [np.argsort(np.argsort(a)) for a in (error, deviation)]
    assert np.corrcoef(ranks)[0, 1] > 0.4
    assert 0.5 < np.sqrt((error**2).mean() / (deviation**2).mean()) < 2.0
    loo = np.sqrt((model["loo_f"] ** 2).mean())
    assert loo == pytest.approx(np.sqrt((error**2).mean()), rel=0.35)


def molecular_dynamics(predictor, r, n_steps, temperature, every):
    """Geometries (n, 27) of ethanol with a model in kcal/mol and Angstrom, by velocity Verlet with steps of 0.5 fs."""
    dt, unit = 0.5, 4.184e-4  # fs; kcal/mol/Angstrom/u in Angstrom/fs^2
    m = np.repeat([12.011, 12.011, 15.999] + [1.008] * 6, 3)
    v = np.random.default_rng(1).normal(size=27) * np.sqrt(0.0019872 * temperature * unit / m)
    f, frames = predictor.predict(r)[1][0], []
    for step in range(n_steps):
        v += 0.5 * dt * unit * f / m
        r = r + dt * v
        f = predictor.predict(r)[1][0]
        v += 0.5 * dt * unit * f / m
        if step % every == 0:
            frames.append(r)
    return np.array(frames)


def test_correlated_frames_are_found(ethanol):
    """On a trajectory, labelled by a model: without groups deviations are too small, 'auto' makes them larger."""
    task = GDMLTrain().create_task(ethanol, 60, ethanol, 20, sig=20, seed=0)
    truth = GDMLPredict(GDMLTrain().train(task), max_processes=1)
    R = molecular_dynamics(truth, ethanol["R"][0].ravel(), 3000, 400, 2)
    E, F = truth.predict(R)
    idxs = np.sort(np.random.default_rng(3).choice(400, 80, replace=False))
    task |= {"R_train": R[idxs].reshape(-1, 9, 3), "F_train": F[idxs].reshape(-1, 9, 3), "E_train": E[idxs]}
    task["idxs_train"] = idxs
    test = np.arange(500, 1500, 10)
    ratios = {}
    for name, groups in (("none", None), ("auto", "auto")):
        model = GDMLTrain().train(task, n_std=16, std_groups=groups)
        _, F_model, _, F_std = GDMLPredict(model).predict(R[test], return_std=True)
        ratios[name] = np.sqrt(((F_model - F[test]) ** 2).mean() / (F_std**2).mean())
    assert 1.0 < ratios["auto"] < 0.9 * ratios["none"]
    x = from_R(R.reshape(-1, 9, 3))[0]
    groups = correlated_groups(idxs, x[idxs])
    assert 8 <= groups.max() + 1 <= 16
    shuffled = np.random.default_rng(0).permutation(80)
    again = correlated_groups(idxs[shuffled], x[idxs][shuffled])
    np.testing.assert_array_equal(again[:, None] == again, groups[shuffled][:, None] == groups[shuffled])


def test_uncorrelated_points_are_groups_of_their_own():
    x = np.random.default_rng(2).normal(size=(60, 36))
    np.testing.assert_array_equal(correlated_groups(np.arange(60), x), np.arange(60))
    x[40] = x[3] + 1e-6  # a copy, far away in time
    groups = correlated_groups(np.arange(60), x)
    assert groups[40] == groups[3]
    assert groups.max() == 58


def test_bits_do_not_depend_on_threads(ethanol, isa):
    task, _ = molecule(ethanol)
    model = GDMLTrain(max_processes=1).train(task, n_std=2)
    R = ethanol["R"][:7].reshape(7, -1)
    results = [GDMLPredict(model, max_processes=n).predict(R, return_std=True) for n in (1, 2, 5)]
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_files_copies_and_models_without_samples(ethanol, ethanol_model, tmp_path):
    task, _ = molecule(ethanol)
    model = GDMLTrain().train(task, n_std=2)
    save_model(tmp_path / "m.npz", model)
    R = ethanol["R"][:2].reshape(2, -1)
    predictor = GDMLPredict(tmp_path / "m.npz")
    assert predictor.has_std
    expected = predictor.predict(R, return_std=True)
    for same in (GDMLPredict(load_model(tmp_path / "m.npz")), copy.deepcopy(predictor)):
        for one, two in zip(expected, same.predict(R, return_std=True), strict=True):
            np.testing.assert_array_equal(one, two)
    # What is pickled is the native model, whose descriptors are rounded.
    for one, two in zip(expected, pickle.loads(pickle.dumps(predictor)).predict(R, return_std=True), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-7)
    assert len(predictor.predict(R, return_E=False, return_std=True)) == 2
    assert len(predictor.predict(R, return_virial=True, return_std=True)) == 5
    export_flat(tmp_path / "m.fgdml", model)
    for one, two in zip(expected, GDMLPredict(tmp_path / "m.fgdml").predict(R, return_std=True), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not GDMLPredict(ethanol_model).has_std
    with pytest.raises(UsageError, match="no samples for standard deviations"):
        GDMLPredict(ethanol_model).predict(R, return_std=True)
    with pytest.raises(DataError, match=r"std_c must be .* \(2,\); found shape \(3,\)"):
        GDMLPredict({**model, "std_c": np.zeros(3)})
    with pytest.raises(DataError, match="std_scale must be a number"):
        GDMLPredict({**model, "std_scale": np.nan})


def test_wrong_options(ethanol):
    task, _ = molecule(ethanol)
    train = GDMLTrain()
    for n_std in (-1, 1):
        with pytest.raises(UsageError, match=f"n_std is {n_std}"):
            train.train(task, n_std=n_std)
    with pytest.raises(UsageError, match="std_groups has shape"):
        train.train(task, n_std=4, std_groups=[0, 1])
    with pytest.raises(UsageError, match="std_groups is 'some': 'auto'"):
        train.train(task, n_std=4, std_groups="some")
    with pytest.raises(UsageError, match="two groups"):
        train.train(task, n_std=4, std_groups=np.zeros(12))


def test_the_command_line(tmp_path, monkeypatch, capsys, ethanol):
    monkeypatch.chdir(tmp_path)
    arguments = ["all", "ethanol", "40", "60", "200", "-s", "20", "--std", "8", "--seed", "1", "--model_file", "m.npz"]
    assert main(arguments) == 0
    assert "rank correlation" in capsys.readouterr().out
    model = load_model("m.npz")
    assert model["std_R_d_desc_alpha"].shape == (8, 40, 36)
    idxs = model["idxs_valid"]
    assert calibration(GDMLPredict(model), ethanol, idxs, True).force_ratio == pytest.approx(1.0, rel=1e-9)
    assert main(["test", "m.npz", "ethanol", "300", "--std", "--seed", "2"]) == 0
    text = capsys.readouterr().out
    assert "error / deviation" in text
    assert "Part 5 of 5" in text
    assert "Leave-one-out" in text
    found = calibration(GDMLPredict(model), ethanol, np.arange(500), True)
    assert found.bins.shape == (5, 2)
    assert (np.diff(found.bins[:, 0]) > 0).all()
    assert 0.5 < found.energy_ratio < 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_label_noise_is_that_of_the_largest_marginal_likelihood(kind, ethanol):
    """By the dense kernel matrix: s2 maximises the density of the labels, which are a Gaussian process."""
    task, _ = KINDS[kind](ethanol)
    model = GDMLTrain().train(task, solver="closed")
    arrays = TaskArrays.of(task)
    prepared = Prepared.of(arrays, 1, None)
    K, lam = -assemble_full(prepared.equations.training, n_threads=1), float(model["lam"])
    y = prepared.equations.by_point(prepared.labels.y, prepared.labels.y_E).ravel()
    values, vectors = np.linalg.eigh(K)
    m = {"periodic": 12 * (K.shape[0] // 12 - 3)}.get(kind, 12 * (K.shape[0] // 12 - 6))
    kept = slice(len(K) - m, None)  # the others are rigid motions
    squares = (vectors.T @ y)[kept] ** 2 / (values[kept] + lam)

    def log_density(s2):
        return -0.5 * squares.sum() / s2 - 0.5 * m * np.log(s2)

    s2 = (float(model["label_noise"]) / float(model["std"])) ** 2 / lam
    assert all(log_density(s2) > log_density(s2 * factor) for factor in (0.99, 1.01))


def test_label_noise_of_both_solvers_and_where_it_is_told(ethanol, tmp_path, capsys):
    noises = []
    for sig in (5, 10, 20, 40):
        task = GDMLTrain().create_task(ethanol, 60, ethanol, 20, sig=sig, seed=1)
        noises.append(float(GDMLTrain().train(task, solver="closed")["label_noise"]))
    assert all(1.5 < more / less < 20 for less, more in pairwise(noises))
    task, _ = molecule(ethanol, lam=1e-6)
    closed, cg = (GDMLTrain().train(task, solver=solver, tol=1e-8) for solver in ("closed", "cg"))
    assert float(cg["label_noise"]) == pytest.approx(float(closed["label_noise"]), rel=1e-5)
    save_model(tmp_path / "m.npz", closed)
    noise = f"1e-06: label noise of about {float(closed['label_noise']):.2g} kcal/mol/"
    assert main(["show", str(tmp_path / "m.npz")]) == 0
    assert noise in capsys.readouterr().out
    assert main(["show", str(tmp_path / "m.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label_noise"] == float(closed["label_noise"])
    facts = gather(tmp_path / "m.npz", Sources(timing=False))
    assert noise in dict(origin_rows(facts))["Regularisation lambda"]
    without_it = {key: value for key, value in closed.items() if key != "label_noise"}
    save_model(tmp_path / "old.npz", without_it)
    assert dict(origin_rows(gather(tmp_path / "old.npz", Sources(timing=False))))["Regularisation lambda"] == "1e-06"


def test_groups_on_the_command_line(tmp_path, monkeypatch, capsys, ethanol):
    """'auto', blocks, and numbers of all geometries of the dataset give what `train` makes of the same groups."""
    monkeypatch.chdir(tmp_path)
    assert main(["create", "ethanol", "20", "20", "-s", "20", "--seed", "1", "--task_dir", "tasks"]) == 0
    (task_file,) = (tmp_path / "tasks").glob("task-*.npz")
    task = load_task(task_file)
    of_all = np.random.default_rng(0).integers(0, 6, len(ethanol["R"]))
    (tmp_path / "groups.txt").write_text("\n".join(map(str, of_all)))
    order = np.argsort(np.argsort(task["idxs_train"]))
    expected = {"auto": "auto", "5": order // 4, "groups.txt": of_all[task["idxs_train"]]}
    alone = GDMLTrain().train(task, n_std=4)["loo_f"]
    for option, groups in expected.items():
        arguments = ["train", "tasks", "ethanol", "--std", "4", "--std_groups", option, "-o"]
        assert main(arguments) == 0
        (model_file,) = (tmp_path / "tasks").glob("model-*.npz")
        residuals = load_model(model_file)["loo_f"]
        largest = np.abs(residuals).max()
        own = GDMLTrain().train(task, n_std=4, std_groups=groups)["loo_f"]
        np.testing.assert_allclose(residuals, own, rtol=0, atol=1e-6 * largest)
        assert (option == "auto") or np.abs(residuals - alone).max() > 0.01 * largest
    capsys.readouterr()
    (tmp_path / "short.txt").write_text("1 2 3\n")
    (tmp_path / "words.txt").write_text("1 two 3\n")
    wrong = {
        "short.txt": "std_groups has 3 numbers, one for each geometry",
        "words.txt": "words.txt holds something else than integers",
        "missing.txt": "'auto', a number, or a file: No such file",
        "1": "std_groups is 1: 20 training points can be cut into 2 to 20 blocks",
        "21": "std_groups is 21",
    }
    for option, message in wrong.items():
        assert main(["train", "tasks", "ethanol", "--std", "4", "--std_groups", option, "-o"]) == 1
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["train", "tasks", "ethanol", "--std_groups", "auto", "-o"]) == 1
    assert "belongs to --std" in capsys.readouterr().err
