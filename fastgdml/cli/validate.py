"""`fastgdml validate`: errors of models on their validation points."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..dataset import Dataset, check_same_system, load_dataset
from ..errors import NoPointsLeftError, UsageError
from ..evaluate import Errors, calibration, prediction_errors
from ..flat import flat_entries
from ..model import Model, is_validated, load_model
from ..npz import is_flat, text
from ..overlap import KnownGeometries, require_drawn_from, seen_points
from ..predict import GDMLPredict
from ..progress import Step
from .console import Console
from .files import files_of, require_update, update_model


def run(args: argparse.Namespace, console: Console) -> None:
    """Validate the models that are not validated yet, or all with -o."""
    console.title("MODEL VALIDATION")
    paths = files_of(args.model_dir, "model")
    if is_flat(paths[0]):
        _validate_flat(paths[0], load_dataset(args.dataset), args, console)
        return
    models = {path: load_model(path) for path in paths}
    to_do = [path for path, model in models.items() if args.overwrite or not is_validated(model)]
    for path in to_do:
        require_update(path)
    dataset = load_dataset(args.dataset)
    for path, model in models.items():
        if path not in to_do:
            console.info(f"'{path.name}' is validated already; -o validates it again.")
            continue
        update_model(path, validate_model(model, dataset, args, console))
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
    check_same_system(model, dataset, "model", "validation dataset")
    require_drawn_from(model, "valid", dataset, "the model")
    idxs = np.asarray(model["idxs_valid"], dtype=np.int64)
    if text(model["md5_train"]) != text(model["md5_valid"]):
        idxs = _without_training_points(model, dataset, idxs, console)
    if len(idxs) == 0:
        raise UsageError("The model has no validation points.")
    if not np.any(dataset["F"][idxs]):
        raise UsageError(
            "All forces of the validation points are zero. Are they a placeholder? Models are chosen by their forces."
        )
    errors = measure_errors(model, dataset, idxs, args, console, "Validation")
    return with_errors({**model, "n_test": 0, "md5_test": b""}, errors)


def _without_training_points(model: Model, dataset: Dataset, idxs: np.ndarray, console: Console) -> np.ndarray:
    known = KnownGeometries.of(model)
    trained = known.find_in(dataset, idxs)[0] if known is not None else idxs[:0]
    if len(trained):
        console.warning(f"{len(trained):,} of the validation points are training points as well: they are left out.")
    return idxs[~np.isin(idxs, trained)]


def _validate_flat(path: Path, dataset: Dataset, args: argparse.Namespace, console: Console) -> None:
    model = flat_entries(path)
    check_same_system(model, dataset, "model", "validation dataset")
    idxs = np.setdiff1d(np.arange(len(dataset["R"])), seen_points(model, dataset))
    if len(idxs) == 0:
        raise NoPointsLeftError("All points of this dataset are training points of the model; validate on another one.")
    console.info(
        f"'{path}' is a flat model file, which records no validation points and no errors: the errors are those on all "
        f"{len(idxs):,} points that the model was not trained on, and are not recorded."
    )
    measure_errors(model, dataset, idxs, args, console, "Validation", path)


def measure_errors(
    model: Mapping[str, Any],
    dataset: Dataset,
    idxs: np.ndarray,
    args: argparse.Namespace,
    console: Console,
    title: str,
    flat_file: Path | None = None,
) -> Errors:
    """Compare predictions with labels under a progress bar, and print mean errors."""
    use_E = bool(model["use_E"])
    if use_E and "E" not in dataset:
        raise UsageError("The model predicts energies but the dataset has none (key 'E'); use another dataset.")
    step = Step(console.progress, f"{title} on {len(idxs):,} points", len(idxs))
    predictor = GDMLPredict(flat_file or model, max_processes=args.max_processes, backend=args.backend)
    errors = prediction_errors(predictor, dataset, idxs, use_E, step)
    energy = f"energy {errors.mae['energy']:.3f}/{errors.rmse['energy']:.3f}, " if use_E else ""
    step.done(f"{energy}forces {errors.mae['force']:.3f}/{errors.rmse['force']:.3f} (MAE/RMSE)")
    return errors


def with_scale(model: Model, dataset: Dataset, args: argparse.Namespace, console: Console) -> Model:
    """Return the model with standard deviations scaled to the errors on its validation points."""
    idxs = np.asarray(model["idxs_valid"], dtype=np.int64)
    if len(idxs) < 2 or not np.any(dataset["F"][idxs]):
        console.warning("There are too few validation points to scale the standard deviations.")
        return model
    step = Step(console.progress, f"Standard deviations on {len(idxs):,} points")
    predictor = GDMLPredict(model, max_processes=args.max_processes, backend=args.backend)
    found = calibration(predictor, dataset, idxs, use_E=False)
    loo = float(np.abs(model["loo_f"]).mean())
    step.done(
        f"scale {found.force_ratio:.2f}, rank correlation {found.rank_correlation:.2f}, leave-one-out MAE {loo:.3f}"
    )
    scale = found.force_ratio if np.isfinite(found.force_ratio) else 1.0
    return cast(Model, {**model, "std_scale": float(model["std_scale"]) * scale})


def with_errors(model: Mapping[str, Any], errors: Errors) -> Model:
    """Return the model with these as its expected errors."""
    updated = cast(Model, {**model, "f_err_mae": errors.mae["force"], "f_err_rmse": errors.rmse["force"]})
    if "energy" in errors.mae:
        updated["e_err_mae"], updated["e_err_rmse"] = errors.mae["energy"], errors.rmse["energy"]
    return updated
