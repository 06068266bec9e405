"""Standard deviations of the iterative solver: solutions without folds of the points against retraining."""

import logging

import numpy as np
import pytest
from support.crystals import TRICLINIC, periodic_dataset
from support.molecules import GROUPS, random_molecules

from fastgdml.cli import main
from fastgdml.errors import UsageError
from fastgdml.evaluate import calibration
from fastgdml.flat import export_flat
from fastgdml.kernel import assemble_full
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict
from fastgdml.solvers import choice, low_rank, preconditioner
from fastgdml.solvers.folds import folds_of
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet


def molecule(ethanol, lam=1e-7, **options):
    return GDMLTrain().create_task(ethanol, 12, ethanol, 20, sig=20, seed=5, lam=lam, **options), ethanol


def crystal(ethanol):
    dataset = periodic_dataset(TRICLINIC)
    return GDMLTrain().create_task(dataset, 12, dataset, 20, sig=10, lam=1e-6, seed=5, use_sym=False), dataset


def weighted(ethanol):
    task, _ = molecule(ethanol, lam=1e-6, use_sym=False)
    return {**task, "desc_weights": np.exp(np.random.default_rng(1).uniform(-0.5, 0.5, 36))}, ethanol


def constrained(ethanol):
    return molecule(ethanol, lam=1e-6, use_E_cstr=True)


KINDS = {"symmetries": molecule, "energy constraints": constrained, "periodic": crystal, "weights": weighted}


def without(task, left_out):
    """The task without some of its training points."""
    keep = np.setdiff1d(np.arange(len(task["R_train"])), left_out)
    keys = ("R_train", "F_train", "E_train", "idxs_train")
    return {**task, **{key: np.asarray(task[key])[keep] for key in keys if key in task}}


# ---- pieces ------------------------------------------------------------------------------------------------------


def test_folds_keep_groups_together_and_are_of_one_size():
    folds = folds_of(np.arange(50), 8)
    assert sorted(map(len, folds)) == [6] * 6 + [7] * 2
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(50))
    assert any((np.diff(fold) > 1).any() for fold in folds)  # drawn, not cut
    groups = np.array([0] * 9 + [1] * 4 + [2] * 4 + list(range(3, 10)))
    folds = folds_of(groups, 3)
    assert sorted(map(len, folds)) == [7, 8, 9]
    for group in range(10):
        assert sum(group in groups[fold] for fold in folds) == 1
    assert len(folds_of(np.array([0, 0, 1, 1, 2]), 16)) == 3


@pytest.mark.parametrize("energies", [False, True])
def test_the_preconditioner_without_points_is_that_of_the_others(energies, monkeypatch):
    """(2) of `preconditioner`, by dense matrices of the rows that are left."""
    lam, points, columns = 1e-4, np.array([2, 5, 9]), [[0, 4, 7], [1, 2], [8]]
    training = TrainingSet.from_R(random_molecules(12, 5), GROUPS["three atoms"](5), 4.0, energies)
    q = training.n_coord
    P = preconditioner.build(training, lam, points, columns, 2)
    monkeypatch.setattr(low_rank, "_GRAM_BYTES", 8 * q * 6 * 2)  # in pieces
    left_out = np.array([1, 4, 5, 7, 11])
    U, root = P.rows.U.exact(np.arange(len(P.rows.U.factor))), P.rows.root
    inverse = np.zeros((12 * q, 12 * q))
    for i, block in enumerate(root):
        inverse[i * q : (i + 1) * q, i * q : (i + 1) * q] = np.linalg.inv(block)
    kept = np.setdiff1d(np.arange(12 * q), (left_out[:, None] * q + np.arange(q)).ravel())
    whole = inverse @ (np.eye(12 * q) + U @ U.T) @ inverse.T
    r = np.zeros(12 * q)
    r[kept] = np.random.default_rng(0).normal(size=len(kept))
    expected = np.linalg.solve(whole[np.ix_(kept, kept)], r[kept])
    found = P.without(left_out)(r)[kept]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    A = lam * np.eye(12 * q) - assemble_full(training, n_threads=1)
    assert np.abs(whole - A).max() < np.abs(A).max()  # it is a preconditioner of A
    again = P.without(left_out[:2]).without(left_out[2:])(r)[kept]
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


