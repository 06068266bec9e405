"""`fastgdml show`, and the property lists that other commands print."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..dataset import load_dataset, resolve_dataset, text
from ..elements import SYMBOLS
from ..errors import FileFormatError
from ..model import is_validated, normalize_model
from ..npz import load_npz
from ..task import check_task
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Print the details of a file."""
    path = resolve_dataset(args.file)
    entries = load_npz(path)
    kind = text(entries.get("type", "d"))
    if kind == "t":
        check_task(entries, str(path))
        task_properties(console, entries)
    elif kind == "m":
        model_properties(console, normalize_model(entries, str(path)))
    elif kind == "d":
        dataset = load_dataset(path)
        dataset_properties(console, dataset)
        _example_geometry(console, dataset)
    else:
        raise FileFormatError(f"{path} is neither a dataset, a task nor a model.")


def units(entries: Mapping[str, Any]) -> tuple[str, str]:
    """Return the units of energy and force for display."""
    if "e_unit" not in entries or "r_unit" not in entries:
        return "unknown unit", "unknown unit"
    e_unit = text(entries["e_unit"])
    return e_unit, f"{e_unit}/{text(entries['r_unit'])}"


def dataset_properties(console: Console, dataset: Mapping[str, Any], title: str = "Dataset properties") -> None:
    """Print what a dataset contains."""
    e_unit, f_unit = units(dataset)
    n_geo, n_atoms = np.shape(dataset["R"])[:2]
    console.heading(title)
    rows = [
        ("Name", text(dataset["name"])),
        ("Theory level", text(dataset["theory"])),
        ("Atoms", str(n_atoms)),
        ("Size", f"{n_geo:,} data points"),
        *_lattice_rows(dataset),
    ]
    if "perms" in dataset:
        rows.append(("Symmetries", f"{len(dataset['perms'])} (contained in the dataset)"))
    console.properties(rows)
    if "E" in dataset:
        _range_properties(console, "Energies", e_unit, dataset["E"])
    else:
        console.properties([("Energies", "n/a")])
    _range_properties(console, "Forces", f_unit, dataset["F"])
    console.properties([("Fingerprint", text(dataset["md5"]))])
    if "provenance" in dataset:
        console.properties([("Provenance", text(dataset["provenance"]))])


def task_properties(console: Console, task: Mapping[str, Any]) -> None:
    """Print what a task asks for."""
    console.heading("Task properties")
    _origin_properties(console, task)
    console.properties(
        [
            *_point_rows(task, "Train on", "train"),
            *_point_rows(task, "Validate on", "valid"),
            ("Energies", _energy_text(bool(task["use_E"]), bool(task["use_E_cstr"]))),
        ]
    )


def model_properties(console: Console, model: Mapping[str, Any]) -> None:
    """Print what a model was trained on and how well it does."""
    console.heading("Model properties")
    _origin_properties(console, model)
    console.properties([("Solver", text(model["solver_name"]))])
    if "solver_tol" in model and "norm_y_train" in model and "solver_resid" in model:
        target = float(model["solver_tol"]) * float(model["norm_y_train"])
        converged = float(model["solver_resid"]) <= target
        rows = [
            (
                "Residual",
                f"{float(model['solver_resid']):.1e} (target {target:.1e})" + ("" if converged else ", NOT CONVERGED"),
            )
        ]
        if "solver_iters" in model:
            rows.append(("Iterations", f"{int(model['solver_iters']):,}"))
        console.properties(rows, indent=4)
    n_test = int(model["n_test"])
    console.properties(
        [
            *_point_rows(model, "Trained on", "train"),
            *_point_rows(model, "Validated on" if is_validated(model) else "Validate on (pending)", "valid"),
            ("Tested on", f"{n_test:,} points from '{text(model['md5_test'])}'" if n_test else "[pending]"),
            ("Energies", _energy_text(bool(model["use_E"]), "alphas_E" in model)),
        ]
    )
    if is_validated(model):
        e_unit, f_unit = units(model)
        console.properties([("Expected errors", "MAE / RMSE")])
        rows = []
        if model["use_E"] and "e_err_mae" in model:
            rows.append(("Energy", f"{float(model['e_err_mae']):.4f} / {float(model['e_err_rmse']):.4f} {e_unit}"))
        rows.append(("Forces", f"{float(model['f_err_mae']):.4f} / {float(model['f_err_rmse']):.4f} {f_unit}"))
        console.properties(rows, indent=4)


def _origin_properties(console: Console, entries: Mapping[str, Any]) -> None:
    """Print what tasks and models have in common."""
    rows = [
        ("Dataset", text(entries["dataset_name"])),
        ("Theory level", text(entries["dataset_theory"])),
        ("Atoms", str(len(entries["z"]))),
        *_lattice_rows(entries),
        ("Symmetries", str(len(entries["perms"]))),
        ("Sigma", f"{float(entries['sig']):g} (length scale)"),
        ("Lambda", f"{float(entries['lam']):.0e} (regularisation)"),
    ]
    if "seed" in entries:
        rows.append(("Seed", str(int(entries["seed"]))))
    rows.append(("Made with", text(entries.get("code_version", "unknown"))))
    console.properties(rows)


def _point_rows(entries: Mapping[str, Any], label: str, which: str) -> list[tuple[str, str]]:
    n_points = len(entries[f"idxs_{which}"])
    return [(label, f"{n_points:,} points from '{text(entries[f'md5_{which}'])}'")]


def _energy_text(use_E: bool, use_E_cstr: bool) -> str:
    if not use_E:
        return "not used"
    return "pointwise constraints" if use_E_cstr else "global integration constant"


def _lattice_rows(entries: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "lattice" not in entries:
        return []
    vectors = np.asarray(entries["lattice"]).T
    return [
        (f"Lattice vector {name}", " ".join(f"{component:10.5f}" for component in vector))
        for name, vector in zip("abc", vectors, strict=True)
    ]


def _range_properties(console: Console, title: str, unit: str, values: np.ndarray) -> None:
    low, high = float(np.min(values)), float(np.max(values))
    console.text(f"  {title} [{unit}]")
    console.properties(
        [
            ("Range", f"{low:.3f} |-- {high - low:.3f} --| {high:.3f}"),
            ("Mean", f"{float(np.mean(values)):.3f}"),
            ("Variance", f"{float(np.var(values)):.3f}"),
        ],
        indent=4,
    )


def _example_geometry(console: Console, dataset: Mapping[str, Any]) -> None:
    """Print the first geometry in XYZ format, to paste into a viewer."""
    console.text()
    console.heading("First geometry (XYZ format, to paste into a viewer)")
    r = np.asarray(dataset["R"])[0]
    comment = f"Energy={float(np.asarray(dataset['E']).ravel()[0]):.8f}" if "E" in dataset else ""
    lines = [str(len(r)), comment]
    lines += [
        f"{SYMBOLS[int(z)]:<2} " + " ".join(f"{c:14.8f}" for c in atom) for z, atom in zip(dataset["z"], r, strict=True)
    ]
    console.text("\n".join(lines))
