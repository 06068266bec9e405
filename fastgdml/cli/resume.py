"""`fastgdml resume`: go on with the training of a model of the iterative solver."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dataset import load_dataset
from ..search import resume
from .cluster import placed
from .console import Console
from .search_events import printer
from .train import interrupted_by_sigterm


def run(args: argparse.Namespace, console: Console) -> None:
    """Train on, validate, and say what comes next."""
    console.title("RESUME TRAINING")
    datasets = load_dataset(args.train_dataset), load_dataset(args.valid_dataset)
    with interrupted_by_sigterm(), placed(vars(args), "rows") as (trainer, _):
        finished = resume(Path(args.model), *datasets, trainer, printer(console), args.overwrite)
    console.title("NEXT STEP", f"fastgdml test {finished} <test_dataset> [<n_test>]")