# ---- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_retrained_models(kind, ethanol):
    task, dataset = KINDS[kind](ethanol)
    groups = np.array([0, 0, 1, 2, 3, 1, 4, 5, 6, 7, 8, 8])
    model = GDMLTrain().train(task, solver="cg", tol=1e-9, n_std=4, std_groups=groups)
    assert model["solver_name"] == "cg"
    whole = GDMLTrain().train(task, solver="closed")
    R = dataset["R"][60:64].reshape(4, -1)
    lattice = task.get("lattice")
    E, F = GDMLPredict(whole).predict(R, lattice=lattice)
    changes_E, changes_F = [], []
    for fold in folds_of(np.unique(groups, return_inverse=True)[1], 4):
        retrained = GDMLPredict(GDMLTrain().train(without(task, fold), solver="closed"))
        R_fold = np.asarray(task["R_train"])[fold]
        F_fold = retrained.predict(R_fold.reshape(len(fold), -1), lattice=lattice)[1].reshape(R_fold.shape)
        residual = np.asarray(task["F_train"])[fold] - F_fold
        np.testing.assert_allclose(model["loo_f"][fold], residual, rtol=0, atol=2e-3 * np.abs(residual).max())
        E_fold, F_fold = retrained.predict(R, lattice=lattice)
        if "alphas_E" not in model:  # the constant is another matter: here it is that of all training points
            E_fold = E_fold - E_fold.mean() + E.mean()
        changes_E.append(E_fold - E)
        changes_F.append(F_fold - F)
    # The jackknife over four groups: (4 - 1) / 4 times the sum of squares.
    *_, E_std, F_std = GDMLPredict(model).predict(R, lattice=lattice, return_std=True)
    squares = 0.75 * (np.array(changes_F).reshape(4, 4, -1, 3) ** 2).sum(axis=0).mean(axis=2)
    np.testing.assert_allclose(F_std, np.sqrt(squares), rtol=2e-2)
    if "alphas_E" in model:
        np.testing.assert_allclose(E_std, np.sqrt(0.75 * (np.array(changes_E) ** 2).sum(axis=0)), rtol=2e-2)
    else:
        assert (E_std > 0).all()


def test_deviations_are_those_of_the_closed_form(ethanol):
    """As large, in the same places, with leave-one-out errors as honest."""
    task = GDMLTrain().create_task(ethanol, 60, ethanol, 20, sig=10, seed=0)
    test = np.setdiff1d(np.arange(len(ethanol["R"])), task["idxs_train"])[:400]
    found = {}
    for solver in ("closed", "cg"):
        model = GDMLTrain().train(task, solver=solver, n_std=8)
        found[solver] = calibration(GDMLPredict(model), ethanol, test, True), np.abs(model["loo_f"]).mean()
    (closed, loo_closed), (cg, loo_cg) = found["closed"], found["cg"]
    assert cg.force_ratio == pytest.approx(closed.force_ratio, rel=0.15)
    assert cg.energy_ratio == pytest.approx(closed.energy_ratio, rel=0.5)
    assert 0.5 < cg.force_ratio < 2.0
    assert cg.rank_correlation > max(0.4, closed.rank_correlation - 0.1)
    assert 1.0 < loo_cg / loo_closed < 1.25  # an eighth of the points is missing, not one


def test_results_do_not_depend_on_threads_and_go_through_files(ethanol, tmp_path):
    task, _ = constrained(ethanol)
    models = [GDMLTrain(max_processes=n).train(task, solver="cg", tol=1e-8, n_std=3) for n in (1, 2)]
    for key in ("std_R_d_desc_alpha", "std_alphas_E", "loo_f"):  # BLAS sums in another order
        np.testing.assert_allclose(models[0][key], models[1][key], rtol=0, atol=1e-3 * np.abs(models[1][key]).max())
    again = GDMLTrain(max_processes=1).train(task, solver="cg", tol=1e-8, n_std=3)
    np.testing.assert_array_equal(again["std_R_d_desc_alpha"], models[0]["std_R_d_desc_alpha"])
    R = ethanol["R"][:3].reshape(3, -1)
    expected = GDMLPredict(again).predict(R, return_std=True)
    save_model(tmp_path / "m.npz", again)
    export_flat(tmp_path / "m.fgdml", again)
    for file in ("m.npz", "m.fgdml"):
        for one, two in zip(expected, GDMLPredict(tmp_path / file).predict(R, return_std=True), strict=True):
            np.testing.assert_array_equal(one, two)


