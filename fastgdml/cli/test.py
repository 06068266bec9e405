"""`fastgdml test`: errors of models on points they have not seen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import Dataset, check_same_system, load_dataset
from ..diagnostics import check_energy_deviations
from ..errors import FileFormatError
from ..evaluate import Calibration, Errors, calibration, draw_test_points, measure_errors, with_errors
from ..exchange import require_update, update_model
from ..flat import flat_entries
from ..model import is_validated, load_model
from ..npz import is_flat, text
from ..predict import GDMLPredict
from ..properties import Outcome, Properties
from ..sampling import new_seed
from ..search import Trainer
from ..task_folder import files_of
from ..uncertainty import leave_one_out_errors
from ..units import Units
from .console import Console
from .show import flat_properties, model_properties, units


def run(args: argparse.Namespace, console: Console) -> None:
    """Test models."""
    console.title("MODEL TEST")
    paths = files_of(args.model_dir, "model")
    dataset = load_dataset(args.dataset)
    for path in paths:
        if len(paths) > 1:
            console.text()
            console.heading(path.name)
        else:
            if is_flat(path):
                flat_properties(console, flat_entries(path))
            else:
                model_properties(console, load_model(path))
            console.text()
        trainer = Trainer(max_processes=args.max_processes, backend=args.backend)
        test_model(path, dataset, args.n_test, trainer, console, args.seed, args.overwrite, args.std)


def test_model(
    path: Path,
    dataset: Dataset,
    n_test: int | None,
    trainer: Trainer,
    console: Console,
    seed: int | None,
    overwrite: bool,
    std: bool,
) -> Errors:
    """Test one model, print its errors, and record them in its file if no larger test is recorded there.

    With `std` its standard deviations are compared with the errors.
    """
    flat = is_flat(path)
    model = flat_entries(path) if flat else load_model(path)
    unrecorded = "a flat model file holds none" if flat else _why_not_recorded(path)
    check_same_system(model, dataset, "model", "test dataset")
    if seed is None:
        seed = Properties.of(model).seed
    idxs = draw_test_points(model, dataset, n_test, new_seed() if seed is None else seed)
    if n_test is not None and len(idxs) < n_test:
        console.warning(f"Only {len(idxs):,} unused points are left in the dataset; testing on those.")
    if not np.any(dataset["F"][idxs]):
        console.warning("All forces of the test points are zero (a placeholder?): the errors of forces say nothing.")
        unrecorded = unrecorded or "the forces are all zero"
    predictor = GDMLPredict(path if flat else model, max_processes=trainer.max_processes, backend=trainer.backend)
    errors = measure_errors(predictor, dataset, idxs, Properties.of(model).use_E, "Testing", console.progress)
    _print_errors(console, model, dataset, errors)
    if std:
        found = calibration(predictor, dataset, idxs, Properties.of(model).use_E)
        _print_calibration(console, found, model, dataset)
    if "energy" in errors.mae:
        deviations = (errors.mean["energy"], errors.mae["energy"], errors.rmse["energy"])
        for finding in check_energy_deviations(*deviations, len(idxs)):
            console.warning(str(finding))

    n_before = Outcome.of(model).n_test
    console.result(
        {
            "event": "model_tested",
            "path": str(path),
            "n_test": len(idxs),
            "mae": errors.mae,
            "rmse": errors.rmse,
            "mean": errors.mean,
            "e_unit": Units.of(model).energy,
            "r_unit": Units.of(model).length,
            "recorded": not unrecorded and (overwrite or n_before < len(idxs)),
        }
    )
    if unrecorded:
        console.info(f"The errors are not recorded in '{path}': {unrecorded}.")
    elif overwrite or n_before < len(idxs):
        update_model(
            path, {**with_errors(model, errors), "n_test": len(idxs), "md5_test": text(dataset["md5"]).encode()}
        )
        console.info(f"The expected errors in '{path}' are now those of this test.")
    else:
        console.warning(
            f"The model was tested before on {n_before:,} points: the errors of this test on {len(idxs):,} are not "
            "recorded in its file. Give -o to record them."
        )
    return errors


def _why_not_recorded(path: Path) -> str:
    """Return why the errors of a test cannot be written to the file of the model; empty if they can."""
    try:
        require_update(path)
    except FileFormatError as error:
        return str(error).rstrip(".")
    return ""


def _print_calibration(console: Console, found: Calibration, model: Mapping[str, Any], dataset: Dataset) -> None:
    _, f_unit = units({**dataset, **model})
    console.heading("Standard deviations (1 is right, above 1 they are too small)")
    rows = [("Forces", f"error / deviation {found.force_ratio:.2f}")]
    if found.energy_ratio is not None:
        rows.append(("Energy", f"error / deviation {found.energy_ratio:.2f}"))
    rows.append(("Ranks", f"correlation {found.rank_correlation:.2f} of errors and deviations of geometries"))
    left_out = leave_one_out_errors(model)
    if left_out is not None:
        text_of_errors = f"{left_out[0]:.4f} / {left_out[1]:.4f} {f_unit}"
        rows.append(("Leave-one-out", f"{text_of_errors} (MAE / RMSE of the training points)"))
    rows += [
        (f"Part {i + 1} of {len(found.bins)}", f"deviation {deviation:.4f}, error {error:.4f} {f_unit}")
        for i, (deviation, error) in enumerate(found.bins)
    ]
    console.properties(rows)
    console.text()


def _print_errors(console: Console, model: Mapping[str, Any], dataset: Dataset, errors: Errors) -> None:
    e_unit, f_unit = units({**dataset, **model})
    before, rows = Outcome.of(model).rmse, []
    for name, label, unit in (
        ("energy", "Energy", e_unit),
        ("force", "Forces", f_unit),
        ("magnitude", "  Magnitude", f_unit),
        ("angle", "  Angle", "of pi"),
    ):
        if name not in errors.mae:
            continue
        line = f"{errors.mae[name]:.4f} / {errors.rmse[name]:.4f} {unit}"
        expected = before.get(name, 0.0)
        if is_validated(model) and expected > 0:
            change = 100 * (errors.rmse[name] / expected - 1)
            line += f"   (RMSE {change:+.1f}% relative to expected)"
        rows.append((label, line))
    console.text()
    console.heading("Test errors (MAE / RMSE)")
    console.properties(rows)
    console.text()
