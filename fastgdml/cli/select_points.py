"""`fastgdml select-points`: geometries of a pool to train on, or to label."""

from __future__ import annotations

import argparse

from ..point_selection import SelectionOptions, select_points
from .console import Console
from .data import read_options, report, unit_options, write_options


def run(args: argparse.Namespace, console: Console) -> None:
    """Select, write, and say what it is worth."""
    options = SelectionOptions(
        sig=args.sig, use_labels=not args.unlabelled, seed=args.seed, max_processes=args.max_processes
    )
    result = select_points(
        args.pool,
        args.n,
        args.output,
        options,
        read_options(args),
        unit_options(args),
        write_options(args),
        console.progress,
    )
    report(result, console, {"selected": args.n})
    console.info("Drawing at random is nearly as good: selection lowers errors by a few percent, with labels by ten.")
