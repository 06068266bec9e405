"""`fastgdml select`: the model with the lowest validation error."""

from __future__ import annotations

import argparse

from ..selection import select
from .console import Console
from .search_events import printer


def run(args: argparse.Namespace, console: Console) -> None:
    """Select and say what comes next."""
    console.title("MODEL SELECTION")
    model_file = select(args.model_dir, args.model_file, args.overwrite, printer(console), by=args.by)
    console.title("NEXT STEP", f"fastgdml test {model_file} <test_dataset> [<n_test>]")
