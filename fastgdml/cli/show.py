"""`fastgdml show`, and the property lists that other commands print."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ..catalog import resolve_dataset
from ..cell import Cell, image_rule_of
from ..dataset import lattice_of, load_dataset
from ..elements import SYMBOLS
from ..errors import FileFormatError
from ..flat import flat_entries
from ..model import is_validated, load_model
from ..npz import is_flat, load_npz, text, type_of
from ..properties import Outcome, Properties
from ..task import load_task
from ..types import IntArray
from ..units import Units
from ..weights import summary
from .console import Console

_SOLVERS = {"analytic": " (closed form)", "cg": " (conjugate gradients)"}
_IMAGE_RULES = {"minimum": "nearest image", "rounding": "rounding, as sgdml"}
_RULES_AGREE = " (nearest image and rounding agree in this cell)"


def run(args: argparse.Namespace, console: Console) -> None:
    """Print the details of a file."""
    path = resolve_dataset(args.file)
    if is_flat(path):
        entries = flat_entries(path)
        flat_properties(console, entries)
        console.result({"kind": "flat model", **_facts(entries)})
        return
    kind = type_of(load_npz(path, {"type"}), "d")
    if kind == "t":
        task = load_task(path)
        task_properties(console, task)
        console.result({"kind": "task", **_facts(task)})
    elif kind == "m":
        model = load_model(path)
        model_properties(console, model)
        console.result({"kind": "model", **_facts(model), **asdict(Outcome.of(model))})
    elif kind == "d":
        dataset = load_dataset(path)
        dataset_properties(console, dataset)
        _example_geometry(console, dataset)
        console.result({"kind": "dataset", **_dataset_facts(dataset)})
    else:
        raise FileFormatError(f"{path} is neither a dataset, a task nor a model.")


def _facts(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task or model says of itself, for programs."""
    facts = asdict(Properties.of(entries))
    facts |= {f"n_{which}": len(facts.pop(f"idxs_{which}")) for which in ("train", "valid")}
    if facts["desc_weights"] is not None:
        facts["desc_weights"] = facts["desc_weights"].tolist()
    if "R_desc" in entries:
        facts["n_train"] = np.shape(entries["R_desc"])[1]  # flat models do not record which
    return facts | _system_facts(entries)


def _system_facts(entries: Mapping[str, Any]) -> dict[str, Any]:
    recorded, lattice = Units.of(entries), entries.get("lattice")
    return {
        "z": [int(number) for number in np.ravel(entries["z"])],
        "e_unit": recorded.energy,
        "r_unit": recorded.length,
        "lattice": None if lattice is None or np.ndim(lattice) == 3 else np.transpose(lattice).tolist(),
        "periodic": lattice is not None,
    }


