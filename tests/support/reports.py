"""Facts of small models to report on: 9, 21 and 54 atoms."""

import dataclasses

import numpy as np

from fastgdml.dataset import load_dataset, part_of
from fastgdml.learning_curve import CurvePoint
from fastgdml.model import save_model
from fastgdml.report import Sources, gather
from fastgdml.train import GDMLTrain
from support.paths import shared_file

# Dataset, number of training points, sigma.
SYSTEMS = {
    9: ("ethanol", 50, 20),
    21: ("data/xtb_aspirin.npz", 30, 40),
    54: ("data/methanol_Cu100_train.npz", 20, 60),
}
CURVE = [
    CurvePoint(n, 500, 6, 20.0, 8 / n**0.5, 12 / n**0.5, 2 / n**0.5, 3 / n**0.5, n / 50, "kcal/mol", "Ang")
    for n in (25, 50, 100, 200, 220, 400)
]


def dataset_of(n_atoms):
    name = SYSTEMS[n_atoms][0]
    dataset = load_dataset(name if name == "ethanol" else shared_file(name))
    named = {key: dataset[key] for key in ("name", "theory")}
    return {**part_of(dataset, np.arange(0, len(dataset["R"]), len(dataset["R"]) // 400)), **named, "md5": b"a" * 32}


def facts_of(n_atoms, folder):
    """The facts of a model of so many atoms, with all that a report can have; its file is in the folder."""
    _, n_train, sig = SYSTEMS[n_atoms]
    dataset = dataset_of(n_atoms)
    trainer = GDMLTrain(max_processes=1)
    task = trainer.create_task(dataset, n_train, dataset, 10, sig=sig, seed=0)
    model = trainer.train(task, solver="closed")
    model["search_errors"] = np.array(
        [[10, 2.0, 3.0, 0.5, 0.7], [20, 1.5, 2.5, np.nan, np.nan], [30, 1.8, 2.7, 0.4, 0.6]]
    )
    path = folder / f"{n_atoms}.npz"
    save_model(path, model)
    facts = gather(path, Sources(dataset=dataset, n_test=200, learning_curve=CURVE), max_processes=1)
    return dataclasses.replace(facts, made="2026-01-02 03:04 UTC")
