"""Print the accuracy that sgdml 1.0.3 reaches on a task, for tests/method/test_train.py.

    peer/bin/python tools/peer_accuracy.py DATA_DIR      (an interpreter with sgdml and torch)

MD17 ethanol, 200 training and 1000 validation points drawn with seed 0, sigma 20, symmetries searched by sgdml.
"""

import sys

import numpy as np

if not hasattr(np, "in1d"):
    np.in1d = np.isin  # noqa: NPY201 (sgdml 1.0.3 on NumPy >= 2.4)

from sgdml.predict import GDMLPredict
from sgdml.train import GDMLTrain


def main(folder):
    with np.load(f"{folder}/md17_ethanol.npz") as data:
        dataset = {
            "name": np.array("ethanol"),
            "theory": np.array("x"),
            "z": data["z"],
            "R": data["R"],
            "E": data["E"],
            "F": data["F"],
        }
    np.random.seed(0)  # noqa: NPY002 (what sgdml uses)
    train = GDMLTrain()
    task = train.create_task(dataset, 200, dataset, 1000, 20)
    model = train.train(task)
    idxs = task["idxs_valid"]
    E, F = GDMLPredict(model).predict(dataset["R"][idxs].reshape(len(idxs), -1))
    print("permutations", len(task["perms"]), "training points", task["idxs_train"][:5])
    print("force MAE", np.abs(F - dataset["F"][idxs].reshape(F.shape)).mean())
    print("energy MAE", np.abs(E - dataset["E"][idxs]).mean())


if __name__ == "__main__":
    main(sys.argv[1])
