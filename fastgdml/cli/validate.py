"""`fastgdml validate`: errors of models on their validation points."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..dataset import Dataset, check_same_system, load_dataset, part_of
from ..errors import NoPointsLeftError
from ..evaluate import Errors, measure_errors, validation_points
from ..exchange import require_update, update_model
from ..flat import flat_entries
from ..model import is_validated, load_model
from ..npz import is_flat
from ..overlap import seen_points
from ..predict import GDMLPredict
from ..properties import Outcome, Properties
from ..search import Trainer
from ..task_folder import files_of
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Validate the models that are not validated yet, or all with -o."""
    console.title("MODEL VALIDATION")
    paths = files_of(args.model_dir, "model")
    if is_flat(paths[0]):
        predictor = GDMLPredict(paths[0], max_processes=args.max_processes, backend=args.backend)
        _validate_flat(paths[0], predictor, load_dataset(args.dataset), console)
        return
    models = {path: load_model(path) for path in paths}
    to_do = [path for path, model in models.items() if args.overwrite or not is_validated(model)]
    for path in to_do:
        require_update(path)
    dataset = load_dataset(args.dataset)
    trainer = Trainer(max_processes=args.max_processes, backend=args.backend)
    for path, model in models.items():
        if path not in to_do:
            console.info(f"'{path.name}' is validated already; -o validates it again.")
            continue
        check_same_system(model, dataset, "model", "validation dataset")
        points = part_of(dataset, validation_points(model, dataset))
        validated = trainer.validate(model, points, console.progress)
        update_model(path, validated)
        outcome = Outcome.of(validated)
        _result(path, len(points["R"]), Errors(outcome.mae, outcome.rmse), console)
    if len(paths) > 1:
        console.title("NEXT STEP", f"fastgdml select {args.model_dir}")
    else:
        console.title("NEXT STEP", f"fastgdml test {paths[0]} <test_dataset> [<n_test>]")


def _validate_flat(path: Path, predictor: GDMLPredict, dataset: Dataset, console: Console) -> None:
    model = flat_entries(path)
    check_same_system(model, dataset, "model", "validation dataset")
    idxs = np.setdiff1d(np.arange(len(dataset["R"])), seen_points(model, dataset))
    if len(idxs) == 0:
        raise NoPointsLeftError("All points of this dataset are training points of the model; validate on another one.")
    console.info(
        f"'{path}' is a flat model file, which records no validation points and no errors: the errors are those on all "
        f"{len(idxs):,} points that the model was not trained on, and are not recorded."
    )
    errors = measure_errors(predictor, dataset, idxs, Properties.of(model).use_E, "Validation", console.progress)
    _result(path, len(idxs), errors, console)


def _result(path: Path, n_valid: int, errors: Errors, console: Console) -> None:
    values = {"path": str(path), "n_valid": n_valid, "mae": errors.mae, "rmse": errors.rmse}
    console.result({"event": "model_validated", **values})
