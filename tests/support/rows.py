"""Trainings by rows beside those of the serial solver."""

import numpy as np

from fastgdml.dataset import load_dataset
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

SERIAL = GDMLTrain(max_processes=1)


def task_of(dataset, n_train=100, **options):
    return SERIAL.create_task(dataset, n_train, dataset, 40, sig=20, seed=3, **options)


def assert_same(one, other, tol=3e-4, steps=2):
    """The same solution to the tolerance, after the same number of steps within rounding."""
    assert abs(one["solver_iters"] - other["solver_iters"]) <= steps
    a, b = one["R_d_desc_alpha"], other["R_d_desc_alpha"]
    assert np.abs(a - b).max() <= tol * np.abs(a).max()
    assert np.array_equal(one["inducing_pts_idxs"], other["inducing_pts_idxs"])
    R = load_dataset("ethanol")["R"][:50].reshape(50, -1)
    (E, F), (E_other, F_other) = (GDMLPredict(model).predict(R) for model in (one, other))
    assert np.abs(F - F_other).max() <= 10 * tol * np.abs(F).max()
    assert np.abs(E - E_other).max() <= 10 * tol * np.ptp(E)
