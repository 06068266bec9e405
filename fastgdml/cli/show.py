"""`fastgdml show`, and the property lists that other commands print."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..cell import Cell, image_rule_of
from ..dataset import lattice_of, load_dataset, resolve_dataset
from ..elements import SYMBOLS
from ..errors import FileFormatError
from ..flat import flat_entries
from ..model import is_validated, load_model
from ..npz import is_flat, load_npz, text
from ..task import load_task
from ..units import Units
from .console import Console

_SOLVERS = {"analytic": " (closed form)", "cg": " (conjugate gradients)"}
_IMAGE_RULES = {"minimum": "nearest image", "rounding": "rounding, as sgdml"}
_RULES_AGREE = " (nearest image and rounding agree in this cell)"


def run(args: argparse.Namespace, console: Console) -> None:
    """Print the details of a file."""
    path = resolve_dataset(args.file)
    if is_flat(path):
        flat_properties(console, flat_entries(path))
        return
    kind = text(load_npz(path, {"type"}).get("type", "d"))
    if kind == "t":
        task_properties(console, load_task(path))
    elif kind == "m":
        model_properties(console, load_model(path))
    elif kind == "d":
        dataset = load_dataset(path)
        dataset_properties(console, dataset)
        _example_geometry(console, dataset)
    else:
        raise FileFormatError(f"{path} is neither a dataset, a task nor a model.")


def units(entries: Mapping[str, Any]) -> tuple[str, str]:
    """Return the units of energy and force for display."""
    recorded = Units.of(entries)
    return (recorded.energy, recorded.force) if recorded.force else ("unknown unit", "unknown unit")


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
    ]
    if "perms" in dataset:
        rows.append(("Symmetries", f"{len(dataset['perms'])} (contained in the dataset)"))
    console.properties(rows)
    _lattice_properties(console, dataset)
    if "E" in dataset:
        _range_properties(console, "Energies", e_unit, dataset["E"])
    else:
        console.properties([("Energies", "n/a")])
    _range_properties(console, "Forces", f_unit, dataset["F"])
    aliases = [text(md5) for md5 in np.ravel(dataset.get("md5_aliases", ())).tolist()]
    console.properties([("Fingerprint", " or ".join([text(dataset["md5"]), *aliases]))])
    if "provenance" in dataset:
        console.properties([("Provenance", text(dataset["provenance"]))])


def flat_properties(console: Console, model: Mapping[str, Any]) -> None:
    """Print what a flat model file holds."""
    console.heading("Model properties (flat file: what prediction needs)")
    console.text("  Dataset")
    console.properties(
        [
            ("Name", text(model["dataset_name"])),
            ("Theory level", text(model["dataset_theory"])),
            ("Atoms", str(len(model["z"]))),
        ],
        indent=4,
    )
    if "lattice" in model and np.ndim(model["lattice"]) == 3:
        rows = [("Lattice", "that of each geometry"), ("Image rule", _IMAGE_RULES[image_rule_of(model)])]
        console.properties(rows, indent=4)
    else:
        _lattice_properties(console, {**model, "type": "m"}, indent=4)
    console.properties([("Units", "energy {}, force {}".format(*units(model)))], indent=4)
    energies = _energy_text(True, "alphas_E" in model) if model["use_E"] else "up to a constant"
    console.properties(
        [
            ("Trained on", f"{len(model['R_d_desc_alpha']):,} points"),
            ("Symmetries", str(model["n_perms"])),
            ("Length scale", f"{model['sig']:g}"),
            ("Energies", energies),
        ]
    )


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
    console.text("  Solver")
    solver = text(model["solver_name"])
    rows = [("Type", f"{solver}{_SOLVERS.get(solver, '')}")]
    if "solver_tol" in model and "norm_y_train" in model and "solver_resid" in model:
        target = float(model["solver_tol"]) * float(model["norm_y_train"])
        converged = float(model["solver_resid"]) <= target
        state = "" if converged else ", NOT CONVERGED"
        rows.append(("Tolerance", f"{float(model['solver_tol']):.1e}"))
        rows.append(("Residual", f"{float(model['solver_resid']):.1e} (target {target:.1e}){state}"))
    if "solver_reason" in model:
        rows.append(("Chosen for", text(model["solver_reason"])))
    if "solver_iters" in model:
        rows.append(("Iterations", f"{int(model['solver_iters']):,}"))
    console.properties(rows, indent=4)
    n_test = int(model["n_test"])
    validated = is_validated(model)
    console.properties(
        [
            *_point_rows(model, "Trained on", "train"),
            ("Energies", _energy_text(bool(model["use_E"]), "alphas_E" in model)),
            *_point_rows(model, "Validated on", "valid", "" if validated else "[pending] "),
            ("Tested on", f"{n_test:,} points from '{text(model['md5_test'])}'" if n_test else "[pending]"),
        ]
    )
    if validated:
        e_unit, f_unit = units(model)
        console.text(f"  Expected errors, from the {'test' if n_test else 'validation'} (MAE / RMSE)")
        rows = []
        if model["use_E"] and "e_err_mae" in model:
            rows.append(("Energy", f"{float(model['e_err_mae']):.4f} / {float(model['e_err_rmse']):.4f} {e_unit}"))
        rows.append(("Forces", f"{float(model['f_err_mae']):.4f} / {float(model['f_err_rmse']):.4f} {f_unit}"))
        console.properties(rows, indent=4)


def _origin_properties(console: Console, entries: Mapping[str, Any]) -> None:
    """Print what tasks and models have in common."""
    console.text("  Dataset")
    rows = [
        ("Name", text(entries["dataset_name"])),
        ("Theory level", text(entries["dataset_theory"])),
        ("Atoms", str(len(entries["z"]))),
    ]
    console.properties(rows, indent=4)
    _lattice_properties(console, entries, indent=4)
    console.properties([("Units", "energy {}, force {}".format(*units(entries)))], indent=4)
    console.properties([("Symmetries", str(len(entries["perms"])))])
    console.text("  Hyper-parameters")
    console.properties(
        [("Length scale", f"{float(entries['sig']):g}"), ("Regularization", f"{float(entries['lam']):g}")], indent=4
    )
    rows = [("Seed", str(int(entries["seed"])))] if "seed" in entries else []
    console.properties([*rows, ("Made with", text(entries.get("code_version", "unknown")))])


def _point_rows(entries: Mapping[str, Any], label: str, which: str, note: str = "") -> list[tuple[str, str]]:
    n_points = len(entries[f"idxs_{which}"])
    return [(label, f"{note}{n_points:,} points from '{text(entries[f'md5_{which}'])}'")]


def _energy_text(use_E: bool, use_E_cstr: bool) -> str:
    if not use_E:
        return "not used"
    return "pointwise constraints" if use_E_cstr else "global integration constant"


def _lattice_properties(console: Console, entries: Mapping[str, Any], indent: int = 2) -> None:
    """Print the lattice vectors, their lengths and angles, and for tasks and models which images count."""
    if entries.get("lattice") is None:
        console.properties([("Lattice", "n/a")], indent)
        return
    lattice = np.asarray(entries["lattice"], dtype=np.float64)
    if lattice.ndim == 3:
        rows = [("Lattice", f"{len(lattice):,}, one for each geometry")]
    else:
        cells = [[f"{component:g}" for component in row] for row in lattice]
        widths = [max(len(cell) for cell in column) for column in zip(*cells, "abc", strict=True)]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in ["abc", *cells]]
        rows = [("Lattice", lines[0]), *(("", line) for line in lines[1:])]
    lengths = np.linalg.norm(lattice, axis=-2)
    unit = lattice / lengths[..., None, :]
    pairs = {"alpha": (1, 2), "beta": (0, 2), "gamma": (0, 1)}
    angles = {
        name: np.degrees(np.arccos(np.clip((unit[..., i] * unit[..., j]).sum(axis=-1), -1, 1)))
        for name, (i, j) in pairs.items()
    }
    r_unit = f" [{text(entries['r_unit'])}]" if "r_unit" in entries else ""
    rows += [
        (f"Lengths{r_unit}", ", ".join(f"{name} = {_span(lengths[..., i])}" for i, name in enumerate("abc"))),
        ("Angles [deg]", ", ".join(f"{name} = {_span(angle)}" for name, angle in angles.items())),
    ]
    if text(entries["type"]) in ("t", "m"):
        cell = Cell.of(entries)
        agree = cell is not None and cell.rounding_is_minimal
        rows.append(("Image rule", _IMAGE_RULES[image_rule_of(entries)] + (_RULES_AGREE if agree else "")))
    console.properties(rows, indent)


def _span(values: np.ndarray) -> str:
    low, high = f"{values.min():g}", f"{values.max():g}"
    return low if low == high else f"{low} to {high}"


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
    """Print the first geometry with its forces in extended XYZ format, to paste into a viewer."""
    console.text()
    console.heading("First geometry (extended XYZ format, to paste into a viewer)")
    first = np.array([0])
    R, F = (np.asarray(dataset[key])[0] for key in ("R", "F"))
    comment = []
    lattice = lattice_of(dataset, first)
    if lattice is not None:
        vectors = lattice.reshape(3, 3).T.ravel()
        comment.append('Lattice="' + " ".join(f"{component:.10g}" for component in vectors) + '" pbc="T T T"')
    comment.append("Properties=species:S:1:pos:R:3:forces:R:3")
    if "E" in dataset:
        comment.append(f"energy={float(np.asarray(dataset['E']).ravel()[0]):.10g}")
    lines = [str(len(R)), " ".join(comment)]
    lines += [
        f"{SYMBOLS[int(z)]:<2} " + " ".join(f"{c:14.8f}" for c in (*r, *f))
        for z, r, f in zip(dataset["z"], R, F, strict=True)
    ]
    console.text("\n".join(lines))
