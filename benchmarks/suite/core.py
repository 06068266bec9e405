"""Time, peak memory and results of the steps of training and prediction on the embedded ethanol dataset."""

from __future__ import annotations

import numpy as np

from fastgdml.dataset import load_dataset
from fastgdml.descriptor import from_R
from fastgdml.kernel import assemble_packed
from fastgdml.permutations import find_perms
from fastgdml.predict import GDMLPredict
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet


class Training:
    """Steps of a closed-form training."""

    params = ([100, 300],)
    param_names = ("n_train",)

    def setup(self, n_train):
        self.dataset = load_dataset("ethanol")
        self.task = GDMLTrain().create_task(self.dataset, n_train, self.dataset, 10, 20, seed=0)
        self.R = self.task["R_train"]
        self.training = TrainingSet.from_R(self.R, self.task["perms"], 20.0)
        self.rows = drop_rigid_motions(self.R).rows

    def time_descriptors(self, n_train):
        from_R(self.R)

    def time_permutation_search(self, n_train):
        find_perms(self.R, self.task["z"])

    def time_assembly(self, n_train):
        assemble_packed(self.training, self.rows)

    def time_training(self, n_train):
        GDMLTrain().train(self.task)

    def peakmem_training(self, n_train):
        GDMLTrain().train(self.task)


class Prediction:
    """Prediction of one geometry and of many."""

    params = ([100, 300], [1, 1000])
    param_names = ("n_train", "n_geo")

    def setup(self, n_train, n_geo):
        dataset = load_dataset("ethanol")
        task = GDMLTrain().create_task(dataset, n_train, dataset, 10, 20, seed=0)
        self.predictor = GDMLPredict(GDMLTrain().train(task))
        self.R = dataset["R"][:n_geo].reshape(n_geo, -1)

    def time_predict(self, n_train, n_geo):
        self.predictor.predict(self.R)

    def track_force_checksum(self, n_train, n_geo):
        return float(np.abs(self.predictor.predict(self.R)[1]).sum())
