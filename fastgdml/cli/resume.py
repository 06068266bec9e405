"""`fastgdml resume`: go on with the training of a model of the iterative solver."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dataset import load_dataset
from ..search import resume
from .cluster import connected, placed
from .console import Console
from .options import trainer_options
from .search_events import printer
from .train import interrupted_by_sigterm


def run(args: argparse.Namespace, console: Console) -> None:
    """Train on, validate, and say what comes next."""
    console.title("RESUME TRAINING")
    datasets = load_dataset(args.train_dataset), load_dataset(args.valid_dataset)
    with interrupted_by_sigterm(), connected(args.scheduler) as cluster:
        trainer, _ = placed(cluster, None if cluster is None else "rows", trainer_options(vars(args)))
        finished = resume(Path(args.model), *datasets, trainer, printer(console), args.overwrite)
    console.title("NEXT STEP", f"fastgdml test {finished} <test_dataset> [<n_test>]")
