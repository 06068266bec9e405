"""Figure about choices: error of forces of ethanol by the number of training points, and by sigma."""

import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from fastgdml.dataset import load_dataset
from fastgdml.learning_curve import CurveOptions, learning_curve
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

dataset = load_dataset("ethanol")
curve = learning_curve(dataset, [25, 50, 100, 200], CurveOptions(sigs=[10, 20], n_valid=200, n_test=500, seed=1))

train = GDMLTrain()
sigmas, errors = [1, 2, 5, 10, 20, 50, 100, 200], []
for sig in sigmas:
    task = train.create_task(dataset, 100, dataset, 300, sig=sig, seed=1)
    predictor = GDMLPredict(train.train(task, solver="closed"))
    valid = task["idxs_valid"]
    _, F = predictor.predict(dataset["R"][valid].reshape(len(valid), -1))
    errors.append(np.abs(F - dataset["F"][valid].reshape(len(valid), -1)).mean())

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
sizes = [point.n_train for point in curve]
left.loglog(sizes, [point.f_mae for point in curve], "o-", color="#1f5fa8")
left.set(xlabel="training points", title="by the number of points")
left.set_xticks(sizes, sizes, minor=False)
left.set_xticks([], minor=True)
right.loglog(sigmas, errors, "o-", color="#1f5fa8", mfc="white")
best = int(np.argmin(errors))
right.loglog(sigmas[best], errors[best], "o", color="#c0392b")
right.set(xlabel="sigma", title="by sigma, 100 points")
right.set_xticks(sigmas, sigmas, minor=False)
right.set_xticks([], minor=True)
for axes in (left, right):
    axes.set_ylabel("MAE of forces, kcal/mol/Angstrom")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.title.set_size(10)
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(sys.argv[1])
