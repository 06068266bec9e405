"""`fastgdml report`: a page about a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..learning_curve import load_curve
from ..npz import require_unused
from ..progress import Step
from ..task_folder import files_of
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Gather the facts and write the report."""
    from ..report import FORMATS, Sources, gather, write
    from ..report.style import matplotlib
    from ..report.write import format_of

    kind = format_of(args.output, args.format)
    target = Path(args.output)
    require_unused(target, FORMATS[kind][1], args.overwrite)
    if kind in ("html", "png", "pdf"):
        matplotlib()  # what is missing is found out now rather than after the predictions
    sources = Sources(
        dataset=args.dataset,
        n_test=args.n_test,
        seed=args.seed,
        search=files_of(args.search, "model") if args.search is not None else (),
        learning_curve=load_curve(args.learning_curve) if args.learning_curve is not None else [],
        n_worst=args.n_worst,
        timing=args.timing,
    )
    facts = gather(args.model, sources, args.max_processes, console.progress)
    step = Step(console.progress, f"Writing {kind}")
    write(facts, target, kind)
    step.done()
    console.done(f"Wrote '{target}'")
    accuracy = facts.accuracy
    errors = {} if accuracy is None else {"f_mae": accuracy.forces.mae, "f_rmse": accuracy.forces.rmse}
    if accuracy is not None and accuracy.energies is not None:
        errors |= {"e_mae": accuracy.energies.mae, "e_rmse": accuracy.energies.rmse}
    n_test = 0 if accuracy is None else accuracy.n_geometries
    console.result({"path": str(target), "format": kind, "n_test": n_test, **errors})
