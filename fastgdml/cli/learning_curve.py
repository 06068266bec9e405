"""`fastgdml learning-curve`: errors by the number of training points."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from ..dataset import load_dataset
from ..errors import UsageError
from ..learning_curve import CurveOptions, CurvePoint, learning_curve, save_curve
from ..npz import PDF, PICTURE, TEXT, require_unused
from ..search import Trainer
from .cluster import connected
from .console import Console

_PICTURES = {".svg": TEXT, ".png": PICTURE, ".pdf": PDF}


def run(args: argparse.Namespace, console: Console) -> None:
    """Train, test, and write the curve."""
    targets = {Path(args.output): TEXT}
    if args.plot is not None:
        from ..report.style import matplotlib

        kind = _PICTURES.get(Path(args.plot).suffix.lower())
        if kind is None:
            raise UsageError(f"The name of the picture '{args.plot}' must end in {', '.join(_PICTURES)}.")
        targets[Path(args.plot)] = kind
        matplotlib()
    for target, kind in targets.items():
        require_unused(target, kind, args.overwrite)
    options = CurveOptions(
        sigs=sorted({sig for part in args.sigs for sig in part}) if args.sigs is not None else CurveOptions.sigs,
        sigma_per_size=args.sigma_per_size,
        n_valid=args.n_valid,
        n_test=args.n_test,
        lam=args.lam,
        use_sym=not args.gdml,
        use_E=args.use_E,
        seed=args.seed,
        solver=args.solver,
    )
    trainer = Trainer(args.max_memory, args.max_processes, args.backend)
    sizes = sorted({size for part in args.sizes for size in part})

    def on_point(point: CurvePoint) -> None:
        console.result(asdict(point))

    how = (options, trainer, console.progress, on_point)
    with connected(vars(args)) as cluster:
        points = learning_curve(load_dataset(args.dataset), sizes, *how, executor=cluster)
    save_curve(args.output, points)
    _print(points, console)
    console.done(f"Wrote '{args.output}'")
    if args.plot is not None:
        from ..report.write import write_learning_curve

        write_learning_curve(points, args.plot)
        console.done(f"Wrote '{args.plot}'")


def _print(points: list[CurvePoint], console: Console) -> None:
    table = Table(title="Errors on the test points", title_justify="left")
    for column in ("points", "sigma", "force MAE", "force RMSE", "energy MAE", "energy RMSE", "training"):
        table.add_column(column, justify="right")
    for point in points:
        energies = ["-" if value is None else f"{value:.4f}" for value in (point.e_mae, point.e_rmse)]
        forces = (f"{point.f_mae:.4f}", f"{point.f_rmse:.4f}")
        table.add_row(f"{point.n_train:,}", f"{point.sig:g}", *forces, *energies, f"{point.seconds:.2f} s")
    console.text()
    console.table(table)
