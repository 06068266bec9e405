"""`fastgdml select`: the model with the lowest validation error."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..dataset import same_fingerprint
from ..errors import FileFormatError, UsageError
from ..model import is_validated, load_model, save_model
from ..npz import MODEL, path_type
from ..task import final_model_file_name
from ..units import Units, conversion
from .console import Console
from .create import remove_search
from .files import files_of, require_free


def run(args: argparse.Namespace, console: Console) -> None:
    """Select and say what comes next."""
    console.title("MODEL SELECTION")
    if path_type(args.model_dir) == "file":
        raise UsageError(f"{args.model_dir} is one model; give the directory with the models to select from.")
    model_file = select_model(args, files_of(args.model_dir, "model"), console)
    console.title("NEXT STEP", f"fastgdml test {model_file} <test_dataset> [<n_test>]")


def final_model_file(args: argparse.Namespace, task_or_model: Mapping[str, Any]) -> Path:
    """Return the file for the final model: what --model_file names, with its suffix, or sgdml's name for it."""
    if args.model_file is None:
        return Path(final_model_file_name(task_or_model))
    if Path(args.model_file).name in ("", "..") or path_type(args.model_file) == "directory":
        raise UsageError(f"--model_file must name a file; '{args.model_file}' is none.")
    return Path(args.model_file if args.model_file.endswith(".npz") else args.model_file + ".npz")


def select_model(args: argparse.Namespace, paths: list[Path], console: Console) -> Path:
    """Write the best of the models to its final file, then delete the directory of the search."""
    if not paths:
        raise UsageError("There are no trained models to select from: every task was skipped. Try without --lazy.")
    models = [load_model(path) for path in paths]
    best = models[0]
    if len(models) > 1:
        _require_comparable(paths, models)
        best = min(models, key=lambda model: float(model["f_err_rmse"]))
        _print_table(console, models, best)
    target = final_model_file(args, best)
    directory = paths[0].parent
    require_place(target, directory, args.overwrite)
    save_model(target, best)
    console.done(f"Wrote model file '{target}'")
    try:
        remove_search(directory)
    except FileFormatError as error:
        console.warning(f"The search is not deleted. {error}")
        return target
    if directory.exists():
        console.info(f"'{directory}' holds other files and is kept.")
    return target


def require_place(target: Path, search: Path, overwrite: bool) -> None:
    """Raise if the final model cannot be written, may not overwrite what is there, or would lie in its search."""
    if target.resolve().parent == search.resolve():
        raise UsageError(
            f"The final model '{target}' would lie in the directory of the search, '{search}', whose models "
            "are deleted once one is selected. Name a file elsewhere with --model_file, or run in another directory."
        )
    require_free(target, MODEL, overwrite, "--model_file")


def _require_comparable(paths: list[Path], models: Sequence[Mapping[str, Any]]) -> None:
    first = models[0]
    for path, model in zip(paths, models, strict=True):
        if not is_validated(model):
            raise UsageError(f"{path} is not validated yet: run 'fastgdml validate {path.parent} <valid_dataset>'.")
        if int(model["n_test"]) > 0:
            raise UsageError(
                f"{path} has been tested, so its recorded errors are test errors. Selecting by them would spoil the "
                "test: validate again with 'fastgdml validate -o' first."
            )
        for which in ("train", "valid"):
            same_points = np.array_equal(np.sort(model[f"idxs_{which}"]), np.sort(first[f"idxs_{which}"]))
            if not (same_points and same_fingerprint(model[f"md5_{which}"], first[f"md5_{which}"])):
                raise UsageError(f"{path} and {paths[0]} were trained or validated on different points.")
        if conversion(Units.of(model), Units.of(first), f"model {path}", f"model {paths[0]}"):
            raise UsageError(
                f"{path} and {paths[0]} were trained on the same points but record different units: "
                f"{Units.of(model)}, {Units.of(first)}. Their errors cannot be compared; correct e_unit and r_unit."
            )


def _print_table(console: Console, models: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> None:
    table = Table(title="Validation errors", title_justify="left")
    for column in ("sigma", "energy MAE", "energy RMSE", "force MAE", "force RMSE", ""):
        table.add_column(column, justify="right")
    for model in models:
        keys = ("e_err_mae", "e_err_rmse", "f_err_mae", "f_err_rmse")
        cells = [f"{float(model[key]):.4f}" if key in model else "-" for key in keys]
        chosen = model is best
        table.add_row(
            f"{float(model['sig']):g}", *cells, "<- best" if chosen else "", style="bold" if chosen else "dim"
        )
    console.text()
    console.table(table)
    sigs = [float(model["sig"]) for model in models]
    if float(best["sig"]) in (sigs[0], sigs[-1]):
        side = "smaller" if float(best["sig"]) == sigs[0] else "larger"
        console.warning(
            f"The best sigma, {float(best['sig']):g}, is at the edge of the search: {side} ones may do better."
        )