# ---- choice, interruption, errors ----------------------------------------------------------------------------------


def test_auto_takes_the_closed_form_where_it_fits(ethanol, monkeypatch, caplog):
    task, _ = molecule(ethanol)
    monkeypatch.setattr(choice, "_SMALL_ORDER", 10)
    monkeypatch.setattr(choice, "closed_form_seconds", lambda _n, _rates: 1e9)
    assert GDMLTrain().train(task)["solver_name"] == "cg"
    assert GDMLTrain().train(task, n_std=4)["solver_name"] == "analytic"
    monkeypatch.setattr("fastgdml.solvers.processor.Processor.closed_form_memory", lambda *_: 2**50)
    with caplog.at_level(logging.INFO):
        model = GDMLTrain().train(task, n_std=4)
    assert model["solver_name"] == "cg"
    assert len(model["std_c"]) == 4
    assert "4 solutions without a fold took" in caplog.text


def test_progress_and_an_interruption_that_leaves_the_model(ethanol):
    """Ctrl-C among the folds: the solution was handed out, and what goes on from it has only the folds left."""
    task, _ = molecule(ethanol)
    details, saved = [], []

    def stop_in_second_fold(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if "Leaving out 4 folds" in disp_str:
            details.append((current, total, sec_disp_str))
            if sec_disp_str and sec_disp_str.startswith("fold 2, step 3"):
                raise KeyboardInterrupt

    train = GDMLTrain()
    with pytest.raises(KeyboardInterrupt):
        train.train(task, saved.append, stop_in_second_fold, solver="cg", n_std=4)
    assert details[-1][:2] == (1, 4)
    (model,) = saved
    assert model["solver_resid"] <= 1e-4 * model["norm_y_train"]
    assert "std_c" not in model
    finished = train.train(train.create_task_from_model(model, ethanol), solver="cg", n_std=4)
    assert finished["solver_iters"] == model["solver_iters"]
    straight = train.train(task, solver="cg", n_std=4)
    largest = np.abs(straight["loo_f"]).max()
    np.testing.assert_allclose(finished["loo_f"], straight["loo_f"], rtol=0, atol=0.05 * largest)


def test_without_convergence_there_are_none(ethanol, caplog):
    task, _ = molecule(ethanol)
    model = GDMLTrain().train(task, solver="cg", n_std=4, max_iter=5)
    assert "until then there are no standard deviations" in caplog.text
    assert "std_c" not in model
    assert "loo_f" not in model


def test_wrong_options(ethanol):
    task, _ = molecule(ethanol)
    train, held_out = GDMLTrain(), (ethanol["R"][:20], ethanol["F"][:20])
    with pytest.raises(UsageError, match="stops early"):
        train.train(task, solver="cg", n_std=4, held_out=held_out)
    with pytest.raises(UsageError, match="two groups"):
        train.train(task, solver="cg", n_std=4, std_groups=np.zeros(12))


def test_the_command_line(tmp_path, monkeypatch, capsys, ethanol):
    monkeypatch.chdir(tmp_path)
    arguments = ["all", "ethanol", "40", "60", "200", "-s", "20", "--std", "8", "--seed", "1", "--model_file", "m.npz"]
    assert main([*arguments, "--solver", "cg"]) == 0
    text = capsys.readouterr().out
    assert "Leaving out 8 folds of training points" in text
    assert "rank correlation" in text
    model = load_model("m.npz")
    assert model["std_R_d_desc_alpha"].shape == (8, 40, 36)
    assert calibration(GDMLPredict(model), ethanol, model["idxs_valid"], True).force_ratio == pytest.approx(1.0)
    assert main(["all", "ethanol", "20", "30", "-s", "20", "--solver", "cg", "--seed", "1", "--max_iter", "9"]) == 0
    (unconverged,) = tmp_path.glob("ethanol-*.npz")
    assert main(["resume", str(unconverged), "ethanol", "ethanol", "--std", "4", "-o"]) == 0
    assert any("std_c" in load_model(path) for path in tmp_path.glob("*.npz") if path.name != "m.npz")
