"""`fastgdml validate`: errors of models on their validation points."""

from __future__ import annotations

import argparse

import numpy as np

from ..dataset import Dataset, check_same_system, load_dataset, same_fingerprint
from ..errors import UsageError
from ..evaluate import Errors, prediction_errors
from ..model import Model, is_validated, load_model, save_model
from ..predict import GDMLPredict
from ..progress import Step
from .console import Console
from .files import files_of


def run(args: argparse.Namespace, console: Console) -> None:
    """Validate the models that are not validated yet, or all with -o."""
    console.title("MODEL VALIDATION")
    paths = files_of(args.model_dir, "model")
    dataset = load_dataset(args.dataset)
    for path in paths:
        model = load_model(path)
        if is_validated(model) and not args.overwrite:
            console.info(f"'{path.name}' is validated already; -o validates it again.")
            continue
        save_model(path, validate_model(model, dataset, args, console))
    if len(paths) > 1:
        console.title("NEXT STEP", f"fastgdml select {args.model_dir}")
    else:
        console.title("NEXT STEP", f"fastgdml test {paths[0]} <test_dataset> [<n_test>]")


def validate_model(model: Model, dataset: Dataset, args: argparse.Namespace, console: Console) -> Model:
    """Return the model with the errors on its validation points, which become its expected errors.

    Raises
    ------
    UsageError
        If the dataset is not the one that the validation points were drawn from.
    """
    if not same_fingerprint(dataset["md5"], model["md5_valid"]):
        raise UsageError("The fingerprint of the validation dataset is not the one recorded in the model.")
    check_same_system(model, dataset, "model", "validation dataset")
    idxs = np.asarray(model["idxs_valid"], dtype=np.int64)
    errors = measure_errors(model, dataset, idxs, args, console, "Validation")
    return with_errors({**model, "n_test": 0, "md5_test": b""}, errors)


def measure_errors(
    model: Model, dataset: Dataset, idxs: np.ndarray, args: argparse.Namespace, console: Console, title: str
) -> Errors:
    """Compare predictions with labels under a progress bar, and print mean errors."""
    use_E = bool(model["use_E"])
    if use_E and "E" not in dataset:
        raise UsageError("The model predicts energies but the dataset has none (key 'E'); use another dataset.")
    step = Step(console.progress, f"{title} on {len(idxs):,} points", len(idxs))
    predictor = GDMLPredict(model, max_processes=args.max_processes, backend=args.backend)
    errors = prediction_errors(predictor, dataset, idxs, use_E, step)
    energy = f"energy {errors.mae['energy']:.3f}/{errors.rmse['energy']:.3f}, " if use_E else ""
    step.done(f"{energy}forces {errors.mae['force']:.3f}/{errors.rmse['force']:.3f} (MAE/RMSE)")
    return errors


def with_errors(model: Model, errors: Errors) -> Model:
    """Return the model with these as its expected errors."""
    updated: Model = {**model, "f_err_mae": errors.mae["force"], "f_err_rmse": errors.rmse["force"]}
    if "energy" in errors.mae:
        updated["e_err_mae"], updated["e_err_rmse"] = errors.mae["energy"], errors.rmse["energy"]
    return updated