def _dataset_facts(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dataset contains, for programs."""

    def spread(key: str) -> dict[str, float] | None:
        values = dataset.get(key)
        return None if values is None else {"min": float(np.min(values)), "max": float(np.max(values))}

    names = _names(dataset)
    values = {"n_geometries": len(dataset["R"]), "energies": spread("E"), "forces": spread("F")}
    return {**names, **values, **_system_facts(dataset)}


def units(entries: Mapping[str, Any]) -> tuple[str, str]:
    """Return the units of energy and force for display."""
    recorded = Units.of(entries)
    return (recorded.energy, recorded.force) if recorded.force else ("unknown unit", "unknown unit")


def _names(dataset: Mapping[str, Any]) -> dict[str, str]:
    return {key: text(dataset[key]) for key in ("name", "theory", "md5", "provenance") if key in dataset}


def dataset_properties(console: Console, dataset: Mapping[str, Any], title: str = "Dataset properties") -> None:
    """Print what a dataset contains."""
    e_unit, f_unit = units(dataset)
    names = _names(dataset)
    n_geo, n_atoms = np.shape(dataset["R"])[:2]
    console.heading(title)
    rows = [
        ("Name", names["name"]),
        ("Theory level", names["theory"]),
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
    console.properties([("Fingerprint", " or ".join([names["md5"], *aliases]))])
    if "provenance" in names:
        console.properties([("Provenance", names["provenance"])])


def flat_properties(console: Console, model: Mapping[str, Any]) -> None:
    """Print what a flat model file holds."""
    known = Properties.of(model)
    console.heading("Model properties (flat file: what prediction needs)")
    console.text("  Dataset")
    console.properties(
        [
            ("Name", known.name),
            ("Theory level", known.theory),
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
            ("Symmetries", str(known.n_perms)),
            ("Length scale", f"{model['sig']:g}"),
            *([("Weights of pairs", "learned")] if "desc_weights" in model else []),
            ("Energies", energies),
        ]
    )


def task_properties(console: Console, task: Mapping[str, Any]) -> None:
    """Print what a task asks for."""
    console.heading("Task properties")
    known = _origin_properties(console, task)
    console.properties(
        [
            *_point_rows("Train on", known.idxs_train, known.md5_train),
            *_point_rows("Validate on", known.idxs_valid, known.md5_valid),
            ("Energies", _energy_text(known.use_E, known.constrain_E)),
        ]
    )


def model_properties(console: Console, model: Mapping[str, Any]) -> None:
    """Print what a model was trained on and how well it does."""
    console.heading("Model properties")
    known, outcome = _origin_properties(console, model), Outcome.of(model)
    console.text("  Solver")
    rows = [("Type", f"{outcome.solver}{_SOLVERS.get(outcome.solver, '')}")]
    if np.isfinite(outcome.residual) and np.isfinite(outcome.target):
        state = "" if outcome.converged else ", NOT CONVERGED"
        rows.append(("Tolerance", f"{outcome.tol:.1e}"))
        rows.append(("Residual", f"{outcome.residual:.1e} (target {outcome.target:.1e}){state}"))
    if outcome.reason:
        rows.append(("Chosen for", outcome.reason))
    if outcome.n_steps is not None:
        rows.append(("Iterations", f"{outcome.n_steps:,}"))
    console.properties(rows, indent=4)
    validated = is_validated(model)
    tested = f"{outcome.n_test:,} points from '{outcome.md5_test}'" if outcome.n_test else "[pending]"
    console.properties(
        [
            *_point_rows("Trained on", known.idxs_train, known.md5_train),
            ("Energies", _energy_text(known.use_E, known.constrain_E)),
            *_point_rows("Validated on", known.idxs_valid, known.md5_valid, "" if validated else "[pending] "),
            ("Tested on", tested),
        ]
    )
    if validated:
        e_unit, f_unit = units(model)
        console.text(f"  Expected errors, from the {'test' if outcome.n_test else 'validation'} (MAE / RMSE)")
        rows = [
            (label, f"{outcome.mae[name]:.4f} / {outcome.rmse[name]:.4f} {unit}")
            for name, label, unit in (("energy", "Energy", e_unit), ("force", "Forces", f_unit))
            if name == "force" or (known.use_E and name in outcome.mae)
        ]
        console.properties(rows, indent=4)


def _origin_properties(console: Console, entries: Mapping[str, Any]) -> Properties:
    """Print what tasks and models have in common, and return it."""
    known = Properties.of(entries)
    console.text("  Dataset")
    rows = [("Name", known.name), ("Theory level", known.theory), ("Atoms", str(len(entries["z"])))]
    console.properties(rows, indent=4)
    _lattice_properties(console, entries, indent=4)
    console.properties([("Units", "energy {}, force {}".format(*units(entries)))], indent=4)
    console.properties([("Symmetries", str(known.n_perms))])
    console.text("  Hyper-parameters")
    console.properties([("Length scale", f"{known.sig:g}"), ("Regularization", _lam_text(entries, known))], indent=4)
    console.properties(summary(entries), indent=4)
    rows = [] if known.seed is None else [("Seed", str(known.seed))]
    console.properties([*rows, ("Made with", known.code_version)])
    return known


def _lam_text(entries: Mapping[str, Any], known: Properties) -> str:
    """Return lambda, and of a model the noise of labels that it stands for."""
    noise = float(entries.get("label_noise", np.nan))
    return f"{known.lam:g}" + (f": label noise of about {noise:.2g} {units(entries)[1]}" if np.isfinite(noise) else "")


def _point_rows(label: str, idxs: IntArray, md5: str, note: str = "") -> list[tuple[str, str]]:
    return [(label, f"{note}{len(idxs):,} points from '{md5}'")]


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
    if type_of(entries) in ("t", "m"):
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
