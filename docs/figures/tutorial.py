"""Figure of the tutorial: predicted against reference energies of ethanol, and the turn of its hydroxyl group."""

import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from fastgdml.dataset import load_dataset
from fastgdml.drivers.ase import FastGDMLCalculator
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

dataset = load_dataset("ethanol")
train = GDMLTrain()
predictor = GDMLPredict(train.train(train.create_task(dataset, 200, dataset, 10, sig=20, seed=1)))

E, _ = predictor.predict(dataset["R"].reshape(len(dataset["R"]), -1))
lowest = dataset["E"].min()

atoms = Atoms(dataset["z"], dataset["R"][dataset["E"].argmin()])
atoms.calc = FastGDMLCalculator(predictor)
BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
oxygen = int(np.flatnonzero(dataset["z"] == 8)[0])
distances = atoms.get_all_distances()
hydrogen = min(np.flatnonzero(dataset["z"] == 1), key=lambda a: distances[oxygen, a])
near, far = sorted(np.flatnonzero(dataset["z"] == 6), key=lambda a: distances[oxygen, a])
angles = np.arange(0, 361, 5)
turned = []
for angle in angles:
    atoms.set_dihedral(far, near, oxygen, hydrogen, angle, indices=[hydrogen])
    turned.append(atoms.get_positions().ravel())
E_turned, _ = predictor.predict(np.array(turned))

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
left.plot([0, 31], [0, 31], color="0.7", lw=1)
left.plot(dataset["E"] - lowest, E - lowest, ".", ms=3, color="#1f5fa8", rasterized=True)
left.set(xlabel="GFN2-xTB, kcal/mol", ylabel="model, kcal/mol", title="2000 energies, 200 of them known to the model")
right.plot(angles, E_turned - E_turned.min(), color="#c0392b")
right.set(
    xlabel="C-C-O-H, degrees", ylabel="energy, kcal/mol", xticks=range(0, 361, 60), title="turn of the hydroxyl group"
)
for axes in (left, right):
    axes.title.set_size(10)
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(sys.argv[1])
