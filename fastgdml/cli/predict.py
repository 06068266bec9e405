"""`fastgdml predict`: energies and forces of geometries."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..labelling import PredictOptions, predict
from .cluster import connected
from .console import Console
from .data import read_options, report, unit_options, write_options


def run(args: argparse.Namespace, console: Console) -> None:
    """Predict, and print errors where the input has labels."""
    options = PredictOptions(args.virial, args.any_cell, args.max_processes, args.backend, args.std)
    how = (read_options(args), unit_options(args), write_options(args), console.progress)
    with connected(vars(args)) as cluster:
        if cluster is None:
            result = predict(args.model, args.sources, args.output, options, *how)
        else:
            from ..cluster import Chunks

            chunks = Chunks(cluster, args.output, args.max_processes)
            result = predict(args.model, args.sources, args.output, replace(options, elsewhere=chunks), *how)
            chunks.finished()
    errors, written = result.errors, result.report
    e_unit = written.e_unit or "unknown unit"
    f_unit = f"{written.e_unit}/{written.r_unit}" if written.e_unit and written.r_unit else "unknown unit"
    rows = []
    for name, label, unit in (("energy", "Energy", e_unit), ("force", "Forces", f_unit)):
        if name in errors.mae:
            rows.append((label, f"{errors.mae[name]:.4f} / {errors.rmse[name]:.4f} {unit}"))
    if "energy" in errors.mean:
        rest = max(errors.rmse["energy"] ** 2 - errors.mean["energy"] ** 2, 0.0) ** 0.5
        rows.insert(1, ("", f"mean deviation {errors.mean['energy']:+.4f}; RMSE without it {rest:.4f} {e_unit}"))
    if rows:
        console.heading("Errors against the labels of the input (MAE / RMSE)")
        console.properties(rows)
    more = {"mae": errors.mae, "rmse": errors.rmse, "mean": errors.mean}
    if std := result.std:
        console.heading("Standard deviations (root mean square; largest)")
        forces = f"{std['force']:.4f}; {std['largest']:.4f} {f_unit}"
        console.properties([("Energy", f"{std['energy']:.4f} {e_unit}"), ("Forces", forces)])
        more["std"] = std
    report(written, console, more)
